"""Language models in study files: a world of prompts beside a bandit, kept, extended, answered."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import rlhf_theory as rt
from llm_bridge import HeldOut, PromptProblem, PromptWorld
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.jobs.prompts import Prompts
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.labels.oracles import RewardModelOracle, TextReward
from llm_bridge.planning.direct import IterativeDirect
from llm_bridge.planning.planners import DPOPlanner
from llm_bridge.rewards.modules import trunk_of
from llm_bridge.rewards.trained import TrainedReward
from llm_bridge.tiny import questions
from llm_bridge.training.settings import LoRA, TrainingSettings
from rlhf_theory.experiments.runner import run_online
from rlhf_theory.oracles import feedback_from
from rlhf_theory.studies import entries, registry
from rlhf_theory.studies.running import longer
from rlhf_theory.study import Study, StudyResult

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def words(prompt: str, response: str) -> float:
    return 0.3 * len(response.split())


REWARD = f"{__name__}:words"


def prompts(n):
    return [q if isinstance(q, str) else q.text for q in list(questions())[:n]]


@pytest.fixture
def here(tmp_path, tiny_model, monkeypatch):
    """A folder with a model, a file of prompts, and this module's reward within reach."""
    tiny_model.save(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("\n".join(prompts(8)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def world(**changes):
    settings = {
        "kind": "llm_bridge.jobs.prompts:Prompts",
        "prompts": "prompts.txt",
        "model": "model",
        "labels": REWARD,
        "features": {"dim": 3},
        "pool_size": 3,
        "max_new_tokens": 6,
        "samples": 0,
    }
    return {**settings, **changes}


RANKS = {"kind": "online-iterative", "label": "re-ranks", "batch_size": 8}
TRAINS = {
    "kind": "online-iterative",
    "label": "trains",
    "batch_size": 8,
    "planner": {"kind": "dpo", "steps": 2},
}


def study(*worlds, learners=(RANKS,), rounds=2, **more):
    return Study(
        name="models",
        worlds=list(worlds),
        learners=list(learners),
        rounds=rounds,
        replicas=6,
        **more,
    )


def run(study, folder, **options):
    return study.run(folder, backend="serial", quiet=True, **options)


def test_a_bandit_and_prompts_stand_side_by_side(here):
    both = study({"kind": "linear", "dim": 3}, world(label="prompts", replicas=2), block=3)
    assert [(c.world_label, c.replicas, c.block) for c in both.cells()] == [
        ("linear", 6, 3),
        ("prompts", 2, 1),
    ]
    result = run(both, here / "out")
    assert (result.tally.done, result.tally.failed) == (4, 0)
    values = result.summary().set_index("world")
    assert dict(values["metric"]) == {"linear": "gap", "prompts": "pool_gap"}
    assert dict(values["replicas"]) == {"linear": 6, "prompts": 2}
    # Scores need the gap of pi0, for which no model is loaded.
    assert set(result.scores()["family"]) == {"linear", "all worlds"}
    assert result.report().is_file()


def test_a_study_counts_its_cells_as_it_has_them(here):
    """Sizes of blocks were counted for worlds that have one of their own."""
    worlds = {"kind": "linear", "dim": 3}, world(label="prompts")
    learners = (RANKS, {**RANKS, "label": "more", "batch_size": 9})
    swept = study(*worlds, learners=learners, block=[2, 3], seed=[0, 1, 2])
    assert len(swept.cells()) == 3 * (2 * 2 + 2)
    assert f"{len(swept.cells())} cells" in repr(swept)


def test_a_cell_of_prompts_is_what_the_runner_gives(here):
    """The whole way through the study against the world made by hand; replica 1 is of seed 1."""
    result = run(study(world(seed=0, replicas=2, held_out=0.0)), here / "out")
    policy = ModelSource(name="model").policy(max_new_tokens=6, batch_size=32)
    problem = PromptProblem(
        prompts(8),
        policy,
        features=TransformerFeatures(policy.model, dim=3),
        pool_size=3,
        seed=1,
    )
    reward = TextReward(words)
    trace = run_online(
        rt.OnlineIterative(batch_size=8),
        PromptWorld(
            problem=problem,
            feedback=feedback_from(RewardModelOracle(reward, 1.0)),
            judge=HeldOut(problem.held_out(prompts(8)), reward, n_samples=0, seed=1),
        ),
        2,
        first_replica=1,
        block=1,
    )
    rows = result.curves
    mine = rows[rows["replica"] == 1].sort_values("round")
    for name in ("pool_gap", "pool_kl", "pool_gold"):
        np.testing.assert_array_equal(mine[name], trace[name][0])
    other = rows[rows["replica"] == 0].sort_values("round")
    assert (other["pool_gap"].to_numpy() != mine["pool_gap"].to_numpy()).all()


def test_keys_follow_content_and_not_places(here):
    def key(**changes):
        return study(world(**changes)).cells()[0].key

    first = key()
    (here / "elsewhere").mkdir()
    for name in ("prompts.txt", "model"):
        (here / name).rename(here / "elsewhere" / name)
    moved = {"prompts": "elsewhere/prompts.txt", "model": "elsewhere/model"}
    assert key(**moved) == first
    assert key(**moved, replicas=3, at_once=2, folder="kept") == first
    assert key(**moved, threads=2) != first
    weights = here / "elsewhere/model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    other = key(**moved)
    assert other != first
    (here / "elsewhere/prompts.txt").write_text("\n".join(prompts(7)))
    assert key(**moved) not in (first, other)


def test_content_that_changes_on_the_way_fails_the_block_and_a_stored_study_says_so(here):
    changing = study(world())
    stored = changing.resolved()
    assert Study(**stored).cells() == changing.cells()
    (here / "prompts.txt").write_text("\n".join(prompts(7)))
    result = run(changing, here / "out")
    assert result.tally.failed == 1
    assert "prompts of 'Prompts' changed since" in result.failures()["error"].iloc[0]
    with pytest.raises(ValueError, match=r"worlds\[0\].content: is .* now, not .*changed"):
        Study(**stored)


HELPER = "def size(text):\n    return {} * len(text.split())\n"
JUDGE = """
import their_helper

def words(prompt, response):
    return their_helper.size(response)

def wins(prompt, first, second):
    return 0.5 + 0.1 * (their_helper.size(first) > their_helper.size(second))
"""


@pytest.fixture
def edited(here, monkeypatch):
    """Write the code of who labels as it is given, as a new process would find it."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # the folder is added to it

    def forget():
        for name in ("their_judge", "their_helper"):
            sys.modules.pop(name, None)
        entries.refresh()

    def edit(factor=0.3, judge=JUDGE):
        (here / "their_judge.py").write_text(judge)
        (here / "their_helper.py").write_text(HELPER.format(factor))
        forget()

    edit()
    yield edit
    forget()


@pytest.mark.parametrize(
    "who",
    [
        {"labels": "their_judge:words"},
        {"labels": None, "preference": "their_judge:wins", "game": True},
    ],
)
def test_an_edit_of_who_labels_or_of_a_helper_is_another_cell(here, edited, who):
    """The key was the name alone: edited rewards met the results of those before."""

    def key():
        learners = (RANKS,) if "preference" not in who else ({"kind": "nash-game"},)
        return study(world(**who), learners=learners).cells()[0].key

    first = key()
    edited(0.4)
    second = key()
    edited(0.4, JUDGE + "\n# the same, but for a remark\n")
    assert len({first, second, key()}) == 3
    edited()
    assert key() == first


def test_status_says_which_results_are_of_an_older_reward(here, edited):
    mine = world(labels="their_judge:words")
    stored = study(mine, rounds=1).resolved()
    run(study(mine, rounds=1), here / "out")
    assert list(StudyResult(here / "out").status()["older"]) == [0]
    edited(0.4)
    [(_, [found])] = StudyResult(here / "out").older()
    assert (found.changed, len(found.blocks)) == (("their_helper",), 1)
    with pytest.raises(ValueError, match=r"worlds\[0\]\.content.*--keep-old adopts"):
        Study(**stored)
    result = run(study(mine, rounds=1), here / "out", old="keep")
    assert (result.tally.done, list(result.status()["older"])) == (0, [0])


def test_a_fitted_reward_counts_by_what_it_holds(here, tiny_model):
    """Its folder was the key: fitted anew, or moved, it was the same or another one by name."""
    reward = TrainedReward(trunk_of(tiny_model), torch.ones(32))
    reward.save(here / "fit" / "reward")

    def content(labels):
        return Prompts(prompts="prompts.txt", model="model", labels=labels).content()["labels"]

    first = content("fit")
    (here / "fit").rename(here / "moved")
    assert content("moved") == first
    assert content("moved#mean") != first
    reward.rescaled(2.0).save(here / "moved" / "reward")
    assert content("moved") != first


def test_another_round_trains_only_that_round(here):
    short = study(world(), learners=[TRAINS])
    run(short, here / "out")
    trainings = here / "out/kept/trainings"
    before = {p: p.stat().st_mtime_ns for p in trainings.glob("*/result.json")}
    assert len(before) == 2
    first = run(short, here / "again").curves  # the same, computed from nothing
    result = run(longer(short, rounds=3), here / "out")
    assert (result.tally.done, result.tally.failed) == (1, 0)
    after = {p: p.stat().st_mtime_ns for p in trainings.glob("*/result.json")}
    assert len(after) == 3
    assert before.items() <= after.items()
    rows = result.curves
    pd.testing.assert_series_equal(
        rows.loc[rows["round"] <= 2, "pool_gap"].reset_index(drop=True),
        first["pool_gap"].reset_index(drop=True),
    )


def test_people_are_asked_and_the_run_goes_on_with_what_they_said(here):
    asks = study(world(labels="people"), rounds=1)
    result = run(asks, here / "out")
    assert (result.tally.done, result.tally.failed, result.tally.left) == (0, 0, 1)
    [request] = result.tally.waiting
    pending = here / "out/kept/labels/pending.jsonl"
    assert str(pending) in request
    questions = [json.loads(line) for line in pending.read_text().splitlines()]
    assert questions
    answers = [{"key": q["key"], "label": "a"} for q in questions]
    (pending.parent / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)) + "\n")
    result = run(asks, here / "out")
    assert (result.tally.done, result.tally.left, result.tally.waiting) == (1, 0, ())
    assert result.summary()["metric"].tolist() == ["pool_kl"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"samples": 2},
        {"labels": "people", "samples": 2},
        {"game": True},
        {"labels": None, "preference": f"{__name__}:wins", "game": True},
    ],
)
def test_metrics_are_known_before_the_world_is_made(here, changes):
    settings = {k: v for k, v in world(**changes).items() if k not in ("kind", "features")}
    recipe = Prompts(**settings, folder=here / "kept")
    assert recipe.block(0, 1).metrics == recipe.metrics


def wins(prompt: str, first: str, second: str) -> float:
    return 0.9 if len(first) > len(second) else 0.1 if len(first) < len(second) else 0.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": None}, "Say who labels"),
        ({"preference": "m:f", "labels": None}, "set game = true"),
        ({"labels": "people", "label_scale": 2.0}, "people and preferences would ignore it"),
        ({"samples": 1}, "samples must be 0 or at least 2; got 1"),
        ({"held_out": 1.0}, "held_out must lie in"),
        ({"prompts": "none.txt"}, "There is no file none.txt"),
        ({"threads": 0}, "threads must be positive"),
        ({"at_onec": 1}, "Did you mean 'at_once'"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(here, changes, says, monkeypatch):
    monkeypatch.setattr(ModelSource, "language_model", None)
    with pytest.raises(ValueError, match=says):
        study(world(**changes))


# --------------------------------------------------------------------------- how to train


def spec_of(learner, **changes):
    return study(world(**changes), learners=[learner]).cells()[0].learner


def test_how_to_train_stands_beside_the_kind_of_a_planner(here):
    spec = spec_of(TRAINS)
    assert (spec["planner"]["steps"], spec["planner"]["learning_rate"]) == (2, 5e-5)
    made = DPOPlanner(steps=2)
    assert registry.spec_of(made) == spec["planner"]
    learner = rt.OnlineIterative(batch_size=8, planner=made)
    assert spec_of({**registry.spec_of(learner), "label": "trains"}) == spec
    lora = spec_of({**TRAINS, "planner": {"kind": "dpo", "lora": {"rank": 2}}})
    assert registry.build_learner(lora).planner.training.lora == LoRA(rank=2)


def test_how_to_train_is_swept_and_changed(here):
    play = {
        "kind": "nash-game",
        "game": "probability",
        "planner": {"kind": "self-play", "rounds": {"grid": [1, 2]}, "steps": 3},
    }
    games = study(world(game=True), learners=[play])
    assert [cell.learner["planner"]["rounds"] for cell in games.cells()] == [1, 2]
    assert {cell.learner["planner"]["steps"] for cell in games.cells()} == {3}
    (here / "study.toml").write_text(
        'format = 2\nname = "models"\nrounds = 1\n'
        '[[world]]\nkind = "prompts"\nprompts = "prompts.txt"\nmodel = "model"\n'
        f'labels = "{REWARD}"\n'
        '[[learner]]\nkind = "online-iterative"\nplanner = { kind = "dpo", steps = 2 }\n'
    )
    sets = ["learner.planner.steps={ grid = [5, 7] }", "learner.planner.learning_rate=.01"]
    swept = Study.from_toml(here / "study.toml", sets)
    planners = [cell.learner["planner"] for cell in swept.cells()]
    assert [p["steps"] for p in planners] == [5, 7]
    assert {p["learning_rate"] for p in planners} == {0.01}
    with pytest.raises(ValueError, match=r"Did you mean learner\.planner\.steps\?"):
        Study.from_toml(here / "study.toml", ["learner.planner.settings.steps=5"])


def test_the_former_table_of_settings_is_refused_with_what_to_write(here):
    nested = {**TRAINS, "planner": {"kind": "dpo", "settings": {"steps": 2}}}
    with pytest.raises(ValueError, match="write steps = 2 beside its kind"):
        study(world(), learners=[nested])


def test_labels_and_examples_of_a_pass_have_names_of_their_own():
    how = TrainingSettings(steps=3, batch_size=5)
    assert IterativeDirect.of(how).training == how
    assert IterativeDirect.of(how).batch_size == 256
    assert IterativeDirect.of(how, batch_size=7).batch_size == 7
    assert DPOPlanner.of(how, tol=1.0) == DPOPlanner(steps=3, batch_size=5, tol=1.0)
