"""A study in one line."""

from __future__ import annotations

import html

from rlhf_theory.studies.fields import StudyFields
from rlhf_theory.studies.items import count_cells


def counts_of(study: StudyFields) -> str:
    """Return how much there is: ``"3 worlds, 2 learners, 6 cells, 64 replicas"``."""
    seeds, blocks = (
        len(swept) if isinstance(swept, tuple) else 1 for swept in (study.seed, study.block)
    )
    cells = count_cells(study.world_items, study.learner_items, seeds=seeds, blocks=blocks)
    counts = {
        "world": len(study.world_items),
        "learner": len(study.learner_items),
        "cell": cells,
        "replica": study.replicas,
    }
    return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())


def html_of(study: StudyFields) -> str:
    """Return a small piece of HTML for notebooks: the counts, and the labels of the entries."""
    title = f"<br>{html.escape(study.title)}" if study.title else ""
    rows = "".join(
        f"<br>{word}: {', '.join(html.escape(item.label) for item in items[:_MOST])}"
        + (f" and {len(items) - _MOST} more" if len(items) > _MOST else "")
        for word, items in (("worlds", study.world_items), ("learners", study.learner_items))
    )
    return f"<div><b>{html.escape(study.name)}</b>: {counts_of(study)}{title}{rows}</div>"


_MOST = 12  # labels
