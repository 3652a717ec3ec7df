import numpy as np

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.trust_region import ball_minimum


def test_ball_minimum_satisfies_its_optimality_conditions(xp_like):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(40, 3, 3)) * np.array([1.0, 0.1, 1e-4])
    hessian, gradient = np.swapaxes(root, 1, 2) @ root, rng.normal(size=(40, 3))
    w, beta = 0.1 * rng.normal(size=(40, 3)), rng.uniform(0.0, 3.0, size=40)
    beta[0] = 0.0
    u = to_numpy(ball_minimum(*(as_like(v, xp_like) for v in (hessian, gradient, w, beta))))
    norm = np.linalg.norm(u, axis=-1)
    assert np.all(norm <= beta * (1 + 1e-12))
    assert np.all(u[0] == 0.0)
    slope = gradient + np.einsum("rij,rj->ri", hessian, u - w)
    # The slope points from the boundary inwards: slope = -mu u, mu >= 0; and mu = 0 inside.
    mu = -np.sum(slope * u, axis=-1)[1:] / norm[1:] ** 2
    assert np.all(mu >= -1e-10)
    assert np.allclose(slope[1:], -mu[:, None] * u[1:], atol=1e-9)
    assert np.all((mu < 1e-9) | (norm[1:] > beta[1:] * (1 - 1e-9)))


def test_directions_that_nothing_sees_get_no_part():
    hessian = np.array([[[2.0, 0.0], [0.0, 0.0]]])
    null = np.array([[[0.0, 0.0], [0.0, 1.0]]])
    gradient, w = np.array([[2.0, 0.0]]), np.array([[0.0, 0.7]])
    u = ball_minimum(hessian, gradient, w, np.array([5.0]), null)
    assert np.allclose(u, [[-1.0, 0.0]])


def test_a_flat_model_goes_to_the_boundary_against_its_gradient():
    u = ball_minimum(np.zeros((1, 2, 2)), np.array([[3.0, 4.0]]), np.zeros((1, 2)), np.array([2.0]))
    assert np.allclose(u, [[-1.2, -1.6]])
