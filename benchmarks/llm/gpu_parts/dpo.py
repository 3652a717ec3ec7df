"""DPO tokens per second and share of the device's peak: all weights, or adapters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any, ClassVar

import numpy as np
import torch

from gpu_parts.embedding import log_prob_tolerance, random_ids
from gpu_parts.measuring import Checks, free_memory, intervals, mark, told
from gpu_parts.peaks import peaks, shares
from gpu_parts.plain import LogProbs, PlainRun, plain_dpo, plain_log_probs, sides_of
from gpu_parts.shapes import SHAPES, Shape, Work, build, upcast
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel
from llm_bridge.training.adapters import with_adapters
from llm_bridge.training.arguments import generators_kept
from llm_bridge.training.examples import Example
from llm_bridge.training.train import LoRA, TrainingSettings, train
from rlhf_theory.losses import DPO
from rlhf_theory.randomness import Key

BETA = 0.1

# In steps of training: the first two are slower.
WARM = 2

# Of losses that fall by some 0.2 in every step: rounding in bf16 changes a log-probability by a
# tenth of a nat, so a margin by a hundredth, and turns a few of the gradient's signs. With the real
# shape of 0.5 billion weights the losses of three steps were off by 0.0006.
LOSS_ERROR = 0.01


@dataclass(frozen=True, eq=False)
class Timed:
    """DPO that notes when it is asked: between two steps lies one whole step of training."""

    loss: DPO
    device: torch.device
    marks: list[Any] = field(default_factory=list, repr=False)

    name: ClassVar[str] = DPO.name
    takes: ClassVar[str] = DPO.takes
    needs: ClassVar[frozenset[str]] = DPO.needs
    accepts: ClassVar[frozenset[str]] = DPO.accepts

    def __call__(self, c: Any) -> Any:
        """Return the loss of each comparison."""
        if c.log_pi_w.requires_grad:  # not when the examples are checked
            self.marks.append(mark(self.device))
        return self.loss(c)


def dpo(sizes: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Train on random comparisons of fixed lengths.

    Activations are kept unless that does not fit; then they are recomputed.
    """
    try:
        return _dpo(sizes, device, checkpointing=False)
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = told(error)
    # Here the error is gone, and with it the tensors that its frames held.
    free_memory(device)
    return _dpo(sizes, device, checkpointing=True) | {"without_checkpointing": reason}


def _dpo(sizes: Mapping[str, Any], device: torch.device, *, checkpointing: bool) -> dict[str, Any]:
    shape: Shape = SHAPES[sizes["shape"]]
    shape = shape.toy() if sizes["toy"] else shape
    lora = LoRA(rank=sizes["rank"]) if sizes["rank"] else None
    # All weights are kept in float32 and multiplied in bf16; frozen ones are kept in bf16.
    base = build(shape, device, torch.float32 if lora is None else torch.bfloat16)
    settings = TrainingSettings(
        steps=WARM + sizes["steps"],
        batch_size=sizes["pairs"] // sizes["parts"],
        gradient_accumulation=sizes["parts"],
        learning_rate=1e-7,
        schedule="constant",
        lora=lora,
        bf16=True,
        gradient_checkpointing=checkpointing,
        progress=False,
    )
    key, checks = Key(0).child("dpo"), Checks()
    losses = _verify(checks, base, settings, sizes, key.child("check"))
    free_memory(device)

    work = Work(shape, 2 * sizes["pairs"], sizes["prompt"], sizes["response"])
    flops = work.flops(frozen=lora is not None)
    n = sizes["pairs"] * (WARM + sizes["steps"])
    examples = comparisons(base, n, sizes["prompt"], sizes["response"], key)
    seconds = {"ours": _our_steps(base, examples, settings, sizes, key)}
    memory = {"ours": _memory(device)}
    free_memory(device)
    plain = examples[: sizes["pairs"] * (WARM + sizes["plain_steps"])]
    try:
        seconds["plain"] = _plain_steps(base, plain, settings, sizes, key)
        memory["plain"] = _memory(device)
        failed = None
    except (MemoryError, torch.OutOfMemoryError) as error:
        failed = told(error)
    step = {side: median(times) for side, times in seconds.items()}
    return {
        "verified": checks.made,
        "reference_losses": losses,
        "weights": shape.n_body + shape.n_head * (1 if shape.tied else 2),
        "tokens_per_step": work.tokens,
        "tokens_per_second": {side: work.tokens / s for side, s in step.items()},
        "ratio_to_plain": step["plain"] / step["ours"] if "plain" in step else None,
        "plain_failed": failed,
        "flops_per_step": flops,
        "flops_formula": Work.FORMULA,
        "peak": peaks(device),
        "utilisation": {side: shares(flops / s, device) for side, s in step.items()},
        "seconds_per_step": seconds,
        "memory_gib": memory,
        "gradient_checkpointing": checkpointing,
        "precision": "float32 weights, bf16 products" if lora is None else "bf16 frozen weights",
    }


def comparisons(
    model: LanguageModel, n: int, prompt: int, response: int, key: Key
) -> list[Example]:
    """Return random comparisons that the first response won, with reference log-probabilities.

    They are scored in the precision in which the policy is trained: rounding that both have in
    common cancels.
    """
    size = model.n_tokens
    prompts = random_ids(key.child("prompts"), n, prompt, size)
    sides = [random_ids(key.child("responses", k), n, response, size) for k in range(2)]
    log_ref = [sequence_log_probs(model, prompts, side, batch_size=16, bf16=True) for side in sides]
    return [
        Example(
            prompt=prompts[i],
            responses=(sides[0][i], sides[1][i]),
            log_ref=(float(log_ref[0][i]), float(log_ref[1][i])),
            target=(1.0,),
        )
        for i in range(n)
    ]


def _verify(
    checks: Checks,
    base: LanguageModel,
    settings: TrainingSettings,
    sizes: Mapping[str, Any],
    key: Key,
) -> list[float]:
    """Compare log-probabilities and three losses of a training with the plain loop in float32.

    Returns the losses of the plain loop.
    """
    n, length, kind = sizes["checked"], sizes["checked_response"], "the plain loop in float32"
    examples = comparisons(base, n, sizes["prompt"], length, key)
    # Of weights that are in float32 already, the reference is the model itself.
    precise = base if base.dtype == torch.float32 else upcast(base, base.device)
    chosen, rejected, prompt = sides_of(examples, base.device)
    with torch.no_grad():
        scores = [
            plain_log_probs(precise.model, ids, prompt).double().cpu().numpy()
            for ids in (chosen, rejected)
        ]
    error = np.abs(np.array([e.log_ref for e in examples]) - np.stack(scores, axis=1)).mean()
    checks.at_most("log-probabilities in bf16", error, log_prob_tolerance(length), kind)

    with _plain_model(precise, settings, key, own=True) as (policy, reference):
        truth = plain_dpo(policy, reference, [examples] * 3, beta=BETA, rate=None)
        del policy, reference
    del precise
    free_memory(base.device)
    small = replace(
        settings,
        steps=3,
        batch_size=n // settings.gradient_accumulation,
        learning_rate=truth.rate,
    )
    history = train(base, examples, DPO(beta=BETA), small, key=key).history
    for k, (loss, expected) in enumerate(zip(history, truth.losses, strict=True)):
        checks.at_most(f"the loss before step {k}", abs(loss - expected), LOSS_ERROR, kind)
    return truth.losses


def _our_steps(
    base: LanguageModel,
    examples: Sequence[Example],
    settings: TrainingSettings,
    sizes: Mapping[str, Any],
    key: Key,
) -> list[float]:
    """Return the seconds of the steps of a training by the toolkit."""
    timed = Timed(DPO(beta=BETA), base.device)
    train(base, examples, timed, settings, key=key)
    # One mark per forward pass: those of a step's first pass are a whole step apart.
    return intervals(timed.marks[:: sizes["parts"]][WARM:], base.device)


def _plain_steps(
    base: LanguageModel,
    examples: Sequence[Example],
    settings: TrainingSettings,
    sizes: Mapping[str, Any],
    key: Key,
) -> list[float]:
    """Return the seconds of the steps of the plain loop."""
    size = sizes["pairs"]
    batches = [examples[start : start + size] for start in range(0, len(examples), size)]
    with _plain_model(base, settings, key, own=False) as (policy, reference):
        run: PlainRun = plain_dpo(
            policy,
            reference,
            batches,
            beta=BETA,
            rate=settings.learning_rate,
            parts=sizes["parts"],
            half=True,
        )
    return intervals(run.marks[WARM:], base.device)


@contextmanager
def _plain_model(
    base: LanguageModel, settings: TrainingSettings, key: Key, *, own: bool
) -> Iterator[tuple[Any, LogProbs]]:
    """Yield what the plain loop trains, and its reference, which is computed whenever asked.

    ``own`` says that the model is nobody else's, so that adapters may be put into it. They start as
    those of a training with the same key do.
    """
    if settings.lora is None:
        policy = copy.deepcopy(base.model).requires_grad_(True)
        reference: LogProbs = partial(plain_log_probs, base.model)
    else:
        with generators_kept(base.device):
            module = base.model if own else copy.deepcopy(base.model)
            policy = with_adapters(module, settings.lora, key.child("adapters"))

        def reference(ids: torch.Tensor, prompt: int) -> torch.Tensor:
            with policy.disable_adapter():
                return plain_log_probs(policy, ids, prompt)

    if settings.gradient_checkpointing and not own:
        policy.enable_input_require_grads()
        # The name from transformers 5.23 on, or the one before it.
        new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
        getattr(policy, new if hasattr(policy, new) else old)({"use_reentrant": False})
    policy.train()
    yield policy, reference


def _memory(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**30
