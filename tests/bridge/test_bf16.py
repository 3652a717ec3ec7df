"""Half precision in training: the reference is scored as the policy is.

Rounding in half precision moves log-probabilities by tenths of a nat. Where policy and reference
share it, the first step starts from the reference itself; where they do not, from its rounding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_bridge.jobs.sources import ModelSource
from llm_bridge.jobs.train import TrainJob
from llm_bridge.labels.preference_files import PreferencePair, write_preferences
from llm_bridge.language.log_probs import BF16_MULTIPLE, pad_rows, sequence_log_probs
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.direct import DirectPreference, IterativeDirect
from llm_bridge.planning.planners import DPOPlanner
from llm_bridge.planning.self_play import SelfPlay
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.examples import with_mismatched
from llm_bridge.training.train import LoRA, TrainingSettings, train
from rlhf_theory.arrays import int_like
from rlhf_theory.losses import DPO, KTO
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward, ProbabilityPreference, SkewBilinear
from tests.helpers.assembled import compared as record_of
from tests.helpers.examples import examples, tokens
from tests.helpers.language import gpt2
from tests.helpers.prompts import TokenFeatures

KEY = Key(0).child("bf16")
# Nothing moves at this rate: every step has the loss of the start.
STILL = TrainingSettings(steps=4, batch_size=4, learning_rate=1e-12, bf16=True)


def rows(model: Any, n: int = 40) -> tuple[list[Any], list[Any]]:
    responses = [(*t, model.eos_id) for t in tokens(model, KEY.child("responses"), n, 1, 30)]
    return tokens(model, KEY.child("prompts"), n, 2, 9), responses


# ---------------------------------------------------------------- scores


def test_scores_depend_on_no_other_row(tiny_model):
    """The largest log-probabilities are some 300 nats, whose single precision is 3e-5."""
    prompts, responses = rows(tiny_model)
    half = sequence_log_probs(tiny_model, prompts, responses, batch_size=40, bf16=True)
    for size in (1, 7):
        other = sequence_log_probs(tiny_model, prompts, responses, batch_size=size, bf16=True)
        np.testing.assert_allclose(other, half, atol=2e-4)
    full = sequence_log_probs(tiny_model, prompts, responses)
    # What is avoided: bf16 has 8 bits, so that sums of some 30 terms are off by tenths.
    assert 0.02 < np.abs(half - full).mean() < 0.5


def test_padding_to_a_multiple_stops_at_the_context():
    ids, seen, answer = pad_rows([(5, 6)], [(7,)], 0, multiple=16)
    assert ids.shape == seen.shape == answer.shape == (1, 16)
    assert ids[0, :3].tolist() == [5, 6, 7]
    assert seen.sum() == 3
    assert answer.sum() == 1
    assert pad_rows([(5, 6)], [(7,)], 0, multiple=16, longest=10)[0].shape == (1, 10)
    assert pad_rows([(5, 6)], [(7,)], 0, multiple=16, longest=2)[0].shape == (1, 3)
    assert pad_rows([(5,) * 16], [(7,) * 16], 0, multiple=16)[0].shape == (1, 32)


def test_a_context_of_no_round_length_is_filled(gpt2_model):
    """Absolute positions: one beyond the context has no embedding."""
    model = gpt2(gpt2_model.tokenizer, context=BF16_MULTIPLE + 3)
    prompt, response = (5,) * 10, (6,) * 9
    half = sequence_log_probs(model, [prompt], [response], bf16=True)
    assert half == pytest.approx(sequence_log_probs(model, [prompt], [response]), abs=1.0)


def test_pools_are_scored_once_per_precision(tiny_policy):
    problem = small_problem(tiny_policy)
    policy, pools = problem.policy, problem.pools
    full, half = policy.pool_scores(pools), policy.pool_scores(pools, bf16=True)
    assert policy.pool_scores(pools) is full
    assert policy.pool_scores(pools, bf16=True) is half
    there = pools.log_mass > -math.inf
    assert 1e-4 < np.abs(full - half)[there].mean() < 0.5
    np.testing.assert_allclose(full[there], pools.log_pi0[there], atol=1e-4)


# ---------------------------------------------------------------- the first step


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tiny_model", {}),
        ("tiny_model", {"lora": LoRA(rank=2)}),
        ("gpt2_model", {"gradient_accumulation": 3}),
    ],
)
def test_first_dpo_loss_is_log_two(name, change, request):
    """In whatever batches: steps that change nothing have it too."""
    model = request.getfixturevalue(name)
    settings = replace(STILL, **change)
    full = examples(model, 14)
    half = [
        replace(e, log_ref=tuple(map(float, scores)))
        for e in full
        for scores in [sequence_log_probs(model, [e.prompt] * 2, e.responses, bf16=True)]
    ]
    same = train(model, half, DPO(0.5), settings, key=KEY).history
    np.testing.assert_allclose(same, math.log(2.0), atol=2e-6)
    # Power: reference scores in full precision miss it a hundred times over.
    mixed = train(model, full, DPO(0.5), settings, key=KEY).history
    assert np.abs(mixed - math.log(2.0)).max() > 2e-4


def test_kto_estimates_no_kl_at_the_start(tiny_model):
    """``z0 = max(0, ...)`` of policies that are one: only a common precision gives exactly 0."""
    made = with_mismatched(tiny_model, examples(tiny_model, 8), bf16=True)
    strangers = [(e.prompt, e.mismatched) for e in made]
    scores = sequence_log_probs(tiny_model, *map(list, zip(*strangers, strict=True)), bf16=True)
    np.testing.assert_allclose([e.log_ref_mismatched for e in made], scores, atol=2e-4)
    full = with_mismatched(tiny_model, made)
    gap = [a.log_ref_mismatched - b.log_ref_mismatched for a, b in zip(made, full, strict=True)]
    assert np.abs(gap).max() > 0.01


# ---------------------------------------------------------------- who computes references


def small_problem(policy: LanguageModelPolicy, **given: Any) -> PromptProblem:
    own = LanguageModelPolicy(policy.model, BatchedSampler(max_new_tokens=6))
    prompts = ["what color is oak ?", "what color is pine ?", "what size is oak ?"]
    return PromptProblem(prompts, own, features=TokenFeatures(3), pool_size=5, eta=0.5, **given)


def compared(problem: PromptProblem) -> Any:
    x, _ = problem.population(Key(0), 1)
    first = int_like(np.zeros((1, 3), dtype=int), x.like)
    one = torch.ones((1, 3), dtype=torch.float64)
    return problem.empty_data().add(record_of(x, first, first + 1, one))


@dataclass(frozen=True)
class _FirstWins:
    def __call__(self, query: Any, key: Key) -> Any:
        return query.answered(torch.ones(tuple(query.a1.shape), dtype=torch.float64))


def _direct(loss: Any) -> Any:
    def run(problem: PromptProblem, settings: TrainingSettings, folder: Path) -> None:
        learner = DirectPreference.of(settings, loss=loss, folder=folder)
        learner(problem, compared(problem), KEY)

    return run


def _iterative(problem: PromptProblem, settings: TrainingSettings, folder: Path) -> None:
    learner = IterativeDirect.of(settings, folder=folder, batch_size=8)
    state = learner.init(problem, problem.empty_data(), KEY)
    learner.step(state, problem, _FirstWins(), KEY)


def _planner(problem: PromptProblem, settings: TrainingSettings, folder: Path) -> None:
    theta = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
    DPOPlanner.of(settings, folder=folder)(LinearReward(theta), problem, KEY)


def _self_play(problem: PromptProblem, settings: TrainingSettings, folder: Path) -> None:
    theta = torch.tensor([[1.0, -2.0, 0.5, 3.0, -2.0, 2.5]], dtype=torch.float64)
    model = ProbabilityPreference(SkewBilinear(theta))
    play = SelfPlay.of(settings, rounds=1, folder=folder)
    play(model, problem, KEY)


def _job(problem: PromptProblem, settings: TrainingSettings, folder: Path) -> None:
    root = folder.parent
    problem.policy.model.save(root / "model")
    pairs = [
        PreferencePair(p.text, pool[0].text, pool[1].text)
        for p, pool in zip(problem.pools.prompts, problem.pools.responses, strict=True)
    ]
    write_preferences(root / "pairs.jsonl", pairs, replace=True)
    source = ModelSource(name=str(root / "model"), offline=True)
    job = TrainJob(
        file=root / "pairs.jsonl",
        source=source,
        loss_settings={"beta": 0.5},
        training=settings,
        test_share=0.0,
    )
    out = folder.parent / "out"
    out.mkdir(exist_ok=True)
    job.run(out, lambda _: None)
    (out / "training").rename(folder)


def losses_in(folder: Path) -> Sequence[float]:
    results: list[Mapping[str, Any]] = [
        json.loads(p.read_text()) for p in folder.glob("*/result.json")
    ]
    assert len(results) == 1
    return list(results[0]["losses"])


@pytest.mark.parametrize(
    "run",
    [_direct(None), _direct(KTO(0.5)), _iterative, _planner, _self_play, _job],
    ids=["direct", "direct kto", "iterative", "planner", "self-play", "job"],
)
def test_every_training_starts_from_the_reference(tiny_policy, tmp_path, run):
    """There the loss says nothing of the model, so that it is the same in every precision."""
    problem = small_problem(tiny_policy)
    found = []
    for bf16 in (False, True):
        settings = replace(STILL, steps=1, batch_size=8, bf16=bf16, progress=False)
        run(problem, settings, tmp_path / str(bf16))
        found.append(losses_in(tmp_path / str(bf16)))
    np.testing.assert_allclose(found[1], found[0], atol=3e-6)
