"""A learner that does to its process what no learner should."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_theory.algorithms.online_iterative import OnlineIterative

HERE = "tests.helpers.unruly"

DEADLY = ("exits", "stops", "mumbles", "is mute")
HARMFUL = ("wanders", "deafens")


class StopEverythingError(BaseException):
    """What `except Exception` does not catch."""


class MuteError(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@dataclass(frozen=True, eq=False, kw_only=True)
class Unruly:
    """Does ``how`` at every step; ``wanders`` and ``deafens`` leave their traces and go on."""

    how: str = "exits"

    def init(self, problem: Any, data: Any, key: Any) -> Any:
        return OnlineIterative().init(problem, data, key)

    def policy(self, state: Any) -> Any:
        return OnlineIterative().policy(state)

    def step(self, state: Any, problem: Any, feedback: Any, key: Any) -> Any:
        match self.how:
            case "exits":
                sys.exit("bye")
            case "stops":
                raise StopEverythingError("stop")
            case "mumbles":
                # Half a character, as in the name of a file that is no UTF-8.
                raise ValueError("no such file: caf\udce9")
            case "is mute":
                raise MuteError
            case "is interrupted":
                raise KeyboardInterrupt
            case "wanders":
                os.chdir("/")
            case "deafens":
                warnings.simplefilter("ignore")
                warnings.showwarning = print
                np.seterr(all="ignore")
        return OnlineIterative().step(state, problem, feedback, key)
