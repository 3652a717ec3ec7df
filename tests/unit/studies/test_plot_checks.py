"""Figures that could not be drawn are mistakes of the study, before anything runs."""

import pytest

from rlhf_theory.register import found
from rlhf_theory.studies.expressions import Ambiguous, setting_names
from rlhf_theory.studies.messages import StudyError
from rlhf_theory.studies.plot_specs import PlotSpec, plot_facts
from rlhf_theory.study import Study
from tests.helpers.study_frames import study_figure, study_frame

SPECIAL = sorted({name for kind in found("plot") for name in plot_facts(kind).options})
GIVEN = {
    "band": "quantiles",
    "bound": "1 / labels",
    "window": (10.0, 200.0),
    "x": "labels",
    "notion": "simple",
    "baseline": "all",
    "relative": True,
}


def study(*plots, **changes):
    data = {
        "worlds": [{"kind": "linear", "dim": {"grid": [2, 4]}}, {"kind": "tie-cycle"}],
        "learners": [{"kind": "online-iterative", "label": "g"}, {"kind": "offline-greedy"}],
        "rounds": 5,
        "pairs": [10],
    }
    return Study(name="x", plots=list(plots), **{**data, **changes})


def mistakes(*plots, **changes):
    with pytest.raises(StudyError) as caught:
        study(*plots, **changes)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("plot", "line"),
    [
        ({"kind": "regret", "bound": "d * log(t"}, "bound: 'd * log(t' cannot be read near"),
        ({"kind": "regret", "bound": "sin(t)"}, "bound: 'sin(t)' in the expression"),
        ({"kind": "regret", "bound": ""}, "bound: An expression must be text"),
        (
            {"kind": "ratio", "bound": "batch_sise / labels", "metric": "kl"},
            "Did you mean 'batch_size'",
        ),
        (
            {"kind": "ratio", "bound": "world.reference / labels"},
            "'world.reference', which is no name",
        ),
        ({"kind": "ratio"}, "bound: is missing: a ratio is that of the metric to a bound"),
        ({"kind": "regret", "style": "neurips2042"}, "style: must be one of 'aaai2024'"),
        ({"kind": "regret", "venue": "nips2024"}, "Did you mean 'neurips2024'"),
        ({"kind": "pairs", "baseline": "G"}, 'baseline: "G" is not here; known are'),
        ({"kind": "regret", "hue": "none"}, 'hue: "none" is not here; known are'),
        ({"kind": "regret", "facet": "metric"}, 'facet: "metric" is not here; known are'),
        ({"kind": "regret", "metric": "kl"}, "metric: is not for this regret"),
        ({"kind": "frontier", "relative": True, "metric": "kl"}, 'metric: must be "gap"'),
        ({"kind": "slopes", "window": [0, 5]}, "window: must be two increasing numbers above 0"),
    ],
)
def test_one_mistake_of_a_figure_is_one_line(plot, line):
    lines = mistakes({"kind": "tails"}, plot)
    assert len(lines) == 1, lines
    assert lines[0].startswith("plots[1]."), lines
    assert line in lines[0]


@pytest.mark.parametrize("kind", found("plot"))
@pytest.mark.parametrize("name", SPECIAL)
def test_the_study_refuses_the_options_that_the_figure_refuses(kind, name):
    plot = {"kind": kind, name: GIVEN[name]}
    if kind == "ratio":
        plot["bound"] = "1 / labels"
    refused = f"kind='{kind}' has no {name}"
    frame = study_frame(1, (4, 8), replicas=2, points=5)
    if name in plot_facts(kind).options:
        assert getattr(study(plot).plots[0], name) == GIVEN[name]
        return
    with pytest.raises(ValueError, match=refused):
        study_figure(frame, **plot)
    lines = mistakes(plot)
    assert len(lines) == 1
    assert lines[0].startswith(f"plots[0].{name}: is for ")


def test_every_option_belongs_to_all_kinds_or_to_those_that_say_so():
    common = {"kind", "metric", "facet", "hue", "venue", "width", "level"}
    assert set(PlotSpec.model_fields) == common | set(SPECIAL)


def test_bounds_may_use_what_every_cell_has():
    bound = "d * learner.offline_pairs + sqrt(world.dim * log(labels)) / labels + seed"
    study({"kind": "ratio", "bound": bound, "metric": "gap"})
    # The world without this metric is left out of the figure: it need not have the setting.
    lines = mistakes({"kind": "suboptimality", "bound": "d / labels"})
    assert len(lines) == 1
    assert "plots[0].bound: 'd / labels' uses 'd', which is no name here; known are" in lines[0]
    assert lines[0].endswith("So it is for 'g' in 'tie-cycle'.")


def test_names_that_mean_two_values_are_found_in_the_cells_where_they_differ():
    """`scale` is a setting of the world and of the radius; where both are 1 it may be used."""
    data = {"learners": ["online-iterative"], "pairs": None}
    plot = {"kind": "regret", "bound": "scale * round"}
    study(plot, worlds=["linear"], **data)
    worlds = [{"kind": "linear", "scale": {"grid": [1.0, 0.5]}}]
    apart = [
        isinstance(setting_names(cell.settings())["scale"], Ambiguous)
        for cell in study(worlds=worlds, **data).cells()
    ]
    assert apart == [False, True]
    lines = mistakes(plot, worlds=worlds, **data)
    assert len(lines) == 1
    assert "could be world.scale or learner.radius.scale; write the full name" in lines[0]
    assert lines[0].endswith("in 'linear scale=0.5'.")
    study({**plot, "bound": "world.scale * round"}, worlds=worlds, **data)


def test_baselines_of_other_series_are_left_to_the_figure():
    study({"kind": "pairs", "baseline": "dim = 2", "hue": "world.dim", "metric": "gap"})
    study({"kind": "pairs", "baseline": "g"}, {"kind": "pairs", "baseline": "all"})
