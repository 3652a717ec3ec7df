from __future__ import annotations

import inspect
import itertools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import typer.main
from typer.testing import CliRunner

import rlhf_theory.cli
from llm_bridge.commands import application, guard
from llm_bridge.commands.setting_options import settings
from llm_bridge.labels.preference_files import read_preferences
from llm_bridge.language.models import LanguageModel
from llm_bridge.training.settings import RESUMED, LoRA
from rlhf_theory.study import Study, StudyResult
from tests.helpers.language_files import fill_home

GOLD = "llm_bridge.tiny:gold_reward"
PREFERENCE = "llm_bridge.tiny:gold_preference"
COMMANDS = ("embed", "fit", "select", "train", "iterate", "evaluate", "demo")


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_model):
    """A folder with a model, prompts and preferences, and nothing else."""
    folder = tmp_path_factory.mktemp("home")
    fill_home(folder, tiny_model, 16)
    return folder


@pytest.fixture
def lm(home, monkeypatch):
    """Run a command in the folder; return exit code and everything it said."""
    monkeypatch.chdir(home)

    def run(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(application, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return run


@pytest.fixture
def no_figures(monkeypatch):
    """Draw nothing: figures take most of the time of a small run."""
    monkeypatch.setattr("llm_bridge.jobs.evaluate.draw_results", lambda *_a, **_k: {})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def untouched(home):
    """Fail if a test leaves, changes or removes any file."""
    before = files(home)
    yield
    assert files(home) == before


# --------------------------------------------------------------------------- what each command does

TRAIN = ("train", "pairs.jsonl", "--model", "model", "--set", "beta=0.5", "--lr", "1e-3")
LOOP = (
    *("--model", "model", "--pool-size", 3, "--max-new-tokens", 6, "--eta", 0.5),
    *("--rounds", 2, "--set", "batch_size=6"),
)
LEARNER = ("--learner",)
TRAINING = ("--samples", 2, "--steps", 2, "--lr", "1e-3")


def test_embed_writes_features_and_reads_every_text_once(lm, home):
    code, said = lm("embed", "pairs.jsonl", "--model", "model", "--out", "e", "--batch-size", 4)
    assert code == 0, said
    arrays = safetensors.numpy.load_file(home / "e" / "features.safetensors")
    rows = pd.read_parquet(home / "e" / "rows.parquet")
    assert arrays["phi"].shape[0] == len(rows) == 32
    np.testing.assert_allclose(rows["log_prob"], arrays["log_prob"])
    assert rows["role"].tolist()[:2] == ["chosen", "rejected"]
    # The same cache serves another command and another output folder.
    index = next((home / "e" / "cache").glob("*/index.bin"))
    size = index.stat().st_size
    lm("embed", "pairs.jsonl", "--model", "model", "--out", "e2", "--cache", "e/cache")
    assert index.stat().st_size == size
    again = safetensors.numpy.load_file(home / "e2" / "features.safetensors")
    np.testing.assert_allclose(again["phi"], arrays["phi"], atol=1e-6)
    code, said = lm("embed", "pairs.jsonl", "--model", "model", "--out", "e")
    assert (code, "are complete" in said) == (0, True)


def test_results_belong_to_the_weights_and_not_to_the_place_of_a_model(lm, home):
    shutil.copytree(home / "model", home / "copy")
    embed = ("embed", "pairs.jsonl", "--out", "em", "--model")
    assert lm(*embed, "copy")[0] == 0
    shutil.move(home / "copy", home / "moved")
    code, said = lm(*embed, "moved")
    assert (code, "are complete" in said) == (0, True)
    weights = home / "moved" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    before = files(home / "em")
    code, said = lm(*embed, "moved")
    assert code == 2
    assert "weights" in said
    assert files(home / "em") == before


def test_embed_lets_the_model_answer_prompts_and_projects(lm, home):
    options = ("--samples", 2, "--max-new-tokens", 5, "--transform", "--dim", 3)
    code, said = lm("embed", "prompts.txt", "--model", "model", "--out", "es", *options)
    assert code == 0, said
    assert safetensors.numpy.load_file(home / "es" / "features.safetensors")["phi"].shape == (32, 3)
    assert (home / "es" / "transform.safetensors").is_file()
    code, said = lm("embed", "prompts.txt", "--model", "model", "--out", "en")
    assert code == 2
    assert "--samples N" in said


@pytest.fixture(scope="module")
def fitted(home):
    """The folder of a fitted reward."""
    os.chdir(home)
    command = ["fit", "pairs.jsonl", "--model", "model", "--out", "f", "--test-share", "0.3"]
    done = CliRunner().invoke(application, command)
    assert done.exit_code == 0, done.output
    return home / "f"


def test_fit_reports_held_out_accuracy_and_is_not_done_twice(lm, fitted):
    summary = (fitted / "summary.txt").read_text()
    assert "held out: " in summary
    assert "cross-fitted: " in summary
    before = files(fitted)
    code, said = lm("fit", "pairs.jsonl", "--model", "model", "--out", "f", "--test-share", 0.3)
    assert code == 0
    assert "is complete" in said
    assert files(fitted) == before
    about = json.loads((fitted / "head.json").read_text())
    assert about["calibration"]["held out"]["accuracy"] is not None


def test_fit_trains_a_trunk(lm, home):
    command = ("fit", "pairs.jsonl", "--model", "model", "--trunk", "--lr", "1e-3", "--out", "ft")
    code, said = lm(*command)
    assert code == 0, said
    assert "held out: " in said
    assert "text-classification" in (home / "ft" / "reward" / "README.md").read_text()
    assert "found complete" in lm(*command)[1]
    judged = ("evaluate", "prompts.txt", "--reference", "model", "--gold", "ft", "--samples", 0)
    code, said = lm(*judged, "--pool-size", 3, "--max-new-tokens", 5, "--out", "vt")
    assert code == 0, said
    assert "pool_gold" in said


@pytest.mark.parametrize("rule", ["informative", "optimistic", "on-policy"])
def test_select_asks_and_then_writes_preferences(lm, home, fitted, rule):
    out = f"s-{rule}"
    command = ("select", "prompts.txt", "--model", "model", "--reward", "f", "--rule", rule)
    command = (*command, "--pairs", 4, "--pool-size", 3, "--max-new-tokens", 6, "--eta", 5)
    code, said = lm(*command, "--out", out)
    assert code == guard.PENDING == 3
    assert f"{out}/labels/pending.jsonl" in said
    pending = home / out / "labels" / "pending.jsonl"
    questions = [json.loads(line) for line in pending.read_text().splitlines()]
    assert 1 <= len(questions) <= 4
    assert lm(*command, "--out", out)[0] == 3  # nothing was filled in
    rows = [{**q, "label": "b"} for q in questions]
    pending.write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, said = lm(*command, "--out", out)
    assert code == 0, said
    kept = read_preferences(home / out / "preferences.jsonl").pairs
    assert {p.chosen for p in kept} == {q["response_b"] for q in questions}


def test_select_without_a_reward_takes_features_of_the_model(lm, home):
    command = ("select", "prompts.txt", "--model", "model", "--pairs", 3, "--dim", 4)
    code, said = lm(*command, "--pool-size", 3, "--max-new-tokens", 6, "--out", "s0")
    assert code == 3, said
    assert (home / "s0" / "transform.safetensors").is_file()


def test_train_writes_a_model_with_its_card_and_resumes(lm, home):
    code, said = lm(*TRAIN, "--out", "t")
    assert code == 0, said
    model = LanguageModel.from_pretrained(home / "t" / "model", offline=True)
    reference = LanguageModel.from_pretrained(home / "model", offline=True)
    assert model.fingerprint != reference.fingerprint
    card = (home / "t" / "model" / "README.md").read_text()
    assert "* Loss: DPO(beta=0.5)" in card
    assert "* η, weight of KL(π‖π0): 0.5" in card
    metrics = json.loads((home / "t" / "metrics.json").read_text())
    assert {"accuracy, train", "accuracy, held out"} <= {m["metric"] for m in metrics["metrics"]}
    code, said = lm(*TRAIN, "--out", "t")
    assert code == 0
    assert "found complete" in said
    assert LanguageModel.from_pretrained(home / "t" / "model").fingerprint == model.fingerprint


@pytest.mark.parametrize(
    "options",
    [
        ("--loss", "sft"),
        ("--loss", "kto", "--set", "beta=0.1"),
        ("--loss", "xpo", "--set", "beta=0.1", "--set", "alpha=0.01", "--sample", "rejected"),
        ("--loss", "simpo", "--set", "beta=2", "--set", "gamma=0.5"),
        ("--loss", "dpo", "--set", "beta=0.1", "--lora", "2", "--accumulation", "2"),
    ],
    ids=lambda o: "-".join(o[1:2]) + ("-lora" if "--lora" in o else ""),
)
def test_train_takes_any_loss_of_pairs(lm, home, tmp_path, options):
    command = ("train", "pairs.jsonl", "--model", "model", "--steps", 2, "--lr", "1e-3")
    code, said = lm(*command, *options, "--out", tmp_path / "out")
    assert code == 0, said
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_evaluate_tabulates_draws_and_finds_results_again(lm, home, fitted, request):
    lm(*TRAIN, "--out", "t")
    command = ("evaluate", "prompts.txt", "--reference", "model", "--model", "t/model")
    command = (*command, "--gold", GOLD, "--proxy", "f", "--samples", 2, "--pool-size", 3)
    command = (*command, "--max-new-tokens", 6, "--metric", f"again={GOLD}", "--out", "v")
    code, said = lm(*command)
    assert code == 0, said
    frame = pd.read_parquet(home / "v" / "results.parquet")
    results = frame.set_index(["policy", "metric"])["mean"]
    assert results["reference", "fresh_kl_k1"] == 0.0
    assert results["t", "fresh_gold"] == results["t", "fresh_again"]
    for name in ("frontier", "frontier-pools", "over-optimisation", "win-rates"):
        assert (home / "v" / "figures" / name / "figure.svg").is_file()
    before = files(home / "v" / "policies")
    request.getfixturevalue("no_figures")
    code, said = lm(*command)
    assert said.count("found complete") == 2
    assert files(home / "v" / "policies") == before


@pytest.mark.usefixtures("no_figures")
def test_evaluate_judges_by_a_preference(lm):
    command = ("evaluate", "prompts.txt", "--reference", "model", "--preference", PREFERENCE)
    options = ("--game", "probability", "--samples", 0, "--limit", 4, "--pool-size", 3)
    code, said = lm(*command, *options, "--max-new-tokens", 6, "--out", "vp")
    assert code == 0, said
    assert "pool_exploitability" in said
    assert "fresh" not in said


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("online", ("--labels", GOLD)),
        (
            "direct",
            ("--labels", GOLD, *LEARNER, "iterative-direct", "--set", "pairs=best-worst"),
        ),
        (
            "nash",
            ("--preference", PREFERENCE, *LEARNER, "nash-game", "--set", "planner.rounds=1"),
        ),
        ("pools", ("--labels", GOLD, "--set", "planner=gibbs", "--set", "enhancer=from-reference")),
    ],
)
def test_iterate_plays_rounds_and_reports(lm, home, name, options):
    out = f"i-{name}"
    options = (*LOOP, *(() if name == "pools" else TRAINING), *options)
    code, said = lm("iterate", "prompts.txt", *options, "--out", out)
    assert code == 0, said
    assert f"Study: {out}/study.toml" in said
    assert said.count("Round ") == 3
    curves = StudyResult(home / out).curves
    assert curves["round"].tolist() == [0, 1, 2]
    assert len(list((home / out / "rounds").glob("00?.parquet"))) == 3
    assert (home / out / "model" / "README.md").is_file() == (name != "pools")
    assert (home / out / "report.html").is_file()
    if name == "direct":
        before = files(home / out / "kept")
        code, said = lm("iterate", "prompts.txt", *options, "--out", out)
        assert (code, "Nothing was left to compute" in said) == (0, True)
        assert files(home / out / "kept") == before
        # The file alone is the same study, for every command that takes one.
        tables = tomllib.loads((home / out / "study.toml").read_text())
        assert [c.key for c in Study(**tables).cells()] == [
            c.key for c in StudyResult(home / out).cells
        ]
        plain = CliRunner().invoke(rlhf_theory.cli.application(), ["extend", out, "--rounds", "3"])
        assert plain.exit_code == 0, plain.output
        assert len(list((home / out / "rounds").glob("00?.parquet"))) == 4


def test_iterate_waits_for_people_and_replays(lm, home):
    command = ("iterate", "prompts.txt", *LOOP, *TRAINING, "--labels", "people", "--out", "ip")
    waits = 0
    while (done := lm(*command))[0] == guard.PENDING:
        waits += 1
        assert waits <= 2, "it asks in two rounds at most"
        pending = home / "ip" / "kept" / "labels" / "pending.jsonl"
        assert "ip/kept/labels/pending.jsonl" in "".join(done[1].split())
        rows = [json.loads(line) for line in pending.read_text().splitlines()]
        pending.write_text("".join(json.dumps({**r, "label": 0.25}) + "\n" for r in rows))
    code, said = done
    assert code == 0, said
    assert waits == 2
    assert (home / "ip" / "model" / "model.safetensors").is_file()


def parameters(name: str) -> dict[str, Any]:
    """Return the options of a command by name, as somebody sees them."""
    made = typer.main.get_command(application).commands[name]
    return {p.name: p for p in made.get_params(typer.Context(made))}


@pytest.mark.parametrize("name", [c for c in COMMANDS if c != "demo"])
def test_options_are_the_settings_of_their_classes(name):
    """Fails for a setting without option or word, and for a default or help said otherwise."""
    command = typer.main.get_command(application).commands[name]
    shown, options = parameters(name), command.options()
    found = {s.place for several in options.values() for s in several}
    hidden = {place for place, option in command.names.items() if option is None}
    every = {s.place for place, kind in command.classes() for s in settings(kind, place)}
    assert hidden <= every
    assert found == every - hidden
    for option, (first, *others) in options.items():
        text = shown[option].help
        assert first.words, first.place
        assert text.startswith(first.words)
        assert shown[option].default is None, "the class alone has the default"
        assert {s.default for s in others} <= {first.default}
        if first.default not in (None, ()) and first.place not in command.chosen:
            assert text.endswith(f"[default: {first.default}]")
    # What a function has by itself is no setting over again.
    by_hand = {*inspect.signature(command.callback).parameters} - {"ctx"}
    assert not by_hand & {s.name for s in itertools.chain(*options.values())}


def test_commands_choose_otherwise_than_a_class_at_one_place():
    for name in ("train", "fit", "iterate"):
        text = parameters(name)["checkpoint_every"].help
        assert text.endswith(f"[default: {RESUMED['checkpoint_every']}]")
    assert "that of --batch-size" in parameters("fit")["minibatch"].help


@pytest.mark.parametrize(
    ("options", "read", "trained"),
    [((), 32, 32), (("--batch-size", 5), 5, 5), (("--minibatch", 5), 32, 5)],
)
def test_what_is_given_and_chosen_comes_to_the_job(lm, monkeypatch, options, read, trained):
    jobs = []
    monkeypatch.setattr("llm_bridge.jobs.job.carry_out", lambda job, *_a, **_k: jobs.append(job))
    command = ("fit", "pairs.jsonl", "--model", "model", "--out", "o", "--encoder", "--lora", 3)
    assert lm(*command, "--trunk", *options)[0] == 0
    [job] = jobs
    assert (job.batch_size, job.training.batch_size) == (read, trained)
    assert (job.encoder, job.training.lora) == (True, LoRA(rank=3))
    assert job.training.checkpoint_every == RESUMED["checkpoint_every"]
    assert lm(*command, "--pooling", "last,mean", "--layers", "0,-1")[0] == 0
    assert (jobs[1].features.pooling, jobs[1].features.layers) == (("last", "mean"), (0, -1))
    assert jobs[1].features.encoder


# --------------------------------------------------------------------------- dry runs and bad input


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("embed", "pairs.jsonl", "--model", "model"), "32 texts to read with model"),
        (("fit", "pairs.jsonl", "--model", "model"), "16 comparisons"),
        (("fit", "pairs.jsonl", "--model", "model", "--trunk"), "Trunk and linear head"),
        (("select", "prompts.txt", "--model", "model", "--pairs", "5"), "5 pairs by the rule"),
        (TRAIN, "DPO(beta=0.5) on model"),
        (("evaluate", "prompts.txt", "--reference", "model"), "16 prompts; pools of 16"),
        (("demo",), "A Llama of 89 thousand weights"),
    ],
)
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(lm, arguments, words):
    code, said = lm(*arguments, "--dry-run", "--out", "nowhere")
    assert code == 0, said
    assert words in said
    assert "nothing was written; it would write to nowhere" in said


@pytest.mark.usefixtures("untouched")
def test_a_dry_run_of_iterate_shows_the_study(lm):
    command = ("iterate", "prompts.txt", *LOOP, "--labels", GOLD, "--set", "planner=gibbs")
    code, said = lm(*command, "--dry-run", "--out", "nowhere")
    assert code == 0, said
    assert 'kind = "online-iterative"\nbatch_size = 6\nplanner = "gibbs"' in said
    assert "1 cells, 1 blocks: 0 done" in said
    assert "Folder: nowhere. Nothing was written." in said


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "no.jsonl", "--model", "model", "--set", "beta=1"), "no file no.jsonl"),
        (("train", "pairs.jsonl", "--model", "model"), "needs the settings beta"),
        (("train", "pairs.jsonl", "--model", "model", "--loss", "dppo"), "Did you mean 'dpo'"),
        ((*TRAIN, "--set", "bta=1"), "no setting 'bta'"),
        ((*TRAIN, "--set", "beta"), "must look like KEY=VALUE"),
        ((*TRAIN, "--set", "beta=1"), "given twice"),
        ((*TRAIN, "--test-share", "1.5"), "must lie in [0, 1)"),
        ((*TRAIN, "--sample", "chosen"), "takes no --sample"),
        ((*TRAIN, "--sample", "first"), "sample must be one of"),
        ((*TRAIN, "--batch-size", "0"), "batch_size must be"),
        (("train", "pairs.jsonl", "--model", "model", "--loss", "infonca", "--set", "beta=1"),
         "takes groups of responses"),
        (("embed", "pairs.jsonl", "--model", "model", "--dim", "3"), "add --transform"),
        (("embed", "pairs.jsonl", "--model", "model", "--layers", "a"), "--layers must be whole"),
        (("fit", "pairs.jsonl", "--model", "model", "--rule", "r9"), "rule must be one of"),
        (("select", "prompts.txt", "--model", "model", "--rule", "best"), "rule must be one of"),
        (("select", "pairs.csv", "--model", "model"), "There is no file pairs.csv"),
        (("iterate", "prompts.txt", "--model", "model"), "Say who labels"),
        (("iterate", "prompts.txt", "--model", "model", "--labels", GOLD, "--set", "data=latest"),
         "no learner has a setting 'data'; there are"),
        (("iterate", "prompts.txt", "--model", "model", "--labels", GOLD, "--held-out", "2"),
         "must lie in [0, 1)"),
        (("fit", "pairs.jsonl", "--model", "model", "--test-share", "1"), "must lie in [0, 1)"),
        (("iterate", "prompts.txt", "--model", "model", "--preference", PREFERENCE),
         "needs a learner of a game, such as 'nash-game'"),
        (("iterate", "prompts.txt", "--model", "model", "--labels", GOLD, "--set", "enhancer=opt"),
         "unknown enhancer 'opt'; choose from 'from-reference'"),
        (("iterate", "prompts.txt", "--model", "model", "--labels", GOLD, "--learner", "onlin"),
         "unknown learner 'onlin'; choose from"),
        (("evaluate", "prompts.txt", "--reference", "model", "--model", "a", "--model", "x/a"),
         "Two models are called 'a'"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_before_anything_is_written(lm, arguments, words):
    code, said = lm(*arguments, "--out", "nowhere")
    assert code == 2, said
    assert words in " ".join(said.split())
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "missing/folder/x"), "is missing"),
        (("--model", "."), "holds no config.json"),
        (("--model", "model", "--dtype", "int4"), "dtype must be one of"),
        (("--model", "model", "--device", "cuda:7"), "needs a CUDA device"),
        (("--model", "model", "--pad-token", "never"), "pad_token must be"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_answered(lm, tmp_path, arguments, words):
    command = ("train", "pairs.jsonl", "--set", "beta=1", "--out", tmp_path / "out", *arguments)
    code, said = lm(*command)
    assert code == 2
    assert words in said
    assert not (tmp_path / "out").exists()  # free for the corrected command


def test_functions_that_are_not_there_are_answered(lm, tmp_path):
    command = ("evaluate", "prompts.txt", "--reference", "model", "--out", tmp_path / "v")
    options = ("--limit", 2, "--pool-size", 2, "--max-new-tokens", 3)
    for gold, words in (
        ("llm_bridge.tiny:gold_rewrd", "Did you mean 'llm_bridge.tiny:gold_reward'?"),
        ("no_such_module:f", "looked in the working directory and in what is installed"),
    ):
        code, said = lm(*command, *options, "--gold", gold)
        assert code == 2
        assert words in said
    code, said = lm(*command, *options, "--preference", "gold")
    assert code == 2
    assert "module:function" in said


def test_labels_out_of_range_are_answered_and_nothing_is_lost(lm, home):
    command = ("select", "prompts.txt", "--model", "model", "--pairs", 3, "--dim", 4)
    command = (*command, "--pool-size", 3, "--max-new-tokens", 6, "--out", "sb")
    assert lm(*command)[0] == 3
    pending = home / "sb" / "labels" / "pending.jsonl"
    wrong = pending.read_text().replace('"label": null', '"label": 1.5', 1)
    pending.write_text(wrong)
    code, said = lm(*command)
    assert code == 2
    assert "a number from 0 to 1" in said
    assert pending.read_text() == wrong


def test_a_folder_of_other_settings_is_refused_and_unchanged(lm, home):
    lm(*TRAIN, "--out", "t")
    before = files(home / "t")
    code, said = lm(*TRAIN, "--out", "t", "--epochs", 2)
    assert code == 2
    assert "training.epochs=2.0 (the folder has 1.0)" in said
    assert "learning_rate" not in said
    assert files(home / "t") == before
    code, said = lm("fit", "pairs.jsonl", "--model", "model", "--out", "t")
    assert code == 2
    code, said = lm("fit", "pairs.jsonl", "--model", "model", "--out", ".")
    assert code == 2
    assert "holds other files" in said


def test_a_training_that_diverges_is_an_answer_not_a_traceback(lm, tmp_path):
    command = ("train", "pairs.jsonl", "--model", "model", "--set", "beta=1", "--out", tmp_path)
    code, said = lm(*command, "--lr", "1e30", "--epochs", 3)
    assert code == 2
    assert "finite" in said


def test_an_interrupt_exits_with_130(lm, tmp_path, monkeypatch):
    def interrupt(*_a, **_k):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_bridge.jobs.train.train", interrupt)
    code, said = lm(*TRAIN, "--out", tmp_path / "out")
    assert code == 130
    assert "goes on" in said


def test_missing_libraries_are_named_with_what_installs_them(lm, monkeypatch):
    monkeypatch.setattr(guard, "_NEEDED", ("torch", "no_such_library"))
    code, said = lm(*TRAIN, "--out", "nowhere")
    assert code == 2
    assert "need no_such_library" in said
    assert "pip install 'rlhf-theory[llm]'" in said


# --------------------------------------------------------------------------- start-up


def python(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.stdout.splitlines()


def test_help_imports_nothing_heavy():
    heavy = ["torch", "transformers", "pandas", "scipy", "matplotlib", "numpy"]
    code = (
        "import sys; from llm_bridge.commands import application\n"
        "try: application(['train', '--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert python(code)[-1] == "[]"


def test_offline_is_said_before_anything_of_the_hub_is_imported():
    # Stop at the first import that could read the variable, and show it.
    code = (
        "import os, sys; from llm_bridge.commands import application, guard\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers', 'huggingface_hub'):\n"
        "            print(os.environ.get('HF_HUB_OFFLINE'), flush=True)\n"
        "            os._exit(0)\n"
        "guard._NEEDED = ()\n"
        "os.environ.pop('HF_HUB_OFFLINE', None)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "application(['train', 'x', '--model', 'm', '--out', 'o', '--offline'])"
    )
    assert python(code) == ["1"]
    assert python(code.replace(", '--offline'", "")) == ["None"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(lm, name):
    code, said = lm(name, "--help")
    assert code == 0
    assert "--out" in said
    assert "--dry-run" in said
