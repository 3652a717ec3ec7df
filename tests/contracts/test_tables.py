"""The tables of the contract tests hold every learner that the package lists."""

from rlhf_theory.algorithms import CATALOGUE
from rlhf_theory.algorithms.baselines import SameLawPairs
from tests.helpers.factories import OFFLINE, ONLINE


def parts(value, found):
    """Collect the classes of a learner and of its settings."""
    found.add(type(value))
    for inner in vars(value).values() if hasattr(value, "__dict__") else ():
        if type(inner).__module__.startswith("rlhf_theory"):
            parts(inner, found)
    return found


def test_every_listed_learner_and_enhancer_is_under_contract():
    covered = set()
    for build in [*ONLINE.values(), *OFFLINE.values()]:
        parts(build(), covered)
    listed = {learner for learner, _ in CATALOGUE.values()} | {SameLawPairs}
    assert not {c.__name__ for c in listed - covered}


def test_learners_of_the_catalogue_are_described_in_one_line():
    for name, (learner, line) in CATALOGUE.items():
        assert name == name.lower()
        assert line
        assert "\n" not in line
        assert "Source:" in learner.__doc__ or "baseline" in learner.__doc__, name
