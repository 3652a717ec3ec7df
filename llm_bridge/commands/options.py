"""What commands have that is no setting of a class: files, folders, how they are carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Prompts = Annotated[
    Path, typer.Argument(metavar="PROMPTS", help="One per line, or a column prompt.")
]
Model = Annotated[
    str, typer.Option(metavar="MODEL", help="Folder of a model, or its id on the hub.")
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for results; an old one goes on.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done and what is there; write nothing.")
]

TOLD: dict[str, str | None] = {"file": None, "source.name": None}
"""Settings of every job that its command has by itself: what is read, and the model."""
