"""An ensemble of trained reward models on disk: one folder with a folder for each member."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm_bridge.jobs.variants import ENSEMBLE, TRUNK
from llm_bridge.language.loading import written
from llm_bridge.rewards.trained import TrainedReward
from llm_bridge.storage.records import clear, write_record


def save_members(folder: Path, members: Sequence[TrainedReward]) -> None:
    """Write reward models; the file that says that they are complete comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder / ENSEMBLE)
    for k, member in enumerate(members):
        member.save(folder / str(k))
    records = [f"{k}/{TRUNK}" for k in range(len(members))]
    about = {"kind": "reward ensemble", "members": len(members)}
    write_record(folder / ENSEMBLE, about, records)


def is_ensemble(folder: Path) -> bool:
    """Return whether a folder holds what `save_members` wrote."""
    return (folder / ENSEMBLE).is_file()


def members_of(folder: Path) -> list[Path]:
    """Return the folders of the members; ``ModelError`` where the record of them is damaged."""
    n = written(folder / ENSEMBLE)["members"]
    return [folder / str(k) for k in range(n)]
