"""Named learners: what they would ignore is refused, and the scale of labels is known to them."""

import re
from pathlib import Path

import numpy as np
import pytest

import rlhf_theory as rt
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.jobs.iterate import IterateJob
from llm_bridge.jobs.learners import LearnerOptions
from llm_bridge.planning.direct import IterativeDirect
from llm_bridge.planning.pair_rules import AgainstEnhancer
from llm_bridge.training.settings import LoRA, TrainingSettings
from rlhf_theory.algorithms.enhancers import Optimistic
from rlhf_theory.losses import DPO
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.rewards import LinearReward
from tests.helpers.prompts import string_problem

PLAIN = TrainingSettings()

IGNORED = [
    ({"learner": "nash", "loss": "ipo"}, ["loss"]),
    ({"learner": "nash", "loss_settings": {"beta": 1.0}}, ["loss_settings"]),
    ({"learner": "nash", "beta": 2.0}, ["beta"]),
    ({"learner": "nash", "planner": "pools", "update": "sppo"}, ["update"]),
    ({"learner": "nash", "planner": "pools", "self_play_rounds": 5}, ["self_play_rounds"]),
    ({"update": "sppo", "self_play_rounds": 2}, ["update", "self_play_rounds"]),
    ({"planner": "pools", "loss": "ipo"}, ["loss"]),
    ({"pairs": "best-worst", "data": "latest"}, ["pairs", "data"]),
    ({"reference": "last", "start": "last"}, ["reference", "start"]),
    ({"enhancer": "uniform", "beta": 0.5}, ["beta"]),
    ({"learner": "direct", "beta": 9.0}, ["beta"]),
    ({"learner": "direct", "lam": 3.0, "update": "sppo"}, ["update", "lam"]),
    ({"learner": "direct", "planner": "pools"}, ["planner"]),
    ({"learner": "direct", "enhancer": "uniform"}, ["enhancer"]),
]

FINE = [
    {"learner": "online", "beta": 2.0, "lam": 0.1, "loss": "ipo", "loss_settings": {"tau": 1.0}},
    {"learner": "online", "planner": "pools", "enhancer": "optimistic", "beta": 0.0},
    {"learner": "online", "enhancer": "reference", "lam": 0.1},
    {"learner": "direct", "pairs": "optimistic", "beta": 9.0, "lam": 3.0},
    {"learner": "direct", "pairs": "reference", "data": "latest", "start": "last", "loss": "ipo"},
    {"learner": "nash", "update": "sppo", "self_play_rounds": 2, "lam": 0.1},
    {"learner": "nash", "planner": "pools", "enhancer": "on-policy"},
    # What equals its default says nothing.
    {"learner": "nash", "loss": "dpo", "beta": 1.0, "pairs": "on-policy", "loss_settings": {}},
    {"learner": "direct", "planner": "train", "enhancer": None, "update": "inpo", "lam": 1.0},
]


@pytest.mark.parametrize(("given", "names"), IGNORED)
def test_settings_that_would_be_ignored_are_refused(given, names):
    with pytest.raises(ValueError, match="would ignore") as caught:
        LearnerOptions(**given)
    assert re.findall(r"(\w+) \(a setting", str(caught.value)) == names


@pytest.mark.parametrize("given", FINE)
def test_settings_that_matter_are_taken(given):
    options = LearnerOptions(**given)
    assert {name: options.identity()[name] for name in given} == given


def test_enhancers_fit_their_learner():
    with pytest.raises(ValueError, match="for games"):
        LearnerOptions(enhancer="information-ratio")
    with pytest.raises(ValueError, match="for rewards"):
        LearnerOptions(learner="nash", enhancer="optimistic")


def job(**settings):
    return IterateJob(**({"file": Path("x"), "source": None, "labels": "m:f"} | settings))


def test_a_job_refuses_training_where_nothing_is_trained():
    pools = LearnerOptions(planner="pools")
    for given, name in (
        ({"training": TrainingSettings(learning_rate=1e-3)}, "learning_rate"),
        ({"training": TrainingSettings(steps=5)}, "epochs, steps|steps, epochs"),
        ({"training": TrainingSettings(lora=LoRA(rank=2))}, "lora"),
        ({"samples": 7}, "samples"),
    ):
        with pytest.raises(ValueError, match=rf"ignore ({name})\."):
            job(learner=pools, **given)
        job(**given)
    # How often to save, and how many samples there are by default or are in fact, change nothing.
    job(learner=pools, training=TrainingSettings(checkpoint_every=100), samples=0)


def test_a_job_refuses_a_scale_of_labels_that_nobody_uses():
    assert job(label_scale=3.0).label_scale == 3.0
    nash = LearnerOptions(learner="nash")
    for given in ({"labels": "people"}, {"labels": None, "preference": "m:f", "learner": nash}):
        job(**given)
        with pytest.raises(ValueError, match="would ignore it"):
            job(label_scale=3.0, **given)


# --------------------------------------------------------------------------- the scale of labels


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_labels_of_any_scale_lead_to_the_same_optimum(tiny_policy, tmp_path, scale):
    """Soft labels without noise: the estimate, and with it the gap, is right at every scale."""
    problem = string_problem(n_prompts=6, n_strings=7, pool_size=8, spread=0.5)
    reward = LinearReward(problem.table.phi.new_tensor([[1.0, -0.5, 0.7]]))
    options = LearnerOptions(planner="pools", batch_size=300, lam=1e-6)
    law = BradleyTerry(reward, scale)
    gold = HeldOut(problem, reward, n_samples=0)
    learner = options.make(tiny_policy, PLAIN, tmp_path, label_scale=scale)
    trace = rt.run(
        learner,
        problem,
        feedback=lambda x, a1, a2, _key: law.prob(x, a1, a2),
        evaluate=gold,
        n_rounds=1,
        seed=3,
    )
    assert trace["pool_gap"][0, 0] > 0.05
    assert trace["pool_gap"][0, -1] < 1e-8


def test_direct_training_is_told_the_scale(tiny_policy, tmp_path):
    def made(scale, **given):
        options = LearnerOptions(learner="direct", **given)
        return options.make(tiny_policy, PLAIN, tmp_path, label_scale=scale)

    learner = made(3.0)
    assert isinstance(learner, IterativeDirect)
    assert (learner.loss, learner.scale, learner.pairs) == ("dpo", 3.0, "on-policy")
    # Settings are in units of the labels and taken as they are.
    given = made(3.0, loss_settings={"beta": 0.7})
    assert (given.loss, given.scale) == (DPO(beta=0.7), None)
    pairs = made(3.0, pairs="optimistic", beta=9.0, lam=0.5).pairs
    assert isinstance(pairs, AgainstEnhancer)
    assert isinstance(pairs.enhancer, Optimistic)
    assert (pairs.radius.beta, pairs.radius.lam, pairs.radius.scale) == (9.0, 0.5, 3.0)


def test_only_estimates_of_a_reward_are_told_the_scale(tiny_policy, tmp_path):
    """A game's payoff is the probability of the labels, whatever made it."""
    radii = {
        name: LearnerOptions(learner=name, lam=0.3)
        .make(tiny_policy, PLAIN, tmp_path, label_scale=3.0)
        .radius
        for name in ("online", "nash")
    }
    assert {name: r.scale for name, r in radii.items()} == {"online": 3.0, "nash": 1.0}
    assert {r.lam for r in radii.values()} == {0.3}
    assert np.isfinite([r.beta for r in radii.values()]).all()
