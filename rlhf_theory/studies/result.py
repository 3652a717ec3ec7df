"""What a study has found: tidy tables, summaries, comparisons and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from rlhf_theory.errors import check_choice, check_nonnegative
from rlhf_theory.evaluation.resampling import Interval
from rlhf_theory.evaluation.sequences import confidence_sequence
from rlhf_theory.evaluation.statistics import mean_interval, quantiles
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.ends import last_rows
from rlhf_theory.studies.findings import comparisons, rates, scores
from rlhf_theory.studies.folder import StudyFolder
from rlhf_theory.studies.identities import Older, as_on_disk, older
from rlhf_theory.studies.looks import Look
from rlhf_theory.studies.pairing import (
    BY,
    By,
    History,
    Pair,
    at_equal_labels,
    at_equal_places,
    at_last_common,
    history,
)
from rlhf_theory.studies.places import PLACES, placed, without_empty
from rlhf_theory.studies.registry import build_world
from rlhf_theory.studies.schema import StudyData
from rlhf_theory.worlds.recipe import WorldRecipe

Level = Literal["curves", "final"]

_ABOUT = ("cell", "world", "learner", "family", "metric")


class ResultTables:
    """The results in the folder of a study, finished or not, as tables.

    Parameters
    ----------
    folder
        Folder that ``run`` has written.
    study
        The study.

    Attributes
    ----------
    folder, study, cells
        Where results are, the study, and its cells.
    """

    def __init__(self, folder: Path | str, study: StudyData) -> None:
        self.folder = StudyFolder(Path(folder))
        self.study = study
        self.cells: list[Cell] = self.study.cells()

    def __repr__(self) -> str:
        counts, name = self.counts(), type(self).__name__
        return (
            f"{name}({self.study.name!r}: {len(self.cells)} cells, {counts['done']} of "
            f"{counts['blocks']} blocks done, {counts['failed']} failed)"
        )

    def _repr_html_(self) -> str:
        """Return the summary as a table, for notebooks."""
        head = f"<p><code>{self!r}</code></p>"
        if self.counts()["done"] == 0:
            return head
        table = self.summary().to_html(index=False, float_format="{:.4g}".format, border=0)
        return f"{head}{table}"

    def look(self) -> Look:
        """Look through the folder; `counts`, `status` and `failures` take it and look no more."""
        return self.folder.look(self.cells)

    def counts(self, look: Look | None = None) -> dict[str, int]:
        """Return numbers of blocks: ``blocks``, ``done``, ``failed`` and ``missing``."""
        table = self.status(look)
        found = {name: int(table[name].sum()) for name in ("blocks", "done", "failed")}
        return found | {"missing": found["blocks"] - found["done"] - found["failed"]}

    def status(self, look: Look | None = None) -> pd.DataFrame:
        """Return blocks done, failed and in all, and seconds of computing, per cell.

        ``older`` counts blocks of older code than that of today's files. The blocks that are done
        are among them where the code was changed after they were computed.
        """
        look = self.look() if look is None else look
        zero = {"done": 0, "failed": 0, "blocks": 0, "seconds": 0.0}
        sums = {cell.key: dict(zero) for cell in self.cells}
        failed = set(look.failed)
        for task in look.tasks:
            row, name = sums[task.cell.key], task.name
            row["blocks"] += 1
            row["done"] += name in look.done
            row["failed"] += name in failed
            held = look.held.get(name)
            row["seconds"] += (held.seconds if held else None) or 0.0
        rows = [
            {"world": cell.world_label, "learner": cell.learner_label, "family": cell.family}
            | sums[cell.key]
            | {"older": sum(len(one.blocks) for one in results), "cell": cell.key}
            for cell, results in self.older()
        ]
        return without_empty(pd.DataFrame(rows))

    def older(self) -> list[tuple[Cell, list[Older]]]:
        """Return all cells, each with the results of older code than that of today's files."""
        now = [as_on_disk(cell) for cell in self.cells]
        found = older(self.folder.path, now)
        return [(cell, found.get(new.key, [])) for cell, new in zip(self.cells, now, strict=True)]

    def failures(self, look: Look | None = None) -> pd.DataFrame:
        """Return the blocks that failed.

        Columns ``world``, ``learner``, ``block``, ``error``, ``where`` (file and line) and
        ``traceback``.
        """
        by_key = {cell.key: cell for cell in self.cells}
        rows = []
        for name, record in self.folder.records(look or self.look()).items():
            key, _, block = name.partition("/")
            cell = by_key[key]
            said = [str(record.get(part, "")) for part in ("error", "where", "traceback")]
            rows.append((cell.world_label, cell.learner_label, block, *said))
        columns = ["world", "learner", "block", "error", "where", "traceback"]
        return pd.DataFrame(rows, columns=columns)

    # ----------------------------------------------------------------------------- tables

    @cached_property
    def curves(self) -> pd.DataFrame:
        """What `to_pandas` returns a copy of; read once, and not to be changed."""
        rows = self.folder.read(self.cells)
        if rows.empty:
            message = f"{self.folder.path} holds no results yet; run the study first."
            raise ValueError(message)
        about = pd.DataFrame([_about(cell) for cell in self.cells]).set_index("cell")
        place = rows["cell"].map({key: k for k, key in enumerate(about.index)}).to_numpy(dtype=int)
        columns: dict[str, object] = {"cell": rows["cell"].astype(str).to_numpy()}
        for name in about.columns:
            if name in _ABOUT or len(set(about[name])) > 1:
                columns[name] = about[name].to_numpy()[place]
        return pd.concat([pd.DataFrame(columns), rows.drop(columns="cell")], axis=1)

    def to_pandas(self, level: Level = "curves") -> pd.DataFrame:
        """Return one row per cell, replica and recorded round (or number of pairs).

        Parameters
        ----------
        level
            ``"curves"``, or ``"final"`` for the last row of every replica.

        Returns
        -------
        Columns ``cell`` (key), ``world``, ``learner``, ``family``, ``metric`` (the name of the
        world's metric), the settings that vary over the study (``world.dim``, ...), ``replica``,
        ``round`` (of online learners) or ``pairs`` (of offline ones; a study with both has both
        columns, and a row one value), ``labels`` (that the policy has used), ``regret`` (of the
        rounds before) and everything that was recorded.
        """
        check_choice("level", level, ("curves", "final"))
        table = self.curves if level == "curves" else self._ends(None, None)
        return without_empty(table.drop(columns=["counted", "place"], errors="ignore"))

    def _ends(self, metric: str | None, at: float | None) -> pd.DataFrame:
        """Return the last rows of all replicas, at or before ``at``; see `ends.last_rows`."""
        if metric is not None:
            known = [name for name in self._recorded if self.curves[name].notna().any()]
            check_choice("metric", metric, known)
        return last_rows(self.curves, metric, at)

    def _by_cell(
        self, metric: str | None, at: float | None = None, *, whole: bool = False
    ) -> Iterator[tuple[str, pd.Series, pd.DataFrame]]:
        """Yield the name of the metric, the first row and the rows of every cell that has it."""
        ends = self._ends(metric, at)
        table = self.curves[self.curves["cell"].isin(ends["cell"])] if whole else ends
        for _, part in table.groupby("cell", sort=False):
            yield metric or str(part["metric"].iloc[0]), part.iloc[0], part

    @cached_property
    def _recorded(self) -> list[str]:
        """Names of recorded numbers."""
        after = list(self.curves.columns).index("replica")
        return [c for c in self.curves.columns[after + 1 :] if c not in PLACES]

    def summary(
        self,
        at: float | None = None,
        metrics: Sequence[str] | None = None,
        *,
        anytime: bool = False,
    ) -> pd.DataFrame:
        """Return mean, 95 % bootstrap interval and 5-95 % quantiles over replicas, per cell.

        Parameters
        ----------
        at
            Round or number of pairs; the last recorded one at or before it. None for the end.
        metrics
            Names of metrics; None takes the metric of each world.
        anytime
            The interval is the last of a confidence sequence: it holds also for people who look,
            add replicas and look again. About 1.6 times as long at 256 replicas.
        """
        rows = []
        for chosen in (None,) if metrics is None else metrics:
            for metric, first, part in self._by_cell(chosen, at):
                values = part.sort_values("replica")[metric].to_numpy(dtype=float)
                interval = _last(values) if anytime else mean_interval(values)
                with np.errstate(invalid="ignore"):  # between infinite values
                    spread = quantiles(values, (0.05, 0.5, 0.95))
                rows.append(
                    {name: first[name] for name in ("world", "learner", "family")}
                    | {"metric": metric, "round": first["round"], "pairs": first["pairs"]}
                    | {"labels": part["labels"].mean(), "replicas": values.size}
                    | {"mean": interval.value, "lower": interval.lower, "upper": interval.upper}
                    | dict(zip(("q05", "median", "q95"), map(float, spread), strict=True))
                )
        return without_empty(pd.DataFrame(rows))

    # ----------------------------------------------------------------------------- comparisons

    def values(
        self, metric: str | None = None, at: float | None = None
    ) -> dict[str, dict[str, pd.Series]]:
        """Return the metric by world and learner, each by number of the replica.

        One replica of two learners in one world is a pair: both met the same contexts and the
        same label noise. A learner with failed blocks lacks their replicas; a metric that is NaN
        counts as infinite, the worst.
        """
        found: dict[str, dict[str, pd.Series]] = {}
        for name, first, part in self._by_cell(metric, at):
            values = part.set_index("replica")[name].sort_index().fillna(np.inf)
            found.setdefault(first["world"], {})[first["learner"]] = values
        return found

    def compare(
        self,
        first: str | None = None,
        second: str | None = None,
        *,
        baseline: str | None = None,
        metric: str | None = None,
        by: By = "labels",
        at: float | None = None,
        level: float = 0.95,
        anytime: bool = False,
    ) -> pd.DataFrame:
        """Compare learners world by world, replica by replica, at equal numbers of labels.

        Parameters
        ----------
        first, second
            Labels of two learners; all pairs if none is given.
        baseline
            One learner that all others are compared with.
        metric
            The metric, smaller is better; None takes the world's.
        by
            What is equal: ``"labels"``; or ``"rounds"`` of learners that play, ``"pairs"`` of those
            with offline data, whose labels may differ then.
        at
            Number of labels: the metric is linear in their logarithm between recorded rows, never
            beyond them. Of rounds and pairs the last recorded one at or before it. None: the last
            that both learners have, in every replica of its own.
        level
            Coverage of the intervals.
        anytime
            For people who look, add replicas and look again: confidence sequences, which hold for
            all rows and at every number of replicas at once, in the place of the bootstrap and the
            tests. A winner is one whose interval leaves out 0.

        Returns
        -------
        One row per world and pair: columns ``world``, ``first``, ``second``, ``by``, ``at`` (where
        both are, mean over replicas), and those of `evaluation.comparisons.to_frame`. Holm's
        correction is over all rows. ``attrs["left_out"]`` says which pairs are not there and why.

        Raises
        ------
        ValueError
            For an unknown learner, for one learner alone, and for learners that have nothing to
            compare: no world, or no number of labels, that both have.
        """
        if (first is None) != (second is None) or (first is not None and baseline is not None):
            message = (
                "compare takes two learners, or a baseline, or none of them for all pairs; got "
                f"first={first!r}, second={second!r}, baseline={baseline!r}."
            )
            raise ValueError(message)
        check_choice("by", by, BY)
        if at is not None:
            check_nonnegative("at", at)
        known = dict.fromkeys(cell.learner_label for cell in self.cells)
        for name in (first, second, baseline):
            if name is not None:
                check_choice("learner", name, known)
        chosen: str | list[tuple[str, str]] = baseline or "all"
        if first is not None and second is not None:
            chosen = [(first, second)]
        if by == "labels":
            pairs, left = at_equal_labels(self.histories(metric), chosen, at)
        else:
            pairs, left = self._at_places(metric, by, chosen, at)
        if not pairs:
            where = f" at {at:g} {by}" if at is not None else f" by {by}"
            message = (
                f"There is nothing to compare{where}. {'; '.join(left)}."
                if left
                else "Learners must share a world, and replicas there, to be compared; none do."
            )
            raise ValueError(message)
        table = comparisons(pairs, by, level, anytime=anytime)
        table.attrs["left_out"] = left
        return table

    def histories(self, metric: str | None = None) -> dict[str, dict[str, History]]:
        """Return the metric against labels, by world and learner; NaN counts as the worst."""
        found: dict[str, dict[str, History]] = {}
        for name, row, part in self._by_cell(metric, whole=True):
            own = found.setdefault(row["world"], {})
            own[row["learner"]] = history(_worst_for_nan(part, name, metric), name)
        return found

    def _at_places(
        self, metric: str | None, by: By, pairs: str | list[tuple[str, str]], at: float | None
    ) -> tuple[list[Pair], list[str]]:
        """Return pairs at equal rounds or pairs, world by world, and what is left out."""
        found, left = list[Pair](), list[str]()
        for _, part in self.curves.groupby("world", sort=False):
            name = metric or str(part["metric"].iloc[0])
            if part[name].notna().any():
                rows = _worst_for_nan(part, name, metric)
                some, others = at_equal_places(rows, name, by, pairs, at)
                found, left = found + some, left + others
        return found, left

    def rates(
        self,
        window: tuple[float, float] | None = None,
        *,
        metric: str | None = None,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Return the slope of the log mean curve in log labels per cell, with a bootstrap.

        The definition of a slope is that of `evaluation.statistics.slope_bootstrap`. Learners ask
        for different numbers of labels in a round, and fewer the surer they are: only in labels
        slopes are of one kind.

        Parameters
        ----------
        window
            Smallest and largest number of labels, mean over replicas; None takes the last two
            thirds of the recorded decades. Choose it before looking.
        metric, level
            As in `compare`.
        """
        curves = {}
        for name, row, part in self._by_cell(metric, whole=True):
            recorded = placed(part[part[name].notna()])
            table = recorded.pivot_table(index="replica", columns="place", values=name)
            labels = recorded.groupby("place")["labels"].mean()[table.columns]
            # Of rounds in which nobody got a label the last one counts.
            latest = ~labels.duplicated(keep="last").to_numpy()
            curves[row["world"], row["learner"], name] = table.set_axis(labels, axis=1).loc[
                :, latest
            ]
        return rates(curves, window, level)

    def scores(self, level: float = 0.95) -> pd.DataFrame:
        """Return a score in [0, 1] per learner and family of worlds, and over all worlds.

        1 is the optimal policy, 0 one that is no better than pi0; see `evaluation.scores`. In every
        world and replica all learners are taken at the last number of labels that all have; one
        that has no results there yet, or failed in a replica, has no score, nor has one that is not
        in every world of a family.
        """
        # What pi0 is worth is asked of the world; one of a language model would be made for it.
        reference: dict[str, np.ndarray] = {}
        families: dict[str, str] = {}
        for cell in self.cells:
            if cell.world_label not in reference:
                world = build_world(cell.world, cell.replicas)
                if isinstance(world, WorldRecipe):
                    continue
                reference[cell.world_label] = world.evaluate(ReferencePolicy())[str(cell.metric)]
                families[cell.world_label] = cell.family
        values = {world: at_last_common(own) for world, own in self.histories().items()}
        return scores(values, reference, families, level)

    # ----------------------------------------------------------------------------- files

    def export(self, path: Path | str, level: Level = "curves") -> Path:
        """Write the table of `to_pandas` as ``.csv`` or ``.parquet``; return the path."""
        target = Path(path)
        check_choice("suffix", target.suffix, (".csv", ".parquet"))
        table = self.to_pandas(level)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".csv":
            table.to_csv(target, index=False)
        else:
            table.to_parquet(target, index=False)
        return target


def _worst_for_nan(part: pd.DataFrame, name: str, chosen: str | None) -> pd.DataFrame:
    """Return rows in which the metric of the world is infinite where it could not be computed.

    A metric that was chosen may not be there at all: what a round reports is known one round later.
    """
    return part.assign(**{name: part[name].fillna(np.inf)}) if chosen is None else part


def _last(values: np.ndarray) -> Interval:
    """Return the last interval of the confidence sequence of some replicas."""
    found = confidence_sequence(values)
    return Interval(*(float(part[-1]) for part in (found.value, found.lower, found.upper)))


def _about(cell: Cell) -> dict[str, object]:
    return {
        "cell": cell.key,
        "world": cell.world_label,
        "learner": cell.learner_label,
        "family": cell.family,
        "metric": cell.metric,
        **cell.settings(),
    }
