import numpy as np
import pandas as pd
import pytest

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.offline_pessimism import THEOREM
from rlhf_theory.theorems.offline_pessimism_study import (
    COLUMNS,
    RIGHT,
    Cell,
    cells,
    limit_constant,
    measure_cell,
)
from rlhf_theory.worlds import linear

pytestmark = pytest.mark.theorem

SWEEP = {
    **THEOREM.quick,
    "replicas": 80,
    "block": 40,
    "world": {**THEOREM.quick["world"], "contexts": 6, "actions": 4, "dim": 3},
    "pairs": [100, 10_000, 100_000, 1_000_000],
    "pairs_few": [100, 10_000],
    "dims": [2, 3],
    "coverages": [0.0, 0.5],
    "peaks": [0.0, 1.5],
    "pairs_rules": [100, 10_000],
    "small": {"contexts": 2, "actions": 3, "dim": 2},
    "pairs_likelihood": [100],
}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(SWEEP, Key(1))


def failed(frame):
    return [c.name for c in THEOREM.judge(frame, SWEEP) if not c.passed]


def test_the_study_passes(frame):
    assert failed(frame) == []


def test_every_cell_and_replica_is_there(frame):
    assert list(frame.columns) == COLUMNS
    expected = sum(len(c.pairs) * len(c.learners) * SWEEP["replicas"] for c in cells(SWEEP))
    assert len(frame) == expected
    assert frame["gap"].min() >= 0.0
    assert (frame["left"] >= frame["gap"]).all()
    assert limit_constant(SWEEP) > 0.0


def test_pessimists_have_bounds_and_others_have_none(frame):
    bounded = frame["learner"].str.startswith("Option") | (frame["learner"] == "likelihood set")
    assert frame.loc[bounded, ["right", "excess", "event"]].notna().all().all()
    assert frame.loc[~bounded, ["right", "excess", "event"]].isna().all().all()


def test_blocks_do_not_change_the_replicas(frame):
    few = {**SWEEP, "dims": [], "coverages": [], "peaks": [], "rules": []}
    other = THEOREM.curves({**few, "block": 16}, Key(1))
    part = frame[frame["study"] == "learners"]
    same = other[other["study"] == "learners"]
    order = ["learner", "pairs", "replica"]
    a, b = (f.sort_values(order)["gap"].to_numpy() for f in (part, same))
    assert np.allclose(a, b, rtol=1e-5, atol=1e-10)


def test_a_bound_that_is_broken_too_often_fails(frame):
    new = frame.copy()
    cell = (new["study"] == "dimension") & (new["learner"] == "Option I") & (new["pairs"] == 100)
    new.loc[cell & (new["replica"] % 8 == 0), "excess"] = 0.1
    names = failed(new)
    assert any(name.startswith("Option I against") for name in names)
    # Those sets contain the truth, so the deterministic part fails as well.
    assert any(name.startswith("bounds broken") for name in names)


def test_a_gap_that_falls_like_one_over_root_n_fails(frame):
    slow = frame.copy()
    rows = slow["study"].isin(["learners", "limit"])
    slow.loc[rows, "gap"] = 0.5 * slow.loc[rows, "pairs"] ** -0.45
    names = failed(slow)
    assert any("greedy: slope" in name for name in names)
    assert sum("gap over its limit" in name for name in names) == 3


@pytest.mark.parametrize("learner", ["greedy", "Option I", "Option II"])
def test_a_limit_that_is_off_fails(frame, learner):
    # With half the radius the options have less than half of their limit.
    new = frame.copy()
    new.loc[(new["learner"] == learner) & (new["study"] == "limit"), "gap"] *= 0.5
    assert [name.partition(":")[0] for name in failed(new)] == [learner]


def test_a_radius_that_grows_like_the_dimension_fails(frame):
    new = frame.copy()
    rows = new["study"] == "dimension"
    new.loc[rows, "right"] *= new.loc[rows, "setting"].astype(float)
    assert any("power of d" in name for name in failed(new))


def wrong(name):
    """The checks that fail for a sabotage, in one small world."""
    [settings] = [s.settings for s in THEOREM.sabotages if s.name == name]
    sweep = {**SWEEP, **settings, "coverages": [], "rules": [], "peaks": [0.0]}
    curves = THEOREM.curves(sweep, Key(1))
    return [c.name.partition(":")[0] for c in THEOREM.judge(curves, sweep) if not c.passed]


def test_the_other_sign_of_the_bonus_breaks_the_bound_and_half_a_radius_has_another_limit():
    flipped = wrong("sign of the bonus flipped")
    assert flipped[0].startswith("Option I against")
    assert flipped[-1].startswith("bounds broken while the set contains")
    # Both bounds still hold with half the radius: only the limits tell.
    assert {"Option I", "Option II"} <= set(wrong("radius halved"))


def test_another_study_measures_cells_without_a_word_on_sabotages():
    # A benchmark of language models does, with a world of its own.
    world = linear(contexts=3, actions=4, dim=3, replicas=4)
    cell = Cell("learners", "", {}, [100], ("greedy", "Option I", "Option II, β/10"), rules=("R4",))
    sweep = {"theta_bound": 1.0, "delta": 0.05}
    found, right = (
        pd.concat(measure_cell(cell, world, some, Key(0))) for some in (sweep, {**sweep, **RIGHT})
    )
    pd.testing.assert_frame_equal(found, right, check_exact=True)
    assert set(RIGHT) <= set(THEOREM.quick)
    wrong = pd.concat(measure_cell(cell, world, {**sweep, "misread": 0.5}, Key(0)))
    assert (wrong["gap"] != right["gap"]).any()


def test_figure_caption_and_constants(frame):
    assert len(THEOREM.draw(frame, SWEEP).axes) == 6
    assert "80 replicas" in THEOREM.caption(frame, SWEEP)
    assert THEOREM.constants(frame, SWEEP)["tr(F⁻¹C*)/(2η)"] == limit_constant(SWEEP)
