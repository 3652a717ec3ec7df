from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from rlhf_theory.report.filters import facets
from rlhf_theory.report.tables import Table, table_of

FRAME = pd.DataFrame(
    {
        "world": ["easy", "hard"],
        "first": ["A", "A"],
        "second": ["B", "C"],
        "mean": [0.1 + 0.2, np.nan],
        "lower": [-1.0, np.nan],
        "upper": [np.inf, 2.0],
        "n": pd.array([3, None], dtype="Int64"),
        "flag": [True, False],
    }
)
COLUMNS = {"World": "world", "Mean": "mean", "95 %": ("lower", "upper"), "n": "n", "Flag": "flag"}


def test_a_table_of_a_frame_writes_sorts_and_tags_its_rows():
    table = table_of(FRAME, COLUMNS, tags={"world": "world", "learner": ["first", "second"]})
    assert table.columns == ["World", "Mean", "95 %", "n", "Flag"]
    assert table.cells == [
        ["easy", "0.3", "−1 to ∞", "3", "True"],
        ["hard", "–", "–", "–", "False"],
    ]
    assert table.keys == [
        ["easy", "0.30000000000000004", "-1.0", "3", "True"],
        ["hard", "", "", "", "False"],
    ]
    assert table.numeric == [False, True, True, True, False]
    assert table.sortable
    assert table.tags == [
        {"world": ["easy"], "learner": ["A", "B"]},
        {"world": ["hard"], "learner": ["A", "C"]},
    ]


def test_the_file_of_a_table_has_all_digits():
    read = pd.read_csv(io.StringIO(table_of(FRAME, COLUMNS).to_csv()))
    assert list(read.columns) == ["World", "Mean", "95 %, lower", "95 %, upper", "n", "Flag"]
    assert read["Mean"][0] == FRAME["mean"][0]
    assert read["95 %, upper"][0] == np.inf
    assert read.isna().sum().to_dict() == {
        "World": 0,
        "Mean": 1,
        "95 %, lower": 1,
        "95 %, upper": 0,
        "n": 1,
        "Flag": 0,
    }


def test_infinities_sort_as_a_script_reads_them():
    table = Table(columns=["a"], rows=[[-np.inf], [np.inf], [1e-300], [(2, 3)], [np.nan], [None]])
    assert [key for (key,) in table.keys] == ["-Infinity", "Infinity", "1e-300", "2", "", ""]


def test_a_table_without_rows_and_without_tags():
    table = table_of(FRAME.iloc[:0], COLUMNS)
    assert (table.rows, table.cells, list(table.tags)) == ([], [], [])


def test_unknown_columns_and_missing_tags_are_refused():
    with pytest.raises(ValueError, match="medium"):
        table_of(FRAME, {"Mean": "medium"})
    with pytest.raises(ValueError, match="worlds"):
        table_of(FRAME, COLUMNS, tags={"world": "worlds"})
    with pytest.raises(ValueError, match="one per row, 2; got 1"):
        Table(columns=["a"], rows=[[1], [2]], tags=[{}])


def test_choices_come_in_the_order_met_and_only_where_there_are_two():
    tags = [{"world": "b", "plot": "x"}, {"world": ["a", "b"], "other": ["p", "q"]}, {}]
    (world,) = facets({"plot": "Plot", "world": "World"}, tags, {"a": "first of all"})
    assert (world.name, world.title) == ("world", "World")
    assert world.options == (("b", "b"), ("a", "first of all"))
