"""``rlhf-theory lm demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import command


@command
def demo(
    out: o.Out,
    quick: Annotated[
        bool, typer.Option("--quick", help="As small as it gets: shows that everything runs.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all draws.")] = 0,
    dry_run: o.DryRun = False,
) -> None:
    """Run the tiny world end to end: imitation, offline, online and Nash, to one report.

    A language model of 89 000 parameters is trained from nothing; nothing is downloaded. Takes a
    few minutes; stopped, it goes on.
    """
    from llm_bridge.demo.job import DemoJob
    from llm_bridge.jobs.job import carry_out

    carry_out(DemoJob(quick=quick, seed=seed), out, dry_run=dry_run, say=typer.echo)
