"""Real faults on real blocks: whatever happened, the next run ends with the bits of a calm one."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf_theory.store import DamageWarning
from rlhf_theory.studies.folder import StudyFolder
from rlhf_theory.study import Study, StudyResult
from tests.helpers import unruly
from tests.helpers.cued import BLOCKS, CUES, cued_study

HANGS = 300.0
"""Seconds after which something hangs; nothing here takes a tenth of it."""

ROOT = Path(__file__).parents[2]


def blocks(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of results: the blocks, and the table of all of them."""
    paths = [*folder.glob("cells/*/r*.parquet"), *folder.glob("curves.parquet")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def run(folder: Path, backend: str = "serial", **options: object) -> StudyResult:
    if backend == "slurm":
        options["options"] = {"cluster": "local", "group": 3}
    return cued_study().run(folder, backend=backend, jobs=2, quiet=True, **options)


def until(happens: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + HANGS
    while not happens():
        assert time.monotonic() < end, f"{what} did not happen in {HANGS} s"
        time.sleep(0.01)


def waiting(cues: Path) -> list[int]:
    """Return the numbers of the processes that wait on cue."""
    return [int(path.suffix[1:]) for path in cues.glob("waits.*")]


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A zombie whose parent has not looked yet does nothing any more.
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of a run in one process that nothing disturbs."""
    folder = tmp_path_factory.mktemp("calm")
    assert run(folder / "study").tally.done == BLOCKS
    found = blocks(folder / "study")
    assert len(found) == BLOCKS + 1
    return found


@pytest.fixture
def cues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cues"
    folder.mkdir()
    monkeypatch.setenv(CUES, str(folder))
    return folder


@pytest.fixture
def start(cues: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts runs in processes of their own, each the leader of its group, like on a terminal."""
    started: list[subprocess.Popen[str]] = []

    def begin(folder: Path, backend: str = "local") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.helpers.cued", str(folder), backend]
        child = subprocess.Popen(
            command,
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

SLOW_ELSEWHERE = pytest.mark.parametrize(
    "backend", ["local", *(pytest.param(name, marks=pytest.mark.slow) for name in PACKAGES)]
)


@pytest.mark.parametrize("backend", ["local", "dask", "ray", "slurm"])
def test_a_killed_worker_costs_nothing_and_makes_no_noise(
    backend: str,
    tmp_path: Path,
    cues: Path,
    calm: dict[str, bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    package = pytest.importorskip(PACKAGES.get(backend, "loky"))
    names = ("distributed", "distributed.nanny", "distributed.scheduler", "ray")
    levels = [logging.getLogger(name).level for name in names]
    (cues / "wait").touch()
    killed: list[int] = []

    def kill() -> None:
        try:
            until(lambda: bool(waiting(cues)), "the start of the block")
            killed.extend(waiting(cues))
            os.kill(killed[0], signal.SIGKILL)
        finally:
            (cues / "wait").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        tally = run(tmp_path / "study", backend).tally
    finally:
        killer.join()
    assert len(killed) == 1
    assert killed[0] != os.getpid()
    assert (tally.done, tally.failed, tally.skipped, tally.left) == (BLOCKS, 0, 0, 0)
    assert blocks(tmp_path / "study") == calm
    # The services that were started are gone, said nothing, and left logging as it was.
    assert capfd.readouterr() == ("", "")
    assert [logging.getLogger(name).level for name in names] == levels
    if backend == "ray":
        assert not package.is_initialized()
    if backend == "dask":
        with pytest.raises(ValueError, match="No global client"):
            package.get_client()


@SLOW_ELSEWHERE
def test_a_block_that_always_kills_its_worker_is_given_up_alone(
    backend: str, tmp_path: Path, cues: Path, calm: dict[str, bytes]
) -> None:
    pytest.importorskip(PACKAGES.get(backend, "loky"))
    folder = tmp_path / "study"
    (cues / "die").touch()
    tally = run(folder, backend).tally
    assert (tally.done, tally.failed, tally.left) == (BLOCKS - 1, 1, 0)
    [(name, record)] = StudyFolder(folder).failed(cued_study().cells()).items()
    assert name.endswith("r000008-000010")
    assert "died 3 times" in record["error"]
    assert not (folder / ".running").exists()
    # It stays given up until somebody asks for it.
    again = run(folder).tally
    assert (again.done, again.left) == (0, 0)
    (cues / "die").unlink()
    assert run(folder, retry_failed=True).tally.done == 1
    assert blocks(folder) == calm


def test_a_block_that_raises_leaves_the_others_alone(
    tmp_path: Path, cues: Path, calm: dict[str, bytes]
) -> None:
    folder = tmp_path / "study"
    (cues / "raise").touch()
    tally = run(folder).tally
    assert (tally.done, tally.failed, tally.left) == (BLOCKS - 1, 1, 0)
    [record] = StudyFolder(folder).failed(cued_study().cells()).values()
    assert record["error"] == "ArithmeticError: raised on cue"
    assert "heed" in record["traceback"]
    (cues / "raise").unlink()
    assert run(folder, retry_failed=True).tally.done == 1
    assert blocks(folder) == calm


# ---- the main process


def test_killed_again_and_again_a_run_ends_with_the_same_bits(
    tmp_path: Path, cues: Path, calm: dict[str, bytes], start: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "study"
    (cues / "wait").touch()
    # In the start-up; between blocks; in the middle of a block, which leaves workers behind.
    for seconds, n_blocks, n_waiting in ((0.5, 0, 0), (0.0, 2, 0), (0.0, 0, 1)):
        child = start(folder)
        time.sleep(seconds)
        until(
            lambda n=n_blocks, w=n_waiting: len(blocks(folder)) >= n and len(waiting(cues)) >= w,
            "the moment to kill",
        )
        child.kill()
        assert child.wait(HANGS) == -signal.SIGKILL
    until(lambda: not any(lives(process) for process in waiting(cues)), "the end of the workers")
    assert 2 <= len(blocks(folder)) < BLOCKS
    (cues / "wait").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/r*.parquet")}
    tally = run(folder).tally
    assert tally.done == BLOCKS - len(before)  # nothing is computed twice
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert blocks(folder) == calm
    assert not (folder / ".running").exists()  # the marks of the dead are gone


@SLOW_ELSEWHERE
def test_interrupted_twice_a_run_leaves_no_process_and_no_half_file(
    backend: str,
    tmp_path: Path,
    cues: Path,
    calm: dict[str, bytes],
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    pytest.importorskip(PACKAGES.get(backend, "loky"))
    folder = tmp_path / "study"
    (cues / "wait").touch()
    child = start(folder, backend)
    until(lambda: bool(waiting(cues)) and len(blocks(folder)) == BLOCKS - 1, "the last block")
    os.killpg(child.pid, signal.SIGINT)  # what a terminal does: to all processes
    time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=HANGS)
    # The second may come so late that the run has ended and Python itself is at its end.
    assert child.returncode in (130, -signal.SIGINT), output
    until(lambda: not any(lives(process) for process in waiting(cues)), "the end of the workers")
    assert len(blocks(folder)) == BLOCKS - 1
    (cues / "wait").unlink()
    assert run(folder).tally.done == 1
    assert blocks(folder) == calm


def test_two_runs_on_one_folder_at_once_agree(
    tmp_path: Path, calm: dict[str, bytes], start: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "study"
    children = [start(folder), start(folder)]
    for child in children:
        output, _ = child.communicate(timeout=HANGS)
        assert child.returncode == 0, output
    assert blocks(folder) == calm
    assert len(StudyFolder(folder).done(cued_study().cells())) == BLOCKS
    assert not list(folder.rglob("*.tmp"))
    assert run(folder).tally.done == 0


# ---- the disk


@pytest.mark.parametrize("backend", ["serial", "local"])
def test_a_full_disk_stops_the_run_and_fails_no_block(
    backend: str, tmp_path: Path, calm: dict[str, bytes]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("a small disk of its own can be mounted by root on Linux only")
    try:
        folder = disk / "study"
        StudyFolder(folder).claim(cued_study(), None)
        _fill(disk / "ballast", leave=24 * 1024)
        result = run(folder, backend)
        assert "disk is full" in result.tally.stopped
        assert result.tally.failed == 0
        assert result.tally.left == BLOCKS - result.tally.done > 0
        assert not list(folder.rglob("*.failed.json"))
        assert not list(folder.rglob("*.tmp"))
        (disk / "ballast").unlink()
        again = run(folder).tally
        assert (again.failed, again.left, again.stopped) == (0, 0, "")
        assert blocks(folder) == calm
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _fill(path: Path, leave: int) -> None:
    free = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
    path.write_bytes(bytes(free - leave))


@pytest.mark.parametrize("damage", ["cut", "empty", "cut, journals lost"])
def test_a_damaged_file_is_computed_again(
    damage: str, tmp_path: Path, calm: dict[str, bytes]
) -> None:
    folder = tmp_path / "study"
    run(folder)
    victim = sorted(folder.glob("cells/*/r*.parquet"))[2]
    victim.write_bytes(b"" if damage == "empty" else victim.read_bytes()[:-100])
    if "journals" in damage:
        shutil.rmtree(folder / "journal")
    with pytest.warns(DamageWarning, match=victim.name):
        assert run(folder).tally.done == 1
    assert blocks(folder) == calm
    assert run(folder).tally.done == 0


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
