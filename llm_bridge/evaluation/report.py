"""The page of a language-model run: settings, results with intervals, figures, samples, cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llm_bridge.evaluation.cards import Card
from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.figures import PROMPTS, Drawing
from llm_bridge.evaluation.metrics import METRICS
from llm_bridge.pools.report import PoolReport
from rlhf_theory.experiments.trace import versions
from rlhf_theory.report.sections import Section, Sheet, Table, write_page
from rlhf_theory.report.words import pretty


def language_versions() -> dict[str, str]:
    """Return the versions that results of language models depend on."""
    return versions("transformers", "tokenizers", "peft", "accelerate")


def results_table(
    results: Mapping[str, Details], names: Sequence[str] | None = None, *, level: float = 0.95
) -> Table:
    """Return a table of policies, one column each, with intervals over prompts.

    Parameters
    ----------
    results
        By name of the policy; one replica each.
    names
        Metrics to show; all that any policy has by default.
    level
        Nominal coverage of the intervals.
    """
    present = {
        name
        for found in results.values()
        for name, value in found.per_prompt.items()
        if not np.isnan(value).all()
    }
    order = [*METRICS, *sorted(present - set(METRICS))] if names is None else names
    rows = [
        [described(name), *(_cell(found, name, level) for found in results.values())]
        for name in order
        if name in present
    ]
    caption = f"Means over held-out prompts; below them {PROMPTS}."
    return Table(columns=["", *results], rows=rows, caption=caption)


def described(name: str) -> str:
    """Return what a metric is, also where the caller has named it."""
    if name in METRICS:
        return METRICS[name]
    kind, _, word = name.partition("_")
    ending = {"fresh": "of fresh responses", "pool": "exact on the pools"}.get(kind)
    return f"{word.replace('_', ' ')}, {ending}" if ending else name


def _cell(found: Details, name: str, level: float) -> str | None:
    value = found.per_prompt.get(name)
    if value is None or np.isnan(value).any():
        return None
    interval = found.interval(name, level)
    ends = f"{_short(interval.lower)} to {_short(interval.upper)}".replace(" ", "\u00a0")
    return f"{_short(interval.value)}\n{ends}"


def _short(value: float) -> str:
    return pretty(float(f"{value:.3g}"))


def answers_table(
    results: Mapping[str, Details], *, prompts: int = 3, each: int = 1, longest: int = 160
) -> Table | None:
    """Return responses of every policy to the first prompts, or None where nobody wrote any."""
    rows: list[list[object]] = []
    writers = {name: found for name, found in results.items() if len(found.answers)}
    if not writers:
        return None
    for prompt in list(dict.fromkeys(next(iter(writers.values())).prompts))[:prompts]:
        for policy, found in writers.items():
            part = found.answers[found.answers["prompt"] == prompt].head(each)
            gold = part["fresh_gold"] if "fresh_gold" in part else [None] * len(part)
            for text, reward in zip(part["response"], gold, strict=True):
                short = text if len(text) <= longest else text[: longest - 1] + "…"
                rows.append([prompt, policy, short, None if reward is None else float(reward)])
    caption = "The first responses of each policy, drawn with the same random numbers."
    return Table(columns=["prompt", "policy", "response", "gold"], rows=rows, caption=caption)


def figure_sheets(drawings: Mapping[str, Drawing], folder: Path) -> list[Sheet]:
    """Write figures to ``FOLDER/NAME`` each and return what a page needs of them."""
    return [
        Sheet(folder=drawing.save(folder / name), title=drawing.title, caption=drawing.caption)
        for name, drawing in drawings.items()
    ]


def results_section(
    results: Mapping[str, Details],
    *,
    title: str = "Results on held-out prompts",
    names: Sequence[str] | None = None,
    figures: Sequence[Sheet] = (),
    text: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Section:
    """Return the section with results, figures and sample responses."""
    answers = answers_table(results)
    tables = [results_table(results, names), *([answers] if answers is not None else [])]
    return Section(
        name="results", title=title, text=text, tables=tables, figures=figures, remarks=remarks
    )


def pool_section(reports: Mapping[str, PoolReport]) -> Section:
    """Return the section that says what the pools approximate."""
    overall = {name: report.overall for name, report in reports.items()}
    measures = list(next(iter(overall.values())))
    rows = [[name, *(values[m] for m in measures)] for name, values in overall.items()]
    return Section(
        name="pools",
        title="What the pools approximate",
        text=[f"{name}: {report}" for name, report in reports.items()],
        tables=[Table(columns=["pools", *(m.replace("_", ", ") for m in measures)], rows=rows)],
    )


def card_section(cards: Sequence[Card]) -> Section:
    """Return the section with the model cards, each to be opened."""
    return Section(
        name="cards",
        title="Model cards",
        text=["One card per trained model, as it stands beside its weights."],
        details={card.name: card.text() for card in cards},
    )


def write_run_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    facts: Mapping[str, object],
    lead: str = "",
    command: str = "",
) -> Path:
    """Write the page of a run; versions join the facts.

    Parameters
    ----------
    path
        File to write; its folder exists.
    title, lead
        Heading and the paragraph below it.
    sections
        What it shows.
    facts
        What holds for the whole run: seed, device, models, time.
    command
        The command that wrote it, for the last line.
    """
    footer = f"Written by {command}." if command else "Written by rlhf-theory."
    return write_page(
        path, title, {**facts, **language_versions()}, sections, lead=lead, footer=footer
    )
