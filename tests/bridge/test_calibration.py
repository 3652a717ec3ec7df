"""Merged labels are as many labels as were merged."""

import math

import numpy as np
import pytest

from llm_bridge.rewards.calibration import calibration
from rlhf_theory.randomness import Key


def merged(n, times, seed=0):
    """Logits of n comparisons and the labels that each got, of right probabilities."""
    u = Key(seed).normal_numpy(1, n)[0]
    p = 1.0 / (1.0 + np.exp(-u))
    y = (Key(seed).child("y").uniform_numpy(n, times) < p[:, None]).astype(float)
    return u, y


def test_counts_say_the_same_as_the_labels_one_by_one():
    u, y = merged(500, 20)
    a = calibration(u, y.mean(axis=1), weights=np.full(500, 20.0))
    b = calibration(np.repeat(u, 20), y.ravel(), prompts=np.repeat(np.arange(500), 20))
    assert a.ece == pytest.approx(b.ece, rel=1e-9)
    assert a.ece_expected == pytest.approx(b.ece_expected, rel=1e-9)
    assert a.z == pytest.approx(b.z, rel=1e-9)
    assert math.isfinite(a.z)
    # 10000 labels: about 0.4 / sqrt(10000 / 10) * sqrt(2 / pi).
    assert a.ece_expected == pytest.approx(0.0115, rel=0.1)


def test_counts_may_differ():
    u, y = merged(60, 6)
    times = 1 + np.arange(60) % 6
    share = np.array([row[:t].mean() for row, t in zip(y, times, strict=True)])
    a = calibration(u, share, weights=times, n_bins=1)
    place = np.repeat(np.arange(60), times)
    each = np.concatenate([row[:t] for row, t in zip(y, times, strict=True)])
    b = calibration(u[place], each, prompts=place, n_bins=1)
    assert a.ece_expected == pytest.approx(b.ece_expected, rel=1e-9)
    assert a.z == pytest.approx(b.z, rel=1e-9)


def test_soft_labels_have_no_z():
    u, y = merged(30, 1)
    labels = y[:, 0]
    assert math.isfinite(calibration(u, labels).z)
    assert math.isnan(calibration(u, np.where(np.arange(30) == 3, 0.5, labels)).z)
    assert math.isnan(calibration(u, np.full(30, 0.3), weights=np.full(30, 2.0)).z)


@pytest.mark.statistical
def test_the_expected_error_of_counts_is_the_mean_error():
    # 200 data sets of right probabilities: the mean error is known to about 1.7 % (the sum of ten
    # half-normal variables varies by 24 %), so 10 % is six of these (false alarms below 1e-6).
    errors, expected = [], []
    for seed in range(200):
        u, y = merged(200, 12, seed)
        found = calibration(u, y.mean(axis=1), weights=np.full(200, 12.0))
        errors.append(found.ece)
        expected.append(found.ece_expected)
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.1)


@pytest.mark.parametrize("n_bins", [4, 10])
def test_comparisons_of_weight_0_are_as_good_as_absent(n_bins):
    u, y = merged(40, 3)
    share, w = y.mean(axis=1), np.full(40, 3.0)
    more = Key(9).normal_numpy(1, 12)[0]
    alone = calibration(u, share, weights=w, n_bins=n_bins)
    beside = calibration(
        np.concatenate([more, u]),
        np.concatenate([np.zeros(12), share]),
        weights=np.concatenate([np.zeros(12), w]),
        n_bins=n_bins,
    )
    columns = ["low", "high", "n", "confidence", "won"]
    np.testing.assert_allclose(beside.table[columns], alone.table[columns], rtol=1e-12)
    for name in ("ece", "ece_expected", "z", "temperature"):
        assert getattr(beside, name) == pytest.approx(getattr(alone, name), rel=1e-9)
    for name in ("accuracy", "log_loss", "brier"):
        assert getattr(beside, name).value == pytest.approx(getattr(alone, name).value, rel=1e-12)
