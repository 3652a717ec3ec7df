"""Commands that take a study file, and what they store as part of one: every loop is closed."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from llm_bridge.commands import application
from rlhf_theory.store import folder_study
from rlhf_theory.study import Study
from tests.helpers.language_files import fill_home

WORLD = """
format = 2
name = "w"
rounds = 1

[[world]]
kind = "prompts"
prompts = "prompts.txt"
model = "model"
labels = "llm_bridge.tiny:gold_reward"
pool_size = 3
max_new_tokens = 6
samples = 0
seed = 5
features = { pooling = ["last", "mean"] }

[[learner]]
kind = "online-iterative"
batch_size = 4
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_model):
    """A folder with a model, prompts, preferences and a study file."""
    folder = tmp_path_factory.mktemp("home")
    fill_home(folder, tiny_model, 12)
    (folder / "w.toml").write_text(WORLD)
    return folder


@pytest.fixture
def lm(home, monkeypatch):
    monkeypatch.chdir(home)

    def run(*arguments):
        done = CliRunner().invoke(application, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return run


def played(home, *sets):
    study = Study.from_toml(home / "w.toml", sets)
    out = home / f"out-{study.cells()[0].key}"
    result = study.run(out, backend="serial", quiet=True)
    assert (result.tally.left, result.tally.failed) == (0, 0), result.failures().to_dict("records")
    return result


def test_the_world_of_a_study_says_what_is_not_given(lm, home):
    code, said = lm("evaluate", "--config", "w.toml", "--pool-size", 4, "--out", "v", "--dry-run")
    assert code == 0, said
    assert "12 prompts; pools of 4, and 0 fresh" in said  # the option goes before the file
    code, said = lm("select", "--config", "w.toml", "--pairs", 3, "--out", "s")
    assert code == 3, said
    kept = folder_study(home / "s")
    assert (kept["pool_size"], kept["max_new_tokens"], kept["seed"]) == (3, 6, 5)
    assert kept["features.pooling"] == ["last", "mean"]
    assert kept["eta"] == 0.1  # of the class, as in the study
    code, said = lm("train", "--config", "w.toml", "--out", "t")
    assert (code, "PREFERENCES" in said) == (2, True)  # prompts are no preferences
    code, said = lm("train", "pairs.jsonl", "--config", "w.toml", "--set", "beta=1", "--out", "t",
                    "--dry-run")  # fmt: skip
    assert (code, "DPO(beta=1" in said) == (0, True)


@pytest.mark.parametrize(
    ("given", "scale", "pooling"),
    [
        ((), "unit", ["last", "mean"]),
        (("--scale", "ball"), "ball", ["last", "mean"]),
        (("--scale", "none", "--pooling", "sum"), "none", ["sum"]),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("select",),
        ("fit", "pairs.jsonl"),
        ("embed", "pairs.jsonl", "--transform"),
    ],
    ids=lambda c: c[0],
)
def test_an_option_of_features_goes_before_the_file_and_leaves_the_others(
    lm, home, jobs, command, given, scale, pooling
):
    text = WORLD.replace('["last", "mean"] }', '["last", "mean"], scale = "unit" }')
    (home / "scaled.toml").write_text(text)
    code, said = lm(*command, "--config", "scaled.toml", *given, "--out", "x")
    assert code == 0, said
    assert (jobs[-1].features.scale, list(jobs[-1].features.pooling)) == (scale, pooling)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format = 2\n", "one world of prompts; bad.toml has 0"),
        (WORLD.replace("pool_size = 3", "pool_size = { grid = [2, 3] }"), "pool_size"),
        (WORLD.replace("pool_size = 3", "pool_sise = 3"), "Did you mean 'pool_size'"),
        (WORLD.replace('"prompts.txt"', '"none.txt"'), "There is no file none.txt"),
        ("not toml", "is no TOML"),
    ],
)
def test_a_file_that_says_nothing_of_use_is_answered(lm, home, text, words):
    (home / "bad.toml").write_text(text)
    code, said = lm("select", "--config", "bad.toml", "--out", "nowhere")
    assert (code, words in " ".join(said.split())) == (2, True), said
    assert not (home / "nowhere").exists()


TRAINED = """
planner = { kind = "dpo", steps = 3, batch_size = 5, learning_rate = 1e-3, lora = { alpha = 4 } }
"""


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that commands would carry out."""
    found = []
    monkeypatch.setattr("llm_bridge.jobs.job.carry_out", lambda job, *_a, **_k: found.append(job))
    return found


def test_how_the_learner_of_a_study_trains_is_not_said_again(lm, home, jobs):
    """Catches a training that is not read, options that give way, and defaults that go first."""
    (home / "one.toml").write_text(WORLD + TRAINED)
    train = ("train", "pairs.jsonl", "--config", "one.toml", "--set", "beta=1", "--out", "x")
    trunk = ("fit", "pairs.jsonl", "--config", "one.toml", "--trunk", "--out", "x")
    for command in (train, trunk, (*train, "--lr", "2e-3", "--epochs", 2), (*trunk, "--steps", 7)):
        code, said = lm(*command)
        assert code == 0, said
    plain, head, changed, longer = (job.training for job in jobs)
    assert (plain.steps, plain.batch_size, plain.learning_rate) == (3, 5, 1e-3)
    assert (plain.lora.rank, plain.lora.alpha) == (8, 4.0)
    assert plain.checkpoint_every == 100
    assert head == plain
    assert (changed.steps, changed.epochs, changed.learning_rate) == (None, 2.0, 2e-3)
    assert (longer.steps, longer.batch_size) == (7, 5)
    assert (jobs[0].batch_size, jobs[1].batch_size) == (10, 32)


def test_a_study_that_trains_in_several_ways_says_so_and_none_is_taken(lm, home, jobs):
    more = TRAINED.replace("steps = 3", "steps = { grid = [3, 4] }")
    (home / "two.toml").write_text(WORLD + 'label = "it"\n' + more)
    train = ("train", "pairs.jsonl", "--config", "two.toml", "--set", "beta=1", "--out", "x")
    code, said = lm(*train)
    assert (code, "trains in 2 ways (it" in said) == (0, True), said
    fit = ("fit", "pairs.jsonl", "--config", "two.toml", "--out", "x")
    assert "ways" not in lm(*fit)[1]
    assert "ways" in lm(*fit, "--trunk")[1]
    assert {(j.training.steps, j.training.learning_rate) for j in jobs[::2]} == {(None, 5e-5)}
    # Replicas of one way are one way.
    alike = TRAINED + '[[learner]]\nkind = "online-iterative"\nbatch_size = 9\n' + TRAINED
    (home / "alike.toml").write_text(WORLD + alike)
    assert lm("train", "pairs.jsonl", "--config", "alike.toml", *train[4:])[1] == ""
    assert jobs[-1].training.steps == 3
    (home / "bad.toml").write_text(WORLD + TRAINED.replace("steps", "stepz"))
    code, said = lm("train", "pairs.jsonl", "--config", "bad.toml", *train[4:])
    assert (code, "Did you mean 'steps'" in " ".join(said.split())) == (2, True), said


def test_a_fitted_reward_labels_in_a_study(lm, home):
    code, said = lm("fit", "pairs.jsonl", "--config", "w.toml", "--dim", 3, "--out", "f")
    assert code == 0, said
    first = played(home, "world.labels=f")
    lower = played(home, 'world.labels="f#lower"')
    assert first.cells[0].key != lower.cells[0].key
    assert (first.curves["pool_gold"] != lower.curves["pool_gold"]).any()


def test_a_trained_trunk_labels_in_a_study(lm, home):
    trunk = ("fit", "pairs.jsonl", "--config", "w.toml", "--trunk", "--lr", "1e-3")
    assert lm(*trunk, "--out", "ft")[0] == 0
    assert played(home, "world.labels=ft").curves["pool_gold"].notna().all()


def test_a_trained_model_is_the_reference_of_a_study(lm, home):
    train = ("train", "pairs.jsonl", "--config", "w.toml", "--set", "beta=1", "--steps", 2)
    assert lm(*train, "--lr", "1e-3", "--out", "t")[0] == 0
    base, trained = played(home), played(home, "world.model=t/model")
    assert base.cells[0].key != trained.cells[0].key
    # And what a study has trained is a model for the commands.
    more = ["learner.planner={ kind = 'dpo', steps = 1 }"]
    [left] = played(home, *more).folder.path.glob("cells/*/*.files")
    judge = ("evaluate", "--config", "w.toml", "--model", f"last={left}/model", "--out", "vl")
    code, said = lm(*judge)
    assert code == 0, said
    assert set(pd.read_parquet(home / "vl/results.parquet")["policy"]) == {"reference", "last"}


def test_embeddings_are_not_read_again_by_a_study(lm, home):
    assert lm("embed", "prompts.txt", "--config", "w.toml", "--samples", 3, "--out", "e")[0] == 0
    [index] = (home / "e/cache").glob("*/index.bin")
    size = index.stat().st_size
    plain, shared = played(home), played(home, "world.cache=e/cache")
    assert index.stat().st_size > size  # the study adds what it reads
    grown = index.stat().st_size
    assert played(home, "world.cache=e/cache", "seed=9").tally.done == 1
    assert index.stat().st_size == grown  # the same pools with another learner's seed
    pd.testing.assert_frame_equal(
        plain.curves.drop(columns="cell"), shared.curves.drop(columns="cell"), rtol=1e-5
    )


def test_selected_pairs_are_preferences_for_fit_and_train(lm, home):
    select = ("select", "--config", "w.toml", "--pairs", 3, "--out", "sp")
    assert lm(*select)[0] == 3
    pending = home / "sp/labels/pending.jsonl"
    rows = [{**json.loads(line), "label": "b"} for line in pending.read_text().splitlines()]
    pending.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert lm(*select)[0] == 0
    train = ("train", "sp/preferences.jsonl", "--config", "w.toml", "--set", "beta=1")
    assert lm(*train, "--steps", 1, "--test-share", 0, "--out", "tp")[0] == 0
