"""Edges of figures of studies: infinite values, few replicas, refused options; and their files."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rlhf_theory.plots.studies import StudyFigure
from rlhf_theory.register import found
from tests.helpers.study_frames import study_figure, study_frame


@pytest.fixture(scope="module")
def frame():
    return study_frame(3, (4, 8), replicas=20, points=25)


def table(frame, learner, world):
    part = frame[(frame["learner"] == learner) & (frame["world"] == world)]
    return part.pivot_table(index="replica", columns="place", values="gap")


def series(figure, name, panel="linear dim=8"):
    numbers = figure.numbers()
    return numbers[(numbers["series"] == name) & (numbers["panel"] == panel)]


# ------------------------------------------------------------------------------- edges


def infinite(frame, count=3):
    bad = (frame["learner"] == "GSHF") & (frame["replica"] < count) & (frame["place"] > 100)
    return frame.assign(gap=frame["gap"].where(~bad, np.inf))


def test_infinite_replicas_are_counted_and_never_dropped(frame):
    bad = infinite(frame)
    figure = study_figure(bad)
    rows = series(figure, "GSHF (median)")
    values = table(bad, "GSHF", "linear dim=8").drop(columns=0.0).to_numpy()
    assert np.allclose(rows["y"], np.sort(values, axis=0)[9], rtol=1e-12)
    assert rows["lower"].isna().all()
    assert "GSHF in linear dim=8 (3 of 20 replicas)" in figure.caption
    assert "medians of all replicas, without a band" in figure.caption
    assert series(figure, "on-policy")["lower"].notna().all()

    tails = study_figure(bad, "tails")
    rows = series(tails, "GSHF")
    assert len(rows) == 17
    assert math.isclose(rows["y"].min(), 4 / 20)
    assert "GSHF in linear dim=8 (3 of 20)" in tails.caption

    pairs = study_figure(bad, "pairs", baseline="on-policy")
    assert "GSHF and on-policy in linear dim=8 (3 of 20 replicas)" in pairs.caption
    slopes = study_figure(bad, "slopes")
    assert "GSHF in linear dim=8 has no slope: 3 of 20 replicas" in slopes.caption
    frontier = study_figure(bad, "frontier")
    assert "GSHF in linear dim=8 (3 of 20 replicas)" in frontier.caption


def test_where_most_replicas_are_infinite_nothing_is_invented(frame):
    bad = infinite(frame, count=15)
    rows = series(study_figure(bad), "GSHF (median)")
    assert rows.loc[rows["x"].astype(float) > 100, "y"].isna().all()
    rows = series(study_figure(bad, "tails"), "GSHF")
    assert len(rows) == 5
    everything = frame.assign(gap=np.inf)
    with pytest.raises(ValueError, match="all final values are infinite"):
        study_figure(everything, "tails")


@pytest.mark.parametrize("kind", found("plot"))
def test_one_replica_has_no_band(frame, kind):
    figure = study_figure(
        frame[frame["replica"] == 0], kind, bound="d / round" if kind == "ratio" else None
    )
    numbers = figure.numbers()
    assert numbers["lower"].isna().all() or kind in ("slopes", "pairs")
    if kind == "slopes":
        local = numbers[numbers["series"] != "slope on the window"]
        assert local["lower"].isna().all()


def test_too_few_replicas_for_a_simultaneous_band_are_named(frame):
    figure = study_figure(frame[frame["replica"] < 3], band="simultaneous")
    assert "Too few replicas for a band: GSHF, on-policy, uniform pairs." in figure.caption
    assert figure.numbers()["lower"].isna().all()


def test_bands_that_reach_zero_end_below_the_curves(frame):
    figure = study_figure(frame[frame["replica"] < 5], band="simultaneous")
    assert (figure.numbers()["lower"].dropna() > 0).all()


def test_a_single_point_and_values_of_zero_can_be_drawn():
    frame = study_frame(2, (4,), replicas=6, points=5, offline=2)
    one = frame[frame["place"] == 100]
    for kind in ("suboptimality", "frontier", "pairs", "tails"):
        study_figure(one, kind)
    zero = frame.assign(gap=0.0)
    assert study_figure(zero).fig.axes[0].get_yscale() == "linear"
    study_figure(zero, "tails")
    with pytest.raises(ValueError, match="No slope"):
        study_figure(zero, "slopes")


def test_options_that_would_change_nothing_are_refused(frame):
    with pytest.raises(ValueError, match="kind: must be 'frontier', 'pairs'"):
        study_figure(frame, "curves")
    with pytest.raises(ValueError, match="Did you mean 'quantiles'"):
        study_figure(frame, band="quantile")
    with pytest.raises(ValueError, match=r"kind='tails' has no window, only slopes"):
        study_figure(frame, "tails", window=(1, 2))
    with pytest.raises(ValueError, match="has no band"):
        study_figure(frame, "pairs", band="quantiles")
    with pytest.raises(ValueError, match="notion: must be 'cumulative'"):
        study_figure(frame, "regret", notion="total")
    with pytest.raises(ValueError, match=r"level: must be less than 1\.0; got 95"):
        study_figure(frame, level=95)
    with pytest.raises(ValueError, match="Did you mean 'icml2024'"):
        study_figure(frame, venue="icml2042")
    with pytest.raises(ValueError, match="width: must be 'column' or 'text'"):
        study_figure(frame, width="wide")


# ------------------------------------------------------------------------------- files


def test_files_lie_next_to_each_other_and_are_the_same_every_time(frame, tmp_path):
    for place in ("one", "two"):
        files = study_figure(frame, facet="none", hue="learner").save(tmp_path / place / "regret")
        names = ["regret.pdf", "regret.svg", "regret.csv", "regret.txt"]
        assert [f.name for f in files] == names
    for name in names:
        first, second = (tmp_path / place / name for place in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    table = pd.read_csv(tmp_path / "one" / "regret.csv")
    assert list(table.columns) == ["panel", "series", "x", "y", "lower", "upper"]
    assert (tmp_path / "one" / "regret.txt").read_text(encoding="utf-8").startswith("Gap J(π*)")
    assert "<text" in (tmp_path / "one" / "regret.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("gap.pdf", {"gap.pdf", "gap.svg", "gap.csv", "gap.txt"}),
        ("gap.png", {"gap.png", "gap.pdf", "gap.svg", "gap.csv", "gap.txt"}),
        ("dim=0.5", {"dim=0.5.pdf", "dim=0.5.svg", "dim=0.5.csv", "dim=0.5.txt"}),
    ],
)
def test_suffixes(frame, tmp_path, path, names):
    study_figure(frame, "pairs").save(str(tmp_path / path))
    assert {f.name for f in tmp_path.iterdir()} == names


def test_notebooks_show_figure_and_caption(frame):
    figure = study_figure(frame, "pairs")
    page = figure._repr_html_()
    assert page.startswith("<figure><svg")
    assert "<figcaption>Paired differences" in page
    marked = StudyFigure(figure.fig, "a < b")
    assert "a &lt; b" in marked._repr_html_()


def test_what_is_counted_is_marked_at_whole_numbers(frame):
    """A few rounds span too little for a logarithmic axis, and a quarter of a round is none."""
    few = frame[frame["place"] <= np.unique(frame["place"])[3]]
    axes = study_figure(few).fig.axes[0]
    assert axes.get_xscale() == "linear"
    ticks = axes.get_xticks()
    assert (ticks == ticks.round()).all()
