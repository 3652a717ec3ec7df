"""Features of the rows of a file: a cache to share, and the numbers as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import safetensors.torch
import torch

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.evaluation.details import frame_bytes
from llm_bridge.jobs.job import Say
from llm_bridge.jobs.settings import EmbedSettings
from llm_bridge.jobs.sources import read_prompts
from llm_bridge.jobs.texts import as_prompt, as_response
from llm_bridge.labels.preference_files import read_preferences
from llm_bridge.language.models import LanguageModel, Text
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.storage.jsonl import read_jsonl
from llm_bridge.storage.rows import each_made, numbered_rows
from rlhf_theory.randomness import Key
from rlhf_theory.store import write_atomic, write_json


@dataclass(frozen=True, kw_only=True)
class EmbedJob(EmbedSettings):
    """Compute features of prompts and responses."""

    def __post_init__(self) -> None:
        what = self.features
        if (what.dim is not None or what.whiten or what.scale != "none") and not self.transform:
            message = "--dim, --whiten and --scale are parts of the transform: add --transform."
            raise ValueError(message)

    def study(self) -> dict[str, object]:
        """Return what the results depend on; see `Job`."""
        return {
            **self.origin("embed"),
            **self.features.identity(),
            **self.named("samples", "transform", "max_new_tokens", "seed"),
        }

    def _rows(self) -> tuple[list[Text], list[str] | None, list[str]]:
        """Return prompts, responses (None where they have to be written) and roles."""
        columns = _columns(self.file)
        if "chosen" in columns:
            pairs = read_preferences(self.file).pairs
            prompts = [p.prompt for p in pairs for _ in range(2)]
            texts = [t for p in pairs for t in (p.chosen, p.rejected)]
            return prompts, texts, ["chosen", "rejected"] * len(pairs)
        if "response" in columns:
            found = numbered_rows(self.file)
            rows = each_made(self.file, found, _single_response, word="row")
            return [p for p, _ in rows], [r for _, r in rows], ["response"] * len(rows)
        if self.samples < 1 or self.features.encoder:
            message = (
                f"{self.file} has prompts and no responses: features are of both. Let a language "
                "model write some with --samples N, or give a column response."
            )
            raise ValueError(message)
        return read_prompts(self.file), None, []

    def plan(self, out: Path) -> list[str]:
        """Return what would be done; see `Job`."""
        prompts, responses, _ = self._rows()
        n = len(prompts) * self.samples if responses is None else len(prompts)
        lines = [f"{self.file}: {n} texts to read with {self.source.name}."]
        if responses is None:
            lines.append(f"It would first write {self.samples} responses to each prompt.")
        cache = self.cache or out / "cache"
        entries = sum(f.stat().st_size for f in cache.glob("*/index.bin")) // 20
        lines.append(f"The cache {cache} holds {entries} texts, of this model or others.")
        if (out / "features.json").is_file():
            lines.append(f"The features in {out} are complete.")
        return lines

    def run(self, out: Path, say: Say) -> None:
        """Read the texts and write their features; see `Job`."""
        if (out / "features.json").is_file():
            say(f"The features in {out} are complete.")
            return
        texts, given, roles = self._rows()
        reader = self.source.reader(encoder=self.features.encoder)
        if given is None:
            prompts, responses, roles = self._written(reader, texts)
        else:
            prompts = [as_prompt(reader, text) for text in texts]
            responses = [as_response(reader, text) for text in given]
        raw = self.features.make(
            reader, cache=self.cache or out / "cache", batch_size=self.batch_size
        )
        if self.transform:
            fitted = raw.fit(prompts, responses)
            fitted.save(out / "transform.safetensors")
            phi, log_probs = fitted.with_log_probs(prompts, responses)
        else:
            phi, log_probs = raw.rows(prompts, responses)
        frame = pd.DataFrame(
            {
                "prompt": [p.text for p in prompts],
                "response": [r.text for r in responses],
                "role": roles,
            }
        )
        tensors = {"phi": phi.cpu().contiguous()}
        if log_probs is not None:
            frame["log_prob"] = log_probs.cpu().numpy()
            tensors["log_prob"] = log_probs.cpu().contiguous()
        self._write(out, frame, tensors)
        say(f"{phi.shape[0]} texts with {phi.shape[1]} features: {out / 'features.safetensors'}")

    def _written(
        self, reader: LanguageModel | EncoderModel, texts: Sequence[Text]
    ) -> tuple[list[Any], list[Any], list[str]]:
        if not isinstance(reader, LanguageModel):  # refused before; for the type
            message = "Only a language model writes responses."
            raise ValueError(message)
        prompts = [reader.encode_prompt(text) for text in texts]
        sampler = BatchedSampler(
            max_new_tokens=self.max_new_tokens, batch_size=max(64, self.batch_size)
        )
        key = Key(self.seed).child("embed")
        drawn = sampler(reader, [p.ids for p in prompts], self.samples, key)
        rows = [(p, r) for p, row in zip(prompts, drawn, strict=True) for r in row]
        return [p for p, _ in rows], [r for _, r in rows], ["sample"] * len(rows)

    def _write(self, out: Path, frame: pd.DataFrame, tensors: dict[str, torch.Tensor]) -> None:
        write_atomic(out / "rows.parquet", frame_bytes(frame))
        write_atomic(out / "features.safetensors", safetensors.torch.save(tensors))
        phi = tensors["phi"]
        about = {"rows": phi.shape[0], "dim": phi.shape[1], "dtype": str(np.dtype("float64"))}
        # Written last: where it is, the others are complete.
        write_json(out / "features.json", {**self.study(), **about})


def _columns(path: Path) -> set[str]:
    if path.suffix == ".txt":
        return {"prompt"}
    if path.suffix == ".jsonl":
        rows, _ = read_jsonl(path)
        return {name for _, row in rows for name in row}
    if path.suffix == ".parquet":
        try:
            return set(pq.read_schema(path).names)
        except (OSError, ValueError) as error:
            message = f"{path} is no Parquet file, or damaged ({error})."
            raise ValueError(message) from error
    message = f"A file of texts must end in .txt, .jsonl or .parquet; got {path}."
    raise ValueError(message)


def _single_response(row: Mapping[str, object]) -> tuple[Any, str]:
    """Return prompt and response of a row; ``ValueError`` where it has not both."""
    prompt, response = row.get("prompt"), row.get("response")
    if not prompt or not isinstance(response, str) or not response.strip():
        got = json.dumps(row, ensure_ascii=False)[:120]
        message = f"it must have a prompt and a response with characters; {got}"
        raise ValueError(message)
    return prompt, response
