"""Where the values of a study come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlhf_theory.studies.messages import Path, place_of

if TYPE_CHECKING:
    from rlhf_theory.studies.schema import Study

__all__ = ["leaves", "origins_of"]


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of all values that are no tables; lists count as one value."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path


def origins_of(
    study: Study, given: Mapping[str, Any], names: Mapping[str, str], origin: Callable[[Path], str]
) -> dict[str, str]:
    """Return place to origin for every value of a study.

    Parameters
    ----------
    study
        The study.
    given
        What was given, as plain data.
    names
        How the study calls its lists of entries.
    origin
        From the path of a value that was given to where it comes from.
    """
    found: dict[str, str] = {}
    tables = study.resolved()
    for name in ("worlds", "learners", "plots"):
        tables.pop(name, None)
    for path in leaves(tables):
        found[place_of(path)] = _of(path, given, path, origin)
    for role, items in (("world", study.world_items), ("learner", study.learner_items)):
        for item in items:
            entry = given[role + "s"][item.path[1]]
            for path in leaves(item.written()):
                if path[-1] in ("version", "online"):
                    continue
                place = item.variant.place(path)
                full: Path = (names[role], item.path[1], *place)
                found[place_of(full)] = _of(place, entry, full, origin)
    for index, plot in enumerate(study.plots):
        raw = given["plots"][index] if isinstance(given["plots"], list) else given["plots"]
        for name in type(plot).model_fields:
            full = (names["plot"], index, name)
            found[place_of(full)] = _of((name,), raw, full, origin)
    return found


def _of(path: Path, given: Any, full: Path, origin: Callable[[Path], str]) -> str:
    """Return the origin of a value: it was given if any table on the way to it ends early."""
    node = given
    for part in path:
        if isinstance(node, Mapping):
            if part not in node:
                return "default"
            node = node[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif isinstance(node, str) and part == "kind":
            break  # a bare name is the kind of a part
        else:
            return "default"
    return origin(full)
