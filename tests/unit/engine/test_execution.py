"""The loop, on workers that die, stall and answer as a script says: no process, no clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from rlhf_theory.engine import attempts, loop
from rlhf_theory.engine.attempts import Attempt, DeadWorkerError
from rlhf_theory.engine.backends import BackendError, make_backend
from rlhf_theory.engine.execution import Tally, execute
from rlhf_theory.engine.workers import deciding_versions
from tests.helpers.scripted_backend import Scripted
from tests.helpers.toy_tasks import ToyFolder, ToyTask, compute_toy, toys


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tally]:
    """Runs the loop on a scripted backend; `wait` lets it go on by one call."""

    def run(backend: Scripted, folder: ToyFolder | None = None, **options: Any) -> Tally:
        def wait(futures: Any, **_: Any) -> tuple[set[Future[Any]], set[Future[Any]]]:
            backend.go_on()
            ended = {future for future in futures if future.done()}
            return ended, set(futures) - ended

        monkeypatch.setattr(loop, "wait", wait)
        return execute(
            backend.tasks,
            backend,
            jobs=2,
            folder=folder or ToyFolder(tmp_path),
            compute=compute_toy,
            **options,
        )

    return run


def test_all_is_done_and_never_more_in_flight_than_the_pool_is_wide(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    backend = Scripted(toys(tmp_path, 7), width=3)
    folder = ToyFolder(tmp_path)
    seen: list[tuple[Tally, int]] = []
    tally = go(backend, folder, progress=lambda tally, running: seen.append((tally, running)))
    assert tally == Tally(done=7)
    assert folder.states() == {f"t{i}": "done" for i in range(7)}
    assert max(len(names) for names in backend.together) == 3
    assert backend.closed == [False]
    assert seen[-1] == (tally, 0)
    assert not (tmp_path / ".running").exists()


def test_no_tasks_no_workers(tmp_path: Path, go: Callable[..., Tally]) -> None:
    backend = Scripted([])
    assert go(backend) == Tally()
    assert backend.opened == []
    assert not (tmp_path / ".running").exists()


def test_a_run_with_nothing_to_do_clears_the_marks_of_one_killed_at_its_end(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    left = tmp_path / ".running" / f"{attempts._host()}~{dead}~aa"
    left.mkdir(parents=True)
    (left / "0").touch()
    others = tmp_path / ".running" / f"elsewhere~{dead}~aa"
    others.mkdir()
    assert go(Scripted([])) == Tally()
    assert not left.exists()
    assert others.exists()  # nobody here knows whether that one runs


def test_a_folder_asks_for_further_tasks_when_one_ends_or_is_given_up(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    """The parts of a card end, and it is judged; one of them kills its workers, and it is told."""
    *tasks, judged, told = toys(tmp_path, 5)
    backend = Scripted(tasks, {"t1": ["dies"] * 9})
    folder = ToyFolder(tmp_path, further={"t2": [judged], "t1": [told]})
    seen: list[Tally] = []
    tally = go(backend, folder, progress=lambda tally, _: seen.append(tally))
    assert tally == Tally(done=4, failed=1)
    assert [note.name for note in folder.notes] == ["t0", "t2", "t3", "t4"]
    assert all(now.left >= 0 for now in seen)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_killer_is_isolated_and_given_up_at_its_third_death(
    breaks: bool, tmp_path: Path, go: Callable[..., Tally]
) -> None:
    backend = Scripted(toys(tmp_path, 6), {"t1": ["dies"] * 9}, breaks=breaks)
    folder = ToyFolder(tmp_path)
    assert go(backend, folder) == Tally(done=5, failed=1)
    [(name, error, _)] = folder.failures
    assert name == "t1"
    assert "died 3 times" in error
    assert len(backend.fate["t1"]) == 6  # it has killed three, no more
    with_killer = [names for names in backend.together if "t1" in names]
    assert len(with_killer[0]) == 2  # once among others
    assert with_killer[-2:] == [["t1"], ["t1"]]  # twice alone
    # Alone comes last: the others need not wait for it, but one that stood beside it.
    alone = backend.together[backend.together.index(["t1"]) :]
    assert alone == [["t1"], *([["t2"]] if breaks else []), ["t1"]]


def test_who_stood_beside_a_killer_is_tried_alone_and_who_waited_is_not_blamed(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    tasks = toys(tmp_path, 4)
    # Four in flight on two workers: t0 dies, t1 runs beside it, t2 and t3 are queued.
    backend = Scripted(tasks, {"t0": ["dies"] * 9}, breaks=True, width=4)
    folder = ToyFolder(tmp_path)
    assert go(backend, folder) == Tally(done=3, failed=1)
    assert [name for name, *_ in folder.failures] == ["t0"]
    assert backend.together[1] == ["t2", "t3"]  # together again, and first
    assert ["t1"] in backend.together


def test_two_deaths_are_forgiven(tmp_path: Path, go: Callable[..., Tally]) -> None:
    backend = Scripted(toys(tmp_path, 3), {"t2": ["dies", "dies"]})
    assert go(backend) == Tally(done=3)


def test_a_second_start_by_the_scheduler_counts_as_the_death_that_it_is(tmp_path: Path) -> None:
    """A scheduler that starts a dead worker's task again gets the answer, not a second corpse."""
    [task] = toys(tmp_path, 1)
    mark = tmp_path / "mark"
    mark.touch()
    answer = Attempt.of(compute_toy, task, mark)()
    assert answer.died
    assert task.n_starts() == 0
    assert mark.exists()


def test_what_was_written_before_the_answer_got_lost_is_done_not_skipped(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    tasks = toys(tmp_path, 3)
    tasks[1].path.write_text("by another run")
    backend = Scripted(tasks, {"t2": ["dies"]})
    # The worker has written the block, then died before it could say so.
    backend.on_submit = lambda names: names[-1] == "t2" and tasks[2].path.write_text("t2")
    assert go(backend) == Tally(done=2, skipped=1)


def test_workers_that_die_before_they_begin_end_the_run(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    backend = Scripted(toys(tmp_path, 2), {"t0": ["dies idle"] * 99}, breaks=True, beside=0)
    with pytest.raises(BackendError, match="die before they begin"):
        go(backend)
    assert backend.closed[-1] is True


def test_a_lost_connection_ends_the_run(tmp_path: Path, go: Callable[..., Tally]) -> None:
    backend = Scripted(toys(tmp_path, 3), {"t1": ["cancelled"]})
    with pytest.raises(BackendError, match="connection lost"):
        go(backend)
    assert backend.closed == [True]


# ---- exceptions and failures


def test_a_failed_task_is_noted_and_the_rest_goes_on(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    folder = ToyFolder(tmp_path)
    tally = go(Scripted(toys(tmp_path, 4, t1={"acts": "fails"})), folder)
    assert tally == Tally(done=3, failed=1)
    assert folder.states()["t1"] == "failed"
    assert folder.failures == []  # the worker has written the record itself


@pytest.mark.parametrize("acts", ["raises", "unpicklable"])
def test_an_exception_around_a_task_is_recorded_with_its_traceback(
    acts: str, tmp_path: Path, go: Callable[..., Tally]
) -> None:
    folder = ToyFolder(tmp_path)
    assert go(Scripted(toys(tmp_path, 4, t1={"acts": acts})), folder) == Tally(done=3, failed=1)
    [(name, error, trace)] = folder.failures
    assert name == "t1"
    assert error.startswith("the call failed: ")
    assert "Traceback" in trace


def test_an_exception_of_the_backend_is_recorded_too(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    folder = ToyFolder(tmp_path)
    backend = Scripted(toys(tmp_path, 3), {"t1": [OSError("the network")]})
    assert go(backend, folder) == Tally(done=2, failed=1)
    assert "the network" in folder.failures[0][1]


def test_an_error_of_the_backend_itself_is_blamed_on_no_task(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    folder = ToyFolder(tmp_path)
    backend = Scripted(toys(tmp_path, 3), {"t1": [BackendError("nobody can look")]})
    with pytest.raises(BackendError, match="nobody can look"):
        go(backend, folder)
    assert folder.failures == []
    assert backend.closed == [True]


def test_where_no_call_works_the_run_ends(tmp_path: Path, go: Callable[..., Tally]) -> None:
    tasks = toys(tmp_path, 9, **{f"t{i}": {"acts": "raises"} for i in range(9)})
    with pytest.raises(BackendError, match="around the task") as caught:
        go(Scripted(tasks))
    assert "Traceback" in str(caught.value)


def test_a_task_that_does_not_pickle_is_an_error_at_once(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    backend = Scripted(toys(tmp_path, 3, t1={"cargo": threading.Lock()}))
    with pytest.raises(TypeError, match="pickle"):
        go(backend)
    assert True in backend.closed


# ---- stopping early


def test_fail_fast_starts_nothing_after_a_failure(tmp_path: Path, go: Callable[..., Tally]) -> None:
    tasks = toys(tmp_path, 6, t1={"acts": "fails"})
    tally = go(Scripted(tasks), fail_fast=True)
    assert (tally.done, tally.failed, tally.left) == (1, 1, 4)
    assert tally.stopped == "t1 failed: ValueError: on cue"


def test_fail_fast_counts_deaths_as_failures(tmp_path: Path, go: Callable[..., Tally]) -> None:
    tally = go(Scripted(toys(tmp_path, 2), {"t0": ["dies"] * 9}), fail_fast=True)
    assert (tally.done, tally.failed) == (1, 1)
    assert "died 3 times" in tally.stopped


def test_a_stop_lets_end_what_has_started_and_takes_back_the_rest(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    tasks = toys(tmp_path, 4, t0={"acts": "fails"})
    backend = Scripted(tasks, width=3)
    # t1 is running, t2 waits in the queue of the backend, when t0 fails.
    backend.on_submit = lambda names: [
        Path(call.mark).touch() for call, _ in backend.flying if backend.name_of(call) == "t1"
    ]
    backend.fate["t1"] = [DeadWorkerError("whatever")]
    tally = go(backend, fail_fast=True)
    assert (tally.done, tally.failed, tally.left) == (0, 1, 3)
    assert tasks[2].n_starts() == 0
    assert [name for name in backend.fate if not backend.fate[name]] == ["t1"]  # it was waited for


def test_after_the_time_limit_nothing_is_started(
    tmp_path: Path, go: Callable[..., Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    backend = Scripted(toys(tmp_path, 6), width=1)

    def pass_time(_names: list[str]) -> None:
        now[0] += 10.0

    backend.on_submit = pass_time
    tally = go(backend, max_time=25.0)
    assert (tally.done, tally.left) == (3, 3)
    assert tally.stopped == (
        "The time limit is reached. 3 of 6 are left; the same command goes on."
    )
    # What ends by itself in time was not stopped.
    now[0] = 0.0
    assert go(Scripted(toys(tmp_path, 2)), max_time=25.0).stopped == ""


def test_of_a_group_no_more_than_its_limit_are_in_flight(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    alone = {f"t{i}": {"at_once": ("models", 1)} for i in (0, 1, 2, 5)}
    backend = Scripted(toys(tmp_path, 8, **alone), {"t1": ["dies"]}, width=3)
    assert go(backend) == Tally(done=8)
    together = [len(alone.keys() & set(names)) for names in backend.together]
    assert max(together) == 1
    # The others do not wait for them.
    assert max(len(names) for names in backend.together) == 3


def test_time_that_is_up_starts_nothing_that_was_held_back(
    tmp_path: Path, go: Callable[..., Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    alone = {f"t{i}": {"at_once": ("models", 1)} for i in range(3)}
    backend = Scripted(toys(tmp_path, 3, **alone), width=3)
    backend.on_submit = lambda _names: now.__setitem__(0, now[0] + 10.0)
    tally = go(backend, max_time=5.0)
    assert (tally.done, tally.left) == (1, 2)
    assert "time limit" in tally.stopped


def test_tasks_that_wait_for_somebody_are_left_and_say_what_for(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    folder = ToyFolder(tmp_path)
    tally = go(Scripted(toys(tmp_path, 3, t1={"acts": "asks"})), folder)
    assert tally == Tally(done=2, left=1, waiting=("t1 has a question",))
    assert folder.failures == []


@pytest.mark.parametrize("acts", ["full", "full around"])
def test_a_full_disk_stops_the_run_and_fails_nothing(
    acts: str, tmp_path: Path, go: Callable[..., Tally]
) -> None:
    folder = ToyFolder(tmp_path)
    tally = go(Scripted(toys(tmp_path, 6, t2={"acts": acts})), folder)
    assert (tally.failed, folder.failures) == (0, [])
    assert "disk is full" in tally.stopped
    assert tally.done + tally.left == 6


def test_who_dies_on_a_full_disk_is_not_blamed(
    tmp_path: Path, go: Callable[..., Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "no_room", lambda _path: True)
    folder = ToyFolder(tmp_path)
    tally = go(Scripted(toys(tmp_path, 3), {"t0": ["dies"] * 9}), folder)
    assert (tally.done, tally.failed, tally.left, folder.failures) == (2, 0, 1, [])
    assert "disk is full" in tally.stopped


def test_a_folder_that_cannot_write_for_a_full_disk_stops_the_run(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    class Full(ToyFolder):
        def note(self, outcome: Any) -> list[ToyTask]:
            raise OSError(28, "No space left on device")

    tally = go(Scripted(toys(tmp_path, 3)), Full(tmp_path))
    assert tally.failed == 0
    assert "disk is full" in tally.stopped

    class Odd(ToyFolder):
        def note(self, outcome: Any) -> list[ToyTask]:
            raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        go(Scripted(toys(tmp_path, 3)), Odd(tmp_path))


# ---- Ctrl-C


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_kills_the_workers_and_keeps_what_is_done(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    backend = Scripted(toys(tmp_path, 6), width=1)
    backend.on_submit = lambda names: press() if names == ["t3"] else None
    folder = ToyFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        go(backend, folder)
    # The call that the signal met is answered before the loop looks: nothing was cut in two.
    assert set(folder.states()) <= {"t0", "t1", "t2", "t3"}
    assert backend.closed == [True]
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / ".running").exists()


def test_further_presses_do_not_disturb_the_end(tmp_path: Path, go: Callable[..., Tally]) -> None:
    backend = Scripted(toys(tmp_path, 3))
    backend.on_submit = lambda _names: press()
    ended = []

    def close() -> None:
        press()
        press()
        ended.append(True)

    backend.on_close = close
    with pytest.raises(KeyboardInterrupt):
        go(backend)
    assert ended == [True]


def test_a_program_that_fails_for_ctrl_c_is_no_error_of_the_backend(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    backend = Scripted(toys(tmp_path, 3))

    def submission_is_interrupted(_names: list[str]) -> None:
        press()
        raise BackendError("sbatch has failed")

    backend.on_submit = submission_is_interrupted
    with pytest.raises(KeyboardInterrupt):
        go(backend)
    assert backend.closed == [True]


def test_a_start_that_hangs_is_left_at_the_second_press(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    reached = []

    class Hangs(Scripted):
        def open(self, jobs: int, folder: Path) -> Scripted:
            press()
            reached.append("one press waits")
            press()
            reached.append("two do not")
            return self

    with pytest.raises(KeyboardInterrupt):
        go(Hangs(toys(tmp_path, 1)))
    assert reached == ["one press waits"]


def test_in_this_process_ctrl_c_ends_the_call_itself(tmp_path: Path) -> None:
    tasks = toys(tmp_path, 3)
    folder = ToyFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        execute(tasks, make_backend("serial"), jobs=1, folder=folder, compute=_press_in_second)
    assert folder.states() == {"t0": "done"}
    assert not (tmp_path / ".running").exists()


def _press_in_second(task: ToyTask) -> Any:
    if task.name == "t1":
        press()
        raise AssertionError("not reached")
    return compute_toy(task)


def test_in_another_thread_it_runs_without_a_handler(tmp_path: Path) -> None:
    found: list[Tally] = []

    def work() -> None:
        backend = make_backend("serial")
        found.append(
            execute(
                toys(tmp_path, 2), backend, jobs=1, folder=ToyFolder(tmp_path), compute=compute_toy
            )
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [Tally(done=2)]


# ---- arguments


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    tasks, folder = toys(tmp_path, 1), ToyFolder(tmp_path)
    with pytest.raises(ValueError, match="jobs must be at least 1; got 0"):
        execute(tasks, make_backend("serial"), jobs=0, folder=folder)
    with pytest.raises(ValueError, match=r"max_time must be positive; got 0"):
        execute(tasks, make_backend("serial"), jobs=1, folder=folder, max_time=0)


def test_a_worker_with_other_code_stops_the_run_and_fails_nothing(
    tmp_path: Path, go: Callable[..., Tally]
) -> None:
    backend = Scripted(toys(tmp_path, 5, t1={"acts": "other code"}), width=1)
    folder, hired = ToyFolder(tmp_path), []
    tally = go(backend, folder, hired=hired.append)
    assert (tally.done, tally.failed, tally.left) == (1, 0, 4)
    assert tally.stopped.startswith(f"The worker process {os.getpid()} on ")
    assert "is refused: of another one" in tally.stopped
    assert folder.failures == []
    assert [worker.process for worker in hired] == [os.getpid()] * 2
    assert hired[0].versions == deciding_versions()
