"""``rlhf-theory new`` and ``rlhf-theory schema``: study files before they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def new(
    name: Annotated[str, typer.Argument(help="Name of the study; the file is NAME.toml.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="STUDY", help="A study to copy: a file or a listed name."),
    ] = None,
) -> None:
    """Write a commented study file that runs as it is."""
    from rlhf_theory.studies.bundled import study_text
    from rlhf_theory.studies.skeleton import copied, skeleton

    name = name.removesuffix(".toml")
    path = Path(f"{name}.toml")
    text = skeleton(name) if source is None else copied(study_text(source), name)
    if path.exists():
        message = f"{path} exists already, and is left as it is. Choose another name."
        raise ValueError(message)
    path.write_text(text, encoding="utf-8")
    typer.echo(f"{path}: change what you like, then `rlhf-theory run {path} --dry-run`.")


def schema() -> None:
    """Print the JSON schema of study files, for editors that complete and check."""
    from rlhf_theory.studies.skeleton import json_schema
    from rlhf_theory.study import Study

    typer.echo(json.dumps(json_schema(Study), indent=2, ensure_ascii=False))
