"""What a copy of the project makes of the toys of CONTRIBUTING.md; run there, answers with JSON.

::

    python -m tests.helpers.contributed theory | language OUT.json [TEST ...]

TEST are the tests that are to be tried on broken toys.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ROLES = ("loss", "world", "learner", "theorem", "backend", "plot")

HELD = {
    "theory": [
        "tests/contracts/test_worlds.py",
        "tests/contracts/test_offline_algorithms.py",
        "tests/contracts/test_cards.py",
        "tests/contracts/test_backends.py",
        "tests/contracts/test_figures.py",
        "tests/unit/test_register.py",
        "tests/unit/losses/test_by_name.py",
        "tests/unit/losses/test_comparisons.py",
        "tests/unit/losses/test_derivatives.py",
        "tests/unit/losses/test_laws.py",
        "tests/unit/studies/test_registry.py",
    ],
    "language": ["tests/bridge/test_training_oracles.py", "tests/unit/test_register.py"],
}
"""The tests that hold whatever is in the register."""


def named(*names: str) -> str:
    """Return the pattern of tests with these among their parameters."""
    return " or ".join(f"[{name}] or [{name}- or -{name}- or -{name}]" for name in names)


class Outcomes:
    """Remembers how every test ended."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.found[report.nodeid] = report.outcome


def tested(side: str, own: list[str], caught: list[str]) -> dict[str, str]:
    """Return how the tests ended that hold the toys, their own, and those for broken ones."""
    outcomes = Outcomes()
    # Further examples and array libraries only take time here.
    held = f"({named('toy', 'toy-0')}) and not (toy-1 or saved)"
    mistakes = f"({named('broken', 'broken-0')}) and ({' or '.join(caught)})"
    chosen = f"test_toy.py or ((({held}) or ({mistakes})) and not (strict or torch))"
    arguments = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=short", "-k", chosen]
    pytest.main([*arguments, *HELD[side], *own], plugins=[outcomes])
    return outcomes.found


def command(*arguments: object) -> str:
    """Return what the command prints."""
    from rlhf_theory.cli import application  # noqa: PLC0415

    done = CliRunner().invoke(application(), [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def theory() -> dict[str, Any]:
    import rlhf_theory as rt  # noqa: PLC0415
    from rlhf_theory.register import found, role_named  # noqa: PLC0415
    from rlhf_theory.studies.skeleton import json_schema  # noqa: PLC0415
    from rlhf_theory.theorems.reproduce import reproduce  # noqa: PLC0415
    from tests.golden.cases import SMALL_RECORD, small_cases  # noqa: PLC0415
    from tests.golden.store import read_text  # noqa: PLC0415

    schema = json_schema(rt.Study)
    study = rt.Study(
        name="toys",
        worlds=[{"kind": "toy", "angle": {"grid": [0.0, 0.5]}}],
        learners=[{"kind": "toy", "caution": {"grid": [1.0, 2.0]}}],
        pairs=[10, 100],
        replicas=4,
        plots=[{"kind": "toy"}],
        run={"backend": "toy"},
    )
    result = study.run("results/toys", jobs=2, quiet=True)
    figure = result.plot(study.plots[0])
    card = found("theorem")["toy"].thing
    [verdict] = reproduce([card], Path("results/cards"), mode="quick", jobs=1)
    return {
        "package": rt.__file__,
        "found": {role: found(role)["toy"].home for role in ROLES},
        "listed": {role: command("list", role_named(role).plural) for role in ROLES},
        "documents": command("list", "--update", "README.md"),
        "tried": command("sabotage", "toy", "--jobs", "1", "--out", "results/sabotages"),
        "schema": sorted(name for name in schema["$defs"] if name.endswith("-toy")),
        "words": json.dumps(schema),
        "done": [result.tally.done, result.tally.failed],
        "rows": len(result.curves),
        "gaps": result.curves["gap"].dropna().tolist(),
        "drawn": [path.name for path in figure.save("results/toy")],
        "caption": figure.caption,
        "verdict": [verdict.passed, verdict.error, [c.name for c in verdict.checks]],
        "card": sorted(path.name for path in Path("results/cards/toy").iterdir()),
        "planned": repr(rt.losses.planning("toy", 0.3)),
        "unrecorded": sorted(set(small_cases()) - set(read_text(SMALL_RECORD))),
    }


def language() -> dict[str, Any]:
    from rlhf_theory.register import found  # noqa: PLC0415

    return {
        "found": {"planner": found("planner")["toy"].home},
        "listed": {"planner": command("list", "planners")},
    }


if __name__ == "__main__":
    side, out, *names = sys.argv[1:]
    answers = theory() if side == "theory" else language()
    bridge = side == "language"
    own = [str(p) for p in Path("tests").rglob("test_toy.py") if ("bridge" in p.parts) == bridge]
    answers["tests"] = tested(side, own, names)
    Path(out).write_text(json.dumps(answers), encoding="utf-8")
