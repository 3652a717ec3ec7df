import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rlhf_theory.evaluation.statistics import Interval
from rlhf_theory.plots import curves, style
from rlhf_theory.theorems.panels import (
    dotted,
    interval_curve,
    interval_points,
    remark,
    stacked,
)

AT = np.array([1.0, 2.0])
FOUND = Interval(np.array([5.0, 6.0]), np.array([4.0, 5.5]), np.array([7.0, 8.0]))
LOOK = style.SeriesStyle("blue", "--", "s")


@pytest.fixture
def panel():
    return style.figure(1, 1)[1][0]


@pytest.mark.parametrize("draw", [interval_curve, interval_points])
def test_values_and_ends_are_drawn_and_noted_under_their_label(panel, draw):
    draw(panel, AT, FOUND, "gap", LOOK)
    (table,) = curves.noted(panel)
    assert set(table["series"]) == {"gap"}
    drawn = table[["x", "y", "lower", "upper"]].to_numpy().T
    assert_array_equal(drawn, [AT, FOUND.value, FOUND.lower, FOUND.upper])


def test_a_curve_has_the_line_and_points_the_marker_of_their_look(panel):
    interval_curve(panel, AT, FOUND, "curve", LOOK)
    assert panel.lines[0].get_linestyle() == "--"
    before = len(panel.lines)
    interval_points(panel, AT, FOUND, "points", LOOK)
    assert "s" in [line.get_marker() for line in panel.lines[before:]]


def test_a_law_is_dotted_and_as_wide_as_told(panel):
    dotted(panel, AT, FOUND.value, "muted", "law", width=0.5)
    dotted(panel, AT, FOUND.value, "muted")
    narrow, plain = panel.lines
    assert narrow.get_linestyle() == plain.get_linestyle() != "-"
    assert narrow.get_linewidth() == 0.5
    assert plain.get_linewidth() > 0.5
    assert curves.noted(panel)[0]["series"].tolist() == ["law", "law"]


def test_a_remark_ends_where_it_is_put(panel):
    remark(panel, "words", (1.0, 2.0), (-2, 4), style.MUTED)
    (text,) = panel.texts
    assert text.get_text() == "words"
    assert text.xy == (1.0, 2.0)
    assert text.get_position() == (-2, 4)
    assert text.get_horizontalalignment() == "right"


def test_intervals_of_numbers_become_one_of_arrays():
    found = stacked([Interval(5.0, 4.0, 7.0), Interval(6.0, 5.5, 8.0)])
    for name in ("value", "lower", "upper"):
        assert_array_equal(getattr(found, name), getattr(FOUND, name))
