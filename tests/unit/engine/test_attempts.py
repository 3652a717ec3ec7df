from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import pytest

from rlhf_theory.engine.attempts import Answer, Attempt, Marks, undisturbed
from rlhf_theory.engine.exceptions import in_one_line, writable
from tests.helpers.unruly import MuteError, StopEverythingError


def attempt(folder, function):
    return Attempt.of(function, 0, folder / "mark")


def leave(_):
    raise SystemExit("bye")


def stop(_):
    raise StopEverythingError("stop")


def interrupt(_):
    raise KeyboardInterrupt


# ----------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("function", "says"), [(leave, "SystemExit: bye"), (stop, "StopEverythingError: stop")]
)
def test_whatever_is_raised_is_an_answer(tmp_path, function, says):
    answer = attempt(tmp_path, function)()
    assert answer.error == says
    assert f"in {function.__name__}" in answer.traceback
    assert not (tmp_path / "mark").exists()


def test_ctrl_c_is_none(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path, interrupt)()
    assert not (tmp_path / "mark").exists()


def test_what_is_said_can_be_written_and_stays_as_it_is_where_it_can(tmp_path):
    for text in ("", "caf\u00e9 \U0001f600 \\udce9 \n"):
        assert writable(text) == text
    assert writable("caf\udce9") == "caf\\udce9"
    answer = Answer.of(ValueError("caf\udce9"))
    for text in (answer.error, answer.traceback):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        assert "caf\\udce9" in text


def test_an_exception_that_cannot_say_what_it_is_has_a_name():
    assert in_one_line(MuteError()).startswith("MuteError: ")
    assert Answer.of(MuteError()).error.startswith("MuteError: ")


# ----------------------------------------------------------------------------- marks


def test_marks_know_their_folder_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Marks(tmp_path.__class__("out")) as marks:
        monkeypatch.chdir("/")
        marks.path(3).touch()
        assert marks.is_set(3)
        assert marks.path(3).is_relative_to(tmp_path / "out")
    assert not (tmp_path / "out" / ".running").exists()


# ----------------------------------------------------------------------------- one after another


def process_state():
    return os.getcwd(), list(warnings.filters), warnings.showwarning, np.geterr()  # noqa: PTH109


def disturb(folder):
    os.chdir(folder)
    warnings.simplefilter("ignore")
    warnings.showwarning = print
    np.seterr(all="ignore")


@pytest.fixture(autouse=True)
def _at_home(tmp_path, monkeypatch):
    # Whatever a test leaves behind here must not reach others.
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), np.errstate():
        yield


@pytest.mark.parametrize("error", [None, StopEverythingError("stop"), KeyboardInterrupt()])
def test_what_was_changed_inside_is_undone(tmp_path, error):
    before = process_state()
    try:
        with undisturbed():
            disturb("/")
            assert process_state() != before
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error  # noqa: PT017
    assert process_state() == before


def test_warnings_that_were_shown_are_not_shown_again_for_it():
    # A learner that warns in every block must not fill the screen.
    def warn():
        warnings.warn("look", UserWarning, stacklevel=1)

    shown = []
    warnings.resetwarnings()
    warnings.simplefilter("default")
    warnings.showwarning = lambda *args, **_: shown.append(args[0])
    for _ in range(3):
        with undisturbed():
            warn()
    assert len(shown) == 1


def test_a_folder_that_is_gone_stops_nobody(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    with undisturbed():
        gone.rmdir()
    with undisturbed():
        os.chdir(tmp_path)
    assert os.getcwd() == str(tmp_path)  # noqa: PTH109


def test_threads_that_overlap_leave_the_process_as_the_first_found_it(tmp_path):
    before = process_state()
    inside, first_left = threading.Event(), threading.Event()

    def other():
        with undisturbed():
            inside.set()
            first_left.wait(60)

    thread = threading.Thread(target=other)
    with undisturbed():
        disturb("/")
        thread.start()  # enters when all is changed already
        inside.wait(60)
    # Not yet: it would happen under the feet of the other one.
    assert os.getcwd() == "/"  # noqa: PTH109
    first_left.set()
    thread.join()
    assert process_state() == before
