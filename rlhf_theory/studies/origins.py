"""Where the values of a study come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from rlhf_theory.store import read_json
from rlhf_theory.studies.cells import MARKS
from rlhf_theory.studies.fields import StudyFields
from rlhf_theory.studies.items import LearnerItem, WorldItem
from rlhf_theory.studies.messages import Path, place_of


def leaves(value: object, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of all values that are no tables; lists count as one value."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path


def origins_of(
    study: StudyFields,
    given: Mapping[str, Any],
    names: Mapping[str, str],
    origin: Callable[[Path], str],
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
    for path in _top(study):
        found[place_of(path)] = _of(path, given, path, origin)
    for plural, _, item, path in _in_entries(study):
        place = item.variant.place(path)
        full: Path = (names[plural.removesuffix("s")], item.path[1], *place)
        found[place_of(full)] = _of(place, given[plural][item.path[1]], full, origin)
    for index, plot in enumerate(study.plots):
        raw = given["plots"][index] if isinstance(given["plots"], list) else given["plots"]
        for name, field in type(plot).model_fields.items():
            written = name if name in raw or field.alias is None else field.alias
            full = (names["plot"], index, written)
            found[place_of((names["plot"], index, name))] = _of((written,), raw, full, origin)
    return found


def origins_in_resolved(study: StudyFields, names: Mapping[str, str]) -> dict[str, str]:
    """Return the origins of a study by the places of `StudyFields.resolved`, which has no grids.

    Parameters
    ----------
    study
        The study.
    names
        How it calls its lists of entries.
    """
    known = study.origins
    found = {place_of(path): place_of(path) for path in _top(study)}
    for plural, index, item, path in _in_entries(study):
        found[place_of((plural, index, *path))] = place_of((*item.path, *item.variant.place(path)))
    for index, plot in enumerate(study.plots):
        for name in type(plot).model_fields:
            here = place_of((names["plot"], index, name))
            found[place_of(("plots", index, name))] = here
    return {place: known[here] for place, here in found.items() if here in known}


def stored_origins(folder: FilePath | str, resolved: Mapping[str, object]) -> dict[str, str]:
    """Return the origins of the study that is stored in a folder, by the places there.

    Parameters
    ----------
    folder
        Folder of the study.
    resolved
        The study that is stored there.

    Returns
    -------
    What the latest run of this very study has written; empty where none can be read.
    """
    for path in sorted(FilePath(folder, "provenance").glob("*.json"), reverse=True):
        record = read_json(path) or {}
        if record.get("study") == resolved:
            return {str(place): str(of) for place, of in record.get("origins", {}).items()}
    return {}


def _top(study: StudyFields) -> list[Path]:
    """Return the paths of the values outside of entries."""
    tables = study.resolved()
    for name in ("worlds", "learners", "plots"):
        tables.pop(name, None)
    return list(leaves(tables))


def _in_entries(study: StudyFields) -> Iterator[tuple[str, int, WorldItem | LearnerItem, Path]]:
    """Yield list, number, item and path of every value in the entries that somebody can set."""
    entries: tuple[tuple[str, Sequence[WorldItem | LearnerItem]], ...] = (
        ("worlds", study.world_items),
        ("learners", study.learner_items),
    )
    for plural, items in entries:
        for index, item in enumerate(items):
            for path in leaves(item.written()):
                if path[-1] not in MARKS and path != ("online",):
                    yield plural, index, item, path


def _of(path: Path, given: object, full: Path, origin: Callable[[Path], str]) -> str:
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
