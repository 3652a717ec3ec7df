"""What the cells in a folder are: which hold results of older code, to be dropped or adopted.

``cells/KEY/cell.json`` says what a key is a hash of, and what its code was made of. Results are of
older code where all settings are those of a cell of the study, and code or version is another.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf_theory.engine.seals import encode
from rlhf_theory.engine.sources import code_of
from rlhf_theory.store import (
    DamagedError,
    canonical,
    read_json,
    seal,
    unseal,
    write_atomic,
    write_json,
)
from rlhf_theory.studies.cells import CODE, Cell, is_spec
from rlhf_theory.studies.tables import REPEATED, read_block, rekeyed

_NAME = "cell.json"


@dataclass(frozen=True, kw_only=True)
class Older:
    """Results of older code.

    Attributes
    ----------
    key
        Key of their cell, the name of their folder.
    blocks
        Names of their blocks, without key and ending.
    written
        When the last of them was written, in seconds since 1970.
    changed
        What is another one now, in words.
    """

    key: str
    blocks: tuple[str, ...]
    written: float
    changed: tuple[str, ...]


def keep_identity(folder: Path, cell: Cell) -> None:
    """Write what a cell is into its folder, once; ``OSError`` if it cannot be written."""
    if _said(folder).get("key") != cell.key:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _NAME, seal(_content(cell)))


def _said(folder: Path) -> dict[str, Any]:
    """Return what a folder says that it is; nothing where that is not what was written."""
    try:
        return unseal(read_json(folder / _NAME) or {})
    except DamagedError:
        return {}


def _content(cell: Cell) -> dict[str, Any]:
    roots = {code.rpartition(" ")[0] for code in _codes([cell.world, cell.learner])}
    made_of = {root: dict(_parts(root)) for root in sorted(roots)}
    return {"key": cell.key, "identity": cell.identity, "made_of": made_of, "adopted": []}


def _codes(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if is_spec(value) and "code" in value:
            yield str(value["code"])
        for inner in value.values():
            yield from _codes(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _codes(inner)


def unmarked(value: object) -> Any:
    """Return plain data without what their specs say of code and versions."""
    if isinstance(value, Mapping):
        drop = CODE if is_spec(value) else ()
        return {name: unmarked(inner) for name, inner in value.items() if name not in drop}
    return [unmarked(inner) for inner in value] if isinstance(value, list | tuple) else value


def as_on_disk(cell: Cell) -> Cell:
    """Return a cell with the code that its files hold now; nothing is imported.

    Where that cannot be found, the code stays what it was.
    """
    if not any(_codes([cell.world, cell.learner])):
        return cell

    def now(value: object) -> Any:
        if isinstance(value, Mapping):
            spec = {name: now(inner) for name, inner in value.items()}
            named = is_spec(value) and "code" in value
            return spec | ({"code": _on_disk(value["code"])} if named else {})
        return [now(inner) for inner in value] if isinstance(value, list | tuple) else value

    return replace(cell, world=now(cell.world), learner=now(cell.learner))


def _on_disk(code: str) -> str:
    try:
        return code_of(code.rpartition(" ")[0], on_disk=True).text
    except ValueError:
        return code


def older(folder: Path, cells: Iterable[Cell]) -> dict[str, list[Older]]:
    """Return the results of older code in the folder of a study, the latest first.

    Parameters
    ----------
    folder
        The folder.
    cells
        The cells as they are now.

    Returns
    -------
    By key of the cells that have such results.
    """
    cells = list(cells)
    keys, all_of = {cell.key for cell in cells}, folder / "cells"
    others = [p for p in all_of.iterdir() if p.name not in keys] if all_of.is_dir() else []
    wanted = {canonical(unmarked(cell.identity)): cell for cell in cells} if others else {}
    found: dict[str, list[Older]] = {}
    for place in others:
        says = _said(place)
        if says.get("key") != place.name:
            continue
        cell = wanted.get(canonical(unmarked(says["identity"])))
        files = sorted(place.glob("r*.parquet"))
        if cell is not None and files:
            found.setdefault(cell.key, []).append(_older(cell, says, files))
    for results in found.values():
        results.sort(key=lambda one: one.written, reverse=True)
    return found


def _older(cell: Cell, says: Mapping[str, Any], files: list[Path]) -> Older:
    return Older(
        key=says["key"],
        blocks=tuple(path.stem for path in files),
        written=max(path.stat().st_mtime for path in files),
        changed=tuple(_changed(cell, says)),
    )


def _changed(cell: Cell, says: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is another one now than it was for some results."""
    before = set(_codes(says["identity"]))
    for code in dict.fromkeys(_codes([cell.world, cell.learner])):
        if code not in before:
            root = code.rpartition(" ")[0]
            old, new = says["made_of"].get(root, {}), _parts(root, on_disk=True)
            yield from sorted(n for n in {*old, *new} if old.get(n) != new.get(n)) or [root]
    versions = (_versions(part) for part in (says["identity"], cell.identity))
    for (kind, was), (_, now) in zip(*versions, strict=False):
        if was != now:
            yield f"VERSION of {kind}, {was} then and {now} now"


def _parts(root: str, *, on_disk: bool = False) -> Mapping[str, str]:
    try:
        return code_of(root, on_disk=on_disk).parts
    except ValueError:
        return {}


def _versions(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        if is_spec(value):
            yield value["kind"], value["version"]
        for name in sorted(value):
            yield from _versions(value[name])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _versions(inner)


# ----------------------------------------------------------------------------- what to do with them


def drop(folder: Path, found: Mapping[str, list[Older]]) -> None:
    """Remove results of older code."""
    for results in found.values():
        for one in results:
            shutil.rmtree(folder / "cells" / one.key)


def adopt(folder: Path, cells: Iterable[Cell], found: Mapping[str, list[Older]]) -> None:
    """Make results of older code those of the cells as they are now; numbers stay as they are.

    The latest results win; a block that is there already stays, and so does the older one, as does
    one that cannot be read. The cell says which blocks it has adopted from where.
    """
    for cell in {cell.key: cell for cell in cells if cell.key in found}.values():
        place = folder / "cells" / cell.key
        for one in found[cell.key]:
            _adopt(folder / "cells" / one.key, place, cell, one)


def _adopt(source: Path, place: Path, cell: Cell, one: Older) -> None:
    new = [name for name in one.blocks if not (place / f"{name}.parquet").exists()]
    keep_identity(place, cell)
    says = _said(place) or _content(cell)

    def say(blocks: list[str]) -> None:
        entry = {"key": one.key, "changed": list(one.changed), "blocks": blocks}
        adopted = [*says["adopted"], *([entry] if blocks else [])]
        write_json(place / _NAME, seal({**says, "adopted": adopted}))

    # Said before it is done: a kill in between says too much, and never too little.
    say(new)
    moved = [name for name in new if _move(source / f"{name}.parquet", place, cell)]
    say(moved)
    if not any(source.glob("r*.parquet")):
        shutil.rmtree(source)


def _move(path: Path, place: Path, cell: Cell) -> bool:
    try:
        table, _ = read_block(path, cell)
    except ValueError:
        return False  # damaged: computed anew, and still there to look at
    write_atomic(place / path.name, encode(rekeyed(table, cell.key), REPEATED))
    path.unlink()
    return True


def adopted(folder: Path, cells: Iterable[Cell]) -> dict[str, list[dict[str, Any]]]:
    """Return what some cells have adopted, by key: ``key`` it had, ``changed``, ``blocks``."""
    says = {c.key: _said(folder / "cells" / c.key) for c in cells}
    return {key: content["adopted"] for key, content in says.items() if content.get("adopted")}
