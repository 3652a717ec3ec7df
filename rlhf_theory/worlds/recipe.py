"""Worlds that are made block by block, where they are computed: making one is dear."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

from rlhf_theory.core import World


class WorldRecipe(ABC):
    """A world of a study file that loads models or draws texts, and so is made by the workers.

    A study asks it for what can be said without making it: metrics, and the content of what its
    settings name by place. Its settings say ``replicas`` themselves, with a default, and each
    replica is a block. A setting ``folder`` is where it may keep files by content; where it is
    None, the run gives one.
    """

    @property
    @abstractmethod
    def n_replicas(self) -> int:
        """Number of replicas ``R``."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of what the world evaluates, the one that it is about first."""

    @abstractmethod
    def content(self) -> Mapping[str, object]:
        """Return hashes of what settings name by place, such as files and models, by setting.

        Plain data; of a user's function what `rlhf_theory.studies.registry.head_of` says. The key
        of results has them instead of the places. ``ValueError`` or ``OSError`` for what is not
        there.
        """

    def computing(self) -> AbstractContextManager[None]:
        """Return a context in which a block is made and run, such as one that sets threads."""
        return nullcontext()

    @abstractmethod
    def block(self, first: int, stop: int) -> World:
        """Make replicas ``first .. stop - 1``."""


@runtime_checkable
class Leaving(Protocol):
    """A world that leaves files beside the table of a block, such as weights and answers."""

    def leave(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Write them, once the run is over.

        Parameters
        ----------
        folder
            An empty folder of its own.
        settings
            What was run, as one flat table: ``learner.batch_size``, ``rounds`` ...
        """
        ...
