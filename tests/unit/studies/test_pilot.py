from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_theory.studies import pilot
from rlhf_theory.studies.blocks import Task
from rlhf_theory.studies.pilot import Estimate, estimate
from tests.helpers import study_cells, unruly
from tests.helpers.study_cells import HERE, Clock, offline_cell, online_cell


@pytest.fixture(autouse=True)
def _at_zero():
    Clock.now = 0.0


def tasks(folder, *cells):
    return [
        Task(folder=str(folder), cell=cell, first=a, stop=b)
        for cell in cells
        for a, b in cell.blocks()
    ]


def unruly_line(words):
    """Return the number of the line of the helpers that has these words."""
    lines = Path(study_cells.__file__).read_text(encoding="utf-8").splitlines()
    return next(k for k, line in enumerate(lines, 1) if words in line)


def slow(start=0.5, each=0.001, **changes):
    return online_cell(f"{HERE}:Slow", learner={"start": start, "each": each}, **changes)


def test_rounds_and_blocks_are_extrapolated_linearly(tmp_path):
    cell = slow(rounds=1000, replicas=100, block=16)
    found = estimate(tasks(tmp_path, cell), 2, budget=10.0, clock=Clock())
    # A block is 0.5 + 1000 * 16 * 0.001 = 16.5 s; six of them and a quarter.
    assert found.seconds == pytest.approx({cell.key: 16.5 * 6.25})
    assert found.wall == pytest.approx(16.5 * 6.25 / 2)
    assert found.longest == pytest.approx(16.5)
    assert Clock.now < 10.0
    assert not list(tmp_path.iterdir())


def test_where_a_block_is_too_much_few_replicas_are_tried(tmp_path):
    cell = slow(start=0.0, each=0.1, rounds=10, replicas=64, block=64)
    found = estimate(tasks(tmp_path, cell), 1, budget=5.0, clock=Clock())
    # Linear in replicas here, so that nothing is lost by it.
    assert found.total == pytest.approx(64 * 10 * 0.1)
    assert Clock.now < 5.0


def test_one_worker_cannot_share_a_block(tmp_path):
    cell = slow(rounds=100, replicas=8, block=8)
    found = estimate(tasks(tmp_path, cell), 16, clock=Clock())
    assert found.wall == found.longest == found.total == pytest.approx(0.5 + 0.8)


def test_fits_cost_more_along_a_line(tmp_path):
    pairs = (100, 200, 400, 800, 1600)
    settings = {"start": 1.0, "each": 0.001}
    cell = offline_cell(learner=settings, pairs=pairs)
    cell = replace(cell, learner={"kind": f"{HERE}:SlowFit", **settings}, block=8)
    found = estimate(tasks(tmp_path, cell), 1, budget=9.0, clock=Clock())
    # About two thirds of the pairs are labels: three actions, drawn twice.
    assert found.total == pytest.approx(5 * 1.0 + 0.001 * (2 / 3) * sum(pairs), rel=0.1)
    assert Clock.now < 9.0


def test_cells_without_time_cost_what_others_of_their_kind_do(tmp_path):
    cells = [slow(rounds=100, seed=k) for k in range(50)]
    longer = slow(rounds=200, seed=99)
    found = estimate(tasks(tmp_path, *cells, longer), 1, budget=5.0, clock=Clock())
    assert found.cells == 51
    assert 1 <= found.measured < 51
    assert Clock.now < 7.0
    # Two blocks of four replicas each: 0.9 s per block.
    assert found.seconds[cells[0].key] == pytest.approx(1.8)
    assert found.seconds[cells[40].key] == pytest.approx(1.8)
    assert found.seconds[longer.key] == pytest.approx(1.8 * 201 / 101)


def test_every_kind_of_learner_is_tried_early(tmp_path):
    cells = [slow(rounds=10, seed=k) for k in range(50)]
    other = online_cell()
    order = list(pilot._varied([*cells, other]))
    assert order[1] is other
    assert len(order) == 51


def test_what_cannot_be_run_is_told_with_its_line(tmp_path):
    bad = online_cell(f"{HERE}:Raising", learner={})
    found = estimate(tasks(tmp_path, bad), 1, budget=100.0)
    assert (found.measured, found.total) == (0, 0.0)
    line = unruly_line("raise {")
    said = f"ValueError: no good (study_cells.py, line {line})"
    assert found.errors == {"small/A": said}
    assert str(found).splitlines() == [
        "No estimate: none of the cells that were tried could be run.",
        f"could not be run: small/A: {said}",
    ]
    with_good = estimate(tasks(tmp_path, bad, slow(rounds=4)), 1, clock=Clock())
    assert with_good.measured == 1
    assert with_good.seconds[bad.key] > 0
    assert str(with_good).endswith(f"could not be run: small/A: {said}")


def test_cells_that_fail_alike_are_one_line(tmp_path):
    cells = [
        online_cell(f"{HERE}:Raising", learner={}, world_label=f"w{k}", seed=k) for k in range(3)
    ]
    other = online_cell(f"{HERE}:Raising", learner={"text": "worse"}, learner_label="B")
    found = estimate(tasks(tmp_path, *cells, other, online_cell()), 1, budget=100.0)
    assert sorted(found.errors) == ["small/B", "w0/A", "w1/A", "w2/A"]
    lines = str(found).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("could not be run: w0/A (and 2 more): ValueError: no good (")
    assert lines[2].startswith("could not be run: small/B: ValueError: worse (")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("Odd", "step must record 'mine' with shape (R,) = (4,), one value per replica; got (3,)"),
        ("Clashing", "A recorded name must not be taken by a column of every table: regret"),
    ],
)
def test_what_is_recorded_is_tried_too(tmp_path, kind, says):
    found = estimate(tasks(tmp_path, online_cell(f"{HERE}:{kind}", learner={})), 1, budget=100.0)
    assert says in found.errors["small/A"]


def test_errors_of_settings_of_what_is_built_in_have_a_line_too(tmp_path):
    found = estimate(tasks(tmp_path, online_cell(learner={"batch_size": "x"})), 1, budget=100.0)
    assert ".py, line " in found.errors["small/A"]


@pytest.mark.parametrize("how", [*unruly.DEADLY, *unruly.HARMFUL])
def test_whatever_a_learner_does_the_rest_is_estimated(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    bad = online_cell(f"{unruly.HERE}:Unruly", learner={"how": how})
    filters = list(warnings.filters)
    found = estimate(tasks(tmp_path, bad, online_cell()), 1, budget=100.0)
    assert found.measured == (1 if how in unruly.DEADLY else 2)
    assert (Path.cwd(), list(warnings.filters)) == (tmp_path, filters)


def test_ctrl_c_ends_an_estimate(tmp_path):
    bad = online_cell(f"{unruly.HERE}:Unruly", learner={"how": "is interrupted"})
    with pytest.raises(KeyboardInterrupt):
        estimate(tasks(tmp_path, bad), 1)


def test_real_cells_of_both_kinds(tmp_path):
    cells = [online_cell(offline_pairs=10, coverage=0.2), offline_cell(), online_cell(rounds=0)]
    found = estimate(tasks(tmp_path, *cells), 2, budget=100.0)
    assert found.measured == 3
    assert min(found.seconds.values()) > 0


def test_it_says_what_it_found():
    found = Estimate(seconds={"a": 300.0, "b": 100.0}, longest=9.0, jobs=2, measured=1, cells=2)
    assert str(found) == (
        "About 3 min 20 s with 2 workers (6 min 40 s of computing), good to a factor of two; "
        "1 of 2 cells were tried."
    )
    assert str(estimate([], 2)) == "Nothing is left to compute."


@pytest.mark.parametrize(("jobs", "budget"), [(0, 1.0), (1, 0.0)])
def test_mistakes(jobs, budget):
    with pytest.raises(ValueError, match="must be positive"):
        estimate([], jobs, budget=budget)
