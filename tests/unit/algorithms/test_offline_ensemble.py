import numpy as np
import pytest

from rlhf_theory.algorithms.offline_ensemble import EnsembleMinimum, UncertaintyWeighted
from rlhf_theory.estimators.ensembles import bootstrap_ensemble
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import linear

WORLD = linear(contexts=3, actions=4, dim=3, eta=0.2, replicas=4, seed=5, reference="dirichlet")
DATA = WORLD.offline_data(Key(0), 60)


def members(learner):
    """Centred rewards of the members that a learner with key 1 fits, shape (K, R, X, A)."""
    ensemble = bootstrap_ensemble(DATA, Key(1).child("ensemble"), n_members=5, ridge=1.0)
    phi, pi0 = WORLD.problem.phi[0], np.exp(WORLD.problem.log_pi0[0])
    psi = phi - np.einsum("xa,xad->xd", pi0, phi)[:, None]
    return np.einsum("xad,rkd->krxa", psi, ensemble.require().thetas)


def gibbs(reward):
    logits = WORLD.problem.log_pi0 + reward / 0.2
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def log_pi(learner):
    return learner(WORLD.problem, DATA, Key(1)).require().log_probs(WORLD.problem.table)


def test_minimum_is_taken_per_action_over_centred_members():
    learner = EnsembleMinimum()
    assert np.allclose(log_pi(learner), gibbs(members(learner).min(axis=0)), atol=1e-9)


@pytest.mark.parametrize("ddof", [0, 1])
def test_uncertainty_weighted_is_mean_minus_variance(ddof):
    learner = UncertaintyWeighted(weight=2.0, ddof=ddof)
    r = members(learner)
    reward = r.mean(axis=0) - 2.0 * r.var(axis=0, ddof=ddof)
    assert np.allclose(log_pi(learner), gibbs(reward), atol=1e-9)


def test_without_pessimism_both_are_the_mean():
    mean = gibbs(members(None).mean(axis=0))
    assert np.allclose(log_pi(EnsembleMinimum(multiplier=0.0)), mean, atol=1e-9)
    assert np.allclose(log_pi(UncertaintyWeighted(weight=0.0)), mean, atol=1e-9)


def test_multiplier_between_mean_and_minimum():
    r = members(None)
    half = 0.5 * (r.mean(axis=0) + r.min(axis=0))
    assert np.allclose(log_pi(EnsembleMinimum(multiplier=0.5)), gibbs(half), atol=1e-9)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="n_members must be at least 1; got 0"):
        EnsembleMinimum(n_members=0)
    with pytest.raises(ValueError, match="multiplier must be finite and at least 0"):
        EnsembleMinimum(multiplier=-1.0)
    with pytest.raises(ValueError, match="weight must be finite and at least 0"):
        UncertaintyWeighted(weight=float("nan"))
    with pytest.raises(ValueError, match="ddof must be 0 or 1 and below n_members=1"):
        UncertaintyWeighted(n_members=1, ddof=1)
