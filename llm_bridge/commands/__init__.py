"""The commands ``rlhf-theory lm ...``; importing them imports neither torch nor transformers."""

from __future__ import annotations

import typer

from llm_bridge.commands.demo import demo
from llm_bridge.commands.embed import embed
from llm_bridge.commands.evaluate import evaluate
from llm_bridge.commands.fit import fit
from llm_bridge.commands.iterate import iterate
from llm_bridge.commands.select import select
from llm_bridge.commands.setting_options import OnlineCommand
from llm_bridge.commands.train import train

__all__ = ["application"]

application = typer.Typer(
    help="The same learners on language models: features, rewards, labels, training, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _part in (embed, fit, select, train, iterate, evaluate, demo):
    application.command(_part.__name__, cls=OnlineCommand if _part is iterate else None)(_part)
