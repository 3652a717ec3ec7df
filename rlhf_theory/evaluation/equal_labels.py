"""Curves at equal numbers of labels: what learners are compared at; on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_theory.errors import ShapeError


class LabelCurves:
    """A metric against the labels that policies have used, replica by replica.

    Parameters
    ----------
    labels
        Numbers of labels, shape ``(R, T)``; they never fall from row to row.
    values
        The metric, shape ``(R, T)``; infinite values are allowed. Where either is NaN nothing was
        recorded.

    Raises
    ------
    ShapeError
        If the shapes differ.
    """

    def __init__(self, labels: np.ndarray, values: np.ndarray) -> None:
        if labels.shape != values.shape or labels.ndim != 2:
            message = f"labels and values must be (R, T); got {labels.shape} and {values.shape}."
            raise ShapeError(message)
        missing = np.isnan(labels) | np.isnan(values)
        # What was not recorded goes to the end of a row, where no number of labels reaches it.
        count = np.where(missing, np.inf, labels)
        order = np.argsort(count, axis=1, kind="stable")
        self._labels = np.take_along_axis(count, order, axis=1)
        self._values = np.take_along_axis(values, order, axis=1)

    def rows(self, chosen: np.ndarray) -> LabelCurves:
        """Return some of the replicas, by their places."""
        return LabelCurves(self._labels[chosen], self._values[chosen])

    def last(self) -> np.ndarray:
        """Return the largest number of labels of every replica, ``(R,)``; NaN where none is."""
        finite = np.where(np.isfinite(self._labels), self._labels, -np.inf)
        most = finite.max(axis=1, initial=-np.inf)
        return np.where(np.isfinite(most), most, np.nan)

    def first(self) -> np.ndarray:
        """Return the smallest number of labels above 0, ``(R,)``; NaN where there is none."""
        some = np.where((self._labels > 0) & np.isfinite(self._labels), self._labels, np.inf)
        least = some.min(axis=1, initial=np.inf)
        return np.where(np.isfinite(least), least, np.nan)

    def at(self, labels: np.ndarray) -> np.ndarray:
        """Return the metric at numbers of labels ``(R,)``, one of each replica.

        Linear in the logarithm of the labels between recorded rows; of rows with the same number
        the last counts. NaN before the first row that has labels (but for no labels at all) and
        beyond the last: nothing is known there.
        """
        rows, last = np.arange(len(labels)), self._labels.shape[1] - 1
        here = (self._labels <= labels[:, None]).sum(axis=1) - 1
        below, above = np.clip(here, 0, last), np.clip(here + 1, 0, last)
        low, high = self._labels[rows, below], self._labels[rows, above]
        one, two = self._values[rows, below], self._values[rows, above]
        exact = (here >= 0) & (low == labels)
        between = (here >= 0) & (here < last) & (low > 0) & np.isfinite(high)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.log(labels / low) / np.log(high / low)
            mixed = (1.0 - share) * one + share * two
        # Between equal infinities the metric is that.
        mixed = np.where(one == two, one, mixed)
        return np.where(exact, one, np.where(between, mixed, np.nan))


def last_common(curves: Sequence[LabelCurves]) -> np.ndarray:
    """Return the last number of labels that all have, replica by replica, shape ``(R,)``."""
    return np.asarray(np.min([curve.last() for curve in curves], axis=0))
