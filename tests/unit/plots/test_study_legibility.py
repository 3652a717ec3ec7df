"""No text of a figure overlaps another, none is cut off, no legend covers a panel."""

from __future__ import annotations

import pytest

from rlhf_theory import venues
from rlhf_theory.plots import style
from tests.helpers.study_frames import shown_ticks, study_figure, study_frame, text_problems, texts

# Series, panels: a single panel at column width, rows that are not full.
_SIZES = ((3, 1), (12, 1), (6, 2), (14, 5))


@pytest.fixture(scope="module")
def frames():
    return {
        (learners, panels): study_frame(learners, (2, 4, 8, 16, 32)[:panels], replicas=4, points=12)
        for learners, panels in _SIZES
    }


@pytest.mark.parametrize("size", [(12, 1), (14, 5)])
@pytest.mark.parametrize("kind", ["regret", "slopes", "frontier", "pairs", "tails"])
def test_every_kind_can_be_read(frames, kind, size):
    assert text_problems(study_figure(frames[size], kind).fig) == []


@pytest.mark.parametrize(
    ("venue", "size"),
    [(None, (14, 5)), ("neurips2024", (14, 5)), ("icml2024", (12, 1)), ("jmlr2001", (12, 1))],
)
def test_every_venue_can_be_read(frames, venue, size):
    figure = study_figure(frames[size], "ratio", bound="d * log(round + 1) / round", venue=venue)
    assert text_problems(figure.fig) == []
    chosen = venues.venue(venue)
    wide = chosen.text if size[1] > 1 else chosen.column
    assert figure.fig.get_figwidth() == pytest.approx(wide)


def test_widths_and_long_labels_can_be_read(frames):
    frame = frames[6, 2]
    long = frame.assign(
        learner=frame["learner"] + " radius.multiplier=0.1 enhancer.kind=optimistic",
        world="misspecified " + frame["world"] + " actions=10 contexts=20 spectrum=flat",
    )
    for kind in ("suboptimality", "pairs", "slopes"):
        for width in ("column", "text"):
            assert text_problems(study_figure(long, kind, width=width).fig) == []
    one = study_figure(frames[3, 1], width="text")
    assert text_problems(one.fig) == []
    # Names stand next to the curves, without a legend.
    assert not one.fig.legends
    assert {t.get_text() for t in one.fig.axes[0].texts} == {"GSHF", "on-policy", "uniform pairs"}


@pytest.mark.parametrize("last", [200, 1500])
def test_short_logarithmic_axes_have_labels_and_room_for_them(last):
    frame = study_frame(3, (2, 4, 8, 16), replicas=4, points=40)
    frame = frame[(frame["place"] >= 20) & (frame["place"] <= last)]
    figure = study_figure(frame)
    assert text_problems(figure.fig) == []
    labels = [t.get_text() for t in shown_ticks(figure.fig.axes[0].xaxis)]
    assert labels == (["30", "100"] if last == 200 else ["30", "100", "300", "1000"])
    assert len(shown_ticks(figure.fig.axes[0].yaxis)) >= 2


def test_type_has_the_size_of_the_venue_whoever_saves(frames):
    figure = study_figure(frames[6, 2], venue="icml2024")
    sizes = {t.get_fontsize() for t in texts(figure.fig)}
    assert sizes == {6.0, 8.0}
    with style.theme():
        figure.fig.draw_without_rendering()
    assert {t.get_fontsize() for t in texts(figure.fig)} == sizes


def test_the_check_notices_what_cannot_be_read():
    with style.theme():
        fig, (ax,) = style.figure(width="column")
        ax.text(0.5, 0.5, "one", transform=ax.transAxes)
        ax.text(0.51, 0.5, "two", transform=ax.transAxes)
        fig.text(0.99, 0.5, "beyond the edge")
        ax.plot([0, 1], [0, 1], label="line")
        fig.legend(loc="center")
        fig.draw_without_rendering()
    found = " ".join(text_problems(fig))
    assert "'one' and 'two' overlap" in found
    assert "'beyond the edge' is outside" in found
    assert "the legend covers" in found
