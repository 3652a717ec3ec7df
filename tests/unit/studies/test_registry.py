"""Entries by name, from plain data to objects and back."""

import importlib.metadata
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import rlhf_theory as rt
from rlhf_theory import register
from rlhf_theory.engine.sources import code_of
from rlhf_theory.estimators.confidence import Adaptive, Scaled
from rlhf_theory.register import found
from rlhf_theory.studies import entries, registry
from rlhf_theory.studies.resolve import Resolver
from rlhf_theory.studies.signatures import settings_of
from tests.helpers.registered import built_in, examples


def resolved(role, given):
    mistakes = []
    spec = Resolver(lambda path, text: mistakes.append((path, text))).entry(role, given)
    assert not mistakes
    return spec


@pytest.mark.parametrize("kind", found("learner"))
def test_a_learner_survives_the_way_through_plain_data(kind):
    spec = resolved("learner", {"kind": kind})
    learner = registry.build_learner(spec)
    target = found("learner")[kind].target
    assert type(learner) is target
    assert repr(learner) == repr(target())  # the defaults are those of the class
    assert registry.spec_of(learner) == spec
    assert registry.is_online(spec) == hasattr(target, "step")


@pytest.mark.parametrize("kind", built_in("world"))
def test_a_world_from_plain_data_is_the_world_of_the_function(kind):
    spec = resolved("world", {"kind": kind})
    made = registry.build_world(spec, 3)
    plain = built_in("world")[kind].target(replicas=3)
    assert made.n_replicas == 3
    assert dict(made.settings) == dict(plain.settings)
    np.testing.assert_array_equal(made.preferences, plain.preferences)
    np.testing.assert_array_equal(made.population[0].phi, plain.population[0].phi)


@pytest.mark.parametrize("role", ["enhancer", "radius", "planner", "policy"])
def test_every_part_survives_the_way_through_plain_data(role):
    for kind, entry in found(role).items():
        mistakes = []
        resolver = Resolver(lambda path, text: mistakes.append((path, text)))  # noqa: B023
        spec = resolver._settings(entry, {"kind": kind, **entry.facts.examples[0]}, ("part",))
        assert not mistakes, (kind, mistakes)
        assert registry.spec_of(registry.build_component(role, spec)) == spec


def test_nested_objects_become_nested_specs():
    learner = rt.OnlineIterative(
        radius=Scaled(Adaptive(theta_bound=2.0), 0.1), enhancer=rt.enhancers.Uniform()
    )
    spec = registry.spec_of(learner)
    assert spec["radius"]["kind"] == "scaled"
    assert spec["radius"]["rule"] == {
        "kind": "adaptive",
        "version": 1,
        "theta_bound": 2.0,
        "delta": 0.05,
        "lam": 1.0,
        "z_max": None,
        "scale": 1.0,
    }
    assert repr(registry.build_learner(spec)) == repr(learner)


def test_only_planners_for_the_model_of_a_learner_are_offered():
    """A planner of rewards cannot plan for preferences; the type hints say which is which."""
    own = {k for k, entry in found("planner").items() if entry.source == "built in"}
    known = {
        kind: own & set(settings_of(entries.find("learner", kind))["planner"].slot.known())
        for kind in ("online-iterative", "nash-game", "offline-pessimistic")
    }
    assert known["online-iterative"] == {"gibbs", "argmax", "best-of-n", "chi-squared"}
    assert known["nash-game"] == {"nash", "pessimistic-nash", "unregularised-nash"}
    assert known["offline-pessimistic"] == own


def test_unknown_kinds_list_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown world 'linaer'.*'linear'.*Did you mean 'linear'"
    ):
        entries.find("world", "linaer")
    with pytest.raises(
        ValueError,
        match=r"^learner 'no_such_module:Thing' cannot be loaded: ModuleNotFoundError: No module "
        r"named 'no_such_module'; looked in the working directory and in what is installed\.$",
    ):
        registry.build_learner({"kind": "no_such_module:Thing"})
    with pytest.raises(ValueError, match=r"Did you mean 'rlhf_theory:OnlineIterative'\?$"):
        entries.find("learner", "rlhf_theory.OnlineIterative")
    with pytest.raises(ValueError, match=r"AttributeError.* mean 'rlhf_theory:OnlineIterative'\?$"):
        registry.build_learner({"kind": "rlhf_theory:OnlineIteratve"})
    with pytest.raises(ValueError, match="cannot be loaded: AttributeError"):
        registry.build_learner({"kind": "rlhf_theory:NoSuchLearner"})
    with pytest.raises(ValueError, match="must be a class or a function; got str"):
        registry.build_learner({"kind": "rlhf_theory.studies.registry:__doc__"})


def test_another_version_is_refused():
    spec = resolved("learner", {"kind": "offline-greedy"})
    with pytest.raises(ValueError, match="version 1 here, and the study was resolved with"):
        registry.build_learner({**spec, "version": 7})


def test_what_cannot_be_written_down_says_so():
    with pytest.raises(ValueError, match="object of a dataclass, or a table"):
        registry.spec_of(object())
    with pytest.raises(
        ValueError, match=r"planner of OnlineIterative: must be an object of a data"
    ):
        registry.spec_of(rt.OnlineIterative(planner=lambda *_: None))

    @dataclass(frozen=True)
    class Local:
        pass

    with pytest.raises(ValueError, match="workers could not import it"):
        registry.spec_of(Local())
    Local.__module__, Local.__qualname__ = "__main__", "Eps"
    said = (
        "^Eps is defined in a notebook or a script: write it into a file such as eps.py and import "
        r"it\. `rt.run` takes it as it is\.$"
    )
    with pytest.raises(ValueError, match=said):
        registry.spec_of(Local())
    with pytest.raises(ValueError, match=r"must be finite; got nan"):
        registry.plain(float("nan"))
    with pytest.raises(ValueError, match="must be plain data"):
        registry.plain([np.zeros(2)])


def test_plain_data_do_not_depend_on_how_they_came():
    values = {"a": (1, np.int64(2)), "b": np.float64(0.5), "c": [-0.0]}
    assert registry.plain(values) == {"a": [1, 2], "b": 0.5, "c": [0.0]}
    assert str(registry.plain(-0.0)) == "0.0"
    assert type(registry.plain(np.bool_(True))) is bool


OUTSIDE = """
from dataclasses import dataclass, field
from typing import ClassVar

import rlhf_theory as rt
from rlhf_theory.core import Enhancer


@dataclass(frozen=True, kw_only=True)
class Outside:
    powers: tuple[float, ...] = (1.0, 2.0)
    mixed: int | float = 1
    explorers: tuple[Enhancer, ...] = field(default_factory=lambda: (rt.enhancers.Uniform(),))

    VERSION: ClassVar[int] = 3

    def __call__(self, problem, data, key):
        raise NotImplementedError


world = lambda *, replicas, dim=2: "no world"
forgetful = lambda *, dim=2: None
clash = lambda *, replicas, label="x": None
online = lambda *, replicas, online=True: None
grid = lambda *, replicas, grid=3: None
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module from elsewhere."""
    (tmp_path / "outside_module.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("outside_module")
    del sys.modules["outside_module"]
    entries.refresh()


def test_a_learner_by_address_has_its_version_in_the_spec(outside):
    spec = resolved("learner", {"kind": "outside_module:Outside", "powers": [1, 2, 3]})
    assert spec == {
        "kind": "outside_module:Outside",
        "version": 3,
        "code": code_of("outside_module").text,
        "powers": [1.0, 2.0, 3.0],
        "mixed": 1.0,  # where a fraction is allowed 1 is 1.0: one result, one key
        "explorers": [{"kind": "uniform", "version": 1}],
    }
    learner = registry.build_learner(spec)
    assert learner.powers == (1.0, 2.0, 3.0)
    assert isinstance(learner.explorers[0], rt.enhancers.Uniform)
    assert registry.spec_of(learner) == spec


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("world", "must return a World; got str"),
        ("forgetful", "must take `replicas`"),
        ("clash", "has a setting 'label', a word that studies keep for themselves"),
        ("online", "has a setting 'online', a word that studies keep"),
        ("grid", "has a setting 'grid', a word that studies keep"),
    ],
)
def test_worlds_that_do_not_suit_a_study_say_why(outside, name, message):
    found = []
    kind = {"kind": f"outside_module:{name}"}
    assert Resolver(lambda path, text: found.append(text)).entry("world", kind) is None
    assert len(found) == 1
    assert message in found[0]


def test_broken_plugins_are_quiet_until_they_are_asked_for(monkeypatch):
    broken = importlib.metadata.EntryPoint(
        "broken", "no_such_package:Learner", "rlhf_theory.learners"
    )
    shadow = importlib.metadata.EntryPoint(
        "offline-greedy", "no_such_package:Learner", "rlhf_theory.learners"
    )
    monkeypatch.setattr(
        register, "entry_points", lambda group: [broken, shadow] if "learn" in group else []
    )
    entries.refresh()
    try:
        assert "broken" in found("learner")
        assert "cannot be loaded" in found("learner")["broken"].problem
        assert found("learner")["offline-greedy"].problem == ""  # names here stay ours
        resolved("learner", {"kind": "same-law-pairs"})
        with pytest.raises(ValueError, match=r"broken' .*cannot be loaded: ModuleNotFoundError"):
            registry.build_learner({"kind": "broken"})
    finally:
        entries.refresh()


def test_every_learner_runs_in_every_world():
    """Two rounds, or two numbers of pairs, with finite metrics: 64 combinations today."""
    for kind in built_in("world"):
        world = registry.build_world(resolved("world", {"kind": kind}), 2)
        metric = "gap" if world.reward is not None else "exploitability"
        for name in {given["kind"] for given in examples("learner").values()}:
            spec = resolved("learner", {"kind": name})
            length = {"rounds": 2} if registry.is_online(spec) else {"pairs": [5, 40]}
            trace = rt.run(registry.build_learner(spec), world, **length)
            assert np.isfinite(trace[metric]).all(), (kind, name)


def test_modules_in_the_working_directory_are_suggested(tmp_path, monkeypatch):
    (tmp_path / "my_learners_here.py").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ValueError, match=r"Did you mean 'my_learners_here:Mixed'\?$"):
        registry.build_learner({"kind": "my_learner_here:Mixed"})
    entries.refresh()
