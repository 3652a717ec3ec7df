"""Rows of numbers on disk, by the content they were computed from.

A row is published by its entry in the index, which is written after the row itself. A writer that
is killed, or meets a full disk, leaves at most a tail that no entry names: readers do not see it,
the next writer overwrites it. Entries carry a checksum, so that a row damaged in another way (a
truncated file, a power failure) counts as missing and is computed again.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import json
import threading
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from llm_bridge.storage.folders import claim
from rlhf_theory.errors import ShapeError, check_choice
from rlhf_theory.store import DamageWarning

ROOT = {"kind": "llm_bridge row cache", "format": 1}
"""What the marker of a cache's folder says; ``format`` changes with the files below it."""

INDEX = np.dtype([("key", "V16"), ("checksum", "<u4")])
"""One entry of the index; entry ``i`` belongs to row ``i``."""

DTYPES: dict[str, np.dtype[np.floating]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}

LOCK_SECONDS = 600.0
"""How long a writer waits for the others; each holds the lock for one append only."""


def row_key(*parts: Sequence[int]) -> bytes:
    """Return the key of a row, 16 bytes: a hash of sequences of integers and of where each ends.

    ``row_key(prompt_ids, response_ids)`` differs when a token moves from one to the other.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(np.asarray(part, dtype="<i8").tobytes())
    return digest.digest()


class RowCache:
    """Rows of equal length by content key: append-only, memory-mapped, shared by processes.

    Any number of processes may read and append at the same time; each sees complete rows only.
    Nothing in the files is ever changed or removed. Appending takes a lock (``flock``), which the
    system frees when its holder dies.

    Parameters
    ----------
    folder
        Folder of the cache; made if it is missing. It holds one sub-folder per configuration.
    configuration
        What the rows depend on besides their keys: plain data.
    width
        Numbers per row, kept as ``dtype``.
    n_exact
        Further numbers per row that are kept in double precision, such as log-probabilities; 0 or
        more.
    dtype
        ``"float32"`` or ``"float16"``, which halves the file.

    Raises
    ------
    ValueError
        If the folder holds something else. Nothing is changed then.
    """

    def __init__(
        self,
        folder: str | Path,
        configuration: Mapping[str, object],
        *,
        width: int,
        n_exact: int = 0,
        dtype: str = "float32",
    ) -> None:
        check_choice("dtype", dtype, DTYPES)
        if width < 0 or n_exact < 0 or width + n_exact == 0:
            message = (
                f"A row must have numbers: width and n_exact are at least 0, their sum at least 1; "
                f"got {width} and {n_exact}."
            )
            raise ValueError(message)
        self.width, self.n_exact, self.dtype = int(width), int(n_exact), DTYPES[dtype]
        identity = {
            "configuration": json.loads(json.dumps(configuration, sort_keys=True)),
            "width": self.width,
            "n_exact": self.n_exact,
            "dtype": dtype,
        }
        text = json.dumps({**ROOT, **identity}, sort_keys=True)
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        root = Path(folder).expanduser()
        claim(root, ROOT)
        self.folder = root / name
        claim(self.folder, identity)
        self._record = np.dtype(
            [("exact", "<f8", (self.n_exact,)), ("row", self.dtype, (self.width,))]
        )
        self._rows_file, self._index_file = self.folder / "rows.bin", self.folder / "index.bin"
        self._lock = FileLock(self.folder / "lock", timeout=LOCK_SECONDS)
        self._threads = threading.RLock()
        self._forget()
        self._refresh()

    def __len__(self) -> int:
        """Rows that can be read now, those of other processes included."""
        with self._threads:
            self._refresh()
            return len(self._places)

    def lookup(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which rows are there, and the rows.

        Parameters
        ----------
        keys
            ``n`` keys, see `row_key`; they may repeat.

        Returns
        -------
        found : (n,) bool
        rows : (n, width), of the cache's dtype; 0 where not found
        exact : (n, n_exact) float64; 0 where not found
        """
        with self._threads:
            self._refresh()
            places = np.array([self._places.get(key, -1) for key in keys], dtype=np.int64)
            found = places >= 0
            result = np.zeros(len(keys), dtype=self._record)
            if found.any():
                result[found] = self._map[places[found]]
            raw = result.view(np.uint8).reshape(len(keys), self._record.itemsize)
            damaged = [
                i
                for i in np.nonzero(found)[0].tolist()
                if _checksum(keys[i], raw[i].data) != self._checksums[places[i]]
            ]
            for i in damaged:
                # Forgotten here, so that it can be appended again; the later entry counts.
                self._places.pop(keys[i], None)
                found[i], result[i] = False, np.zeros((), dtype=self._record)
        if damaged:
            message = (
                f"{self._rows_file} is damaged: {len(damaged)} of its rows are not what was "
                "written. They stay where they are, are not used, and are computed anew."
            )
            warnings.warn(message, DamageWarning, stacklevel=2)
        return found, result["row"], result["exact"]

    def append(
        self, keys: Sequence[bytes], rows: np.ndarray, exact: np.ndarray | None = None
    ) -> int:
        """Add rows, skip those that are there, return how many were added.

        Parameters
        ----------
        keys
            ``n`` keys; of a repeated one the first row counts.
        rows
            Shape ``(n, width)``; rounded to the cache's dtype.
        exact
            Shape ``(n, n_exact)``; may be None where ``n_exact`` is 0.

        Raises
        ------
        ValueError
            For rows that are not finite (in half precision: beyond 65504). Nothing is added.
        OSError
            If the disk is full or the folder cannot be written. What was there stays readable.
        """
        block = self._block(keys, rows, exact)
        try:
            with self._threads, self._lock:
                self._refresh()
                first: dict[bytes, int] = {}
                for i, key in enumerate(keys):
                    if key not in self._places:
                        first.setdefault(key, i)
                if first:
                    self._write(list(first), block[list(first.values())])
                    self._refresh()
                return len(first)
        except OSError as error:
            message = (
                f"Rows cannot be added to the cache {self.folder}: {error.strerror or error}. "
                "What it holds is intact; free space, or choose another folder."
            )
            raise OSError(*([error.errno] if error.errno else []), message) from error

    def _block(
        self, keys: Sequence[bytes], rows: np.ndarray, exact: np.ndarray | None
    ) -> np.ndarray:
        """Return the records, shape ``(n,)``, after checks."""
        if exact is None:
            exact = np.empty((len(keys), 0))
        for name, values, width in (("rows", rows, self.width), ("exact", exact, self.n_exact)):
            if values.shape != (len(keys), width):
                message = f"{name} must have shape {(len(keys), width)}; got {values.shape}."
                raise ShapeError(message)
        if any(len(key) != INDEX["key"].itemsize for key in keys):
            message = "Keys must be those of row_key, 16 bytes each."
            raise ValueError(message)
        block = np.empty(len(keys), dtype=self._record)
        with np.errstate(over="ignore"):
            block["row"], block["exact"] = rows, exact
        finite = np.isfinite(block["row"]).all(axis=1) & np.isfinite(block["exact"]).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            message = f"Rows must be finite as {self.dtype.name}; row {row} is not."
            if np.isfinite(rows[row]).all():
                message += " Its numbers are too large: use float32."
            raise ValueError(message)
        return block

    def _write(self, keys: list[bytes], block: np.ndarray) -> None:
        """Write rows, then their entries; the lock is held and the view is fresh."""
        start = self._n * self._record.itemsize
        # Entries beyond the complete rows, left by a cut-off file, would publish rows too early.
        _cut(self._index_file, self._n * INDEX.itemsize)
        try:
            _write_at(self._rows_file, start, block.tobytes())
        except OSError:
            # Nobody has seen these rows, so their space can be given back.
            with contextlib.suppress(OSError):
                _cut(self._rows_file, start)
            raise
        entries = np.empty(len(keys), dtype=INDEX)
        entries["key"] = np.frombuffer(b"".join(keys), dtype=INDEX["key"])
        entries["checksum"] = [_checksum(k, r.tobytes()) for k, r in zip(keys, block, strict=True)]
        # What fails here has published some rows or none; others may read them: leave them.
        _write_at(self._index_file, self._n * INDEX.itemsize, entries.tobytes())

    def _forget(self) -> None:
        self._n = 0
        self._places: dict[bytes, int] = {}
        self._checksums = array.array("I")
        self._map = np.empty(0, dtype=self._record)

    def _refresh(self) -> None:
        """See what was published since."""
        n = min(
            _size(self._index_file) // INDEX.itemsize,
            _size(self._rows_file) // self._record.itemsize,
        )
        if n < self._n:  # somebody cut the files
            self._forget()
        if n == self._n:
            return
        with self._index_file.open("rb") as stream:
            stream.seek(self._n * INDEX.itemsize)
            content = stream.read((n - self._n) * INDEX.itemsize)
        entries = np.frombuffer(content[: len(content) // INDEX.itemsize * INDEX.itemsize], INDEX)
        for place, key in enumerate(entries["key"].tolist(), self._n):
            self._places[key] = place
        self._checksums.extend(entries["checksum"].tolist())
        self._n += len(entries)
        if self._n:
            self._map = np.memmap(self._rows_file, dtype=self._record, mode="r", shape=(self._n,))


def _checksum(key: bytes, record: bytes | memoryview) -> int:
    return zlib.crc32(record, zlib.crc32(key))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _cut(file: Path, size: int) -> None:
    if _size(file) > size:
        with file.open("r+b") as stream:
            stream.truncate(size)


def _write_at(file: Path, start: int, content: bytes) -> None:
    file.touch()
    rest = memoryview(content)
    with file.open("r+b", buffering=0) as stream:
        stream.seek(start)
        while rest:
            rest = rest[stream.write(rest) :]
