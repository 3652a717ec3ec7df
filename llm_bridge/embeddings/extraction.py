"""Raw features of many texts: each distinct text is read once, the rest comes from the cache."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.pooling import FeatureSpec, forward
from llm_bridge.embeddings.readings import Piece, Reading, read
from llm_bridge.errors import ModelError, memory_advice
from llm_bridge.language.models import LanguageModel
from llm_bridge.storage.cache import RowCache, row_key

FLUSH_BATCHES = 16
"""Batches between two appends to the cache: what a killed process loses at most."""


def extract(
    model: LanguageModel | EncoderModel,
    spec: FeatureSpec,
    prompts: Sequence[Piece],
    responses: Sequence[Piece],
    *,
    tokens_of: LanguageModel | None = None,
    batch_size: int,
    store: RowCache | None,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return raw features and log-probabilities, on the host.

    Parameters
    ----------
    model, spec
        Who reads, and what is kept.
    prompts, responses
        ``n`` of each.
    tokens_of
        Whose tokens bare tokens are; None for the reader's own.
    batch_size
        Texts per pass; they are read by length, so that little is padded.
    store
        Where rows are looked up and kept; new rows are rounded to its dtype too. A store that
        cannot be written gives a warning, and everything is computed nevertheless.
    progress
        Show a bar, on terminals only.

    Returns
    -------
    phi : (n, D), float32; float64 for a model in double precision without a store
    log_probs : (n,) float64; None for encoders
    """
    readings = read(model, prompts, responses, spec.over, tokens_of)
    causal = isinstance(model, LanguageModel)
    keys = [row_key(r.ids[: r.answer], r.ids[r.answer :]) for r in readings]
    distinct: dict[bytes, Reading] = {}
    for key, reading in zip(keys, readings, strict=True):
        distinct.setdefault(key, reading)
    known, texts = list(distinct), list(distinct.values())

    double = model.dtype == torch.float64 and store is None
    phi = np.zeros((len(known), spec.pooled), dtype=np.float64 if double else np.float32)
    exact = np.zeros((len(known), int(causal)))
    missing = np.ones(len(known), dtype=bool)
    if store is not None:
        found, rows, exacts = store.lookup(known)
        phi[found], exact[found] = rows[found], exacts[found]
        missing = ~found

    batches = _batches([len(r.ids) for r in texts], missing, batch_size)
    hide = None if progress else True  # None hides the bar where there is no terminal
    with (
        closing(_Keeper(store, known, phi, exact)) as keeper,
        tqdm(total=int(missing.sum()), desc="features", unit="text", disable=hide) as bar,
    ):
        for batch in batches:
            phi[batch], exact[batch] = _compute(model, spec, [texts[i] for i in batch])
            keeper.add(batch)
            bar.update(len(batch))

    if spec.log_prob:
        phi = np.concatenate([phi, exact.astype(phi.dtype)], axis=1)
    place = {key: i for i, key in enumerate(known)}
    inverse = np.array([place[key] for key in keys], dtype=np.int64)
    return phi[inverse], exact[inverse, 0] if causal else None


def _batches(lengths: list[int], missing: np.ndarray, size: int) -> list[list[int]]:
    """Return the missing texts in batches of like length.

    Rounding depends on the company in a batch. A batch that is missing as a whole is the same as if
    nothing were known, so that work that was interrupted goes on to the same numbers.
    """

    def cut(order: list[int]) -> list[list[int]]:
        # The longest first: a batch that does not fit in memory fails at once.
        order = sorted(order, key=lambda i: -lengths[i])
        return [order[start : start + size] for start in range(0, len(order), size)]

    whole, rest = [], []
    for batch in cut(list(range(len(lengths)))):
        left = [i for i in batch if missing[i]]
        if len(left) == len(batch):
            whole.append(batch)
        else:
            rest += left
    return sorted([*whole, *cut(rest)], key=lambda batch: -lengths[batch[0]])


def _compute(
    model: LanguageModel | EncoderModel, spec: FeatureSpec, readings: list[Reading]
) -> tuple[np.ndarray, np.ndarray]:
    causal = isinstance(model, LanguageModel)
    with memory_advice(f"batch_size={len(readings)}"):
        phi, log_probs = forward(
            model.model,
            readings,
            pad_id=model.pad_id,
            poolings=spec.pooling,
            layers=spec.layers,
            log_probs=causal,
        )
        rows = phi.cpu().numpy()
    if rows.shape[1] != spec.pooled:
        message = (
            f"{model.name} gave {rows.shape[1]} features where its configuration promises "
            f"{spec.pooled}: its layers differ in width. Choose layers as wide as the last."
        )
        raise ModelError(message)
    exact = np.zeros((len(rows), 0))
    if log_probs is not None:
        exact = log_probs.double().cpu().numpy()[:, None]
    if not (np.isfinite(rows).all() and np.isfinite(exact).all()):
        message = (
            f"{model.name} gave features that are not finite. Its weights may be damaged, or too "
            "coarse: load it with dtype='float32'."
        )
        raise ModelError(message)
    return rows, exact


class _Keeper:
    """Appends new rows to the store from time to time, and at the end, also of a failed run."""

    def __init__(
        self, store: RowCache | None, keys: list[bytes], phi: np.ndarray, exact: np.ndarray
    ) -> None:
        self._store, self._keys, self._phi, self._exact = store, keys, phi, exact
        self._pending: list[list[int]] = []
        self._failed = False

    def add(self, batch: list[int]) -> None:
        """Note that these rows have been computed."""
        self._pending.append(batch)
        if len(self._pending) >= FLUSH_BATCHES:
            self.close()

    def close(self) -> None:
        """Append what is pending."""
        rows = [i for batch in self._pending for i in batch]
        self._pending = []
        if self._store is None or self._failed or not rows:
            return
        store, keys = self._store, [self._keys[i] for i in rows]
        index, phi = np.array(rows), self._phi[rows]
        try:
            store.append(keys, phi, self._exact[index])
        except OSError as error:
            message = f"{error} Features are computed all the same, but no longer kept."
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            self._failed = True
        # Rounded as the store does, which has refused what overflows; and where another process was
        # faster, what it kept: a result must not depend on who computed it, or when.
        self._phi[index] = phi.astype(store.dtype)
        found, kept, exact = store.lookup(keys)
        self._phi[index[found]], self._exact[index[found]] = kept[found], exact[found]
