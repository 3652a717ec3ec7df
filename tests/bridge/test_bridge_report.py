from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from llm_bridge.evaluation.cards import Card
from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.figures import win_rates
from llm_bridge.evaluation.report import (
    answers_table,
    card_section,
    described,
    figure_sheets,
    language_versions,
    pool_section,
    results_section,
    results_table,
    write_run_page,
)
from llm_bridge.pools.report import PoolReport
from tests.unit.report.test_page import Outline

PROMPTS = ("what color is oak ?", "where is iron ?", "a <b>")


def _details(level, fresh=True):
    gold = level + np.array([[0.0, 1.0, 2.0]])
    nothing = np.full((1, 3), np.nan)
    each = {"pool_gold": gold, "fresh_gold": gold + 1 if fresh else nothing}
    answers = pd.DataFrame()
    if fresh:
        answers = pd.DataFrame(
            {
                "prompt": [p for p in PROMPTS for _ in range(2)],
                "number": [0, 1] * 3,
                "response": ["oak is <brown>", "x"] * 2 + ["long " * 60, "y"],
                "fresh_gold": np.arange(6.0),
            }
        )
    return Details(PROMPTS, each, np.full(3, 1 / 3), answers)


RESULTS = {"reference": _details(0.0), "gibbs": _details(1.0, fresh=False)}


def test_the_table_has_means_intervals_and_dashes():
    table = results_table(RESULTS)
    assert list(table.columns) == ["", "reference", "gibbs"]
    names = [row[0] for row in table.rows]
    assert names == ["gold reward, exact on the pools", "gold reward, of fresh responses"]
    mean, interval = table.rows[0][1].split("\n")
    assert mean == "1"
    assert "\u00a0to\u00a0" in interval
    assert table.rows[1][2] is None
    assert table.cells[1][2] == "–"
    assert "intervals over held-out prompts" in table.caption
    assert len(results_table(RESULTS, ["fresh_gold", "nothing"]).rows) == 1


def test_metrics_of_the_user_are_described_by_their_names():
    assert described("fresh_first_word") == "first word, of fresh responses"
    assert described("mine") == "mine"


def test_samples_are_those_of_policies_that_write():
    table = answers_table(RESULTS, prompts=3, each=1)
    assert table is not None
    assert [row[1] for row in table.rows] == ["reference"] * 3
    assert len(table.rows[2][2]) == 160
    assert answers_table({"gibbs": RESULTS["gibbs"]}) is None


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    drawing = win_rates(["reference"], [0.5], [0.4], [0.6])
    sheets = figure_sheets({"win-rates": drawing}, folder / "figures")
    report = PoolReport(np.array([2, 3]), np.array([4.0, 3.5]), np.array([0.1, 0.2]), np.ones(2))
    card = Card(name="tiny-dpo", base="tiny", method="Trained by DPO.", eta=0.5)
    sections = [
        results_section(RESULTS, figures=sheets, text=["Held out."], remarks=["One seed."]),
        pool_section({"train": report}),
        card_section([card]),
    ]
    path = write_run_page(
        folder / "report.html", "A run", sections, facts={"Seed": 3}, command="rlhf-theory lm demo"
    )
    return path.read_text()


def test_the_page_is_well_formed_and_self_contained(page):
    outline = Outline(page)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    without_files = re.sub(r"data:[\w/+]+;base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", without_files)
    assert page.count("<svg") == 1


def test_the_page_shows_results_pools_cards_and_versions(page):
    words = " ".join(" ".join(Outline(page).words).split())
    for text in (
        "Seed 3",
        "oak is <brown>",
        "What the pools approximate",
        "2 prompts with 2.5 distinct responses each",
        "Trained by DPO.",
        "One seed.",
        "Written by rlhf-theory lm demo.",
        "transformers",
    ):
        assert text in words
    assert {"python", "torch", "transformers", "rlhf-theory"} <= set(language_versions()) | {
        "rlhf-theory"
    }
