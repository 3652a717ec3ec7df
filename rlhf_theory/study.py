"""A study and its results as people use them: run, look, draw, report.

Two classes in one place, because each gives the other. What they do lies in the layers below, which
know a study as data and its results as tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_theory.engine.execution import Tally
from rlhf_theory.store import folder_study
from rlhf_theory.studies.folder import MADE_BY, StudyFolder
from rlhf_theory.studies.origins import stored_origins
from rlhf_theory.studies.plot_specs import PlotSpec
from rlhf_theory.studies.result import ResultTables
from rlhf_theory.studies.running import default_folder, run_study
from rlhf_theory.studies.schema import StudyData

if TYPE_CHECKING:
    from rlhf_theory.plots.studies import StudyFigure


class Study(StudyData):
    """Learners in worlds: a sweep as data.

    A study file says the same in TOML, with one table per ``world``, ``learner`` and ``plot``.

    Attributes
    ----------
    name
        Letters, digits, ``-``, ``_`` and ``.``; the folder of the results.
    title
        One line.
    seed
        Seed of data and learners, or a grid of them; all cells share it, so that comparisons are
        paired.
    replicas
        Replicas per cell.
    block
        Replicas that advance together (or a grid); part of the keys of results, because it fixes
        the last bits.
    rounds
        Rounds of online learners.
    pairs
        Increasing numbers of pairs of offline learners; data are nested.
    record
        What is kept.
    worlds, learners
        The entries as given, as plain data. Objects of learners are welcome as entries, and so are
        names.
    plots
        Figures.
    quick
        What `from_toml` changes for ``quick=True``.
    run_options
        How to run; the table ``run`` of a file.

    Raises
    ------
    StudyError
        With one line per mistake.

    Examples
    --------
    >>> import rlhf_theory as rt
    >>> study = Study(
    ...     name="first",
    ...     worlds=[{"kind": "linear", "dim": {"grid": [2, 4]}}],
    ...     learners=[rt.OnlineIterative(batch_size=8), "offline-greedy"],
    ...     rounds=10,
    ...     pairs=[10, 100],
    ...     replicas=8,
    ... )
    >>> [(cell.world_label, cell.learner_label) for cell in study.cells()][:2]
    [('linear dim=2', 'online-iterative'), ('linear dim=2', 'offline-greedy')]
    """

    def run(self, out: Path | str | None = None, **options: Any) -> StudyResult:
        """Run the study, or go on with it; return its results. See `studies.running.run_study`.

        Parameters
        ----------
        out
            Folder of the results; ``results/NAME`` unless given.
        options
            ``jobs``, ``backend`` and the others of `studies.running.run_study`.
        """
        tally = run_study(self, out, **options)
        result = StudyResult(default_folder(self) if out is None else out, self)
        result.tally = tally
        return result


class StudyResult(ResultTables):
    """The results in the folder of a study, finished or not.

    Parameters
    ----------
    folder
        Folder that ``run`` has written.
    study
        The study; None reads the one that is stored in the folder.

    Attributes
    ----------
    folder, study, cells
        Where results are, the study, and its cells.
    tally
        How the run ended that returned this result; None for a result that was opened.

    Raises
    ------
    ValueError
        If the folder holds no study.
    """

    study: Study

    def __init__(self, folder: Path | str, study: Study | None = None) -> None:
        super().__init__(folder, _stored_study(Path(folder)) if study is None else study)
        self.tally: Tally | None = None

    def plot(self, spec: PlotSpec | str = "suboptimality", **settings: Any) -> StudyFigure:
        """Return a figure with its caption; ``.save("folder/name")`` writes it.

        Parameters
        ----------
        spec
            What to draw, or a kind of ``rlhf-theory list plots``.
        **settings
            Settings of `PlotSpec`, with a kind.
        """
        if isinstance(spec, str):
            spec = PlotSpec.of(spec, **settings)
        # Here, so that matplotlib stays out of runs that draw nothing.
        from rlhf_theory.plots.studies import study_figure  # noqa: PLC0415

        return study_figure(self.curves, spec, {cell.key: cell.settings() for cell in self.cells})

    def report(self) -> Path:
        """Write figures, tables and the page of the study into its folder; return the page."""
        from rlhf_theory.report.study_report import write_study_report  # noqa: PLC0415 (as above)

        return write_study_report(self)


def _stored_study(folder: Path) -> Study:
    """Return the study in a folder, trusted as it stands there."""
    if (folder_study(folder) or {}).get("made_by") != MADE_BY:
        message = f"{folder} must be the folder of a study, one that `rlhf-theory run` has written."
        raise ValueError(message)
    table = StudyFolder(folder).resolved()
    return Study.from_resolved(table, stored_origins(folder, table))
