"""Every theorem card against what readers and the runner count on; each study has its own test."""

import io
import json
import pickle
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from rlhf_theory.randomness import Key
from rlhf_theory.register import found
from rlhf_theory.theorems.card import Part, Theorem, sweep_data

STUDIES = Path(__file__).parents[1] / "theorems"

SMALL = {"replicas": 3, "block": 2, "contexts": 3, "actions": 4, "dim": 2}
"""What makes a sweep small where it has settings of these names."""

# What else makes the sweeps of cards so small that a study takes a second; none has to pass.
TINY = {
    "chi-squared": {"pairs": [100, 1000], "betas": [2e-3, 2.0, 4]},
    "confidence-coverage": {"norms": [1.0], "labels": [10], "growth": 0.5},
    "fast-rates": {"norms": [0.1, 1.0], "penalties": [1.0, 0.1], "pairs": [100, 1000]},
    "greedy-fails": {"pairs": [2, 20], "multipliers": [0.05, 0.2]},
    "nash-general-preference": {
        "worlds": {
            "logit": {"contexts": 2, "actions": 3, "dim": 2},
            "probability": {"contexts": 2, "actions": 3, "dim": 2},
        },
        "rounds": 1,
        "batch_size": 8,
        "multipliers": [1.0],
        "pairs": [30],
        "offline_multipliers": [1.0],
        "cycles": [0.0, 0.2],
        "dial_points": 2,
        "etas": [1.0],
    },
    "offline-pessimism": {
        "world": {"contexts": 2, "actions": 3, "dim": 2},
        "pairs": [100, 1000],
        "pairs_few": [100],
        "dims": [2],
        "coverages": [0.5],
        "peaks": [1.5],
        "pairs_fixed": 100,
        "rules": ["R1'"],
        "pairs_rules": [100],
        "small": {"contexts": 2, "actions": 3, "dim": 2},
        "pairs_likelihood": [100],
    },
    "online-against-offline": {"labels": [100, 400], "peak": 1.0},
    "online-hybrid": {"batch": 16, "rounds": 2, "offline": [50], "shown": 50},
    "online-optimism": {
        "batch": 16,
        "rounds": 2,
        "dims": [1, 2],
        "count_actions": 6,
        "count_replicas": 3,
        "count_rounds": 5,
    },
    "reward-hacking": {"labels": [30, 300], "best_of": [1, 4], "lcb": [1.0], "uwo": [0.5]},
}


def tiny(card):
    """A sweep of a card that takes about a second, in at least two blocks of replicas."""
    changes = {name: value for name, value in SMALL.items() if name in card.quick}
    sweep = {**card.quick, **changes}
    for name, value in TINY.get(card.name, {}).items():
        nested = isinstance(value, dict)
        sweep[name] = _joined(card.quick[name], value) if nested else value
    return sweep


def _joined(old, new):
    return {
        **old,
        **{k: _joined(old[k], v) if isinstance(v, dict) else v for k, v in new.items()},
    }


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


@pytest.mark.parametrize("mode", ["quick", "full"])
def test_parts_have_labels_of_their_own_and_plain_settings(card, mode):
    parts = card.parts(card.sweep(mode))
    assert parts
    labels = [part.label for part in parts]
    assert len(set(labels)) == len(labels)
    # Files are named by them.
    assert not any("/" in label or len(label.encode()) > 120 for label in labels)
    for part in parts:
        assert Part(json.loads(json.dumps(part.settings))) == part


def test_parts_in_any_order_and_place_gather_to_the_same_curves(card, name):
    sweep = tiny(card)
    parts = card.parts(sweep)
    assert len(parts) > 1
    curves = card.curves(sweep, Key(5).child(name))
    tables = []
    for part in reversed(parts):
        # As another process has it: nothing is shared, and tables come back from a file.
        settings, there, back = pickle.loads(pickle.dumps((sweep, part.settings, part)))
        assert back == Part(json.loads(json.dumps(there)))
        stream = io.BytesIO()
        card.measure(settings, back, Key(5).child(name)).to_parquet(stream, index=False)
        tables.insert(0, pd.read_parquet(stream))
    assert_frame_equal(card.gather(tables, sweep), curves, check_exact=True)
