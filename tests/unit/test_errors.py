import math

import numpy as np
import pytest

from rlhf_theory import errors


@pytest.mark.parametrize("value", [0.0, -0.5, math.inf, math.nan])
def test_check_positive_says_name_and_value(value):
    with pytest.raises(ValueError, match=rf"^eta must be positive and finite; got {value}\.$"):
        errors.check_positive("eta", value)


@pytest.mark.parametrize("value", [-1e-300, math.inf, math.nan])
def test_check_nonnegative_refuses(value):
    with pytest.raises(ValueError, match="lam must be finite and at least 0"):
        errors.check_nonnegative("lam", value)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_check_probability_refuses(value):
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1"):
        errors.check_probability("delta", value)


def test_good_values_pass():
    errors.check_positive("eta", 1e-300)
    errors.check_nonnegative("lam", 0.0)
    errors.check_probability("delta", 1e-9)
    errors.check_shape("x", np.zeros((2, 3)), (2, None), "(R, n)")
    errors.check_choice("game", "logit", ("logit", "probability"))


@pytest.mark.parametrize("shape", [(2, 4), (3,), (2, 3, 1), ()])
def test_check_shape_tells_expected_and_got(shape):
    with pytest.raises(errors.ShapeError) as caught:
        errors.check_shape("wins", np.zeros(shape), (2, 3), "(R, n)")
    assert str(caught.value) == f"wins must have shape (R, n) = (2, 3); got {shape}."
    assert isinstance(caught.value, ValueError)


def test_check_choice_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'peaked'\?$"):
        errors.check_choice("reference", "peakd", ("uniform", "dirichlet", "peaked"))
    with pytest.raises(ValueError, match=r"got 'zzz'\.$"):
        errors.check_choice("reference", "zzz", ("uniform",))
