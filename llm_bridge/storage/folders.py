"""Folders of ours that several processes share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlhf_theory.store import Claim, claim_folder


def claim(folder: Path, marker: Mapping[str, object], what: str = "cache") -> None:
    """Make the folder with its marker, or find that it has this marker already.

    Several processes may do so at once.

    Parameters
    ----------
    folder
        Folder; made if it is missing, taken if it is empty.
    marker
        What the folder holds, as plain data.
    what
        What to call it in messages.

    Raises
    ------
    ValueError
        If ``folder`` is a file, or holds anything else. Nothing is changed then.
    """
    words = Claim(
        what=what,
        content=f"be empty or hold a {what} of ours",
        same="be of this configuration; it is of another one",
        remedy=(f"Nothing was changed. Choose another folder for the {what}, or remove this one."),
    )
    claim_folder(folder, marker, words, shared=True)
