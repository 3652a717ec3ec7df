import numpy as np
import pandas as pd
import pytest

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.online_optimism import THEOREM, _count_bound, _counts
from rlhf_theory.theorems.online_runs import best_rounds, table

pytestmark = pytest.mark.theorem

TINY = {
    **THEOREM.quick,
    "replicas": 6,
    "block": 3,
    "contexts": 3,
    "actions": 4,
    "dim": 2,
    "batch": 16,
    "rounds": 4,
    "dims": [1, 2],
    "count_actions": 6,
    "count_replicas": 3,
    "count_rounds": 30,
}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def many(frame, copies=30):
    """The same curves with so many replicas that intervals are short."""
    parts = [frame.assign(replica=frame["replica"] + 100 * k) for k in range(copies)]
    return pd.concat(parts, ignore_index=True)


def test_curves_are_tidy_and_complete(frame):
    names = ["round", "replica", "labels", "gap", "left", "learner", "dim", "uncertainty"]
    bounds = [f"{kind} {rule}" for kind in ("bound", "closed") for rule in ("R2′", "R4")]
    assert set(frame.columns) == {*names, *bounds}
    learners = frame[frame["learner"] != "population"]
    assert len(learners) == 6 * 6 * 5
    assert not learners.duplicated(["learner", "round", "replica"]).any()
    assert (learners["left"] >= learners["gap"]).all()
    played = learners[learners["round"] < 4]
    assert played[["bound R2′", "bound R4", "labels"]].notna().all().all()
    assert (played.loc[played["round"] == 0, "labels"] == 0).all()
    for rule in ("R2′", "R4"):
        # Bound (c) lies above bound (a).
        assert (played[f"closed {rule}"] >= played[f"bound {rule}"] * (1 - 1e-9)).all()
    labels = table(learners[learners["learner"] == "uniform pairs"], "labels")
    assert (np.diff(labels, axis=1) > 0).all()
    assert (labels[:, -1] <= 4 * 16).all()


def test_replicas_do_not_depend_on_their_block(frame):
    other = THEOREM.curves({**TINY, "block": 6}, Key(0))
    order = ["learner", "dim", "round", "replica"]
    for name, tol in (("gap", 1e-6), ("bound R2′", 1e-6)):
        a, b = (f.sort_values(order)[name].to_numpy() for f in (frame, other))
        np.testing.assert_allclose(a, b, rtol=tol)


def test_all_learners_start_from_the_same_policy(frame):
    start = frame[(frame["round"] == 0) & (frame["learner"] != "population")]
    assert start.groupby("replica")["gap"].nunique().eq(1).all()


def test_the_bound_on_uncertairounds_is_the_potential_argument():
    # The paper's count by hand: d = 2, T = 30, lambda = .1.
    want = 2.0 * np.log(1.0 + 4.0 * 30.0 / 0.2) / np.log(2.0)
    assert _count_bound(TINY, 2) == pytest.approx(want, rel=1e-12)


def test_uncertairounds_are_counted(frame):
    for dim in TINY["dims"]:
        counts = _counts(frame, dim)
        assert counts.shape == (3,)
        # The first round is uncertain: lambda = .1 there.
        assert (counts >= 1).all()
        assert (counts <= _count_bound(TINY, dim)).all()


def test_verdict_passes_on_the_curves(frame):
    checks = THEOREM.judge(many(frame), TINY)
    assert len(checks) == 5
    assert [c.name for c in checks if not c.passed] == []


def test_verdict_fails_without_enough_replicas(frame):
    failed = [c.name for c in THEOREM.judge(frame, TINY) if not c.passed]
    assert sum("held at all rounds" in name for name in failed) == 2


def test_verdict_fails_if_the_bound_is_broken_once_in_some_replicas(frame):
    doctored = many(frame)
    rows = (
        (doctored["learner"] == "on-policy pairs")
        & (doctored["round"] == 2)
        & (doctored["replica"] % 100 == 0)
    )
    doctored.loc[rows, "bound R4"] = 0.0
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert len(failed) >= 1
    assert any("R4 held" in name for name in failed)
    assert not any("R2′ held" in name for name in failed)


def test_verdict_fails_if_too_many_rounds_are_uncertain(frame):
    doctored = many(frame)
    doctored.loc[doctored["dim"] == 1, "uncertainty"] = 2.0
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert len(failed) == 1
    assert "rounds with |v_t| > 1" in failed[0]


def test_verdict_fails_if_nothing_is_learnt(frame):
    doctored = many(frame)
    doctored["gap"] = 0.4
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert sum("gap at t0" in name for name in failed) == 2


def test_t0_is_the_running_argmin(frame):
    bound = table(frame[frame["learner"] == "constrained, β"], "bound R4")[:, :-1]
    chosen = best_rounds(bound)
    for t in range(bound.shape[1]):
        np.testing.assert_array_equal(chosen[:, t], bound[:, : t + 1].argmin(axis=1))


def test_figure_caption_and_constants_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 4
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert "over 6 replicas" in THEOREM.caption(frame, TINY)
    assert len(THEOREM.constants(frame, TINY)) == 6 + 12 + 2 + 1
