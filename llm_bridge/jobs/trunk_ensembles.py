"""An ensemble of trained reward models on disk: one folder with a folder for each member."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llm_bridge.rewards.trained import TrainedReward
from rlhf_theory.store import write_json

_FACTS = "ensemble.json"


def save_members(folder: Path, members: Sequence[TrainedReward]) -> None:
    """Write reward models; the file that says that they are complete comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FACTS).unlink(missing_ok=True)
    for k, member in enumerate(members):
        member.save(folder / str(k))
    write_json(folder / _FACTS, {"kind": "reward ensemble", "format": 1, "members": len(members)})


def is_ensemble(folder: Path) -> bool:
    """Return whether a folder holds what `save_members` wrote."""
    return (folder / _FACTS).is_file()


def members_of(folder: Path) -> list[Path]:
    """Return the folders of the members."""
    n = json.loads((folder / _FACTS).read_text(encoding="utf-8"))["members"]
    return [folder / str(k) for k in range(n)]
