"""How a job is carried out: planned, its folder claimed, run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rlhf_theory.store import MARKER, claim_folder

Say = Callable[[str], None]
"""Shows a line to the user."""


class Job(Protocol):
    """One call of a command."""

    def study(self) -> Mapping[str, object]:
        """Return what the results depend on, as plain data; checks the input files."""
        ...

    def plan(self, out: Path) -> Sequence[str]:
        """Return lines that say what would be done and what is there; writes nothing."""
        ...

    def run(self, out: Path, say: Say) -> None:
        """Do it. What is there already is not computed again."""
        ...


def carry_out(job: Job, out: Path, *, dry_run: bool, say: Say) -> None:
    """Run a job in its folder, or only say what it would do.

    A job that fails before it has written anything gives its folder back.

    Raises
    ------
    ValueError
        If the folder belongs to another job or to other settings. Nothing is changed then.
    """
    study = job.study()
    if dry_run:
        for line in job.plan(out):
            say(line)
        there = f"goes on in {out}" if (out / "study.json").is_file() else f"would write to {out}"
        say(f"Dry run: nothing was written; it {there}.")
        return
    made = not out.exists()
    claim_folder(out, flat(study))
    try:
        job.run(out, say)
    except BaseException:
        # A typing error in the name of a model must not occupy the folder.
        if [p.name for p in out.iterdir()] == [MARKER]:
            (out / MARKER).unlink()
            if made:
                out.rmdir()
        raise


def flat(settings: Mapping[str, object]) -> dict[str, object]:
    """Return nested settings by dotted names, so that a difference can be named.

    Examples
    --------
    >>> flat({"seed": 0, "training": {"epochs": 1.0, "lora": {"rank": 8}}})
    {'seed': 0, 'training.epochs': 1.0, 'training.lora.rank': 8}
    """
    result: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            result |= {f"{name}.{inner}": v for inner, v in flat(value).items()}
        else:
            result[name] = value
    return result
