"""Ensembles through the commands, and the versions of a fitted reward: lower, mean, min."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from llm_bridge.commands import application
from llm_bridge.jobs.fit import FitJob, data_of, split_comparisons
from llm_bridge.jobs.heads import load_head
from llm_bridge.jobs.rewards import reward_of
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.jobs.variants import Variant, variant_of
from llm_bridge.language.models import LanguageModel
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.rewards.trained import TrainedReward
from rlhf_theory.estimators.ensembles import bootstrap_ensemble
from rlhf_theory.features import centred
from rlhf_theory.randomness import Key
from tests.helpers.language_files import fill_home

FIT = ("fit", "pairs.jsonl", "--model", "model", "--test-share", "0.3", "--ensemble", "3")
VERSIONS = ("mean", "min", "uncertainty=0.5", "lower")


@pytest.fixture(scope="module")
def home(tmp_path_factory: Any, tiny_model: LanguageModel) -> Path:
    folder: Path = tmp_path_factory.mktemp("home")
    fill_home(folder, tiny_model, 12)
    return folder


@pytest.fixture(autouse=True)
def _in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)  # a fit remembers its model as it was named


@pytest.fixture(scope="module")
def lm(home: Path) -> Any:
    def run(*arguments: object) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            patch.setattr("llm_bridge.jobs.evaluate.draw_results", lambda *_a, **_k: {})
            done = CliRunner().invoke(application, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return run


@pytest.fixture(scope="module")
def fitted(home: Path, lm: Any) -> Path:
    code, said = lm(*FIT, "--out", "f")
    assert code == 0, said
    assert "ensemble: 3 members" in said
    return home / "f"


@pytest.fixture(scope="module")
def trunks(home: Path, lm: Any) -> Path:
    code, said = lm(*FIT, "--trunk", "--lr", "1e-2", "--batch-size", 4, "--out", "ft")
    assert code == 0, said
    assert said.count("done in") == 3
    return home / "ft"


@pytest.fixture(scope="module")
def problem(home: Path) -> PromptProblem:
    policy = LanguageModelPolicy.from_pretrained(
        home / "model", sampler=BatchedSampler(max_new_tokens=6)
    )
    prompts = (home / "prompts.txt").read_text().splitlines()[:5]
    return PromptProblem(prompts, policy, features=_Lengths(), pool_size=4)


class _Lengths:
    def rows(self, prompts: Any, responses: Any) -> torch.Tensor:
        return torch.tensor([[float(len(r))] for r in responses], dtype=torch.float64)


def rewards(spec: object, problem: PromptProblem) -> np.ndarray:
    source = ModelSource(name="unused", offline=True)
    found = reward_of(str(spec), source, writer=problem.policy.model).rewards(problem.table)
    return np.asarray(found)[0]


def centre(r: np.ndarray, problem: PromptProblem) -> np.ndarray:
    mass = np.exp(problem.table.log_pi0[0].numpy())
    there = mass > 0
    return np.where(there, r - (mass * np.where(there, r, 0.0)).sum(-1, keepdims=True), 0.0)


# ---------------------------------------------------------------- linear rewards


def test_the_members_are_those_of_the_library(fitted, home):
    source = ModelSource(name=str(home / "model"), offline=True)
    head = load_head(fitted, source)
    assert head.members is not None
    job = FitJob(file=home / "pairs.jsonl", source=source, ensemble=3)
    train, _ = split_comparisons(job.file, source.language_model(), 0.3, 0)
    data = data_of(train, head.features)
    expected = bootstrap_ensemble(data, Key(0).child("ensemble"), n_members=3, ridge=1.0)
    np.testing.assert_allclose(head.members.thetas, expected.value.thetas, rtol=1e-6, atol=1e-9)
    assert json.loads((fitted / "head.json").read_text())["ensemble"] == 3


def test_versions_of_a_linear_reward_are_what_they_say(fitted, problem):
    """A second way: from the parameters on disk and features measured from the pool's mean."""
    head = load_head(fitted, ModelSource(name="unused", offline=True))
    here = problem.with_pools(problem.pools)
    here.features = head.features
    here._place(problem.pools, None)
    v = centred(here.table)[0].numpy()
    theta, members = head.confidence.center[0].numpy(), head.members.thetas[0].numpy()
    votes = np.einsum("nad,kd->nak", v, members)
    width = np.sqrt(np.einsum("nad,de,nae->na", v, np.linalg.inv(head.confidence.sigma[0]), v))
    expected = {
        "mean": votes.mean(-1),
        "min": votes.min(-1),
        "uncertainty=0.5": votes.mean(-1) - 0.5 * votes.var(-1),
        "lower": v @ theta - float(head.confidence.beta[0]) * width,
    }
    for version, want in expected.items():
        got = rewards(f"{fitted}#{version}", problem)
        np.testing.assert_allclose(centre(got, problem), centre(want, problem), atol=1e-6)
    assert np.abs(votes.min(-1) - votes.mean(-1)).max() > 1e-3
    np.testing.assert_array_equal(rewards(f"{fitted}#estimate", problem), rewards(fitted, problem))


def test_a_fit_is_not_done_twice_and_a_dry_run_says_it(lm, fitted, home):
    before = {p: p.read_bytes() for p in fitted.rglob("*") if p.is_file()}
    code, said = lm(*FIT, "--out", "f", "--dry-run")
    assert code == 0
    assert "ensemble of 3 fits to bootstraps" in said
    assert "is complete" in said
    assert "is complete" in lm(*FIT, "--out", "f")[1]
    assert {p: p.read_bytes() for p in fitted.rglob("*") if p.is_file()} == before
    code, said = lm(*FIT[:-1], "4", "--out", "f")
    assert code == 2
    assert "ensemble" in said


def test_a_fit_without_an_ensemble_is_the_folder_it_was(lm, home):
    """No setting appears in the marker of folders that older versions wrote."""
    code, said = lm(*FIT[:-2], "--out", "plain")
    assert code == 0, said
    assert "ensemble" not in (home / "plain" / "study.json").read_text()
    with pytest.raises(ValueError, match="fit with --ensemble N"):
        reward_of(f"{home / 'plain'}#min", ModelSource(name="unused", offline=True))


# ---------------------------------------------------------------- trunks


def test_members_of_trunks_combine(trunks, problem):
    folders = sorted(p.parent for p in (trunks / "reward").glob("*/reward_model.json"))
    assert len(folders) == 3
    members = [TrainedReward.from_pretrained(f).rewards(problem.table)[0] for f in folders]
    votes = np.stack([centre(np.asarray(m), problem) for m in members], axis=-1)
    assert votes.std(-1).max() > 1e-3
    expected = {
        "": votes.mean(-1),
        "#mean": votes.mean(-1),
        "#min": votes.min(-1),
        "#uncertainty=2": votes.mean(-1) - 2.0 * votes.var(-1),
    }
    there = problem.table.log_pi0[0].numpy() > -np.inf
    for version, want in expected.items():
        got = rewards(f"{trunks}{version}", problem)
        np.testing.assert_allclose(got[there], want[there], atol=1e-6)
    with pytest.raises(ValueError, match="has a lower bound"):
        reward_of(f"{trunks}#lower", ModelSource(name="unused", offline=True))


def test_an_interrupted_ensemble_goes_on(lm, home, monkeypatch):
    """Stopped after its first member: the next call trains the two others alone."""
    command = (*FIT, "--trunk", "--lr", "1e-2", "--batch-size", 4, "--out", "fi")
    from llm_bridge.rewards import training  # noqa: PLC0415

    real, calls = training.train_reward, []

    def stops(*arguments: Any, **given: Any) -> Any:
        calls.append(given["name"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **given)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_reward", stops)
        assert lm(*command)[0] == 130
    code, said = lm(*command, "--dry-run")
    assert "1 of 3 members are complete" in said
    code, said = lm(*command)
    assert code == 0, said
    assert (said.count("found complete"), said.count("done in")) == (1, 2)
    assert "The training is complete" in lm(*command, "--dry-run")[1]
    assert lm(*command)[1].count("found complete") == 3


# ---------------------------------------------------------------- where rewards are named


@pytest.mark.parametrize("version", VERSIONS)
def test_evaluate_takes_versions(lm, home, fitted, version):
    command = ("evaluate", "prompts.txt", "--reference", "model", "--gold", "f", "--limit", 4)
    command = (*command, "--proxy", f"f#{version}", "--samples", 2, "--pool-size", 3)
    out = f"v-{version[:3]}"
    code, said = lm(*command, "--max-new-tokens", 5, "--out", out)
    assert code == 0, said
    frame = pd.read_parquet(home / out / "results.parquet")
    means = frame.set_index(["policy", "metric"])["mean"]
    assert np.isfinite(means["reference", "pool_proxy"])
    # Measured from pi0: the mean over its own pool is 0, and a pessimist's below it.
    if version == "mean":
        assert means["reference", "pool_proxy"] == pytest.approx(0.0, abs=1e-6)
    else:
        assert means["reference", "pool_proxy"] < 0.0


def test_select_takes_versions_for_rules_that_draw(lm, home, fitted):
    command = ("select", "prompts.txt", "--model", "model", "--pairs", 3, "--eta", 5)
    command = (*command, "--pool-size", 3, "--max-new-tokens", 6, "--rule")
    code, said = lm(*command, "best-worst", "--reward", "f#min", "--out", "s-min")
    assert code == 3, said
    code, said = lm(*command, "informative", "--reward", "f#min", "--out", "s-inf")
    assert code == 2
    assert "would ignore the version" in said


def test_select_asks_by_the_version(lm, home, fitted):
    """With so large a weight of the variance other pairs are the extremes."""
    asked = {}
    for version in ("estimate", "uncertainty=1000"):
        out = f"s-{version[:3]}"
        command = ("select", "prompts.txt", "--model", "model", "--pairs", 8, "--eta", 0.5)
        command = (*command, "--pool-size", 6, "--max-new-tokens", 6, "--rule", "best-worst")
        code, said = lm(*command, "--reward", f"f#{version}", "--out", out)
        assert code == 3, said
        asked[version] = (home / out / "labels" / "pending.jsonl").read_text()
    assert asked["estimate"] != asked["uncertainty=1000"]


def test_versions_are_read():
    assert variant_of("a/b#min") == ("a/b", Variant("min"))
    assert variant_of("m:f") == ("m:f", Variant())
    assert variant_of("f#uncertainty=0.1")[1].weight == 0.1


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("f#worst", "must be one of"),
        ("f#min=2", "no other has a weight"),
        ("f#uncertainty", "has a weight"),
        ("f#uncertainty=-1", "at least 0"),
        ("f#uncertainty=much", "at least 0"),
    ],
)
def test_other_versions_are_refused(spec, says):
    with pytest.raises(ValueError, match=says):
        variant_of(spec)


def test_a_path_may_hold_the_sign(tmp_path):
    (tmp_path / "f#min").mkdir()
    assert variant_of(str(tmp_path / "f#min")) == (str(tmp_path / "f#min"), Variant())


def test_an_ensemble_of_one_is_refused(lm):
    for options in ((), ("--trunk",)):
        code, said = lm(*FIT[:-1], "1", *options, "--out", "nowhere")
        assert code == 2
        assert "at least 2 members" in " ".join(said.split())


def test_functions_have_no_versions():
    with pytest.raises(ValueError, match="needs an ensemble"):
        reward_of("llm_bridge.tiny:gold_reward#min", ModelSource(name="unused", offline=True))
    with pytest.raises(ValueError, match="has a lower bound"):
        reward_of("llm_bridge.tiny:gold_reward#lower", ModelSource(name="unused", offline=True))
