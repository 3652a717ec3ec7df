"""One pass over a batch of texts: which numbers of it are features, and how they are had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.readings import Reading
from llm_bridge.language.log_probs import forward_accepts, pad_rows, token_log_probs
from llm_bridge.language.models import LanguageModel, evaluating
from rlhf_theory.errors import check_choice

POOLINGS = ("last", "mean", "sum", "first")


@dataclass(frozen=True)
class FeatureSpec:
    """Which numbers of a model's pass are features, with all defaults resolved.

    Attributes
    ----------
    pooling
        Names of poolings.
    layers
        Numbers of hidden states, from 0, the embedding.
    over
        ``"response"`` or ``"text"``.
    log_prob
        Whether the log-probability of the response comes last.
    hidden
        Width of a layer.
    """

    pooling: tuple[str, ...]
    layers: tuple[int, ...]
    over: str
    log_prob: bool
    hidden: int

    @classmethod
    def resolve(
        cls,
        model: LanguageModel | EncoderModel,
        pooling: str | Sequence[str] | None,
        layers: str | int | Sequence[int] | None,
        over: str | None,
        log_prob: bool | None,
    ) -> FeatureSpec:
        """Return what is meant for a model; ``ValueError`` for what it cannot give."""
        causal = isinstance(model, LanguageModel)
        if pooling is None:
            pooling = ("last", "mean", "sum") if causal else ("mean",)
        pooling = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        for name in pooling:
            check_choice("pooling", name, POOLINGS)
        over = over or ("response" if causal else "text")
        check_choice("over", over, ("response", "text"))
        if log_prob and not causal:
            message = "log_prob needs a language model; an encoder has no probabilities."
            raise ValueError(message)
        config = model.model.config.get_text_config()
        if layers is None:
            layers = "all" if causal else -1
        numbers = _layer_numbers(layers, int(config.num_hidden_layers) + 1)
        spec = cls(
            pooling,
            numbers,
            over,
            causal if log_prob is None else log_prob,
            int(config.hidden_size),
        )
        if spec.width == 0:
            message = "Features need a pooling of a layer, or log_prob=True; got neither."
            raise ValueError(message)
        return spec

    def about(self, model: LanguageModel | EncoderModel) -> dict[str, object]:
        """Return what features depend on besides the texts; plain data."""
        return {
            "model": model.fingerprint,
            "weights": str(model.dtype).removeprefix("torch."),
            "pooling": list(self.pooling),
            "layers": list(self.layers),
            "over": self.over,
            "log_prob": self.log_prob,
        }

    @property
    def pooled(self) -> int:
        """Number of pooled features."""
        return self.hidden * len(self.layers) * len(self.pooling)

    @property
    def width(self) -> int:
        """Number of features ``D``."""
        return self.pooled + self.log_prob


def _layer_numbers(layers: str | int | Sequence[int], n: int) -> tuple[int, ...]:
    if isinstance(layers, str):
        check_choice("layers", layers, ("all",))
        return tuple(range(n))
    numbers = (layers,) if isinstance(layers, int) else tuple(layers)
    if any(not -n <= layer < n for layer in numbers):
        message = f"layers must lie between {-n} and {n - 1} (0 is the embedding); got {layers}."
        raise ValueError(message)
    return tuple(layer % n for layer in numbers)


def spans(readings: Sequence[Reading], ids: torch.Tensor) -> torch.Tensor:
    """Return which tokens of padded rows are pooled, bool of the shape ``(n, L)`` of ``ids``."""
    place = torch.arange(ids.shape[1], device=ids.device)
    bounds = torch.tensor([(r.start, r.stop) for r in readings], device=ids.device)
    return (place >= bounds[:, :1]) & (place < bounds[:, 1:])


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Reduce hidden states to one vector per text.

    Parameters
    ----------
    hidden
        Shape ``(n, L, H)``; what lies outside the mask may be anything finite.
    mask
        The tokens to pool, bool ``(n, L)``: an unbroken run of at least one per text, wherever the
        padding is.
    pooling
        ``"last"`` or ``"first"`` token, ``"mean"`` or ``"sum"``.

    Returns
    -------
    Array of shape ``(n, H)``.
    """
    if pooling in ("last", "first"):
        positions = torch.arange(mask.shape[1], device=mask.device)
        outside = -1 if pooling == "last" else mask.shape[1]
        positions = torch.where(mask, positions, outside)
        index = positions.amax(dim=1) if pooling == "last" else positions.amin(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), index]
    total = torch.matmul(mask.to(hidden.dtype)[:, None, :], hidden)[:, 0, :]
    return total if pooling == "sum" else total / mask.sum(dim=1, keepdim=True)


def forward(
    module: Any,
    readings: Sequence[Reading],
    *,
    pad_id: int,
    poolings: Sequence[str],
    layers: Sequence[int],
    log_probs: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read a batch of texts once.

    Parameters
    ----------
    module
        A causal model where ``log_probs`` are wanted, else any model with hidden states. It is read
        without dropout, and without gradients.
    readings
        ``n`` texts; padded on the right to the longest.
    pad_id
        Token to pad with.
    poolings, layers
        What to concatenate: for each layer (0 is the embedding, 1 the first block) each pooling.
    log_probs
        Whether to return the log-probability of every response, summed over its tokens.

    Returns
    -------
    phi : (n, len(layers) * len(poolings) * H), in single precision, or double if the weights are
    log_probs : (n,), or None
    """
    device = next(module.parameters()).device
    prompts = [r.ids[: r.answer] for r in readings]
    responses = [r.ids[r.answer :] for r in readings]
    ids, attention, answer = pad_rows(prompts, responses, pad_id, device)
    span = spans(readings, ids)
    recorder, total = _Recorder(module), None
    with evaluating(module), torch.no_grad():
        if log_probs:
            total = token_log_probs(recorder, ids, attention, answer)[0].sum(dim=1)
        else:
            options = dict.fromkeys(forward_accepts(module, "use_cache"), False)
            recorder(input_ids=ids, attention_mask=attention, **options)
        wide = [_wide(recorder.hidden[layer]) for layer in layers]
        phi = [pool(hidden, span, pooling) for hidden in wide for pooling in poolings]
    # Log-probabilities may be the only feature.
    return torch.cat(phi, dim=1) if phi else ids.new_zeros((len(ids), 0)).float(), total


class _Recorder:
    """Calls a model and remembers the hidden states."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.hidden: tuple[torch.Tensor, ...] = ()

    def __call__(self, **arguments: Any) -> Any:
        out = self.module(output_hidden_states=True, **arguments)
        self.hidden = out.hidden_states
        return out


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
