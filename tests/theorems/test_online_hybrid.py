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
    "large_batch": 512,
    "large_rounds": 2,
}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def ideal(frame):
    """The same curves with many replicas, and final gaps as predicted."""
    parts = [frame.assign(replica=frame["replica"] + 100 * k) for k in range(30)]
    found = pd.concat(parts, ignore_index=True)
    large = found["study"] == "labels"
    noise = np.random.Generator(np.random.Philox(5)).gamma(2.5, 1.0 / 2.5, size=large.sum())
    found.loc[large, "limit"] = found["expected limit"][large]
    found.loc[large, "gap"] = found["expected limit"][large] * noise
    found["uncertainty"] *= 0.5  # of few rounds
    last = (found["round"] == TINY["rounds"]) & (found["learner"] == "π0 as enhancer") & ~large
    for coverage in ("poor", "good"):
        for n in TINY["offline"]:
            rows = last & (found["coverage"] == coverage) & (found["offline"] == n)
            found.loc[rows, "gap"] = _predicted(TINY, coverage, n)
    return found


def test_curves_are_tidy_and_complete(frame):
    large = frame[frame["study"] == "labels"]
    assert len(large) == 6 * 3
    frame = frame[frame["study"] == "rounds"]
    assert len(frame) == len(_runs(TINY)) * 6 * 4
    assert not frame.duplicated(["learner", "coverage", "offline", "round", "replica"]).any()
    played = frame[frame["round"] < 3]
    assert played[["bound R2′", "bound R4", "enhancer", "coverage_term"]].notna().all().all()


def test_offline_pairs_are_in_the_data_from_the_start(frame):
    start = frame[(frame["round"] == 0) & (frame["study"] == "rounds")]
    start = start.groupby("offline")["labels"]
    assert (start.max() <= start.max().index).all()
    assert start.min()[0] == 0
    assert start.min()[400] > start.max()[50] > 0


def test_the_enhancer_term_of_the_start_without_data_is_zero(frame):
    # Without any label the main agent is pi0 itself.
    part = frame[(frame["offline"] == 0) & (frame["round"] == 0) & (frame["study"] == "rounds")]
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
    assert len(checks) == 10
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
    # A bound that is 0 is not that of the claim either; the other search looks at rounds 0 and 3.
    assert len(failed) == (2 if column == "coverage_term" else 1)
    assert words in failed[0]


def test_verdict_fails_if_offline_data_add_something_else(frame):
    doctored = ideal(frame)
    rows = (doctored["offline"] == 400) & (doctored["coverage"] == "good")
    rows &= doctored["study"] == "rounds"
    doctored.loc[rows, "gap"] *= 1.0 + 1.5 * _SLACK
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert len(failed) == 1
    assert "half from π*" in failed[0]


@pytest.mark.parametrize(
    ("column", "factor", "words"),
    [
        ("other bound", 1.1, "largest share of another search"),
        ("other bound", 0.8, "largest share of another search"),
        ("other terms", 1.0 + 1e-5, "two terms of the theorem"),
        ("uncertainty", 9.0, "in the best round"),
        ("gap", 1.5, "gap over tr"),
        ("expected limit", 1.1, "of the pairs collected over"),
    ],
)
def test_verdict_fails_if_what_is_compared_differs(frame, column, factor, words):
    doctored = ideal(frame)
    rows = doctored["study"] == ("labels" if column in ("gap", "expected limit") else "rounds")
    doctored.loc[rows, column] *= factor
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert [words in name for name in failed] == [True]


def test_the_terms_are_those_of_the_theorem_another_way(frame):
    part = frame[(frame["learner"] == "π0 as enhancer") & (frame["study"] == "rounds")]
    part = part[part["round"] < 3]
    np.testing.assert_allclose(
        part["other terms"], part["enhancer"] + part["coverage_term"], rtol=1e-9
    )


def test_pairs_are_those_of_the_algorithm():
    """With many labels the information of the pairs is that of pi1 against pi0, and no other."""
    sweep = {**TINY, "replicas": 20, "block": 20, "large_batch": 20_000, "large_rounds": 4}
    found = {}
    for explores in (True, False):
        (part,) = (p for p in THEOREM.parts(sweep) if "batch" in p.settings)
        frame = THEOREM.measure({**sweep, "explores": explores}, part, Key(0))
        last = frame[frame["round"] == 3]
        found[explores] = (last["limit"] / last["expected limit"]).to_numpy()
    # By four standard errors over the replicas.
    assert abs(found[True].mean() - 1.0) < 4.0 * found[True].std() / 20.0**0.5 < 0.06
    assert abs(found[False].mean() - 1.0) > 0.1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bounds times 0.4", "two terms of the theorem"),
        ("radius halved", "two terms of the theorem"),
        ("each pair counted twice in Σ", "two terms of the theorem"),
        ("no pair counted in Σ", "two terms of the theorem"),
        ("offline pairs left out of the fit", "final gap"),
    ],
)
def test_sabotages_are_noticed_in_a_small_study(frame, name, words):
    sabotage = next(s for s in THEOREM.sabotages if s.name == name)
    sweep = {**TINY, **sabotage.settings}
    if name.startswith("offline"):
        sweep["offline"] = [50, 4000]
        frame = THEOREM.curves({**TINY, "offline": sweep["offline"]}, Key(0))
    parts = [p for p in THEOREM.parts(sweep) if sabotage.touches(p)]
    wrong = pd.concat([THEOREM.measure(sweep, p, Key(0)) for p in parts])
    same = ["study", "learner", "coverage", "offline"]
    kept = frame.merge(wrong[same].drop_duplicates(), on=same, how="left", indicator=True)
    kept = kept[kept["_merge"] == "left_only"].drop(columns="_merge")
    checks = THEOREM.judge(pd.concat([kept, wrong], ignore_index=True), sweep)
    assert any(words in c.name for c in checks if not c.passed)


def test_figure_caption_and_constants_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 4
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert "over 6 replicas" in THEOREM.caption(frame, TINY)
    assert len(THEOREM.constants(frame, TINY)) == 6 + 6 + 2 + 1
    part = frame[(frame["offline"] == 0) & (frame["study"] == "rounds")]
    assert table(part, "gap").shape == (6, 4)
