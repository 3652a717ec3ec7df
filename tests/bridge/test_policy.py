import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.contexts import Contexts
from rlhf_theory.core import Policy
from rlhf_theory.randomness import Key
from tests.helpers.language import llama, word_tokenizer
from tests.helpers.prompts import TokenFeatures

TEXTS = ["what color is oak ?", "what color is the sky ? answer briefly .", "oak ?"]


@pytest.fixture(scope="module")
def problem(tiny_policy):
    return PromptProblem(TEXTS, tiny_policy, features=TokenFeatures(), pool_size=5)


@pytest.fixture(scope="module")
def other(tiny_policy):
    """A policy some way from the reference: weights perturbed."""
    model = tiny_policy.model.clone()
    generator = torch.Generator().manual_seed(Key(4).seed_int())
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return LanguageModelPolicy(model, BatchedSampler(max_new_tokens=8), batch_size=3)


def by_hand(policy, pools, i):
    """Masses times pi / pi0, normalised, response by response."""
    pool = pools.responses[i]
    weight = []
    for k, response in enumerate(pool):
        log_pi = sequence_log_probs(policy.model, [pools.prompts[i].ids], [response.ids])[0]
        weight.append(math.exp(pools.log_mass[i, k] + log_pi - pools.log_pi0[i, k]))
    return np.array(weight) / sum(weight)


def test_it_is_the_pool_reweighted_by_the_ratio(problem, other):
    assert isinstance(other, Policy)
    new = problem.refresh(other, Key(0))
    for p in (problem, new):
        got = torch.exp(other.log_probs(p.table))[0].numpy()
        for i, pool in enumerate(p.pools.responses):
            expected = by_hand(other, p.pools, i)
            assert np.abs(expected - np.exp(p.pools.log_mass[i, : len(pool)])).max() > 0.01
            # Single precision of a sum over eight tokens.
            np.testing.assert_allclose(got[i, : len(pool)], expected, atol=2e-5)
            assert (got[i, len(pool) :] == 0).all()


def test_drawn_contexts_are_rows_of_the_table(problem, other):
    x = problem.sample_contexts(Key(0), 7)
    whole = other.log_probs(problem.table)[0]
    assert torch.equal(other.log_probs(x)[0], whole[x.ids[0]])
    replicas = PromptProblem(
        TEXTS, problem.policy, features=TokenFeatures(), pool_size=5, n_replicas=2
    )
    x = replicas.sample_contexts(Key(0), 7)
    got = other.log_probs(x)
    assert got.shape[:2] == (2, 7)
    assert torch.equal(got[1], whole[x.ids[1]])


def test_responses_are_scored_once_and_only_where_needed(problem, other, monkeypatch):
    scored = []

    class Counting(LanguageModelPolicy):
        def sequence_log_probs(self, prompts, responses, *, bf16=False):
            scored.append(len(responses))
            return super().sequence_log_probs(prompts, responses, bf16=bf16)

    policy = Counting(other.model)
    ids = torch.tensor([[2, 2, 0]])
    policy.log_probs(Contexts.rows(problem.table, ids))
    sizes = [len(p) for p in problem.pools.responses]
    assert scored == [sizes[2] + sizes[0]]
    policy.log_probs(Contexts.rows(problem.table, ids))
    assert len(scored) == 1
    policy.log_probs(problem.table)
    assert scored[1:] == [sizes[1]]
    # Other pools are other scores.
    policy.log_probs(problem.refresh(policy, Key(0)).table)
    assert len(scored) > 2


def test_another_model_starts_without_scores(problem, tiny_policy, other):
    # `replace` must not carry the scores of one model over to another.
    tiny_policy.log_probs(problem.table)
    changed = replace(tiny_policy, model=other.model)
    np.testing.assert_allclose(
        changed.log_probs(problem.table).numpy(),
        other.log_probs(problem.table).numpy(),
        atol=1e-4,
    )


def test_single_precision_tables(tiny_policy, other):
    problem = PromptProblem(
        TEXTS, tiny_policy, features=TokenFeatures(), pool_size=5, dtype="float32"
    )
    got = other.log_probs(problem.table)
    assert got.dtype == torch.float32
    for i, pool in enumerate(problem.pools.responses):
        np.testing.assert_allclose(
            torch.exp(got[0, i, : len(pool)]).numpy(), by_hand(other, problem.pools, i), atol=1e-4
        )


def test_contexts_without_pools_are_refused(problem, other):
    x = problem.table
    for contexts in (
        Contexts(x.phi, x.log_pi0, x.ids),
        Contexts(x.phi, x.log_pi0, None, problem.pools),
        Contexts(x.phi, x.log_pi0, x.ids, ["prompt 0", "prompt 1", "prompt 2"]),
    ):
        with pytest.raises(ValueError, match="contexts of a PromptProblem"):
            other.log_probs(contexts)


def test_a_model_that_went_wrong_is_named(problem, tiny_policy):
    model = tiny_policy.model.clone()
    with torch.no_grad():
        next(iter(model.model.parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match="not a number"):
        LanguageModelPolicy(model).log_probs(problem.table)


def test_probabilities_of_all_short_strings_add_to_one():
    # Two words and the end: with at most two tokens, every string that the sampler can write.
    model = llama(word_tokenizer(["a", "b"]), hidden=16)
    prompt = model.encode_prompt("a b a")
    vocabulary, end = len(model.tokenizer), model.eos_id
    words = [t for t in range(vocabulary) if t != end]
    strings = [(end,), *((w, t) for w in words for t in range(vocabulary))]
    policy = LanguageModelPolicy(model, BatchedSampler(max_new_tokens=2))
    log_p = policy.sequence_log_probs([prompt.ids] * len(strings), strings)
    assert math.isclose(np.exp(log_p).sum(), 1.0, abs_tol=1e-5)
    # So pools of many draws hold everything, with masses near the probabilities.
    problem = PromptProblem([prompt], policy, features=TokenFeatures(), pool_size=3000)
    assert problem.report().covered[0] > 0.99
    mass = dict(
        zip(
            [r.ids for r in problem.pools.responses[0]],
            np.exp(problem.pools.log_mass[0]),
            strict=True,
        )
    )
    p = np.exp(log_p)
    got = np.array([mass.get(s, 0.0) for s in strings])
    # Six standard deviations each: 2e-9 for a string.
    assert (np.abs(got - p) <= 6 * np.sqrt(p * (1 - p) / 3000) + 1e-5).all()


def test_it_loads_from_a_folder(tiny_policy, tmp_path, problem):
    tiny_policy.model.save(tmp_path / "model")
    loaded = LanguageModelPolicy.from_pretrained(
        tmp_path / "model", sampler=BatchedSampler(max_new_tokens=8), offline=True
    )
    torch.testing.assert_close(
        loaded.log_probs(problem.table), tiny_policy.log_probs(problem.table), atol=1e-5, rtol=0
    )
    key, prompts = Key(3), [p.ids for p in problem.prompts]
    ours, theirs = (p.sample(prompts, 3, key) for p in (tiny_policy, loaded))
    assert [[r.ids for r in row] for row in ours] == [[r.ids for r in row] for row in theirs]
