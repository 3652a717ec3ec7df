import math

import numpy as np
import pytest

from rlhf_theory.planners.chi_squared import chi_squared_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.chi_squared import THEOREM
from rlhf_theory.theorems.chi_squared_law import _policy, expected_regret
from rlhf_theory.theorems.sabotaged_learners import plans_chi_squared

pytestmark = pytest.mark.theorem

SWEEP = {**THEOREM.quick, "replicas": 256, "block": 128, "betas": [2e-3, 2.0, 32]}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(SWEEP, Key(1))


def test_the_study_passes(frame):
    checks = THEOREM.judge(frame, SWEEP)
    assert all(c.passed for c in checks), [c for c in checks if not c.passed]


def test_a_doctored_kl_curve_fails(frame):
    doctored = frame.copy()
    kl = doctored["method"] == "KL"
    # A power law where the theorem has 1/log n.
    doctored.loc[kl, "regret"] *= (doctored.loc[kl, "pairs"] / 100.0) ** -0.5
    assert not all(c.passed for c in THEOREM.judge(doctored, SWEEP))


def test_a_doctored_chi_squared_curve_fails(frame):
    doctored = frame.copy()
    chi = doctored["method"] == "chi2"
    doctored.loc[chi, "regret"] = 0.3 / np.log(doctored.loc[chi, "pairs"])
    failed = [c.name for c in THEOREM.judge(doctored, SWEEP) if not c.passed]
    assert any("χ²" in name for name in failed)


def test_blocks_do_not_change_the_replicas(frame):
    other = THEOREM.curves({**SWEEP, "pairs": SWEEP["pairs"][:2], "block": 64}, Key(1))
    part = frame[(frame["kind"] == "replica") & frame["pairs"].isin(SWEEP["pairs"][:2])]
    same = other[other["kind"] == "replica"]
    assert np.allclose(np.sort(part["regret"]), np.sort(same["regret"]), atol=1e-8)


def test_figure_and_caption_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, SWEEP)
    assert len(fig.axes) == 3
    assert "256 replicas" in THEOREM.caption(frame, SWEEP)
    assert THEOREM.constants(frame, SWEEP)


# ------------------------------------------------------------------------ fixed weights


def test_doctored_regrets_at_a_fixed_weight_fail(frame):
    doctored = frame.copy()
    chi = (doctored["kind"] == "fixed") & (doctored["method"] == "chi2")
    doctored.loc[chi, "regret"] *= 1.02
    failed = [c.name for c in THEOREM.judge(doctored, SWEEP) if not c.passed]
    assert len(failed) == 3
    assert all("by enumeration" in name and "χ²" in name for name in failed)


def test_kl_below_its_limit_fails(frame):
    doctored = frame.copy()
    kl = (doctored["kind"] == "replica") & (doctored["method"] == "KL")
    doctored.loc[kl, "regret"] *= 0.7
    failed = [c.name for c in THEOREM.judge(doctored, SWEEP) if not c.passed]
    assert [name.startswith("KL: regret × log n") for name in failed] == [True]


def test_the_best_weight_of_kl_has_the_limit_that_the_claim_says():
    """From above, and slowly: terms of order log log n / log n."""
    best = []
    for n in (1e6, 1e20, 1e100, 1e300):
        log = math.log(n)
        grid = np.geomspace(0.5, 4.0, 200) / log
        best.append(log * min(expected_regret(n, float(b), 0.0) for b in grid))
    assert best == sorted(best, reverse=True)
    limit = 1.0 / (1.0 + math.e)
    assert limit < best[-1] < limit + 0.005


def test_policies_of_the_enumeration_are_those_of_the_planners():
    law = np.random.Generator(np.random.Philox(2))
    rewards, pi0 = law.uniform(-1, 1, size=(20, 3)), np.array([0.5, 0.499, 0.001])
    for beta in (0.03, 0.5):
        for weight, right in ((0.0, None), (1.0, chi_squared_log_probs)):
            other = _policy(rewards, pi0, beta, weight)
            plan = (
                plans_chi_squared(rewards[:, None], np.log(pi0)[None, None], beta, weight)
                if right is None
                else right(rewards[:, None], np.log(pi0)[None, None], beta)[0]
            )
            assert np.allclose(np.exp(plan[:, 0]), other, atol=1e-9)


@pytest.mark.parametrize("sabotage", THEOREM.sabotages, ids=lambda s: s.name)
def test_sabotages_are_noticed_in_a_small_study(sabotage, frame):
    sweep = {**SWEEP, **sabotage.settings}
    tables = [
        THEOREM.measure({**SWEEP, **(sabotage.settings if sabotage.touches(p) else {})}, p, Key(1))
        for p in THEOREM.parts(sweep)
    ]
    failed = [c.name for c in THEOREM.judge(THEOREM.gather(tables, sweep), sweep) if not c.passed]
    assert failed
