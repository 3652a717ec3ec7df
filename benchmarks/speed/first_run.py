"""The first run of a session: world, learner and `rt.run` in a fresh process.

Against a process that imports `numpy, scipy.linalg, scipy.special`, which the linear algebra needs
in any case. Processes alternate, so that both meet the same machine; what is compared is processor
time, user and system, of whole processes (`os.wait4`), in the median.

    python benchmarks/speed/first_run.py [--repeats 15] [--out FILE.json]

Half a minute. The exit code is 1 if the target is missed: at most 1.5 times.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.timing import command_line, finish

LIBRARIES = "import numpy, scipy.linalg, scipy.special"
FIRST_RUN = """
import rlhf_theory as rt
world = rt.worlds.linear(contexts=20, actions=10, dim=8, eta=0.1, replicas=4, seed=0)
rt.run(rt.OnlineIterative(batch_size=32), world, rounds=2, seed=1)
"""
TARGET = 1.5


def seconds(program: str, bytecode: str) -> float:
    """Return the processor time of a Python process; ``bytecode`` is the folder of its cache."""
    told = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": bytecode}
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | told
    child = subprocess.Popen([sys.executable, "-c", program], env=env)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        message = f"A measured process ended with exit code {child.returncode}."
        raise RuntimeError(message)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measure both in turn; return 1 if the target is missed."""
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="processes of each kind")
    args = parser.parse_args()
    # Compiled once, as by an installation; the processes that do it are not measured.
    with tempfile.TemporaryDirectory() as cache:
        for program in (LIBRARIES, FIRST_RUN):
            seconds(program, cache)
        pairs = [
            (seconds(LIBRARIES, cache), seconds(FIRST_RUN, cache)) for _ in range(args.repeats)
        ]
    libraries, ours = (statistics.median(p[k] for p in pairs) for k in (0, 1))
    ratios = sorted(b / a for a, b in pairs)
    ratio = statistics.median(ratios)
    print(f"{LIBRARIES:<45} {libraries:.3f} s")
    print(f"{'first rt.run':<45} {ours:.3f} s")
    print(f"ratio {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} over {args.repeats} pairs)")
    met = ratio <= TARGET
    print(f"\ntarget {'met' if met else 'MISSED'}")
    told = {"met": met, "libraries": libraries, "first_run": ours, "ratio": ratio, "pairs": pairs}
    return finish(told, args.out)


if __name__ == "__main__":
    sys.exit(main())
