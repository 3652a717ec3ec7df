"""Figures of studies: regret, rates, bounds, frontiers, comparisons and tails, with captions."""

from rlhf_theory.plots.studies.figure import study_figure
from rlhf_theory.plots.studies.files import StudyFigure

__all__ = ["StudyFigure", "study_figure"]
