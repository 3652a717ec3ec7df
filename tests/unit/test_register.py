"""The register: what is found, what it says about itself, and whether it is what it claims."""

import re
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_theory import core, register
from rlhf_theory.commands.listing import updated
from rlhf_theory.estimators.confidence import ConfidenceRule
from rlhf_theory.register import ROLES, Role, facts_of, found
from rlhf_theory.theorems.card import Theorem
from rlhf_theory.worlds import Bandit
from tests.helpers.registered import built_in, examples, made

ROOT = Path(__file__).parents[2]
EVERY = [(role, name) for role in ROLES for name in found(role)]


@pytest.mark.parametrize(("role", "name"), EVERY)
def test_everything_says_in_one_line_what_it_is(role, name):
    entry = found(role)[name]
    assert name == name.lower()
    assert entry.problem == ""
    assert 10 < len(entry.line) <= 120
    assert ":math:" not in entry.line
    # A dataclass without a docstring has its signature as one.
    assert not entry.line.startswith(f"{getattr(entry.thing, '__name__', '?')}(")
    assert entry.facts.role == role


@pytest.mark.parametrize("name", found("learner"))
def test_learners_say_where_they_come_from(name):
    text = found("learner")[name].text
    assert "Source:" in text or "baseline" in text


@pytest.mark.parametrize(("role", "name"), [(r, n) for r, n in EVERY if r in ("learner", "world")])
def test_what_is_run_is_under_contract(role, name):
    assert found(role)[name].facts.examples


@pytest.mark.parametrize(("role", "name"), EVERY)
def test_every_setting_is_said_once_wherever_its_class_has_it_from(role, name):
    entry = found(role)[name]
    if not (isinstance(entry.thing, type) and is_dataclass(entry.thing)) or entry.facts.text:
        return
    said = [
        each
        for section in re.split(r"\n\n(?=\S[^\n]*\n---)", entry.text)
        if section.startswith("Attributes")
        for names in re.findall(r"^(\w[\w, ]*)\n    ", section, re.MULTILINE)
        for each in names.split(", ")
    ]
    assert len(said) == len(set(said)), said
    own = {f.name for f in fields(entry.thing) if f.init}
    assert own <= set(said) or "Settings as\nin" in entry.text or "Settings as in" in entry.text


PROTOCOLS = {
    "learner": (core.OnlineAlgorithm, core.OfflineAlgorithm),
    "enhancer": core.Enhancer,
    "radius": ConfidenceRule,
    "policy": core.Policy,
}


@pytest.mark.parametrize("role", PROTOCOLS)
def test_examples_are_what_their_role_says(role):
    for given in examples(role).values():
        assert isinstance(made(role, **given), PROTOCOLS[role]), given


def test_worlds_and_cards_are_what_their_role_says():
    for entry in built_in("world").values():
        assert isinstance(entry.target(**{**entry.facts.examples[0], "replicas": 2}), Bandit)
    assert all(isinstance(entry.thing, Theorem) for entry in found("theorem").values())


def test_roles_are_asked_for_by_protocols():
    for hint in (core.Enhancer, core.Planner, core.Policy):
        assert register.role_asked_by(hint) == hint.__name__.lower()
    assert register.role_asked_by(core.Radius) == register.role_asked_by(ConfidenceRule) == "radius"
    assert register.role_asked_by(core.World) is None
    assert len({role.plural for role in ROLES.values()}) == len(ROLES)


@pytest.fixture
def home(monkeypatch):
    """A module that is searched for losses, instead of the package."""
    module = ModuleType("somebodys_losses")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(ROLES, "loss", Role("losses", module.__name__))
    register.refresh()
    yield module
    register.refresh()


def test_facts_are_of_the_thing_itself(home):
    @register.register("loss", "first", {"beta": 1.0}, more=3)
    @dataclass(frozen=True)
    class First:
        """The first.

        Source: somebody; [2401.00001], Theorem 1 (v2).
        """

        beta: float

    class Heir(First):
        """Inherits settings, and no name."""

    home.First, home.Heir, home.again = First, Heir, First
    assert list(found("loss")) == ["first"]
    entry = found("loss")["first"]
    assert (entry.target, entry.source, entry.facts.more) == (First, "built in", 3)
    assert entry.line == "The first [2401.00001]"
    assert entry.paper == "somebody; [2401.00001], Theorem 1 (v2)."
    assert facts_of(Heir) is None
    assert First(1.0) == First(1.0)


def test_a_name_that_is_there_twice_is_an_error(home):
    home.one = register.register("loss", "same")(lambda: 1)
    home.two = register.register("loss", "same")(lambda: 2)
    with pytest.raises(ValueError, match=r"The loss 'same' is there twice in somebodys_losses\."):
        found("loss")


def test_names_stand_in_their_order_and_others_after(home):
    home.last = register.register("loss", "last", order=1)(lambda: 1)
    home.b = register.register("loss", "b")(lambda: 1)
    home.a = register.register("loss", "a")(lambda: 1)
    assert list(found("loss")) == ["a", "b", "last"]
    with pytest.raises(ValueError, match=r"one of a, b, last; got 'lost'\. Did you"):
        register.named("loss", "lost")


def test_packages_bring_single_things_and_homes(monkeypatch):
    theirs = ModuleType("their_losses")
    theirs.mild = register.register("loss", "mild")(lambda: 1)
    theirs.dpo = register.register("loss", "dpo")(lambda: 1)
    theirs.rule = register.register("pair-rule", "odd")(lambda: 1)

    class Point:
        dist = None

        def __init__(self, name, value):
            self.name, self.value = name, value
            self.module = value.partition(":")[0]

        def load(self):
            raise ImportError("no torch")

    groups = {
        register.HOMES: [
            Point("loss", "their_losses"),
            Point("loss", "no_such_home"),
            Point("pair-rule", "their_losses"),
        ],
        "rlhf_theory.losses": [Point("wild", "their_package:Wild")],
    }
    monkeypatch.setitem(sys.modules, "their_losses", theirs)
    monkeypatch.setattr(register, "entry_points", lambda group: groups.get(group, []))
    register.refresh()
    try:
        losses = found("loss")
        assert losses["mild"].source == "their_losses"
        assert losses["dpo"].source == "built in"  # a name that is taken stays with whoever has it
        assert "cannot be loaded: ImportError: no torch" in losses["wild"].problem
        assert "No module named 'no_such_home'" in losses["no_such_home"].problem
        assert list(found("pair-rule")) == ["odd"]
        assert register.roles() == (*ROLES, "pair-rule")
    finally:
        register.refresh()


@pytest.mark.parametrize("document", ["README.md", "docs/language-models.md"])
def test_tables_of_documents_are_current(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert "<!-- list " in text
    assert updated(text) == text, f"run: rlhf-theory list --update {document}"


def test_settings_import_neither_torch_nor_pandas():
    code = (
        "import sys; from rlhf_theory.register import found\n"
        "for role in ('loss', 'enhancer', 'planner', 'radius', 'learner', 'policy'): found(role)\n"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
