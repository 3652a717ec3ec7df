"""The page of the demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge.evaluation.cards import Card
from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.figures import Drawing, frontier, frontier_points, rounds
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.evaluation.paths import gibbs_path, temperatures
from llm_bridge.evaluation.report import (
    answers_table,
    card_section,
    figure_sheets,
    pool_section,
    results_table,
    write_run_page,
)
from llm_bridge.jobs.evaluate import optimised, wins_of
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.tiny.world import TinyWorld
from rlhf_theory.core import ConfidenceSet
from rlhf_theory.experiments.trace import Trace
from rlhf_theory.report.sections import Section
from rlhf_theory.rewards import LinearReward

_SHOWN = (
    *("fresh_gold", "fresh_kl_k1", "fresh_objective", "fresh_win_rate", "fresh_grammatical"),
    *("fresh_length", "fresh_entropy", "pool_kl", "pool_gap"),
)
_GAME_SHOWN = (
    *("fresh_win_rate", "fresh_kl_k1", "pool_exploitability", "pool_win_rate"),
    *("fresh_polite", "fresh_plain", "fresh_rude", "fresh_grammatical"),
)


def write_demo_page(
    out: Path,
    results: Mapping[str, Sequence[Details]],
    *,
    held_out: HeldOut,
    game: HeldOut,
    proxy: ConfidenceSet,
    problem: PromptProblem,
    world: TinyWorld,
    cards: Sequence[Card],
    spread: str,
    facts: Mapping[str, object],
) -> Path:
    """Write ``OUT/report.html``.

    Parameters
    ----------
    out
        Folder of the run.
    results
        By arm, its policies in their order; that of ``self-play`` begins with the reference.
    held_out, game
        Judges of the arms, and of self-play.
    proxy
        Confidence set of the linear reward of the offline labels.
    problem
        The problem of the arms.
    world, cards
        Language model and model cards.
    spread
        How decided the labels are.
    facts
        For the head of the page.
    """
    arms = {name: list(found) for name, found in results.items() if name != "self-play"}
    reward = {name: found[-1] for name, found in arms.items()}
    played = dict(zip(("reference", "self-play"), results["self-play"], strict=True))
    folder = out / "figures"
    sections = [
        Section(
            name="model",
            title="The language model",
            kicker="imitation",
            text=[
                f"A Llama of 89 thousand weights, trained from nothing on {world.recipe.sequences} "
                "answers of a small grammar, whose facts are right 55 % of the time. It is the "
                "reference policy π0 of everything below, and where every training starts.",
            ],
            facts={
                "first loss, nats per token": world.losses[0],
                "last loss, nats per token": world.losses[1],
                "grammatical": float(reward["reference"].mean("fresh_grammatical")[0]),
            },
            tables=[t for t in [answers_table({"reference": reward["reference"]}, each=2)] if t],
        ),
        Section(
            name="reward",
            title="Offline and online, with a reward",
            kicker="Bradley-Terry labels",
            text=[
                "Labels are drawn from Bradley-Terry with the gold reward of the grammar; every "
                "arm gets equally many. Offline arms see pairs of the reference policy alone, "
                "online ones ask about the current policy in rounds, where half of the pools "
                "follows it.",
                f"On the pools {spread}.",
            ],
            tables=[
                results_table(reward, _SHOWN),
                *(t for t in [answers_table(reward, prompts=2)] if t),
            ],
            figures=figure_sheets(_reward_drawings(arms, held_out, proxy), folder),
            remarks=[
                "One seed: intervals are over held-out prompts, and do not cover other trainings.",
                "The arms share their training settings and are not tuned one by one; online arms "
                "take more steps in all, since every round trains anew. Which arm is best at its "
                "best settings is another question.",
                "The linear reward cannot express the gold reward: what a fact is worth depends on "
                "topic and value together.",
            ],
        ),
        Section(
            name="game",
            title="Self-play, with a preference that no reward explains",
            kicker="general preference",
            text=[
                "Three groups of readers like three tones in a cycle: polite beats plain, plain "
                "beats rude, rude beats polite. No single tone is best against all; the policy "
                "that nobody beats mixes them. Self-play trains towards it, against its own last "
                "policy.",
            ],
            tables=[results_table(played, _GAME_SHOWN)],
            remarks=[
                "The preference is known to the training; it is not learnt from labels here.",
                "Exploitability is what the best opponent would gain, exact on the pools: 0 at the "
                "equilibrium.",
            ],
        ),
        pool_section(
            {
                "training": problem.report(),
                "held out": held_out.problem.report(),
                "game, held out": game.problem.report(),
            }
        ),
        card_section(cards),
    ]
    return write_run_page(
        out / "report.html",
        "RLHF on a tiny language model",
        sections,
        facts=facts,
        lead="A language model of 89 thousand weights, trained from nothing, then from preferences "
        "in five ways. Rewards, KL and win rates are those of fresh responses to prompts that no "
        "training has seen.",
        command="rlhf-theory lm demo",
    )


def _reward_drawings(
    arms: Mapping[str, Sequence[Details]], held_out: HeldOut, proxy: ConfidenceSet
) -> dict[str, Drawing]:
    gold: Any = held_out.gold
    points = frontier_points(arms, "pool")
    best = gibbs_path(held_out, gold, temperatures(gold, held_out, 40))
    inside = best["kl"] <= 1.2 * float(points["kl"].max())
    others = {name: found[-1] for name, found in arms.items() if name != "reference"}
    return {
        "frontier": frontier(frontier_points(arms, "fresh"), estimate="fresh"),
        "frontier-pools": frontier(points, estimate="pool", best=best[inside]),
        "rounds": rounds(_traces(arms), "fresh_objective"),
        "win-rates": wins_of(others, "fresh_win_rate"),
        "over-optimisation": optimised(held_out, LinearReward(proxy.center)),
    }


def _traces(arms: Mapping[str, Sequence[Details]]) -> dict[str, list[Trace]]:
    """Return the objective over rounds of the arms that have rounds."""
    return {
        name: [
            Trace(
                {"fresh_objective": np.array([[f.mean("fresh_objective")[0] for f in found]])},
                np.arange(len(found)),
            )
        ]
        for name, found in arms.items()
        if len(found) > 1
    }
