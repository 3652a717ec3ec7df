"""What this machine and this installation have: versions, linear algebra, processors."""

from __future__ import annotations

import importlib
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, requires

import loky
from threadpoolctl import threadpool_info

from rlhf_theory.experiments.trace import installed

_CORE = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "array-api-compat", "loky")
_EXTRA = re.compile(r"""^([\w.-]+).*;.*\bextra == ["']([\w-]+)["']""")


def findings() -> list[tuple[str, str]]:
    """Return pairs of what was looked for and what was found."""
    found = [
        ("rlhf-theory", installed("rlhf-theory") or "not installed (run from its folder)"),
        ("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("cores", f"{loky.cpu_count()} usable"),
        *((name, installed(name) or "missing") for name in _CORE),
        *(("linear algebra", line) for line in _blas()),
        *(("GPU", line) for line in _gpus()),
    ]
    return found + [(f"extra [{name}]", _extra(parts)) for name, parts in extras().items()]


def extras() -> dict[str, tuple[str, ...]]:
    """Return the packages of each extra that users install; empty where nothing is installed."""
    try:
        lines = requires("rlhf-theory") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for match in filter(None, map(_EXTRA.match, lines)):
        if match[2] != "dev":
            found[match[2]] = (*found.get(match[2], ()), match[1])
    return found


def _blas() -> list[str]:
    # Only libraries that are loaded can be seen, and SciPy brings its own.
    importlib.import_module("scipy.linalg")
    lines = [
        f"{info['internal_api']} {info.get('version') or ''}, {_threads(info['num_threads'])}"
        for info in threadpool_info()
        if info.get("user_api") == "blas"
    ]
    return sorted(set(lines)) or ["no BLAS that threadpoolctl knows"]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _gpus() -> list[str]:
    """Return the accelerators that the driver reports; asks no deep-learning library."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ["none (no nvidia-smi)"]
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"unknown: nvidia-smi gave no answer ({error})"]
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return lines if answer.returncode == 0 and lines else ["none that nvidia-smi reports"]


def _extra(parts: tuple[str, ...]) -> str:
    have = {name: installed(name) for name in parts}
    missing = [name for name, number in have.items() if number is None]
    present = ", ".join(f"{name} {number}" for name, number in have.items() if number)
    if not missing:
        return present
    return "; ".join(p for p in (present, f"missing: {', '.join(missing)}") if p)
