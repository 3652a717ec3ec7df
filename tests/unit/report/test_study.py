from __future__ import annotations

import gzip
import json
import re
import xml.etree.ElementTree as ET
from base64 import b64decode
from html import unescape
from itertools import cycle, islice
from urllib.parse import unquote

import pytest

from rlhf_theory.report import Sheet, Table, write_study_page
from rlhf_theory.report.svg import standalone_svg
from tests.browser import synthetic
from tests.unit.report.test_page import Outline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    synthetic.write(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def words(page):
    return " ".join(" ".join(Outline(page).words).split())


def content(address: str) -> bytes:
    head, _, data = unescape(address).partition(",")
    raw = b64decode(data) if head.endswith(";base64") else unquote(data).encode()
    return gzip.decompress(raw) if "gzip" in head else raw


def test_the_page_is_well_formed_and_refers_to_itself_only(page):
    outline = Outline(page)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    for reference in outline.references:
        assert reference.startswith("data:") or reference[1:] in outline.ids
    without_files = re.sub(r'"data:[^"]+"', "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", without_files)


def test_everything_of_the_study_is_shown(words):
    for text in (
        "rlhf-theory study easy",
        "What exploration buys",
        "with <paired> replicas.",
        "Cells 24 Replicas 256 Finished 23 Failed 1",
        "Suboptimality after 1000 rounds.",
        "easy XPO gap",
        "Negative: the first is better.",
        "Dashed: the bound d / √t.",
        "easy, XPO, replicas 0 to 63: ConvergenceError: Replicas 3, 17",
        "Tried 3 times.",
        "Error: <&>",
        'kind = "online-iterative"',
        '"dim": 8',
        "2026-01-02T03:04:05Z, rlhf-theory run easy.toml",
        '"backend": "local"',
    ):
        assert text in words
    order = ["Summary", "Paired comparisons", "Failures", "Cells", "Study and provenance"]
    places = [words.rindex(f"{head} ") for head in order]
    assert places == sorted(places)


def test_every_figure_and_table_comes_with_its_files(page, folder):
    links = re.findall(r'<a download="([^"]+)"(?: data-media="([^"]+)")? href="([^"]+)"', page)
    files = {name: (media, address) for name, media, address in links}
    assert len(files) == len(links) == 4 * 3 + 3 + 2
    (svg,) = [name for name in files if name.startswith("easy-3-") and name.endswith(".svgz")]
    media, address = files[svg]
    assert media == "image/svg+xml"
    stored = folder / "figures" / "all"
    drawing = content(address).decode()
    assert drawing == standalone_svg((stored / "figure.svg").read_text())
    root = ET.fromstring(drawing)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["width"] == "486pt"
    assert "DejaVu Sans" in drawing
    assert "var(" not in drawing
    (pdf,) = [name for name in files if name.startswith("easy-3-") and name.endswith(".pdf")]
    assert content(files[pdf][1]) == (stored / "figure.pdf").read_bytes()
    # A long table is compressed, a short one stands as it is.
    assert "easy-1-suboptimality-easy.csv.gz" in files
    scores = content(files["easy-4-scores.csv"][1])
    assert scores == (folder / "figures" / "scores" / "figure.csv").read_bytes()
    assert content(files["easy.toml"][1]).decode() == synthetic.STUDY
    assert json.loads(content(files["easy-resolved.json"][1]))["seed"] == 0
    assert content(files["easy-summary.csv"][1]).decode().startswith("World,Learner,Metric,Mean,")


def test_tags_and_choices_agree(page):
    offered = {
        name: set(re.findall(rf'name="{name}" value="([^"]+)"', page))
        for name in ("world", "family", "learner", "plot")
    }
    assert offered["world"] == set(synthetic.WORLDS)
    assert offered["plot"] == {"suboptimality", "facets", "scores"}
    tags = [json.loads(unescape(t)) for t in re.findall(r'data-tags="([^"]*)"', page)]
    assert len(tags) == 24 + 20 + 4 + 1 + 24
    for some in tags:
        for name, values in some.items():
            assert set(values) <= offered[name]


@pytest.mark.parametrize("kinds", [["world0", "all", "world1", "all", "scores"], ["all"]])
def test_forty_figures_stay_below_five_megabytes(folder, tmp_path, kinds):
    # Six learners with bands and a bound at 47 rounds each: in one panel, in three, and six bars;
    # and three panels everywhere.
    stored = folder / "figures"
    figures = [
        Sheet(folder=stored / kind, title=f"Figure {k} {kind}", caption="…", tags={"plot": kind})
        for k, kind in enumerate(islice(cycle(kinds), 40))
    ]
    path = synthetic.write(tmp_path, figures)
    page = path.read_text()
    assert page.count("<svg") == 40
    assert path.stat().st_size <= 5e6
    # What makes the room is left out in words, not in silence.
    assert page.count('.svgz"') == 40
    assert '.pdf"' not in page
    assert "PDF files are in the folder of the study" in page


def test_a_study_with_nothing_yet_has_a_page(tmp_path):
    path = write_study_page(
        tmp_path / "p.html",
        name="S & T",
        title="",
        facts={},
        tables={"Summary": Table(columns=["a"], rows=[])},
        figures=[Sheet(folder=tmp_path, title="Gone", caption="")],
        remarks=["The figure x_1 could not be drawn."],
    )
    outline = Outline(path.read_text())
    assert outline.open == []
    words = " ".join(" ".join(outline.words).split())
    assert "S & T" in words
    assert "The figure is missing from its folder." in words
    assert "could not be drawn" in words
    assert "Failures" not in words
    assert "table-summary" not in outline.ids


def test_many_cells_wait_until_they_are_asked_for(tmp_path):
    cells = Table(columns=["key"], rows=[[f"{k}"] for k in range(30)])
    path = write_study_page(tmp_path / "p.html", name="s", title="t", facts={}, cells=cells)
    assert "<summary>All 30 cells</summary>" in path.read_text()


def test_writing_twice_gives_the_same_page(folder, page):
    assert synthetic.write(folder, synthetic.sheets(folder / "figures")).read_text() == page


def test_headings_that_would_share_an_address_are_refused(tmp_path):
    table = Table(columns=["a"], rows=[[1]])
    with pytest.raises(ValueError, match="different headings; got A b, a-B"):
        write_study_page(
            tmp_path / "p.html", name="s", title="t", facts={}, tables={"A b": table, "a-B": table}
        )
    assert not list(tmp_path.iterdir())
