"""The learners of the theory package on prompts, as they are."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from llm_bridge.pools.problem import PromptProblem
from llm_bridge.pools.world import PromptWorld
from rlhf_theory.algorithms.enhancers import FromReference
from rlhf_theory.algorithms.nash_game import NashGame
from rlhf_theory.algorithms.offline_nash import OfflinePessimisticNash
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy, OfflinePessimistic
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import closed_form
from rlhf_theory.data import PairList, PairQuery
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.evaluation.gaps import mean_kl, suboptimality
from rlhf_theory.experiments import run
from rlhf_theory.oracles import BradleyTerry, feedback_from
from rlhf_theory.planners.argmax import Argmax
from rlhf_theory.planners.chi_squared import ChiSquared
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.planners.matrix_game import UnregularisedNash
from rlhf_theory.planners.nash import Nash, nash_policy
from rlhf_theory.planners.saddle import PessimisticNash
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.rewards import LinearReward, RewardDifference, SkewBilinear
from tests.helpers.assembled import Assembled, Judged, compared
from tests.helpers.factories import OFFLINE, ONLINE
from tests.helpers.prompts import FewStrings, TokenFeatures, few_prompts, string_problem

THETA = torch.tensor([[1.0, -1.5, 0.8]], dtype=torch.float64)
REWARD = LinearReward(THETA)
PROMPTS, STRINGS = 6, 7
GAMES = ("offline-pessimistic-nash",)


def labels(problem):
    like = problem.population(Key(0), 0)[0].like
    reward = REWARD if isinstance(like, torch.Tensor) else LinearReward(THETA.numpy())
    return feedback_from(BradleyTerry(reward, 2.0))


def measured(problem):
    """Gap and KL on the pools of a problem."""
    x, w = problem.population(Key(0), 0)
    reward = REWARD if isinstance(x.like, torch.Tensor) else LinearReward(THETA.numpy())
    best = gibbs_log_probs(reward.rewards(x), x.log_pi0, problem.eta)

    def evaluate(policy):
        log_pi = policy.log_probs(x)
        return {
            "gap": suboptimality(log_pi, best, w, problem.eta),
            "kl": mean_kl(log_pi, x.log_pi0, w),
        }

    return evaluate


def offline_data(problem, key, n, onto=None):
    """Pairs of two draws from pi0; the same draws whatever the form of the data."""
    x = problem.sample_contexts(key.child("x"), n)
    r = problem.n_replicas
    a1, a2 = (categorical(x.log_pi0, key.child(k).uniform(r, n, like=x.like)) for k in ("a1", "a2"))
    y = labels(problem)(PairQuery(x, a1, a2), key.child("y")).y
    return (problem.empty_data() if onto is None else onto).add(compared(x, a1, a2, y))


def by_hand(problem):
    """The pools as a finite problem, on NumPy, from their definition."""
    pools, features = problem.pools, TokenFeatures(3)
    phi = np.zeros((1, len(pools.prompts), pools.size, 3))
    for i, pool in enumerate(pools.responses):
        for k, response in enumerate(pool):
            phi[0, i, k] = features.rows([pools.prompts[i].ids], [response.ids])[0]
    weights = np.full((1, len(pools.prompts)), 1 / len(pools.prompts))
    return FiniteProblem(phi, pools.log_mass[None], weights, problem.eta, problem.n_replicas)


def probabilities(policy, problem):
    return np.exp(to_numpy(policy.log_probs(problem.population(Key(0), 0)[0])))


@pytest.fixture(scope="module")
def problem():
    return string_problem(PROMPTS, STRINGS)


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_learners_run_and_agree_with_a_finite_problem(name, problem):
    learner = OFFLINE[name]()
    data = offline_data(problem, Key(1), 400)
    plan = learner(problem, data, Key(2))
    assert bool(plan.converged.all())
    here = probabilities(plan.value, problem)
    if "ensemble" in name or "uncertainty" in name:
        # Bootstrap weights are drawn row by row: the same rows, without the texts.
        same = offline_data(problem, Key(1), 400, PairList.empty(1, 3, problem.table.like))
        assert np.array_equal(probabilities(learner(problem, same, Key(2)).value, problem), here)
    else:
        for other in (problem.finite(), by_hand(problem)):
            there = learner(other, offline_data(other, Key(1), 400), Key(2))
            np.testing.assert_allclose(probabilities(there.value, other), here, atol=1e-8, rtol=0)
    if name not in GAMES:
        gap = measured(problem)
        assert float(gap(plan.value)["gap"]) < float(gap(ReferencePolicy())["gap"])
    nothing = learner(problem, problem.empty_data(), Key(2)).value
    pi0 = probabilities(ReferencePolicy(), problem)
    np.testing.assert_allclose(probabilities(nothing, problem), pi0, atol=1e-12)


@pytest.mark.parametrize("name", ONLINE)
def test_online_learners_run_and_agree_with_a_finite_problem(name, problem):
    learner = ONLINE[name]()
    runs = [
        run(learner, Assembled(p, labels(p), measured(p)), rounds=4, seed=3)
        for p in (problem, problem.finite(), by_hand(problem))
    ]
    here = runs[0]
    assert here["converged"][:, :-1].all()
    assert (here["gap"] >= 0).all()
    for there in runs[1:]:
        assert set(there.arrays) == set(here.arrays)
        for metric in ("gap", "kl", "labels"):
            np.testing.assert_allclose(there[metric], here[metric], atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    "name", ["online-iterative-from-reference", "online-iterative", "nash-game-on-policy"]
)
def test_replicas_run_together(name):
    # Three replicas, labels of their own: the same as in the finite problem.
    problem = string_problem(PROMPTS, STRINGS, n_replicas=3)
    learner = ONLINE[name]()
    runs = [
        run(learner, Assembled(p, labels(p), measured(p)), rounds=3, seed=3)
        for p in (problem, problem.finite(3))
    ]
    for metric in ("gap", "kl", "labels"):
        np.testing.assert_allclose(runs[0][metric], runs[1][metric], atol=1e-8, rtol=0)
    assert len(np.unique(runs[0]["gap"][:, -1])) == 3


def test_the_hybrid_starts_from_offline_data(problem):
    learner = OnlineIterative(enhancer=FromReference(), radius=Constant(beta=0.5), batch_size=8)
    runs = []
    for p in (problem, problem.finite()):
        data = offline_data(p, Key(1), 300)
        hybrid = Assembled(p, labels(p), measured(p), data=data)
        runs.append(run(learner, hybrid, rounds=3, seed=3))
    for metric in ("gap", "kl", "labels"):
        np.testing.assert_allclose(runs[0][metric], runs[1][metric], atol=1e-8, rtol=0)
    cold = run(learner, Assembled(problem, labels(problem), measured(problem)), rounds=3, seed=3)
    assert runs[0]["gap"][0, 0] < 0.5 * cold["gap"][0, 0]
    # Without data both start at pi0.
    assert cold["kl"][0, 0] < 1e-12


@dataclass(frozen=True)
class OverStrings:
    """Plan over all strings, as a trained model would: a policy that can generate."""

    reference: FewStrings

    def __call__(self, model, problem, key, start=None):
        phi = all_features(problem.features)
        if hasattr(model, "theta") and model.theta.shape[-1] == phi.shape[-1]:
            r = (phi @ model.theta[0].numpy()) / problem.eta
            logits = self.reference.log_p + r
        else:
            x = whole(problem)
            found = nash_policy(model.payoff(x), x.log_pi0, problem.eta)
            logits = found.require()[0].numpy()
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return closed_form(FewStrings(log_p), 1, THETA)


def all_features(features):
    strings = FewStrings(np.zeros((1, STRINGS))).strings
    rows = [features.rows([(i,)] * STRINGS, strings) for i in range(PROMPTS)]
    return torch.stack(rows).numpy()


def whole(problem):
    """All strings as the pools of every prompt, with pi0's own probabilities."""
    phi = torch.from_numpy(all_features(problem.features))[None]
    log_p = torch.from_numpy(problem.policy.log_p)[None]
    return FiniteProblem(
        phi, log_p, torch.full((1, PROMPTS), 1 / PROMPTS, dtype=phi.dtype), problem.eta, 1
    ).table


def true_gap(problem):
    """The exact gap over all strings: what pools only approximate."""
    x = whole(problem)
    best = gibbs_log_probs(REWARD.rewards(x), x.log_pi0, problem.eta)
    w = torch.full((1, PROMPTS), 1 / PROMPTS, dtype=torch.float64)

    def evaluate(policy):
        return {"gap": suboptimality(torch.from_numpy(policy.log_p)[None], best, w, problem.eta)}

    return evaluate


def test_a_policy_over_all_strings_is_gibbs_on_the_pools(problem):
    # Its ratio to pi0 is e^(r / eta) / Z; on pools that is the Gibbs policy of the same reward.
    kinds = {}
    for name, planner in (("strings", OverStrings(problem.policy)), ("pools", None)):
        more = {} if planner is None else {"planner": planner}
        learner = OnlineIterative(radius=Constant(beta=0.5), batch_size=6, **more)
        kinds[name] = run(
            learner, Assembled(problem, labels(problem), measured(problem)), rounds=4, seed=3
        )
    for metric in ("gap", "kl", "labels"):
        np.testing.assert_allclose(
            kinds["strings"][metric], kinds["pools"][metric], atol=1e-8, rtol=0
        )


@pytest.mark.parametrize("name", [n for n in ONLINE if n.startswith("online")])
def test_online_learners_run_with_refreshed_pools(name):
    problem = string_problem(PROMPTS, STRINGS, pool_size=4)
    seen = []

    def between(p, policy, key):
        seen.append(p)
        return PromptProblem.refresh(p, policy, key)

    template = ONLINE[name]()
    learner = OnlineIterative(
        enhancer=template.enhancer,
        radius=Constant(beta=0.5, lam=0.1),
        batch_size=64,
        planner=OverStrings(problem.policy),
    )
    trace = run(
        learner,
        Assembled(problem, labels(problem), true_gap(problem), change=between),
        rounds=5,
        seed=3,
    )
    assert len({p.pools.content for p in seen}) == 5
    assert trace["converged"][:, :-1].all()
    assert trace["gap"][0, -1] < 0.25 * trace["gap"][0, 0]


def test_nash_runs_with_refreshed_pools():
    problem = string_problem(PROMPTS, STRINGS, pool_size=4)
    learner = NashGame(
        radius=Constant(beta=0.5, lam=0.1), batch_size=64, planner=OverStrings(problem.policy)
    )
    judge = Judged(true_gap(problem), ("gap",))
    world = PromptWorld(problem=problem, feedback=labels(problem), judge=judge, refresh=True)
    trace = run(learner, world, rounds=5, seed=3)
    # The equilibrium of a Bradley-Terry game with logits 2 r is the Gibbs policy of 2 r: compare
    # with what that policy loses, not with 0.
    x = whole(problem)
    twice = gibbs_log_probs(2.0 * REWARD.rewards(x), x.log_pi0, problem.eta)[0].numpy()
    target = float(true_gap(problem)(FewStrings(twice))["gap"])
    final = float(trace["gap"][0, -1])
    assert abs(final - target) < 0.5 * abs(float(trace["gap"][0, 0]) - target)
    assert trace["converged"][:, :-1].all()


@pytest.mark.parametrize("learner", [OnlineIterative(batch_size=4), NashGame(batch_size=4)])
def test_policies_over_pools_do_not_refresh(learner, problem):
    judge = Judged(measured(problem), ("gap", "kl"))
    world = PromptWorld(problem=problem, feedback=labels(problem), judge=judge, refresh=True)
    with pytest.raises(ValueError, match="Only a policy that can generate refreshes pools"):
        run(learner, world, rounds=1)


PLANNERS = {
    "nash": (Nash(), SkewBilinear(torch.tensor([[1.0, -0.5, 0.3, 0.7, -1.0, 0.2]]).double())),
    "pessimistic-nash": (PessimisticNash(), RewardDifference(REWARD)),
    "unregularised-nash": (UnregularisedNash(), RewardDifference(REWARD)),
    "chi-squared": (ChiSquared(), REWARD),
    "argmax": (Argmax(), REWARD),
}


@pytest.mark.parametrize("name", PLANNERS)
def test_planned_policies_know_when_the_pools_have_changed(name, problem):
    # Solved on some pools, asked on others: a table would answer with the wrong responses.
    planner, model = PLANNERS[name]
    others = (
        problem.refresh(problem.policy, Key(5)),
        problem.held_out(few_prompts(PROMPTS)),
        problem.held_out(few_prompts(3), pool_size=4),
    )
    policy = planner(model, problem, Key(0), None).value
    for other in others:
        x = other.sample_contexts(Key(1), 9)
        there = planner(model, other, Key(0), None).value
        for contexts in (other.table, x):
            torch.testing.assert_close(
                torch.exp(policy.log_probs(contexts)),
                torch.exp(there.log_probs(contexts)),
                atol=1e-10,
                rtol=0,
            )


@pytest.mark.parametrize(
    "learner",
    [
        OfflineGreedy(),
        OfflinePessimistic(radius=Constant(beta=0.3)),
        OfflinePessimistic(radius=Constant(beta=0.3), option="I"),
        OfflinePessimisticNash(radius=Constant(beta=0.3)),
    ],
    ids=["greedy", "II", "I", "nash"],
)
def test_learnt_policies_carry_over_to_held_out_prompts(learner):
    # The features are frozen, so a policy learnt on some pools is one on all.
    problem = string_problem(PROMPTS, STRINGS)
    plan = learner(problem, offline_data(problem, Key(1), 2000), Key(2)).value
    held = problem.held_out(few_prompts(PROMPTS), pool_size=40)
    if isinstance(learner, OfflinePessimisticNash):
        x = held.table
        target = gibbs_log_probs(2.0 * REWARD.rewards(x), x.log_pi0, problem.eta)
        near = mean_kl(plan.log_probs(x), target, held.population(Key(0), 0)[1])
        far = mean_kl(x.log_pi0, target, held.population(Key(0), 0)[1])
    else:
        near, far = (measured(held)(p)["gap"] for p in (plan, ReferencePolicy()))
    assert float(near) < 0.5 * float(far)


def test_games_need_few_features_and_the_projection_is_named():
    problem = string_problem(PROMPTS, STRINGS, dim=40)
    theta = torch.zeros(1, 40, dtype=torch.float64)

    def play(p):
        x, w = p.population(Key(0), 0)
        return run(
            NashGame(batch_size=4),
            Assembled(
                p,
                feedback_from(BradleyTerry(LinearReward(theta[:, : p.dim]))),
                lambda policy: {"kl": mean_kl(policy.log_probs(x), x.log_pi0, w)},
            ),
            rounds=1,
        )

    with pytest.raises(ValueError, match=r"d=40 .*for_preferences\(dim=32\)"):
        play(problem)
    assert play(problem.for_preferences(dim=4))["converged"][0, 0] == 1.0


def test_single_precision_runs(problem):
    # As on a GPU: everything in float32, to its accuracy.
    single = string_problem(PROMPTS, STRINGS, dtype="float32")
    reward = LinearReward(THETA.float())
    x, w = single.population(Key(0), 0)
    best = gibbs_log_probs(reward.rewards(x), x.log_pi0, single.eta)

    def evaluate(policy):
        return {"gap": suboptimality(policy.log_probs(x), best, w, single.eta)}

    learner = OnlineIterative(radius=Constant(beta=0.5), batch_size=32)
    parts = {"rounds": 3, "seed": 3}
    ours = run(
        learner, Assembled(single, feedback_from(BradleyTerry(reward, 2.0)), evaluate), **parts
    )
    exact = run(learner, Assembled(problem, labels(problem), measured(problem)), **parts)
    assert np.isfinite(ours["gap"]).all()
    # The first batches are of the same pairs and labels; a rounded draw may differ later.
    np.testing.assert_allclose(ours["gap"][:, 1], exact["gap"][:, 1], atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["online-iterative", "online-iterative-uniform", "nash-game"])
def test_everything_stays_on_the_device_of_the_features(name, problem):
    learner = ONLINE[name]()
    there = string_problem(PROMPTS, STRINGS, features=TokenFeatures(3, device="cuda"))
    theta = LinearReward(THETA.to("cuda"))
    x, w = there.population(Key(0), 0)
    assert x.phi.is_cuda
    best = gibbs_log_probs(theta.rewards(x), x.log_pi0, there.eta)

    def evaluate(policy):
        log_pi = policy.log_probs(x)
        return {
            "gap": suboptimality(log_pi, best, w, there.eta),
            "kl": mean_kl(log_pi, x.log_pi0, w),
        }

    parts = {"rounds": 4, "seed": 3}
    labelled = feedback_from(BradleyTerry(theta, 2.0))
    ours = run(learner, Assembled(there, labelled, evaluate), **parts)
    host = run(learner, Assembled(problem, labels(problem), measured(problem)), **parts)
    for metric in ("gap", "kl", "labels"):
        np.testing.assert_allclose(ours[metric], host[metric], atol=1e-8, rtol=0)
    state = learner.init(there, there.empty_data(), Key(0))
    assert state.data.count.is_cuda
    # New pools come to the same device, and so do the answers of policies that generate.
    new = there.refresh(there.policy, Key(1))
    assert new.table.phi.is_cuda
    assert there.policy.log_probs(new.table).is_cuda
