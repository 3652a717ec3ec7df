"""The study that `lm iterate` writes: what would be ignored is refused, the scale is told."""

import tomllib

import numpy as np
import pytest

import rlhf_theory as rt
from llm_bridge.evaluation.held_out import HeldOut
from llm_bridge.jobs.online import online_study, toml_text
from llm_bridge.planning.direct import IterativeDirect
from llm_bridge.planning.pair_rules import AgainstEnhancer
from rlhf_theory.algorithms.enhancers import Optimistic
from rlhf_theory.losses import DPO
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.rewards import LinearReward
from rlhf_theory.studies import registry
from rlhf_theory.studies.resolve import Resolver
from tests.helpers.assembled import Assembled
from tests.helpers.prompts import string_problem

LEARNERS = ("online-iterative", "iterative-direct", "nash-game")
WORLD = {"prompts": "x", "model": "m", "labels": "m:f"}


def study(learner="online-iterative", *changes, training=None, **world):
    return online_study(
        {**WORLD, **world}, rounds=2, learner=learner, changes=changes, training=training
    )


def made(learner="online-iterative", *changes, **more):
    """Build the learner of the study."""
    [table] = study(learner, *changes, **more)["learner"]

    def fails(path, text):
        raise ValueError(path, text)

    return registry.build_learner(Resolver(fails).entry("learner", table))


@pytest.mark.parametrize(
    ("learner", "change"),
    [
        ("nash-game", "loss=ipo"),
        ("nash-game", "planner.loss=ipo"),
        ("online-iterative", "planner.update=sppo"),
        ("online-iterative", "pairs=best-worst"),
        ("online-iterative", "data=latest"),
        ("iterative-direct", "radius.beta=9"),
        ("iterative-direct", "planner=gibbs"),
    ],
)
def test_settings_that_a_learner_does_not_have_are_refused(learner, change):
    with pytest.raises(ValueError, match="has a setting"):
        study(learner, change)


@pytest.mark.parametrize(
    ("learner", "changes"),
    [
        ("online-iterative", ("radius.beta=2", "radius.lam=.1", "planner.loss=ipo")),
        ("online-iterative", ("planner=gibbs", "enhancer=optimistic")),
        ("online-iterative", ("planner=imitation", "planner.draws=4")),
        ("iterative-direct", ("pairs=optimistic",)),
        ("iterative-direct", ("pairs=from-reference", "data=latest", "start=last")),
        ("nash-game", ("planner.update=sppo", "planner.step=1.0", "planner.rounds=2")),
        ("nash-game", ("planner=nash", "enhancer=on-policy")),
    ],
)
def test_settings_that_it_has_are_taken_and_the_text_is_the_study(learner, changes):
    tables = study(learner, *changes)
    assert tomllib.loads(toml_text(tables, "Words.")) == tables
    assert made(learner, *changes)


def test_the_command_chooses_what_is_dear():
    tables = {name: study(name) for name in LEARNERS}
    learners = {name: t["learner"][0] for name, t in tables.items()}
    assert {t["batch_size"] for t in learners.values()} == {256}
    assert learners["online-iterative"]["planner"]["kind"] == "dpo"
    assert learners["nash-game"]["planner"]["kind"] == "self-play"
    assert learners["nash-game"]["game"] == "probability"
    assert {t["world"][0]["refresh"] for t in tables.values()} == {True}
    assert [t["world"][0].get("game") for t in tables.values()] == [None, None, True]
    pools = study("online-iterative", "planner=gibbs", "batch_size=8")
    assert (pools["world"][0]["refresh"], pools["world"][0]["samples"]) == (False, 0)
    assert pools["learner"][0]["batch_size"] == 8
    # Several blocks, each with a model, go where the study says.
    assert "run" not in study(replicas=2)


def test_how_to_train_goes_where_it_is_read():
    how = {"steps": 3, "minibatch": 5, "lora": {"rank": 2}}
    planner = made(training=how).planner.training
    assert (planner.steps, planner.batch_size, planner.lora.rank) == (3, 5, 2)
    direct = made("iterative-direct", training=how)
    assert (direct.training, direct.batch_size) == (planner, 256)


def test_enhancers_fit_their_learner():
    with pytest.raises(ValueError, match="explores for learners of a game"):
        study("online-iterative", "enhancer=information-ratio")
    with pytest.raises(ValueError, match="explores for learners of a reward"):
        study("nash-game", "enhancer=optimistic")


def test_training_is_refused_where_nothing_is_trained():
    for given in (
        {"training": {"learning_rate": 1e-3}},
        {"training": {"steps": 5}},
        {"samples": 7},
    ):
        [name] = given.get("training", {"samples": 7})
        with pytest.raises(ValueError, match=rf"would ignore {name}\."):
            study("online-iterative", "planner=gibbs", **given)
        study(**given)
    study("online-iterative", "planner=gibbs", samples=0)


# --------------------------------------------------------------------------- the scale of labels


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_labels_of_any_scale_lead_to_the_same_optimum(scale):
    """Soft labels without noise: the estimate, and with it the gap, is right at every scale."""
    problem = string_problem(n_prompts=6, n_strings=7, pool_size=8, spread=0.5)
    reward = LinearReward(problem.table.phi.new_tensor([[1.0, -0.5, 0.7]]))
    changes = ("planner=gibbs", "batch_size=300", "radius.lam=1e-6")
    law = BradleyTerry(reward, scale)
    gold = HeldOut(problem, reward, n_samples=0)
    learner = made("online-iterative", *changes, label_scale=scale)
    trace = rt.run(
        learner,
        Assembled(problem, lambda q, _key: q.answered(law.prob(q.contexts, q.a1, q.a2)), gold),
        rounds=1,
        seed=3,
    )
    assert trace["pool_gap"][0, 0] > 0.05
    assert trace["pool_gap"][0, -1] < 1e-8


def test_direct_training_is_told_the_scale():
    learner = made("iterative-direct", label_scale=3.0)
    assert isinstance(learner, IterativeDirect)
    assert (learner.loss, learner.scale, learner.pairs) == (None, 3.0, "on-policy")
    # Settings are in units of the labels and taken as they are.
    given = made("iterative-direct", 'loss={ kind = "dpo", beta = 0.7 }', label_scale=3.0)
    assert (given.loss, given.scale) == (DPO(beta=0.7), None)
    rule = '{ kind = "against-enhancer", enhancer = "optimistic", radius = { lam = 0.5 } }'
    pairs = made("iterative-direct", f"pairs={rule}", label_scale=3.0).pairs
    assert isinstance(pairs, AgainstEnhancer)
    assert isinstance(pairs.enhancer, Optimistic)
    assert (pairs.radius.lam, pairs.radius.scale) == (0.5, 3.0)
    assert made("iterative-direct", "pairs=optimistic", label_scale=3.0).pairs.radius.scale == 3.0


def test_only_estimates_of_a_reward_are_told_the_scale():
    """A game's payoff is the probability of the labels, whatever made it."""
    radii = {
        name: made(name, "radius.lam=0.3", label_scale=3.0).radius
        for name in ("online-iterative", "nash-game")
    }
    assert {name: r.scale for name, r in radii.items()} == {
        "online-iterative": 3.0,
        "nash-game": 1.0,
    }
    assert {r.lam for r in radii.values()} == {0.3}
    assert np.isfinite([r.beta for r in radii.values()]).all()
