"""Every backend against its protocol, with real workers; a cluster is one on this machine."""

from dataclasses import fields
from typing import Any

import pytest

from rlhf_theory.engine.attempts import Attempt
from rlhf_theory.engine.backends import BackendError, make_backend
from rlhf_theory.register import found

HANGS = 300.0
HERE: dict[str, dict[str, Any]] = {"slurm": {"cluster": "local"}}
"""Settings of those that would look for a cluster of somebody else."""

SLOW = {"dask", "ray"}
"""Clusters that take long to start; the tests of faults start one of each in every run."""


@pytest.fixture(params=found("backend"))
def name(request):
    return request.param


@pytest.fixture(
    params=[pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in found("backend")]
)
def opened(request):
    return request.param


@pytest.fixture
def pool(opened, tmp_path):
    try:
        workers = make_backend(opened, HERE.get(opened)).open(2, tmp_path)
    except BackendError as error:
        pytest.skip(str(error))
    yield workers
    workers.close(kill=False)


def divided(x: int) -> float:
    return 12 / x


def test_it_has_a_name_and_says_what_its_settings_are(name):
    kind = found("backend")[name].target
    assert kind.name == name
    assert make_backend(name) == kind()
    for setting in fields(kind):
        assert f"{setting.name}\n" in kind.__doc__, setting.name


def test_answers_come_in_the_order_of_the_calls_and_errors_with_them(pool, tmp_path):
    assert isinstance(pool.breaks, bool)
    assert isinstance(pool.here, bool)
    assert pool.width >= 1
    assert all(issubclass(death, BaseException) for death in pool.deaths)
    calls = [Attempt.of(divided, x, tmp_path / f"mark-{k}") for k, x in enumerate((1, 2, 0, 3))]
    answers = [future.result(HANGS) for future in pool.submit(calls)]
    # What a call raises is the trouble of that call, and no death of a worker.
    raised = answers.pop(2)
    assert "ZeroDivisionError" in raised.error
    assert [answer.value for answer in answers] == [12, 6, 4]
