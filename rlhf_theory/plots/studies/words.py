"""Words of the figures of studies: axes with units, and the sentences of captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rlhf_theory.plots.studies.frames import Layout, Series

_METRICS = {
    "gap": "gap J(π*) − J(π)",
    "jeffreys": "J(π*) − J(π) + η KL(π*‖π)",
    "kl": "KL(π‖π0) (nats)",
    "exploitability": "exploitability",
    "entropy": "entropy (nats)",
    "regret": "cumulative regret",
    "labels": "labels (comparisons)",
}
_SHORT = {"gap": "gap", "kl": "KL", "jeffreys": "J(π*) − J(π) + η KL(π*‖π)"}

_X = {"round": "rounds played", "pairs": "pairs drawn", "labels": "labels used (comparisons)"}


def metric_words(name: str) -> str:
    """Return the label of an axis that shows a recorded column, with its unit if it has one."""
    return _METRICS.get(name, name.replace("_", " "))


def short(name: str) -> str:
    """Return a recorded column in a word or two, for longer labels."""
    return _SHORT.get(name, name.replace("_", " "))


def x_words(kind: str) -> str:
    """Return the label of the horizontal axis: ``"round"``, ``"pairs"`` or ``"labels"``."""
    return _X.get(kind, kind)


def panel_words(layout: Layout) -> str:
    """Return the part of a sentence that says what the panels are; empty for one panel."""
    if layout.facet is None or len(layout.panels) == 1:
        return ""
    known = {"world": "world", "learner": "learner", "family": "family of worlds"}
    words = known.get(layout.facet, f"value of {layout.facet}")
    return f", one panel per {words}"


def replica_words(series: Iterable[Series]) -> str:
    """Return the number of replicas, or the range of their numbers."""
    counts = sorted({s.n_replicas for s in series})
    if len(counts) > 1:
        return f"{counts[0]} to {counts[-1]} replicas"
    return f"{counts[0]} replica" + ("s" if counts[0] != 1 else "")


def percent(level: float) -> str:
    """Return a probability as a percentage.

    Examples
    --------
    >>> percent(0.95)
    '95 %'
    """
    return f"{100 * level:.3g} %"


def where(series: Series, everything: Iterable[Series]) -> str:
    """Return ``" in WORLD"`` if the series of a figure are from several worlds."""
    return f" in {series.world}" if len({s.world for s in everything}) > 1 else ""


def infinite_words(counts: Sequence[tuple[Series, int]], unit: str = " replicas") -> str:
    """Return which series are infinite in how many of their replicas; empty where none is."""
    every = [s for s, _ in counts]
    return ", ".join(
        f"{s.label}{where(s, every)} ({n} of {s.n_replicas}{unit})" for s, n in counts if n
    )


def sentence(words: Iterable[str]) -> str:
    """Return different words joined by "or", as the start of a sentence."""
    joined = " or ".join(dict.fromkeys(words))
    return joined[:1].upper() + joined[1:]


def caption(*sentences: str) -> str:
    """Return the sentences as one paragraph; empty ones and repetitions are passed over."""
    return " ".join(dict.fromkeys(s.strip() for s in sentences if s.strip()))
