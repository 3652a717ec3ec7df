"""Supervised training of the tiny model on answers of the grammar: next words, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from llm_bridge.language.log_probs import pad_rows
from llm_bridge.language.models import Ids, LanguageModel
from rlhf_theory.errors import check_positive
from rlhf_theory.randomness import Key

Pair = tuple[Ids, Ids]
"""The tokens of a prompt and of an answer with its end."""

_WINDOW = 16
"""Batches' worth of sequences that are sorted by length together."""


def length_batches(lengths: Sequence[int], batch_size: int, key: Key) -> Iterator[list[int]]:
    """Yield batches of numbers of sequences, without end: nearly equal lengths go together.

    Every epoch is shuffled, cut into windows of 16 batches, each sorted by length, and the batches
    are shuffled again. A rest smaller than a batch is left out of its epoch.

    Parameters
    ----------
    lengths
        Length of each sequence; at least a batch of them.
    batch_size
        Sequences per batch.
    key
        Of the order.
    """
    if len(lengths) < batch_size:
        message = (
            f"sequences must fill a batch of {batch_size}; got {len(lengths)}. Take more sequences "
            "or a smaller batch_size."
        )
        raise ValueError(message)
    generator = torch.Generator().manual_seed(key.seed_int())
    while True:
        order = torch.randperm(len(lengths), generator=generator).tolist()
        batches = []
        for start in range(0, len(order), _WINDOW * batch_size):
            window = sorted(order[start : start + _WINDOW * batch_size], key=lengths.__getitem__)
            full = len(window) - len(window) % batch_size
            batches += [window[k : k + batch_size] for k in range(0, full, batch_size)]
        for k in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[k]


def pretrain(
    model: LanguageModel,
    pairs: Sequence[Pair],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    key: Key,
    progress: bool = False,
) -> list[float]:
    """Train the model in place on the answers, given their prompts.

    Adam, clipped gradients, a learning rate that rises over the first twentieth of the steps and
    then falls to 0 along a cosine. The number of steps is fixed, so that a slow machine gets the
    same weights.

    Parameters
    ----------
    model
        Model with its tokenizer; its weights change.
    pairs
        Prompts and answers.
    steps, batch_size, learning_rate
        Of the optimiser; the rate is the largest one.
    key
        Of the order of the pairs.
    progress
        Whether to show a bar.

    Returns
    -------
    The loss of each step: nats per token of the answers.
    """
    check_positive("steps", steps)
    check_positive("batch_size", batch_size)
    check_positive("learning_rate", learning_rate)
    batches = length_batches([len(p) + len(a) for p, a in pairs], batch_size, key)
    net = model.model.train()
    optimiser = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    losses: list[float] = []
    bar = tqdm(total=steps, desc="tiny model", unit="step", disable=None if progress else True)
    with bar:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * _schedule(step, steps)
            loss = _loss(net, [pairs[i] for i in next(batches)], model.pad_id)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
            bar.update()
            if step % 50 == 0:
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
    net.eval()
    if not math.isfinite(losses[-1]):
        message = f"The training diverged (loss {losses[-1]}); take a smaller learning_rate."
        raise ValueError(message)
    return losses


def _schedule(step: int, steps: int) -> float:
    rise = min(1.0, (step + 1) / (0.05 * steps))
    return rise * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _loss(net: Any, batch: Sequence[Pair], pad_id: int) -> torch.Tensor:
    prompts, answers = zip(*batch, strict=True)
    ids, _, answer = pad_rows(prompts, answers, pad_id)
    # Position t predicts token t + 1: the answer's first token is read off the prompt's last.
    on = answer[:, 1:] > 0
    # Padding is on the right, where causal attention never looks; no mask is needed.
    hidden = net.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    return torch.nn.functional.cross_entropy(net.lm_head(hidden[on]), ids[:, 1:][on])
