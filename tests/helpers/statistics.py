"""Statistical assertions: seeded, with a stated false-alarm rate."""

import numpy as np
from scipy import stats

ALARM = 1e-6


def assert_frequency(hits, n, p, alarm=ALARM):
    """Fail if ``hits`` of ``n`` are not what probability ``p`` gives, up to ``alarm``."""
    low, high = stats.binom.ppf([alarm / 2, 1 - alarm / 2], n, p)
    assert low <= hits <= high, f"{hits} of {n}, expected {low:.0f} to {high:.0f} at p = {p}"


def assert_frequencies(counts, probs, alarm=ALARM):
    """Compare counts with probabilities by chi-squared; cells expecting under 5 are merged."""
    counts, probs = np.asarray(counts, dtype=float).ravel(), np.asarray(probs, dtype=float).ravel()
    expected = counts.sum() * probs
    assert np.all(counts[probs == 0] == 0), "an impossible cell was hit"
    small = expected < 5
    seen = np.append(counts[~small], counts[small].sum())
    want = np.append(expected[~small], expected[small].sum())
    seen, want = seen[want > 0], want[want > 0]
    statistic = np.sum((seen - want) ** 2 / want)
    assert stats.chi2.sf(statistic, len(seen) - 1) > alarm, (seen, want)


def assert_same_law(first, second, alarm=ALARM):
    """Two tables of counts come from one law (chi-squared test of homogeneity)."""
    table = np.stack([np.asarray(first, dtype=float).ravel(), np.asarray(second).ravel()])
    big = table.sum(axis=0) >= 10
    merged = np.concatenate([table[:, big], table[:, ~big].sum(axis=1, keepdims=True)], axis=1)
    merged = merged[:, merged.sum(axis=0) > 0]
    assert stats.chi2_contingency(merged).pvalue > alarm, merged
