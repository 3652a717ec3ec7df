"""Short runs of everything against numbers that were stored when they were last meant to change.

The record (`record.json`) exists only to make changes visible: it does not say which number is
right, other tests do. If a change is meant to move numbers, record it anew and say why:

    python -m tests.golden record-small

The same command with ``record`` and ``compare`` does it at length and to the bit, on one machine.
"""

from __future__ import annotations

import importlib.util

import pytest

from tests.golden import store
from tests.golden.cases import SMALL_RECORD, one_thread, small_cases, small_language

MODELS = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))

needs_models = pytest.mark.skipif(
    not MODELS, reason="the language-model side needs torch and transformers"
)


@pytest.fixture(scope="module")
def recorded():
    return store.read_text(SMALL_RECORD)


def check(recorded, cases, tolerance):
    """Compare cases with the record; one message for all that differ."""
    wrong = []
    for name, case in cases.items():
        assert name in recorded, f"{name} is not recorded: python -m tests.golden record-small"
        found = store.compare(recorded[name], store.as_arrays(case()))
        if not found.within(tolerance):
            wrong.append(f"{name}: {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", ["losses", "planners", "runs", "rules", "study", "cards"])
def test_numbers_are_those_of_the_record(recorded, part):
    if part == "losses":
        pytest.importorskip("torch")  # for the gradients
    cases = {name: c for name, c in small_cases().items() if name.startswith(f"{part}/")}
    assert cases
    check(recorded, cases, 1e-8)


@needs_models
def test_language_models_learn_what_the_record_says(recorded):
    one_thread()
    check(recorded, small_language(), 1e-3)


@needs_models
def test_the_record_has_no_case_that_nobody_computes(recorded):
    assert set(recorded) == {*small_cases(), *small_language()}


def test_a_difference_is_found_and_told():
    old = store.as_arrays({"a": [1.0, 2.0], "b": ["x"], "gone": 1})
    new = store.as_arrays({"a": [1.0, 2.0 + 2e-9], "b": ["y"], "fresh": 1})
    found = store.compare(old, new)
    assert (found.missing, found.new) == (("gone",), ("fresh",))
    assert (found.changed, found.odd) == (("a", "b"), ("b",))
    assert found.absolute == pytest.approx(2e-9, rel=1e-6)
    assert not found.within(1.0)
    near = store.compare({"a": old["a"]}, {"a": new["a"]})
    assert near.within(1e-8)
    assert not near.none
    assert not near.within(1e-10)
    assert store.compare(old, old).none
