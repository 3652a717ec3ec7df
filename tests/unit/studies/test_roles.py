"""What can be a learner, and what is told about the rest."""

import sys
import types
from dataclasses import dataclass
from importlib.util import spec_from_file_location

import pytest

import rlhf_theory as rt
from rlhf_theory.core import ConfidenceSet, Policy, Problem
from rlhf_theory.studies import entries
from rlhf_theory.studies.messages import StudyError
from rlhf_theory.studies.resolve import Resolver
from rlhf_theory.studies.roles import is_online_learner
from rlhf_theory.study import Study

NO_LEARNER = (
    "is no learner: an online one has `init`, `step` and `policy`, an offline one is called with "
    "(problem, data, key); got "
)


@dataclass(frozen=True)
class State:
    """Its fields are protocols with more than methods, of which no class can be a subclass."""

    confidence: ConfidenceSet
    played: Policy
    problem: Problem


@dataclass(frozen=True)
class MyEnhancer:
    width: float = 1.0

    def __call__(self, problem, pi1, confidence, key):
        return pi1


@dataclass(frozen=True)
class Offline:
    width: float = 1.0

    def __call__(self, problem, data, key, more=None):
        raise NotImplementedError


@dataclass(frozen=True)
class HasState:
    state: State | None = None

    def __call__(self, problem, data, key):
        raise NotImplementedError


class Passing:
    def __getattr__(self, name):
        return getattr(rt.OnlineIterative(), name)


def function(problem, data, key):
    raise NotImplementedError


def factory(batch_size: int = 4):
    return rt.OnlineIterative(batch_size=batch_size)


def wrong_factory(width: float = 1.0):
    return MyEnhancer(width)


@pytest.fixture
def mistakes(monkeypatch):
    module = types.ModuleType("roles_module")
    module.__spec__ = spec_from_file_location("roles_module", __file__)
    for thing in (State, MyEnhancer, Offline, HasState, Passing, function, factory, wrong_factory):
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, "roles_module", module)

    def ask(kind):
        found = []
        resolver = Resolver(lambda path, text: found.append((path, text)))
        spec = resolver.entry("learner", {"kind": kind})
        assert (spec is None) == bool(found)
        return found

    yield ask
    entries.refresh()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("roles_module:State", NO_LEARNER + "the class State."),
        ("roles_module:MyEnhancer", NO_LEARNER + "the class MyEnhancer."),
        ("rlhf_theory.algorithms.enhancers:Uniform", NO_LEARNER + "the enhancer Uniform."),
        ("rlhf_theory.planners.gibbs:Gibbs", NO_LEARNER + "the planner Gibbs."),
        ("rlhf_theory.estimators.confidence:Constant", NO_LEARNER + "the radius Constant."),
        ("math:sqrt", NO_LEARNER + "the function sqrt."),
        ("builtins:dict", NO_LEARNER + "the class dict."),
        ("roles_module:wrong_factory", NO_LEARNER + "MyEnhancer."),
        (
            "roles_module:function",
            "is no learner, but the function function: write a class with this function as "
            "`__call__(self, problem, data, key)`; its fields are the settings.",
        ),
    ],
)
def test_what_is_no_learner_is_one_mistake_before_its_settings(mistakes, kind, says):
    ((_, text),) = mistakes(kind)
    assert text == says


@pytest.mark.parametrize("name", ["Offline", "HasState", "Passing", "factory"])
def test_learners_of_every_make_are_taken(mistakes, name):
    assert mistakes(f"roles_module:{name}") == []


def test_which_learners_are_online():
    assert is_online_learner(factory())
    assert is_online_learner(Passing())
    assert not is_online_learner(Offline())
    assert not is_online_learner(rt.OfflineGreedy())
    for wrong in (MyEnhancer(), rt.enhancers.Uniform(), 3, "x"):
        with pytest.raises(ValueError, match="is no learner"):
            is_online_learner(wrong)


def test_an_enhancer_as_an_object_is_no_learner():
    with pytest.raises(StudyError) as caught:
        Study(name="x", worlds="linear", learners=[rt.enhancers.Uniform()], rounds=1)
    assert str(caught.value) == f"learners[0].kind: {NO_LEARNER}the enhancer Uniform."
