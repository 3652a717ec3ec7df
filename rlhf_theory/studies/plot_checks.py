"""What the figures of a study must satisfy, so that a finished run can be drawn."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_theory.errors import suggestion
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.expressions import (
    SHORT_NAMES,
    Expression,
    ExpressionError,
    setting_names,
)
from rlhf_theory.studies.items import LearnerItem, WorldItem
from rlhf_theory.studies.messages import Path, choices, not_here, shown
from rlhf_theory.studies.plot_specs import PlotSpec, plot_facts, useless
from rlhf_theory.studies.resolve import Say

Chosen = Sequence[tuple[WorldItem, LearnerItem]]
"""Which learner runs in which world."""


def check_plots(
    plots: Sequence[PlotSpec], chosen: Chosen, known: Sequence[str] | None, root: str, say: Say
) -> None:
    """Report figures that no results of the study could fill.

    Parameters
    ----------
    plots
        The figures.
    chosen
        Which learner runs in which world.
    known
        All that the run records; None where learners of other packages may report more.
    root
        How the study calls its list of figures.
    say
        Where mistakes go.
    """
    columns = _columns(chosen) if plots else []
    labels = list(dict.fromkeys(learner.label for _, learner in chosen))
    for index, plot in enumerate(plots):
        here: Path = (root, index)
        _check_metric(plot, known, here, say)
        for name, words in (("facet", ["none", *columns]), ("hue", columns)):
            value = getattr(plot, name)
            if value is not None and value not in words:
                say((*here, name), not_here(value, words))
        _check_options(plot, here, say)
        # Panels or colours of settings make series of other names than those of the learners.
        plain = {plot.facet, plot.hue} <= {None, "world", "learner"}
        if plot.baseline is not None and plain and plot.baseline not in ("all", *labels):
            say((*here, "baseline"), not_here(plot.baseline, ["all", *labels]))
        if plot.venue is not None:
            _check_venue(plot.venue, (*here, "style"), say)
        _check_bound(plot, chosen, (*here, "bound"), say)


def _check_metric(plot: PlotSpec, known: Sequence[str] | None, here: Path, say: Say) -> None:
    metric = plot.metric
    if metric is None:
        return
    if known is not None and metric not in (*known, "regret"):
        say((*here, "metric"), not_here(metric, [*known, "regret"]))
    elif plot.relative and metric != "gap":
        say((*here, "metric"), f'must be "gap" for relative = true; got {shown(metric)}.')
    elif plot.kind == "regret" and plot.notion in (None, "cumulative", "average"):
        text = (
            "is not for this regret, which sums the metric of each world; leave it out, or take "
            'notion = "simple" or "best".'
        )
        say((*here, "metric"), text)


def _check_options(plot: PlotSpec, here: Path, say: Say) -> None:
    for name, kinds in useless(plot):
        text = f"is for {choices(kinds)}; {plot.kind!r} has none, leave it out."
        say((*here, name), text)
    if plot.window is not None and not 0 < plot.window[0] < plot.window[1]:
        text = f"must be two increasing numbers above 0; got {shown(plot.window)}."
        say((*here, "window"), text)
    for name, why in plot_facts(plot.kind).needs.items():
        if getattr(plot, name) is None:
            say((*here, name), f"is missing: {why}.")


def _check_venue(venue: str, path: Path, say: Say) -> None:
    # Here, because tueplots brings matplotlib, which only studies that want a venue wait for.
    from rlhf_theory.venues import names as venue_names  # noqa: PLC0415

    names = venue_names()
    if venue not in names:
        text = f"must be one of {choices(names)}; got {shown(venue)}.{suggestion(venue, names)}"
        say(path, text)


def _settings(world: WorldItem, learner: LearnerItem) -> dict[str, object]:
    """Return what figures know of a cell, as `Cell.settings` has it."""
    cell = Cell(
        world=world.spec,
        learner=learner.spec,
        world_label=world.label,
        learner_label=learner.label,
        family=world.family,
        metric=world.metric,
        offline_pairs=learner.offline_pairs,
        coverage=learner.coverage,
        rounds=0,
        replicas=1,
        block=1,
    )
    return cell.settings()


def _columns(chosen: Chosen) -> list[str]:
    """Return what divides figures: labels, families and settings."""
    columns = ["world", "learner", "family"]
    seen: set[int] = set()
    for pair in chosen:
        if not seen.issuperset(map(id, pair)):
            seen.update(map(id, pair))
            columns += [name for name in _settings(*pair) if "." in name or name == "seed"]
    return list(dict.fromkeys(columns))


def _check_bound(plot: PlotSpec, chosen: Chosen, path: Path, say: Say) -> None:
    """Report a bound that cannot be read, or that some cell of the figure has no names for."""
    if plot.bound is None:
        return
    try:
        expression = Expression(plot.bound)
    except ExpressionError as error:
        say(path, str(error))
        return
    evaluated = {metric for world, _ in chosen for metric in world.metrics}
    if plot.metric in evaluated:  # other worlds are left out of the figure
        chosen = [pair for pair in chosen if plot.metric in pair[0].metrics]
    for world, learner in _distinct(chosen, expression.names):
        # These come from the results, and any number serves here.
        place = "round" if learner.online else "pairs"
        values = {**setting_names(_settings(world, learner)), place: 1.0, "labels": 1.0}
        try:
            expression.evaluate(values)
        except ExpressionError as error:
            say(path, f"{error} So it is for {learner.label!r} in {world.label!r}.")
            return


def _distinct(chosen: Chosen, names: frozenset[str]) -> Chosen:
    """Return pairs such that each other pair has the settings of one of them under some names."""
    last = {name.rpartition(".")[2] for name in names}
    last |= {SHORT_NAMES[name] for name in names if name in SHORT_NAMES}
    own: dict[int, tuple[object, ...]] = {}
    found: dict[object, tuple[WorldItem, LearnerItem]] = {}
    for pair in chosen:
        for item, role in zip(pair, ("world.", "learner."), strict=True):
            if id(item) not in own:
                settings = [s for s in _settings(*pair).items() if s[0].startswith(role)]
                own[id(item)] = tuple(s for s in settings if s[0].rpartition(".")[2] in last)
        found.setdefault((own[id(pair[0])], own[id(pair[1])]), pair)
    return list(found.values())
