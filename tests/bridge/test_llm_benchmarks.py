"""Benchmarks of language models: study files that run, cards of parts, what is stored."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.llm import (
    cards,
    linear_account,
    over_optimised_pools,
)
from llm_bridge.labels.oracles import TextReward
from llm_bridge.tiny import questions, split_prompts
from llm_bridge.tiny.world import TinyWorld, TinyWorldRecipe
from rlhf_theory.cli import main
from rlhf_theory.randomness import Key
from rlhf_theory.study import Study
from rlhf_theory.theorems.reproduce import reproduce
from rlhf_theory.theorems.stored import read_curves, read_verdict

HOME = Path(cards.__file__).parent
FILES = sorted(HOME.glob("*.toml"))
STORED = sorted(path.parent.name for path in HOME.glob("results/*/curves.parquet"))


@pytest.fixture
def here(tmp_path, tiny_model, monkeypatch):
    """A folder with the files that the studies name, of an untrained model and few prompts."""
    tiny = tmp_path / "results" / "tiny"
    tiny_model.save(tiny / "model")
    (tiny / "prompts.txt").write_text("\n".join(q.text for q in questions()[:12]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_study_file_resolves_and_its_quick_form_is_small(here, file, capsys):
    full, quick = (Study.from_toml(file, quick=quick) for quick in (False, True))
    assert {full.name, quick.name} == {file.stem}
    assert full.lead.endswith("?")
    trained = [c for c in quick.cells() if c.world["kind"] == "prompts"]
    assert {c.replicas for c in trained} == {1}
    assert len(trained) <= 4 < max(c.replicas for c in full.cells()) * len(full.cells())
    with pytest.raises(SystemExit) as ended:
        main(["run", str(file), "--quick", "--dry-run", "--out", str(here / "out")])
    assert ended.value.code in (0, None), capsys.readouterr()
    assert f"{len(quick.cells())} cells" in capsys.readouterr().out
    assert not (here / "out").exists()


def test_a_bandit_and_a_language_model_stand_on_one_page(here):
    file = HOME / "one-learner.toml"
    smaller = ["world[1].pool_size=3", "world[1].max_new_tokens=6", "world[1].features={ dim = 3 }"]
    smaller += ["rounds=1", "learner.batch_size=8", "learner[1].planner.steps=2"]
    smaller += ["world[1].samples=0"]
    study = Study.from_toml(file, smaller, quick=True)
    result = study.run(here / "out", backend="serial", quiet=True)
    assert (result.tally.done, result.tally.failed) == (3, 0)
    ends = result.summary().set_index(["world", "learner"])["mean"]
    assert set(ends.index) == {
        ("bandit", "exact planning"),
        ("language model", "exact planning"),
        ("language model", "training as planning"),
    }
    assert np.isfinite(ends.to_numpy(dtype=float)).all()
    page = result.report().read_text(encoding="utf-8")
    assert study.title in page
    assert "does the gap fall in both worlds?" in page
    assert "training as planning" in page


# --------------------------------------------------------------------------- cards


@pytest.mark.parametrize("name", cards.CARDS)
@pytest.mark.parametrize("mode", ["quick", "full"])
def test_cards_are_cut_into_parts_that_keep_apart(name, mode):
    study = cards.card(name)
    assert study.name == name
    labels = [part.label for part in study.parts(study.sweep(mode))]
    assert len(set(labels)) == len(labels) > 1


@pytest.fixture
def toy(tiny_policy, monkeypatch):
    """The untrained model in the place of the trained one, and a reward that varies."""
    learn, held = split_prompts(Key(0))
    world = TinyWorld(Path(), TinyWorldRecipe(), learn, held, (0.0, 0.0))
    reward = TextReward(lambda _, response: 0.5 * len(set(response.split())))
    for module in (linear_account, over_optimised_pools):
        monkeypatch.setattr(module, "tiny_policy", lambda: (world, tiny_policy))
        monkeypatch.setattr(module, "gold", lambda: reward)
    caches = (linear_account.account, over_optimised_pools.pools_of)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


TOYS = {
    "worth-of-labels": {"replicas": 2, "prompts": 4, "pool": 4, "dims": [2], "ridges": [1.0]},
    "over-optimised-pools": {
        "replicas": 2,
        "block": 1,
        "dim": 2,
        "prompts": 4,
        "pool": 4,
        "labels": [8],
        "wide_prompts": 2,
        "wide_pool": 4,
        "members": 2,
    },
}


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.usefixtures("toy")
def test_a_card_runs_by_parts_and_is_stored(tmp_path, name, monkeypatch):
    study = cards.card(name)
    monkeypatch.setitem(vars(study), "quick", {**study.quick, **TOYS[name]})
    [verdict] = reproduce([study], tmp_path, jobs=1)
    assert not verdict.error, verdict.error
    assert read_verdict(tmp_path / name).checks == verdict.checks
    said = []
    reproduce([study], tmp_path, jobs=1, say=said.append)
    assert any("stored already" in line for line in said)


# --------------------------------------------------------------------------- what is stored


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_can_be_read_and_says_what_its_curves_say(name):
    folder = HOME / "results" / name
    curves = read_curves(folder)
    if name not in cards.CARDS:
        assert read_verdict(folder).error == ""  # of a program that is no more
        return
    study = cards.card(name)
    found = {
        check.name: (check.measured, check.passed) for check in study.judge(curves, study.full)
    }
    stored = read_verdict(folder)
    if stored is None:
        checks = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["checks"]
        known = {c["name"]: (c["measured"], c["passed"]) for c in checks}
    else:
        known = {c.name: (c.measured, c.passed) for c in stored.checks}
    assert found == known
