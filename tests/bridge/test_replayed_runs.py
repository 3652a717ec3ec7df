"""Another round of a finished run: what was sampled, scored, asked or trained is never so again."""

import sys
from collections import Counter
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch

from llm_bridge.embeddings import features as features_module
from llm_bridge.jobs.prompts import Prompts
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools import policy as policy_module
from llm_bridge.storage.kept import Kept, unworded, words
from llm_bridge.tiny import gold_preference, gold_reward, split_prompts
from llm_bridge.training.runs import Training
from rlhf_theory.randomness import Key
from rlhf_theory.store import DamageWarning
from rlhf_theory.studies.running import longer
from rlhf_theory.study import Study

CALLS = Counter()


def reward(prompt: str, response: str) -> float:
    CALLS["reward", prompt, response] += 1
    return gold_reward(prompt, response)


def preference(prompt: str, first: str, second: str) -> float:
    CALLS["preference", prompt, first, second] += 1
    return gold_preference(prompt, first, second)


@pytest.fixture
def here(tmp_path, tiny_model, monkeypatch):
    """A folder with a model and prompts; everything that is computed is counted, by content."""
    tiny_model.save(tmp_path / "model")
    texts = split_prompts(Key(0))[0][:8]
    (tmp_path / "prompts.txt").write_text("\n".join(texts) + "\n")
    monkeypatch.chdir(tmp_path)
    CALLS.clear()

    def counted(owner, name, what, about):
        inner = getattr(owner, name)

        def call(*args, **kwargs):
            CALLS[what, about(*args, **kwargs)] += 1
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(
        BatchedSampler, "__call__", "sample",
        lambda self, model, prompts, n, key: (model.fingerprint, str(prompts), n, str(key)),
    )  # fmt: skip
    counted(
        policy_module, "sequence_log_probs", "score",
        lambda model, prompts, responses, **_: (model.fingerprint, str(prompts), str(responses)),
    )  # fmt: skip
    counted(
        features_module, "extract", "read",
        lambda reader, spec, prompts, responses, **_: (reader.fingerprint, str(responses)),
    )  # fmt: skip
    counted(Training, "_run", "train", lambda self, folder, _settings: folder.name)
    return tmp_path


WORLD = {
    "kind": "prompts",
    "prompts": "prompts.txt",
    "model": "model",
    "labels": f"{__name__}:reward",
    "features": {"dim": 3},
    "pool_size": 4,
    "max_new_tokens": 6,
    "samples": 2,
    "refresh": True,
}
PLANNER = {"steps": 2, "learning_rate": 1e-3, "progress": False}
TRAINS = {"kind": "online-iterative", "batch_size": 8, "planner": {"kind": "dpo", **PLANNER}}
DIRECT = {"kind": "iterative-direct", "batch_size": 8, "loss": "bco", **PLANNER}
IMITATES = {**TRAINS, "planner": {"kind": "imitation", "draws": 4, **PLANNER}}
NASH = {
    "kind": "nash-game",
    "batch_size": 8,
    "game": "probability",
    "planner": {"kind": "self-play", "rounds": 1, **PLANNER},
}
GAME = {**WORLD, "labels": None, "preference": f"{__name__}:preference", "game": True}


def played(learner, folder, rounds, before=None, world=WORLD):
    world = {k: v for k, v in world.items() if v is not None}
    study = before and longer(before, rounds=rounds)
    study = study or Study(
        name="models", worlds=[world], learners=[learner], rounds=rounds, record={"grid": "all"}
    )
    result = study.run(folder, backend="serial", quiet=True)
    assert (result.tally.done, result.tally.failed) == (1, 0), result.failures().to_dict("records")
    return study, result


@pytest.mark.parametrize(
    ("learner", "world"),
    [(TRAINS, WORLD), (DIRECT, WORLD), (IMITATES, WORLD), (NASH, GAME)],
    ids=["dpo", "direct", "imitation", "nash"],
)
def test_an_extended_run_is_the_longer_run_and_computes_nothing_twice(here, learner, world):
    study, _ = played(learner, here / "once", 4, world=world)
    whole, first = Counter(CALLS), study
    CALLS.clear()
    first, _ = played(learner, here / "twice", 3, world=world)
    _, extended = played(learner, here / "twice", 4, before=first)
    # Each question was asked as often as in the run that played all rounds at once, so none in
    # both runs; a memory within one run may answer a question of the same run again.
    assert whole == CALLS
    assert {what for what, *_ in whole} > {"sample", "score", "read"}
    once = Study(**first.resolved()).changed({"rounds": 4}).run(here / "once", backend="serial")
    pd.testing.assert_frame_equal(extended.curves, once.curves, check_exact=True)
    tables = [sorted(p.glob("cells/*/*.parquet")) for p in (here / "once", here / "twice")]
    assert [t.read_bytes() for t in tables[0]] == [t.read_bytes() for t in tables[1]]


def test_one_more_round_computes_that_round_alone(here):
    first, _ = played(TRAINS, here / "out", 2)
    before = Counter(CALLS)
    CALLS.clear()
    played(TRAINS, here / "out", 3, before=first)
    assert not set(before) & set(CALLS)
    assert {what for what, *_ in CALLS} == {"sample", "score", "read", "train", "reward"}
    assert sum(n for (what, *_), n in CALLS.items() if what == "train") == 1


def test_another_number_of_threads_is_another_run(here, monkeypatch):
    played({**TRAINS, "planner": "gibbs"}, here / "out", 1, world={**WORLD, "refresh": False})
    CALLS.clear()
    other = {**WORLD, "refresh": False, "threads": 2}
    before = torch.get_num_threads()
    seen = []
    sample = BatchedSampler.__call__
    monkeypatch.setattr(
        BatchedSampler,
        "__call__",
        lambda *args: (seen.append(torch.get_num_threads()), sample(*args))[1],
    )
    played({**TRAINS, "planner": "gibbs"}, here / "out", 1, world=other)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before
    assert {what for what, *_ in CALLS} >= {"sample", "score"}


def test_an_edited_reward_is_another_world(here, monkeypatch):
    monkeypatch.syspath_prepend(here)

    def key(text):
        (here / "edited_reward.py").write_text(f"def f(prompt, response):\n    return {text}\n")
        monkeypatch.delitem(sys.modules, "edited_reward", raising=False)
        world = {**WORLD, "labels": "edited_reward:f"}
        return Study(name="m", worlds=[world], learners=[TRAINS], rounds=1).cells()[0].key

    first = key("1.0")
    assert key("len(response)") != first
    assert key("1.0") == first


def test_what_a_block_sets_is_set_back():
    world = Prompts(prompts="x", model="m", labels="m:f", threads=2)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with suppress(KeyError), world.computing():
        assert torch.get_num_threads() == 2
        raise KeyError
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_threads_are_given_back_after_a_failure(here):
    before = torch.get_num_threads()
    study = Study(
        name="fails",
        worlds=[{**WORLD, "threads": before + 1}],
        learners=[{**TRAINS, "planner": "gibbs"}],  # it cannot follow a policy that re-ranks
        rounds=1,
    )
    result = study.run(here / "out", backend="serial", quiet=True)
    assert result.tally.failed == 1
    assert torch.get_num_threads() == before


def test_an_answer_that_is_damaged_is_asked_for_again(tmp_path):
    kept, asked = Kept(tmp_path / "answers"), []

    def answer():
        asked.append(1)
        return {"x": np.array([0.1, -np.inf]), "w": words([["é", 1, 0.1]])}

    for _ in range(2):
        found = kept.once("scores", {"model": "m"}, answer)
        np.testing.assert_array_equal(found["x"], [0.1, -np.inf])
        assert unworded(found["w"]) == [["é", 1, 0.1]]
    assert len(asked) == 1
    kept.once("scores", {"model": "other"}, answer)
    assert len(asked) == 2
    for file in (tmp_path / "answers").glob("scores-*"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.warns(DamageWarning, match="asked for again"):
        kept.once("scores", {"model": "m"}, answer)
    assert len(asked) == 3


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        Kept(tmp_path).once("scores", {}, lambda: {"x": np.zeros(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
