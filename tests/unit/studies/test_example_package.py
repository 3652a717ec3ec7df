"""The example package of the documentation, installed and used by name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "docs" / "example-package"

USE = """
import sys
import numpy as np
import rlhf_theory as rt
from rlhf_theory.register import found
from rlhf_theory.studies import registry
from rlhf_theory.study import Study

study = Study.from_toml(sys.argv[1], ["replicas=2", "rounds=4", "learner.batch_size=4"])
cells = study.cells()
assert len(cells) == 8
enhancers = [cell.learner["enhancer"]["kind"] for cell in cells if "enhancer" in cell.learner]
assert enhancers == ["optimistic", "rlhf_theory_example:HalfReference"] * 2
for cell in cells:
    world = registry.build_world(cell.world, cell.replicas)
    learner = registry.build_learner(cell.learner)
    assert registry.spec_of(learner) == cell.learner
    trace = rt.run(learner, world, rounds=cell.rounds, seed=cell.seed)
    assert np.isfinite(trace["gap"]).all()
    if cell.learner["kind"].endswith("xploreThenCommit") or "commit" in cell.learner["kind"]:
        explore = cell.learner["explore"]
        # It learns no more: the policy after the last round that explored is deployed for good.
        assert (trace["gap"][:, explore:] == trace["gap"][:, explore:][:, :1]).all()
print(*sorted({cell.learner["kind"] for cell in cells}), found("learner").get(
    "explore-then-commit", found("learner")["nash-game"]).source)
"""


def python(folder, *arguments, path=None):
    """Run Python as a console script does: without its folder on the path."""
    environment = {"PATH": "", "OMP_NUM_THREADS": "1"}
    flags = ["-P"]
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *flags, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def copy(tmp_path):
    target = tmp_path / "example"
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_what_a_package_brings_is_known_by_name(copy, tmp_path):
    pytest.importorskip("hatchling")
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    quiet = ["--disable-pip-version-check", "--no-cache-dir", "--target", site]
    python(tmp_path, *install, *quiet, copy)
    words = python(tmp_path, "-c", USE, copy / "study.toml", path=site)
    assert words == ["explore-then-commit", "online-iterative", "rlhf-theory-example"]


def test_a_file_in_the_working_directory_is_known_by_address(copy):
    text = (copy / "study.toml").read_text(encoding="utf-8")
    text = text.replace('"explore-then-commit"', '"rlhf_theory_example:ExploreThenCommit"')
    text = text.replace('"length-bias"\nbias', '"rlhf_theory_example:length_bias"\nbias')
    (copy / "by_address.toml").write_text(text, encoding="utf-8")
    words = python(copy, "-c", USE, "by_address.toml")
    assert words[:2] == ["online-iterative", "rlhf_theory_example:ExploreThenCommit"]


def test_its_radius_rule_holds_another(copy):
    code = """
import numpy as np
import rlhf_theory as rt
from rlhf_theory.studies import registry

rule = {"kind": "marginal-likelihood", "theta_bound": 2.0}
radius = {"kind": "rlhf_theory_example:AtMost", "most": 1.5, "rule": rule}
learner = registry.build_learner({"kind": "online-iterative", "batch_size": 4, "radius": radius})
world = rt.worlds.linear(replicas=2)
trace = rt.run(learner, world, rounds=3, seed=0)
assert np.isfinite(trace["gap"]).all()
data = world.offline_data(rt.Key(0), 50)
own, held = learner.radius, learner.radius.rule
assert (held(data, world.problem) > 1.5).all() and (own(data, world.problem) == 1.5).all()
fit = own.fit(data)
assert (fit.value == held.fit(data).value).all()
assert (own.confidence_set(fit, data).beta == 1.5).all()
print(isinstance(own, rt.confidence.ConfidenceRule))
"""
    assert python(copy, "-c", code) == ["True"]


def test_mistakes_in_its_settings_are_found_as_those_of_built_in_ones(copy):
    code = """
from rlhf_theory.study import Study
try:
    Study.from_toml("study.toml", ["learner[0].explore=-1"])
except ValueError as error:
    print(error)
"""
    text = (copy / "study.toml").read_text(encoding="utf-8")
    text = text.replace("explore-then-commit", "rlhf_theory_example:ExploreThenCommit")
    text = text.replace('kind = "length-bias"', 'kind = "rlhf_theory_example:length_bias"')
    (copy / "study.toml").write_text(text, encoding="utf-8")
    said = " ".join(python(copy, "-c", code))
    assert said == "learner[0].explore: explore must be at least 0; got -1."
