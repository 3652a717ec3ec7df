"""Fixtures of all tests: an array of each library, and a key."""

from __future__ import annotations

import os
import signal

# A shell starts what it puts into the background with Ctrl-C ignored, and children inherit that;
# the tests that interrupt a command would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before NumPy is imported: one thread per process, so that workers do not fight over the cores,
# figures without a window, and no hub of models is asked for anything.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from rlhf_theory.randomness import Key

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")


def _cuda() -> bool:
    """Return whether torch is installed and sees a CUDA device."""
    try:
        import torch  # noqa: PLC0415
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


# On CUDA too where there is a device; listed only then, so that nobody reads a thousand skips.
LIBRARIES = ("numpy", "strict", "strict-device1", "torch", *(("cuda",) if _cuda() else ()))


def library_array(name: str) -> Any:
    """Return a float64 array of shape (1,) of one array library; skip where it is missing."""
    if name == "numpy":
        return np.zeros(1)
    if name == "strict":
        return array_api_strict.asarray([0.0], dtype=array_api_strict.float64)
    if name == "strict-device1":
        # A device that is not the default: finds missing `device=` arguments without a GPU.
        device = array_api_strict.Device("device1")
        return array_api_strict.asarray([0.0], dtype=array_api_strict.float64, device=device)
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch.zeros(1, dtype=torch.float64, device="cuda" if name == "cuda" else "cpu")


@pytest.fixture(params=LIBRARIES)
def xp_like(request: pytest.FixtureRequest) -> Any:
    """A float64 array, shape (1,), of each array library and device in turn.

    Convert inputs by ``as_like(values, xp_like)`` and results by ``to_numpy``.
    """
    return library_array(request.param)


@pytest.fixture
def key() -> Key:
    """The key with seed 0."""
    return Key(seed=0)
