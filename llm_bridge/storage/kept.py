"""What models and judges said, by the content of the question: asked again, it is read.

A whole call is kept as one file, not text by text: numbers depend on which texts are read
together, so that a run that is repeated, or goes further, finds the very bits of the first.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_bridge.storage.folders import claim
from llm_bridge.storage.records import set_aside
from rlhf_theory.store import write_atomic

_MARKER = {"kind": "llm_bridge answers", "format": 1}
_DIGEST = 32
"""Bytes of the digest before the arrays."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Kept:
    """A folder of answers by content.

    Attributes
    ----------
    folder
        The folder; made with the first answer. ``ValueError`` then if it holds something else.
    """

    folder: Path

    def once(
        self, what: str, question: Mapping[str, object], answer: Callable[[], Arrays]
    ) -> Arrays:
        """Return the answer that is kept, or ask and keep it.

        Parameters
        ----------
        what
            Kind of the answer, for the name of its file.
        question
            All that the answer depends on, as plain data.
        answer
            Asks; returns arrays of numbers. What it raises is not kept.
        """
        text = json.dumps({"what": what, **question}, sort_keys=True, allow_nan=False)
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        path = self.folder / f"{what}-{name}"
        found = _read(path)
        if found is None:
            claim(self.folder, _MARKER, "folder of answers")
            found = answer()
            _write(path, found)
        return found


def words(texts: object) -> np.ndarray:
    """Return plain data as an array of bytes."""
    return np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)


def unworded(found: np.ndarray) -> object:
    """Return the plain data of `words`."""
    return json.loads(found.tobytes())


def _write(path: Path, found: Arrays) -> None:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **found)
    content = stream.getvalue()
    write_atomic(path, hashlib.blake2b(content, digest_size=_DIGEST).digest() + content)


def _read(path: Path) -> Arrays | None:
    """Return the arrays of a file; None where there is none, or it is not what was written."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, content = whole[:_DIGEST], whole[_DIGEST:]
    if hashlib.blake2b(content, digest_size=_DIGEST).digest() != digest:
        set_aside(f"{path} is not what was written; its answer is asked for again", path)
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
