import numpy as np
import pandas as pd
import pytest

from rlhf_theory.theorems.frames import by_replica, select

FRAME = pd.DataFrame(
    {
        "learner": ["a", "a", "a", "a", "b", "b"],
        "replica": [1, 0, 1, 0, 0, 1],
        "pairs": [100, 100, 10, 10, 10, 10],
        "gap": [4.0, 3.0, np.nan, 1.0, 9.0, 8.0],
    }
)


def test_rows_have_all_of_the_values():
    assert select(FRAME, learner="a", pairs=10)["gap"].tolist()[1:] == [1.0]
    assert len(select(FRAME)) == 6
    assert select(FRAME, learner="c").empty


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_in_any_order_become_a_line_per_replica(seed):
    part = select(FRAME, learner="a").sample(frac=1.0, random_state=seed)
    at, gap = by_replica(part, "pairs", "gap")
    assert at.tolist() == [10.0, 100.0]
    # NaN stays where it was: it is no missing row.
    assert np.array_equal(gap, [[1.0, 3.0], [np.nan, 4.0]], equal_nan=True)


def test_a_replica_of_nan_alone_keeps_its_line():
    part = pd.DataFrame({"replica": [0, 1], "pairs": 10, "gap": [np.nan, 2.0]})
    at, gap = by_replica(part, "pairs", "gap")
    assert at.tolist() == [10.0]
    assert np.array_equal(gap, [[np.nan], [2.0]], equal_nan=True)
