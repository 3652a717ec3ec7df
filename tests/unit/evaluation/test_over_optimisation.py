import numpy as np
import pytest
from numpy.testing import assert_allclose

from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.over_optimisation import (
    drop_from_peak,
    over_optimisation_fit,
    over_optimisation_law,
    peak_distance,
)

DISTANCE = np.asarray([0.0, 0.2, 0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize("law", ["best-of-n", "rl"])
def test_fit_recovers_the_law(law):
    alpha, beta = np.asarray([[0.7], [1.1]]), np.asarray([[0.2], [0.5]])
    gold = over_optimisation_law(DISTANCE, alpha, beta, law)
    found = over_optimisation_fit(np.broadcast_to(DISTANCE**2, gold.shape), gold, law)
    assert_allclose(found, np.concatenate([alpha, beta], axis=1), rtol=1e-10)


def test_fit_is_least_squares(key):
    gold = key.normal_numpy(1, 6)
    expected = np.linalg.lstsq(np.stack([DISTANCE, -(DISTANCE**2)], axis=1), gold[0])[0]
    assert_allclose(over_optimisation_fit(DISTANCE[None] ** 2, gold, "best-of-n")[0], expected)


def test_laws_by_hand():
    assert_allclose(over_optimisation_law(2.0, 3.0, 0.5, "best-of-n"), 2 * (3 - 0.5 * 2))
    assert_allclose(over_optimisation_law(2.0, 3.0, 0.5, "rl"), 2 * (3 - 0.5 * np.log(2)))
    assert over_optimisation_law(0.0, 3.0, 0.5, "rl") == 0.0


def test_peak_and_drop():
    gold = np.asarray([[0.0, 0.3, 0.8, 0.5], [0.0, 0.1, 0.2, 0.3]])
    kl = np.asarray([[0.0, 1.0, 4.0, 9.0]] * 2)
    assert_allclose(drop_from_peak(gold), [0.3, 0.0])
    parabola = np.polyfit([1.0, 2.0, 3.0], gold[0, 1:], 2)
    assert_allclose(peak_distance(kl, gold), [-parabola[1] / (2 * parabola[0]), 3.0])
    # At either end of the path, and on a plateau, the point itself.
    assert_allclose(peak_distance(kl[:1], np.asarray([[0.5, 0.3, 0.2, 0.1]])), [0.0])
    assert_allclose(peak_distance(kl[:1], np.ones((1, 4))), [0.0])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'best-of-n'"):
        over_optimisation_law(1.0, 1.0, 1.0, "best-of")
    with pytest.raises(ShapeError, match="one shape"):
        over_optimisation_fit(np.zeros((1, 3)), np.zeros((1, 4)), "rl")
