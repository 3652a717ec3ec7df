"""Every planner that trains a language model against its protocol, one step on the tiny model."""

import pickle
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.training.settings import TrainingSettings, Trains
from rlhf_theory.core import Policy, Solution
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.register import found
from rlhf_theory.studies.signatures import settings_of
from tests.helpers.rewarded import REWARD, rewarded_problem

KEY = Key(3)
QUICK = TrainingSettings(steps=1, batch_size=4, learning_rate=1e-3, progress=False)
TRAINING = [name for name, e in found("planner").items() if e.home.startswith("llm_bridge")]


@dataclass(frozen=True)
class Probability:
    """The game of the reward: the probability to win, minus 1/2."""

    def payoff(self, contexts: Any) -> Any:
        r = REWARD.rewards(contexts)
        return torch.sigmoid(r[..., :, None] - r[..., None, :]) - 0.5


def known(learner: str) -> set[str]:
    return set(settings_of(found("learner")[learner])["planner"].slot.known())


MODELS = {name: REWARD if name in known("online-iterative") else Probability() for name in TRAINING}


@pytest.fixture(params=TRAINING)
def name(request):
    return request.param


@pytest.fixture
def planner(name):
    return found("planner")[name].target.of(QUICK)


@pytest.fixture(scope="module")
def problem(tiny_model):
    return rewarded_problem(LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=4)))


def test_learners_can_name_it(name):
    assert name in known("online-iterative") | known("nash-game")


def test_its_settings_are_plain_values(planner, name):
    kind = found("planner")[name].target
    assert pickle.loads(pickle.dumps(planner)) == planner
    assert hash(kind()) == hash(kind())
    assert all(field.kw_only for field in fields(kind))
    assert issubclass(kind, Trains)  # how to train is said by the names that all others have


def test_one_step_trains_a_policy_and_says_how_far_it_is(planner, problem, name):
    plan, again = (planner(MODELS[name], problem, KEY, None) for _ in range(2))
    assert isinstance(plan, Solution)
    assert isinstance(plan.value, Policy)
    assert isinstance(plan.value, LanguageModelPolicy)
    assert tuple(plan.residual.shape) == tuple(plan.converged.shape) == (1,)
    assert float(plan.residual[0]) >= 0.0
    assert plan.n_iter >= 1
    assert plan.hint
    x, _ = problem.population(KEY, 4)
    log_pi, same, pi0 = (p.log_probs(x).numpy() for p in (plan.value, again.value, problem.policy))
    np.testing.assert_allclose(np.exp(log_pi).sum(axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(log_pi, same)
    assert np.abs(np.exp(log_pi) - np.exp(pi0)).max() > 1e-6
    assert plan.value.model.fingerprint != problem.policy.model.fingerprint


def test_trainings_are_kept_by_content(planner, problem, name, tmp_path):
    kept = replace(planner, folder=tmp_path)
    first = kept(MODELS[name], problem, KEY, None)
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders
    again = kept(MODELS[name], problem, KEY, None)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == folders
    assert again.value.model.fingerprint == first.value.model.fingerprint


def test_problems_without_a_language_model_are_refused(planner, problem, name):
    x, weights = problem.population(KEY, 1)
    finite = FiniteProblem(x.phi, x.log_pi0, weights, problem.eta, 1)
    with pytest.raises(ValueError, match="PromptProblem"):
        planner(MODELS[name], finite, KEY, None)
