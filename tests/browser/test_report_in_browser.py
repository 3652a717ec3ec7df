from __future__ import annotations

import io
import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from rlhf_theory.report import write_report
from rlhf_theory.report.svg import inline_svg, standalone_svg
from rlhf_theory.theorems.reproduce import reproduce
from tests.browser import synthetic
from tests.browser.drive import CONTRAST, look, start, wait
from tests.helpers.fake_theorems import fake


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    browser = start(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def pages(driver, tmp_path_factory):
    """The pages by name; after the browser, so that nothing is drawn where there is none."""
    folder = tmp_path_factory.mktemp("pages")
    cards = [fake("a", folder), fake("b", folder, "fail"), fake("c", folder, "raise")]
    reproduce(cards, folder / "out", jobs=1)
    (folder / "study").mkdir()
    return {
        "theorems": write_report(folder / "out"),
        "study": synthetic.write(folder / "study"),
    }


PAGES = pytest.mark.parametrize("name", ["theorems", "study"])


def css(driver, selector):
    return driver.find_elements("css selector", selector)


def shown(driver, selector):
    script = (
        "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility())"
    )
    return [" ".join(e.text.split()) for e in driver.execute_script(script, selector)]


def count(driver):
    return css(driver, ".count")[0].text


def press(driver, *keys):
    driver.switch_to.active_element.send_keys(*keys)


@PAGES
def test_the_page_works_from_a_file_without_network_and_complaint(driver, pages, name):
    driver.get_log("browser")
    driver.get_log("performance")
    look(driver, pages[name])
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert pages[name].as_uri() in asked
    # "about:" is the page we come from.
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "about"}


@PAGES
@pytest.mark.parametrize("width", [375, 1280])
def test_every_figure_is_seen_and_the_page_never_scrolls_sideways(driver, pages, name, width):
    look(driver, pages[name], width=width)
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('figure svg')].map((e) => {"
        "const r = e.getBoundingClientRect(), b = e.getBBox();"
        "return [r.width, r.height, b.width, b.height]})"
    )
    assert len(sizes) == {"theorems": 2, "study": 4}[name]
    assert np.min(np.array(sizes)[:, :2]) > 150
    assert np.min(np.array(sizes)[:, 2:]) > 0
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    boxes = driver.execute_script(
        "return [...document.querySelectorAll('.scroll')].map((e) => e.scrollWidth > e.clientWidth)"
    )
    assert any(boxes) == (width == 375)  # wide things scroll in their own box, and only there


def test_a_figure_made_small_looks_as_it_did(driver, pages, tmp_path):
    # The facets: three panels with bands, dashes, ticks and mathematical labels.
    path = pages["study"].parent / "figures" / "all" / "figure.svg"
    file, inside = standalone_svg(path.read_text()), inline_svg(path.read_text(), "s", "t")
    assert max(len(file), len(inside)) < 0.4 * path.stat().st_size
    (tmp_path / "file.svg").write_text(file)
    page = tmp_path / "three.html"
    page.write_text(
        "<!doctype html><style>:root { --muted: #6c7075; --paper: #ffffff; color: #1b1c1e; }"
        "body { margin: 0; font-family: 'DejaVu Sans'; }"
        # Boxes of whole pixels: a shift by half of one would move every line.
        "div { height: 400px; } img, svg { width: 1100px; display: block; }"
        # As the style sheet of the page, and as that of matplotlib's own file.
        "svg * { stroke-linejoin: round; stroke-linecap: butt; }</style>"
        f"<div id='whole'><img src='{path.as_uri()}'></div>"
        "<div id='file'><img src='file.svg'></div>"
        f"<div id='inside'>{inside}</div>"
    )
    look(driver, page)
    wait(
        driver,
        lambda d: d.execute_script(
            "return [...document.images].every((e) => e.complete && e.naturalWidth)"
        ),
    )
    whole, *others = (
        matplotlib.image.imread(io.BytesIO(css(driver, f"#{name}")[0].screenshot_as_png))[..., :3]
        for name in ("whole", "file", "inside")
    )
    assert (whole < 0.9).any(axis=2).mean() > 0.05  # something is drawn
    # A hundredth of a point in the file, a tenth on the page: the smoothing of edges, at most.
    for other, share in zip(others, (0.0005, 0.005), strict=True):
        assert np.mean(np.abs(whole - other).max(axis=2) > 0.25) < share


@PAGES
@pytest.mark.parametrize("dark", [False, True])
def test_all_words_stand_out_from_their_ground(driver, pages, name, dark):
    look(driver, pages[name], dark=dark)
    for box in css(driver, ".chip")[:1]:
        box.click()
    found = driver.execute_script(CONTRAST)
    assert len(found) > 50
    low = [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5]
    assert low == []
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (max(int(c) for c in ground[4:-1].split(",")) < 64) == dark


def test_search_narrows_and_says_how_much_is_left(driver, pages):
    look(driver, pages["study"])
    assert count(driver) == "4 figures, 44 rows, 1 failure, 24 cells"
    css(driver, "#filter-search")[0].send_keys("linear DIM=8 gshf")
    wait(driver, lambda d: "6 of 44 rows" in count(d))
    # A summary row and five comparisons; its own figure and the one of three worlds; one cell.
    assert count(driver) == "2 of 4 figures, 6 of 44 rows, 0 of 1 failure, 1 of 24 cells"
    assert shown(driver, "figure h2") == ["Suboptimality, linear dim=8", "Suboptimality, by world"]
    assert all("linear dim=8 GSHF" in row for row in shown(driver, "tbody tr"))
    assert shown(driver, "#failures .empty") == ["Nothing here matches the search and the filters."]
    assert shown(driver, "#failures .note") == []
    css(driver, "button[type=reset]")[0].click()
    wait(driver, lambda d: count(d) == "4 figures, 44 rows, 1 failure, 24 cells")
    assert driver.execute_script("return location.hash") == ""


def test_chips_filter_and_the_address_keeps_them(driver, pages):
    look(driver, pages["study"])
    for value in ("easy", "cycle", "XPO"):
        driver.execute_script(
            "document.querySelector(`.chip input[value='${arguments[0]}']`).click()", value
        )
    # Two worlds or, one learner and: XPO's summary row and its comparison, in each of two worlds.
    expected = "3 of 4 figures, 4 of 44 rows, 1 of 1 failure, 2 of 24 cells"
    wait(driver, lambda d: count(d) == expected)
    # Scores are about no world in particular, so they stay.
    assert "Scores" in shown(driver, "figure h2")
    address = driver.current_url
    assert address.endswith("#filter?world=easy&world=cycle&learner=XPO")
    look(driver, address)
    wait(driver, lambda d: count(d) == expected)
    assert [e.get_attribute("value") for e in css(driver, ".chip input:checked")] == [
        "easy",
        "cycle",
        "XPO",
    ]


def test_the_filter_can_be_used_without_a_mouse(driver, pages):
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    look(driver, pages["study"])
    press(driver, "/")
    assert driver.switch_to.active_element.get_attribute("id") == "filter-search"
    press(driver, "gshf")
    wait(driver, lambda d: "24 of 44 rows" in count(d))
    press(driver, Keys.ESCAPE)
    wait(driver, lambda d: count(d).startswith("4 figures, 44 rows"))
    press(driver, Keys.TAB)
    chip = driver.switch_to.active_element
    assert (chip.get_attribute("name"), chip.get_attribute("value")) == ("world", "easy")
    # The focus is drawn around the words of the chip.
    outline = "return getComputedStyle(arguments[0].nextElementSibling).outlineStyle"
    assert driver.execute_script(outline, chip) == "solid"
    press(driver, Keys.SPACE)
    wait(driver, lambda d: "of 44" in count(d))
    assert css(driver, ".find label")[0].get_attribute("for") == "filter-search"
    assert css(driver, ".count")[0].get_attribute("role") == "status"


def test_a_table_sorts_by_its_heads_with_the_missing_last(driver, pages):
    look(driver, pages["study"])
    heads = css(driver, "#table-paired-comparisons th")
    column = [h.text for h in heads].index("p")
    cells = f"#table-paired-comparisons td:nth-child({column + 1})"

    def order():
        values = [e.get_attribute("data-value") for e in css(driver, cells)]
        assert values[-1] == ""
        return np.array([float(v) for v in values[:-1]])

    heads[column].find_element("css selector", "button").click()
    assert heads[column].get_attribute("aria-sort") == "ascending"
    assert np.all(np.diff(order()) >= 0)
    heads[column].find_element("css selector", "button").click()
    assert heads[column].get_attribute("aria-sort") == "descending"
    assert np.all(np.diff(order()) <= 0)
    heads[2].find_element("css selector", "button").click()
    assert heads[column].get_attribute("aria-sort") is None
    second = [e.text for e in css(driver, "#table-paired-comparisons td:nth-child(3)")]
    assert second == sorted(second, key=str.lower)


def test_theorems_are_filtered_by_verdict_and_a_link_to_a_hidden_one_shows_it(driver, pages):
    look(driver, pages["theorems"])
    assert [e.text for e in css(driver, ".chip")] == ["holds", "fails", "did not run"]
    css(driver, ".chip")[1].click()
    wait(driver, lambda d: count(d) == "1 of 3 theorems")
    assert shown(driver, "article h2") == ["The theorem b & its <title>"]
    assert len(shown(driver, ".summary tbody tr")) == 1
    driver.execute_script("location.hash = '#a'")
    wait(driver, lambda d: count(d) == "3 theorems")
    css(driver, "#filter-search")[0].send_keys("RuntimeError")
    wait(driver, lambda d: count(d) == "1 of 3 theorems")
    assert shown(driver, "article .kicker") == ["c"]


def test_the_choice_of_colours_is_kept(driver, pages):
    look(driver, pages["study"])
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = driver.execute_script(ground)
    css(driver, "#theme")[0].click()
    dark = driver.execute_script(ground)
    assert dark != light
    assert css(driver, "#theme")[0].text == "Light colours"
    look(driver, pages["study"])
    assert driver.execute_script(ground) == dark
    # On paper it is light all the same.
    look(driver, pages["study"], media="print")
    assert (
        driver.execute_script("return getComputedStyle(document.body).color") == "rgb(27, 28, 30)"
    )
    look(driver, pages["study"])
    css(driver, "#theme")[0].click()
    assert driver.execute_script(ground) == light
    assert driver.execute_script("return localStorage.length") == 0


def test_everything_is_open_on_paper(driver, pages):
    look(driver, pages["study"])
    closed = "return document.querySelectorAll('details:not([open])').length"
    before = driver.execute_script(closed)
    assert before >= 3
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert driver.execute_script(closed) == 0
    driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert driver.execute_script(closed) == before
    look(driver, pages["study"], media="print")
    assert shown(driver, "form.filter, #theme, .downloads") == []


def test_files_are_saved_as_they_were(driver, pages, tmp_path):
    folder = pages["study"].parent
    look(driver, pages["study"])
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    links = css(driver, "figure:nth-of-type(3) .downloads a")
    assert [link.text for link in links] == ["pdf", "svg", "numbers (csv)"]
    for link in [*links, *css(driver, "#study .downloads a"), *css(driver, "#table-summary a")]:
        # By script: a page that scrolls smoothly under a click is not what is tested here.
        driver.execute_script("arguments[0].click()", link)
        target = tmp_path / link.get_attribute("download")
        wait(driver, lambda _, path=target: path.is_file() and path.stat().st_size > 0)
    stored = folder / "figures" / "all"
    for kind in ("pdf", "csv"):
        (saved,) = tmp_path.glob(f"easy-3-*.{kind}")
        assert saved.read_bytes() == (stored / f"figure.{kind}").read_bytes()
    (saved,) = tmp_path.glob("easy-3-*.svg")
    assert saved.read_text() == standalone_svg((stored / "figure.svg").read_text())
    assert (tmp_path / "easy.toml").read_text() == synthetic.STUDY
    assert json.loads((tmp_path / "easy-resolved.json").read_text())["name"] == "easy"
    numbers = pd.read_csv(tmp_path / "easy-summary.csv")
    np.testing.assert_array_equal(numbers["Mean"], synthetic.summary(synthetic.frame())["mean"])
    assert driver.get_log("browser") == []


@PAGES
def test_without_scripts_it_is_a_plain_page_with_everything_on_it(driver, pages, name):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        look(driver, pages[name])
        shown_forms = [e for e in css(driver, "form.filter, #theme, th button") if e.is_displayed()]
        assert shown_forms == []
        hidden = [e for e in css(driver, "article, figure, tbody tr") if not e.is_displayed()]
        assert hidden == []
        names = [e.get_attribute("download") for e in css(driver, "figure .downloads a")]
        endings = {n.partition(".")[2] for n in names}
        assert {"pdf", "svgz"} <= endings <= {"pdf", "svgz", "csv", "csv.gz"}
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
