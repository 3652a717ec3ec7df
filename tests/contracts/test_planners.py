"""Every planner of rewards and of preferences against its protocol."""

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.core import Policy, Solution
from rlhf_theory.randomness import Key
from rlhf_theory.register import found
from rlhf_theory.rewards import LinearReward, SkewBilinear
from rlhf_theory.studies.signatures import settings_of
from tests.helpers.registered import examples, made
from tests.helpers.small import finite_problem
from tests.helpers.snapshots import assert_unchanged, snapshot
from tests.helpers.toy import ToyPrompts

ABSENT = ((0, 1), (1, 0), (1, 3))


def planners(learner):
    """Return the examples of the planners that suit a learner."""
    known = settings_of(found("learner")[learner])["planner"].slot.known()
    return {name: given for name, given in examples("planner").items() if given["kind"] in known}


REWARD, PREFERENCE = planners("online-iterative"), planners("nash-game")


WITHOUT_REFERENCE = {"unregularised-nash"}
"""Planners without the KL, for which pi0 is no answer and prompts that never repeat are refused."""


@pytest.fixture(params=[*REWARD, *PREFERENCE])
def name(request):
    return request.param


def planner_and_model(name, like, rows=3, d=2):
    p = d if name in REWARD else d * (d + 1) // 2
    theta = as_like(np.random.default_rng(0).normal(size=(rows, p)), like)
    if name in REWARD:
        return made("planner", **REWARD[name]), LinearReward(theta)
    return made("planner", **PREFERENCE[name]), SkewBilinear(theta)


def test_a_plan_is_a_converged_solution_with_a_policy(name, xp_like):
    for absent in ((), ABSENT):
        problem = finite_problem(xp_like, absent=absent)
        planner, model = planner_and_model(name, xp_like)
        before = snapshot(problem, model)
        plan = planner(model, problem, Key(0), None)
        assert_unchanged(before, problem, model)
        assert isinstance(plan, Solution)
        assert isinstance(plan.value, Policy)
        assert tuple(plan.residual.shape) == tuple(plan.converged.shape) == (3,)
        assert to_numpy(plan.converged).all(), plan.message
        log_pi = to_numpy(plan.value.log_probs(problem.table))
        np.testing.assert_allclose(np.exp(log_pi).sum(axis=-1), 1.0, rtol=1e-9)
        gone = np.broadcast_to(~np.isfinite(to_numpy(problem.log_pi0)), log_pi.shape)
        assert (log_pi[gone] == -np.inf).all()


def test_a_warm_start_changes_nothing(name, xp_like):
    problem = finite_problem(xp_like)
    planner, model = planner_and_model(name, xp_like)
    cold = planner(model, problem, Key(0), None)
    for start in (cold.value, problem.tabulate(cold.value)):
        warm = planner(model, problem, Key(0), start)
        assert to_numpy(warm.converged).all()
        got, want = (to_numpy(p.value.log_probs(problem.table)) for p in (warm, cold))
        np.testing.assert_allclose(np.exp(got), np.exp(want), atol=1e-8)


def test_a_replica_alone_is_planned_alike(name):
    like = np.zeros(1)
    problem = finite_problem(like, rows=3)
    planner, model = planner_and_model(name, like)
    whole = planner(model, problem, Key(0), None).value.log_probs(problem.table)
    for r in range(3):
        part = problem.block(r, r + 1)
        alone = planner(type(model)(model.theta[r : r + 1]), part, Key(0).block(r), None)
        got = alone.value.log_probs(part.table)
        np.testing.assert_allclose(np.exp(got), np.exp(whole[r : r + 1]), atol=1e-10)


def test_toy_prompts_are_planned_for(name, xp_like):
    problem = ToyPrompts(xp_like)
    planner, model = planner_and_model(name, xp_like, rows=1, d=3)
    if name in WITHOUT_REFERENCE:
        with pytest.raises(ValueError, match="finitely many contexts"):
            planner(model, problem, Key(0), None)
        return
    plan = planner(model, problem, Key(0), None)
    x = problem.sample_contexts(Key(1), 7)
    log_pi = to_numpy(plan.value.log_probs(x))
    np.testing.assert_allclose(np.exp(log_pi).sum(axis=-1), 1.0, rtol=1e-9)
    assert (log_pi[~np.isfinite(to_numpy(x.log_pi0))] == -np.inf).all()


def test_a_model_that_knows_nothing_gives_the_reference(name, xp_like):
    if name in WITHOUT_REFERENCE:
        pytest.skip("any policy is an equilibrium of the game without payoffs")
    problem = finite_problem(xp_like, absent=ABSENT)
    planner, model = planner_and_model(name, xp_like)
    plan = planner(type(model)(0.0 * model.theta), problem, Key(0), None)
    got = np.exp(to_numpy(plan.value.log_probs(problem.table)))
    want = np.broadcast_to(np.exp(to_numpy(problem.log_pi0)), got.shape)
    np.testing.assert_allclose(got, want, atol=1e-10)
