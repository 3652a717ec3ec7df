"""The commands of SLURM, as far as submitit uses them, with processes of this machine for jobs.

``install(folder)`` puts ``sbatch``, ``sacct``, ``scancel`` and ``srun`` there. What they know of
jobs is in ``folder/jobs``: ``<job>.script``, and ``<job>_<task>.pid`` and ``.state`` (without the
task for a job that is no array).
"""

from __future__ import annotations

import sys
from pathlib import Path

_SBATCH = """
import os, re, shlex, subprocess
script = open(sys.argv[-1]).read()
number = 100 + len(list(jobs.glob("*.script")))
(jobs / f"{number}.script").write_text(script)
words = shlex.split([line for line in script.splitlines() if line.startswith("srun")][0])
logs, command = words[words.index("--error") + 1], shlex.join(words[words.index("--error") + 2 :])
array = re.search(r"--array=0-(\\d+)", script)
for task in range(int(array.group(1)) + 1) if array else [None]:
    name = str(number) if task is None else f"{number}_{task}"
    settings = dict(SLURM_JOB_ID=number) if task is None else dict(
        SLURM_JOB_ID=f"9{number}{task}", SLURM_ARRAY_JOB_ID=number, SLURM_ARRAY_TASK_ID=task
    )
    settings |= dict(
        SLURM_NTASKS=1, SLURM_JOB_NUM_NODES=1, SLURM_NODEID=0, SLURM_PROCID=0, SLURM_LOCALID=0,
        SLURM_JOB_NODELIST="here", SUBMITIT_EXECUTOR="slurm",
    )
    log = logs
    for place, value in (("%j", number), ("%A", number), ("%a", task)):
        log = log.replace(place, str(value))
    log = log.replace("%t", "0")
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, "ab") as stream:
        job = subprocess.Popen(
            ["sh", "-c", f"{command}; echo $? > {jobs / name}.state"], start_new_session=True,
            env={**os.environ, **{key: str(value) for key, value in settings.items()}},
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
        )
    (jobs / f"{name}.pid").write_text(str(job.pid))
print(f"Submitted batch job {number}")
"""

_SACCT = """
print("JobID|State|NodeList")
for pid in sorted(jobs.glob("*.pid")):
    ended = pid.with_suffix(".state")
    said = ended.read_text().strip() if ended.exists() else ""
    state = {"": "RUNNING", "0": "COMPLETED", "gone": "CANCELLED"}.get(said, "FAILED")
    print(f"{pid.stem}|{state}|here")
"""

_SCANCEL = """
import os, signal
for name in sys.argv[1:]:
    try:
        os.killpg(int((jobs / f"{name}.pid").read_text()), signal.SIGKILL)
    except ProcessLookupError:
        continue
    (jobs / f"{name}.state").write_text("gone")
"""


def install(folder: Path) -> Path:
    """Write the commands; return the folder of the jobs."""
    jobs = folder / "jobs"
    jobs.mkdir(parents=True)
    head = f"#!{sys.executable}\nimport pathlib, sys\njobs = pathlib.Path({str(jobs)!r})\n"
    for name, body in (("sbatch", _SBATCH), ("sacct", _SACCT), ("scancel", _SCANCEL), ("srun", "")):
        (folder / name).write_text(head + body)
        (folder / name).chmod(0o755)
    return jobs
