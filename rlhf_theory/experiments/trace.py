"""What a run recorded, on the host, per replica."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from rlhf_theory.errors import check_choice

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def installed(package: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions(*more: str) -> dict[str, str]:
    """Return the versions that results depend on, and those of more packages."""
    names = ("rlhf-theory", "numpy", "scipy", "torch", *more)
    present = {name: number for name in names if (number := installed(name)) is not None}
    return {"python": platform.python_version(), **present}


@dataclass(frozen=True, eq=False)
class Trace:
    """What a run recorded.

    Attributes
    ----------
    arrays
        By name, shape ``(R, T + 1)``: column ``t`` holds the policy after ``t`` rounds (or trained
        on the ``t``-th number of pairs), the ``labels`` that it has used, and what the round that
        it played reported, NaN in the last.
    index
        What the columns count: rounds ``0 .. T``, or the numbers of pairs of an offline run.
    index_name
        ``"round"`` or ``"pairs"``.
    settings
        Learner, world, seed, block size.
    """

    arrays: Mapping[str, np.ndarray]
    index: np.ndarray
    index_name: str = "round"
    settings: Mapping[str, object] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one recorded array, shape ``(R, T + 1)``."""
        check_choice("name", name, self.arrays)
        return self.arrays[name]

    @property
    def n_replicas(self) -> int:
        """Number of replicas ``R``."""
        return int(next(iter(self.arrays.values())).shape[0])

    def to_pandas(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Return a tidy frame: replica, round (or pairs), and one column per recorded name."""
        import pandas as pd  # noqa: PLC0415  (most of the time to import, and no run needs it)

        chosen = list(self.arrays) if names is None else list(names)
        r, t = self.n_replicas, len(self.index)
        frame = {
            "replica": np.repeat(np.arange(r), t),
            self.index_name: np.tile(self.index, r),
        }
        return pd.DataFrame({**frame, **{name: self[name].ravel() for name in chosen}})

    def summary(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Return mean, 95 % interval of the mean and 5-95 % quantiles over replicas, per column.

        The interval is the normal one, mean +- 1.96 standard errors; NaN with one replica, and
        where a value is infinite. A NaN in a column makes all of it NaN.
        """
        import pandas as pd  # noqa: PLC0415  (most of the time to import, and no run needs it)

        rows = []
        for name in self.arrays if names is None else names:
            values = self[name]
            r = values.shape[0]
            mean = values.mean(axis=0)
            error = np.full_like(mean, np.nan)
            with np.errstate(invalid="ignore"):  # infinite gaps: their spread is NaN
                if r > 1:
                    error = values.std(axis=0, ddof=1) / np.sqrt(r)
                low, high = np.quantile(values, [0.05, 0.95], axis=0)
            rows.append(
                pd.DataFrame(
                    {
                        "metric": name,
                        self.index_name: self.index,
                        "mean": mean,
                        "lower": mean - 1.96 * error,
                        "upper": mean + 1.96 * error,
                        "q05": low,
                        "q95": high,
                    }
                )
            )
        return pd.concat(rows, ignore_index=True)

    def plot(self, name: str) -> Figure:
        """Return a matplotlib figure of one recorded name; see `plots.traces.trace_figure`."""
        # The one import that points up, declared in `pyproject.toml`. Here, so that matplotlib
        # stays out of runs that draw nothing.
        from rlhf_theory.plots.traces import trace_figure  # noqa: PLC0415

        return trace_figure(self, name)
