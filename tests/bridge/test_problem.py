import math

import numpy as np
import pytest
import torch

from llm_bridge.embeddings.features import FittedFeatures, TransformerFeatures
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.core import Problem
from rlhf_theory.evaluation.gaps import mean_kl
from rlhf_theory.planners.gibbs import gibbs_log_probs, log_partition
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from tests.helpers.prompts import (
    CentredTokenFeatures,
    FewStrings,
    TokenFeatures,
    few_prompts,
    random_strings,
    string_problem,
)

TEXTS = ["what color is oak ?", "what color is the sky ? answer briefly .", "oak ?"]


@pytest.fixture
def problem():
    return string_problem()


def test_it_is_a_problem_over_its_pools(problem):
    assert isinstance(problem, Problem)
    x, weights = problem.population(Key(0), 3)
    assert x is problem.table
    assert x.shape == (1, 6, problem.pools.size, 3)
    assert x.source is problem.pools
    assert weights.tolist() == [pytest.approx([1 / 6] * 6)]
    pools, features = problem.pools, TokenFeatures(3)
    torch.testing.assert_close(x.log_pi0[0], torch.from_numpy(pools.log_mass), rtol=0, atol=1e-15)
    for i, pool in enumerate(pools.responses):
        rows = features.rows([(i,)] * len(pool), [r.ids for r in pool])
        assert torch.equal(x.phi[0, i, : len(pool)], rows)
        # Places without a response add no direction.
        assert (x.phi[0, i, len(pool) :] == rows[0]).all()
    assert "6 prompts" in repr(problem)
    assert problem.tabulate(problem.policy) is problem.policy


def test_contexts_are_drawn_from_d0():
    weights = np.array([0.5, 0.0, 0.3, 0.2, 0.0, 0.0])
    problem = string_problem(weights=weights, n_replicas=2)
    x = problem.sample_contexts(Key(1), 4000)
    assert x.table is problem.table
    assert x.source is problem.pools
    assert x.ids.shape == (2, 4000)
    counts = np.stack([np.bincount(row, minlength=6) for row in x.ids.numpy()])
    assert (counts[:, weights == 0] == 0).all()
    # Six standard deviations: 2e-9 each.
    assert (np.abs(counts / 4000 - weights) <= 6 * np.sqrt(weights * (1 - weights) / 4000)).all()
    same = problem.finite(2).sample_contexts(Key(1), 4000)
    assert torch.equal(same.ids, x.ids)


def test_features_are_fitted_once_on_pi0s_draws(problem):
    features = CentredTokenFeatures(dim=3)
    fitted = string_problem(features=features)
    prompts, responses = features.seen
    assert len(responses) == 36  # repetitions included
    drawn = [r.ids for row in fitted.pools.draws.responses for r in row]
    assert responses == drawn
    assert prompts == [(i,) for i in range(6) for _ in range(6)]
    # Centred on pi0: with masses as weights the mean over the pools is 0.
    x = fitted.table
    mean = torch.einsum("nk,nkd->d", torch.exp(x.log_pi0[0]), x.phi[0]) / 6
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    frozen = fitted.features
    held = fitted.held_out(few_prompts(4))
    new = fitted.refresh(fitted.policy, Key(0))
    assert held.features is frozen
    assert new.features is frozen


def test_held_out_prompts_have_pools_of_their_own(problem):
    held = problem.held_out(few_prompts(6))
    assert (held.eta, held.pool_size, held.dim) == (problem.eta, problem.pool_size, problem.dim)
    # Same prompts, other draws; reproducible.
    assert held.pools.content != problem.pools.content
    assert held.pools.content == problem.held_out(few_prompts(6)).pools.content
    assert (
        problem.held_out(few_prompts(2), pool_size=11).report().ess.tolist()
        == [pytest.approx(11.0)] * 2
    )
    assert problem.pool_size == 6
    assert held.weights.tolist() == pytest.approx([1 / 6] * 6)


def test_the_seed_decides_the_pools():
    one, same, other = string_problem(), string_problem(), string_problem(seed=4)
    assert one.pools.content == same.pools.content
    assert one.pools.content != other.pools.content


def test_refreshing_makes_another_problem(problem):
    policy = random_strings(6, 7, seed=3)
    before = problem.pools.content
    new = PromptProblem.refresh(problem, policy, Key(1))
    assert problem.pools.content == before
    assert new.pools.content != before
    assert new.table.source is new.pools
    assert new.population(Key(0), 1)[0] is new.table
    features = TokenFeatures(3)
    for i, pool in enumerate(new.pools.responses):
        rows = features.rows([(i,)] * len(pool), [r.ids for r in pool])
        assert torch.equal(new.table.phi[0, i, : len(pool)], rows)
    again = problem.refresh(policy, Key(1))
    assert again.pools.content == new.pools.content
    # Features of responses that stay are not computed again.
    problem.features.calls = 0
    known = {(i, r.ids) for i, pool in enumerate(problem.pools.responses) for r in pool}
    fresh = problem.refresh(policy, Key(1)).pools
    expected = sum((i, r.ids) not in known for i, p in enumerate(fresh.responses) for r in p)
    assert problem.features.calls == expected
    with pytest.raises(ValueError, match=r"can generate refreshes pools.*ReferencePolicy"):
        problem.refresh(ReferencePolicy(), Key(0))


def test_a_refreshed_problem_reuses_pi0s_draws_if_asked():
    problem = string_problem(reuse_draws=True)
    problem.policy.asked.clear()
    new = problem.refresh(random_strings(6, 7, seed=3), Key(1))
    assert problem.policy.asked == []
    first = [{r.ids for r in row[:3]} for row in problem.pools.draws.responses]
    for ids, pool in zip(first, new.pools.responses, strict=True):
        assert ids <= {r.ids for r in pool}


def test_a_policy_with_a_known_ratio_reweights_the_pool(problem):
    # pi ∝ pi0 exp(f) is the pool's mass times exp(f), normalised.
    f = Key(8).normal_numpy(6, 7)
    logits = problem.policy.log_p + f
    policy = FewStrings(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    got = policy.log_probs(problem.table)
    for i, pool in enumerate(problem.pools.responses):
        weight = np.exp(problem.pools.log_mass[i, : len(pool)]) * np.exp(
            f[i, [r.ids[0] for r in pool]]
        )
        np.testing.assert_allclose(
            np.exp(got[0, i, : len(pool)].numpy()), weight / weight.sum(), rtol=1e-12
        )
        assert (got[0, i, len(pool) :] == -np.inf).all()


def test_pools_converge_to_the_exact_policy_as_they_grow():
    # Value and optimal policy of a reward over all strings, enumerated, against those on pools.
    eta, reward = 0.5, Key(8).normal_numpy(4, 9)
    policy = random_strings(4, 9)
    exact = eta * np.logaddexp.reduce(policy.log_p + reward / eta, axis=1)
    best = policy.log_p + reward / eta
    best = np.exp(best - np.logaddexp.reduce(best, axis=1, keepdims=True))
    moved = FewStrings(
        np.log(np.exp(policy.log_p) * 0.3 + 0.7 * np.exp(random_strings(4, 9, seed=2).log_p))
    )
    errors, distances = [], []
    for size in (16, 256, 4096):
        problem = PromptProblem(
            few_prompts(4), policy, features=TokenFeatures(), pool_size=size, eta=eta
        )
        for pools in (problem, problem.refresh(moved, Key(1))):
            x = pools.table
            r = torch.zeros(1, 4, pools.pools.size, dtype=torch.float64)
            for i, pool in enumerate(pools.pools.responses):
                for k, response in enumerate(pool):
                    r[0, i, k] = reward[i, response.ids[0]]
            value = log_partition(r, x.log_pi0, eta)[0].numpy()
            errors.append(np.abs(value - exact).max())
            log_pi = gibbs_log_probs(r, x.log_pi0, eta)[0]
            p = np.zeros((4, 9))
            for i, pool in enumerate(pools.pools.responses):
                for k, response in enumerate(pool):
                    p[i, response.ids[0]] = math.exp(log_pi[i, k])
            distances.append(np.abs(p - best).sum(axis=1).max())
    # Root-K convergence: 256 times the draws, a 16th of the error, up to chance.
    for values in (errors, distances):
        assert values[4] < 0.25 * values[0]
        assert values[5] < 0.25 * values[1]
    # And no further off than six standard errors of a (self-normalised) importance estimate.
    p0, pt = np.exp(policy.log_p), np.exp(moved.log_p)
    ratio = np.exp((reward - exact[:, None]) / eta) - 1.0  # e^(r / eta) / Z - 1
    for error, q in ((errors[4], p0), (errors[5], 0.5 * (p0 + pt))):
        spread = eta * np.sqrt((p0**2 / q * ratio**2).sum(axis=1) / 4096)
        assert error < 6 * spread.max()


def test_the_reference_model_is_the_pools_pi0(tiny_policy):
    problem = PromptProblem(TEXTS, tiny_policy, features=TokenFeatures(), pool_size=5, eta=0.2)
    assert [p.text for p in problem.prompts] == TEXTS
    x = problem.table
    got = tiny_policy.log_probs(x)
    present = x.log_pi0 > -np.inf
    # Single precision, and another order of the rows.
    torch.testing.assert_close(got[present], x.log_pi0[present], atol=2e-5, rtol=0)
    assert (got[~present] == -np.inf).all()
    assert float(mean_kl(got, x.log_pi0, problem.population(Key(0), 0)[1])[0]) < 1e-9
    # On refreshed pools too, whose masses are weighted.
    other = LanguageModelPolicy(tiny_policy.model, BatchedSampler(max_new_tokens=4))
    new = problem.refresh(other, Key(0)).table
    torch.testing.assert_close(
        torch.exp(tiny_policy.log_probs(new)), torch.exp(new.log_pi0), atol=2e-5, rtol=0
    )


def test_features_of_a_transformer(tiny_policy):
    # Fitted to pi0's draws, frozen, the same for refreshed and held-out pools.
    features = TransformerFeatures(tiny_policy, dim=4, whiten=True, progress=False)
    problem = PromptProblem(TEXTS, tiny_policy, features=features, pool_size=5)
    assert isinstance(problem.features, FittedFeatures)
    assert problem.dim == 4
    phi = problem.table.phi[0, problem.table.log_pi0[0] > -np.inf]
    mass = torch.exp(problem.table.log_pi0[0])[problem.table.log_pi0[0] > -np.inf] / 3
    covariance = (phi * mass[:, None]).T @ phi
    torch.testing.assert_close(covariance, torch.eye(4).double(), atol=1e-4, rtol=0)
    other = LanguageModelPolicy(tiny_policy.model, BatchedSampler(max_new_tokens=3))
    for p in (problem.refresh(other, Key(0)), problem.held_out(TEXTS[:2])):
        pool = p.pools.responses[1]
        rows = problem.features.rows([p.prompts[1].ids] * len(pool), [r.ids for r in pool])
        torch.testing.assert_close(p.table.phi[0, 1, : len(pool)], rows, atol=1e-4, rtol=0)


def test_prompts_may_be_messages(chat_model):
    policy = LanguageModelPolicy(chat_model, BatchedSampler(max_new_tokens=3))
    messages = [{"role": "user", "content": "hello why"}]
    problem = PromptProblem([messages, "because so"], policy, features=TokenFeatures(), pool_size=2)
    assert problem.prompts[0] == chat_model.encode_prompt(messages)
    assert problem.prompts[1] == chat_model.encode_prompt("because so")


def test_many_replicas_over_the_pools(problem):
    finite = problem.finite(5)
    assert isinstance(finite, FiniteProblem)
    assert finite.n_replicas == 5
    assert finite.phi is problem.table.phi
    assert finite.log_pi0 is problem.table.log_pi0
    assert finite.eta == problem.eta
    host = finite.to(np.zeros(1))
    np.testing.assert_array_equal(host.phi, problem.table.phi.numpy())


def test_replicas_and_blocks():
    problem = string_problem(n_replicas=4)
    part = problem.block(1, 3)
    assert part.n_replicas == 2
    assert part.sample_contexts(Key(0), 3).ids.shape == (2, 3)
    assert part.empty_data().count.shape == (2, 0)
    assert problem.n_replicas == 4


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dtype_is_that_of_everything(dtype):
    # 11 prompts: in single precision 11 times 1/11 is not 1.
    problem = string_problem(n_prompts=11, dtype=dtype, features=TokenFeatures(dtype=torch.float32))
    kind = getattr(torch, dtype)
    x, weights = problem.population(Key(0), 0)
    assert x.phi.dtype == x.log_pi0.dtype == weights.dtype == problem.empty_data().count.dtype
    assert x.phi.dtype == kind
    new = problem.refresh(random_strings(11, 7, seed=3), Key(1))
    assert new.table.phi.dtype == new.table.log_pi0.dtype == kind
    assert problem.held_out(few_prompts(3)).table.phi.dtype == kind


def test_projection_for_preferences():
    # Features that tell prompts apart vary most, and are of no use to a preference.
    class Loud(TokenFeatures):
        def rows(self, prompts, responses):
            phi = super().rows(prompts, responses)
            loud = torch.tensor([[100.0 * p[0]] for p in prompts], dtype=torch.float64)
            return torch.cat([loud, phi, 0.5 * phi], dim=1)

    problem = string_problem(features=Loud(4), n_strings=30, pool_size=12)
    assert problem.dim == 9
    small = problem.for_preferences(dim=4)
    assert small.dim == 4
    assert small.pools is problem.pools
    assert problem.dim == 9

    # All differences within a prompt live in four dimensions, and are kept.
    def differences(p):
        phi = p.table.phi[0]
        return phi[:, :, None, :] - phi[:, None, :, :]

    before, after = differences(problem), differences(small)
    torch.testing.assert_close(
        after.square().sum(-1), before.square().sum(-1), rtol=1e-9, atol=1e-9
    )
    # Principal axes: uncorrelated within prompts under pi0, the widest first, and centred.
    p = torch.exp(small.table.log_pi0[0]) / 6
    phi = small.table.phi[0]
    nu = torch.einsum("nk,nkd->nd", 6 * p, phi)
    centred = phi - nu[:, None, :]
    covariance = torch.einsum("nk,nkd,nke->de", p, centred, centred)
    off = covariance - torch.diag(torch.diagonal(covariance))
    assert float(off.abs().max()) < 1e-9 * float(covariance.max())
    assert (torch.diff(torch.diagonal(covariance)) <= 0).all()
    torch.testing.assert_close(
        torch.einsum("nk,nkd->d", p, phi), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0
    )
    # Frozen: refreshed and held-out pools have the same map.
    one = small.features.rows([(0,)], [(3,)])
    torch.testing.assert_close(
        one, small.features.apply(problem.features.rows([(0,)], [(3,)])), rtol=0, atol=0
    )
    new = small.refresh(random_strings(6, 30, seed=3), Key(1))
    assert new.dim == 4
    assert small.held_out(few_prompts(2)).dim == 4
    assert problem.for_preferences(dim=9) is problem
    for bad in (0, 33):
        with pytest.raises(ValueError, match=r"dim must lie in 1 \.\. 32"):
            problem.for_preferences(dim=bad)


def test_bad_arguments_are_refused():
    for prompts in ([], "what color is oak ?"):
        with pytest.raises(ValueError, match="at least one"):
            PromptProblem(prompts, random_strings(2, 3), features=TokenFeatures())
    with pytest.raises(ValueError, match="weights must be probabilities"):
        string_problem(weights=[1.0, 1.0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="weights must have shape"):
        string_problem(weights=[0.5, 0.5])
    with pytest.raises(ValueError, match="eta must be positive"):
        string_problem(eta=0.0)
    with pytest.raises(ValueError, match="n_replicas must be positive"):
        string_problem(n_replicas=0)
    with pytest.raises(ValueError, match="dtype"):
        string_problem(dtype="float16")
    with pytest.raises(TypeError, match=r"features must have rows"):
        string_problem(features=3)

    class Short(TokenFeatures):
        def rows(self, prompts, responses):
            return super().rows(prompts, responses)[1:]

    with pytest.raises(ValueError, match=r"shape \(n, d\) with n="):
        string_problem(features=Short())

    class Broken(TokenFeatures):
        def rows(self, prompts, responses):
            return super().rows(prompts, responses) * float("nan")

    with pytest.raises(ValueError, match="phi must be finite"):
        string_problem(features=Broken())


def test_one_draw_per_pool(problem):
    one = string_problem(pool_size=1)
    assert one.table.log_pi0.tolist() == [[[0.0]] * 6]
    with pytest.raises(ValueError, match="at least 2 draws"):
        one.refresh(one.policy, Key(0))


def test_prompt_objects_need_no_tokenizer():
    problem = PromptProblem(
        [Prompt("x", (0,))], random_strings(1, 3), features=TokenFeatures(), pool_size=3
    )
    assert problem.prompts == (Prompt("x", (0,)),)
