"""Without a GPU: nothing of the bridge is left on the host when the model is elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.factories import OFFLINE, ONLINE
from tests.helpers.second_device import SUPPORTED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def walk():
    """What each part of the walk found; a process of its own, since the device stays registered."""
    if not SUPPORTED:
        pytest.skip("this torch cannot register a device from Python")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    # No limit of time: it is a minute and a half of one core, however long that takes here.
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.device_walk"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_part_gives_the_numbers_of_the_cpu(walk):
    assert {"log-probabilities", "sampler", "problem", *ONLINE, *OFFLINE} <= set(walk)
    wrong = {name: value for name, value in walk.items() if isinstance(value, str) or value > 1e-8}
    assert not wrong
