"""Folders of ours: made in one step, known by their marker."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_theory.experiments.store import MARKER, folder_study, write_json

__all__ = ["claim"]


def claim(folder: Path, marker: Mapping[str, Any], what: str = "cache") -> None:
    """Make the folder with its marker, or find that it has this marker already.

    Unlike `rlhf_theory.experiments.store.claim_folder`, several processes may do so at once.

    Parameters
    ----------
    folder
        Folder; made if it is missing, taken if it is empty.
    marker
        What the folder holds: plain data as JSON gives it back, so no tuples.
    what
        What to call it in messages.

    Raises
    ------
    ValueError
        If ``folder`` is a file, or holds anything else. Nothing is changed then.
    """
    remedy = f"Nothing was changed. Choose another folder for the {what}, or remove this one."
    if folder.exists() and not folder.is_dir():
        message = f"The {what} {folder} must be a folder; it is a file. {remedy}"
        raise ValueError(message)
    if not folder.is_dir() or not any(folder.iterdir()):
        _make(folder, marker)
    there = folder_study(folder)
    if there is None:
        some = ", ".join(sorted(p.name for p in folder.iterdir())[:3])
        message = (
            f"The {what} folder {folder} must be empty or hold a {what} of ours; it holds other "
            f"files ({some}). {remedy}"
        )
        raise ValueError(message)
    differing = [k for k in sorted({*marker, *there}) if marker.get(k) != there.get(k)]
    if differing:
        pairs = [f"{k}={marker.get(k)} (the folder has {there.get(k)})" for k in differing]
        message = (
            f"The {what} folder {folder} must be of this configuration; it is of another one: "
            f"this has {', '.join(pairs)}. {remedy}"
        )
        raise ValueError(message)


def _make(folder: Path, marker: Mapping[str, Any]) -> None:
    """Make a folder that is never seen without its marker."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.mkdir()
    try:
        write_json(temporary / MARKER, marker)
        # Takes the place of an empty folder; fails where another process was faster.
        with contextlib.suppress(OSError):
            temporary.rename(folder)
    finally:
        if temporary.is_dir():
            (temporary / MARKER).unlink(missing_ok=True)
            temporary.rmdir()
