"""Every backend with real workers; the loop on top of them is tested elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from rlhf_theory.engine.attempts import Answer, Attempt, DeadWorkerError, Marks
from rlhf_theory.engine.backends import (
    BackendError,
    Pool,
    dask_cluster,
    make_backend,
    slurm_jobs,
)
from rlhf_theory.engine.backends.pool import ONE_THREAD
from rlhf_theory.engine.execution import Tally, execute
from rlhf_theory.register import found
from tests.helpers import fake_slurm
from tests.helpers.toy_tasks import ToyFolder, compute_toy, toys

HANGS = 300.0


class Desk:
    """Hands attempts at functions to a pool and waits for the answers."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.pool, self.folder, self.n = pool, folder, 0

    def submit(self, function: Callable[[Any], Any], *arguments: Any) -> list[Any]:
        first, self.n = self.n, self.n + len(arguments)
        return self.pool.submit(
            [
                Attempt.of(function, argument, self.folder / str(first + k))
                for k, argument in enumerate(arguments)
            ]
        )

    def answers(self, function: Callable[[Any], Any], *arguments: Any) -> list[Answer]:
        return [future.result(HANGS) for future in self.submit(function, *arguments)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    pools = []

    def open_pool(name: str, jobs: int = 1, **options: Any) -> Desk:
        pool = make_backend(name, options).open(jobs, tmp_path)
        pools.append(pool)
        return Desk(pool, tmp_path)

    yield open_pool
    for pool in pools:
        pool.close(kill=False)


def square(x: int) -> int:
    return x * x


_INSIDE: list[int] = []


def most_at_once(x: int) -> int:
    """Return how many calls are in this process meanwhile."""
    _INSIDE.append(x)
    time.sleep(0.5)
    found = len(_INSIDE)
    _INSIDE.remove(x)
    return found


def assigned(_: int) -> dict[str, float]:
    import ray  # noqa: PLC0415

    return dict(ray.get_runtime_context().get_assigned_resources())


# ---- making one


def test_names_and_options_are_checked() -> None:
    assert set(found("backend")) >= {"local", "serial", "dask", "ray", "slurm"}
    for name in found("backend"):
        assert make_backend(name).name == name
    with pytest.raises(ValueError, match="Did you mean 'slurm'"):
        make_backend("slrum")
    with pytest.raises(ValueError, match=r"'local' must be one of: none; got 'jobs'"):
        make_backend("local", {"jobs": 2})
    with pytest.raises(ValueError, match="Did you mean 'address'"):
        make_backend("dask", {"adress": "tcp://somewhere"})
    for amount in (0, -1.0, True, "1"):
        with pytest.raises(ValueError, match="a positive number of a resource; got GPU"):
            make_backend("dask", {"GPU": amount})
    with pytest.raises(ValueError, match="group must be at least 1; got 0"):
        make_backend("slurm", {"group": 0})
    with pytest.raises(ValueError, match="cluster must be 'slurm' or 'local'; got 'pbs'"):
        make_backend("slurm", {"cluster": "pbs"})


@pytest.mark.parametrize(
    ("name", "module"), [("dask", "distributed"), ("ray", "ray"), ("slurm", "submitit")]
)
def test_a_missing_package_is_named_with_its_extra(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "dask":
        pytest.importorskip("dask")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf"{module}.*pip install 'rlhf-theory\[{name}\]'"):
        make_backend(name).open(1, tmp_path)


# ---- this machine


def test_serial_answers_at_once_in_this_process(desk: Callable[..., Desk]) -> None:
    at = desk("serial")
    [future] = at.submit(lambda _: os.getpid(), 0)
    assert future.done()
    assert future.result().value == os.getpid()
    with pytest.raises(KeyboardInterrupt):
        at.submit(_interrupt, 0)


def _interrupt(_: int) -> None:
    raise KeyboardInterrupt


def test_local_workers(desk: Callable[..., Desk], tmp_path: Path) -> None:
    at = desk("local", jobs=2)
    # Results in the order of the calls; functions that have no name to be imported by.
    shift = 10
    answers = at.answers(lambda x: x + shift, *range(6))
    assert [answer.value for answer in answers] == list(range(10, 16))
    # One thread each, deaf to the Ctrl-C of the terminal, and not this process.
    [answer] = at.answers(_circumstances, 0)
    environment, handler, process = answer.value
    assert environment == ONE_THREAD
    assert handler == signal.SIG_IGN
    assert process != os.getpid()
    # What cannot be imported or sent is the trouble of one task.
    package = tmp_path / "package"
    package.mkdir()
    (package / "only_here.py").write_text("def fine(x):\n    return x\n")
    sys.path.insert(0, str(package))
    try:
        import only_here  # noqa: PLC0415
    finally:
        sys.path.remove(str(package))
    lost, sent, found = (
        *at.answers(only_here.fine, 1),
        *at.answers(_lock, 0),
        *at.answers(square, 3),
    )
    assert "only_here" in lost.error
    assert lost.traceback
    assert "pickle" in sent.error
    assert found.value == 9
    # With the path of the main process it can be imported.
    sys.path.insert(0, str(package))
    try:
        assert [answer.value for answer in at.answers(only_here.fine, 1)] == [1]
    finally:
        sys.path.remove(str(package))
        del sys.modules["only_here"]


def _circumstances(_: int) -> tuple[dict[str, str], Any, int]:
    return {name: os.environ[name] for name in ONE_THREAD}, signal.getsignal(2), os.getpid()


def _lock(_: int) -> Any:
    import threading  # noqa: PLC0415

    return threading.Lock()


def test_a_local_pool_dies_with_a_worker_and_says_so(tmp_path: Path) -> None:
    pool = make_backend("local").open(2, tmp_path)
    at = Desk(pool, tmp_path)
    futures = at.submit(_die_or_wait, "die", "wait")
    wait(futures, timeout=HANGS)
    # Both are lost; also who comes too late learns it from his future.
    late = at.submit(square, 2)
    for future in [*futures, *late]:
        assert isinstance(future.exception(HANGS), pool.deaths)
    assert (tmp_path / "0").exists()  # the mark of the killer
    assert not (tmp_path / "2").exists()
    pool.close(kill=True)


def _die_or_wait(what: str) -> None:
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(HANGS)


# ---- Dask (and Ray: where workers die, in the tests of faults, which takes a cluster of each)


def test_dask_uses_a_scheduler_that_runs_and_leaves_it_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        pool = make_backend("dask").open(99, tmp_path)
        try:
            assert pool.width >= 2  # more than there are threads, so that the cluster can grow
            [answer] = Desk(pool, tmp_path).answers(lambda _: os.getpid(), 0)
            assert answer.value == os.getpid()  # this cluster has threads of this process
        finally:
            pool.close(kill=True)
        assert cluster.status == distributed.Status.running


def test_a_call_takes_what_is_asked_for_of_a_dask_worker(
    desk: Callable[..., Desk], tmp_path: Path
) -> None:
    """A call that took nothing would run beside another one on the one GPU of a worker."""
    distributed = pytest.importorskip("distributed")
    given = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**given, resources={"GPU": 1}, processes=False) as cluster:
        address = cluster.scheduler_address
        taken = desk("dask", address=address, GPU=1).answers(most_at_once, *range(4))
        assert [answer.value for answer in taken] == [1] * 4
        free = desk("dask", address=address).answers(most_at_once, *range(4))
        assert max(answer.value for answer in free) == 2
        with pytest.raises(BackendError, match=r"one of 1 has is \{'GPU': 1.0\}.*ask for less"):
            make_backend("dask", {"address": address, "GPU": 2}).open(1, tmp_path)
        with pytest.raises(BackendError, match=r"one of 1 has is \{'GPUS': 0.0\}"):
            make_backend("dask", {"address": address, "GPUS": 1}).open(1, tmp_path)
    # Workers that are started here have it.
    assert [a.value for a in desk("dask", GPU=1).answers(square, 3)] == [9]


def test_a_call_takes_what_is_asked_for_of_a_ray_cluster(
    desk: Callable[..., Desk], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    # What nobody here has would be waited for without an end.
    with pytest.raises(BackendError, match=r"needs \{'num_cpus': 2\}.*have \{'num_cpus': 1.0\}"):
        make_backend("ray", {"num_cpus": 2}).open(1, tmp_path)
    with pytest.raises(BackendError, match=r"have \{'memory': \d+"):
        make_backend("ray", {"memory": 1e15}).open(1, tmp_path)
    [answer] = desk("ray", num_cpus=1, memory=1e6).answers(assigned, 0)
    assert answer.value == {"CPU": 1.0, "memory": 1e6}
    with pytest.raises(BackendError, match=r"must be those of `ray.remote`.*adress"):
        make_backend("ray", {"adress": "auto"}).open(1, tmp_path)


def test_dask_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(dask_cluster, "_PATIENCE", "0.5s")
    with pytest.raises(BackendError, match=r"No Dask scheduler answers at tcp://127.0.0.1:1 "):
        make_backend("dask", {"address": "tcp://127.0.0.1:1"}).open(1, tmp_path)


def die(_: object) -> None:
    os._exit(1)


def test_a_dask_worker_that_dies_at_once_is_replaced(
    desk: Callable[..., Desk],
) -> None:
    """Without a word Dask drops the seat of a worker that is away for long: here, for a moment."""
    dask = pytest.importorskip("dask")
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):
        at = desk("dask")
        # The scheduler starts it again in the next worker, which finds the mark.
        assert at.answers(die, 0)[0].died
        assert [answer.value for answer in at.answers(square, 3)] == [9]


@pytest.mark.slow
def test_calls_that_wait_for_dask_workers_that_never_come_are_given_up(
    desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    for name, value in (("_NEVER", "1ms"), ("_GLANCE", 0.1), ("_NOBODY", 0.5)):
        monkeypatch.setattr(dask_cluster, name, value)
    [future] = desk("dask").submit(die, 0)
    assert isinstance(future.exception(HANGS), DeadWorkerError)


# ---- SLURM, by local jobs


def test_slurm_without_sbatch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(BackendError, match="sbatch"):
        make_backend("slurm").open(1, tmp_path)


def test_slurm_options_go_to_sbatch_and_unknown_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    options = {"partition": "long", "time": 30, "mem_gb": 4.0}
    pool = make_backend("slurm", options).open(3, tmp_path)
    parameters = pool._executor._executor.parameters
    pool.close(kill=False)
    assert isinstance(pool._executor._executor, submitit.SlurmExecutor)
    assert {key: parameters[key] for key in ("partition", "time")} == {
        "partition": "long",
        "time": 30,
    }
    assert parameters["mem"] == "4GB"
    pool = make_backend("slurm", {"group": 4}).open(3, tmp_path)
    assert pool._executor._executor.parameters["time"] == 60  # submitit's own would be 5 minutes
    assert pool.width == 12
    pool.close(kill=False)
    with pytest.raises(BackendError, match="partitoin"):
        make_backend("slurm", {"partitoin": "long"}).open(1, tmp_path)
    assert not (tmp_path / "slurm").exists()


def test_a_job_makes_a_group_of_calls_and_loses_no_answer_when_it_dies(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    pool = make_backend("slurm", {"cluster": "local", "group": 3}).open(1, tmp_path)
    at = Desk(pool, tmp_path)
    kept, killer, unborn, other = at.submit(_die_or_square, 2, -1, 3, 4)
    assert kept.result(HANGS).value == 4
    assert isinstance(killer.exception(HANGS), pool.deaths)
    assert "Its logs are in" in str(killer.exception())
    assert isinstance(unborn.exception(HANGS), pool.deaths)
    assert other.result(HANGS).value == 16
    assert [(tmp_path / str(k)).exists() for k in range(4)] == [False, True, False, False]
    pool.close(kill=False)
    # The log of the dead job stays, the files of the other go.
    [run] = (tmp_path / "slurm").iterdir()
    [dead] = run.iterdir()
    assert str(dead) in str(killer.exception())


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands of a SLURM that runs jobs here; no real one has been at hand."""
    pytest.importorskip("submitit")
    jobs = fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm_jobs, "_ON_SLURM", (0.1, 0.5))
    return jobs


def test_slurm_takes_arrays_of_jobs_and_names_the_dead(slurm: Path, tmp_path: Path) -> None:
    options = {"group": 2, "partition": "short", "time": 7}
    folder = ToyFolder(tmp_path)
    tasks = toys(tmp_path, 5, t1={"deaths": 1}, t4={"acts": "fails"})
    tally = execute(
        tasks, make_backend("slurm", options), jobs=4, folder=folder, compute=compute_toy
    )
    assert tally == Tally(done=4, failed=1)
    assert [task.n_starts() for task in tasks] == [1, 2, 1, 1, 1]
    # Three jobs in one array; then the task that died, alone.
    first, second = sorted(slurm.glob("*.script"))
    assert "#SBATCH --array=0-2%" in first.read_text()
    assert "#SBATCH --partition=short" in first.read_text()
    assert "#SBATCH --time=7" in first.read_text()
    assert "--array" not in second.read_text()
    assert [path.name for path in (tmp_path / "slurm").rglob("*_log.err")] == ["100_0_0_log.err"]


def test_slurm_jobs_are_cancelled_at_the_end(slurm: Path, tmp_path: Path) -> None:
    pool = make_backend("slurm").open(2, tmp_path)
    at = Desk(pool, tmp_path)
    [taken_back] = at.submit(_die_or_wait, "wait")
    [running] = at.submit(_die_or_wait, "wait")
    end = time.monotonic() + HANGS
    assert taken_back.cancel()
    while not (slurm / "100.state").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not running.done()
    pool.close(kill=True)
    assert [path.read_text() for path in sorted(slurm.glob("*.state"))] == ["gone", "gone"]
    assert not (tmp_path / "slurm").exists()


def _trouble(monkeypatch: pytest.MonkeyPatch, times: float) -> list[str]:
    """Let so many looks at jobs fail; return a list that grows with them."""
    look, seen = slurm_jobs.SlurmPool._has_ended, []

    def fails(pool: Any, job: Any) -> bool:
        if len(seen) < times:
            seen.append(str(job.job.job_id))
            raise OSError(116, "Stale file handle")
        return look(pool, job)

    monkeypatch.setattr(slurm_jobs.SlurmPool, "_has_ended", fails)
    return seen


def test_slurm_looks_again_where_a_look_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    seen = _trouble(monkeypatch, 5)
    pool = make_backend("slurm", {"cluster": "local"}).open(1, tmp_path)
    [future] = Desk(pool, tmp_path).submit(square, 3)
    assert future.result(HANGS).value == 9
    assert len(seen) == 5
    pool.close(kill=False)


def test_slurm_that_cannot_be_looked_at_for_long_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(slurm_jobs, "_BAD_MINUTES", 0.2)
    _trouble(monkeypatch, float("inf"))
    folder = ToyFolder(tmp_path)
    backend = make_backend("slurm", {"cluster": "local"})
    with pytest.raises(BackendError, match=r"Nobody can look after job .*Stale file handle"):
        execute(toys(tmp_path, 2), backend, jobs=2, folder=folder, compute=compute_toy)
    assert folder.failures == []
    assert not (tmp_path / "slurm").exists()


def _die_or_square(x: int) -> int:
    if x < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


# ---- marks


def test_marks_of_a_killed_run_are_removed_by_the_next_and_those_of_a_living_one_stay(
    tmp_path: Path,
) -> None:
    with Marks(tmp_path) as other:
        host, process, token = other.folder.name.split("~")
        dead = other.folder.with_name(f"{host}~{2**22 + 1}~{token}")  # beyond the largest number
        elsewhere = other.folder.with_name(f"not-{host}~{2**22 + 1}~{token}")
        dead.mkdir()
        elsewhere.mkdir()
        assert process == str(os.getpid())
        with Marks(tmp_path) as mine:
            assert mine.folder != other.folder
            assert not dead.exists()
            assert elsewhere.exists()
            mine.path(7).touch()
            assert mine.is_set(7)
            assert not other.is_set(7)
            mine.clear(7)
            assert not mine.is_set(7)
        assert other.folder.exists()
        elsewhere.rmdir()
    assert not (tmp_path / ".running").exists()
