import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from rlhf_theory import worlds
from rlhf_theory.estimators.mle import fisher_information
from rlhf_theory.planners.saddle import PessimisticNash
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.nash_general_preference import THEOREM
from rlhf_theory.theorems.nash_general_preference_limits import Linearised
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
    "limit_replicas": 200,
    "labels_replicas": 200,
    "arms": [2, 3],
    "arms_replicas": 3,
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
        "limit": 2 * 200,
        "labels": 3 * 200,
        "arms": 3 * 3 * (6 + 8),
    }
    assert np.isfinite(frame["value"]).all()
    assert (frame["value"] >= 0.0).all()
    bounded = frame[frame["bound"].notna()]
    assert set(bounded["study"]) == {"rounds", "offline", "arms"}
    assert np.isfinite(bounded["bound"]).all()


def test_all_learners_start_at_pi0(frame):
    for game in ("logit", "probability"):
        for name in (*NASH, BRADLEY_TERRY):
            gap = table(rows(frame, "rounds", name, game))[1][:, 0]
            assert_allclose(gap, exact(frame, "start", game), rtol=1e-10)


def test_the_verdict_passes(frame):
    assert len(THEOREM.judge(frame, TINY)) == 23
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
    # A looseness, and at last spread of the win probabilities and intransitivity of two worlds.
    assert len(constants) == 2 * (1 + 4) + 3 + 1 + 2 + 2 * 2


# ---------------------------------------------------------------------- many labels, exploration


def near_equilibrium():
    world = worlds.intransitive(contexts=3, actions=4, dim=2, eta=0.2, cycle=0.4, theta_norm=0.5,
                                reference="dirichlet", seed=3, replicas=1)  # fmt: skip
    return world, Linearised.of(world)


def test_the_pessimist_moves_as_the_linearised_game_says():
    """By finite differences: a small bonus in the true game, its saddle point, no noise."""
    world, near = near_equilibrium()
    x, _ = world.population
    law = np.random.Generator(np.random.Philox(4))
    bonus = law.uniform(size=(1, 3, 4, 4))
    bonus = bonus + np.swapaxes(bonus, -1, -2)
    bonus[..., range(4), range(4)] = 0.0

    class Less:
        def __init__(self, size):
            self.size = size

        def payoff(self, c):
            return near.payoff[None] - self.size * bonus

    size = 1e-4
    plan = PessimisticNash()(Less(size), world.problem, Key(0), None)
    log_pi = np.asarray(plan.require().log_probs(x))
    moved, off = near.moved(size * bonus)
    # Up to a constant per context, which covariances do not see.
    found = 0.2 * (log_pi - np.log(near.star))
    found -= found.mean(axis=-1, keepdims=True)
    assert_allclose(found, moved - moved.mean(axis=-1, keepdims=True), atol=20.0 * size**2)
    assert near.shift(log_pi, size * bonus) == pytest.approx(1.0, abs=1e-2)
    gap = world.evaluate(plan.value)["exploitability"]
    assert gap == pytest.approx(near.covariance(off, off) / 0.4, rel=1e-2)


def test_the_plug_in_has_the_exploitability_of_its_noise():
    """Against small errors of the payoff, drawn with the inverse information; 4 standard errors."""
    world, near = near_equilibrium()
    data = world.offline_data(Key(1), 10**8)
    h = fisher_information(world.theta_star, data.skew, data.count)[0]
    law = np.random.Generator(np.random.Philox(6))
    gaps = []
    for _ in range(300):
        error = law.multivariate_normal(np.zeros(h.shape[0]), np.linalg.inv(h))
        deviation = near.psi @ error
        facing = np.einsum("xab,xb->xa", deviation, near.star)[None]
        gaps.append(float(near.covariance(facing, facing)[0]) / 0.4)
    gaps = np.array(gaps)
    assert abs(gaps.mean() - near.noise(data)[0]) < 4.0 * gaps.std() / 300**0.5


@pytest.mark.parametrize(
    ("study", "column", "factor", "words"),
    [
        ("limit", "value", 1.4, "exploitability over its limit"),
        ("limit", "shift", -1.0, "how far the bonus moves"),
        ("labels", "value", 1.5, "of the pairs collected"),
        ("arms", "bound", 0.0, "unseen arms"),
    ],
)
def test_the_verdict_fails_where_limits_are_missed(frame, study, column, factor, words):
    doctored = frame.copy()
    doctored.loc[doctored["study"] == study, column] *= factor
    names = failed(doctored)
    assert names
    assert all(words in name for name in names)


@pytest.mark.parametrize("sabotage", THEOREM.sabotages, ids=lambda s: s.name)
def test_sabotages_are_noticed_in_a_small_study(sabotage, frame):
    sweep = {**TINY, **sabotage.settings}
    parts = [p for p in THEOREM.parts(sweep) if sabotage.touches(p)]
    wrong = THEOREM.gather([THEOREM.measure(sweep, p, Key(0)) for p in parts], sweep)
    same = ["study", "learner", "game"]
    names = [frame.astype(dict.fromkeys(same, str)), wrong.astype(dict.fromkeys(same, str))]
    kept = names[0].merge(names[1][same].drop_duplicates(), on=same, how="left", indicator=True)
    kept = kept[kept["_merge"] == "left_only"].drop(columns="_merge")
    checks = THEOREM.judge(pd.concat([kept, names[1]], ignore_index=True), sweep)
    assert [c.name for c in checks if not c.passed]
