import numpy as np
import pytest
from numpy.testing import assert_allclose

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.nash_general_preference import THEOREM
from rlhf_theory.theorems.nash_general_preference_study import (
    BRADLEY_TERRY,
    NASH,
    PESSIMISTIC,
    exact,
    held,
    rows,
    table,
)

pytestmark = pytest.mark.theorem

TINY = {
    **THEOREM.quick,
    # Enough that all of them give a Clopper-Pearson interval above .95.
    "replicas": 112,
    "block": 112,
    "worlds": {
        game: {**world, "contexts": 3, "actions": 4, "dim": 2}
        for game, world in THEOREM.quick["worlds"].items()
    },
    "rounds": 8,
    "batch_size": 1200,
    "multipliers": [1.0, 0.1],
    "shown": [1.0, 0.1],
    "pairs": [30, 3000],
    "offline_multipliers": [1.0, 0.0],
    "cycles": [0.0, 0.2, 0.4],
    "dial_points": 4,
    "etas": [1.0, 0.1],
}
KEYS = ["study", "game", "learner", "multiplier", "x", "replica"]


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def failed(frame):
    return [c.name for c in THEOREM.judge(frame, TINY) if not c.passed]


def test_curves_are_tidy_and_complete(frame):
    assert not frame.duplicated(KEYS).any()
    counts = frame.groupby("study", observed=True).size()
    online = 9 * 112 * (4 + 5)  # the information ratio has two multipliers with the logit payoff
    assert counts.to_dict() == {
        "rounds": online,
        "offline": 2 * 2 * 112,
        "dial": 3 * 2 * 112,
        "population": 4,
        "floor": 2,
        "start": 2,
        "truth": 4,
        "cycle": 2,
    }
    assert np.isfinite(frame["value"]).all()
    assert (frame["value"] >= 0.0).all()
    bounded = frame[frame["bound"].notna()]
    assert set(bounded["study"]) == {"rounds", "offline"}
    assert np.isfinite(bounded["bound"]).all()


def test_all_learners_start_at_pi0(frame):
    for game in ("logit", "probability"):
        for name in (*NASH, BRADLEY_TERRY):
            gap = table(rows(frame, "rounds", name, game))[1][:, 0]
            assert_allclose(gap, exact(frame, "start", game), rtol=1e-10)


def test_the_verdict_passes(frame):
    assert len(THEOREM.judge(frame, TINY)) == 14
    assert failed(frame) == []


def test_the_verdict_fails_where_the_bound_is_doctored(frame):
    doctored = frame.copy()
    where = (doctored["study"] == "rounds") & (doctored["multiplier"] == 1.0)
    doctored.loc[where & (doctored["x"] == 3), "bound"] *= 1e-4
    assert not held(rows(doctored, "rounds", NASH[0])).any()
    names = failed(doctored)
    assert any("held at all rounds" in name for name in names)
    assert any("bounds broken" in name for name in names)
    doctored = frame.copy()
    where = (doctored["learner"] == PESSIMISTIC) & (doctored["replica"] < 20)
    doctored.loc[where, "bound"] = 0.0
    assert any(name.startswith("offline: how often") for name in failed(doctored))


def test_the_verdict_fails_where_bradley_terry_is_as_good(frame):
    doctored = frame.copy()
    good, bad = (
        (doctored["learner"] == name)
        & (doctored["study"] == "rounds")
        & (doctored["game"] == "logit")
        for name in (NASH[1], BRADLEY_TERRY)
    )
    doctored.loc[bad, "value"] = doctored.loc[good, "value"].to_numpy()
    names = failed(doctored)
    assert len(names) == 2
    assert "minus Nash" in names[0]
    assert "infinitely many labels" in names[1]


def test_the_verdict_fails_where_exploitability_does_not_vanish(frame):
    doctored = frame.copy()
    where = (doctored["learner"] == NASH[2]) & (doctored["game"] == "probability")
    doctored.loc[where, "value"] += 0.01
    names = failed(doctored)
    assert len(names) == 1
    assert "slope of exploitability" in names[0]
    assert NASH[2] in names[0]


def test_the_verdict_fails_where_the_gap_does_not_grow_and_where_policies_differ(frame):
    doctored = frame.copy()
    doctored.loc[doctored["study"].isin(["dial", "population"]), "value"] = 0.1
    doctored.loc[doctored["study"].isin(["truth", "cycle"]), "value"] = 1e-3
    names = failed(doctored)
    assert len(names) == 4
    assert "infinitely many pairs" in names[0]
    assert "between Bradley–Terry and Nash" in names[1]
    assert "log π_Gibbs" in names[2]
    assert "annotators" in names[3]


def test_replicas_do_not_depend_on_their_block():
    small = {**TINY, "replicas": 4, "rounds": 2}
    one, other = (
        THEOREM.curves({**small, "block": block}, Key(0)).sort_values(KEYS) for block in (4, 2)
    )
    assert_allclose(one["value"], other["value"], atol=1e-8)
    assert_allclose(one["bound"], other["bound"], rtol=1e-6)


def test_figure_caption_and_constants_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 6
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert "95 % intervals over 112 replicas" in THEOREM.caption(frame, TINY)
    constants = THEOREM.constants(frame, TINY)
    # The last term: the spread of the win probabilities and the intransitivity of two worlds.
    assert len(constants) == 2 * (1 + 4) + 3 + 2 + 2 * 2
