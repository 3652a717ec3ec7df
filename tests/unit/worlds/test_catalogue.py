import rlhf_theory.worlds as worlds
from rlhf_theory.worlds import CATALOGUE


def test_every_public_world_is_in_the_catalogue_with_one_line():
    for name, (build, line) in CATALOGUE.items():
        assert build.__name__.replace("_", "-") == name
        assert line
        assert "\n" not in line
        assert len(line) <= 90
        assert build.__name__ in dir(worlds)
