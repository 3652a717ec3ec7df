"""Losses are tested by automatic differentiation: without torch these modules are left out."""

from __future__ import annotations

import importlib.util

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
