import numpy as np
import pytest

from rlhf_theory.arrays import as_like, namespace, to_numpy
from rlhf_theory.core import Solution, closed_form
from rlhf_theory.errors import ConvergenceError


def solution(like, residual, converged, **more):
    mask = as_like(np.array(converged, dtype=float), like) > 0.5
    return Solution("policy", as_like(residual, like), mask, **more)


def test_closed_forms_have_residual_zero_and_converged(xp_like):
    done = closed_form("policy", 3, xp_like)
    np.testing.assert_array_equal(to_numpy(done.residual), np.zeros(3))
    assert to_numpy(done.converged).all()
    assert done.message == ""
    assert done.require() == "policy"


def test_given_converges_where_both_have(xp_like):
    plan = solution(xp_like, [1e-12, 1e-3, 1e-12, 0.5], [1, 0, 1, 0], hint="Raise the plan.")
    fit = solution(xp_like, [1e-9, 1e-9, 1.0, 2.0], [1, 1, 0, 0], hint="Raise ridge.")
    both = plan.given(fit)
    np.testing.assert_array_equal(to_numpy(both.residual), [1e-9, 1e-3, 1.0, 2.0])
    np.testing.assert_array_equal(to_numpy(both.converged), [True, False, False, False])
    assert both.hint == "Raise the plan. Raise ridge."
    assert namespace(both.residual) is namespace(xp_like)


def test_the_message_names_replicas_residual_and_remedy(xp_like):
    bad = solution(xp_like, [1e-12, 2.3e-2, np.inf], [1, 0, 0], n_iter=50, hint="Raise `ridge`.")
    assert bad.message == (
        "Replicas 1, 2 did not converge in 50 iterations (largest residual inf). Raise `ridge`."
    )
    with pytest.raises(ConvergenceError, match="Replicas 1, 2 did not converge"):
        bad.require()


def test_the_message_is_short_for_many_replicas():
    bad = Solution(None, np.ones(20), np.zeros(20, dtype=bool), 3)
    assert bad.message == (
        "Replicas 0, 1, 2, 3, 4, 5, 6, 7 ... did not converge in 3 iterations "
        "(largest residual 1.0e+00)."
    )
