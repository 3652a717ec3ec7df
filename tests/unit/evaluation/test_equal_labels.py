import numpy as np
import pytest

from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.equal_labels import LabelCurves, last_common

NAN = np.nan


def curves(labels, values):
    return LabelCurves(np.atleast_2d(np.array(labels, float)), np.atleast_2d(values))


@pytest.mark.parametrize("power", [-1.0, -0.5])
def test_it_is_linear_in_the_logarithm_between_rows_and_exact_on_them(power):
    rng = np.random.default_rng(0)
    labels = np.cumsum(rng.integers(1, 30, size=(5, 8)), axis=1).astype(float)
    slope, level = rng.normal(size=(2, 5, 1))
    found = LabelCurves(labels, level + slope * np.log(labels))
    for at in np.linspace(labels[:, 0].max(), labels[:, -1].min(), 7):
        expected = (level + slope * np.log(at))[:, 0]
        np.testing.assert_allclose(found.at(np.full(5, at)), expected, rtol=1e-12)
    values = labels**power
    own = LabelCurves(labels, values)
    for k in range(8):
        np.testing.assert_array_equal(own.at(labels[:, k]), values[:, k])
    # In between it lies between its neighbours.
    middle = np.sqrt(labels[:, 3] * labels[:, 4])
    np.testing.assert_allclose(own.at(middle), 0.5 * (values[:, 3] + values[:, 4]))


def test_nothing_is_known_beyond_the_rows_and_before_the_first_label():
    found = curves([0, 10, 20], [5.0, 3.0, 2.0])
    at = [found.at(np.array([x]))[0] for x in (0, 1, 9.9, 10, 20, 20.1)]
    np.testing.assert_array_equal(at, [5.0, NAN, NAN, 3.0, 2.0, NAN])
    assert (found.first()[0], found.last()[0]) == (10, 20)
    nothing = curves([0, 0], [5.0, 4.0])
    assert np.isnan(nothing.first()[0])
    assert nothing.at(np.zeros(1))[0] == 4.0  # of equal numbers of labels the last row counts


def test_rounds_without_a_label_and_rows_that_are_missing():
    found = curves([10, 10, NAN, 30, NAN], [3.0, 2.5, 9.0, 1.0, 9.0])
    assert found.at(np.array([10.0]))[0] == 2.5
    between = found.at(np.array([np.sqrt(300.0)]))[0]
    assert between == pytest.approx(0.5 * (2.5 + 1.0))
    assert found.last()[0] == 30
    gone = curves([10, 20], [1.0, NAN])
    assert gone.last()[0] == 10
    assert np.isnan(curves([10, 20], [NAN, NAN]).last()[0])


def test_the_worst_stays_the_worst():
    found = curves([10, 20, 40, 80], [np.inf, np.inf, 1.0, 2.0])
    values = [found.at(np.array([x]))[0] for x in (10, 15, 30, 60)]
    assert values[:3] == [np.inf, np.inf, np.inf]
    assert np.isfinite(values[3])


def test_the_last_common_number_is_of_every_replica():
    one = LabelCurves(np.array([[1.0, 9.0], [1.0, 5.0]]), np.zeros((2, 2)))
    two = LabelCurves(np.array([[2.0, 4.0], [2.0, 8.0]]), np.zeros((2, 2)))
    np.testing.assert_array_equal(last_common([one, two]), [4.0, 5.0])
    np.testing.assert_array_equal(one.rows(np.array([1])).last(), [5.0])
    with pytest.raises(ShapeError, match=r"labels and values must be \(R, T\)"):
        LabelCurves(np.zeros((2, 3)), np.zeros((2, 2)))
