from __future__ import annotations

import io
import logging

import pytest

from rlhf_theory.engine.execution import Tally
from rlhf_theory.engine.progress import Progress, duration


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def make(total, **options):
    lines, clock = [], Clock()
    options = {"stream": io.StringIO(), "say": lines.append, "clock": clock, **options}
    return Progress(total, **options), lines, clock


def test_off_a_terminal_there_is_a_line_per_five_percent():
    progress, lines, clock = make(200)
    with progress:
        for k in range(1, 201):
            clock.now += 0.01
            progress(Tally(done=k, left=200 - k), 2)
    assert len(lines) == 20
    assert lines[0] == "10/200 blocks, 2 running, about 1.9 s left"
    assert lines[-1] == "200/200 blocks, 2 running"


def test_small_runs_have_a_line_per_block_and_no_more():
    progress, lines, _ = make(3)
    with progress:
        for k in range(1, 4):
            for _ in range(5):
                progress(Tally(done=k, left=3 - k), 1)
    assert [line[:3] for line in lines] == ["1/3", "2/3", "3/3"]


def test_slow_runs_have_a_line_per_minute_if_there_is_news():
    progress, lines, clock = make(1000)
    for k, now in ((1, 30.0), (2, 61.0), (2, 200.0), (3, 201.0)):
        clock.now = now
        progress(Tally(done=k, left=1000 - k), 1)
    assert [line.split()[0] for line in lines] == ["2/1000", "3/1000"]


def test_the_last_line_is_written_when_a_run_is_stopped():
    progress, lines, _ = make(1000)
    progress(Tally(done=7, left=993), 1)

    def stop():
        with progress:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert [line.split()[0] for line in lines] == ["7/1000"]
    progress.close()
    assert len(lines) == 1


def test_time_left_counts_only_what_was_computed():
    progress, _, clock = make(100, ready=50)
    assert progress.seconds_left is None
    progress(Tally(skipped=60, left=40), 1)
    assert progress.seconds_left is None
    clock.now = 8.0
    progress(Tally(done=3, failed=1, skipped=60, left=36), 1)
    # Four computed in eight seconds: two seconds for each of the 36.
    assert progress.seconds_left == pytest.approx(72.0)
    assert progress.line() == (
        "64/100 blocks, 1 running, 1 failed, 60 skipped, 50 done before, about 1 min 12 s left"
    )
    progress(Tally(done=39, failed=1, skipped=60), 0)
    assert progress.seconds_left is None


def test_on_a_terminal_it_is_a_bar_and_no_lines():
    stream = Terminal()
    progress, lines, clock = make(4, stream=stream)
    with progress:
        for k in range(1, 5):
            clock.now += 10.0
            progress(Tally(done=k - 1, failed=1, left=4 - k), 2)
            progress.message(f"block {k} says hello")
    text = stream.getvalue()
    assert lines == []
    assert "2/4 blocks, 2 running, 1 failed, about 20 s left" in text
    assert "4/4 blocks" in text
    assert "block 3 says hello\n" in text


def test_a_message_off_a_terminal_is_a_line():
    progress, lines, _ = make(4)
    progress.message("hello")
    assert lines == ["hello"]


def test_quiet_shows_nothing_and_counts():
    stream = Terminal()
    progress, lines, _ = make(4, stream=stream, quiet=True)
    with progress:
        progress(Tally(done=3, failed=1), 0)
        progress.message("hello")
    assert (stream.getvalue(), lines, progress.ended) == ("", [], 4)


def test_lines_go_to_the_log_unless_told_otherwise(caplog):
    with (
        caplog.at_level(logging.INFO, "rlhf_theory.engine.progress"),
        Progress(1, stream=io.StringIO()) as progress,
    ):
        progress(Tally(done=1), 0)
    assert caplog.messages == ["1/1 blocks"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_a_run_of_nothing_shows_nothing(capsys, stream):
    progress, lines, _ = make(0, ready=14, stream=stream)
    with progress:
        progress(Tally(), 0)
    assert (lines, stream.getvalue()) == ([], "")
    assert capsys.readouterr().out == ""


def test_between_blocks_the_time_left_stands_still():
    progress, _, clock = make(10)
    clock.now = 4.0
    progress(Tally(done=2, left=8), 1)
    assert progress.seconds_left == pytest.approx(16.0)
    clock.now = 7.0
    progress(Tally(done=2, left=8), 1)
    assert progress.seconds_left == pytest.approx(16.0)
    progress(Tally(done=2, skipped=1, left=7), 1)  # nothing was computed
    assert progress.seconds_left == pytest.approx(14.0)
    clock.now = 9.0
    progress(Tally(done=3, skipped=1, left=6), 1)
    assert progress.seconds_left == pytest.approx(18.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (59.6, "1 min"), (60, "1 min"), (3600, "1 h"), (3661, "1 h 1 min"),
     (86400, "1 d"), (90061, "1 d 1 h"), (75, "1 min 15 s")],
)  # fmt: skip
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text
