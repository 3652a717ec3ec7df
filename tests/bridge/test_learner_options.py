"""Named learners: what they would ignore is refused, and the scale of labels is known to them."""

import json
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
from tests.helpers.assembled import Assembled
from tests.helpers.prompts import string_problem

PLAIN = TrainingSettings()
LEARNERS = ("online-iterative", "iterative-direct", "nash-game")

FOREIGN = [
    ("nash-game", {"loss": "ipo"}),
    ("nash-game", {"planner": {"kind": "nash", "update": "sppo"}}),
    ("nash-game", {"planner": {"kind": "nash", "rounds": 5}}),
    ("nash-game", {"planner": {"loss": "ipo"}}),
    ("online-iterative", {"planner": {"update": "sppo"}}),
    ("online-iterative", {"planner": {"kind": "gibbs", "loss": "ipo"}}),
    ("online-iterative", {"pairs": "best-worst"}),
    ("online-iterative", {"data": "latest"}),
    ("online-iterative", {"reference": "last"}),
    ("iterative-direct", {"radius": {"beta": 9.0}}),
    ("iterative-direct", {"lam": 3.0}),
    ("iterative-direct", {"planner": "gibbs"}),
    ("iterative-direct", {"enhancer": "uniform"}),
]

FINE = [
    ("online-iterative", {"radius": {"beta": 2.0, "lam": 0.1}, "planner": {"loss": "ipo"}}),
    ("online-iterative", {"planner": {"loss": {"kind": "ipo", "tau": 1.0}}}),
    ("online-iterative", {"planner": "gibbs", "enhancer": "optimistic"}),
    ("online-iterative", {"planner": "imitation", "enhancer": "from-reference"}),
    ("iterative-direct", {"pairs": "optimistic"}),
    ("iterative-direct", {"pairs": "from-reference", "data": "latest", "start": "last"}),
    (
        "nash-game",
        {"planner": {"update": "sppo", "step": 1.0, "rounds": 2}, "radius": {"lam": 0.1}},
    ),
    ("nash-game", {"planner": "nash", "enhancer": "on-policy"}),
]


@pytest.mark.parametrize(("learner", "settings"), FOREIGN)
def test_settings_that_a_learner_does_not_have_are_refused(learner, settings):
    with pytest.raises(ValueError, match="has no such setting; it has"):
        LearnerOptions(learner=learner, settings=settings)


@pytest.mark.parametrize(("learner", "settings"), FINE)
def test_settings_that_it_has_are_taken(learner, settings):
    spec = LearnerOptions(learner=learner, settings=settings).identity()["learner"]
    assert json.loads(json.dumps(spec)) == spec

    def holds(whole, part):
        for name, value in part.items():
            if isinstance(value, dict):
                holds(whole[name], value)
            else:
                known = whole[name]
                assert value in (known, known.get("kind") if isinstance(known, dict) else None) or (
                    value == known["enhancer"]["kind"]
                )

    holds(spec, settings)


def test_the_loop_has_defaults_of_its_own():
    specs = {name: LearnerOptions(learner=name).spec for name in LEARNERS}
    assert {s["batch_size"] for s in specs.values()} == {256}
    assert specs["online-iterative"]["planner"]["kind"] == "dpo"
    assert specs["nash-game"]["planner"]["kind"] == "self-play"
    assert specs["nash-game"]["game"] == "probability"
    one = LearnerOptions(changes=("planner=gibbs", "radius.beta=2", "batch_size=8"))
    assert (one.spec["radius"]["beta"], one.batch_size, one.trains) == (2.0, 8, False)


def test_enhancers_fit_their_learner():
    with pytest.raises(ValueError, match="explores for learners of a game"):
        LearnerOptions(settings={"enhancer": "information-ratio"})
    with pytest.raises(ValueError, match="explores for learners of a reward"):
        LearnerOptions(learner="nash-game", settings={"enhancer": "optimistic"})


def test_what_the_loop_cannot_use_is_refused():
    with pytest.raises(ValueError, match="plays rounds; 'offline-greedy' does not"):
        LearnerOptions(learner="offline-greedy")
    with pytest.raises(ValueError, match="How to train is said by options of its own"):
        LearnerOptions(changes=("planner.settings.epochs=2.0",))


def job(**settings):
    return IterateJob(**({"file": Path("x"), "source": None, "labels": "m:f"} | settings))


def test_a_job_refuses_training_where_nothing_is_trained():
    pools = LearnerOptions(settings={"planner": "gibbs"})
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
    nash = LearnerOptions(learner="nash-game")
    for given in ({"labels": "people"}, {"labels": None, "preference": "m:f", "learner": nash}):
        job(**given)
        with pytest.raises(ValueError, match="would ignore it"):
            job(label_scale=3.0, **given)


# --------------------------------------------------------------------------- the scale of labels


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_labels_of_any_scale_lead_to_the_same_optimum(tmp_path, scale):
    """Soft labels without noise: the estimate, and with it the gap, is right at every scale."""
    problem = string_problem(n_prompts=6, n_strings=7, pool_size=8, spread=0.5)
    reward = LinearReward(problem.table.phi.new_tensor([[1.0, -0.5, 0.7]]))
    settings = {"planner": "gibbs", "batch_size": 300, "radius": {"lam": 1e-6}}
    options = LearnerOptions(settings=settings)
    law = BradleyTerry(reward, scale)
    gold = HeldOut(problem, reward, n_samples=0)
    learner = options.make(PLAIN, tmp_path, label_scale=scale)
    trace = rt.run(
        learner,
        Assembled(problem, lambda q, _key: q.answered(law.prob(q.contexts, q.a1, q.a2)), gold),
        rounds=1,
        seed=3,
    )
    assert trace["pool_gap"][0, 0] > 0.05
    assert trace["pool_gap"][0, -1] < 1e-8


def test_direct_training_is_told_the_scale(tmp_path):
    def made(scale, **settings):
        options = LearnerOptions(learner="iterative-direct", settings=settings)
        return options.make(PLAIN, tmp_path, label_scale=scale)

    learner = made(3.0)
    assert isinstance(learner, IterativeDirect)
    assert (learner.loss, learner.scale, learner.pairs) == (None, 3.0, "on-policy")
    assert (learner.folder, learner.settings) == (tmp_path, PLAIN)
    # Settings are in units of the labels and taken as they are.
    given = made(3.0, loss={"kind": "dpo", "beta": 0.7})
    assert (given.loss, given.scale) == (DPO(beta=0.7), None)
    rule = {"kind": "against-enhancer", "enhancer": "optimistic"}
    pairs = made(3.0, pairs={**rule, "radius": {"beta": 9.0, "lam": 0.5}}).pairs
    assert isinstance(pairs, AgainstEnhancer)
    assert isinstance(pairs.enhancer, Optimistic)
    assert (pairs.radius.beta, pairs.radius.lam, pairs.radius.scale) == (9.0, 0.5, 3.0)
    assert made(3.0, pairs="optimistic").pairs.radius.scale == 3.0


def test_only_estimates_of_a_reward_are_told_the_scale(tmp_path):
    """A game's payoff is the probability of the labels, whatever made it."""
    radii = {
        name: LearnerOptions(learner=name, settings={"radius": {"lam": 0.3}})
        .make(PLAIN, tmp_path, label_scale=3.0)
        .radius
        for name in ("online-iterative", "nash-game")
    }
    assert {name: r.scale for name, r in radii.items()} == {
        "online-iterative": 3.0,
        "nash-game": 1.0,
    }
    assert {r.lam for r in radii.values()} == {0.3}
    assert np.isfinite([r.beta for r in radii.values()]).all()
