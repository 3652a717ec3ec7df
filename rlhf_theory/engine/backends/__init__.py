"""Where blocks are computed: here, in local processes, on Dask, Ray or SLURM, behind one seam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rlhf_theory.engine.backends.pool import Backend, BackendError, Pool
from rlhf_theory.errors import suggestion
from rlhf_theory.register import named

__all__ = ["Backend", "BackendError", "Pool", "make_backend"]


def make_backend(name: str, options: Mapping[str, Any] | None = None) -> Backend:
    """Return a backend by name.

    Parameters
    ----------
    name
        As in ``rlhf-theory list backends``.
    options
        Settings of the backend; for SLURM also any option of ``sbatch``.

    Raises
    ------
    ValueError
        If the name or an option is unknown. Packages are looked for later, when workers start.
    """
    kind, given = named("backend", name), dict(options or {})
    known = {field.name for field in fields(kind)}
    if "parameters" in known:
        others = {key: given.pop(key) for key in list(given) if key not in known}
        given["parameters"] = {**given.get("parameters", {}), **others}
    for key in given:
        if key not in known:
            some = ", ".join(sorted(known)) or "none"
            message = (
                f"An option of the backend {name!r} must be one of: {some}; got {key!r}."
                f"{suggestion(key, known)}"
            )
            raise ValueError(message)
    backend: Backend = kind(**given)
    return backend
