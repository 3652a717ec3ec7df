"""Rewards that are a trunk of transformers with a linear head: scored, saved, loaded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from transformers import AutoModel

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.readings import Piece, read
from llm_bridge.errors import ModelError, memory_advice
from llm_bridge.labels.scoring import by_ids, by_text, pool_rewards, remembered
from llm_bridge.language.fingerprints import weights_hash
from llm_bridge.language.loading import load_parts, quiet, written
from llm_bridge.language.models import LanguageModel, Prompt, evaluating
from llm_bridge.language.sampler import Response
from llm_bridge.rewards.modules import HeadSpec, Reader, RewardModule, batch_of
from llm_bridge.storage.content import model_files
from llm_bridge.storage.records import clear, write_record
from rlhf_theory.arrays import Array
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive
from rlhf_theory.store import write_atomic

_KIND = {"kind": "llm_bridge reward model"}
_FACTS = "reward_model.json"
_HEAD = "reward_head.safetensors"


@dataclass(frozen=True, eq=False)
class TrainedReward:
    r"""The reward :math:`\langle w, h(x, a)\rangle + b` with ``h`` the pooled last layer.

    It is a `RewardModel` over pools, and its layer ``h`` are features: on
    ``PromptProblem(features=reward)`` all linear learners of the theory run, with this reward among
    the linear ones.

    Attributes
    ----------
    reader
        Trunk and tokenizer.
    weight
        ``w``, shape ``(H,)``.
    head
        What the head reads.
    offset
        ``b``; changes no policy. Training chooses it so that the mean over its responses is 0.
    batch_size
        Texts per forward pass.
    tokens_of
        The language model whose tokens bare tokens are, where an encoder reads; None where it
        reads `Prompt` and `Response`, which have their texts.
    """

    reader: Reader
    weight: torch.Tensor
    head: HeadSpec = field(default_factory=HeadSpec)
    offset: float = 0.0
    batch_size: int = 32
    tokens_of: LanguageModel | None = None
    _memo: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_positive("batch_size", self.batch_size)
        width = int(self.reader.model.config.get_text_config().hidden_size)
        if tuple(self.weight.shape) != (width,):
            message = (
                f"The head must have shape (H,) with H={width}, the width of {self.reader.name}; "
                f"got {tuple(self.weight.shape)}."
            )
            raise ModelError(message)
        if not (bool(torch.isfinite(self.weight).all()) and math.isfinite(self.offset)):
            message = f"The head of {self.reader.name} must be finite; it is not. Train it anew."
            raise ModelError(message)

    @cached_property
    def module(self) -> RewardModule:
        """Trunk and head as one module."""
        dtype = torch.float64 if self.reader.dtype == torch.float64 else torch.float32
        weight = self.weight.detach().clone().to(self.reader.device, dtype)
        return RewardModule(self.reader.model, weight, self.head.pooling)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of trunk, tokenizer and head, 32 hex digits."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(weights_hash(self.reader.model, self.reader.tokenizer).encode())
        digest.update(f"{self.head} {self.offset.hex()}".encode())
        digest.update(self.weight.detach().double().cpu().numpy().tobytes())
        return digest.hexdigest()

    def rescaled(self, factor: float) -> TrainedReward:
        """Return the reward times a positive factor, such as 1 / temperature."""
        check_positive("factor", factor)
        return replace(self, weight=self.weight * factor, offset=self.offset * factor)

    # ------------------------------------------------------------------ what it says

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> np.ndarray:
        """Return the reward of every response to its prompt, float64, shape ``(n,)``.

        Raises
        ------
        ValueError
            For texts longer than the model reads.
        MemoryError
            If a batch does not fit; says which knob.
        """

        def compute(places: list[int]) -> np.ndarray:
            asked = [prompts[i] for i in places], [responses[i] for i in places]
            return self._forward(*asked, features=False).cpu().numpy() + self.offset

        by = by_text if isinstance(self.reader, EncoderModel) else by_ids
        keys = [by(p, r) for p, r in zip(prompts, responses, strict=True)]
        return remembered(self._memo, keys, compute)

    def rows(self, prompts: Sequence[Piece], responses: Sequence[Piece]) -> torch.Tensor:
        """Return the features ``h(x, a)``, float64, shape ``(n, H)``, on the model's device."""
        return self._forward(prompts, responses, features=True)

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``; 0 for absent responses."""
        return pool_rewards(contexts, self)

    def _forward(
        self, prompts: Sequence[Piece], responses: Sequence[Piece], *, features: bool
    ) -> torch.Tensor:
        reader, module = self.reader, self.module
        readings = read(reader, prompts, responses, self.head.over, self.tokens_of)
        width = (len(self.weight),) if features else ()
        result = torch.empty((len(readings), *width), dtype=torch.float64, device=reader.device)
        order = sorted(range(len(readings)), key=lambda i: len(readings[i].ids))
        with (
            evaluating(module),
            torch.inference_mode(),
            memory_advice(f"batch_size={self.batch_size}"),
        ):
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                batch = batch_of([readings[i] for i in rows], reader.pad_id, reader.device)
                result[rows] = (module.pooled if features else module)(**batch).double()
        if not bool(torch.isfinite(result).all()):
            message = f"{reader.name} must give finite rewards; some are not. Try dtype='float32'."
            raise ModelError(message)
        return result.clone()  # no tensor of the inference mode leaves

    # ------------------------------------------------------------------ on disk

    def save(self, folder: str | Path) -> None:
        """Write trunk, tokenizer and head; `from_pretrained` reads them.

        The file that says what the folder is comes last: a folder without it is no reward model.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder / _FACTS, *model_files(folder))
        with quiet():
            self.reader.model.save_pretrained(folder)
            self.reader.tokenizer.save_pretrained(folder)
        weight = self.weight.detach().to("cpu").contiguous()
        write_atomic(folder / _HEAD, to_bytes({"weight": weight}))
        facts: dict[str, object] = {
            **_KIND,
            "reads": "text" if isinstance(self.reader, EncoderModel) else "tokens",
            "pooling": self.head.pooling,
            "over": self.head.over,
            "offset": self.offset,
        }
        if isinstance(self.reader, EncoderModel):
            facts["join"] = self.reader.join
        files = [f.name for f in model_files(folder) if f.name != _FACTS]
        write_record(folder / _FACTS, facts, files)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 32,
        tokens_of: LanguageModel | None = None,
    ) -> Self:
        """Load what `save` wrote.

        Raises
        ------
        ModelError
            If the folder is missing, damaged, or holds something else.
        """
        folder = Path(folder).expanduser()
        try:
            facts = written(folder / _FACTS)
            if {k: facts.get(k) for k in _KIND} != _KIND:
                message = f"its {_FACTS} says {facts.get('kind')}"
                raise ValueError(message)
            weight = load_file(folder / _HEAD)["weight"]
            head = HeadSpec(pooling=facts["pooling"], over=facts["over"])
            offset = float(facts["offset"])
        except ModelError:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
            message = (
                f"{folder} must be a reward model written by TrainedReward.save; it cannot be read "
                f"({error}). A sequence classifier is loaded by TransformerReward."
            )
            raise ModelError(message) from error
        model, tokenizer = load_parts(
            AutoModel, folder, revision=None, device=device, dtype=dtype, offline=True
        )
        reader: Reader = LanguageModel(model, tokenizer, str(folder))
        if facts["reads"] == "text":
            reader = EncoderModel(model, tokenizer, str(folder), facts.get("join", " "))
        return cls(reader, weight, head, offset, batch_size, tokens_of)
