"""What every command of the bridge does around its work: checks, answers to errors, exit codes."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import typer

PENDING = 3
"""Exit code of a run that waits for labels by people."""

_NEEDED = ("torch", "transformers", "accelerate", "safetensors", "filelock")


def require_libraries() -> None:
    """Raise ``ValueError`` unless everything that the extra ``llm`` installs is there."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        message = (
            f"The commands for language models need {', '.join(missing)}, which "
            "is not installed: pip install 'rlhf-theory[llm]'"
        )
        raise ValueError(message)


def work_offline() -> None:
    """Let no library ask a hub; has to come before transformers is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Answer what a command raises with one line and an exit code.

    0: done; 2: bad input, or something that cannot be done with it; 3: labels by people are
    missing; 130: interrupted, the same command goes on.
    """

    @functools.wraps(function)
    def guarded(*args: Any, **given: Any) -> None:
        try:
            require_libraries()
            if _offline(*args, **given):
                work_offline()
            function(*args, **given)
        except KeyboardInterrupt:
            typer.echo("Interrupted. The same command goes on from what is there.", err=True)
            raise typer.Exit(130) from None
        except (ValueError, OSError, MemoryError) as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from None
        except RuntimeError as error:
            # Imported only now: it is light, but nobody needs it for --help.
            from llm_bridge.errors import LabelsPending
            from rlhf_theory.errors import ConvergenceError

            if isinstance(error, LabelsPending):
                typer.echo(str(error))
                raise typer.Exit(PENDING) from None
            if isinstance(error, ConvergenceError):
                typer.echo(f"Error: {error}", err=True)
                raise typer.Exit(2) from None
            raise

    return guarded


def _offline(ctx: typer.Context | None = None, **_: Any) -> bool:
    """Return whether the settings of a command say that no hub is asked."""
    tables: Mapping[str, Any] = (ctx.obj if ctx is not None else None) or {}
    return bool({**tables, **tables.get("source", {})}.get("offline"))
