"""What the bridge keeps is what was written, or it is named and made anew: bit by bit."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from llm_bridge.demo import job as demo
from llm_bridge.embeddings.transforms import FrozenTransform, TransformSettings
from llm_bridge.errors import LabelsPending
from llm_bridge.evaluation.details import Details
from llm_bridge.jobs.evaluate import EvaluateJob
from llm_bridge.jobs.fit import FitJob
from llm_bridge.jobs.heads import load_head
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.jobs.trunk_ensembles import members_of, save_members
from llm_bridge.labels.people import LabelFile
from llm_bridge.labels.preference_files import PreferencePair, write_preferences
from llm_bridge.language.models import LanguageModel, Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.rewards.trained import TrainedReward
from llm_bridge.rewards.training import trunk_of
from llm_bridge.storage import content
from llm_bridge.storage.cache import RowCache, row_key
from llm_bridge.storage.jsonl import read_jsonl, write_jsonl
from llm_bridge.storage.records import (
    FormerRecordError,
    found_whole,
    read_record,
    write_record,
)
from llm_bridge.tiny import sample_answers, split_prompts
from llm_bridge.tiny.world import TinyWorldRecipe, build
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.train import train
from llm_bridge.training.trainer import PreferenceTrainer
from rlhf_theory.losses import DPO
from rlhf_theory.randomness import Key
from rlhf_theory.store import DamagedError, DamageWarning, write_json
from tests.helpers.examples import examples

SETTINGS = TrainingSettings(steps=4, batch_size=4, learning_rate=1e-3)
LONG = TrainingSettings(steps=8, batch_size=4, learning_rate=1e-3, checkpoint_every=2)
KEY = Key(0).child("damage")


@dataclass
class Kept:
    """Something in a folder, a way to read it, and what it gives when it is whole."""

    folder: Path
    read: Callable[[], Any]
    want: Any


# ------------------------------------------------------------------------------ what is kept


def training(folder: Path, model: LanguageModel) -> Kept:
    made = examples(model, 8)

    def read() -> Any:
        found = train(model, made, DPO(0.5), SETTINGS, key=KEY, folder=folder)
        return found.model.fingerprint, found.history.tolist()

    return Kept(folder, read, read())


def checkpoints(folder: Path, model: LanguageModel) -> Kept:
    made = examples(model, 8)
    straight = train(model, made, DPO(0.5), LONG, key=KEY)
    original = PreferenceTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreferenceTrainer, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(model, made, DPO(0.5), LONG, key=KEY, folder=folder)
    assert len(list(folder.glob("*/checkpoint-*"))) == 2

    def read() -> Any:
        found = train(model, made, DPO(0.5), LONG, key=KEY, folder=folder)
        return found.model.fingerprint, found.history.tolist()

    return Kept(folder, read, (straight.model.fingerprint, straight.history.tolist()))


def cache(folder: Path, _: LanguageModel) -> Kept:
    keys = [row_key((i,)) for i in range(20)]
    rows, exact = KEY.uniform_numpy(20, 5), KEY.child("exact").uniform_numpy(20, 1)

    def read() -> Any:
        store = RowCache(folder, {"a": 1}, width=5, n_exact=1)
        found, *_ = store.lookup(keys)
        new = [i for i in range(20) if not found[i]]
        if new:  # as features do: what is not there is computed
            store.append([keys[i] for i in new], rows[new], exact[new])
        found, *got = store.lookup(keys)
        assert found.all()
        return [v.tolist() for v in got]

    return Kept(folder, read, read())


def reward(folder: Path, model: LanguageModel) -> Kept:
    weight = torch.from_numpy(KEY.normal_numpy(1, 32)[0])
    TrainedReward(trunk_of(model), weight).save(folder)

    def read() -> Any:
        return TrainedReward.from_pretrained(folder, dtype="float32").fingerprint

    return Kept(folder, read, read())


def fit_job(folder: Path, model: LanguageModel) -> FitJob:
    home = folder.parent
    source = ModelSource(name=str(home / "model"), offline=True)
    job = FitJob(file=home / "pairs.jsonl", source=source, cache=home / "cache", ensemble=2)
    if job.file.exists():
        return job
    model.save(home / "model")
    prompts = split_prompts(Key(0))[0][:6]
    answers = zip(*(sample_answers(prompts, Key(k)) for k in (1, 2)), strict=True)
    pairs = [PreferencePair(p, a, b) for p, (a, b) in zip(prompts, answers, strict=True)]
    write_preferences(job.file, pairs)
    return job


def head(folder: Path, model: LanguageModel) -> Kept:
    job = fit_job(folder, model)
    folder.mkdir()
    job.run(folder, lambda _: None)

    def read() -> Any:
        found = load_head(folder, job.source)
        numbers = (found.confidence.center, found.confidence.beta, found.confidence.sigma)
        return [v.tolist() for v in (*numbers, found.members.thetas)], found.about

    return Kept(folder, read, read())


def ensemble(folder: Path, model: LanguageModel) -> Kept:
    save_members(folder, [TrainedReward(trunk_of(model), torch.ones(32)) for _ in range(3)])
    for part in folder.glob("*/*"):
        if part.name != "reward_model.json":  # what else members are is checked with them
            part.unlink()
    return Kept(folder, lambda: members_of(folder), members_of(folder))


def language_model(folder: Path, model: LanguageModel) -> Kept:
    model.save(folder)
    want = LanguageModel.from_pretrained(folder).fingerprint
    return Kept(folder, lambda: LanguageModel.from_pretrained(folder).fingerprint, want)


def transform(folder: Path, _: LanguageModel) -> Kept:
    rows = torch.from_numpy(KEY.normal_numpy(20, 4))
    settings = TransformSettings(dim=2, whiten=True)
    FrozenTransform.fit(rows, settings, None).save(folder / "t", {"layers": [1, 2]})

    def read() -> Any:
        found, about = FrozenTransform.load(folder / "t")
        return found(rows).tolist(), found.radius, found.kept, found.scale, about

    return Kept(folder, read, read())


def labels(folder: Path, _: LanguageModel) -> Kept:
    prompts = [Prompt(f"question {i}", (i,)) for i in range(6)]
    first, second = ([Response((1,), f"{t} {i}", 0.0) for i in range(6)] for t in ("yes", "no"))
    file = LabelFile(folder)
    with pytest.raises(LabelsPending):
        file.labels(prompts, first, second)
    asked = [row for _, row in read_jsonl(file.pending)[0]]
    write_jsonl(file.pending, [row | {"label": 0.125 * k} for k, row in enumerate(asked)])

    def read() -> Any:
        return LabelFile(folder).labels(prompts, first, second).tolist()

    return Kept(folder, read, read())


def tiny_world(folder: Path, _: LanguageModel) -> Kept:
    recipe = TinyWorldRecipe(hidden=16, layers=1, heads=2, steps=2, batch_size=2, sequences=8)

    def read() -> Any:
        world = build(recipe, folder, progress=False)
        return world.model().fingerprint, world.losses

    return Kept(folder, read, read())


def _details() -> Details:
    answers = pd.DataFrame({"prompt": ["a", "b"], "number": [0, 1], "score": [0.5, 0.25]})
    return Details(("a", "b"), {"gold": np.array([[0.3, 0.7]])}, np.array([0.5, 0.5]), answers)


def _seen(found: Details) -> Any:
    return found.to_pandas().to_dict("list"), found.answers.to_dict("list")


def evaluation(folder: Path, _: LanguageModel) -> Kept:
    job = EvaluateJob(file=Path("f"), source=ModelSource(name="m"))
    policy: Any = SimpleNamespace(model=SimpleNamespace(fingerprint="f"))
    judge: Any = SimpleNamespace(details=lambda _: _details())

    def read() -> Any:
        return _seen(job._details(folder, "mine", policy, judge)[0])

    return Kept(folder, read, read())


def arm(folder: Path, model: LanguageModel) -> Kept:
    card: Any = SimpleNamespace(text=lambda: "card")
    here = folder / "arm"

    def read() -> Any:
        found = demo._complete(here)
        if found is None:
            found = demo._carried_out(here, lambda: ([_details()] * 2, model), card)
        return [_seen(one) for one in found[0]]

    return Kept(folder, read, read())


QUICK = (head, cache, evaluation, reward, ensemble, language_model, transform, labels)


# ------------------------------------------------------------------------------ no flip in silence


def damages(folder: Path, n: int) -> list[tuple[Path, Callable[[bytes], bytes]]]:
    """Return ``n`` flips of one bit in each part of what is kept, and each file cut."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    sizes = np.array([f.stat().st_size for f in files])
    # Half of them by size, half of them alike over files: records are small.
    u = Key(7).child("flips").uniform_numpy(n, 3)
    picks = np.where(
        u[:, 0] < 0.5,
        np.searchsorted(sizes.cumsum(), u[:, 1] * sizes.sum(), side="right"),
        (u[:, 1] * len(files)).astype(int),
    )

    def flip(share: float) -> Callable[[bytes], bytes]:
        def change(good: bytes) -> bytes:
            place = int(share * 8 * len(good))
            damaged = bytearray(good)
            damaged[place // 8] ^= 1 << place % 8
            return bytes(damaged)

        return change

    found = [(files[p], flip(float(v))) for p, v in zip(picks, u[:, 2], strict=True)]
    return found + [(file, lambda good: good[: len(good) // 2]) for file in files]


SLOW = (training, checkpoints, tiny_world, arm)
"""What takes a second to be made anew; at night as often as the others."""


@pytest.mark.parametrize("n", [8, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", SLOW, ids=lambda make: make.__name__)
def test_no_flip_changes_what_is_slow_to_make(make, n, tmp_path, tiny_model):
    check_damages(make, n, tmp_path, tiny_model)


@pytest.mark.parametrize("make", QUICK, ids=lambda make: make.__name__)
def test_no_flip_changes_a_number_in_silence(make, tmp_path, tiny_model):
    check_damages(make, 50, tmp_path, tiny_model)


def check_damages(make, n, tmp_path, tiny_model):
    """Catches a reader that does not check, and a digest that leaves something out."""
    kept = make(tmp_path / "kept", tiny_model)
    pristine = tmp_path / "pristine"
    shutil.copytree(kept.folder, pristine)
    noticed = 0
    tried = damages(pristine, n)
    for file, change in tried:
        shutil.rmtree(kept.folder)
        shutil.copytree(pristine, kept.folder)
        path = kept.folder / file.relative_to(pristine)
        path.write_bytes(change(path.read_bytes()))
        damaged = path.read_bytes()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found, refusal = None, ""
            try:
                found = kept.read()
            except (ValueError, LabelsPending) as error:
                refusal = str(error)
        if refusal:
            noticed += 1
            # What to look at is named, and nothing was changed.
            assert str(kept.folder) in refusal or path.name in refusal, refusal
            assert path.read_bytes() == damaged or path.name == "pending.jsonl"
            continue
        assert found == kept.want, f"{path}: another value"
        told = [str(w.message) for w in said if issubclass(w.category, DamageWarning)]
        noticed += bool(told)
        if told:
            # Named, kept under another name (rows of a cache in their place), and made anew.
            every = [p.read_bytes() for p in kept.folder.rglob("*") if p.is_file()]
            assert damaged in every or make is cache, f"{path} was lost"
            with warnings.catch_warnings():
                warnings.simplefilter("error", DamageWarning)
                assert kept.read() == kept.want
    # A cut of a line at its end, a marker's white space, an entry of an index that nobody asks for.
    assert noticed > 0.4 * len(tried)


def test_a_damaged_fit_is_set_aside_and_fitted_again(tmp_path, tiny_model):
    """Catches a job that takes the presence of a file for its health."""
    kept = head(tmp_path / "fit", tiny_model)
    file = kept.folder / "head.safetensors"
    damaged = file.read_bytes()[:-1] + b"?"
    file.write_bytes(damaged)
    with pytest.warns(DamageWarning, match=r"head\.safetensors is damaged"):
        fit_job(kept.folder, tiny_model).run(kept.folder, lambda _: None)
    assert kept.read() == kept.want
    assert (kept.folder / "head.safetensors.damaged").read_bytes() == damaged


# ------------------------------------------------------------------------------ records


@pytest.fixture
def record(tmp_path):
    for name in ("a.bin", "deep/b.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 10)
    write_record(tmp_path / "r.json", {"x": 1.5}, ["a.bin", "deep"])
    return tmp_path / "r.json"


def test_a_record_names_what_is_damaged(record):
    assert read_record(record)["x"] == 1.5
    (record.parent / "deep" / "b.bin").write_bytes(b"other")
    with pytest.raises(DamagedError, match=r"deep/b\.bin is damaged"):
        read_record(record)
    (record.parent / "deep" / "b.bin").unlink()
    with pytest.raises(DamagedError, match=r"deep/b\.bin is missing, which r\.json names"):
        read_record(record)


def test_nothing_that_was_set_aside_is_overwritten(record):
    for said in ("a.bin.damaged", r"a.bin.2.damaged"):
        (record.parent / "a.bin").write_bytes(said.encode())
        with pytest.warns(DamageWarning, match=rf"a\.bin is damaged.*set aside as .*{said}"):
            assert found_whole(record, record.parent / "a.bin") is None
        assert (record.parent / said).read_bytes() == said.encode()
        (record.parent / "a.bin").write_bytes(b"new")
        write_record(record, {"x": 1.5}, ["a.bin"])


def test_a_record_of_the_former_format_is_refused_by_name(tmp_path):
    write_json(tmp_path / "r.json", {"x": 1.5, "format": 1})
    with pytest.raises(FormerRecordError, match=r"r\.json must be of format 2.*it is of format 1"):
        found_whole(tmp_path / "r.json")
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_file_is_hashed_once_in_a_process(tmp_path, monkeypatch):
    """Once its times are settled; one that changes is hashed again."""
    file, hashed = tmp_path / "weights", []
    original = content._hashed
    monkeypatch.setattr(content, "_hashed", lambda path: hashed.append(path) or original(path))
    file.write_bytes(b"weights")
    first = content.content_hash(file)
    assert content.content_hash(file) == first
    assert len(hashed) == 2  # just written: its times say nothing yet
    monkeypatch.setattr(content, "_SETTLED_SECONDS", 0.0)
    assert {content.content_hash(file) for _ in range(3)} == {first}
    assert len(hashed) == 3
    file.write_bytes(b"weighty")
    assert content.content_hash(file) != first


def test_an_answer_that_changed_since_it_was_read_is_refused(tmp_path, tiny_model):
    kept = labels(tmp_path, tiny_model)
    file = LabelFile(tmp_path)
    text = file.answers.read_text()
    file.answers.write_text(text.replace('"label": 0.25', '"label": 0.75'))
    with pytest.raises(ValueError, match=r"answers\.jsonl.*not what was read before.*remove its"):
        kept.read()
    # On purpose: without the digest it counts as it is now, and gets a digest.
    rows = [row for _, row in read_jsonl(file.answers)[0]]
    for row in rows:
        if row["label"] == 0.75:
            del row["digest"]
    write_jsonl(file.answers, rows)
    assert sorted(kept.read()) != sorted(kept.want)
    assert all("digest" in row for _, row in read_jsonl(file.answers)[0])
