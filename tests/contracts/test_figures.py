"""Every kind of figure on the results of a study whose laws are known."""

import re

import pytest

from rlhf_theory.register import found
from rlhf_theory.studies.plot_specs import PlotSpec, plot_facts
from tests.helpers.study_frames import study_figure, study_frame, text_problems, texts

GIVEN = {"bound": "d / labels"}


@pytest.fixture(scope="module")
def frame():
    return study_frame(3, (4, 8), replicas=6, points=12)


@pytest.fixture(scope="module", params=found("plot"))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def figure(frame, kind):
    return study_figure(frame, kind, **{name: GIVEN[name] for name in plot_facts(kind).needs})


def test_its_title_and_options_are_said(kind):
    facts = plot_facts(kind)
    assert facts.title != kind
    assert set(facts.options) | set(facts.needs) <= set(PlotSpec.model_fields)
    assert set(facts.needs) <= set(facts.options)


def test_it_draws_every_learner_in_every_world(figure, frame):
    numbers = figure.numbers()
    # A panel may have several axes, of which the first has its title.
    assert set(numbers["panel"]) >= set(frame["world"])
    shown = " ".join(text.get_text() for text in texts(figure.fig))
    assert all(learner in shown for learner in frame["learner"].unique())


def test_its_text_can_be_read(figure):
    assert text_problems(figure.fig) == []


def test_its_caption_says_what_is_drawn(figure):
    assert figure.caption[0].isupper()
    assert figure.caption.endswith(".")
    assert re.search(r"\b6 (shared )?replicas\b", figure.caption)


def test_it_is_saved_with_its_numbers_and_its_caption(figure, tmp_path, kind):
    names = [path.name for path in figure.save(tmp_path / kind)]
    assert names == [f"{kind}.{suffix}" for suffix in ("pdf", "svg", "csv", "txt")]
