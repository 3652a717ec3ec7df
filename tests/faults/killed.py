"""Computes a case, and is killed again and again: ``python -m tests.faults.killed CASE FOLDER N``.

The case is computed in ``FOLDER/0``, from its beginning or from where the killed one was, by
processes that are killed at random moments; when it has come to its end, the next one is begun in
``FOLDER/1``, until ``N`` were killed. The last one is left alone. A program of its own, because
forking a test process that has threads is not safe.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from rlhf_theory.randomness import Key
from tests.faults.cases import CASES


def started(case: str, folder: Path) -> int:
    """Return the number of a process that computes."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            CASES[case].run(folder, "serial")
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def main(case: str, folder: Path, kills: int) -> None:
    CASES[case].run(folder / "0", "serial")  # here, for what it imports: once, not in each process
    begun = time.monotonic()
    if os.waitpid(started(case, folder / "1"), 0)[1]:
        sys.exit("The first one has failed.")
    took, killed, k = time.monotonic() - begun, 0, 2
    for number in range(100 * kills):
        child = started(case, folder / str(k))
        moment = Key(0).child("moment", number).uniform_numpy(1, 1).item() * took
        end = time.monotonic() + moment
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.005)
        if ended[0] == 0 and killed < kills:
            os.kill(child, signal.SIGKILL)
        _, status = ended if ended[0] else os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        k += status == 0
        if os.WIFEXITED(status) and status:
            sys.exit(f"Process {number} has failed: {status}.")
        if killed == kills and status == 0:
            break
    sys.stdout.write(f"{killed} killed, {k} whole\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
