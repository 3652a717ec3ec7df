"""Training: the loop, exact accumulation, adapters, what goes wrong."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from llm_bridge.language.log_probs import pad_rows, response_log_probs, sequence_log_probs
from llm_bridge.training.adapters import with_adapters
from llm_bridge.training.examples import with_mismatched
from llm_bridge.training.objective import Objective
from llm_bridge.training.train import LoRA, TrainingSettings, sft, train
from rlhf_theory.errors import ConvergenceError
from rlhf_theory.losses import DPO, KTO, InfoNCA
from rlhf_theory.randomness import Key
from tests.helpers.examples import distance, examples, in_double

QUICK = TrainingSettings(steps=6, batch_size=4, learning_rate=1e-3)
KEY = Key(0).child("training")


def test_first_dpo_loss_is_log_two(tiny_model):
    result = train(tiny_model, examples(tiny_model, 8), DPO(0.5), QUICK, key=KEY)
    assert result.history[0] == pytest.approx(math.log(2.0), abs=1e-5)
    assert result.history[-1] < 0.6
    assert result.n_steps == 6


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sft_is_the_negative_log_likelihood(tiny_model, reduction):
    made = examples(tiny_model, 6)
    prompts, responses = [e.prompt for e in made], [e.responses[0] for e in made]
    weights = [1.0, 2.0, 0.0, 1.0, 1.0, 1.0]
    settings = TrainingSettings(steps=20, batch_size=6, learning_rate=3e-3)
    result = sft(
        tiny_model, prompts, responses, settings, key=KEY, reduction=reduction, weights=weights
    )
    scores = -sequence_log_probs(tiny_model, prompts, responses, reduction=reduction)
    assert result.history[0] == pytest.approx(np.average(scores, weights=weights), rel=1e-5)
    after = -sequence_log_probs(result.model, prompts, responses, reduction=reduction)
    assert np.average(after, weights=weights) < 0.8 * np.average(scores, weights=weights)


# ---------------------------------------------------------------- the optimiser


def _by_hand(model: Any, made: Any, loss: Any, settings: TrainingSettings) -> Any:
    """Full-batch AdamW with clipping and a linear schedule, in plain torch."""
    copy = model.clone()
    module = copy.model
    prompts = [e.prompt for e in made]
    better = [e.responses[0 if e.target[0] == 1.0 else 1] for e in made]
    worse = [e.responses[1 if e.target[0] == 1.0 else 0] for e in made]
    rows = [pad_rows(prompts, side, model.pad_id) for side in (better, worse)]
    with torch.no_grad():
        start = [response_log_probs(module, *side) for side in rows]
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=False
    )
    losses = []
    for step in range(settings.steps or 0):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1.0 - step / (settings.steps or 1))
        ratios = [response_log_probs(module, *a) - b for a, b in zip(rows, start, strict=True)]
        h = ratios[0] - ratios[1]
        value = torch.nn.functional.softplus(-loss.beta * h).mean()
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), settings.max_grad_norm)
        optimiser.step()
        losses.append(float(value.detach()))
    return copy, losses


def test_trajectory_is_that_of_a_loop_written_by_hand(gpt2_model):
    model = in_double(gpt2_model)
    made = examples(model, 8)
    settings = TrainingSettings(steps=10, batch_size=8, learning_rate=1e-3, max_grad_norm=0.5)
    result = train(model, made, DPO(0.5), settings, key=KEY)
    expected, losses = _by_hand(model, made, DPO(0.5), settings)
    np.testing.assert_allclose(result.history, losses, rtol=1e-9)
    assert distance(result.model, expected) < 1e-8


def _unequal(model: Any, kind: str) -> Any:
    """Return 14 examples of unequal weight: the last batch of an epoch is not full."""
    if kind == "groups":
        made = examples(model, 7, k=3, target=(0.3, -1.0, 2.0))
        made += examples(model, 7, k=4, target=(0.3, -1.0, 2.0, 0.1), seed=1)
    else:
        made = examples(model, 14)
    made = [replace(e, weight=0.2 + (i % 5)) for i, e in enumerate(made)]
    return with_mismatched(model, made) if kind == "mismatched" else made


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("pairs", DPO(0.5)), ("groups", InfoNCA(0.5, 0.4)), ("mismatched", KTO(0.5))],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(gpt2_model, kind, loss):
    model = in_double(gpt2_model)
    made = _unequal(model, kind)
    whole = TrainingSettings(epochs=3.0, batch_size=16, learning_rate=1e-3)
    parts = replace(whole, batch_size=4, gradient_accumulation=4)
    one, other = (train(model, made, loss, s, key=KEY) for s in (whole, parts))
    assert one.n_steps == other.n_steps == 3
    np.testing.assert_allclose(one.history, other.history, rtol=1e-12)
    assert distance(one.model, other.model) < 1e-8


def test_accumulation_is_exact_in_single_precision_too(tiny_model):
    """Compared by gradients: Adam divides small ones by themselves, rounding included."""
    made = examples(tiny_model, 16)
    gradients = []
    for size in (16, 4):
        objective = Objective(DPO(0.5), made, tiny_model)
        module = tiny_model.clone().model
        for start in range(0, 16, size):
            value = objective(module, objective.collate(made[start : start + size]))
            (value / 16).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    whole, parts = gradients
    assert float((whole - parts).abs().max()) < 1e-5 * float(whole.abs().max())


def test_the_key_decides_and_nothing_else_is_touched(tiny_model):
    made = examples(tiny_model, 8)
    before = tiny_model.model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    one = train(tiny_model, made, DPO(0.5), QUICK, key=KEY)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    for name, value in tiny_model.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert tiny_model.model.config.use_cache == one.model.model.config.use_cache
    assert not one.model.model.training
    again = train(tiny_model, made, DPO(0.5), QUICK, key=KEY)
    other = train(tiny_model, made, DPO(0.5), QUICK, key=Key(1))
    assert distance(one.model, again.model) == 0.0
    assert distance(one.model, other.model) > 1e-6


def test_dropout_is_off(gpt2_model):
    """GPT-2 drops a tenth of everything unless told otherwise; the loss must be ln 2 exactly."""
    made = examples(gpt2_model, 6)
    assert gpt2_model.model.config.attn_pdrop > 0
    result = train(gpt2_model, made, DPO(2.0), TrainingSettings(steps=1, batch_size=6), key=KEY)
    assert result.history[0] == pytest.approx(math.log(2.0), abs=1e-5)


def test_batches_by_length_have_every_example_once_an_epoch(tiny_model, monkeypatch):
    made = examples(tiny_model, 13)
    seen: list[Any] = []
    collate = Objective.collate

    def spy(self: Any, batch: Any) -> Any:
        seen.append(list(batch))
        return collate(self, batch)

    settings = TrainingSettings(epochs=2.0, batch_size=4, group_by_length=True)
    monkeypatch.setattr(Objective, "collate", spy)
    train(tiny_model, made, DPO(0.5), settings, key=KEY)
    batches = seen[1:]  # the first is a trial of the loss
    assert [len(b) for b in batches] == [4, 4, 4, 1] * 2
    for epoch in (batches[:4], batches[4:]):
        assert sorted(e.prompt for b in epoch for e in b) == sorted(e.prompt for e in made)
    spread = [np.ptp([e.n_tokens for e in b]) for b in batches]
    assert np.mean(spread) <= 0.6 * np.ptp([e.n_tokens for e in made])


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ({"gradient_checkpointing": True}, 1e-6),
        ({"gradient_checkpointing": True, "lora": LoRA(rank=2)}, 1.0),
        ({"bf16": True}, 5e-2),
    ],
    ids=["checkpointing", "checkpointing of adapters", "bf16"],
)
def test_savings_of_memory_and_time_change_little(tiny_model, change, tolerance):
    made = examples(tiny_model, 8)
    plain, other = (
        train(tiny_model, made, DPO(0.5), s, key=KEY) for s in (QUICK, replace(QUICK, **change))
    )
    np.testing.assert_allclose(other.history, plain.history, atol=tolerance)
    # What training needed is gone from the result: it can be copied and trained again.
    assert other.model.dtype == torch.float32
    assert type(other.model.model) is type(tiny_model.model)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in other.model.model.modules())
    with torch.inference_mode():
        logits = other.model.clone().model(input_ids=torch.tensor([[5, 6]])).logits
    assert logits.dtype == torch.float32
    assert other.history[-1] < other.history[0] - 1e-3
    assert train(other.model, made, DPO(0.5), replace(QUICK, steps=1), key=KEY).n_steps == 1


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_and_schedule_are_obeyed(tiny_model, schedule):
    """With the rate at 0 in the first step nothing moves; afterwards it does."""
    made = examples(tiny_model, 4)
    settings = replace(QUICK, steps=4, schedule=schedule, warmup=0.5, weight_decay=0.1)
    history = train(tiny_model, made, DPO(0.5), settings, key=KEY).history
    assert history[1] == pytest.approx(history[0], abs=1e-6)
    assert history[3] < history[0] - 1e-3


# ---------------------------------------------------------------- adapters


def test_adapters_start_at_the_reference_and_are_merged(tiny_model):
    made = examples(tiny_model, 8)
    settings = replace(QUICK, lora=LoRA(rank=4, alpha=8.0), learning_rate=1e-2)
    result = train(tiny_model, made, DPO(0.5), settings, key=KEY)
    assert result.history[0] == pytest.approx(math.log(2.0), abs=1e-5)
    assert result.history[-1] < 0.6
    assert type(result.model.model) is type(tiny_model.model)
    # The embedding has no adapter; the layers have.
    moved = {
        name
        for name, value in result.model.model.state_dict().items()
        if not torch.equal(value, tiny_model.model.state_dict()[name])
    }
    assert "model.layers.0.self_attn.q_proj.weight" in moved
    assert "model.embed_tokens.weight" not in moved


def test_merged_adapters_give_the_same_log_probabilities(tiny_model):
    made = examples(tiny_model, 4)
    copy = tiny_model.clone()
    with torch.random.fork_rng(devices=[]):
        wrapped = with_adapters(copy.model, LoRA(targets=("q_proj", "down_proj")), KEY)
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
    given = pad_rows([e.prompt for e in made], [e.responses[0] for e in made], copy.pad_id)
    with torch.no_grad():
        before = response_log_probs(wrapped, *given)
        plain = response_log_probs(tiny_model.model, *given)
        after = response_log_probs(wrapped.merge_and_unload(), *given)
    assert float((before - plain).abs().max()) > 1e-3
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- what goes wrong


def test_weights_that_are_not_finite_are_no_result(tiny_model):
    settings = TrainingSettings(
        steps=1, batch_size=4, learning_rate=1e38, max_grad_norm=0.0, schedule="constant"
    )
    made = [replace(e, weight=1e-30 + i) for i, e in enumerate(examples(tiny_model, 4))]
    with pytest.raises(ConvergenceError, match="finite"):
        train(tiny_model, made, DPO(0.5), replace(settings, steps=2), key=KEY)


def test_too_little_memory_names_the_setting(tiny_model, monkeypatch):
    def full(*_: Any) -> None:
        message = "CUDA out of memory. Tried to allocate 20 GiB"
        raise RuntimeError(message)

    monkeypatch.setattr(Objective, "__call__", full)
    with pytest.raises(MemoryError, match="batch_size=4"):
        train(tiny_model, examples(tiny_model, 4), DPO(0.5), QUICK, key=KEY)


def test_no_examples_are_refused(tiny_model):
    with pytest.raises(ValueError, match="at least one example"):
        train(tiny_model, [], DPO(0.5), QUICK, key=KEY)
    with pytest.raises(ValueError, match="positive weight"):
        train(tiny_model, examples(tiny_model, 2, weight=0.0), DPO(0.5), QUICK, key=KEY)
    with pytest.raises(ValueError, match="one prompt"):
        sft(tiny_model, [(5,)], [(5,), (6,)], QUICK, key=KEY)
    same = [replace(e, prompt=(5, 6)) for e in examples(tiny_model, 3)]
    with pytest.raises(ValueError, match="same prompt"):
        with_mismatched(tiny_model, same)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0.0}, "epochs"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"gradient_accumulation": 1.5}, "gradient_accumulation"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"schedule": "cosin"}, "cosine"),
        ({"warmup": 2.5}, "warmup"),
        ({"save_total_limit": 0}, "save_total_limit"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        TrainingSettings(**change)
    with pytest.raises(ValueError, match="targets"):
        LoRA(targets="q_proj")  # type: ignore[arg-type]


def test_nothing_is_printed_where_there_is_no_terminal(tiny_model, capfd):
    train(tiny_model, examples(tiny_model, 4), DPO(0.5), QUICK, key=KEY)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
