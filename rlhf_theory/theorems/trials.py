"""What the verdicts of cards notice: every card with each of its sabotages, and right ones too."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import loky
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from rlhf_theory.engine.attempts import undisturbed
from rlhf_theory.engine.backends import make_backend
from rlhf_theory.engine.exceptions import fills_disk
from rlhf_theory.engine.execution import execute
from rlhf_theory.engine.progress import Progress
from rlhf_theory.engine.tasks import Made, failure_path
from rlhf_theory.store import canonical, claim_folder, read_json, seal, unseal, write_json
from rlhf_theory.theorems.card import Check, Sabotage, Theorem, Verdict, sweep_data
from rlhf_theory.theorems.gathering import Gathering
from rlhf_theory.theorems.reproduce import Say
from rlhf_theory.theorems.stored import CardRun, Found, code_of_card
from rlhf_theory.theorems.tasks import PartTask, parts_of

FURTHER_SEEDS = (1, 2, 3)
"""Seeds of trials of the right algorithm; its own studies and the sabotages have seed 0."""

TABLE = Path(__file__).with_name("sabotages.json")
"""What was found for the cards of this package, with the versions they had. A table of this name in
a folder of verdicts is of the cards of its user."""


# ----------------------------------------------------------------------------- what is found


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What the verdict of a card noticed.

    Attributes
    ----------
    version, code
        Of the card, as in its verdicts.
    digest
        Of its quick sweep and its sabotages: of another digest, what was found is of another card.
    right
        From a seed to the checks that failed without any sabotage.
    noticed
        From a sabotage to the checks that failed with it.
    errors
        From a trial to what it raised: nothing is known of it.
    """

    version: int
    code: str
    digest: str
    right: Mapping[str, Sequence[str]]
    noticed: Mapping[str, Sequence[str]]
    errors: Mapping[str, str]

    def problems(self, theorem: Theorem) -> list[str]:
        """Return what must not be, a sentence each: a verdict that notices nothing, or too much."""
        found = [f"{trial}: raised {error}" for trial, error in self.errors.items()]
        found += [f"right, seed {s}: {'; '.join(of)}" for s, of in self.right.items() if of]
        for sabotage in theorem.sabotages:
            checks = self.noticed.get(sabotage.name)
            if checks is None:
                found.append(f"{sabotage.name}: not tried")
            elif not checks and not sabotage.loose:
                found.append(f"{sabotage.name}: no check notices it")
            elif checks and sabotage.loose:
                found.append(f"{sabotage.name}: noticed, though it is said to be within the bound")
        return found


def digest(theorem: Theorem) -> str:
    """Return the digest of what the trials of a card depend on, beside its version."""
    about = {
        "sweep": sweep_data(theorem.quick),
        "sabotages": {s.name: sweep_data(s.settings) for s in theorem.sabotages},
    }
    return hashlib.sha256(canonical(about).encode()).hexdigest()[:20]


def read_trials(path: Path | None = None) -> dict[str, Tried]:
    """Return what was found for every card in a table, this package's own unless another is given.

    None where there is no table.

    Raises
    ------
    ValueError
        If it is no such table.
    """
    path = TABLE if path is None else path
    if not path.exists():
        return {}
    try:
        return {name: Tried(**found) for name, found in json.loads(path.read_text()).items()}
    except (TypeError, ValueError, AttributeError) as error:
        message = f"{path} must be a table as `rlhf-theory sabotage` writes it; {error}."
        raise ValueError(message) from error


def trials_of(theorem: Theorem, path: Path | None = None) -> Tried | None:
    """Return what was found for a card as it is now, or None where that has not been tried."""
    found = read_trials(path).get(theorem.name)
    if found is None:
        return None
    now = (theorem.version, code_of_card(theorem), digest(theorem))
    return found if (found.version, found.code, found.digest) == now else None


def write_trials(found: Mapping[str, Tried], path: Path) -> None:
    """Put what was found for some cards into a table, in place of what it says of them."""
    rows = {name: asdict(tried) for name, tried in (read_trials(path) | dict(found)).items()}
    write_json(path, rows)


# ----------------------------------------------------------------------------- tasks


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """A trial all of whose parts have ended, to be judged.

    Attributes
    ----------
    run
        The card with the settings of the trial.
    parts
        Its parts, some of them those of the right run.
    error
        What a part has raised; there is nothing to judge then.
    """

    run: CardRun
    parts: tuple[PartTask, ...]
    error: str = ""
    at_once: ClassVar[tuple[str, int] | None] = None

    @property
    def name(self) -> str:
        """The theorem and the trial."""
        return f"{self.run.called}: verdict"

    @property
    def path(self) -> Path:
        """The verdict."""
        about = {**self.run.identity, "parts": [part.path.name for part in self.parts]}
        key = hashlib.sha256(canonical(about).encode()).hexdigest()[:20]
        return self.run.folder / "trials" / f"{key}.json"

    def make(self) -> Made:
        """Judge; a trial that raises gets a failed verdict without checks, made anew next time."""
        if (stored := self.stored()) is not None:
            return Made("skipped", self.path.stat(), stored)
        self.run.check_code()
        found, start = Found(error=self.error), time.perf_counter()
        if not self.error:
            try:
                with undisturbed(), threadpool_limits(limits=1):
                    found["checks"] = self._checks()
            except Exception as error:
                if fills_disk(error, self.run.folder):
                    raise
                found["error"] = traceback.format_exc()
        found["seconds"] = time.perf_counter() - start
        verdict = self.run.verdict(found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, seal(verdict.to_json()))
        failure_path(self.path).unlink(missing_ok=True)
        return Made("done", self.path.stat(), verdict)

    def stored(self) -> Verdict | None:
        """Return the verdict that is there, or None where it has to be made."""
        try:
            found = Verdict.from_json(unseal(read_json(self.path) or {}))
        except ValueError:
            return None
        return None if found.error else found

    def _checks(self) -> list[Check]:
        theorem, sweep = self.run.theorem, self.run.sweep
        return theorem.judge(theorem.gather([p.read()[0] for p in self.parts], sweep), sweep)


class _Trials(Gathering):
    """The folder of trials: asks for the verdict of each when its last part has ended."""

    def __init__(self, path: Path, tasks: Mapping[str, TrialTask], say: Say) -> None:
        super().__init__(path, {name: task.parts for name, task in tasks.items()})
        self.tasks, self.say = tasks, say
        self.found: dict[str, Verdict] = {}

    def last(self, group: str, error: str) -> TrialTask:
        """Return the task of a verdict."""
        task = self.tasks[group]
        return TrialTask(run=task.run, parts=task.parts, error=error)

    def take(self, group: str, about: object) -> None:
        """Take in a verdict and say so."""
        if not isinstance(about, Verdict):
            message = f"The verdict of {group} must be one; got {type(about).__name__}."
            raise TypeError(message)
        self.found[group] = about
        failed = len(_failed(about))
        result = "raised" if about.error else f"{failed} of {len(about.checks)} checks fail"
        with tqdm.external_write_mode():
            self.say(f"[{len(self.found)}/{len(self.tasks)}] {group}: {result}")

    def give_up(self, group: str, error: str) -> None:
        """Take up that no worker could judge a trial."""
        self.take(group, self.tasks[group].run.verdict({"error": error}))


# ----------------------------------------------------------------------------- the run


def try_cards(
    theorems: Sequence[Theorem],
    out: Path,
    *,
    seeds: Iterable[int] = FURTHER_SEEDS,
    jobs: int | None = None,
    backend: str | None = None,
    options: Mapping[str, object] | None = None,
    max_time: float | None = None,
    say: Say | None = None,
) -> dict[str, Tried]:
    """Judge quick sweeps of cards with each of their sabotages, and without any at further seeds.

    What a sabotage does not touch is computed once, with the right settings. What is there already
    is not computed again.

    Parameters
    ----------
    theorems
        Cards to try.
    out
        Folder for what is measured and judged.
    seeds
        Seeds of the right algorithm; sabotages have seed 0.
    jobs, backend, options, max_time, say
        As in `reproduce`.

    Returns
    -------
    What was found for every card all of whose trials came to their end, by its name.

    Raises
    ------
    ValueError
        If an argument cannot work or ``out`` holds something else. Nothing is written then.
    """
    workers = jobs or loky.cpu_count()
    place = make_backend(backend or ("serial" if workers == 1 else "local"), options)
    seeds = tuple(seeds)
    trials = {t.name: _trials(t, out, seeds) for t in theorems}
    tasks = {task.run.called: task for of in trials.values() for task in of.values()}
    claim_folder(out, {"made_by": "rlhf-theory sabotage"})
    folder = _Trials(out, tasks, say or (lambda _line: None))
    # What was judged already needs none of its parts.
    for name, task in tasks.items():
        if (stored := task.stored()) is not None:
            folder.take(name, stored)
    left = [task for name, task in tasks.items() if name not in folder.found]
    parts = list({part.name: part for task in left for part in task.parts}.values())
    parts.sort(key=lambda part: -part.run.theorem.cost)
    with Progress(len(parts) + len(left), unit="part", say=say, quiet=say is None) as progress:
        tally = execute(
            parts,
            place,
            jobs=min(workers, max(len(parts), 1)),
            folder=folder,
            progress=progress,
            max_time=max_time,
        )
    if tally.stopped and say is not None:
        say(tally.stopped)
    return {
        t.name: _tried(t, trials[t.name], folder.found)
        for t in theorems
        if all(task.run.called in folder.found for task in trials[t.name].values())
    }


def _trials(theorem: Theorem, out: Path, seeds: Sequence[int]) -> dict[str | int, TrialTask]:
    """Return the trials of a card by their seed, or by the name of their sabotage."""
    sweep, trials = theorem.sweep("quick"), dict[str | int, TrialTask]()

    def run(seed: int, variant: str, settings: Mapping[str, object]) -> CardRun:
        return CardRun(
            theorem=theorem,
            folder=out / theorem.name,
            sweep={**sweep, **settings},
            mode="quick",
            seed=seed,
            variant=variant,
        )

    for seed in seeds:
        right = run(seed, f"right, seed {seed}", {})
        trials[seed] = TrialTask(run=right, parts=parts_of(right))
    shared = {part.part.label: part for part in parts_of(run(0, "right, seed 0", {}))}
    for sabotage in theorem.sabotages:
        wrong = run(0, sabotage.name, sabotage.settings)
        own = [_shared(sabotage, part, shared) for part in parts_of(wrong)]
        trials[sabotage.name] = TrialTask(run=wrong, parts=tuple(own))
    return trials


def _shared(sabotage: Sabotage, part: PartTask, right: Mapping[str, PartTask]) -> PartTask:
    """Return a part of a sabotaged sweep, or the one of the right run where they are equal."""
    return part if sabotage.touches(part.part) else right.get(part.part.label, part)


def _tried(
    theorem: Theorem, trials: Mapping[str | int, TrialTask], found: Mapping[str, Verdict]
) -> Tried:
    verdicts = {name: found[task.run.called] for name, task in trials.items()}
    errors = {str(n): v.error.strip().splitlines()[-1] for n, v in verdicts.items() if v.error}
    ended = {name: _failed(v) for name, v in verdicts.items() if not v.error}
    return Tried(
        version=theorem.version,
        code=code_of_card(theorem),
        digest=digest(theorem),
        right={str(n): failed for n, failed in ended.items() if isinstance(n, int)},
        noticed={n: failed for n, failed in ended.items() if isinstance(n, str)},
        errors=errors,
    )


def _failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]
