"""No default of anything public changes by accident: published numbers would with it."""

import json
from pathlib import Path

from tests.golden.defaults import defaults

STORED = Path(__file__).parents[1] / "golden" / "defaults.json"


def test_defaults_are_those_that_are_stored():
    """Meant to change? ``python -m tests.golden.defaults > tests/golden/defaults.json``."""
    stored, now = json.loads(STORED.read_text(encoding="utf-8")), defaults()
    changed = {
        f"{name}({setting})": (given.get(setting), now.get(name, {}).get(setting))
        for name, given in (stored | now).items()
        for setting in {**given, **now.get(name, {}), **stored.get(name, {})}
        if stored.get(name, {}).get(setting) != now.get(name, {}).get(setting)
    }
    assert changed == {}
