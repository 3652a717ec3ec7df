"""Real faults, on whatever the engine computes: the next run ends with the bits of a calm one.

The table of `docs/studies.md` says what becomes of each; a test compares it with the names here.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_theory.engine import attempts
from rlhf_theory.store import DamageWarning, read_json
from rlhf_theory.study import Study
from tests.faults.cases import CASES, CUES, MODEL, Case
from tests.helpers import unruly

HANGS = 300.0
"""Seconds after which something hangs; nothing here takes a tenth of it."""

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "studies.md"


def until(happens: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + HANGS
    while not happens():
        assert time.monotonic() < end, f"{what} did not happen in {HANGS} s"
        time.sleep(0.01)


def waiting(cues: Path) -> list[int]:
    """Return the numbers of the processes that wait on cue."""
    return [int(path.suffix[1:]) for path in cues.glob("waits.*")]


def heeded(cues: Path) -> int:
    """Return how often the task that heeds the cues was begun."""
    path = cues / "heeded"
    return path.stat().st_size if path.exists() else 0


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A zombie whose parent has not looked yet does nothing any more.
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def errors(folder: Path) -> list[str]:
    """Return the failures that are recorded, each once."""
    records = [read_json(path) or {} for path in folder.rglob("*.failed.json")]
    return sorted({record["error"] for record in records})


def is_clean(folder: Path) -> bool:
    """Return whether nothing half-written and no mark of a dead run is left."""
    return not (folder / ".running").exists() and not list(folder.rglob("*.tmp"))


# ---- what is computed


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny model, with prompts."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    from llm_bridge.tiny import split_prompts, untrained  # noqa: PLC0415
    from rlhf_theory.randomness import Key  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("tiny") / "model"
    untrained(hidden=32, layers=2, spread=0.3).save(folder)
    (folder / "prompts.txt").write_text("\n".join(split_prompts(Key(0))[0][:6]) + "\n")
    return folder


@pytest.fixture(params=list(CASES))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "training":
        monkeypatch.setenv(MODEL, str(request.getfixturevalue("model")))
    return request.param


@pytest.fixture
def case(name: str) -> Case:
    return CASES[name]


_CALM: dict[str, dict[str, object]] = {}


@pytest.fixture
def calm(name: str, case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The results of a run in one process that nothing disturbs."""
    if name not in _CALM:
        folder = tmp_path_factory.mktemp("calm") / name
        assert case.run(folder, "serial") == ""
        _CALM[name] = case.results(folder)
    return _CALM[name]


@pytest.fixture
def cues(tmp_path: Path, calm: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cues"
    folder.mkdir()
    monkeypatch.setenv(CUES, str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the results go."""
    return tmp_path / "run"


@pytest.fixture
def start(name: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a process that leads its group, like on a terminal."""
    started: list[subprocess.Popen[str]] = []

    def begin(folder: Path, backend: str = "serial") -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.cases", name, str(folder), backend],
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(child)
        return child

    yield begin
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


# ---- workers

PACKAGES = {"dask": "distributed", "ray": "ray", "slurm": "submitit"}


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(PACKAGES.get(request.param, "loky"))
    return request.param


def on(*backends: str, cases: tuple[str, ...] = tuple(CASES)) -> list[Any]:
    return [(case, backend) for case in cases for backend in backends]


def parametrised(quick: list[Any], slow: list[Any]) -> pytest.MarkDecorator:
    late = [pytest.param(*pair, marks=pytest.mark.slow) for pair in slow if pair not in quick]
    return pytest.mark.parametrize(("name", "backend"), [*quick, *late], indirect=True)


# What a cluster does with a fault does not depend on what is computed: the study stands for all,
# but for workers that die.
EVERYWHERE = [*on("local"), *on(*PACKAGES, cases=("study",))]
LIGHT = ("study", "card")
"""Cases whose processes need no torch."""


@parametrised([*on("local", cases=LIGHT), *on(*PACKAGES, cases=("study",))], on("local", *PACKAGES))
def test_a_killed_worker_costs_nothing_and_makes_no_noise(
    case: Case,
    backend: str,
    tmp_path: Path,
    cues: Path,
    calm: dict[str, object],
    capfd: pytest.CaptureFixture[str],
) -> None:
    package = pytest.importorskip(PACKAGES.get(backend, "loky"))
    names = ("distributed", "distributed.nanny", "distributed.scheduler", "ray")
    levels = [logging.getLogger(name).level for name in names]
    (cues / "wait").touch()
    killed: list[int] = []

    def kill() -> None:
        try:
            until(lambda: bool(waiting(cues)), "the start of the task")
            killed.extend(waiting(cues))
            os.kill(killed[0], signal.SIGKILL)
        finally:
            (cues / "wait").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    capfd.readouterr()
    try:
        stopped = case.run(tmp_path / "run", backend)
    finally:
        killer.join()
    assert len(killed) == 1
    assert killed[0] != os.getpid()
    assert (stopped, errors(tmp_path / "run")) == ("", [])
    assert case.results(tmp_path / "run") == calm
    # The services that were started are gone, said nothing, and left logging as it was.
    if case is not CASES["training"]:  # its libraries show bars in any process
        assert capfd.readouterr() == ("", "")
    assert [logging.getLogger(name).level for name in names] == levels
    if backend == "ray":
        assert not package.is_initialized()
    if backend == "dask":
        with pytest.raises(ValueError, match="No global client"):
            package.get_client()


@parametrised(on("local", cases=("study",)), EVERYWHERE)
def test_a_task_that_always_kills_its_worker_is_given_up_alone(
    case: Case, backend: str, folder: Path, cues: Path, calm: dict[str, object]
) -> None:
    (cues / "die").touch()
    assert case.run(folder, backend) == ""
    assert heeded(cues) == 3
    [error] = errors(folder)
    assert "died 3 times" in error
    assert is_clean(folder)
    done = [path for path in case.done(folder) if path.name != "verdict.json"]  # failed, for now
    before = {path: path.stat().st_mtime_ns for path in done}
    assert len(before) >= 3  # the others
    (cues / "die").unlink()
    assert case.run(folder, "serial", retry_failed=True) == ""
    assert all(p.stat().st_mtime_ns == then for p, then in before.items() if p.exists())
    assert errors(folder) == []
    assert case.results(folder) == calm


def test_a_task_that_raises_leaves_the_others_alone(
    case: Case, folder: Path, cues: Path, calm: dict[str, object]
) -> None:
    (cues / "raise").touch()
    case.run(folder, "serial")
    assert errors(folder) == ["ArithmeticError: raised on cue"]
    # A training's failure is beside the training too, not only beside the block that asked for it.
    assert len(list(folder.rglob("*.failed.json"))) == 1 + (case is CASES["training"])
    assert len(case.done(folder)) >= 3
    (cues / "raise").unlink()
    assert case.run(folder, "serial", retry_failed=True) == ""
    assert errors(folder) == []
    assert case.results(folder) == calm


@parametrised(on("local", cases=LIGHT), EVERYWHERE)
def test_a_worker_with_other_versions_is_refused(
    case: Case,
    backend: str,
    folder: Path,
    calm: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "deciding_versions", lambda: {"numpy": "0.1"})
        assert "where this run has 0.1" in case.run(folder, backend)
    assert (case.done(folder), errors(folder)) == ([], [])
    assert case.run(folder, "serial") == ""
    assert case.results(folder) == calm


# ---- the main process


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_again_and_again_a_run_ends_with_the_same_bits(
    name: str, case: Case, kills: int, tmp_path: Path, calm: dict[str, object]
) -> None:
    command = [sys.executable, "-m", "tests.faults.killed", name, str(tmp_path), str(kills)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=10 * HANGS
    )
    assert ended.returncode == 0, ended.stderr
    words = ended.stdout.splitlines()[-1].split()
    assert (int(words[0]), words[1], words[3]) == (kills, "killed,", "whole")
    for k in range(int(words[2])):
        assert case.results(tmp_path / str(k)) == calm
        assert not (tmp_path / str(k) / ".running").exists()
        # A run removes what the killed were writing when it is an hour old, by these names.
        assert all(path.name.startswith(".") for path in (tmp_path / str(k)).rglob("*.tmp"))


def test_killed_in_the_middle_of_a_task_a_run_does_nothing_twice(
    name: str,
    case: Case,
    folder: Path,
    cues: Path,
    calm: dict[str, object],
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    (cues / "wait").touch()
    child = start(folder, "serial" if name == "training" else "local")
    until(lambda: bool(waiting(cues)) or child.poll() is not None, "the start of the task")
    child.kill()
    assert child.wait(HANGS) == -signal.SIGKILL, child.communicate()
    until(lambda: not any(lives(process) for process in waiting(cues)), "the end of the workers")
    (cues / "wait").unlink()
    before = {path: path.stat().st_mtime_ns for path in case.done(folder)}
    assert case.run(folder, "serial") == ""
    assert all(path.stat().st_mtime_ns == then for path, then in before.items() if path.exists())
    assert case.results(folder) == calm
    assert is_clean(folder)  # the marks of the dead are gone


@parametrised(on("local", cases=LIGHT), [*on("serial", cases=("training",)), *EVERYWHERE])
def test_interrupted_twice_a_run_leaves_no_process_and_no_half_file(
    case: Case,
    backend: str,
    folder: Path,
    cues: Path,
    calm: dict[str, object],
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    (cues / "wait").touch()
    child = start(folder, backend)
    until(lambda: bool(waiting(cues)) or child.poll() is not None, "the start of the task")
    os.killpg(child.pid, signal.SIGINT)  # what a terminal does: to all processes
    time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=HANGS)
    # The second may come so late that the run has ended and Python itself is at its end.
    assert child.returncode in (130, -signal.SIGINT), output
    assert child.returncode < 0 or "he same command goes on" in output
    until(lambda: not any(lives(process) for process in waiting(cues)), "the end of the workers")
    assert is_clean(folder)
    assert errors(folder) == []
    (cues / "wait").unlink()
    assert case.run(folder, "serial") == ""
    assert case.results(folder) == calm


def test_two_runs_in_one_folder_at_once_agree(
    name: str,
    case: Case,
    folder: Path,
    cues: Path,
    calm: dict[str, object],
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    (cues / "wait").touch()
    children = [start(folder), start(folder)]
    # Both are in the task that waits; of trainings one has the claim, the other waits for it.
    both = 1 if name == "training" else 2
    until(lambda: len(waiting(cues)) == both, "the start of the task")
    until(lambda: len(list(folder.glob(".running/*/*"))) == 2, "the start of the other")
    time.sleep(1.0 if name == "training" else 0.0)
    assert len(waiting(cues)) == both
    (cues / "wait").unlink()
    for child in children:
        output, _ = child.communicate(timeout=HANGS)
        assert child.returncode == 0, output
    assert heeded(cues) == 2  # the two trainings of replica 1, or the one task in both
    assert case.results(folder) == calm
    assert is_clean(folder)


@pytest.mark.parametrize("name", ["training"], indirect=True)
def test_the_claim_of_a_dead_run_holds_nobody(
    case: Case,
    folder: Path,
    cues: Path,
    calm: dict[str, object],
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    (cues / "wait").touch()
    first = start(folder)
    until(lambda: bool(waiting(cues)), "the start of the training")
    second = start(folder)
    until(lambda: len(list(folder.glob(".running/*/*"))) == 2, "the start of the other")
    first.kill()
    until(lambda: len(waiting(cues)) == 2, "the claim of the other")
    (cues / "wait").unlink()
    output, _ = second.communicate(timeout=HANGS)
    assert second.returncode == 0, output
    assert case.results(folder) == calm


# ---- the disk


ROOM = {"study": (24, 32), "card": (24, 60), "training": (150, 500)}
"""KiB that are left: what is written first does not fit, or what is written later."""


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
@parametrised(on("serial"), on("local", cases=LIGHT))
def test_a_full_disk_stops_the_run_and_fails_no_task(
    name: str, case: Case, backend: str, which: int, tmp_path: Path, calm: dict[str, object]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("a small disk of its own can be mounted by root on Linux only")
    try:
        folder = disk / "run"
        room = os.statvfs(disk)
        (disk / "ballast").write_bytes(
            bytes(room.f_bavail * room.f_frsize - ROOM[name][which] * 1024)
        )
        assert "disk is full" in case.run(folder, backend)
        assert errors(folder) == []
        assert is_clean(folder)
        (disk / "ballast").unlink()
        assert case.run(folder, backend) == ""
        assert case.results(folder) == calm
    finally:
        subprocess.run(["umount", str(disk)], check=True)


VICTIMS = {
    "study": "cells/*/r*.parquet",
    "card": "card/curves.parquet",
    "training": "kept/trainings/*/model/model.safetensors",
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("study", damage) for damage in ("cut", "empty", "flip", "journals lost")),
        *((name, "flip") for name in ("card", "training")),
        *(
            pytest.param(name, damage, marks=pytest.mark.slow)
            for name in ("card", "training")
            for damage in ("cut", "empty")
        ),
    ],
    indirect=["name"],
)
def test_what_is_damaged_is_named_and_computed_again(
    name: str, case: Case, damage: str, folder: Path, calm: dict[str, object]
) -> None:
    case.run(folder, "serial")
    victim = sorted(folder.glob(VICTIMS[name]))[0]
    whole = victim.read_bytes()
    flipped = whole[:4] + bytes([whole[4] ^ 1]) + whole[5:]  # in a first page, or a header
    victim.write_bytes({"empty": b"", "flip": flipped}.get(damage, whole[:-100]))
    if damage == "journals lost":
        shutil.rmtree(folder / "journal", ignore_errors=True)
    for block in folder.glob("cells/*/r*.parquet") if name == "training" else ():
        block.unlink()  # those that ask for the training
    with pytest.warns(DamageWarning, match=victim.name):
        assert case.run(folder, "serial") == ""
    assert case.results(folder) == calm
    with warnings.catch_warnings():
        warnings.simplefilter("error", DamageWarning)
        case.run(folder, "serial")


@pytest.mark.parametrize("backend", ["serial", "local"])
def test_unruly_learners_cost_only_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    # In a folder that is named from here, where a learner that goes somewhere else would miss it.
    monkeypatch.chdir(tmp_path)
    fast = {"kind": "online-iterative", "batch_size": 4}
    hows = [*unruly.HARMFUL, *unruly.DEADLY]
    learners = [{"kind": f"{unruly.HERE}:Unruly", "how": how, "label": how} for how in hows]
    study = Study(
        name="unruly",
        worlds=[{"kind": "linear", "contexts": 4, "actions": 3, "dim": 2}],
        learners=[*learners, {**fast, "label": "good"}],
        rounds=2,
        replicas=4,
        block=2,
    )
    command = ["run", "caf\udce9.toml"]  # a file name that is no UTF-8
    result = study.run("out", backend=backend, jobs=1, quiet=True, command=command)
    done = result.status().set_index("learner")[["done", "failed"]].T.to_dict("list")
    good, bad = [2, 0], [0, 2]
    assert done == dict.fromkeys([*unruly.HARMFUL, "good"], good) | dict.fromkeys(
        unruly.DEADLY, bad
    )
    assert Path.cwd() == tmp_path
    assert not (tmp_path / "out" / ".running").exists()
