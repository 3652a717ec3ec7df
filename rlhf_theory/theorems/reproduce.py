"""Run theorem studies side by side into one folder, so that an interrupted run can go on."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import loky
from tqdm import tqdm

from rlhf_theory.arrays import library
from rlhf_theory.engine.backends.pool import ONE_THREAD
from rlhf_theory.errors import check_choice
from rlhf_theory.store import claim_folder, write_json
from rlhf_theory.theorems.card import Bar, Mode, Theorem, Verdict
from rlhf_theory.theorems.stored import Task, carry_out, stored_verdict

Say = Callable[[str], None]

# Seconds between two looks at what the workers are doing.
_GLANCE = 0.5


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
    device: str = "cpu",
    say: Say | None = None,
) -> list[Verdict]:
    """Run theorem studies and store what they find; studies that are stored already are only read.

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
        Worker processes; None takes one per core. Results do not depend on it.
    device
        ``cpu``, or ``cuda`` for studies that can compute there.
    say
        Called with one line per study that ends; None for silence.

    Returns
    -------
    The verdicts in the order of ``theorems``. A study that raised has a failed verdict.

    Raises
    ------
    ValueError
        If an argument cannot work or ``out`` holds something else. Nothing is written then.
    """
    for name, value in (("replicas", replicas), ("jobs", jobs)):
        if value is not None and value < 1:
            message = f"{name} must be at least 1; got {value}."
            raise ValueError(message)
    check_device(device, theorems)
    elsewhere = {} if device == "cpu" else {"device": device}
    tasks = [
        Task(
            theorem=t,
            folder=out / t.name,
            sweep={**t.sweep(mode, replicas), **elsewhere},
            mode=mode,
            seed=seed,
        )
        for t in theorems
    ]
    study = {"made_by": "rlhf-theory reproduce", "mode": mode, "seed": seed, "replicas": replicas}
    claim_folder(out, {**study, **elsewhere})

    found: dict[str, Verdict] = {}
    log = _VerdictLog(found, len(tasks), say or (lambda _line: None))
    for task in tasks:
        stored = stored_verdict(task)
        if stored is not None:
            log.take(stored, "stored already")
    left = [task for task in tasks if task.theorem.name not in found]
    # The longest first, so that none of them is still running alone at the end.
    left.sort(key=lambda task: -task.theorem.cost)
    workers = min(jobs or loky.cpu_count(), len(left))
    if workers > 1:
        _run_side_by_side(left, workers, log)
    else:
        _run_here(left, log)
    return [found[t.name] for t in theorems]


class _VerdictLog:
    """Takes in verdicts and says so."""

    def __init__(self, found: dict[str, Verdict], total: int, say: Say) -> None:
        self.found, self.total, self.say = found, total, say

    def take(self, verdict: Verdict, remark: str = "") -> None:
        self.found[verdict.name] = verdict
        result = "raised" if verdict.error else "holds" if verdict.passed else "FAILS"
        time = remark or f"{verdict.seconds:.1f} s"
        self.say(f"[{len(self.found)}/{self.total}] {verdict.name}: {result} ({time})")


def _run_here(tasks: Sequence[Task], log: _VerdictLog) -> None:
    for task in tasks:
        bar = Bar(task.theorem.name)
        try:
            verdict = carry_out(task, bar)
        except Exception:
            verdict = task.verdict({"error": traceback.format_exc()})
        finally:
            bar.close()
        log.take(verdict)


def _run_side_by_side(tasks: Sequence[Task], workers: int, log: _VerdictLog) -> None:
    lost = _run_pool(tasks, workers, log)
    # A worker that dies takes the whole pool with it. Whoever had no verdict runs again, alone, so
    # that a study which kills its worker (by using up the memory, say) is found and the others end.
    for task in lost:
        if _run_pool([task], 1, log):
            reason = "The worker process died twice: it was killed, or used up the memory."
            verdict = task.verdict({"error": reason})
            task.folder.mkdir(parents=True, exist_ok=True)
            write_json(task.folder / "verdict.json", verdict.to_json())
            log.take(verdict)


def _run_pool(tasks: Sequence[Task], workers: int, log: _VerdictLog) -> list[Task]:
    """Run tasks in a fresh pool; return those that were lost because a worker died."""
    lost = []
    with _pool(workers) as pool, _bar(len(tasks)) as bar:
        running = {pool.submit(carry_out, task): task for task in tasks}
        pending: set[Future[Verdict]] = set(running)
        while pending:
            done, pending = wait(pending, timeout=_GLANCE, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    verdict = future.result()
                except BrokenProcessPool:
                    lost.append(running[future])
                    continue
                except Exception:
                    # Nothing that a study does gets here; a full disk does.
                    verdict = running[future].verdict({"error": traceback.format_exc()})
                bar.update()
                with tqdm.external_write_mode():
                    log.take(verdict)
            if not bar.disable:
                bar.set_postfix_str(_doing([running[future] for future in pending]))
    return lost


def _doing(tasks: Sequence[Task]) -> str:
    notes = []
    for task in tasks:
        try:
            notes.append(f"{task.theorem.name}: {task.note.read_text(encoding='utf-8')[:30]}")
        except OSError:
            continue
    return ", ".join(notes)


@contextmanager
def _pool(workers: int) -> Iterator[loky.ProcessPoolExecutor]:
    pool = loky.ProcessPoolExecutor(
        max_workers=workers, env=ONE_THREAD, initializer=_ignore_interrupt
    )
    try:
        yield pool
    except BaseException:
        # Ctrl-C must end the workers too, at once: what they have not stored runs again.
        pool.shutdown(wait=True, kill_workers=True)
        raise
    pool.shutdown(wait=True)


def _ignore_interrupt() -> None:
    """Leave Ctrl-C, which the terminal sends to all processes, to the main one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _bar(total: int) -> tqdm:
    # No rate and no time left: the studies differ too much in length for either to mean anything.
    layout = "{n_fmt}/{total_fmt} |{bar:16}| {elapsed}{postfix}"
    return tqdm(total=total, bar_format=layout, leave=False, disable=None)
