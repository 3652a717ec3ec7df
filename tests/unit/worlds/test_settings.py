"""Worlds record the settings that they were made with."""

import inspect

import numpy as np
import pytest

from tests.helpers.registered import built_in, examples

CASES = examples("world")


@pytest.mark.parametrize("case", CASES)
def test_a_world_says_what_it_was_made_with(case):
    """Every setting that is recorded is the one that was given, or the default."""
    settings = dict(CASES[case])
    make = built_in("world")[settings.pop("kind")].thing
    parameters = inspect.signature(make).parameters
    try:
        world = make(**settings, replicas=1)
    except TypeError:
        pytest.skip("a recipe, or made of parts by name")
    given = {
        n: p.default for n, p in parameters.items() if p.default is not inspect.Parameter.empty
    }
    given |= settings
    shared = set(world.settings) & set(given)
    assert shared
    for name in shared:
        if isinstance(given[name], (int, float, str, bool, type(None))):
            assert world.settings[name] == given[name], name
    assert np.isfinite(world.problem.eta)
    if "eta" in given:
        assert world.problem.eta == given["eta"]
