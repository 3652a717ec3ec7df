from __future__ import annotations

import re

import pandas as pd
import pytest

from llm_bridge.demo.arms import DemoSize
from llm_bridge.demo.job import DemoJob
from llm_bridge.jobs.job import carry_out
from rlhf_theory.store import DamageWarning
from tests.unit.report.test_page import Outline

SMALLEST = DemoSize(
    steps=3,
    prompts=6,
    held_out=4,
    pool_size=4,
    held_out_pool=4,
    samples=2,
    labels=8,
    rounds=2,
    epochs=1.0,
    self_play_rounds=1,
    dim=4,
)
ARMS = (
    *("reference", "offline DPO", "offline pessimistic", "online DPO", "online optimistic"),
    "self-play",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return DemoJob(size=SMALLEST, cache=tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="module")
def out(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    carry_out(job, folder, dry_run=False, say=lambda _: None)
    return folder


def test_every_arm_leaves_results_and_a_model_with_its_card(out):
    for arm in ARMS:
        assert (out / "arms" / arm / "done.json").is_file()
        assert (out / "arms" / arm / "000.parquet").is_file()
        assert (out / "arms" / arm / "model" / "README.md").is_file() == (arm != "reference")
    rounds = sorted(p.name for p in (out / "arms" / "online DPO").glob("*.answers.parquet"))
    assert rounds == ["000.answers.parquet", "001.answers.parquet", "002.answers.parquet"]
    results = pd.read_parquet(out / "results.parquet").set_index(["policy", "metric"])
    assert results.loc[("reference", "fresh_kl_k1"), "mean"] == 0.0
    assert results.loc[("offline DPO", "fresh_kl_k1"), "mean"] != 0.0
    assert set(results.index.get_level_values("policy")) == set(ARMS)


def test_the_page_shows_all_arms_and_is_self_contained(out):
    page = (out / "report.html").read_text()
    outline = Outline(page)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    words = " ".join(" ".join(outline.words).split())
    for text in (*ARMS, "grammatical, of fresh responses", "exploitability", "draws from pi0"):
        assert text in words
    assert page.count("<svg") == 5
    without_files = re.sub(r"data:[\w/+]+;base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", without_files)


def test_a_rerun_computes_nothing_and_a_damaged_arm_is_done_again(job, out):
    page = (out / "report.html").read_text()
    said: list[str] = []
    carry_out(job, out, dry_run=False, say=said.append)
    assert sum("found complete" in line for line in said) == len(ARMS)
    assert (out / "report.html").read_text() == page

    before = pd.read_parquet(out / "arms" / "offline DPO" / "000.parquet")
    (out / "arms" / "offline DPO" / "000.parquet").unlink()
    said.clear()
    with pytest.warns(DamageWarning, match=r"000\.parquet is missing.*set aside as offline DPO"):
        carry_out(job, out, dry_run=False, say=said.append)
    assert sum("found complete" in line for line in said) == len(ARMS) - 1
    assert pd.read_parquet(out / "arms" / "offline DPO" / "000.parquet").equals(before)


def test_a_dry_run_says_what_is_there_and_writes_nothing(job, out, tmp_path):
    said: list[str] = []
    carry_out(job, tmp_path / "new", dry_run=True, say=said.append)
    assert "Done already: nothing." in said
    assert not (tmp_path / "new").exists()
    said.clear()
    carry_out(job, out, dry_run=True, say=said.append)
    assert "Done already: offline DPO, " in "\n".join(said)


def test_a_folder_of_another_size_is_refused(job, out):
    with pytest.raises(ValueError, match="seed=5"):
        carry_out(DemoJob(size=SMALLEST, seed=5), out, dry_run=False, say=lambda _: None)
