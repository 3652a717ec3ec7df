"""What an evaluation found, prompt by prompt and answer by answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rlhf_theory.errors import ShapeError, check_choice
from rlhf_theory.evaluation.resampling import Interval
from rlhf_theory.evaluation.statistics import ratio_interval
from rlhf_theory.store import write_atomic

ENDS = (".parquet", ".answers.parquet")
"""How the names of the files of some results end."""


def frame_bytes(frame: pd.DataFrame) -> bytes:
    """Return a frame as a Parquet file."""
    return frame.to_parquet(index=False)


@dataclass(frozen=True, eq=False)
class Details:
    """Results of one policy.

    Attributes
    ----------
    prompts
        Text of the ``N`` prompts.
    per_prompt
        By name, shape ``(R, N)``: one number per replica and prompt; NaN where the policy cannot be
        evaluated in this way.
    weights
        Probabilities of the prompts, shape ``(N,)``.
    answers
        One row per fresh response: ``prompt``, ``number``, ``response`` and what was measured of
        it; empty for policies that cannot generate.
    """

    prompts: tuple[str, ...]
    per_prompt: Mapping[str, np.ndarray]
    weights: np.ndarray
    answers: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        n = len(self.prompts)
        for name, value in self.per_prompt.items():
            if value.ndim != 2 or value.shape[1] != n:
                message = f"{name} must have shape (R, {n}), one column per prompt; {value.shape}."
                raise ShapeError(message)

    def _value(self, name: str) -> np.ndarray:
        check_choice("name", name, self.per_prompt)
        return self.per_prompt[name]

    def mean(self, name: str) -> np.ndarray:
        """Return the mean of one name over the prompts, shape ``(R,)``."""
        value = self._value(name)
        counted = np.where(self.weights > 0, value, 0.0)
        return np.asarray(counted @ self.weights)

    def interval(self, name: str, level: float = 0.95) -> Interval:
        """Return the mean over prompts of one name with a bootstrap interval over prompts.

        A prompt is resampled together with its weight, prompts without weight not at all. What the
        interval covers: other prompts of the same law, and with them other responses. Replicas and
        training seeds it does not cover. Floats where there is one replica, else arrays ``(R,)``.
        """
        return self._over_prompts(self._value(name), level)

    def standard_error(self, name: str) -> np.ndarray:
        r"""Return the standard error of the mean over prompts of one name, shape ``(R,)``.

        .. math:: \sqrt{\frac{N}{N - 1} \sum_i w_i^2 (v_i - \bar v)^2}

        over the ``N`` prompts that have weight; NaN for a single one.
        """
        counted = self.weights > 0
        value, weight, n = self._value(name)[:, counted], self.weights[counted], counted.sum()
        if n < 2:
            return np.full(value.shape[0], np.nan)
        residual = weight * (value - self.mean(name)[:, None])
        return np.asarray(np.sqrt(n / (n - 1) * (residual**2).sum(axis=1)))

    def difference(self, other: Details, name: str, level: float = 0.95) -> Interval:
        """Return the mean of this minus the other with its interval, paired prompt by prompt.

        ``ValueError`` if the two were evaluated on different prompts, or other weights of them.
        """
        if self.prompts != other.prompts or not np.array_equal(self.weights, other.weights):
            message = (
                "A paired difference needs the same prompts in the same order, with the same "
                "weights, on both sides."
            )
            raise ValueError(message)
        return self._over_prompts(self._value(name) - other._value(name), level)

    def summary(self, names: Sequence[str] | None = None, level: float = 0.95) -> pd.DataFrame:
        """Return ``metric, mean, lower, upper`` of every name that holds numbers, one replica."""
        rows = []
        for name in self.per_prompt if names is None else names:
            value = self._value(name)[:1]
            if not np.isnan(value).any():
                found = self._over_prompts(value, level)
                rows.append((name, found.value, found.lower, found.upper))
        return pd.DataFrame(rows, columns=["metric", "mean", "lower", "upper"])

    def _over_prompts(self, value: np.ndarray, level: float) -> Interval:
        # Weights in units of the largest: equal ones leave the values as they are.
        counted = self.weights > 0
        share = self.weights[counted][:, None] / self.weights.max()
        table = share * value[:, counted].T
        weight = np.broadcast_to(share, table.shape)
        if table.shape[1] == 1:
            table, weight = table[:, 0], weight[:, 0]
        return ratio_interval(table, weight, level=level)

    def to_pandas(self) -> pd.DataFrame:
        """Return a tidy frame: replica, prompt with its weight, and one column per name."""
        r = max((v.shape[0] for v in self.per_prompt.values()), default=1)
        n = len(self.prompts)
        columns = {k: np.broadcast_to(v, (r, n)).ravel() for k, v in self.per_prompt.items()}
        index = {
            "replica": np.repeat(np.arange(r), n),
            "prompt": list(self.prompts) * r,
            "weight": np.tile(self.weights, r),
        }
        return pd.DataFrame({**index, **columns})

    def save(self, folder: Path, stem: str) -> list[str]:
        """Write ``STEM.parquet``, and ``STEM.answers.parquet`` where there are fresh responses.

        Returns
        -------
        Names of the files, for whoever writes their record.
        """
        frames = [self.to_pandas(), *([self.answers] if len(self.answers) else [])]
        names = [f"{stem}{end}" for end in ENDS[: len(frames)]]
        for name, frame in zip(names, frames, strict=True):
            write_atomic(folder / name, frame_bytes(frame))
        return names

    @classmethod
    def load(cls, folder: Path, stem: str) -> Details:
        """Read what `save` wrote."""
        frame = pd.read_parquet(folder / f"{stem}{ENDS[0]}")
        r = int(frame["replica"].max()) + 1
        names = [c for c in frame.columns if c not in ("replica", "prompt", "weight")]
        first = frame[frame["replica"] == 0]
        answers = folder / f"{stem}{ENDS[1]}"
        return cls(
            tuple(first["prompt"]),
            {name: frame[name].to_numpy(dtype=float).reshape(r, -1) for name in names},
            first["weight"].to_numpy(dtype=float),
            pd.read_parquet(answers) if answers.is_file() else pd.DataFrame(),
        )
