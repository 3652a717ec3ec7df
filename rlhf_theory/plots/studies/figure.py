"""The figures of a study, by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from rlhf_theory.errors import check_choice
from rlhf_theory.plots import venues
from rlhf_theory.plots.studies import frontier, lines, pairs, sheets, slopes, tails
from rlhf_theory.plots.studies.bands import check_band
from rlhf_theory.plots.studies.files import StudyFigure
from rlhf_theory.studies.parts import PLOT_OPTIONS, PlotSpec

__all__ = ["KINDS", "study_figure"]

_DRAW: dict[str, Callable[[pd.DataFrame, sheets.Options], tuple[Figure, str]]] = {
    "suboptimality": lines.suboptimality,
    "regret": lines.regret,
    "slopes": slopes.draw,
    "ratio": lines.ratio,
    "frontier": frontier.draw,
    "pairs": pairs.draw,
    "tails": tails.draw,
}

KINDS = tuple(_DRAW)


def study_figure(
    frame: pd.DataFrame,
    kind: str = "suboptimality",
    *,
    metric: str | None = None,
    facet: str | None = None,
    hue: str | None = None,
    band: str = "interval",
    bound: str | None = None,
    window: tuple[float, float] | None = None,
    venue: str | None = None,
    level: float = 0.95,
    x: str | None = None,
    notion: str | None = None,
    baseline: str | None = None,
    relative: bool = False,
    width: str | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> StudyFigure:
    """Draw the results of a study.

    Parameters
    ----------
    frame
        One row per cell, replica and point, as ``StudyResult.to_pandas`` returns.
    kind
        ``"suboptimality"``: the metric against rounds or pairs. ``"regret"``: a notion of regret.
        ``"slopes"``: local slopes on logarithmic scales, and the slope on a window. ``"ratio"``:
        the metric over a bound. ``"frontier"``: the metric against KL(π‖π0). ``"pairs"``: paired
        differences at the end. ``"tails"``: the distribution over replicas at the end.
    metric
        A recorded column (also ``"regret"``); None takes the metric of each world.
    facet, hue
        Columns that divide panels and series: ``world``, ``learner``, ``family``, or a setting that
        varies, such as ``world.dim``. None: a panel per world, a series per learner; ``"none"`` as
        facet: one panel.
    band
        ``"interval"`` (pointwise bootstrap interval of the mean), ``"quantiles"`` (5 to 95 % of the
        replicas), ``"simultaneous"`` (holds a whole mean curve).
    bound
        An expression of ``t`` (round or number of pairs), ``n`` (comparisons used) and settings,
        such as ``"d * log(t) / t"``; see ``studies.expressions.setting_names``.
    window
        Smallest and largest t for the slope; None takes the upper half of the logarithmic range.
    venue
        Sizes of figure and type, such as ``"neurips2024"``; see ``plots.venues.names``.
    level
        Coverage of intervals and simultaneous bands.
    x
        ``"t"`` or ``"labels"``; None takes t, and labels where online and offline learners meet.
    notion
        Of regret: ``"cumulative"`` (the default), ``"average"``, ``"simple"``, ``"best"``.
    baseline
        For pairs: the learner with which all others are compared, or ``"all"`` for all pairs; None
        takes all pairs of up to three learners, else the first learner.
    relative
        For the frontier: show J(π) − J(π0) instead of the gap.
    width
        ``"column"`` or ``"text"``; None takes a column for one panel, the text for several.
    settings
        Flat settings per cell (``Cell.settings()`` by key), for bounds: the frame itself has only
        those that vary.

    Returns
    -------
    StudyFigure: the figure and its caption.

    Raises
    ------
    ValueError
        Unknown words, options that the kind does not have, nothing to draw.
    """
    check_choice("kind", kind, KINDS)
    check_band(band, level)
    given: dict[str, Any] = {
        "band": band,
        "bound": bound,
        "window": window,
        "x": x,
        "notion": notion,
        "baseline": baseline,
        "relative": relative,
    }
    for name, value in given.items():
        kinds = PLOT_OPTIONS[name]
        if value != PlotSpec.model_fields[name].default and kind not in kinds:
            message = f"kind={kind!r} has no {name}, only {', '.join(kinds)}; leave it out."
            raise ValueError(message)
    with venues.context(venue) as chosen:
        options = sheets.Options(
            venue=chosen,
            metric=metric,
            facet=facet,
            hue=hue,
            width=width,
            level=level,
            settings=settings,
            **given,
        )
        fig, caption = _DRAW[kind](frame, options)
        sheets.settle(fig)
    return StudyFigure(fig, caption)
