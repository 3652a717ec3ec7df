"""Centring, whitening and projection, fitted once on samples and then frozen."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from llm_bridge.storage.records import set_aside
from rlhf_theory.errors import ShapeError, check_choice
from rlhf_theory.store import DamagedError, write_atomic

SCALES = ("none", "unit", "ball")

# Rows in single precision carry a relative error of some 1e-6, so 1e-12 of the largest variance.
# A direction with less than 1e-8 of it would be whitened into features with errors above 1 %.
RANK_TOLERANCE = 1e-8


@dataclass(frozen=True, kw_only=True)
class TransformSettings:
    """How raw features become phi.

    Attributes
    ----------
    centre
        Subtract the mean of the fit sample.
    standardise
        Divide every column by its standard deviation on the fit sample. Without it, columns of
        large scale (sums, log-probabilities) decide the projection.
    whiten
        Make the covariance of the fit sample the identity. Directions of no variance are left out.
    dim
        Keep this many directions of largest variance; None keeps the columns, or with ``whiten``
        all directions that vary.
    scale
        ``"none"``; ``"unit"`` divides every row by its norm; ``"ball"`` divides all rows by the
        largest norm of the fit sample, and moves what lies further out to the unit sphere. With
        the last two ``|phi| <= 1`` always.
    """

    centre: bool = True
    standardise: bool = True
    whiten: bool = False
    dim: int | None = None
    scale: str = "none"

    def __post_init__(self) -> None:
        check_choice("scale", self.scale, SCALES)
        if self.dim is not None and self.dim < 1:
            message = f"dim must be at least 1, or None; got {self.dim}."
            raise ValueError(message)
        if self.whiten and not self.centre:
            message = "whiten needs centre: a covariance is measured from the mean."
            raise ValueError(message)


@dataclass(frozen=True, eq=False)
class FrozenTransform:
    r"""The map :math:`x \mapsto s\bigl((x - \mu) D^{-1} M\bigr)`, in double precision.

    Attributes
    ----------
    mean
        ``mu``, shape ``(D,)``; 0 without centring.
    inverse_std
        The diagonal of ``D^{-1}``, shape ``(D,)``; 1 without standardising, 0 for columns that do
        not vary.
    matrix
        ``M``, shape ``(D, d)``; None for the identity.
    radius
        Largest norm of the fit sample before scaling.
    kept
        Share of the variance of the fit sample (of standardised columns, if so) that ``M`` keeps.
    scale
        The scaling ``s``; see `TransformSettings`.
    """

    mean: torch.Tensor
    inverse_std: torch.Tensor
    matrix: torch.Tensor | None
    radius: float
    kept: float
    scale: str

    @classmethod
    def fit(
        cls, rows: torch.Tensor, settings: TransformSettings, weights: torch.Tensor | None = None
    ) -> FrozenTransform:
        """Fit to samples.

        Parameters
        ----------
        rows
            Shape ``(n, D)``, at least two.
        settings
            What to do.
        weights
            Shape ``(n,)``, not negative; None weighs all rows alike.

        Raises
        ------
        ValueError
            If there are fewer than two rows, or fewer than ``dim`` directions that vary.
        """
        x = rows.to(torch.float64)
        w = _weights(x, weights)
        mean = w @ x if settings.centre else torch.zeros_like(x[0])
        inverse_std = torch.ones_like(mean)
        if settings.standardise:
            # Measured from the mean with and without centring: what does not vary says nothing.
            middle = w @ x
            std = torch.sqrt(w @ (x - middle) ** 2)
            size = torch.maximum(std, middle.abs())
            varies = std > 1e-6 * size  # below that it is rounding of single precision
            inverse_std = torch.where(varies, 1.0 / torch.where(varies, std, 1.0), 0.0)
        z = (x - mean) * inverse_std
        matrix, kept = None, 1.0
        if settings.whiten or settings.dim is not None:
            matrix, kept = _directions(z, w, settings)
            z = z @ matrix
        radius = float(torch.linalg.vector_norm(z, dim=1).max())
        if settings.scale == "ball" and radius == 0.0:
            message = "The fit sample must vary to be scaled to a ball; all its rows are equal."
            raise ValueError(message)
        return cls(mean, inverse_std, matrix, radius, kept, settings.scale)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.mean.shape[0] if self.matrix is None else self.matrix.shape[1])

    @property
    def bound(self) -> float:
        """What no ``|phi|`` exceeds, of no text: 1, or infinity without scaling."""
        return math.inf if self.scale == "none" else 1.0

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Map rows ``(n, D)`` to features ``(n, d)``, double precision, on the rows' device."""
        if rows.shape[1:] != self.mean.shape:
            message = f"rows must have shape (n, {self.mean.shape[0]}); got {tuple(rows.shape)}."
            raise ShapeError(message)
        z = (rows.to(torch.float64) - self.mean.to(rows.device)) * self.inverse_std.to(rows.device)
        if self.matrix is not None:
            z = z @ self.matrix.to(rows.device)
        if self.scale == "none":
            return z
        norm = torch.linalg.vector_norm(z, dim=1, keepdim=True)
        if self.scale == "ball":
            return z / torch.clamp(norm, min=self.radius)
        return z / torch.where(norm > 0, norm, 1.0)

    def content(self, about: Mapping[str, object], digest: str | None = None) -> bytes:
        """Return the content of a file with the transform, what it is about, and a digest."""
        tensors = {"mean": self.mean.cpu(), "inverse_std": self.inverse_std.cpu()}
        if self.matrix is not None:
            tensors["matrix"] = self.matrix.cpu().contiguous()
        # One entry only: safetensors writes several in any order, and equal content must be equal.
        facts = {"radius": self.radius, "kept": self.kept, "scale": self.scale, "about": about}
        facts |= {} if digest is None else {"digest": digest}
        return safetensors.torch.save(tensors, {"facts": json.dumps(facts, sort_keys=True)})

    def digest(self, about: Mapping[str, object]) -> str:
        """Return a digest of all numbers and of what the transform is about."""
        return hashlib.blake2b(self.content(about), digest_size=16).hexdigest()

    def save(self, file: Path, about: Mapping[str, object]) -> None:
        """Write to a file; ``ValueError`` if it holds anything else already.

        A damaged file is set aside first.
        """
        content = self.content(about, self.digest(about))
        if file.exists() and file.read_bytes() != content:
            try:
                self.load(file)
            except DamagedError as error:
                set_aside(str(error), file)
            except ValueError:
                pass  # somebody else's, refused below
        if file.exists():
            if file.read_bytes() != content:
                message = (
                    f"{file} holds something else, and frozen features never change: confidence "
                    "sets would lose their meaning. Choose another file."
                )
                raise ValueError(message)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content)

    @classmethod
    def load(cls, file: Path) -> tuple[FrozenTransform, dict[str, object]]:
        """Read the transform and what it is about.

        ``ValueError`` for any other file, one of those for one that is not what was written:
        `DamagedError`.
        """
        try:
            with safe_open(file, framework="pt") as stream:
                facts = json.loads((stream.metadata() or {})["facts"])
                found = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            transform = cls(
                found["mean"],
                found["inverse_std"],
                found.get("matrix"),
                facts["radius"],
                facts["kept"],
                facts["scale"],
            )
            about: dict[str, object] = facts["about"]
            whole = facts["digest"] == transform.digest(about)
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            message = (
                f"{file} must be a file of frozen features with a digest; it is of a former "
                f"version, or cannot be read ({error!r})."
            )
            raise ValueError(message) from error
        if not whole:
            message = f"{file} is damaged: it is not what was written"
            raise DamagedError(message)
        return transform, about


def _weights(rows: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    if rows.ndim != 2 or len(rows) < 2:
        message = f"Features are fitted on at least two texts; got {len(rows)}."
        raise ValueError(message)
    if not bool(torch.isfinite(rows).all()):
        message = "The rows of the fit sample must be finite; some are not."
        raise ValueError(message)
    if weights is None:
        return torch.full_like(rows[:, 0], 1.0 / len(rows))
    w = weights.to(rows)
    if w.shape != (len(rows),) or not bool((w >= 0).all()) or not 0 < float(w.sum()) < math.inf:
        message = (
            f"weights must be {len(rows)} numbers that are not negative, some positive; "
            f"got shape {tuple(w.shape)}."
        )
        raise ValueError(message)
    return w / w.sum()


def _directions(
    z: torch.Tensor, w: torch.Tensor, settings: TransformSettings
) -> tuple[torch.Tensor, float]:
    """Return the principal directions ``(D, d)``, scaled if whitening, and the variance they keep.

    Without centring they are those of the second moments.
    """
    # Eigenvectors of the smaller of the two Gram matrices; both have the same non-zero spectrum.
    y = z * torch.sqrt(w)[:, None]
    wide = y.shape[1] > y.shape[0]
    values, vectors = torch.linalg.eigh(y @ y.T if wide else y.T @ y)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    rank = int((values > RANK_TOLERANCE * values[0]).sum())
    dim = rank if settings.dim is None else settings.dim
    if dim > rank or dim == 0:
        message = (
            f"dim must be at most {rank}, the number of directions in which the {len(z)} texts of "
            f"the fit sample vary; got {dim}. Fit on more texts, or lower dim."
        )
        raise ValueError(message)
    values, vectors = values[:dim], vectors[:, :dim]
    if wide:
        vectors = (y.T @ vectors) / torch.sqrt(values)
    # The sign of an eigenvector is arbitrary: its largest entry is made positive.
    index = vectors.abs().argmax(dim=0)
    vectors = vectors * torch.sign(vectors[index, torch.arange(dim, device=z.device)])
    kept = float(values.sum() / (y * y).sum())
    return (vectors / torch.sqrt(values) if settings.whiten else vectors), kept
