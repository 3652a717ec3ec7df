"""The report: reads the folders of theorem studies, writes one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_theory.register import found
from rlhf_theory.report.filters import facets
from rlhf_theory.report.parts import render
from rlhf_theory.report.sections import Drawing, Sheet, draw
from rlhf_theory.report.words import duration, interval, pretty
from rlhf_theory.store import folder_study
from rlhf_theory.theorems.card import Verdict
from rlhf_theory.theorems.stored import code_of_card, read_verdict
from rlhf_theory.theorems.trials import TABLE, trials_of


@dataclass(frozen=True)
class _Card:
    verdict: Verdict
    drawing: Drawing
    notices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """``holds``, ``fails`` or ``raised``: also the name of its colour."""
        if self.verdict.error:
            return "raised"
        return "holds" if self.verdict.passed else "fails"

    @property
    def tags(self) -> dict[str, str]:
        """What the filters of the page go by."""
        return {"verdict": self.state, "mode": self.verdict.mode}


def read_verdicts(out: Path) -> list[Verdict]:
    """Return the verdicts stored in a folder, in the order of the register.

    ``ValueError`` if the folder holds none.
    """
    stored = [read_verdict(path.parent) for path in sorted(out.glob("*/verdict.json"))]
    verdicts = [v for v in stored if v is not None]
    if not verdicts:
        message = (
            f"{out} must be a folder that `rlhf-theory reproduce` or `run` has written; "
            "it holds no verdict. Run `rlhf-theory reproduce --out DIR` first."
        )
        raise ValueError(message)
    place = {name: i for i, name in enumerate(found("theorem"))}
    return sorted(verdicts, key=lambda v: (place.get(v.name, len(place)), v.name))


def _card(verdict: Verdict, folder: Path, key: str) -> _Card:
    sheet = Sheet(folder=folder, title=verdict.title, caption=verdict.caption)
    return _Card(verdict, draw(sheet, key, verdict.name), *_tried(verdict, folder.parent))


def _tried(verdict: Verdict, out: Path) -> tuple[dict[str, Sequence[str]], dict[str, str]]:
    """Return sabotages with the checks that notice them, and why the others are not noticed.

    Nothing of a card that is another one by now, or that nobody has tried.
    """
    known = found("theorem").get(verdict.name)
    theorem = None if known is None else known.thing
    if theorem is None or (theorem.version, code_of_card(theorem)) != (
        verdict.version,
        verdict.code,
    ):
        return {}, {}
    tried = trials_of(theorem, out / TABLE.name) or trials_of(theorem)
    if tried is None:
        return {}, {}
    noticed = {name: of for name, of in tried.noticed.items() if of}
    return noticed, {s.name: s.loose for s in theorem.sabotages if s.loose}


def _facts(verdicts: Sequence[Verdict], study: dict[str, object]) -> list[tuple[str, str]]:
    """Return what is the same for the whole run, for the head of the page."""
    modes = " and ".join(sorted({v.mode for v in verdicts}))
    replicas = sorted({v.replicas for v in verdicts})
    few, many = replicas[0], replicas[-1]
    seeds = ", ".join(str(s) for s in sorted({v.seed for v in verdicts}))
    versions: dict[str, str] = {}
    for verdict in verdicts:
        versions.update(verdict.versions)
    return [
        ("Mode", modes),
        ("Replicas", pretty(few) if few == many else interval((few, many))),
        ("Seed", seeds),
        ("Device", str(study.get("device", "cpu"))),
        ("Computing time", duration(sum(v.seconds for v in verdicts))),
        *versions.items(),
    ]


def write_report(out: Path) -> Path:
    """Write ``OUT/report.html`` from the verdicts and figures in a folder; return its path.

    The page holds everything it shows and needs no network.

    Raises
    ------
    ValueError
        If the folder holds no verdict.
    """
    verdicts = read_verdicts(out)
    cards = [_card(v, out / v.name, f"f{k}") for k, v in enumerate(verdicts, start=1)]
    return render(
        out / "report.html",
        "page.html",
        title="Theorems of RLHF, reproduced",
        cards=cards,
        choices=facets(
            {"verdict": "Verdict", "mode": "Run"},
            [card.tags for card in cards],
            {"raised": "did not run"},
        ),
        facts=_facts(verdicts, folder_study(out) or {}),
        n_held=sum(v.passed for v in verdicts),
        quick=any(v.mode == "quick" for v in verdicts),
    )
