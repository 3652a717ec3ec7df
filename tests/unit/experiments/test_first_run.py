"""What a first run imports: as little as linear algebra needs."""

import subprocess
import sys

import pytest

# Each is a tenth of a second to more than a second of processor time that a run has no use for;
# `benchmarks/speed/first_run.py` measures the whole.
HEAVY = (
    "scipy.stats", "scipy.optimize", "scipy.sparse", "pandas", "pyarrow", "matplotlib", "seaborn",
    "pydantic", "typer", "jinja2", "loky", "torch",
)  # fmt: skip
SIZES = "contexts=3, actions=4, dim=2, replicas=2"
RUNS = {
    "online": f"rt.run(rt.OnlineIterative(), rt.worlds.linear({SIZES}), rounds=2)",
    "offline": f"rt.run(rt.OfflinePessimistic(), rt.worlds.linear({SIZES}), pairs=[10, 20])",
    "fresh": (
        "rt.run(rt.OnlineIterative(), rt.worlds.misspecified("
        "contexts=None, actions=4, dim=2, replicas=2), rounds=2)"
    ),
    "game": f"rt.run(rt.NashGame(), rt.worlds.intransitive({SIZES}), rounds=2)",
}


def imported(code):
    """The modules of ``HEAVY`` that a fresh process has imported after ``code``."""
    code = f"import sys, rlhf_theory as rt\n{code}\nprint([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", RUNS)
def test_a_first_run_imports_nothing_heavy(name):
    assert imported(RUNS[name]) == "[]"


def test_what_a_run_leaves_out_is_there_when_asked_for():
    # And the check above sees it.
    assert "'pandas'" in imported(f"{RUNS['online']}.summary()")
    text = "rt.worlds.hard_instances.greedy_failure_outcomes(3)"
    assert "'scipy.stats'" in imported(text)
