"""Write what the study files of this folder name: the tiny world's model and its prompts.

    python -m benchmarks.llm.tiny_files [FOLDER]

FOLDER is results/tiny unless said, where the files look. Half a minute, unless a cache has the
model.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from llm_bridge.tiny import build


def write(folder: Path) -> None:
    """Write ``model/`` and ``prompts.txt``, the first 320 of the prompts to learn from."""
    world = build()
    shutil.copytree(world.folder, folder / "model", dirs_exist_ok=True)
    (folder / "prompts.txt").write_text("\n".join(world.prompts[:320]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(*sys.argv[1:2] or ["results/tiny"]))
