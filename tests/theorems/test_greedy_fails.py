import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom

from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy, OfflinePessimistic
from rlhf_theory.estimators.confidence import ellipsoid
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.planners.argmax import Argmax
from rlhf_theory.policies import TablePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.theorems import greedy_fails
from rlhf_theory.theorems.greedy_fails import THEOREM
from rlhf_theory.worlds.hard_instances import (
    greedy_failure,
    greedy_failure_escape,
    greedy_failure_outcomes,
    greedy_failure_switch,
)

pytestmark = pytest.mark.theorem

SWEEP = {
    **THEOREM.quick,
    "replicas": 300,
    "pairs": [2, 5, 20, 200, 515, 568, 5000, 8200, 9100, 100_000],
    "multipliers": [0.02, 0.05, 0.2],
}
PHI = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=float)
LOSSES = np.array([1.0, 1.1, 0.1, 0.0])


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(SWEEP, Key(1))


def constrained_mle(wins, n, second):
    """The MLE in the paper's three coordinates, by SLSQP."""

    def loss(theta):
        value = (n - 1) * np.logaddexp(0.0, theta[1]) - wins * theta[1]
        return value + np.logaddexp(0.0, theta[0]) - second * theta[0]

    constraints = (
        {"type": "eq", "fun": lambda t: t.sum()},
        {"type": "ineq", "fun": lambda t: 4.0 - t @ t},
    )
    return minimize(
        loss, np.array([0.1, 0.1, -0.2]), method="SLSQP", constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 300},
    ).x  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 6])
def test_exact_expectation_equals_enumeration_in_three_dimensions(n, frame):
    p, q = 1 / (1 + np.exp(-0.1)), 1 / (1 + np.exp(1.0))
    total = 0.0
    for wins in range(n):
        for second, chance in ((0, 1 - q), (1, q)):
            reward = PHI @ constrained_mle(wins, n, second)
            best = reward >= reward.max() - 1e-5
            total += binom.pmf(wins, n - 1, p) * chance * LOSSES[best].mean()
    world, data, mass = greedy_failure_outcomes(n)
    plan = OfflineGreedy(theta_bound=2.0, planner=Argmax(tie=1e-7))(world.problem, data, Key(0))
    loss = np.exp(plan.require().log_probs(world.problem.table)[:, 0]) @ LOSSES
    assert mass @ loss == pytest.approx(total, abs=1e-9)
    if n in SWEEP["pairs"]:
        part = frame[(frame["kind"] == "exact") & (frame["learner"] == "greedy")]
        shares = part[part["pairs"] == n].sort_values("action")["share"].to_numpy()
        assert shares @ LOSSES == pytest.approx(total, abs=1e-9)


def test_outcomes_have_all_the_mass():
    for n in (1, 2, 50, 10**6):
        world, data, mass = greedy_failure_outcomes(n)
        assert mass.sum() == pytest.approx(1.0, abs=1e-12)
        assert np.all(data.count.sum(axis=1) == n)
        assert world.n_replicas == mass.size


def test_the_study_plans_as_the_learners_do():
    world, data, _ = greedy_failure_outcomes(30)
    models = greedy_fails._models(data, SWEEP)
    x, _ = world.population
    certain = TablePolicy(np.where(np.arange(4) == 2, 0.0, -np.inf)[None, None])

    class Rule:
        def fit(self, data, design=None, start=None):
            return bradley_terry_mle(data, bound=2.0)

        def confidence_set(self, fit, data, problem=None, design=None):
            return ellipsoid(fit.value, data, SWEEP["lam"], 0.2 * greedy_fails._radius(SWEEP))

    learners = {
        "greedy": OfflineGreedy(theta_bound=2.0, planner=Argmax()),
        "c = 0.2": OfflinePessimistic(radius=Rule(), reference=certain, planner=Argmax()),
    }
    for name, learner in learners.items():
        log_pi = learner(world.problem, data, Key(0)).require().log_probs(x)
        best = np.argmax(models[name].rewards(x), axis=-1)
        assert np.array_equal(np.argmax(log_pi, axis=-1), best)


def test_switch_and_escape_agree_with_their_definitions():
    lam, beta = 0.1, 9.0
    n = greedy_failure_switch(beta, lam)
    phi = greedy_failure(replicas=1).problem.phi[0, 0]
    z, once = phi[0] - phi[1], phi[1] - phi[2]
    sigma = lam * np.eye(2) + (n - 1) * np.outer(z, z) + np.outer(once, once)
    v = phi[3] - phi[2]
    assert beta * np.sqrt(v @ np.linalg.solve(sigma, v)) == pytest.approx(0.1, rel=1e-9)
    assert greedy_failure_switch(1e-3, lam) == 1.0
    # lambda so large that it hides the data at every n within reach.
    assert greedy_failure_switch(1e9, lam) == np.inf
    # The width of action 1 at large n, and the first coordinate of the estimate on the ball.
    sigma = lam * np.eye(2) + 1e9 * np.outer(z, z) + np.outer(once, once)
    v = phi[0] - phi[2]
    t = greedy_failure_escape(lam, 2.0) * np.sqrt(v @ np.linalg.solve(sigma, v))
    assert t**2 + 0.1**2 + (t + 0.1) ** 2 == pytest.approx(4.0, rel=1e-6)


def test_the_study_passes(frame):
    checks = THEOREM.judge(frame, SWEEP)
    assert all(c.passed for c in checks), [c for c in checks if not c.passed]
    assert len(checks) == 3 + len(SWEEP["multipliers"])


def doctored(frame, kind, learner, action_from, action_to, n=None):
    new = frame.copy()
    rows = (new["kind"] == kind) & (new["learner"] == learner)
    if n is not None:
        rows &= new["pairs"] == n
    old = new.loc[rows & (new["action"] == action_from), "share"].to_numpy()
    new.loc[rows & (new["action"] == action_to), "share"] += old
    new.loc[rows & (new["action"] == action_from), "share"] = 0.0
    return new


def failed(frame):
    return [c.name for c in THEOREM.judge(frame, SWEEP) if not c.passed]


def test_a_greedy_policy_that_succeeds_fails_the_study(frame):
    assert failed(doctored(frame, "exact", "greedy", 1, 4))


def test_samples_that_disagree_fail_the_study(frame):
    names = failed(doctored(frame, "sample", "greedy", 1, 4, n=5000))
    assert any("samples" in name for name in names)


def test_a_pessimist_that_never_switches_fails_the_study(frame):
    names = failed(doctored(frame, "exact", "c = 0.2", 4, 3))
    assert any("c = 0.2" in name for name in names)


@pytest.mark.parametrize("sabotage", THEOREM.sabotages, ids=lambda s: s.name)
def test_sabotages_are_noticed_in_a_small_study(sabotage):
    sweep = {**SWEEP, **sabotage.settings}
    checks = THEOREM.judge(THEOREM.curves(sweep, Key(1)), sweep)
    wrong = [c.name for c in checks if not c.passed]
    assert wrong
    assert not any("samples against" in name for name in wrong)  # both are wrong alike


def test_figure_caption_and_constants(frame):
    assert len(THEOREM.draw(frame, SWEEP).axes) == 2
    assert "300 replicas" in THEOREM.caption(frame, SWEEP)
    assert THEOREM.constants(frame, SWEEP)["critical multiplier"] == pytest.approx(0.0321, abs=1e-4)
