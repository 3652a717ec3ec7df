"""Search and filters of a page: which choices there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rlhf_theory.report.tables import Tags


@dataclass(frozen=True)
class Facet:
    """One kind of choice: its name in the tags, its title, and its options (value, words)."""

    name: str
    title: str
    options: tuple[tuple[str, str], ...]


def facets(
    kinds: Mapping[str, str],
    tags: Iterable[Tags],
    words: Mapping[str, str] | None = None,
) -> list[Facet]:
    """Return the choices that a page offers.

    Parameters
    ----------
    kinds
        Kind of tag to its title, in the order of the page.
    tags
        What everything on the page is about; values come in the order in which they are met.
    words
        Values to words, where they differ.

    Returns
    -------
    One facet per kind with at least two values: where there is one, there is nothing to choose.
    """
    found: dict[str, dict[str, None]] = {kind: {} for kind in kinds}
    for some in tags:
        for kind, values in _lists(some).items():
            if kind in found:
                found[kind].update(dict.fromkeys(values))
    words = words or {}
    return [
        Facet(kind, title, tuple((value, words.get(value, value)) for value in found[kind]))
        for kind, title in kinds.items()
        if len(found[kind]) > 1
    ]


def tags_json(tags: Tags) -> str:
    """Return tags as the script of the page reads them: JSON, a list per kind.

    Examples
    --------
    >>> tags_json({"world": "easy", "learner": ("A", "B")})
    '{"world": ["easy"], "learner": ["A", "B"]}'
    """
    return json.dumps(_lists(tags), ensure_ascii=False)


def _lists(tags: Tags) -> dict[str, list[str]]:
    return {k: [v] if isinstance(v, str) else list(v) for k, v in tags.items()}
