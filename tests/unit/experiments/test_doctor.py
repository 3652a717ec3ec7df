from __future__ import annotations

import subprocess

import numpy as np

from rlhf_theory.experiments import doctor


def test_versions_and_linear_algebra_are_found():
    found = doctor.findings()
    assert ("numpy", np.__version__) in found
    assert any(what == "linear algebra" and "thread" in line for what, line in found)
    assert {"python", "system", "cores", "GPU", "extra [llm]"} <= {what for what, _ in found}


def test_extras_are_those_of_the_package(monkeypatch):
    lines = ["numpy>=2", 'some-dist>=1,<2; extra == "big"', "torch ; extra == 'big'"]
    lines += ['thing[part]>=3; python_version > "3" and extra == "small"', 'ruff; extra == "dev"']
    monkeypatch.setattr(doctor, "requires", lambda _name: lines)
    assert doctor.extras() == {"big": ("some-dist", "torch"), "small": ("thing",)}

    def missing(_name):
        raise doctor.PackageNotFoundError

    monkeypatch.setattr(doctor, "requires", missing)
    assert doctor.extras() == {}


def test_missing_parts_of_an_extra_are_named():
    assert doctor._extra(("numpy", "no-such-package")) == (
        f"numpy {np.__version__}; missing: no-such-package"
    )
    assert doctor._extra(("numpy",)) == f"numpy {np.__version__}"


def test_gpus_are_those_of_the_driver(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda _name: None)
    assert doctor._gpus() == ["none (no nvidia-smi)"]
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    done = subprocess.CompletedProcess([], 0, stdout="A card, 80 GiB, 1.2\nAnother, 8 GiB, 1.2\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_a, **_k: done)
    assert doctor._gpus() == ["A card, 80 GiB, 1.2", "Another, 8 GiB, 1.2"]
    done.returncode = 9
    assert doctor._gpus() == ["none that nvidia-smi reports"]


def test_a_driver_that_hangs_is_reported(monkeypatch):
    def hang(*_a, **_k):
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    monkeypatch.setattr(doctor.subprocess, "run", hang)
    assert doctor._gpus()[0].startswith("unknown")
