"""Log-probabilities of responses under a causal model."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from llm_bridge.errors import ModelError
from llm_bridge.language.log_probs import (
    check_lengths,
    forward_accepts,
    pad_rows,
    positions,
    response_log_probs,
    sequence_log_probs,
    token_log_probs,
)
from llm_bridge.language.models import LanguageModel
from rlhf_theory.randomness import Key
from tests.helpers.language import gpt2, llama, word_tokenizer
from tests.helpers.strings import all_responses, token_loop

WORDS = [f"w{i}" for i in range(12)]


def rows(model: LanguageModel, n: int = 13, longest: int = 9, lowest: int = 0):
    """Prompts and responses of all lengths; any token may occur, padding and end included."""
    u = Key(1).uniform_numpy(n, 2, longest + 1)
    lengths = 1 + (u[:, :, 0] * longest).astype(int)
    ids = lowest + (u[:, :, 1:] * (model.n_tokens - lowest)).astype(int)
    texts = [[tuple(ids[i, k, : lengths[i, k]].tolist()) for i in range(n)] for k in (0, 1)]
    return texts[0], texts[1]


def in_double(model: LanguageModel) -> LanguageModel:
    return LanguageModel(model.clone().model.double(), model.tokenizer, model.name)


@pytest.fixture(params=["llama", "gpt2"])
def model(request, chat_model, gpt2_model) -> LanguageModel:
    return {"llama": chat_model, "gpt2": gpt2_model}[request.param]


def test_the_sum_is_that_of_the_obvious_loop(model):
    prompts, responses = rows(model)
    got = sequence_log_probs(model, prompts, responses)
    want = [sum(token_loop(model, p, r)) for p, r in zip(prompts, responses, strict=True)]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_mean_is_per_token(model):
    prompts, responses = rows(model)
    got = sequence_log_probs(model, prompts, responses, reduction="mean")
    want = [np.mean(token_loop(model, p, r)) for p, r in zip(prompts, responses, strict=True)]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_double_precision_is_kept(gpt2_model):
    # (Llama's norms compute in single precision whatever the dtype.)
    wide = in_double(gpt2_model)
    prompts, responses = rows(wide)
    want = [sum(token_loop(wide, p, r)) for p, r in zip(prompts, responses, strict=True)]
    np.testing.assert_allclose(sequence_log_probs(wide, prompts, responses), want, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batches_do_not_matter(model, batch_size):
    prompts, responses = rows(model)
    want = sequence_log_probs(model, prompts, responses)
    got = sequence_log_probs(model, prompts, responses, batch_size=batch_size)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_order_does_not_matter(model):
    prompts, responses = rows(model)
    want = sequence_log_probs(model, prompts, responses, batch_size=4)
    got = sequence_log_probs(model, prompts[::-1], responses[::-1], batch_size=4)
    np.testing.assert_allclose(got[::-1], want, atol=1e-5)


def left_padded(model, prompts, responses):
    """The same rows with the padding in front."""
    right = pad_rows(prompts, responses, model.pad_id)
    shifts = (right[0].shape[1] - right[1].sum(dim=1)).tolist()
    return tuple(
        torch.stack([row.roll(s) for row, s in zip(part, shifts, strict=True)]) for part in right
    )


def test_the_padding_side_does_not_matter(model):
    prompts, responses = rows(model)
    left = left_padded(model, prompts, responses)
    assert (left[1][:, -1] == 1).all()
    want = sequence_log_probs(model, prompts, responses)
    with torch.no_grad():
        got = response_log_probs(model.model, *left)
        # By hand: positions counted from the first token of each text.
        place = (left[1].cumsum(dim=1) - 1).clamp(min=0)
        logits = model.model(input_ids=left[0], attention_mask=left[1], position_ids=place).logits
    each = torch.log_softmax(logits[:, :-1].double(), dim=-1)
    each = each.gather(2, left[0][:, 1:, None])[:, :, 0] * left[2][:, 1:]
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
    np.testing.assert_allclose(each.sum(dim=1).numpy(), want, atol=1e-5)


def test_positions_are_counted_from_the_first_token():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("longest", [1, 4])
def test_probabilities_of_all_short_strings_add_to_one(build, longest):
    # Finished ones, and those of full length that were cut. Catches a missing shift, an average in
    # place of the sum, and padding that leaks.
    model = in_double(build(word_tokenizer(["a"])))
    responses = all_responses(model, longest)
    assert len(responses) == sum(3**m for m in range(longest)) + 3**longest
    prompts = [(3, 2)] * len(responses)
    log_p = sequence_log_probs(model, prompts, responses, batch_size=50)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-12)
    assert np.exp(log_p).max() < 0.99  # not all on one string


def test_tokens_come_with_their_mask(model):
    prompts, responses = rows(model, n=4)
    batch = pad_rows(prompts, responses, model.pad_id)
    with torch.no_grad():
        values, mask = token_log_probs(model.model, *batch)
    assert values.shape == mask.shape
    assert mask.sum(dim=1).tolist() == [len(r) for r in responses]
    assert not values[mask == 0].any()
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        got = values[i][mask[i] > 0].numpy()
        np.testing.assert_allclose(got, token_loop(model, prompt, response), atol=1e-5)


def test_half_precision_weights_keep_a_single_precision_softmax(model):
    prompts, responses = rows(model, n=20, longest=20)
    half = LanguageModel(model.clone().model.to(torch.bfloat16), model.tokenizer)
    exact = sequence_log_probs(model, prompts, responses)
    got = sequence_log_probs(half, prompts, responses)
    assert np.abs(got - exact).mean() < 0.15
    # Against the softmax of the very same logits in double and in half precision.
    ids, mask, answer = pad_rows(prompts, responses, model.pad_id)
    with torch.no_grad():
        logits = half.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    sums = []
    for dtype in (torch.float64, torch.bfloat16):
        each = torch.log_softmax(logits.to(dtype), dim=-1).gather(2, ids[:, 1:, None])[:, :, 0]
        sums.append((each * answer[:, 1:]).sum(dim=1).double().numpy())
    assert np.abs(got - sums[0]).max() < 1e-4
    assert np.abs(sums[1] - sums[0]).mean() > 0.01


def test_padding_adds_nothing_to_gradients(model):
    module = in_double(model).model
    # Without the pad token in texts: an embedding takes no gradient at its padding index.
    prompts, responses = rows(model, n=5, lowest=1)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.5], dtype=torch.float64)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def gradients(prompts, responses, weights):
        batch = pad_rows(prompts, responses, model.pad_id)
        return torch.autograd.grad((weights * response_log_probs(module, *batch)).sum(), parameters)

    got = gradients(prompts, responses, weights)
    assert all(torch.isfinite(g).all() for g in got)
    # Row by row nothing is padded.
    alone = [gradients([p], [r], w) for p, r, w in zip(prompts, responses, weights, strict=True)]
    for name, g, *parts in zip(names, got, *alone, strict=True):
        # Llama's norms compute in single precision whatever the dtype.
        torch.testing.assert_close(g, sum(parts), rtol=1e-5, atol=1e-6, msg=name)


def test_gradients_are_those_of_central_differences(model):
    module = in_double(model).model
    prompts, responses = rows(model, n=5, lowest=1)
    batch = pad_rows(prompts, responses, model.pad_id)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.5], dtype=torch.float64)

    def value():
        return (weights * response_log_probs(module, *batch)).sum()

    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(value(), parameters)
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        # Along the steepest direction of each array, which has slope |gradient|. The step is large
        # because Llama's norms round to single precision.
        size = float(gradient.norm())
        for step in (1e-3, 3e-4):
            move = step * gradient / size
            with torch.no_grad():
                parameter.add_(move)
                ahead = float(value())
                parameter.sub_(2 * move)
                behind = float(value())
                parameter.add_(move)
            slope = (ahead - behind) / (2 * step)
            assert slope == pytest.approx(size, rel=2e-3), name


class Plain(nn.Module):
    """A model that knows neither positions nor how to leave logits out."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask, use_cache):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)


class Wrapped(nn.Module):
    """As data-parallel wrappers are."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("wrapper", [Plain, Wrapped])
def test_models_of_other_forms(model, wrapper):
    prompts, responses = rows(model)
    batch = pad_rows(prompts, responses, model.pad_id)
    other = wrapper(model.model)
    asked = ("logits_to_keep", "position_ids")
    assert forward_accepts(other, *asked) == (frozenset(asked) if wrapper is Wrapped else set())
    with torch.no_grad():
        got = response_log_probs(other, *batch)
    want = sequence_log_probs(model, prompts, responses)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


def test_dropout_is_off_and_the_mode_is_kept(gpt2_model):
    prompts, responses = rows(gpt2_model)
    want = sequence_log_probs(gpt2_model, prompts, responses)
    training = gpt2_model.clone()
    training.model.train()
    np.testing.assert_array_equal(sequence_log_probs(training, prompts, responses), want)
    assert training.model.training


def test_nothing_to_score(model):
    assert sequence_log_probs(model, [], []).shape == (0,)


def test_a_response_without_tokens_has_no_gradient_and_no_nan(model):
    ids, mask, answer = pad_rows([(3,), (3,)], [(4, 5), (4, 5)], model.pad_id)
    answer[1] = 0.0
    for reduction in ("sum", "mean"):
        values = response_log_probs(model.model, ids, mask, answer, reduction).detach()
        assert float(values[0]) < 0.0
        assert float(values[1]) == 0.0


@pytest.mark.parametrize(
    ("prompts", "responses", "said"),
    [
        ([(3,)], [], "one prompt per response; got 1 and 0"),
        ([(3,), ()], [(3,), (3,)], r"Prompts must have at least one token; row 1 is empty"),
        ([(3,), (3,)], [(3,), ()], r"Responses must have at least one token; row 1 is empty"),
        ([(3,)], [(99,)], r"Responses must have ids from 0 to 14; row 0 has 99 to 99"),
        ([(-1, 3)], [(3,)], r"Prompts must have ids from 0 to 14; row 0 has -1 to 3"),
        ([(3,) * 60], [(3,) * 5], r"context of 64 tokens; row 0 has 60 \+ 5\. Shorten"),
    ],
)
def test_bad_rows_are_named(gpt2_model, prompts, responses, said):
    with pytest.raises(ValueError, match=said):
        sequence_log_probs(gpt2_model, prompts, responses)


def test_the_context_can_be_filled(gpt2_model):
    assert np.isfinite(sequence_log_probs(gpt2_model, [(3,) * 60], [(3,) * 4])).all()


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"reduction": "median"}])
def test_bad_settings_are_named(gpt2_model, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        sequence_log_probs(gpt2_model, [(3,)], [(3,)], **settings)


def test_broken_weights_are_named():
    model = llama(word_tokenizer(WORDS))
    with torch.no_grad():
        model.model.lm_head.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"2 of 2 are not a number.*lower the learning rate"):
        sequence_log_probs(model, [(3,), (4,)], [(3,), (4,)])


def test_too_large_a_batch_names_the_knob(monkeypatch):
    model = llama(word_tokenizer(WORDS))

    def fails(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(type(model.model), "forward", fails)
    with pytest.raises(MemoryError, match="Make batch_size=7 smaller"):
        sequence_log_probs(model, [(3,)], [(3,)], batch_size=7)


def test_checking_long_lists_costs_little(tiny_model):
    prompts, responses = [(1,) * 12] * 50_000, [tuple(range(20))] * 50_000
    start = time.perf_counter()
    check_lengths(tiny_model, prompts, responses)
    # About 0.1 s; scoring as many rows takes a minute or more.
    assert time.perf_counter() - start < 2.0
