"""The commands ``rlhf-theory lm ...``; importing them imports neither torch nor transformers."""

from __future__ import annotations

import typer

from llm_bridge.commands.demo import demo
from llm_bridge.commands.embed import EmbedCommand, embed
from llm_bridge.commands.evaluate import EvaluateCommand, evaluate
from llm_bridge.commands.fit import FitCommand, fit
from llm_bridge.commands.iterate import IterateCommand, iterate
from llm_bridge.commands.select import SelectCommand, select
from llm_bridge.commands.train import TrainCommand, train

__all__ = ["application"]

application = typer.Typer(
    help="The same learners on language models: features, rewards, labels, training, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _part, _options in (
    (embed, EmbedCommand),
    (fit, FitCommand),
    (select, SelectCommand),
    (train, TrainCommand),
    (iterate, IterateCommand),
    (evaluate, EvaluateCommand),
    (demo, None),
):
    application.command(_part.__name__, cls=_options)(_part)
