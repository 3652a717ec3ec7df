import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.online_against_offline import _ARMS, _WORLDS, OFFLINE, THEOREM, _predicted

pytestmark = pytest.mark.theorem

TINY = {
    **THEOREM.quick,
    "replicas": 6,
    "block": 3,
    "contexts": 3,
    "actions": 4,
    "dim": 2,
    # In a world this small a sharp pi0 keeps on-policy pairs from learning for a long time.
    "peak": 1.0,
    "eta": 0.5,
    "labels": [100, 400, 1500],
}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def ideal(sweep, replicas=400):
    """Gaps as the theorem has them: constant / labels in the mean, chi-squared noise."""
    rng = np.random.Generator(np.random.Philox(1))
    parts = []
    for kind in _WORLDS:
        for arm, prediction in _predicted(sweep, kind).items():
            noise = rng.chisquare(5, size=replicas)
            for n in sweep["labels"]:
                parts.append(
                    pd.DataFrame(
                        {
                            "world": kind,
                            "arm": arm,
                            "labels": n,
                            "replica": np.arange(replicas),
                            "used": float(n),
                            "gap": prediction.constant / n * noise / noise.mean(),
                        }
                    )
                )
    return pd.concat(parts, ignore_index=True)


def test_curves_are_tidy_and_complete(frame):
    assert list(frame.columns) == ["world", "arm", "labels", "replica", "used", "gap"]
    assert len(frame) == 2 * 3 * 3 * 6
    assert not frame.duplicated(["world", "arm", "labels", "replica"]).any()
    assert (frame["gap"] > 0).all()


def test_arms_use_as_many_labels_as_the_sweep_says(frame):
    last = frame[frame["labels"] == 1500]
    # Ten standard deviations of a binomial average over six replicas are about 5 %; the rest is for
    # early rounds, whose sampling law differs from its limit.
    used = last.groupby(["world", "arm"])["used"].mean()
    assert_allclose(used, 1500.0, rtol=0.1)


def test_replicas_do_not_depend_on_their_block(frame):
    other = THEOREM.curves({**TINY, "block": 6}, Key(0))
    order = ["world", "arm", "labels", "replica"]
    a, b = (f.sort_values(order)["gap"].to_numpy() for f in (frame, other))
    assert_allclose(a, b, rtol=1e-7)


def test_the_worlds_of_the_sweep_have_two_different_winners():
    for sweep in (THEOREM.quick, THEOREM.full):
        for kind, wins in (("poor", True), ("uniform", False)):
            prediction = _predicted(sweep, kind)
            for arm in _ARMS:
                assert (prediction[OFFLINE].constant > prediction[arm].constant) == wins


def test_verdict_passes_on_what_the_theorem_says():
    checks = THEOREM.judge(ideal(THEOREM.quick), THEOREM.quick)
    assert len(checks) == 14
    assert [c.name for c in checks if not c.passed] == []


@pytest.mark.parametrize("factor", [0.75, 1.4])
def test_verdict_fails_if_the_ratio_is_off(factor):
    doctored = ideal(THEOREM.quick)
    rows = (doctored["world"] == "poor") & (doctored["arm"] == OFFLINE)
    doctored.loc[rows, "gap"] *= factor
    failed = [c.name for c in THEOREM.judge(doctored, THEOREM.quick) if not c.passed]
    # Two ratios, and the constant of the arm itself.
    assert len(failed) == 3
    assert all("poorly" in name for name in failed)


def test_verdict_fails_if_the_other_side_wins():
    doctored = ideal(THEOREM.quick)
    rows = (doctored["world"] == "uniform") & (doctored["arm"] == OFFLINE)
    doctored.loc[rows, "gap"] *= 1.5
    failed = [c.name for c in THEOREM.judge(doctored, THEOREM.quick) if not c.passed]
    assert any("winner (offline)" in name for name in failed)


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_verdict_fails_if_all_arms_are_off_alike(factor):
    doctored = ideal(THEOREM.quick)
    doctored["gap"] *= factor
    failed = [c.name for c in THEOREM.judge(doctored, THEOREM.quick) if not c.passed]
    assert len(failed) == 6
    assert all("over its constant" in name for name in failed)


def test_verdict_fails_if_pairs_are_of_another_law():
    doctored = ideal(THEOREM.quick)
    rows = (doctored["world"] == "poor") & (doctored["arm"] == "iterates × π0")
    # The same constant per label, from other shares of pairs.
    doctored.loc[rows, "used"] *= 0.6
    doctored.loc[rows, "gap"] /= 0.6
    failed = [c.name for c in THEOREM.judge(doctored, THEOREM.quick) if not c.passed]
    assert ["share of pairs" in name and "iterates × π0" in name for name in failed] == [True]


SMALL = {**TINY, "replicas": 60, "block": 60, "labels": [100, 1000, 10_000, 50_000, 100_000]}


@pytest.mark.parametrize("sabotage", THEOREM.sabotages, ids=lambda s: s.name)
def test_sabotages_change_what_they_say(sabotage):
    """In a world this small only what is far off shows: the mean against the right run."""
    sweep = {**SMALL, **sabotage.settings}
    for part in THEOREM.parts(sweep):
        if not sabotage.touches(part):
            continue
        right, wrong = (THEOREM.measure(s, part, Key(0)) for s in (SMALL, sweep))
        arm = part.settings["arm"]
        if arm == "iterates × iterates" and not sweep["explores"]:
            assert_allclose(wrong["gap"], right["gap"])
            continue
        one, other = (f[f["labels"] == 100_000] for f in (right, wrong))
        scaled = [(f["used"] * f["gap"]).mean() for f in (one, other)]
        shares = [f["used"].mean() for f in (one, other)]
        assert abs(scaled[1] / scaled[0] - 1.0) > 0.1 or abs(shares[1] / shares[0] - 1.0) > 0.1


def test_figure_caption_and_constants_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert "over 6 replicas" in THEOREM.caption(frame, TINY)
    # Three numbers per world and arm, and the spread of the win probabilities of every world.
    assert len(THEOREM.constants(frame, TINY)) == 1 + 2 * (3 * 3 + 1)
