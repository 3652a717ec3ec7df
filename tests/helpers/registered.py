"""Whatever has a name in the register, made from the examples that it brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_theory.register import Entry, found
from rlhf_theory.studies import registry
from rlhf_theory.studies.entries import find
from rlhf_theory.studies.resolve import Resolver


def resolved(entry: Entry, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of settings as a study file has them; fail with what is wrong with them."""
    mistakes: list[Any] = []
    resolver = Resolver(lambda path, text: mistakes.append((path, text)))
    spec = resolver._settings(entry, {"kind": entry.name, **settings}, ("example",))
    assert spec is not None, (entry.name, mistakes)
    return spec


def made(role: str, kind: str, **settings: Any) -> Any:
    """Return a learner or part from settings as a study file has them."""
    return registry.build_component(role, resolved(find(role, kind), settings))


def built_in(role: str) -> dict[str, Entry]:
    """Return what this package itself has of a role: tables, and no language models."""
    return {name: entry for name, entry in found(role).items() if entry.source == "built in"}


def examples(role: str) -> dict[str, dict[str, Any]]:
    """Return the settings of all examples of a role, ``kind`` included; further ones numbered.

    Those of this package: what trains language models has tests of its own.
    """
    return {
        f"{name}-{k}" if k else name: {"kind": name, **settings}
        for name, entry in built_in(role).items()
        for k, settings in enumerate(entry.facts.examples)
    }
