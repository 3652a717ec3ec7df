"""Trainings on disk: found by content, resumed exactly, never overwritten."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llm_bridge.training.objective import Objective
from llm_bridge.training.train import LoRA, TrainingSettings, train
from llm_bridge.training.trainer import PreferenceTrainer, newest_checkpoint
from rlhf_theory.errors import ConvergenceError
from rlhf_theory.losses import DPO
from rlhf_theory.randomness import Key
from tests.helpers.examples import distance, examples

QUICK = TrainingSettings(steps=6, batch_size=4, learning_rate=1e-3)
KEY = Key(0).child("training")

LONG = TrainingSettings(
    steps=20, batch_size=4, gradient_accumulation=2, learning_rate=1e-3, checkpoint_every=4
)


def _stop_at(monkeypatch: Any, call: int) -> None:
    """Make training fail in its ``call``-th forward pass, as a power cut would."""
    original, calls = PreferenceTrainer.training_step, [0]

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PreferenceTrainer, "training_step", step)


@pytest.mark.parametrize(
    "change", [{}, {"group_by_length": True}, {"lora": LoRA(rank=2)}], ids=["all", "length", "lora"]
)
def test_a_stopped_training_ends_with_the_same_weights(tiny_model, tmp_path, monkeypatch, change):
    made = examples(tiny_model, 22)
    settings = replace(LONG, **change)
    straight = train(tiny_model, made, DPO(0.5), settings, key=KEY)
    with monkeypatch.context() as patch:
        _stop_at(patch, 30)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_model, made, DPO(0.5), settings, key=KEY, folder=tmp_path)
    (here,) = (p for p in tmp_path.iterdir() if p.is_dir())
    assert sorted(p.name for p in here.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-8"]
    # How often to save may change in between.
    rest = replace(settings, checkpoint_every=5)
    resumed = train(tiny_model, made, DPO(0.5), rest, key=KEY, folder=tmp_path)
    assert resumed.resumed_at == 12
    assert distance(straight.model, resumed.model) == 0.0
    np.testing.assert_array_equal(straight.history, resumed.history)
    assert not list(here.glob("checkpoint-*"))


def test_a_checkpoint_that_is_not_whole_is_passed_over(tiny_model, tmp_path, monkeypatch):
    made = examples(tiny_model, 22)
    straight = train(tiny_model, made, DPO(0.5), LONG, key=KEY)
    with monkeypatch.context() as patch:
        _stop_at(patch, 30)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_model, made, DPO(0.5), LONG, key=KEY, folder=tmp_path)
    (here,) = (p for p in tmp_path.iterdir() if p.is_dir())
    (here / "checkpoint-12" / "whole.json").unlink()
    (here / "checkpoint-12" / "model.safetensors").write_bytes(b"cut")
    resumed = train(tiny_model, made, DPO(0.5), LONG, key=KEY, folder=tmp_path)
    assert resumed.resumed_at == 8
    assert distance(straight.model, resumed.model) == 0.0


def test_a_finished_training_is_found_by_its_content(tiny_model, tmp_path, monkeypatch):
    made = examples(tiny_model, 8)
    first = train(tiny_model, made, DPO(0.5), QUICK, key=KEY, folder=tmp_path, name="mine")
    assert not first.stored

    def never(*_: Any) -> None:
        message = "must not train"
        raise AssertionError(message)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, "run", never)
        # An equal model made anew, and other settings that change nothing.
        found = train(
            tiny_model.clone(),
            examples(tiny_model, 8),
            DPO(0.5),
            replace(QUICK, progress=False, checkpoint_every=3),
            key=KEY,
            folder=tmp_path,
            name="mine",
        )
    assert found.stored
    assert found.model.fingerprint == first.model.fingerprint
    assert distance(found.model, first.model) == 0.0
    np.testing.assert_array_equal(found.history, first.history)
    # Whatever the result depends on makes it another training.
    others = [
        (made[:-1], DPO(0.5), QUICK, KEY),
        (made, DPO(0.4), QUICK, KEY),
        (made, DPO(0.5), replace(QUICK, learning_rate=2e-3), KEY),
        (made, DPO(0.5), QUICK, KEY.child("other")),
    ]
    for data, loss, settings, key in others:
        result = train(tiny_model, data, loss, settings, key=key, folder=tmp_path, name="mine")
        assert not result.stored
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 5


def test_a_folder_of_something_else_is_refused_and_left_alone(tiny_model, tmp_path):
    made = examples(tiny_model, 4)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("text")
    with pytest.raises(ValueError, match="Nothing was changed"):
        train(tiny_model, made, DPO(0.5), QUICK, key=KEY, folder=foreign)
    assert [p.name for p in foreign.iterdir()] == ["chapter.txt"]
    # A training of another configuration in the place of this one.
    cache = tmp_path / "cache"
    train(tiny_model, made, DPO(0.5), QUICK, key=KEY, folder=cache)
    (here,) = (p for p in cache.iterdir() if p.is_dir())
    marker = json.loads((here / "study.json").read_text())
    (here / "study.json").write_text(json.dumps(marker | {"loss": "another"}))
    kept = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="configuration"):
        train(tiny_model, made, DPO(0.5), QUICK, key=KEY, folder=cache)
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == kept


def test_a_loss_that_does_not_say_its_settings_cannot_be_kept(tiny_model, tmp_path):
    class Mine:
        name, takes = "mine", "pairs"
        needs = accepts = frozenset({"reference"})

        def __call__(self, c: Any) -> Any:
            return DPO(0.5)(c)

    made = examples(tiny_model, 4)
    assert train(tiny_model, made, Mine(), QUICK, key=KEY).n_steps == 6
    with pytest.raises(ValueError, match="repr"):
        train(tiny_model, made, Mine(), QUICK, key=KEY, folder=tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    tiny_model, tmp_path, monkeypatch
):
    made = examples(tiny_model, 22)
    original, calls = Objective.__call__, [0]

    def broken(self: Any, *args: Any) -> Any:
        calls[0] += 1
        return original(self, *args) * (math.nan if calls[0] > 11 else 1.0)

    monkeypatch.setattr(Objective, "__call__", broken)
    with pytest.raises(ConvergenceError, match=r"nan at step 5 of 20.*step 4 are kept.*learning"):
        train(tiny_model, made, DPO(0.5), LONG, key=KEY, folder=tmp_path)
    (here,) = (p for p in tmp_path.iterdir() if p.is_dir())
    kept = newest_checkpoint(here)
    assert kept is not None
    assert kept.name == "checkpoint-4"
    assert len(json.loads((kept / "whole.json").read_text())["losses"]) == 4
