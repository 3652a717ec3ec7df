"""The plotted numbers of every kind against independent computations, and what captions say."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from matplotlib import figure as mpl_figure
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from scipy.ndimage import binary_fill_holes

from rlhf_theory.evaluation.bands import simultaneous_band
from rlhf_theory.evaluation.statistics import mean_interval, slope_bootstrap
from rlhf_theory.plots import style
from rlhf_theory.plots.studies.forest import forest
from tests.helpers.study_frames import study_figure, study_frame


@pytest.fixture(scope="module")
def frame():
    return study_frame(3, (4, 8), replicas=20, points=25)


def table(frame, learner, world, column="gap"):
    part = frame[(frame["learner"] == learner) & (frame["world"] == world)]
    return part.pivot_table(index="replica", columns="place", values=column)


def series(figure, name, panel="linear dim=8"):
    numbers = figure.numbers()
    return numbers[(numbers["series"] == name) & (numbers["panel"] == panel)]


def check_line(rows, x, y, lower=None, upper=None):
    assert np.allclose(rows["x"].astype(float), x, rtol=1e-12)
    assert np.allclose(rows["y"], y, rtol=1e-10)
    if lower is not None:
        assert np.allclose(rows["lower"], lower, rtol=1e-10)
        assert np.allclose(rows["upper"], upper, rtol=1e-10)


# ------------------------------------------------------------------------------- curves


def test_suboptimality_shows_means_and_intervals(frame):
    figure = study_figure(frame)
    values = table(frame, "GSHF", "linear dim=8").drop(columns=0.0)
    interval = mean_interval(values.to_numpy())
    rows = series(figure, "GSHF")
    check_line(rows, values.columns, values.mean(), interval.lower, interval.upper)
    assert figure.caption == (
        "Gap J(π*) − J(π) against rounds played, one panel per world. Lines: means over 20 "
        "replicas. Bands: 95 % bootstrap intervals of the mean over replicas, at each point. "
        "The start has no place on the logarithmic axis and is left out."
    )
    assert {ax.get_xscale() for ax in figure.fig.axes} == {"log"}
    assert {ax.get_yscale() for ax in figure.fig.axes} == {"log"}


@pytest.mark.parametrize("band", ["quantiles", "simultaneous"])
def test_other_bands(frame, band):
    figure = study_figure(frame, band=band, level=0.9)
    values = table(frame, "GSHF", "linear dim=8").drop(columns=0.0).to_numpy()
    rows = series(figure, "GSHF")
    if band == "quantiles":
        expected = np.quantile(values, [0.05, 0.95], axis=0)
        assert "5 % to 95 % quantiles of the replicas" in figure.caption
    else:
        interval = simultaneous_band(values, level=0.9)
        # No part of a band is below 0 here, where it would be cut off.
        assert np.all(interval.lower > 0)
        expected = (interval.lower, interval.upper)
        assert "90 % simultaneous bootstrap bands" in figure.caption
    assert np.allclose(rows["y"], values.mean(axis=0), rtol=1e-10)
    assert np.allclose(rows[["lower", "upper"]].T, expected, rtol=1e-10)


def test_labels_are_the_axis_where_online_and_offline_meet():
    frame = study_frame(3, (4,), replicas=6, points=10, offline=1)
    figure = study_figure(frame)
    rows = figure.numbers().query("series == 'GSHF'")
    t = np.unique(frame.loc[frame["counted"] == "round", "place"])[1:]
    assert rows["x"].tolist() == (16 * t).tolist()
    rows = figure.numbers().query("series == 'uniform pairs'")
    assert rows["x"].tolist() == np.unique(frame.loc[frame["counted"] == "pairs", "place"]).tolist()
    assert "against labels used (comparisons)" in figure.caption
    with pytest.raises(ValueError, match="is not what all learners count"):
        study_figure(frame, x="round")
    with pytest.raises(ValueError, match="needs the column labels; GSHF"):
        study_figure(frame.drop(columns="labels"), x="labels")


@pytest.mark.parametrize(
    ("kind", "more"),
    [("suboptimality", {}), ("ratio", {"bound": "d / sqrt(labels)"}), ("slopes", {})],
)
def test_learners_with_different_numbers_of_labels_are_compared_at_equal_ones(kind, more):
    """A round of one is 1.6 times as many labels as a round of the other: see the figure of each.

    Against rounds the one that asks more would look better where both have the same curve.
    """
    frame = study_frame(3, (4,), replicas=6, points=10)
    same = study_figure(frame, kind, **more)
    assert "labels used" not in same.caption
    rows = frame["learner"] == "GSHF"
    frame.loc[rows, "labels"] *= 1.6
    figure = study_figure(frame, kind, **more)
    assert "against labels used" in figure.caption or "labels used" in figure.caption
    found = figure.numbers().query("series == 'GSHF'")["x"].dropna().astype(float)
    assert found.max() <= frame.loc[rows, "labels"].max()
    assert found.max() > frame.loc[rows, "place"].max()
    # On request, and where a sum over rounds is shown, rounds stay.
    assert "labels used" not in study_figure(frame, kind, x="round", **more).caption
    assert "labels used" not in study_figure(frame, "regret").caption


def test_numbers_of_labels_within_noise_are_equal():
    frame = study_frame(3, (4,), replicas=6, points=10)
    frame.loc[frame["learner"] == "GSHF", "labels"] *= 1.01
    assert "labels used" not in study_figure(frame).caption


@pytest.mark.parametrize("notion", ["cumulative", "average", "simple", "best"])
def test_notions_of_regret(frame, notion):
    figure = study_figure(frame, "regret", notion=notion)
    gap = table(frame, "on-policy", "linear dim=4")
    t = gap.columns.to_numpy()
    sums = np.zeros(gap.shape)
    for k in range(1, len(t)):
        sums[:, k] = sums[:, k - 1] + gap.to_numpy()[:, k - 1] * (t[k] - t[k - 1])
    expected = {
        "cumulative": sums[:, 1:],
        "average": sums[:, 1:] / t[1:],
        "simple": gap.to_numpy()[:, 1:],
        "best": np.array(
            [[row[: k + 1].min() for k in range(1, len(t))] for row in gap.to_numpy()]
        ),
    }[notion]
    check_line(series(figure, "on-policy", "linear dim=4"), t[1:], expected.mean(axis=0))
    assert notion in figure.caption.lower()


def test_regret_is_that_of_the_worlds_metric(frame):
    with pytest.raises(ValueError, match="leave metric out"):
        study_figure(frame, "regret", metric="kl")
    study_figure(frame, "regret", metric="kl", notion="simple")
    offline = study_figure(study_frame(2, (4,), replicas=4, points=6, offline=1), "regret")
    assert "on-policy is left out: it has no regret." in offline.caption


def test_a_learner_has_one_look_in_all_figures():
    frame = study_frame(2, (4,), replicas=4, points=6, offline=1)
    swapped = frame.sort_values("counted", ascending=False, kind="stable")
    assert swapped["learner"].iloc[0] == "on-policy"
    lines = [study_figure(swapped, kind).fig.axes[0].get_lines() for kind in ("tails", "regret")]
    colors = [{line.get_label(): line.get_color() for line in part} for part in lines]
    assert colors[0]["GSHF"] == colors[1]["GSHF"] != colors[0]["on-policy"]


def test_panels_with_their_own_metric_have_their_own_label(frame):
    mixed = frame.assign(exploitability=frame["gap"] / 2)
    mixed.loc[mixed["world"] == "linear dim=8", "metric"] = "exploitability"
    figure = study_figure(mixed)
    assert [ax.get_ylabel() for ax in figure.fig.axes] == ["gap J(π*) − J(π)", "exploitability"]
    assert figure.caption.startswith("Gap J(π*) − J(π) or exploitability against")
    tails = study_figure(mixed, "tails")
    assert [ax.get_xlabel() for ax in tails.fig.axes] == [
        "final gap J(π*) − J(π), x",
        "final exploitability, x",
    ]


def test_ratio_is_the_mean_over_the_bound(frame):
    figure = study_figure(frame, "ratio", bound="2 * d / sqrt(round)", band="quantiles")
    values = table(frame, "GSHF", "linear dim=8").drop(columns=0.0)
    t = values.columns.to_numpy()
    ratios = values.to_numpy() / (2 * 8 / np.sqrt(t))
    low, high = np.quantile(ratios, [0.05, 0.95], axis=0)
    check_line(series(figure, "GSHF"), t, ratios.mean(axis=0), low, high)
    assert "Bound: 2 * d / sqrt(round)." in figure.caption
    # log(1) = 0 is no bound: the point has no ratio, and the caption says so.
    figure = study_figure(frame, "ratio", bound="log(round)")
    assert series(figure, "GSHF")["x"].min() > 1
    assert "Points where the bound is not positive and finite are left out." in figure.caption
    with pytest.raises(ValueError, match="needs a bound"):
        study_figure(frame, "ratio")


def test_a_bound_is_one_line_where_all_learners_have_the_same(frame):
    figure = study_figure(frame, bound="d * log(round + 1) / round")
    t = np.unique(frame["place"])[1:]
    check_line(series(figure, "bound d * log(round + 1) / round"), t, 8 * np.log(t + 1) / t)
    assert "Dashed: bound d * log(round + 1) / round." in figure.caption
    batches = frame.assign(**{"learner.batch_size": frame["learner"].map(len).astype(float)})
    figure = study_figure(batches, bound="m / round")
    check_line(series(figure, "bound, on-policy"), t, 9 / t)
    check_line(series(figure, "bound, GSHF"), t, 4 / t)
    (legend,) = figure.fig.legends
    assert [s.get_text() for s in legend.get_texts()][-1] == "bound m / round"
    assert len(legend.get_texts()) == 4


def test_bounds_know_labels_and_settings_from_outside(frame):
    settings = {cell: {"world.eta": 0.5} for cell in frame["cell"].unique()}
    figure = study_figure(frame, bound="1 / (eta * labels)", settings=settings)
    t = np.unique(frame["place"])[1:]
    check_line(series(figure, "bound 1 / (eta * labels)"), t, 1 / (0.5 * 16 * t))
    with pytest.raises(
        ValueError, match=r"bound of GSHF: .*'eta'.* known are d, dim, labels, round"
    ):
        study_figure(frame, bound="1 / (eta * labels)")
    with pytest.raises(ValueError, match="nowhere finite"):
        study_figure(frame, bound="log(-round)")


def test_bounds_of_rounds_and_of_labels_over_labels():
    # Two online learners whose rounds lie at other numbers of labels, two offline ones with fewer
    # labels than pairs: points of two learners coincide, the bounds of all do not.
    frame = study_frame(4, (4, 8), replicas=4, points=12, offline=2)
    frame["labels"] *= frame["learner"].map({"GSHF": 0.8, "on-policy": 0.9}).fillna(0.7)
    online = frame[frame["counted"] == "round"]
    figure = study_figure(online, bound="d / sqrt(round)", x="labels")
    for name in ("GSHF", "on-policy"):
        rows = (frame["learner"] == name) & (frame["world.dim"] == 8) & (frame["place"] > 0)
        part = frame[rows].groupby("place")["labels"].mean()
        t = part.index.to_numpy()
        check_line(series(figure, f"bound, {name}"), part.to_numpy(), 8 / np.sqrt(t))
    # In labels used, it is one function of the axis for all.
    figure = study_figure(frame, bound="d / sqrt(labels)", x="labels")
    line = series(figure, "bound d / sqrt(labels)")
    x = line["x"].astype(float).to_numpy()
    assert np.all(np.diff(x) > 0)
    assert np.allclose(line["y"], 8 / np.sqrt(x), rtol=1e-12)


# ------------------------------------------------------------------------------- other kinds


def test_slopes_are_the_exponents(frame):
    figure = study_figure(frame, "slopes", window=(100, 2000))
    values = table(frame, "on-policy", "linear dim=8")
    fit = slope_bootstrap(
        values.columns.to_numpy()[1:], values.to_numpy()[:, 1:], window=(100, 2000)
    )
    rows = figure.numbers()
    rows = rows[(rows["series"] == "slope on the window") & (rows["x"] == "on-policy")]
    assert np.allclose(rows["y"].iloc[-1], fit.value, rtol=1e-12)
    assert np.allclose(rows[["lower", "upper"]].iloc[-1].astype(float), fit.ends, rtol=1e-12)
    # Every replica has the same exponent, -(0.5 + 0.05), at (1 + t): the slope in t is a bit less.
    t = values.columns.to_numpy()[values.columns >= 100]
    exact = np.polyfit(np.log(t), -0.55 * np.log(1 + t), 1)[0]
    assert math.isclose(fit.value, exact, rel_tol=1e-9)
    local = series(figure, "on-policy")
    x = local["x"].astype(float).to_numpy()
    assert np.allclose(local["y"], -0.55 * x / (1 + x), atol=0.02)
    assert "window, 100 to 2000, with 95 %" in figure.caption


def test_the_window_is_stated_and_checked(frame):
    figure = study_figure(frame, "slopes")
    assert "44.72 to 2000 (the upper half of the range)" in figure.caption
    with pytest.raises(ValueError, match=r"window must be two numbers .* got \[10\.0, 1\.0\]"):
        study_figure(frame, "slopes", window=(10, 1))
    with pytest.raises(ValueError, match="No slope can be drawn"):
        study_figure(frame, "slopes", window=(3000, 4000))


def test_every_slope_is_within_its_panel(frame):
    # Worlds whose rates differ share an axis.
    steep = (frame["world"] == "linear dim=4") & (frame["place"] > 0)
    figure = study_figure(
        frame.assign(gap=frame["gap"] * np.where(steep, frame["place"] ** -2.0, 1.0)), "slopes"
    )
    for ax in figure.fig.axes:
        low, high = ax.get_xlim()
        for points in ax.collections:
            x = points.get_offsets()[:, 0] if len(points.get_offsets()) else []
            assert all(low < value < high for value in x if value)
    values = figure.numbers().query("series == 'slope on the window'")["y"]
    assert (values < -2).sum() == (values > -1).sum() == 3


def test_a_series_of_two_points_has_a_slope_but_no_curve():
    frame = study_frame(2, (4,), replicas=6, points=30, offline=1)
    two = frame["place"].isin(np.unique(frame.loc[frame["counted"] == "pairs", "place"])[:2])
    figure = study_figure(frame[(frame["counted"] == "round") | two], "slopes", window=(50, 1e4))
    numbers = figure.numbers()
    assert "on-policy" not in set(numbers["series"])
    assert numbers.query("series == 'slope on the window'")["y"].notna().all()


def test_the_slope_of_a_regret_is_positive(frame):
    rows = study_figure(frame, "slopes", metric="regret").numbers()
    assert (rows.query("series == 'slope on the window'")["y"] > 0).all()


def test_the_frontier_is_a_path_of_means(frame):
    figure = study_figure(frame, "frontier")
    kl = table(frame, "GSHF", "linear dim=8", "kl")
    gap = table(frame, "GSHF", "linear dim=8")
    check_line(series(figure, "GSHF"), kl.mean(), gap.mean())
    ends = mean_interval(kl.to_numpy()[:, -1])
    check_line(series(figure, "GSHF, interval of KL"), ends.ends, [gap.mean().iloc[-1]] * 2)
    marks = figure.numbers().query("series == '' and panel == 'linear dim=8'")
    interval = mean_interval(gap.to_numpy()[:, -1])
    assert np.allclose(marks["lower"].iloc[0], interval.lower, rtol=1e-12)


def test_gains_over_pi0_use_its_gap_replica_by_replica():
    frame = study_frame(2, (4,), replicas=5, points=6, offline=1)
    # The offline learner knows pi0's gap from the online one in the same world.
    figure = study_figure(frame, "frontier", relative=True)
    start = frame.query("counted == 'round' and place == 0").set_index("replica")["gap"]
    gap = table(frame, "on-policy", "linear dim=4")
    expected = (start.to_numpy()[:, None] - gap.to_numpy()).mean(axis=0)
    rows = figure.numbers().query("series == 'on-policy'")
    assert np.allclose(rows["y"], expected, rtol=1e-10)
    with pytest.raises(ValueError, match="no learner of this world starts from π0"):
        study_figure(frame[frame["counted"] == "pairs"], "frontier", relative=True)
    with pytest.raises(ValueError, match="about the gap"):
        study_figure(frame, "frontier", relative=True, metric="regret")


def test_pairs_are_paired(frame):
    figure = study_figure(frame, "pairs", baseline="uniform pairs")
    ends = [
        table(frame, name, "linear dim=4").to_numpy()[:, -1] for name in ("GSHF", "uniform pairs")
    ]
    expected = mean_interval(ends[0] - ends[1])
    rows = figure.numbers().query("x == 'GSHF' and panel == 'linear dim=4'")
    assert np.allclose(rows["y"], expected.value, rtol=1e-10)
    assert np.allclose(rows[["lower", "upper"]].astype(float), [expected.ends], rtol=1e-10)
    assert "at the last number of labels that both have (32000, mean over" in figure.caption
    rows = study_figure(frame, "pairs").numbers().query("panel == 'linear dim=4'")
    assert rows["x"].tolist() == [
        "GSHF − on-policy",
        "GSHF − uniform pairs",
        "on-policy − uniform pairs",
    ]


def test_pairs_share_replicas_and_the_last_round(frame):
    # One learner stopped early, and lacks two replicas.
    late = (frame["learner"] == "GSHF") & ((frame["place"] > 1000) | (frame["replica"] < 2))
    figure = study_figure(frame[~late], "pairs", baseline="GSHF")
    t = frame.loc[frame["place"] <= 1000, "place"].max()
    ends = [table(frame, name, "linear dim=8")[t].to_numpy()[2:] for name in ("on-policy", "GSHF")]
    rows = figure.numbers().query("x == 'on-policy' and panel == 'linear dim=8'")
    assert np.allclose(rows["y"], np.mean(ends[0] - ends[1]), rtol=1e-10)
    assert f"labels that both have ({16 * t:g}, mean" in figure.caption
    assert "means over 18 to 20 shared" in figure.caption or "over 18 shared" in figure.caption


def test_pairs_are_at_equal_labels(frame):
    # One learner asks for twice as many labels in every round.
    double = frame.copy()
    double.loc[double["learner"] == "GSHF", "labels"] *= 2
    figure = study_figure(double, "pairs", baseline="uniform pairs")
    many, few = (
        table(frame, name, "linear dim=4").to_numpy() for name in ("GSHF", "uniform pairs")
    )
    t = table(frame, "GSHF", "linear dim=4").columns.to_numpy(dtype=float)
    at = [np.interp(np.log(t[-1]), np.log(2 * t[1:]), row[1:]) for row in many]
    rows = figure.numbers().query("x == 'GSHF' and panel == 'linear dim=4'")
    assert np.allclose(rows["y"], np.mean(np.array(at) - few[:, -1]), rtol=1e-10)
    assert not np.allclose(rows["y"], np.mean(many[:, -1] - few[:, -1]), rtol=1e-2)
    with pytest.raises(ValueError, match="Did you mean 'GSHF'"):
        study_figure(frame, "pairs", baseline="GSHE")
    with pytest.raises(ValueError, match="at least two series"):
        study_figure(frame[frame["learner"] == "GSHF"], "pairs")


def test_tails_are_shares_of_replicas(frame):
    figure = study_figure(frame, "tails")
    ends = table(frame, "GSHF", "linear dim=8").to_numpy()[:, -1]
    rows = series(figure, "GSHF")
    expected = [(ends >= x).mean() for x in np.sort(ends)]
    check_line(rows, np.sort(ends), expected)
    assert rows["y"].min() == 1 / 20
    assert "Share of 20 replicas whose final gap (after 2000 rounds)" in figure.caption


def test_hollow_markers_have_an_inside_and_an_outline():
    """Drawn alone and large enough: some of the paper within, ink all around it."""
    with style.theme():
        for look in range(6):
            fig = mpl_figure.Figure(figsize=(1.0, 0.6), dpi=600)
            ax = fig.add_axes((0, 0, 1, 1))
            forest(ax, ["a"], [0.0], [-1.0], [1.0], "x", [look], zero=True)
            (points,) = [c for c in ax.collections if isinstance(c, PathCollection)]
            for artist in [*ax.lines, *ax.collections]:
                artist.set_visible(artist is points)
            ax.axis("off")
            canvas = FigureCanvasAgg(fig)
            canvas.draw()
            dark = np.asarray(canvas.buffer_rgba())[..., :3].min(axis=-1) < 250
            filled = binary_fill_holes(dark)
            inside = (filled & ~dark).sum() / filled.sum()
            assert 0.1 < inside < 0.7, (look, inside)


def test_a_series_without_slope_is_named_and_has_no_row(frame):
    zero = frame["learner"] == "uniform pairs"
    figure = study_figure(frame.assign(gap=frame["gap"].where(~zero, 0.0)), "slopes")
    rows = figure.numbers().query("series == 'slope on the window'")
    assert set(rows["x"]) == {"GSHF", "on-policy"}
    assert "uniform pairs in linear dim=8 has no slope" in figure.caption
    names = {t.get_text() for ax in figure.fig.axes for t in ax.get_yticklabels()}
    assert "uniform pairs" not in names


def test_numbers_of_a_reason_have_four_digits(frame):
    short = (frame["learner"] == "uniform pairs") & (frame["place"] > 10)
    figure = study_figure(frame[~short], "slopes")
    low = math.sqrt(frame["place"][frame["place"] > 0].min() * frame["place"].max())
    assert f"different positive x in the window [{low:.4g}, 2000]; got" in figure.caption
    assert not re.search(r"[0-9]\.[0-9]{5}", figure.caption), figure.caption
