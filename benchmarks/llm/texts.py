"""Texts of mixed length, and the usual loops over them, which ours are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.language.models import LanguageModel
from rlhf_theory.randomness import Key


@dataclass(frozen=True)
class Texts:
    """Prompts and responses, as their model reads them."""

    prompts: Sequence[Any]
    responses: Sequence[Any]

    def some(self, n: int) -> Texts:
        """Return the first few."""
        return Texts(self.prompts[:n], self.responses[:n])


def random_lengths(key: Key, n: int, shortest: int, longest: int) -> np.ndarray:
    """Draw log-uniform lengths."""
    u = key.child("lengths").uniform_numpy(1, n)[0]
    lengths = np.exp(np.log(shortest) + np.log(longest / shortest) * u).round()
    return np.asarray(lengths, dtype=np.int64)


def plain_encoder(model: EncoderModel, texts: Texts, batch: int) -> np.ndarray:
    """Return means over all tokens: texts as they come, each batch padded to its longest."""
    parts = []
    for start in range(0, len(texts.responses), batch):
        read = model.tokenizer(
            list(texts.responses[start : start + batch]), padding=True, return_tensors="pt"
        ).to(model.device)
        with torch.no_grad():
            out = model.model(input_ids=read["input_ids"], attention_mask=read["attention_mask"])
        hidden, mask = out.last_hidden_state.float(), read["attention_mask"][:, :, None].float()
        parts.append(((hidden * mask).sum(dim=1) / mask.sum(dim=1)).cpu())
    return torch.cat(parts).numpy()


def plain_causal(
    model: LanguageModel, texts: Texts, batch: int, *, every: bool = False
) -> np.ndarray:
    """Return rows by the usual loop, the log-probability last.

    The mean over the response of the last layer; with ``every`` the last token, the mean and the
    sum, layer by layer.
    """
    parts, device = [], model.device
    for start in range(0, len(texts.responses), batch):
        prompts = texts.prompts[start : start + batch]
        rows = [p + r for p, r in zip(prompts, texts.responses[start : start + batch], strict=True)]
        longest = max(map(len, rows))
        padded = [row + (model.pad_id,) * (longest - len(row)) for row in rows]
        ids = torch.tensor(padded, device=device)
        first = torch.tensor([[len(p)] for p in prompts], device=device)
        length = torch.tensor([[len(row)] for row in rows], device=device)
        place = torch.arange(longest, device=device)
        answer = ((place >= first) & (place < length)).float()
        with torch.no_grad():
            out = model.model(
                input_ids=ids,
                attention_mask=(place < length).long(),
                output_hidden_states=True,
                use_cache=False,
            )
            columns = []
            for layer in out.hidden_states if every else out.hidden_states[-1:]:
                hidden = layer.float()
                total = (hidden * answer[:, :, None]).sum(dim=1)
                mean = total / answer.sum(dim=1, keepdim=True)
                last = hidden[torch.arange(len(rows), device=device), length[:, 0] - 1]
                columns += [last, mean, total] if every else [mean]
            log_p = torch.log_softmax(out.logits[:, :-1].float(), dim=-1)
            chosen = torch.gather(log_p, 2, ids[:, 1:, None])[:, :, 0]
            columns.append((chosen * answer[:, 1:]).sum(dim=1, keepdim=True))
        parts.append(torch.cat(columns, dim=1).cpu())
    return torch.cat(parts).numpy()
