"""What every command of the bridge does around its work: checks, answers to errors, exit codes."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

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


def configured(**names: str | None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command that takes ``--config``, beside what `command` does.

    ``names`` are as in `config.config_values`: what options are called that are settings of the
    world under another name.
    """

    def decorated(function: Callable[..., None]) -> Callable[..., None]:
        made = command(function)
        signature = inspect.signature(made)

        def read(ctx: typer.Context, path: Path | None) -> Path | None:
            if path is not None:
                from llm_bridge.commands.config import config_values

                try:
                    ctx.default_map = config_values(path, [*signature.parameters], names)
                except (ValueError, OSError) as error:
                    typer.echo(f"Error: {error}", err=True)
                    raise typer.Exit(2) from None
            return path

        option = typer.Option(
            metavar="STUDY",
            is_eager=True,  # before the options for which it speaks
            callback=read,
            help="A study file, whose world of prompts says what is not given here.",
        )
        config = inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, option],
        )

        @functools.wraps(made)
        def run(*, config: Path | None = None, **given: Any) -> None:  # noqa: ARG001
            made(**given)

        known = [*signature.parameters.values(), config]
        vars(run)["__signature__"] = signature.replace(parameters=known)
        return run

    return decorated


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Answer what a command raises with one line and an exit code.

    0: done; 2: bad input, or something that cannot be done with it; 3: labels by people are
    missing; 130: interrupted, the same command goes on.

    A parameter whose type is a group of options, a dataclass, stands for all of them.
    """
    signature = inspect.signature(function, eval_str=True)
    known = signature.parameters.values()
    groups = {p.name: p.annotation for p in known if _is_group(p.annotation)}

    @functools.wraps(function)
    def guarded(**given: Any) -> None:
        try:
            require_libraries()
            if given.get("offline"):
                work_offline()
            for name, group in groups.items():
                given[name] = group(**{f.name: given.pop(f.name) for f in fields(group)})
            function(**given)
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

    flat = [option for parameter in known for option in _options_of(parameter)]
    vars(guarded)["__signature__"] = signature.replace(parameters=flat)
    return guarded


def _is_group(hint: object) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _options_of(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield the options that a parameter stands for."""
    if _is_group(parameter.annotation):
        for option in inspect.signature(parameter.annotation, eval_str=True).parameters.values():
            yield option.replace(kind=parameter.kind)
    else:
        yield parameter
