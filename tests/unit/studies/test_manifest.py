from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf_theory.studies.manifest import Held, Manifest

KNOWN = Held(size=100, seconds=2.0, rounds=5, metric="gap")


@pytest.mark.parametrize("change", [{"rounds": 9}, {"metric": "kl"}, {"size": 101}])
@pytest.mark.parametrize("written", [False, True])
def test_another_content_replaces_what_is_known_also_at_the_same_size(tmp_path, change, written):
    name = "a/r000000-000004"
    path = tmp_path / "cells" / f"{name}.parquet"
    path.parent.mkdir(parents=True)
    path.touch()
    Manifest(tmp_path).flush()
    one = Manifest(tmp_path)
    one.put(name, KNOWN)
    one.flush()
    # Read again, so that nobody knows what it took.
    now = replace(KNOWN, seconds=None, **change)
    two = Manifest(tmp_path)
    two.put(name, now)
    if written:
        two.flush()
        two = Manifest(tmp_path)
    assert two.get(name, now.size) == now


def test_the_same_content_keeps_what_it_took(tmp_path):
    one = Manifest(tmp_path)
    one.put("a/r", KNOWN)
    one.put("a/r", replace(KNOWN, seconds=None))
    assert one.get("a/r", 100) == KNOWN
    one.put("a/r", replace(KNOWN, seconds=3.0))
    assert one.get("a/r", 100).seconds == 3.0
    assert one.get("a/r", 99) is None


def test_what_another_process_knows_of_the_same_content_is_taken_over(tmp_path):
    other, one = Manifest(tmp_path), Manifest(tmp_path)
    one.put("a/r", replace(KNOWN, seconds=None))  # has read the manifest before
    other.put("a/r", KNOWN)
    other.flush()
    one.flush()
    assert Manifest(tmp_path).get("a/r", 100) == KNOWN
