"""The figures of a study, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rlhf_theory.plots import style
from rlhf_theory.plots.studies import sheets
from rlhf_theory.plots.studies.files import StudyFigure
from rlhf_theory.register import named
from rlhf_theory.studies.plot_specs import PlotSpec, useless


def study_figure(
    frame: pd.DataFrame,
    spec: PlotSpec,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> StudyFigure:
    """Draw the results of a study.

    Parameters
    ----------
    frame
        One row per cell, replica and point, as ``StudyResult.to_pandas`` returns.
    spec
        What to draw.
    settings
        See `sheets.Options`.

    Returns
    -------
    StudyFigure: the figure and its caption.

    Raises
    ------
    ValueError
        Options that the kind does not have, nothing to draw.
    """
    for name, kinds in useless(spec):
        message = f"kind={spec.kind!r} has no {name}, only {', '.join(kinds)}; leave it out."
        raise ValueError(message)
    with style.venue_theme(spec.venue) as chosen:
        options = sheets.Options(spec=spec, venue=chosen, settings=settings)
        fig, caption = named("plot", spec.kind)(frame, options)
        sheets.settle(fig)
    return StudyFigure(fig, caption)
