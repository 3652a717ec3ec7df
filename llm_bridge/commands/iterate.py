"""``rlhf-theory lm iterate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from llm_bridge.commands import options as o
from llm_bridge.commands.guard import command
from llm_bridge.commands.setting_options import Names, SettingsCommand

if TYPE_CHECKING:
    from rlhf_theory.study import StudyResult


class IterateCommand(SettingsCommand):
    """A command with an option for each setting of prompts, of features and of a training."""

    names: ClassVar[Names] = {
        "prompts": None,
        "folder": None,
        "game": None,
        "features.encoder": None,
        # Beside the texts of a pass and the labels of a round it needs a name of its own.
        "training.batch_size": "minibatch",
    }

    def classes(self) -> list[tuple[str, type]]:
        """Return the world, and how a planner or a learner trains in it."""
        from llm_bridge.jobs.prompts import Prompts
        from llm_bridge.training.settings import TrainingSettings

        return [("", Prompts), ("training.", TrainingSettings)]


@command
def iterate(
    ctx: typer.Context,
    *,
    file: o.Prompts,
    out: o.Out,
    learner: Annotated[
        str, typer.Option(help="A learner of `rlhf-theory list learners` that plays rounds.")
    ] = "online-iterative",
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PLACE=VALUE",
            help="A setting of the learner, as in a study: planner=imitation, "
            "enhancer=from-reference, planner.loss=ipo, radius.beta=2; repeatable.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of labels.")] = 3,
    dry_run: o.DryRun = False,
) -> None:
    """Train online: ask about the current policy, fit, train, evaluate, and again.

    Writes the study that this is, OUT/study.toml, and runs it: `rlhf-theory status`, `extend OUT
    --rounds N`, `compare`, `plot` and `report` work on OUT, and the same command goes on. With
    --labels people it stops with exit code 3 whenever labels are missing, and says where the
    questions are. OUT/model is the last policy with its card, OUT/rounds has the answers of all.
    """
    import tomllib

    from llm_bridge.jobs.online import online_study, toml_text
    from rlhf_theory.commands.studies import carried_out, say_plan
    from rlhf_theory.studies.running import plan_study
    from rlhf_theory.study import Study

    world = {"prompts": str(file), **ctx.obj}
    training = world.pop("training", {})
    if "batch_size" in training:
        training["minibatch"] = training.pop("batch_size")
    tables = online_study(
        world, rounds=rounds, learner=learner, changes=sets or (), training=training
    )
    text = toml_text(tables, "Written by `rlhf-theory lm iterate`; `rlhf-theory run` takes it too.")
    study = Study(**tomllib.loads(text))
    if dry_run:
        typer.echo(text)
        say_plan(study, plan_study(study, out))
        return
    typer.echo(f"Study: {out / 'study.toml'}")
    result, code = carried_out(study, out, toml=text)
    if code == 0:
        _say_rounds(result)
        _link_files(result)
    raise typer.Exit(code)


_HEADLINE = {
    "gold reward": ("fresh_gold", "pool_gold"),
    "KL": ("fresh_kl_k1", "pool_kl"),
    "J": ("fresh_objective", "pool_objective"),
    "win rate": ("fresh_win_rate", "pool_win_rate"),
    "exploitability": ("pool_exploitability",),
}


def _say_rounds(result: StudyResult) -> None:
    """Say the main numbers of every policy, the mean over replicas."""
    for number, rows in result.curves.groupby("round"):
        means = rows.mean(numeric_only=True).dropna()
        found = {str(name): float(mean) for name, mean in means.items()}
        typer.echo(f"Round {number}: {_headline(found)}")


def _headline(found: Mapping[str, float]) -> str:
    words = {word: [found[n] for n in names if n in found] for word, names in _HEADLINE.items()}
    return ", ".join(f"{word} {values[0]:.3g}" for word, values in words.items() if values)


def _link_files(result: StudyResult) -> None:
    """Give what the first block has left names in the folder: the model, and all answers."""
    from rlhf_theory.studies.blocks import LEFT

    out = result.folder.path
    [task, *_] = result.folder.tasks(result.cells)
    for name in ("model", "rounds"):
        target, link = task.beside(LEFT) / name, out / name
        if target.is_dir() and (link.is_symlink() or not link.exists()):
            link.unlink(missing_ok=True)
            link.symlink_to(target.relative_to(Path(task.folder)), target_is_directory=True)
            typer.echo(f"{name.capitalize()}: {link}")
