"""CONTRIBUTING.md is followed to the letter: each toy is one file and one test in a copy."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "CONTRIBUTING.md"

FILES = {
    "loss": 2,
    "world": 2,
    "learner": 2,
    "theorem": 2,
    "training oracle": 2,
    "backend": 3,
    "figure": 2,
}
"""How many files it takes to add one, with its test; the third of a backend has its extra."""

TORCH = importlib.util.find_spec("torch") is not None

_SECTION = re.compile(r"^## An? (.+)$", re.MULTILINE)
_BLOCK = re.compile(
    r"^```(?:python|toml)\n# (\S+\.\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def toys():
    """Return the files of every kind: path to text, the first line left out."""
    text = DOCUMENT.read_text(encoding="utf-8")
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    found = {}
    for part in parts:
        if heading := _SECTION.match(part):
            found[heading[1]] = dict(_BLOCK.findall(part))
    return found


TOYS = toys()


@dataclass(frozen=True)
class Broken:
    """A toy with a mistake, and the test that finds it."""

    kind: str
    old: str
    new: str
    caught: str


BROKEN = [
    Broken("loss", r'    r""".*?"""\n', "", "test_everything_says_in_one_line_what_it_is"),
    Broken("loss", r'    r""".*?"""\n', "", "test_names_are_those_of_the_classes"),
    Broken("world", '"angle": angle, ', "", "test_settings_are_plain_data_and_every_argument_is"),
    Broken("learner", r"return Gibbs.*\n", "return fit\n", "test_it_returns_a_solution_with_a_pol"),
    Broken("theorem", r"assumptions=\(.*?\),\n", "assumptions=(),\n", "test_a_card_says_what_it_"),
    Broken("theorem", r"assumptions=\(.*?\),\n", "assumptions=(),\n", "test_its_study_is_tested"),
    Broken("training oracle", r" +folder=self.folder,\n", "", "test_trainings_are_kept_by_content"),
    Broken("backend", "for call in calls", "for call in calls[::-1]", "test_answers_come_in_the_o"),
    Broken("figure", r"there is no band\.", "no band", "test_its_caption_says_what_is_drawn"),
]


def broken(mistake):
    """Return path and text of the first file of a toy with a mistake, under another name."""
    path, text = next(iter(TOYS[mistake.kind].items()))
    changed = re.sub(mistake.old, mistake.new, text, count=1, flags=re.DOTALL)
    assert changed != text, mistake
    return path.replace("toy.py", "broken.py"), changed.replace('"toy"', '"broken"')


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with all toys and their broken versions; nothing that was there is changed."""
    target = tmp_path_factory.mktemp("copy")
    for name in ("rlhf_theory", "llm_bridge", "tests", "docs"):
        # With what is compiled already, which saves seconds.
        shutil.copytree(ROOT / name, target / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, target / name)
    for kind in TOYS.values():
        for path, text in kind.items():
            if path == "pyproject.toml":
                old, heading = (target / path).read_text(), "[project.optional-dependencies]\n"
                assert heading in old
                (target / path).write_text(old.replace(heading, heading + text))
                continue
            assert not (target / path).exists(), path
            (target / path).write_text(text, encoding="utf-8")
    for path, text in map(broken, BROKEN):
        (target / path).write_text(text, encoding="utf-8")
    return target


def python(copy, *arguments):
    """Run Python in the copy, with the packages of the copy; return how it ended."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "MPLBACKEND": "Agg"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def answers(copy, side):
    caught = [mistake.caught for mistake in BROKEN]
    done = python(copy, "-m", "tests.helpers.contributed", side, copy / f"{side}.json", *caught)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {**json.loads((copy / f"{side}.json").read_text()), "said": done.stdout}


def test_each_kind_is_added_by_so_many_files():
    assert {kind: len(files) for kind, files in TOYS.items()} == FILES
    rows = re.findall(r"^\| ([a-z ]+) \|.*\| (\d)[^|]* \|$", DOCUMENT.read_text("utf-8"), re.M)
    assert {kind: int(files) for kind, files in rows} == FILES
    for kind, files in TOYS.items():
        code, test, *more = sorted(files, key=lambda path: path == "pyproject.toml")
        assert code.startswith(("rlhf_theory/", "llm_bridge/")), kind
        assert test.startswith("tests/"), kind
        assert more == (["pyproject.toml"] if kind == "backend" else [])
    assert len({path for files in TOYS.values() for path in files}) == sum(FILES.values())


def test_the_toys_keep_to_the_style_of_the_project(copy):
    pytest.importorskip("ruff")
    paths = [path for files in TOYS.values() for path in files if path.endswith(".py")]
    for step in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = python(copy, "-m", "ruff", *step, *paths)
        assert done.returncode == 0, done.stdout


def are_found_and_listed(theory, copy):
    assert theory["package"].startswith(str(copy))
    for role, home in theory["found"].items():
        assert f"{home.replace('.', '/')}.py" in TOYS["figure" if role == "plot" else role]
        line = next(x for x in theory["listed"][role].splitlines() if x.split()[:1] == ["toy"])
        assert len(line.split()) > 4, line
    readme = (copy / "README.md").read_text(encoding="utf-8")
    assert "| `toy` | Maximum likelihood, then the Gibbs oracle for a part of" in readme
    assert "| `toy` | What a policy lacks is its divergence" in readme


def are_in_the_schema_of_studies(theory):
    assert {"world-toy", "learner-toy"} <= set(theory["schema"])
    assert '"caution"' in theory["words"]
    assert theory["words"].count('"toy"') >= 4  # of a world, a learner, a plot and a backend


def run_in_a_study_and_are_drawn(theory):
    assert theory["done"] == [4, 0]
    assert theory["rows"] == 4 * 4 * 2
    assert len(theory["gaps"]) == theory["rows"]
    assert min(theory["gaps"]) > 0.0
    assert theory["drawn"] == ["toy.pdf", "toy.svg", "toy.csv", "toy.txt"]
    assert theory["caption"].startswith("Gap J(π*) − J(π) against pairs drawn")


def come_to_a_verdict(theory):
    passed, error, checks = theory["verdict"]
    assert passed, error
    assert len(checks) == 1
    assert "verdict.json" in theory["card"]
    assert any(name.endswith(".svg") for name in theory["card"])


def plan_and_need_no_golden_record(theory):
    assert theory["planned"] == "Toy(beta=0.3)"
    assert theory["unrecorded"] == []


def held(found, *needed):
    """Check that the tests of all toys passed, each of these among them."""
    ours = {name: end for name, end in found["tests"].items() if "broken" not in name}
    assert set(ours.values()) <= {"passed", "skipped"}, found["said"][-6000:]
    for part in needed:
        assert any(part in name for name, end in ours.items() if end == "passed"), part


def caught(found, kinds):
    for mistake in BROKEN:
        if mistake.kind in kinds:
            ends = [
                end
                for name, end in found["tests"].items()
                if "broken" in name and mistake.caught in name
            ]
            assert "failed" in ends, (mistake, found["said"][-6000:])


THEORY = [kind for kind in FILES if kind != "training oracle"]
# Losses are tested by automatic differentiation.
TESTED = THEORY if TORCH else [kind for kind in THEORY if kind != "loss"]


def test_toys_are_listed_run_and_drawn_and_held_by_the_contracts(copy):
    theory = answers(copy, "theory")  # once, for it takes a while
    are_found_and_listed(theory, copy)
    are_in_the_schema_of_studies(theory)
    run_in_a_study_and_are_drawn(theory)
    come_to_a_verdict(theory)
    plan_and_need_no_golden_record(theory)
    own = [path for kind in TESTED for path in TOYS[kind] if path.startswith("tests/")]
    contracts = ("worlds", "offline_algorithms", "cards", "backends", "figures")
    held(theory, *own, *(f"contracts/test_{name}.py" for name in contracts))
    caught(theory, TESTED)


@pytest.mark.skipif(
    not (TORCH and importlib.util.find_spec("transformers")),
    reason="the language-model side needs torch and transformers",
)
def test_the_toy_oracle_is_listed_trains_and_is_held_by_the_contracts(copy):
    language = answers(copy, "language")
    assert language["found"]["planner"] == "llm_bridge.planning.toy"
    assert re.search(r"^ *toy +Imitate the best response", language["listed"]["planner"], re.M)
    held(language, "tests/bridge/test_toy.py", "test_one_step_trains_a_policy_and_says_how_far")
    caught(language, ["training oracle"])
