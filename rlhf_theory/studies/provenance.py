"""Where results come from: one file per run of a study, for whoever reads them years later."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import loky
import numpy as np
from threadpoolctl import threadpool_info

from rlhf_theory.engine.exceptions import writable
from rlhf_theory.engine.workers import Worker
from rlhf_theory.experiments.doctor import extras
from rlhf_theory.experiments.trace import versions
from rlhf_theory.register import found
from rlhf_theory.store import write_json

_ALSO = ("pandas", "pyarrow", "pydantic", "loky")
_GIT_PATIENCE = 5.0


class Provenance:
    """The record of one run of a study, under ``provenance/`` in its folder.

    Written at the start, so that a killed run has left one, and again at the end.

    Parameters
    ----------
    folder
        Folder of the study.
    command
        What was typed, or the call in Python, as a list of words.
    study
        The resolved study.
    origins
        Where each setting came from: dotted place to ``"file"``, ``"--set"``, ``"default"`` ...
    backend, jobs
        How it is run.
    older
        What was done with which results of older code; None where nobody asked.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> record = Provenance(folder, ["run", "a.toml"], {"name": "a"}, backend="serial", jobs=1)
    >>> record.end({"done": 3})
    >>> json.loads(record.path.read_text())["tally"]
    {'done': 3}
    """

    def __init__(
        self,
        folder: Path | str,
        command: Sequence[str],
        study: Mapping[str, object],
        *,
        origins: Mapping[str, str] | None = None,
        backend: str,
        jobs: int,
        older: Mapping[str, object] | None = None,
    ) -> None:
        now = datetime.now(UTC)
        self._clock = time.monotonic()
        self._workers: dict[tuple[str, tuple[tuple[str, str], ...]], set[int]] = {}
        content = {
            "command": [str(word) for word in command],
            "start": now.isoformat(timespec="seconds"),
            "end": None,
            "seconds": None,
            "tally": None,
            "backend": backend,
            "jobs": jobs,
            "workers": [],
            "older": older,
            **surroundings(),
            "study": study,
            "origins": origins or {},
        }
        self._content: dict[str, object] = plain_json(content)
        place = Path(folder) / "provenance"
        place.mkdir(parents=True, exist_ok=True)
        # Sorted by name is sorted by time, within a second too; the last part is for two machines.
        self.path = place / f"{now:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:6]}.json"
        write_json(self.path, self._content)

    def hire(self, worker: Worker) -> None:
        """Name the worker of an answer; those of one machine with the same versions together."""
        where = (worker.host, tuple(sorted(worker.versions.items())))
        news = where not in self._workers
        self._workers.setdefault(where, set()).add(worker.process)
        if news:  # a killed run has said it, too
            self._write()

    def end(self, tally: object) -> None:
        """Add the end, the duration, and what became of the blocks."""
        self._content |= {
            "end": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 3),
            "tally": plain_json(tally),
        }
        self._write()

    def _write(self) -> None:
        self._content["workers"] = [
            {"host": host, "processes": len(those), "versions": dict(versions)}
            for (host, versions), those in self._workers.items()
        ]
        # A full disk is said by the tally; it must not be hidden by an error from here.
        with suppress(OSError):
            write_json(self.path, self._content)


def surroundings() -> dict[str, object]:
    """Return versions, linear algebra, code state and machine; no environment variables."""
    return {
        "versions": versions() | _versions([*_ALSO, *_of_backends()]),
        "linear_algebra": _libraries(),
        "git": git_state(Path.cwd()),
        "machine": {
            "host": platform.node(),
            "system": f"{platform.system()} {platform.release()}",
            "architecture": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "usable_cores": loky.cpu_count(),
            "python": sys.version.split()[0],
        },
    }


def _of_backends() -> list[str]:
    """Return the packages that backends need, those of the extras of their names."""
    known = found("backend")
    return [part for name, parts in extras().items() if name in known for part in parts]


def _versions(names: Sequence[str]) -> dict[str, str]:
    have = {}
    for name in names:
        try:
            have[name] = version(name)
        except PackageNotFoundError:
            continue
    return have


def _libraries() -> list[dict[str, object]]:
    """Return the loaded BLAS and OpenMP libraries; workers use one thread whatever is said here."""
    names = ("user_api", "internal_api", "version", "num_threads", "architecture")
    rows = [{name: info.get(name) for name in names} for info in threadpool_info()]
    return sorted(rows, key=str)


def _processor() -> str:
    """Return the name of the processor, as good as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, ValueError):
        pass
    return platform.processor() or platform.machine()


def git_state(folder: Path) -> dict[str, object] | None:
    """Return ``commit`` and ``dirty`` (tracked files differ) of the repository around a folder.

    None where there is no repository, no git, or no answer in time.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else changes != ""}


def _git(folder: Path, *words: str) -> str | None:
    # Without the lock: asking for the state must not get in the way of another git.
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_PATIENCE, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def plain_json(value: object) -> Any:
    """Return plain data that JSON can hold; numbers that are not finite, and objects, are text.

    Text is made `writable`.

    Examples
    --------
    >>> plain_json({"a": (1, float("inf")), "b": Path("x"), 2: None})
    {'a': [1, 'inf'], 'b': 'x', '2': None}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return writable(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {writable(str(k)): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(v) for v in value]
    return writable(str(value))
