from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from rlhf_theory.plots.style import COLORS
from rlhf_theory.report import write_report
from rlhf_theory.report.page import read_verdicts
from rlhf_theory.report.svg import inline_svg
from rlhf_theory.theorems.reproduce import reproduce
from tests.helpers.fake_theorems import fake

_VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(HTMLParser):
    """Collects ids, references and texts, and checks that elements close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in {"href", "src"}:
                self.references.append(value)
            if name == "style" or name == "clip-path":
                self.references += [f"#{i}" for i in re.findall(r"url\(#([^)]+)\)", value)]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    cards = [
        fake("a", folder),
        fake("b", folder, "fail"),
        fake("c", folder, "raise", departures=("λ is fixed.",)),
    ]
    reproduce(cards, folder / "out", jobs=1)
    write_report(folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def page(out):
    return (out / "report.html").read_text()


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_the_page_is_well_formed(outline):
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)


def test_every_reference_stays_inside_the_page(outline):
    assert outline.references
    for reference in outline.references:
        assert reference.startswith(("#", "data:"))
        if reference.startswith("#"):
            assert reference[1:] in outline.ids


def test_the_page_names_no_address_at_all(page):
    without_files = re.sub(r"data:[\w/+]+;base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", without_files)


def test_the_page_trusts_its_own_two_scripts_and_no_other(page):
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert page.count("<script") == len(scripts) == 2
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy.group(1)
    assert "default-src 'none'" in policy.group(1)
    assert not re.search(r' on\w+="', page)


def test_theorems_can_be_filtered_by_verdict(page):
    for state, words in (("holds", "holds"), ("fails", "fails"), ("raised", "did not run")):
        assert f'name="verdict" value="{state}"><span>{words}</span>' in page
    # All are quick runs: nothing to choose.
    assert 'name="mode"' not in page
    assert page.count('data-follows="a"') == page.count('<article id="a"') == 1


def test_a_short_page_needs_no_filter(tmp_path):
    reproduce([fake("a", tmp_path), fake("b", tmp_path)], tmp_path / "out", jobs=1)
    assert "<form" not in write_report(tmp_path / "out").read_text()


def test_figures_are_in_the_page_with_their_files(page):
    assert page.count("<svg") == 2
    assert page.count('download="a.pdf"') == page.count('download="a.csv"') == 1
    assert "pairs n" in page


def test_verdicts_are_shown_as_they_came_out(outline):
    words = " ".join(" ".join(outline.words).split())
    assert "1 of 3 studies pass all their checks" in words
    assert "! did not run" in words
    assert "RuntimeError: this study raises <&>" in words
    assert words.count("✗ fails") == 3  # in the list, on the card, at the check
    assert "The theorem a & its <title>" in words
    assert "This is the quick run" in words
    assert "Nowhere." in words
    assert "λ is fixed." in words
    assert "not a number" in words


def test_markup_in_texts_is_escaped(page):
    assert "its <title>" not in page
    assert "raises <&>" not in page


def test_a_page_of_a_run_that_held_says_so(tmp_path):
    reproduce([fake("a", tmp_path)], tmp_path / "out", jobs=1, mode="full")
    page = write_report(tmp_path / "out").read_text()
    assert "The study below passes all its checks." in page
    assert "quick run:" not in page


def test_writing_twice_gives_the_same_page(out, page):
    assert write_report(out).read_text() == page


def test_a_folder_without_verdicts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="it holds no verdict"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_theorems_come_last(out):
    assert [v.name for v in read_verdicts(out)] == ["a", "b", "c"]


def test_an_inlined_figure_follows_the_page(out):
    svg = inline_svg((out / "a" / "figure.svg").read_text(), "a", 'T "x" <&>')
    assert svg.startswith("<svg")
    # Its style sheet holds for itself only.
    rules = re.findall(r"<style>(.*?)</style>", svg)
    assert len(rules) == 1
    assert all(rule.startswith(".figure-a .") for rule in rules[0].rstrip("}").split("}"))
    assert "<metadata" not in svg
    assert "xmlns" not in svg
    assert "DejaVu" not in svg
    assert 'aria-label="T &quot;x&quot; &lt;&amp;>"' in svg
    assert "--natural: 312px" in svg  # 3.25 inches of 96 px
    assert "currentColor" in svg
    assert "var(--blue, #0072b2)" in svg
    left = re.findall(r"(?<!, )#[0-9a-f]{6}", svg)
    assert not {color for color in left if color in COLORS.values()}


def test_black_follows_the_page_too_and_names_become_classes():
    svg = '<svg width="10pt"><!-- a > b --><path d="M 0 0" style="fill: #000000"/></svg>'
    assert inline_svg(svg, "T.1 b", "t") == (
        '<svg class="figure-T-2e-1-20-b" role="img" aria-label="t" style="--natural: 13px">'
        '<path d="M0 0" style="fill:currentColor"/></svg>'
    )


def test_something_else_than_a_figure_is_refused():
    with pytest.raises(ValueError, match="must be an SVG file"):
        inline_svg("<html></html>", "a", "t")
