"""Features phi(x, a) of prompts and responses: hidden states of a transformer, pooled and frozen.

A forward pass gives the features and, for a causal model, the log-probability of the response. Raw
features can be kept on disk; the transform that centres, whitens or projects them is fitted once,
on samples of pi0, because confidence sets mean nothing for features that change midway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.extraction import extract
from llm_bridge.embeddings.pooling import FeatureSpec
from llm_bridge.embeddings.readings import Piece, reader_of, writer_of
from llm_bridge.embeddings.transforms import FrozenTransform, TransformSettings
from llm_bridge.errors import memory_advice
from llm_bridge.language.models import LanguageModel
from llm_bridge.storage.cache import DTYPES as CACHE_DTYPES
from llm_bridge.storage.cache import RowCache
from llm_bridge.storage.kept import Arrays, Kept
from rlhf_theory.errors import check_choice, check_positive

DTYPES = {"float64": torch.float64, "float32": torch.float32}

CHUNK = 8192
"""Rows that the frozen transform takes at a time, so that double precision fits in memory."""


@dataclass(frozen=True, eq=False)
class TransformerFeatures:
    """Raw features of any transformer, and what `fit` makes of them.

    Attributes
    ----------
    model
        A `LanguageModel`, an `EncoderModel`, or anything whose ``model`` is a language model, such
        as a policy.
    tokens_of
        For features of another model than the one that writes the responses: that one, or a policy
        of it. Bare tokens are then read as text.
    pooling
        ``"last"``, ``"mean"``, ``"sum"`` or ``"first"`` token, or several to concatenate. None:
        last, mean and sum for a language model, mean for an encoder.
    layers
        Hidden states to concatenate: 0 is the embedding, -1 the last layer, ``"all"`` all. None:
        all for a language model, the last for an encoder.
    over
        Pool the tokens of the ``"response"`` or of the whole ``"text"``, special tokens included.
        None: the response for a language model, the text for an encoder.
    log_prob
        Whether the log-probability of the response is a feature too, the last one. None: yes for a
        language model; an encoder has none.
    centre, standardise, whiten, dim, scale
        The transform, see `TransformSettings`; with ``scale="unit"`` or ``"ball"``, ``|phi| <= 1``.
    batch_size
        Texts per forward pass. Texts are read by length, so that little is padded.
    cache
        Folder that keeps raw features; None keeps none.
    cache_dtype
        ``"float32"`` or ``"float16"``. Features are rounded to it also when they are new.
    dtype
        Of the features that come out, ``"float64"`` or ``"float32"``.
    progress
        Show a progress bar, on terminals only.
    kept
        Where answers are kept call by call, for the very bits of a run that is repeated; None for
        nowhere.

    Raises
    ------
    ModelError
        If there is no model to read with.
    ValueError
        For options that do not exist, or that the model cannot give.
    """

    model: object
    _: KW_ONLY
    tokens_of: object = None
    pooling: str | Sequence[str] | None = None
    layers: str | int | Sequence[int] | None = None
    over: str | None = None
    log_prob: bool | None = None
    centre: bool = True
    standardise: bool = True
    whiten: bool = False
    dim: int | None = None
    scale: str = "none"
    batch_size: int = 32
    cache: str | Path | None = None
    cache_dtype: str = "float32"
    dtype: str = "float64"
    progress: bool = True
    kept: Kept | None = field(default=None, repr=False)
    spec: FeatureSpec = field(init=False, repr=False)
    settings: TransformSettings = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("cache_dtype", self.cache_dtype, CACHE_DTYPES)
        check_positive("batch_size", self.batch_size)
        settings = TransformSettings(
            centre=self.centre,
            standardise=self.standardise,
            whiten=self.whiten,
            dim=self.dim,
            scale=self.scale,
        )
        spec = FeatureSpec.resolve(self.reader, self.pooling, self.layers, self.over, self.log_prob)
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "spec", spec)

    @cached_property
    def reader(self) -> LanguageModel | EncoderModel:
        """The model that reads the texts."""
        return reader_of(self.model)

    @property
    def device(self) -> torch.device:
        """Where features are."""
        return self.reader.device

    @property
    def width(self) -> int:
        """Number of raw features ``D``."""
        return self.spec.width

    @cached_property
    def configuration(self) -> dict[str, object]:
        """What raw features depend on besides the texts; plain data."""
        return self.spec.about(self.reader)

    @cached_property
    def store(self) -> RowCache | None:
        """The cache on disk, or None; ``ValueError`` for a foreign folder."""
        if self.cache is None:
            return None
        # Log-probabilities are kept beside the features, whether they are one of them or not.
        about = {k: v for k, v in self.configuration.items() if k != "log_prob"}
        causal, width = isinstance(self.reader, LanguageModel), self.spec.pooled
        return RowCache(self.cache, about, width=width, n_exact=int(causal), dtype=self.cache_dtype)

    def host_rows(
        self, prompts: Sequence[Piece], responses: Sequence[Piece]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what `rows` does, as NumPy arrays in the precision of the model or the cache."""

        def read() -> Arrays:
            phi, log_probs = extract(
                self.reader,
                self.spec,
                prompts,
                responses,
                tokens_of=writer_of(self.tokens_of),
                batch_size=self.batch_size,
                store=self.store,
                progress=self.progress,
            )
            return {"phi": phi} | ({} if log_probs is None else {"log_probs": log_probs})

        found = (
            read()
            if self.kept is None
            else self.kept.once(
                "features",
                {
                    **self.reader.about,
                    **self.configuration,
                    "batch_size": self.batch_size,
                    "writer": getattr(writer_of(self.tokens_of), "fingerprint", None),
                    "texts": [
                        [_plain(p), _plain(r)] for p, r in zip(prompts, responses, strict=True)
                    ],
                },
                read,
            )
        )
        return found["phi"], found.get("log_probs")

    def rows(
        self, prompts: Sequence[Piece], responses: Sequence[Piece]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return raw features and log-probabilities of the responses, from one pass.

        Parameters
        ----------
        prompts, responses
            ``n`` of each, as `Prompt` and `Response`, as text, or (for language models) as tokens.
            What repeats is read once.

        Returns
        -------
        phi : (n, D), of ``dtype``, on the model's device
        log_probs : (n,) float64 on the same device; None for encoders

        Raises
        ------
        ValueError
            For empty responses, and texts longer than the model reads.
        MemoryError
            If a batch does not fit; says which knob.
        """
        host, log_probs = self.host_rows(prompts, responses)
        with memory_advice("the number of texts per call"):
            return self._arrive(host, self.dtype), self._log_probs(log_probs)

    def fit(
        self,
        prompts: Sequence[Piece],
        responses: Sequence[Piece],
        weights: ArrayLike | None = None,
    ) -> FittedFeatures:
        """Fit the transform on samples of pi0; what comes out never changes.

        Parameters
        ----------
        prompts, responses
            ``n >= 2`` samples of the reference policy.
        weights
            Shape ``(n,)``, not negative; None weighs all alike.
        """
        host, _ = self.host_rows(prompts, responses)
        with memory_advice("the fit sample"):
            rows = self._arrive(host, "float64")
            w = None if weights is None else torch.as_tensor(weights, device=self.device)
            return FittedFeatures(self, FrozenTransform.fit(rows, self.settings, w))

    def _arrive(self, host: np.ndarray, dtype: str) -> torch.Tensor:
        return torch.from_numpy(host).to(self.device, DTYPES[dtype])

    def _log_probs(self, host: np.ndarray | None) -> torch.Tensor | None:
        return None if host is None else self._arrive(host, "float64")


def _plain(piece: Piece) -> list[object]:
    """Return a prompt or a response, whatever it is given as, as plain data."""
    if isinstance(piece, Sequence):
        return [piece] if isinstance(piece, str) else list(piece)
    return [piece.text, *map(int, piece.ids)]


@dataclass(frozen=True, eq=False)
class FittedFeatures:
    """Features whose transform is frozen: there is no way to fit them again.

    Attributes
    ----------
    features
        The raw features.
    transform
        What is done to them.
    """

    features: TransformerFeatures
    transform: FrozenTransform

    @property
    def dim(self) -> int:
        """Number of features ``d``."""
        return self.transform.dim

    @property
    def bound(self) -> float:
        """What no ``|phi|`` exceeds: 1 with ``scale="unit"`` or ``"ball"``, else infinity."""
        return self.transform.bound

    @property
    def device(self) -> torch.device:
        """Where features are."""
        return self.features.device

    @property
    def about(self) -> dict[str, object]:
        """What raw features and transform are; plain data."""
        return {**self.features.configuration, "transform": asdict(self.features.settings)}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the raw features' configuration and of the fitted numbers."""
        return self.transform.digest(self.about)

    def rows(self, prompts: Sequence[Piece], responses: Sequence[Piece]) -> torch.Tensor:
        """Return features, shape ``(n, d)``, of the dtype and on the device of `features`."""
        return self.with_log_probs(prompts, responses)[0]

    def with_log_probs(
        self, prompts: Sequence[Piece], responses: Sequence[Piece]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return features ``(n, d)`` and log-probabilities ``(n,)``, from one pass.

        As `TransformerFeatures.rows`, but transformed.
        """
        raw = self.features
        host, log_probs = raw.host_rows(prompts, responses)
        with memory_advice("the number of texts per call"):
            phi = torch.empty((len(host), self.dim), dtype=DTYPES[raw.dtype], device=raw.device)
            for start in range(0, len(host), CHUNK):
                part = raw._arrive(host[start : start + CHUNK], "float64")  # noqa: SLF001
                phi[start : start + CHUNK] = self.transform(part)
            return phi, raw._log_probs(log_probs)  # noqa: SLF001

    def save(self, file: str | Path) -> None:
        """Write the transform; ``ValueError`` if the file holds anything else already."""
        self.transform.save(Path(file), self.about)

    @classmethod
    def load(cls, file: str | Path, features: TransformerFeatures) -> FittedFeatures:
        """Read a transform that was fitted to these features.

        Raises
        ------
        ValueError
            If the file is none of ours, or was fitted to other features.
        """
        transform, about = FrozenTransform.load(Path(file))
        fitted = cls(features, transform)
        differing = [
            k for k in sorted({*about, *fitted.about}) if about.get(k) != fitted.about.get(k)
        ]
        if differing:
            pairs = [f"{k}={fitted.about.get(k)} (the file has {about.get(k)})" for k in differing]
            message = f"{file} was fitted to other features: these have {', '.join(pairs)}."
            raise ValueError(message)
        return fitted
