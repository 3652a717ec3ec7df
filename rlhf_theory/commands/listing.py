"""``rlhf-theory list``: what has a name, on the terminal and in the tables of the documents."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rlhf_theory.commands.tables import aligned
from rlhf_theory.errors import check_choice
from rlhf_theory.register import Entry, found, role_named, roles

_TABLE = re.compile(r"(<!-- list ([a-z-]+) of (\w+) -->\n).*?(<!-- end of list -->)", re.DOTALL)


@dataclass(frozen=True)
class _Known:
    """One thing that can be named.

    Attributes
    ----------
    name, line, text
        Its name, what it is in one line, and at length.
    source
        Paper and result; "" where there is none.
    home
        Its module; "" where it has none.
    """

    name: str
    line: str
    text: str
    source: str = ""
    home: str = ""


def list_known(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help="theorems, learners, losses ...; all if none."),
    ] = None,
    name: Annotated[str | None, typer.Argument(help="One of them, to read more about it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    update: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write the tables of this document anew, those between <!-- list KIND of PACKAGE "
            "--> and <!-- end of list -->; repeatable.",
        ),
    ] = None,
) -> None:
    """List what has a name, and can be named in every command: theorems, learners, worlds ..."""
    for path in update or ():
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
        typer.echo(f"{path}: its tables are up to date.")
    if update:
        return
    kinds = _kinds()
    if kind is not None:
        check_choice("kind", kind, kinds)
    chosen = tuple(kinds) if kind is None else (kind,)
    known = {k: _known(k) for k in chosen}
    if name is not None:
        (things,) = known.values()
        check_choice(kinds[chosen[0]], name, [t.name for t in things])
        known = {chosen[0]: [t for t in things if t.name == name]}
    if as_json:
        plain = {
            k: [{"name": t.name, "description": t.line, "source": t.source} for t in things]
            for k, things in known.items()
        }
        content = plain if kind is None else plain[kind]
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    if name is not None:
        (thing,) = known[chosen[0]]
        typer.echo(f"{thing.name}: {thing.line}\n\n{thing.text}")
        return
    blocks = (aligned([(k, ""), *((t.name, t.line) for t in known[k])]) for k in chosen)
    typer.echo("\n\n".join(blocks))


def updated(text: str) -> str:
    """Return a document with its tables written anew from what there is now."""

    def table(found: re.Match[str]) -> str:
        things = [t for t in _known(found[2]) if t.home.partition(".")[0] == found[3]]
        return f"{found[1]}{_markdown(things)}\n{found[4]}"

    return _TABLE.sub(table, text)


def _markdown(things: Sequence[_Known]) -> str:
    rows = ["| Name | What it is | File |", "|---|---|---|"]
    for thing in things:
        file = f"`{thing.home.replace('.', '/')}.py`"
        rows.append(f"| `{thing.name}` | {thing.line.replace('|', chr(92) + '|')} | {file} |")
    return "\n".join(rows)


def _kinds() -> dict[str, str]:
    """Return what can be listed: plural to singular."""
    return {**{role_named(role).plural: role for role in roles()}, "studies": "study"}


def _known(kind: str) -> list[_Known]:
    """Return everything of a kind."""
    if kind == "studies":
        from rlhf_theory.studies.bundled import bundled_studies, title

        return [
            _Known(name, title(path), path.read_text(encoding="utf-8"))
            for name, path in bundled_studies().items()
        ]
    return [_described(entry) for entry in found(_kinds()[kind]).values()]


def _described(entry: Entry) -> _Known:
    """Return an entry as it is listed; what cannot be loaded says why."""
    if entry.problem:
        return _Known(entry.name, entry.problem, entry.problem)
    return _Known(entry.name, entry.line, entry.text, entry.paper, entry.home)
