from __future__ import annotations

import re

import pytest

from rlhf_theory.plots import curves, style
from rlhf_theory.plots.figures import save
from rlhf_theory.report.sections import Section, Sheet, Table, write_page
from tests.unit.report.test_page import Outline


def _figure(folder):
    folder.mkdir()
    fig, (ax,) = style.figure(1, 1, width="column")
    curves.curve(ax, [0, 1], [0, 1], [0, 0.5], [0, 1.5], label="gold")
    save(fig, folder, "The band is a 95 % interval.")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    sections = [
        Section(
            name="results",
            title="Results & <more>",
            kicker="tiny",
            text=["First.", "J = E r − η KL(π‖π_0)"],
            facts={"eta": 0.5, "pairs": "all"},
            tables=[
                Table(
                    columns=["policy", "gold", "seeds"],
                    rows=[["<pi0>", 0.147, 3], ["dpo", float("nan"), None]],
                    caption="Means over prompts.",
                )
            ],
            figures=[
                Sheet(folder=_figure(folder / "f"), title="Frontier", caption="The band is …"),
                Sheet(folder=folder / "nowhere", title="Gone", caption=""),
            ],
            remarks=["One seed."],
            details={"Settings": "a: 1\nb: <2>"},
        ),
        Section(name="two", title="Two"),
        Section(name="three", title="Three"),
    ]
    path = write_page(folder / "report.html", "A run", {"Seed": 7}, sections, lead="Lead here.")
    return path.read_text()


def test_the_page_is_well_formed_and_refers_to_itself_only(page):
    outline = Outline(page)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert any(r.startswith("data:") for r in outline.references)
    for reference in outline.references:
        assert reference.startswith("data:") or reference[1:] in outline.ids
    without_files = re.sub(r"data:[\w/+]+;base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", without_files)
    assert page.count("<script") == 2
    assert "<form" not in page


def test_everything_given_is_shown(page):
    words = " ".join(" ".join(Outline(page).words).split())
    for text in (
        "A run",
        "Lead here.",
        "Seed 7",
        "Results & <more>",
        "tiny",
        "First.",
        "eta 0.5",
        "pairs all",
        "policy gold seeds <pi0> 0.147 3 dpo – –",
        "Means over prompts.",
        "The band is …",
        "The figure “Gone” is missing from its folder.",
        "One seed.",
        "a: 1 b: <2>",
        "Written by rlhf-theory.",
    ):
        assert text in words
    assert "π<sub>0</sub>" in page
    assert page.count("<svg") == 1
    assert 'download="results-0.csv"' in page


def test_numbers_are_set_to_the_right_and_words_are_not(page):
    head = re.search(r"<thead>(.*)</thead>", page)
    assert head is not None
    assert head.group(1) == (
        '<tr><th>policy</th><th class="number">gold</th><th class="number">seeds</th></tr>'
    )


def test_contents_are_listed_where_there_are_several_sections(page, tmp_path):
    assert '<a href="#two">Two</a>' in page
    short = write_page(tmp_path / "p.html", "t", {}, [Section(name="a", title="A")]).read_text()
    assert "<nav" not in short


def test_rows_of_another_length_and_equal_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must have 2 cells"):
        Table(columns=["a", "b"], rows=[[1, 2], [1]])
    twice = [Section(name="a", title="A"), Section(name="a", title="B")]
    with pytest.raises(ValueError, match="different names"):
        write_page(tmp_path / "p.html", "t", {}, twice)
    assert not list(tmp_path.iterdir())
