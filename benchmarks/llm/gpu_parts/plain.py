"""A plain DPO loop, written out: the other side of the comparison, and in float32 the reference.

As most scripts do it: the reference model runs beside the policy in every step, chosen and rejected
responses are two forward passes, and logits are computed at every token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpu_parts.measuring import mark
from llm_bridge.training.examples import Example

LogProbs = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class PlainRun:
    """What a plain run gives: losses before each step, the rate that it took, marks of time."""

    losses: list[float]
    rate: float
    marks: list[Any]


def sides_of(
    examples: Sequence[Example], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return chosen and rejected texts of equal length, and the length of the prompts."""
    chosen, rejected = (
        torch.tensor([e.prompt + e.responses[side] for e in examples], device=device)
        for side in (0, 1)
    )
    return chosen, rejected, len(examples[0].prompt)


def plain_log_probs(module: Any, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """Return the log-probability of what follows the prompt, shape ``(n,)``."""
    out = module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    log_p = torch.log_softmax(out.logits[:, :-1].float(), dim=-1)
    values = torch.gather(log_p, 2, ids[:, 1:, None])[:, :, 0]
    return values[:, prompt - 1 :].sum(dim=1)


def plain_dpo(
    policy: Any,
    reference: LogProbs,
    batches: Sequence[Sequence[Example]],
    *,
    beta: float,
    rate: float | None,
    parts: int = 1,
    half: bool = False,
    drop: float = 0.2,
) -> PlainRun:
    """Take one AdamW step per batch; the policy is changed in place.

    Parameters
    ----------
    policy
        A causal model; only what requires gradients is trained.
    reference
        From texts and the length of their prompts to log-probabilities.
    batches
        Comparisons of equal lengths; the first response won.
    beta
        Of DPO.
    rate
        Learning rate, constant. None: the one at which the first step, which moves every weight by
        about ``rate`` against its gradient, lowers the loss by ``drop``.
    parts
        Forward and backward passes per step.
    half
        Matrix products in bf16.
    """
    device = next(policy.parameters()).device
    weights = [w for w in policy.parameters() if w.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate or 0.0, weight_decay=0.0)
    losses, marks = [], []
    for batch in batches:
        total = torch.zeros((), device=device)
        size = len(batch) // parts
        for k in range(parts):
            chosen, rejected, prompt = sides_of(batch[k * size : (k + 1) * size], device)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                won = plain_log_probs(policy, chosen, prompt)
                lost = plain_log_probs(policy, rejected, prompt)
                with torch.no_grad():
                    ref_won, ref_lost = reference(chosen, prompt), reference(rejected, prompt)
            if k == 0:
                marks.append(mark(device))
            margin = beta * ((won - ref_won) - (lost - ref_lost))
            loss = -torch.nn.functional.logsigmoid(margin).mean() / parts
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if rate is None:  # before gradients are shortened, which AdamW does not feel
            slope = sum(float(w.grad.abs().sum()) for w in weights if w.grad is not None)
            rate = drop / slope
            optimiser.param_groups[0]["lr"] = rate
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(total)
    return PlainRun([float(x) for x in losses], float(rate or 0.0), marks)
