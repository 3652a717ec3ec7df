"""Run theorem studies side by side into one folder, so that an interrupted run can go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import loky
from tqdm import tqdm

from rlhf_theory.arrays import library
from rlhf_theory.engine.backends import make_backend
from rlhf_theory.engine.execution import execute
from rlhf_theory.engine.progress import Progress
from rlhf_theory.errors import check_choice
from rlhf_theory.store import claim_folder
from rlhf_theory.theorems.card import Mode, Theorem, Verdict
from rlhf_theory.theorems.gathering import Gathering
from rlhf_theory.theorems.stored import CardRun, stored_verdict, write_verdict
from rlhf_theory.theorems.tasks import PartTask, VerdictTask, parts_of

Say = Callable[[str], None]


def check_device(device: str, theorems: Sequence[Theorem]) -> None:
    """Raise ``ValueError`` unless ``device`` is there and every study can compute on it."""
    check_choice("device", device, ("cpu", "cuda"))
    if device == "cpu":
        return
    try:
        xp = library("torch")
    except ImportError as error:
        message = f"--device cuda needs torch; {error}"
        raise ValueError(message) from error
    if not xp.cuda.is_available():
        message = "--device cuda needs a CUDA device; torch finds none here. Leave --device out."
        raise ValueError(message)
    on_host = [t.name for t in theorems if device not in t.devices]
    if on_host:
        message = (
            f"--device cuda must be supported by every chosen study; {', '.join(on_host)} "
            "compute with NumPy on the host. Leave --device out for these."
        )
        raise ValueError(message)


def reproduce(
    theorems: Sequence[Theorem],
    out: Path,
    *,
    mode: Mode = "quick",
    seed: int = 0,
    replicas: int | None = None,
    jobs: int | None = None,
    backend: str | None = None,
    options: Mapping[str, object] | None = None,
    max_time: float | None = None,
    device: str = "cpu",
    say: Say | None = None,
) -> list[Verdict]:
    """Run theorem studies and store what they find; studies that are stored already are only read.

    A study is cut into parts, which any number of workers compute; what is measured stays, however
    the run ends, and the same call goes on from there.

    Parameters
    ----------
    theorems
        What to run.
    out
        Folder; each theorem gets a folder of its name in it.
    mode
        Quick or full sweeps.
    seed
        Seed of all draws.
    replicas
        Number of replicas instead of the sweep's.
    jobs
        Workers; None takes one per core. Results do not depend on it.
    backend, options
        Where parts are computed, of ``rlhf-theory list backends``, and its settings; None takes
        processes of this machine, or this process for a single worker.
    max_time
        Seconds after which no part is started.
    device
        ``cpu``, or ``cuda`` for studies that can compute there.
    say
        Called with one line per study that ends; None for silence.

    Returns
    -------
    The verdicts in the order of ``theorems``. A study that raised has a failed verdict; one that
    has not come to its end, since the time was over or the disk full, has none.

    Raises
    ------
    ValueError
        If an argument cannot work or ``out`` holds something else. Nothing is written then.
    KeyboardInterrupt
        At Ctrl-C; what is measured is kept.
    """
    for name, value in (("replicas", replicas), ("jobs", jobs)):
        if value is not None and value < 1:
            message = f"{name} must be at least 1; got {value}."
            raise ValueError(message)
    check_device(device, theorems)
    workers = jobs or loky.cpu_count()
    place = make_backend(backend or ("serial" if workers == 1 else "local"), options)
    elsewhere = {} if device == "cpu" else {"device": device}
    runs = [
        CardRun(
            theorem=t,
            folder=out / t.name,
            sweep={**t.sweep(mode, replicas), **elsewhere},
            mode=mode,
            seed=seed,
        )
        for t in theorems
    ]
    study = {"made_by": "rlhf-theory reproduce", "mode": mode, "seed": seed, "replicas": replicas}
    parts = {run.name: parts_of(run) for run in runs}
    claim_folder(out, {**study, **elsewhere})

    cards = _Cards(out, parts, say or (lambda _line: None))
    for run in runs:
        if (stored := stored_verdict(run)) is not None:
            cards.take(run.name, stored, "stored already")
    left = [run for run in runs if run.name not in cards.found]
    # The longest first, so that none of them is still running alone at the end.
    left.sort(key=lambda run: -run.theorem.cost)
    tasks = [task for run in left for task in parts[run.name]]
    with Progress(len(tasks) + len(left), unit="part", say=say, quiet=say is None) as progress:
        tally = execute(
            tasks,
            place,
            jobs=min(workers, max(len(tasks), 1)),
            folder=cards,
            progress=progress,
            max_time=max_time,
        )
    if tally.stopped and say is not None:
        say(tally.stopped)
    return [cards.found[t.name] for t in theorems if t.name in cards.found]


class _Cards(Gathering):
    """The folder of many studies: asks for the verdict of each when its last part has ended."""

    def __init__(self, path: Path, parts: Mapping[str, tuple[PartTask, ...]], say: Say) -> None:
        super().__init__(path, parts)
        self.say = say
        self.found: dict[str, Verdict] = {}

    def last(self, group: str, error: str) -> VerdictTask:
        """Return the task of a verdict."""
        parts = self.groups[group]
        return VerdictTask(run=parts[0].run, parts=parts, error=error)

    def take(self, group: str, about: object, remark: str = "") -> None:
        """Take in a verdict and say so."""
        if not isinstance(about, Verdict):
            message = f"The verdict of {group} must be one; got {type(about).__name__}."
            raise TypeError(message)
        self.found[group] = about
        result = "raised" if about.error else "holds" if about.passed else "FAILS"
        time = remark or f"{about.seconds:.1f} s"
        with tqdm.external_write_mode():
            self.say(f"[{len(self.found)}/{len(self.groups)}] {group}: {result} ({time})")

    def give_up(self, group: str, error: str) -> None:
        """Give the study a failed verdict here, which no worker could."""
        run = self.groups[group][0].run
        verdict = run.verdict({"error": error})
        write_verdict(run.folder, verdict)
        self.take(group, verdict)
