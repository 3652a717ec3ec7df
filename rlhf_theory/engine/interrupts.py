"""Ctrl-C that never strikes in the middle of something that must be whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class Interrupt:
    """Remembers Ctrl-C until somebody asks; raises it at once only where that is harmless.

    A context manager. Outside the main thread, where Python admits no handlers, it does nothing.

    Attributes
    ----------
    pressed
        How often the signal has come.
    """

    def __init__(self) -> None:
        self.pressed = 0
        self._raising: int | None = None
        self._before: _Handler = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        # None: there was no handler of Python's, or this is another thread.
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.pressed += 1
        if self._raising is not None and self.pressed >= self._raising:
            self._raising = None
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if the signal has come."""
        if self.pressed:
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self, presses: int = 1) -> Iterator[None]:
        """Let the signal raise at once inside: at the first press, or only at a later one."""
        if self.pressed >= presses:
            raise KeyboardInterrupt
        self._raising = presses
        try:
            yield
        finally:
            self._raising = None
