"""The tiny world: weights from a recipe, kept on disk."""

import dataclasses
import json
import os
import shutil
import time

import numpy as np
import pytest
import torch

from llm_bridge.language.models import LanguageModel
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.tiny import pretraining, world
from llm_bridge.tiny.architecture import CONTEXT, untrained
from llm_bridge.tiny.gold import gold_preference, gold_reward
from llm_bridge.tiny.grammar import questions
from llm_bridge.tiny.parser import judge
from llm_bridge.tiny.world import TinyWorldRecipe, build, cache_folder
from rlhf_theory.randomness import Key
from rlhf_theory.store import DamageWarning

SMALL = TinyWorldRecipe(hidden=16, layers=1, heads=2, steps=3, batch_size=8, sequences=64)


@pytest.fixture
def trainings(monkeypatch):
    """How often a model was trained."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs["steps"])
        return pretraining.pretrain(*args, **kwargs)

    monkeypatch.setattr(world, "pretrain", counted)
    return calls


# --------------------------------------------------------------------------- weights


def test_untrained_model_is_small_seeded_and_usable():
    model, again, other = untrained(seed=1), untrained(seed=1), untrained(seed=2)
    assert model.fingerprint == again.fingerprint != other.fingerprint
    assert model.model.config.num_hidden_layers == 2
    assert model.context_length == CONTEXT
    assert {model.pad_id, model.eos_id} == {0, 2}
    ids = torch.tensor([model.encode_prompt("what color is oak ? answer briefly .").ids])
    with torch.no_grad():
        logits = model.model(input_ids=ids).logits
    assert logits.shape == (1, 9, len(model.tokenizer))
    assert bool(torch.isfinite(logits).all())


def test_the_default_size_has_89_thousand_weights():
    recipe = TinyWorldRecipe()
    model = untrained(recipe.hidden, recipe.layers, heads=recipe.heads)
    assert 88_000 < sum(p.numel() for p in model.model.parameters()) < 90_000


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    untrained()
    assert bool((torch.random.get_rng_state() == before).all())


def test_weights_have_the_spread_asked_for():
    weights = dict(untrained(64, spread=0.3).model.named_parameters())
    matrices = torch.cat([w.detach().flatten() for w in weights.values() if w.dim() > 1])
    # 89 000 normal draws: five standard errors are 1.2 % of the spread.
    assert abs(float(matrices.std()) / 0.3 - 1) < 0.012
    assert all(bool((w == 1).all()) for w in weights.values() if w.dim() == 1)


@pytest.mark.parametrize(
    "bad", [{"hidden": 0}, {"hidden": 20}, {"layers": -1}, {"heads": 0}, {"spread": 0.0}]
)
def test_sizes_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        untrained(**bad)


# --------------------------------------------------------------------------- recipes


def test_the_hash_changes_with_every_setting():
    base = TinyWorldRecipe()
    hashes = {base.hash}
    for field in dataclasses.fields(base):
        value = getattr(base, field.name)
        hashes.add(dataclasses.replace(base, **{field.name: value * 2 or 1}).hash)
    assert len(hashes) == 1 + len(dataclasses.fields(base))
    assert TinyWorldRecipe().hash == base.hash


def test_the_hash_changes_with_the_grammar(monkeypatch):
    before = TinyWorldRecipe().hash
    real = world.sample_answers
    monkeypatch.setattr(
        world, "sample_answers", lambda *a: tuple(t.replace("sure", "yes") for t in real(*a))
    )
    assert TinyWorldRecipe().hash != before


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"learning_rate": float("nan")}, {"batch_size": -1}, {"sequences": 3}],
)
def test_recipes_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TinyWorldRecipe(**bad)


# --------------------------------------------------------------------------- cache


def test_cache_folder_is_an_argument_a_variable_or_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_THEORY_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(tmp_path / "here") == tmp_path / "here"
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("RLHF_THEORY_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "rlhf-theory"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-2:] == (".cache", "rlhf-theory")
    assert cache_folder("~/x") == cache_folder().parent.parent / "x"


def test_a_world_is_built_once(tmp_path, trainings):
    first = build(SMALL, tmp_path, progress=False)
    second = build(SMALL, tmp_path, progress=False)
    assert trainings == [3]
    assert first == second
    assert [f.name for f in tmp_path.iterdir()] == [f"tiny-{SMALL.hash}"]
    build(dataclasses.replace(SMALL, seed=1), tmp_path, progress=False)
    assert trainings == [3, 3]


def test_a_world_knows_its_prompts_and_golds(tmp_path):
    made = build(SMALL, tmp_path, progress=False)
    assert not set(made.prompts) & set(made.held_out)
    assert {*made.prompts, *made.held_out} == {q.text for q in questions()}
    assert made.reward is gold_reward
    assert made.preference is gold_preference
    assert made.recipe == SMALL
    model = made.model()
    assert model.model.config.hidden_size == 16
    assert LanguageModel.from_pretrained(made.folder).fingerprint == model.fingerprint
    assert model.tokenizer.chat_template
    assert model.tokenizer.padding_side == "right"


def test_equal_recipes_give_equal_weights(tmp_path):
    threads = torch.get_num_threads()
    one = build(SMALL, tmp_path / "a", progress=False).model()
    two = build(SMALL, tmp_path / "b", progress=False).model()
    other = build(dataclasses.replace(SMALL, seed=5), tmp_path / "a", progress=False).model()
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert torch.get_num_threads() == threads


def damage_by_cut_weights(home):
    weights = home / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_by_missing_tokenizer(home):
    (home / "tokenizer.json").unlink()


def damage_by_foreign_marker(home):
    (home / world.MARKER).write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [damage_by_cut_weights, damage_by_missing_tokenizer, damage_by_foreign_marker],
)
def test_a_damaged_world_is_set_aside_and_built_again(tmp_path, trainings, damage):
    made = build(SMALL, tmp_path, progress=False)
    fingerprint = made.model().fingerprint
    damage(made.folder)
    with pytest.warns(DamageWarning, match="set aside"):
        again = build(SMALL, tmp_path, progress=False)
    assert trainings == [3, 3]
    assert again.model().fingerprint == fingerprint
    home = f"tiny-{SMALL.hash}"
    assert sorted(p.name for p in tmp_path.iterdir()) == [home, f"{home}.damaged"]


def test_a_world_without_its_marker_was_never_finished_and_is_built_again(tmp_path, trainings):
    made = build(SMALL, tmp_path, progress=False)
    (made.folder / world.MARKER).unlink()
    build(SMALL, tmp_path, progress=False)
    assert trainings == [3, 3]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("step", ["save", "write_record"])
def test_a_build_that_fails_while_writing_leaves_nothing(tmp_path, monkeypatch, trainings, step):
    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel if step == "save" else world, step, fail)
        with pytest.raises(OSError, match="disk full"):
            build(SMALL, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
    build(SMALL, tmp_path, progress=False)
    assert trainings == [3, 3]


def test_what_a_killed_build_left_is_not_used_and_swept_when_old(tmp_path, trainings):
    made = build(SMALL, tmp_path / "other", progress=False)
    left = tmp_path / f".tiny-{SMALL.hash}.0123456789ab.tmp"
    old = tmp_path / ".tiny-aaaa.0123456789ab.tmp"
    for folder in (left, old):
        shutil.copytree(made.folder, folder)
        (folder / world.MARKER).unlink()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    build(SMALL, tmp_path, progress=False)
    assert trainings == [3, 3]
    assert left.is_dir()  # another process may still be writing it
    assert not old.exists()


def test_two_processes_may_build_the_same(tmp_path, monkeypatch):
    real, homes = world.pretrain, []

    def slower(*args, **kwargs):
        monkeypatch.setattr(world, "pretrain", real)
        homes.append(build(SMALL, tmp_path, progress=False).folder)  # the other one is faster
        return real(*args, **kwargs)

    monkeypatch.setattr(world, "pretrain", slower)
    made = build(SMALL, tmp_path, progress=False)
    assert homes == [made.folder]
    assert [f.name for f in tmp_path.iterdir()] == [made.folder.name]
    assert json.loads((made.folder / world.MARKER).read_text())["recipe"]["steps"] == 3


def test_a_file_is_no_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        build(SMALL, tmp_path / "file", progress=False)


# --------------------------------------------------------------------------- training


def test_batches_use_every_sequence_once_per_epoch_and_little_padding():
    lengths = (10 + 30 * Key(0).uniform_numpy(1, 160)[0]).astype(int).tolist()
    batches = pretraining.length_batches(lengths, 8, Key(1))
    epochs = [[next(batches) for _ in range(20)] for _ in range(2)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(160))
    assert epochs[0] != epochs[1]
    padded = sum(8 * max(lengths[i] for i in batch) for batch in epochs[0])
    assert padded < 1.1 * sum(lengths)
    # Cut in the given order, the same sequences would need a third more.
    assert sum(8 * max(lengths[k : k + 8]) for k in range(0, 160, 8)) > 1.3 * sum(lengths)


def test_batches_need_enough_sequences():
    with pytest.raises(ValueError, match="fill a batch of 8; got 5"):
        next(pretraining.length_batches([1] * 5, 8, Key(0)))


def test_the_loss_is_the_mean_over_the_tokens_of_answers():
    model = untrained(spread=0.3)
    pairs = [((1, 20, 21), (30, 2)), ((1, 22), (31, 32, 33, 2))]
    total, tokens = 0.0, 0
    for prompt, answer in pairs:
        for t, token in enumerate(answer):
            before = torch.tensor([(*prompt, *answer[:t])])
            with torch.no_grad():
                last = model.model(input_ids=before).logits[0, -1]
            total -= float(torch.log_softmax(last.double(), dim=-1)[token])
            tokens += 1
    with torch.no_grad():
        got = float(pretraining._loss(model.model, pairs, model.pad_id))
    assert abs(got - total / tokens) < 1e-5


def test_a_short_training_lowers_the_loss():
    recipe = TinyWorldRecipe(hidden=32, steps=30, batch_size=16, sequences=480)
    model = untrained(32, spread=0.08)
    pairs = world._pairs(recipe, model)
    losses = pretraining.pretrain(
        model, pairs, steps=30, batch_size=16, learning_rate=0.03, key=Key(0)
    )
    # Untrained, all 108 tokens are about equally likely; a minute's grammar halves the entropy.
    assert abs(losses[0] - np.log(len(model.tokenizer))) < 0.5
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert not model.model.training


def test_a_training_that_diverges_says_so():
    model = untrained()
    pairs = world._pairs(dataclasses.replace(SMALL, sequences=16), model)
    with torch.no_grad():
        model.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="diverged"):
        pretraining.pretrain(model, pairs, steps=2, batch_size=8, learning_rate=0.01, key=Key(0))


@pytest.mark.slow
def test_the_default_world_speaks_the_grammar(tmp_path):
    made = build(folder=tmp_path, progress=False)
    model = made.model()
    prompts = [model.encode_prompt(p).ids for p in made.held_out]
    drawn = BatchedSampler(max_new_tokens=48)(model, prompts, 16, Key(0))
    judged = [judge(p, r.text) for p, row in zip(made.held_out, drawn, strict=True) for r in row]
    # Measured .990, .976 and .51 at 6144 answers; the bounds are six standard errors (of 3072) off.
    assert np.mean([j.grammatical for j in judged]) > 0.975
    assert np.mean([j.on_topic for j in judged]) > 0.95
    assert 0.45 < np.mean([j.fact_right for j in judged]) < 0.6
