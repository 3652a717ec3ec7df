"""Every theorem card against what readers and the runner count on; each study has its own test."""

import json
from pathlib import Path

import pytest

from rlhf_theory.register import found
from rlhf_theory.theorems.card import Theorem, sweep_data

STUDIES = Path(__file__).parents[1] / "theorems"


@pytest.fixture(params=found("theorem"))
def name(request):
    return request.param


@pytest.fixture
def card(name):
    return found("theorem")[name].thing


def test_a_card_says_what_it_claims_and_what_it_assumes(card, name):
    assert isinstance(card, Theorem)
    assert card.name == name
    assert card.claim.endswith(".")
    assert card.source
    assert card.assumptions
    assert all(words.endswith(".") for words in (*card.assumptions, *card.departures))


def test_both_sweeps_are_plain_data_with_replicas(card):
    for sweep in (card.quick, card.full):
        assert sweep_data(json.loads(json.dumps(sweep_data(sweep)))) == sweep_data(sweep)
        assert sweep["replicas"] >= 1
    assert set(card.quick) == set(card.full)
    assert card.quick["replicas"] <= card.full["replicas"]
    assert card.version >= 1
    assert card.cost > 0


def test_its_study_is_tested(name):
    # Its verdict and, on doctored curves, that the verdict can fail.
    assert (STUDIES / f"test_{name.replace('-', '_')}.py").is_file()
