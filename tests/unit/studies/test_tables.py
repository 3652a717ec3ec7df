from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rlhf_theory.studies.tables import about_of, difference


def table(rounds, replicas=(0, 1), **columns):
    """A table whose columns are functions of replica and round, NaN in the last round of b."""
    r, t = np.repeat(replicas, len(rounds)), np.tile(rounds, len(replicas))
    b = np.where(t == max(rounds), np.nan, 1.0 * r - t)
    return pa.table({"replica": r, "round": t, "a": r + 0.1 * t, "b": b, **columns})


def changed(old, name, row, value):
    values = old[name].to_numpy().copy()
    values[row] = value
    return old.set_column(old.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize("longer", [(0, 1, 2, 3, 4, 5), (0, 1, 2, 3), (0, 2, 4, 8), (4, 5)])
def test_a_longer_table_repeats_the_shorter_one_on_the_rounds_of_both(longer):
    # The last round of the shorter one had not been played; and round 3 leaves a coarser grid.
    assert difference(table((0, 1, 2, 3)), table(longer)) is None


@pytest.mark.parametrize(
    ("name", "row", "value", "says"),
    [
        ("a", 5, 7.0, "a of replica 1 at round 1 was 1.1 and is now 7.0"),
        # To the last bit.
        ("a", 5, np.nextafter(1.1, 2), "a of replica 1 at round 1 was 1.1 and is now 1.1"),
        ("b", 0, np.nan, "b of replica 0 at round 0 was -0.0 and is now nan"),
        ("b", 0, np.inf, "b of replica 0 at round 0"),
    ],
)
def test_a_difference_is_told_with_its_place(name, row, value, says):
    old, new = table((0, 1, 2, 3)), table((0, 1, 2, 3))
    # `b` is 0 there.
    assert says.replace("-0.0", "0.0") in str(difference(old, changed(new, name, row, value)))


def test_a_value_that_was_not_a_number_must_stay_so_before_the_last_round():
    old = changed(table((0, 1, 2)), "b", 0, np.nan)
    assert difference(old, old) is None
    assert "was nan and is now 0.0" in str(difference(old, table((0, 1, 2, 3))))


def test_other_columns_are_a_difference():
    assert "columns" in str(difference(table((0, 1)), table((0, 1), c=np.zeros(4))))


def test_before_any_round_it_is_not_known_what_rounds_report():
    start, more = table((0,)), table((0, 1), c=np.zeros(4))
    assert difference(start, more) is None
    assert "columns" in str(difference(table((0,), c=np.zeros(2)), table((0, 1))))
    assert "a of replica 1 at round 0" in str(difference(start, changed(more, "a", 2, 7.0)))


def test_fits_on_numbers_of_pairs_are_compared_to_the_last():
    def fits(**columns):
        return table((10, 20), **columns).rename_columns({"round": "pairs"})

    assert difference(fits(), fits()) is None
    # There is no round after the last fit that could report something.
    assert "b of replica 0 at pairs 20 was nan" in str(
        difference(fits(), changed(fits(), "b", 1, 0.0))
    )
    assert "columns" in str(difference(fits(), fits(c=np.zeros(4))))
    assert "rows were by pairs; now they are not" in str(difference(fits(), table((10, 20))))


def test_a_table_without_our_metadata_is_none_of_ours():
    with pytest.raises(ValueError, match="format must be 3; got None"):
        about_of(table((0, 1)))
