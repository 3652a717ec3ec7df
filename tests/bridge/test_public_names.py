"""The package's front door: every public name loads, and importing it alone stays light."""

import pickle
import subprocess
import sys
from dataclasses import fields
from typing import get_type_hints

import pytest

import llm_bridge

SETTINGS = (
    "DPOPlanner",
    "DirectPreference",
    "Imitation",
    "IterativeDirect",
    "LoRA",
    "SelfPlay",
    "TrainingSettings",
)


@pytest.mark.parametrize("name", llm_bridge.__all__)
def test_every_public_name_loads(name):
    assert getattr(llm_bridge, name).__name__ == name


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'DPO'"):
        llm_bridge.DPO  # noqa: B018


def test_the_front_door_and_the_command_import_no_torch():
    code = (
        "import sys, llm_bridge, llm_bridge.commands;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_oracles_and_learners_import_no_torch():
    """Nor pandas: a planner is made, compared and printed before a model is thought of."""
    code = (
        f"import sys, llm_bridge; made = [getattr(llm_bridge, n)() for n in {SETTINGS}];"
        "repr(made); heavy = {'torch', 'transformers', 'pandas'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_plain_values(name):
    cls = getattr(llm_bridge, name)
    one = cls()
    assert one == cls()
    assert hash(one) == hash(cls())
    assert pickle.loads(pickle.dumps(one)) == one
    assert all(f.kw_only for f in fields(cls))
    # What a schema or a command needs to know of a field can be read off it.
    assert get_type_hints(cls).keys() >= {f.name for f in fields(cls)}
