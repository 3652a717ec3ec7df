"""The package's front door: every public name loads, and importing it alone stays light."""

import subprocess
import sys

import pytest

import llm_bridge


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
