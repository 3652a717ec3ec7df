"""The Parquet file of one block: what a run recorded, as a tidy table that describes itself.

It carries digests of what was written, so that a flipped bit is no other number, and no NaN. The
bytes depend on the cell, the replicas, the rounds and the installed versions, never on the time or
the machine, so that an interrupted run and an undisturbed one leave identical files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rlhf_theory.engine.seals import describe, read_table, says_of
from rlhf_theory.errors import ShapeError, check_choice
from rlhf_theory.experiments.trace import Trace
from rlhf_theory.store import DamagedError, Json
from rlhf_theory.studies.former import former_results
from rlhf_theory.studies.recording import recorded_rounds

if TYPE_CHECKING:
    from rlhf_theory.studies.cells import Cell

FORMAT = 3
"""Of the block files; raised when their columns change meaning."""

REPEATED = ("replica", "round", "pairs")
"""Columns of a block whose values are the same again and again."""

_PLACE = ("replica", "round", "pairs", "labels", "regret")
# The tables of results have these columns too, and one for every setting.
_RESERVED = (
    *_PLACE, "counted", "place", "cell", "world", "learner", "family", "metric", "seed", "block",
)  # fmt: skip
_SETTINGS = ("world.", "learner.")


@dataclass(frozen=True, kw_only=True)
class About:
    """What a block file says about itself.

    Attributes
    ----------
    key
        Key of the cell.
    first, stop
        Replicas ``first .. stop - 1``.
    rounds
        Rounds ``T`` that it holds; None for an offline cell.
    metric
        The primary metric, whose sum over rounds is ``regret``; None for an offline cell that
        keeps everything.
    digest
        Of all that it says about itself, with the digests of its columns.
    """

    key: str
    first: int
    stop: int
    rounds: int | None
    metric: str | None
    digest: str

    def serves(self, cell: Cell) -> bool:
        """Return whether the block needs no further computing for the cell as it is now."""
        return serves(cell, self.rounds, self.metric)


def serves(cell: Cell, rounds: int | None, metric: str | None) -> bool:
    """Return whether a block with such rounds and metric needs no further computing for a cell.

    They are not in the key of a cell: they may have changed since.
    """
    enough = rounds is None or cell.rounds is None or rounds >= cell.rounds
    return enough and (metric is None or cell.metric in (None, metric))


def block_table(cell: Cell, first: int, stop: int, trace: Trace) -> pa.Table:
    """Return the table of one block, replica by replica, in order of rounds.

    Parameters
    ----------
    cell
        The cell: which metrics and rounds are kept.
    first, stop
        Replicas of the block.
    trace
        What `run` recorded of these replicas.

    Returns
    -------
    Columns ``replica``; ``round`` or ``pairs``; ``labels``, those that the policy of the row has
    used; ``regret`` if online, the metric of the cell summed over the policies played before the
    row; and the metrics, in the order in which they were recorded.

    Of metrics that are asked for, those are kept that this cell has, for not all worlds and
    learners of a study have the same; and the primary metric of the cell, which summaries need.

    Raises
    ------
    ValueError
        If none of the metrics that are asked for was recorded, or the primary one was not, or a
        recorded name is one of our columns, or has not one value per replica.
    """
    online = trace.index_name == "round"
    found = {name: values for name, values in trace.arrays.items() if name != "labels"}
    _check_names(found)
    _check_shapes(trace, stop - first)
    # An offline file only has to say it where the metric decides what is kept.
    metric = _metric(cell, found) if online or cell.metrics is not None else None
    # In the order of what was recorded, so that the order of the wishes changes no byte.
    wanted = set(found) if cell.metrics is None else {*cell.metrics, metric}
    chosen = [name for name in found if name in wanted]
    # What rounds report is not known before the first one.
    if cell.metrics is not None and not (online and len(trace.index) == 1):
        _check_some(cell.metrics, found)

    columns: dict[str, np.ndarray] = {"labels": trace["labels"]}
    if online and metric is not None:
        # Summed before rounds are dropped; row t counts the policies of the rounds before it.
        sums = np.cumsum(found[metric][:, :-1], axis=1)
        columns["regret"] = np.concatenate([np.zeros((stop - first, 1)), sums], axis=1)
    columns |= {name: found[name] for name in chosen}

    kept = np.arange(len(trace.index))
    if online:
        kept = recorded_rounds(len(trace.index) - 1, cell.grid, cell.points)
    place = {
        "replica": np.repeat(np.arange(first, stop, dtype=np.int32), len(kept)),
        trace.index_name: np.tile(trace.index[kept].astype(np.int64), stop - first),
    }
    about = {
        "format": FORMAT,
        "key": cell.key,
        "first": first,
        "stop": stop,
        "rounds": cell.rounds,
        "metric": metric,
        "versions": trace.settings.get("versions", {}),
    }
    table = pa.table(place | {name: v[:, kept].ravel() for name, v in columns.items()})
    return describe(table, about)


def _check_names(found: dict[str, np.ndarray]) -> None:
    """Raise ``ValueError`` for a recorded name that a column of a table has."""
    clash = [name for name in found if name in _RESERVED or name.startswith(_SETTINGS)]
    if clash:
        message = (
            f"A recorded name must not be taken by a column of every table: {', '.join(clash)}. "
            "Report it under another name, without 'world.' or 'learner.' in front."
        )
        raise ValueError(message)


def _check_shapes(trace: Trace, replicas: int) -> None:
    """Raise ``ShapeError`` unless all that was recorded has one value per replica."""
    who = "step" if trace.index_name == "round" else "the evaluation of the world"
    for name, values in trace.arrays.items():
        got = (*values.shape[:1], *values.shape[2:])
        if got != (replicas,):
            message = (
                f"{who} must record {name!r} with shape (R,) = ({replicas},), one value per "
                f"replica; got {got}."
            )
            raise ShapeError(message)


def _check_some(metrics: Sequence[str], found: dict[str, np.ndarray]) -> None:
    """Raise ``ValueError`` if nothing is there of what is asked for."""
    if any(name in found or name in _PLACE for name in metrics):
        return
    for name in metrics:
        check_choice("metric", name, found)


def _metric(cell: Cell, found: dict[str, np.ndarray]) -> str:
    """Return the name of the primary metric, which regret sums."""
    if cell.metric is None:
        return next(name for name in ("gap", "exploitability", *found) if name in found)
    check_choice("metric", cell.metric, found)
    return cell.metric


def read_block(
    path: Path, cell: Cell, columns: Sequence[str] | None = None
) -> tuple[pa.Table, About]:
    """Read a block file and check that it is what was written, and a block of the cell.

    Parameters
    ----------
    path
        The file.
    cell
        The cell that it must belong to.
    columns
        Which columns, of those that it has; None for all. The others are not read.

    Raises
    ------
    DamagedError
        If the file is none of ours, is cut off, or is not what was written.
    OSError
        If it cannot be opened or read.
    """
    table, says, names = read_table(path, "a block of a study", columns, _check_format)
    about = _about(says)
    if (about.key, f"r{about.first:06d}-{about.stop:06d}") != (path.parent.name, path.stem):
        message = f"{path} must hold the block that its name says; it holds {about}."
        raise DamagedError(message)
    wrong = _not_of_cell(cell, about, names, table)
    if wrong:
        message = f"{path} must be a block of {cell.learner_label} in {cell.world_label}; {wrong}."
        raise DamagedError(message)
    return table, about


def _not_of_cell(cell: Cell, about: About, names: Sequence[str], table: pa.Table) -> str:
    """Say why columns or rows are not those of a cell; empty where they are."""
    index = "round" if cell.online else "pairs"
    needed = ["replica", index, "labels", *(["regret"] if cell.online else [])]
    needed += [about.metric] if about.metric else []
    absent = [name for name in needed if name not in names]
    if absent:
        return f"it lacks {', '.join(absent)}"
    if cell.metrics is not None:
        more = set(names) - {*needed, *cell.metrics}
        if more:
            return f"it has {', '.join(sorted(more))}, which the cell does not record"
    kept = np.asarray(cell.pairs)
    if cell.online:
        kept = recorded_rounds(about.rounds or 0, cell.grid, cell.points)
    replicas = range(about.first, about.stop)
    rows = {"replica": np.repeat(replicas, len(kept)), index: np.tile(kept, len(replicas))}
    for name in (n for n in rows if n in table.column_names):
        if not np.array_equal(table[name].to_numpy(), rows[name]):
            return f"its rows are other values of {name}"
    return ""


def about_of(table: pa.Table) -> About:
    """Return what the table of a block says about itself; `DamagedError` if it says nothing."""
    return _about(says_of(table, _check_format))


def _check_format(says: Json) -> None:
    if says.get("format") != FORMAT:
        message = former_results("it", says.get("format")) or (
            f"its format must be {FORMAT}; got {says.get('format')}"
        )
        raise DamagedError(message)


def _about(says: Mapping[str, Any]) -> About:
    known = ("key", "first", "stop", "rounds", "metric", "digest")
    return About(**{name: says[name] for name in known})


def rekeyed(table: pa.Table, key: str) -> pa.Table:
    """Return the table of a block as that of another cell."""
    return describe(table, {**says_of(table, _check_format), "key": key})


def difference(old: pa.Table, new: pa.Table) -> str | None:
    """Say where a longer run does not repeat a shorter one, or return None.

    Compared are the rounds (or numbers of pairs) that both hold, exactly. NaN equals NaN; and what
    the round played by the last policy of ``old`` reports was not known then. Before any round it
    was not even known what rounds report, so ``new`` may have more columns then.
    """
    index = "round" if "round" in old.column_names else "pairs"
    known, now = set(old.column_names), set(new.column_names)
    if index not in now:
        return f"the rows were by {index}; now they are not"
    t_old, t_new = (table[index].to_numpy() for table in (old, new))
    r_old, r_new = (table["replica"].to_numpy() for table in (old, new))
    last = t_old.max(initial=0) if index == "round" else None
    if not (known <= now if last == 0 else known == now):
        return f"the columns were {sorted(known)}; now {sorted(now)}"
    at_old, at_new = _shared_rows(r_old, t_old, r_new, t_new)
    for name in old.column_names:
        before, now = old[name].to_numpy()[at_old], new[name].to_numpy()[at_new]
        with np.errstate(invalid="ignore"):
            same = (before == now) | (np.isnan(before) & (np.isnan(now) | (t_old[at_old] == last)))
        if not same.all():
            k = int(np.argmin(same))
            where = f"replica {r_old[at_old][k]} at {index} {t_old[at_old][k]}"
            return f"{name} of {where} was {float(before[k])!r} and is now {float(now[k])!r}"
    return None


def _shared_rows(
    r_old: np.ndarray, t_old: np.ndarray, r_new: np.ndarray, t_new: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both tables that hold the same replica and round."""
    wide = int(max(t_old.max(initial=0), t_new.max(initial=0))) + 1
    old, new = (r.astype(np.int64) * wide + t for r, t in ((r_old, t_old), (r_new, t_new)))
    _, at_old, at_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    return at_old, at_new
