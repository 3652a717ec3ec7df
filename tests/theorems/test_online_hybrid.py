import numpy as np
import pandas as pd
import pytest

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.online_hybrid import _SLACK, THEOREM, _predicted, _runs
from rlhf_theory.theorems.online_runs import table

pytestmark = pytest.mark.theorem

TINY = {
    **THEOREM.quick,
    "replicas": 6,
    "block": 3,
    "contexts": 3,
    "actions": 4,
    "dim": 2,
    "batch": 16,
    "rounds": 3,
    "offline": [50, 400],
    "shown": 50,
}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def ideal(frame):
    """The same curves with many replicas, and final gaps as predicted."""
    parts = [frame.assign(replica=frame["replica"] + 100 * k) for k in range(30)]
    found = pd.concat(parts, ignore_index=True)
    last = (found["round"] == TINY["rounds"]) & (found["learner"] == "π0 as enhancer")
    for coverage in ("poor", "good"):
        for n in TINY["offline"]:
            rows = last & (found["coverage"] == coverage) & (found["offline"] == n)
            found.loc[rows, "gap"] = _predicted(TINY, coverage, n)
    return found


def test_curves_are_tidy_and_complete(frame):
    assert len(frame) == len(_runs(TINY)) * 6 * 4
    assert not frame.duplicated(["learner", "coverage", "offline", "round", "replica"]).any()
    played = frame[frame["round"] < 3]
    assert played[["bound R2′", "bound R4", "enhancer", "coverage_term"]].notna().all().all()


def test_offline_pairs_are_in_the_data_from_the_start(frame):
    start = frame[frame["round"] == 0].groupby("offline")["labels"]
    assert (start.max() <= start.max().index).all()
    assert start.min()[0] == 0
    assert start.min()[400] > start.max()[50] > 0


def test_the_enhancer_term_of_the_start_without_data_is_zero(frame):
    # Without any label the main agent is pi0 itself.
    part = frame[(frame["offline"] == 0) & (frame["round"] == 0)]
    np.testing.assert_allclose(part["enhancer"], 0.0, atol=1e-9)
    assert (part["coverage_term"] > 0).all()


def test_more_information_predicts_a_smaller_gap():
    for coverage in ("poor", "good"):
        found = [_predicted(TINY, coverage, n) for n in (0, 50, 400, 5000)]
        assert (np.diff(found) < 0).all()
    sweep = THEOREM.full
    most = max(sweep["offline"])
    assert _predicted(sweep, "good", most) < _predicted(sweep, "poor", most)


def test_verdict_passes_on_what_the_theorem_says(frame):
    checks = THEOREM.judge(ideal(frame), TINY)
    assert len(checks) == 5
    assert [c.name for c in checks if not c.passed] == []


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("bound R2′", "(a) with R2′"),
        ("bound R4", "(a) with R4"),
        ("coverage_term", "of the theorem"),
    ],
)
def test_verdict_fails_if_a_bound_is_broken_once(frame, column, words):
    doctored = ideal(frame)
    rows = (doctored["offline"] == 50) & (doctored["round"] == 1) & (doctored["replica"] < 300)
    rows &= doctored["coverage"] == "good"
    doctored.loc[rows, column] = 0.0
    if column == "coverage_term":
        doctored.loc[rows, "enhancer"] = 0.0
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert len(failed) == 1
    assert words in failed[0]


def test_verdict_fails_if_offline_data_add_something_else(frame):
    doctored = ideal(frame)
    rows = (doctored["offline"] == 400) & (doctored["coverage"] == "good")
    doctored.loc[rows, "gap"] *= 1.0 + 1.5 * _SLACK
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert len(failed) == 1
    assert "half from π*" in failed[0]


def test_figure_caption_and_constants_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 4
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert "over 6 replicas" in THEOREM.caption(frame, TINY)
    assert len(THEOREM.constants(frame, TINY)) == 6 + 6 + 2 + 1
    assert table(frame[frame["offline"] == 0], "gap").shape == (6, 4)
