from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from rlhf_theory.randomness import Key
from rlhf_theory.register import named
from rlhf_theory.theorems.card import Check, Part, Verdict, sweep_data
from tests.helpers.fake_theorems import fake


def verdict(**changes):
    parts = {
        "name": "a",
        "title": "A",
        "claim": "c",
        "source": "s",
        "version": 1,
        "passed": True,
        "replicas": 4,
        "seed": 0,
        "seconds": 1.5,
        "mode": "quick",
        "checks": (
            Check(name="x", measured=1.0, interval=None, required="any", passed=True),
            Check(name="y", measured=math.inf, interval=(-math.inf, 2.0), required="", passed=True),
        ),
        "assumptions": ("one", "two"),
        "constants": {"beta": np.float64(2.0), "word": "yes"},
        "sweep": {"replicas": np.int64(4), "pairs": (1, 2)},
    }
    return Verdict(**{**parts, **changes})


def test_a_verdict_survives_json():
    text = json.dumps(verdict().to_json(), allow_nan=False)
    back = Verdict.from_json(json.loads(text))
    assert back.checks == verdict().checks
    assert back.assumptions == ("one", "two")
    assert back.sweep == {"replicas": 4, "pairs": [1, 2]}
    assert back.to_json() == verdict().to_json()


def test_a_verdict_has_the_promised_keys():
    content = verdict().to_json()
    assert {"name", "claim", "source", "passed", "replicas", "seed", "seconds", "mode"} <= {
        *content
    }
    assert set(content["checks"][0]) == {"name", "measured", "interval", "required", "passed"}


@pytest.mark.parametrize(
    "content", [{}, {"name": "a"}, {**verdict().to_json(), "checks": [{"name": "x"}]}]
)
def test_an_incomplete_verdict_is_refused(content):
    with pytest.raises(ValueError, match="verdict must have"):
        Verdict.from_json(content)


def test_sweeps_compare_equal_after_json():
    sweep = {"pairs": (1, 2), "eta": np.float64(0.1), "deep": {"k": [np.int64(3)]}}
    assert sweep_data(sweep) == {"pairs": [1, 2], "eta": 0.1, "deep": {"k": [3]}}


def test_another_number_of_replicas_replaces_that_of_the_mode(tmp_path):
    theorem = fake("a", tmp_path)
    assert theorem.sweep("full")["replicas"] == 8
    assert theorem.sweep("quick", 7)["replicas"] == 7
    assert theorem.quick["replicas"] == 4


def test_parts_are_computed_in_order(tmp_path):
    def measure(sweep, part, key):
        return pd.DataFrame({"x": [part.settings["x"], sweep["add"] + key.seed]})

    theorem = fake(
        "a", tmp_path, parts=lambda sweep: [Part({"x": x}) for x in sweep["xs"]], measure=measure
    )
    curves = theorem.curves({"xs": [3, 1, 2], "add": 10}, Key(7))
    assert curves["x"].tolist() == [3, 17, 1, 17, 2, 17]
    assert curves.index.tolist() == list(range(6))


def test_a_card_may_gather_what_needs_all_parts(tmp_path):
    theorem = fake(
        "a",
        tmp_path,
        parts=lambda sweep: [Part({"x": 1}), Part({"x": 2})],
        measure=lambda sweep, part, key: pd.DataFrame({"x": [part.settings["x"]]}),
        gather=lambda tables, sweep: pd.DataFrame({"sum": [sum(t["x"].sum() for t in tables)]}),
    )
    assert theorem.curves({}, Key(0))["sum"].tolist() == [3]


def test_a_card_that_is_not_cut_has_one_part(tmp_path):
    theorem = fake("a", tmp_path)
    assert [part.label for part in theorem.parts(theorem.quick)] == ["all"]


def test_an_unknown_theorem_gets_the_nearest_name():
    with pytest.raises(ValueError, match="Did you mean 'fast-rates'"):
        named("theorem", "fast-rate")
