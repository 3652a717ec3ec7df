"""How far a run has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from tqdm import tqdm

_LOG = logging.getLogger(__name__)

_STEP, _PATIENCE = 0.05, 60.0
"""Off a terminal a line is written per this share of the blocks, or after this many seconds."""


def duration(seconds: float) -> str:
    """Return a time as people say it: ``"12 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``.

    Examples
    --------
    >>> duration(0.4), duration(200), duration(7500), duration(200_000)
    ('0.4 s', '3 min 20 s', '2 h 5 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    total = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for k, (name, size) in enumerate(units):
        if total >= size:
            whole, rest = divmod(total, size)
            if k == len(units) - 1 or rest < units[k + 1][1]:
                return f"{whole} {name}"
            return f"{whole} {name} {rest // units[k + 1][1]} {units[k + 1][0]}"
    return "0 s"


class Counts(Protocol):
    """Blocks of a run that have ended, by outcome."""

    @property
    def done(self) -> int:
        """Computed."""
        ...

    @property
    def failed(self) -> int:
        """Failed, or given up."""
        ...

    @property
    def skipped(self) -> int:
        """Done by somebody else meanwhile."""
        ...


class Progress:
    """Shows finished, running, failed and skipped blocks, and how long the rest will take.

    On a terminal it is a bar on ``stderr``, so that a piped ``stdout`` stays clean. Elsewhere it is
    one line per 5 % of the blocks or per minute, whichever comes first, and no bar in the log.

    Parameters
    ----------
    total
        Blocks of this run that are to be computed.
    ready
        Blocks that were finished before; only shown.
    unit
        What a block is called.
    say
        Called with each line off a terminal; None logs it at level ``INFO``.
    stream
        Where the bar goes; ``stderr`` by default. It decides what a terminal is.
    quiet
        Show nothing, only count.
    clock
        Seconds that only grow; for tests.
    """

    def __init__(
        self,
        total: int,
        *,
        ready: int = 0,
        unit: str = "block",
        say: Callable[[str], None] | None = None,
        stream: TextIO | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.ready, self._units = total, ready, f"{unit}s"
        self.done = self.failed = self.skipped = self.in_flight = 0
        self._say = _LOG.info if say is None else say
        self._quiet, self._clock = quiet, clock
        self._start = self._said_at = clock()
        self._said = 0
        self._spent = 0.0  # up to the latest block
        where = sys.stderr if stream is None else stream
        self._bar: Any = tqdm(
            total=total,
            unit=unit,
            file=where,
            # None: no bar where the stream is no terminal. None either where nothing is to do.
            disable=True if quiet or total == 0 else None,
            # Our own time left: tqdm's counts skipped blocks as work that went fast. It puts a
            # comma before the postfix.
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            f"{unit}s{{postfix}}",
            dynamic_ncols=True,
        )
        self._on_terminal = not self._bar.disable

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, tally: Counts, running: int) -> None:
        """Show how a run stands; cheap enough to be called for every block.

        Parameters
        ----------
        tally
            Blocks that have ended so far, by outcome.
        running
            Blocks that are being computed now.
        """
        before, computed = self.ended, self.done + self.failed
        self.done, self.failed, self.skipped = tally.done, tally.failed, tally.skipped
        self.in_flight = running
        if self.done + self.failed != computed:
            self._spent = self._clock() - self._start
        if self._on_terminal:
            self._bar.set_postfix_str(", ".join(self._counts()), refresh=False)
            self._bar.update(self.ended - before)
            self._bar.refresh()
            return
        news = self.ended - self._said
        late = self._clock() - self._said_at >= _PATIENCE
        if news >= max(1.0, _STEP * self.total) or (late and news > 0):
            self._write()

    @property
    def ended(self) -> int:
        """Blocks that are done, failed or skipped."""
        return self.done + self.failed + self.skipped

    @property
    def seconds_left(self) -> float | None:
        """Time left from the rate of computed blocks; None before the first, and at the end.

        It changes with every block that ends, and stands still between them: the rate of whole
        blocks would fall meanwhile, and the time left would grow.
        """
        left, computed = self.total - self.ended, self.done + self.failed
        if computed == 0 or left <= 0:
            return None
        return self._spent * left / computed

    def line(self) -> str:
        """Return the counts and the time left in one line."""
        counts = [f"{self.ended}/{self.total} {self._units}", *self._counts()]
        return ", ".join(counts)

    def message(self, text: str) -> None:
        """Say something between the lines of progress, without breaking the bar."""
        if self._on_terminal:
            self._bar.clear()
            self._bar.write(text, file=self._bar.fp)
        elif not self._quiet:
            self._say(text)

    def close(self) -> None:
        """End the bar; off a terminal, write the last line if it has not been written."""
        if self._on_terminal:
            self._bar.close()
        elif self.ended > self._said:
            self._write()

    def _counts(self) -> list[str]:
        counts = [
            ("running", self.in_flight),
            ("failed", self.failed),
            ("skipped", self.skipped),
            ("done before", self.ready),
        ]
        texts = [f"{number} {name}" for name, number in counts if number]
        left = self.seconds_left
        return texts if left is None else [*texts, f"about {duration(left)} left"]

    def _write(self) -> None:
        if not self._quiet:
            self._say(self.line())
        self._said, self._said_at = self.ended, self._clock()
