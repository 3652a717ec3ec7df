from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from rlhf_theory.plots import axes, curves, figures, style


@pytest.fixture
def panel():
    with style.theme():
        _, (ax,) = style.figure(width="column")
        yield ax


def tick_labels(axis):
    axis.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    return [t.label1.get_text() for t in axis.get_major_ticks() if low <= t.get_loc() <= high]


def test_the_theme_ends_with_its_block():
    before = mpl.rcParams["svg.fonttype"]
    with style.theme():
        assert mpl.rcParams["svg.fonttype"] == "none"
        assert mpl.rcParams["pdf.fonttype"] == 42
    assert mpl.rcParams["svg.fonttype"] == before


def test_series_differ_in_colour_or_line():
    seen = {(s.color, str(s.line)) for s in map(style.series, range(24))}
    assert len(seen) == 24


def test_sentinels_are_no_colour_of_a_series():
    series = {style.series(i).color for i in range(6)}
    assert not series & {style.INK, style.MUTED, style.PAPER}
    # Enough contrast on white for a line (WCAG asks 3:1 for graphics; the two light ones, sky and
    # orange, are Okabe and Ito's and always come with a line style and a marker of their own).
    luminance = {c: np.dot([0.2126, 0.7152, 0.0722], np.power(to_rgb(c), 2.2)) for c in series}
    assert sum(1.05 / (value + 0.05) >= 3 for value in luminance.values()) >= 3


def test_panels_come_row_by_row():
    fig, panels = style.figure(3, 2)
    assert len(panels) == 6
    assert [p.get_subplotspec().num1 for p in panels] == list(range(6))
    assert fig.get_figwidth() == 6.75
    with pytest.raises(ValueError, match="Did you mean 'column'"):
        style.figure(width="colum")


def test_what_is_drawn_is_noted(panel):
    curves.band(panel, [1, 2], [0, 1], [1, 2], [2, 3], "a", "blue")
    curves.points(panel, [1, 2], [5, 6], [4, 5], [6, 8], "b")
    curves.level(panel, 0.95, "level")
    panel.plot([1, 2], [7, 8], label="by hand")
    panel.set_title("P")
    numbers = figures.plotted_numbers(panel.figure)
    assert list(numbers.columns) == ["panel", "series", "x", "y", "lower", "upper"]
    assert set(numbers["panel"]) == {"P"}
    a = numbers[numbers["series"] == "a"]
    assert a[["x", "y", "lower", "upper"]].to_numpy().tolist() == [[1, 1, 0, 2], [2, 2, 1, 3]]
    b = numbers[numbers["series"] == "b"]
    assert b[["lower", "upper"]].to_numpy().tolist() == [[4, 6], [5, 8]]
    assert numbers[numbers["series"] == "level"]["y"].tolist() == [0.95]
    assert numbers[numbers["series"] == "by hand"]["y"].tolist() == [7, 8]
    # Each number once.
    assert len(numbers) == 2 + 2 + 1 + 2


def test_bars_and_slopes_are_noted(panel):
    curves.bars(panel, ["R1", "R2"], [0.9, 0.8], [0.85, 0.7], [0.95, 0.9], "share")
    numbers = figures.plotted_numbers(panel.figure)
    assert numbers["x"].tolist() == ["R1", "R2"]
    assert numbers["upper"].tolist() == [0.95, 0.9]
    curves.slope_guide(panel, -0.5, (1.0, 2.0), 4.0)
    guide = figures.plotted_numbers(panel.figure).query("series == 'slope −0.5'")
    assert guide["y"].tolist() == [2.0, 1.0]


def test_an_empty_figure_has_no_numbers():
    fig, _ = style.figure()
    assert figures.plotted_numbers(fig).empty


def test_points_admit_one_point_and_intervals_off_by_rounding(panel):
    curves.points(panel, [1.0], [2.0], [2.0 + 1e-16], [3.0], "a")
    curves.points(panel, 1.0, 2.0, 1.0, 3.0, "scalar")
    assert figures.plotted_numbers(panel.figure)["series"].tolist() == ["a", "scalar"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.0, 8.0, ["1", "2", "5"]),
        (0.02, 0.3, ["0.02", "0.05", "0.1", "0.2"]),
        (10.0, 9000.0, ["10", "100", "1000"]),
        (1e-7, 1e-3, ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³"]),
    ],
)
def test_logarithmic_ticks_can_be_read(panel, low, high, expected):
    axes.log_axes(panel, "y")
    panel.set_ylim(low, high)
    assert tick_labels(panel.yaxis) == expected


def test_a_legend_lists_equal_labels_once_and_takes_no_room_from_panels():
    with style.theme():
        fig, panels = style.figure(2)
        height = fig.get_figheight()
        for ax in panels:
            for name in ("greedy", "pessimistic", "a long name of an algorithm", "bound"):
                curves.curve(ax, [1, 2], [1, 2], label=name)
        axes.legend(fig)
        (legend,) = fig.legends
        assert len(legend.get_texts()) == 4
        assert fig.get_figheight() > height
        assert legend.get_window_extent().width <= fig.bbox.width
        fig.draw_without_rendering()
        bottom = min(ax.get_tightbbox().y0 for ax in panels)
        assert legend.get_window_extent().y1 <= bottom + 1


def test_rows_of_a_legend_are_filled_evenly(panel):
    for i in range(8):
        curves.curve(panel, [1, 2], [1, 2 + i], label=f"learner {i}")
    axes.legend(panel.figure)
    (legend,) = panel.figure.legends
    assert len(legend.get_texts()) == 8
    # Three columns fit in this width; as four rows of two would, three rows take two gaps.
    assert 8 % legend._ncols == 0 or legend._ncols == 3


def test_a_legend_can_go_into_a_panel_and_needs_curves(panel):
    axes.legend(panel.figure)
    assert not panel.figure.legends
    curves.curve(panel, [1, 2], [1, 2], label="a")
    axes.legend(panel.figure, inside=panel, loc="upper left")
    assert panel.get_legend() is not None


def test_end_labels_do_not_touch(panel):
    for i in range(5):
        curves.curve(panel, [1, 2], [1, 2 + 0.001 * i], label=f"curve {i}")
    axes.end_labels(panel)
    panel.figure.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in panel.texts), key=lambda b: b.y0)
    assert len(boxes) == 5
    assert all(low.y1 <= high.y0 + 0.5 for low, high in pairwise(boxes))
    assert [t.get_text() for t in sorted(panel.texts, key=lambda t: t.get_position()[1])] == [
        f"curve {i}" for i in range(5)
    ]


def test_heights_move_as_little_as_can_be():
    assert axes._apart([0.0, 1.0, 2.0], 0.5) == [0.0, 1.0, 2.0]
    assert np.allclose(axes._apart([1.0, 1.0, 5.0], 0.5), [0.75, 1.25, 5.0])
    moved = axes._apart([0.3, 0.1, 0.11, 0.12], 0.2)
    assert np.all(np.diff(np.sort(moved)) >= 0.2 - 1e-12)


def test_files_are_the_same_every_time(tmp_path):
    def drawn():
        with style.theme():
            fig, (ax,) = style.figure(width="column")
            curves.band(ax, [1, 2], [0, 1], [1, 2], [2, 3], "a", "blue")
            axes.legend(fig)
            return fig

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        figures.save(drawn(), tmp_path / name, "The band is a test.")
    for name in ("figure.svg", "figure.pdf", "figure.csv", "caption.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    svg = (tmp_path / "one" / "figure.svg").read_text()
    assert "<text" in svg
    assert "dc:date" not in svg
    assert (tmp_path / "one" / "caption.txt").read_text() == "The band is a test.\n"


def test_a_remark_goes_into_a_corner(panel):
    curves.text(panel, "n = 5", "lower left")
    assert panel.texts[0].get_horizontalalignment() == "left"
