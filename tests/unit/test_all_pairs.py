import numpy as np
import pytest

from rlhf_theory import all_pairs
from rlhf_theory.all_pairs import AllDifferences, AllSkewRows
from rlhf_theory.arrays import as_like, to_numpy
from tests.helpers import reference


def rows_of(phi, kind):
    """The rows of every context and pair, shape ``(R, n, p)``, one at a time."""
    found = []
    for table in phi:
        rows = []
        for x in table:
            for i, j in reference.pairs_of(len(x)):
                f, g = np.append(1.0, x[i]), np.append(1.0, x[j])
                entries = reference.pairs_of(len(f))
                skew = np.array([f[k] * g[m] - f[m] * g[k] for k, m in entries])
                rows.append(x[i] - x[j] if kind is AllDifferences else skew)
        found.append(rows)
    return np.array(found)


@pytest.mark.parametrize("kind", [AllDifferences, AllSkewRows])
@pytest.mark.parametrize("at_a_time", [4_000_000, 60, 1])
@pytest.mark.parametrize("shape", [(1, 5, 3, 2), (3, 4, 4, 3), (1, 1, 2, 1)])
def test_span_and_length_are_those_of_all_rows(xp_like, monkeypatch, kind, at_a_time, shape):
    monkeypatch.setattr(all_pairs, "_AT_A_TIME", at_a_time)
    phi = np.random.default_rng(0).normal(size=shape)
    z, got = rows_of(phi, kind), kind(as_like(phi, xp_like))
    possible = np.einsum("rnp,rnq->rpq", z, z)
    np.testing.assert_allclose(to_numpy(got.possible), possible, rtol=1e-12, atol=1e-12)
    longest = np.linalg.norm(z, axis=-1).max(axis=-1)
    np.testing.assert_allclose(to_numpy(got.z_max), longest, rtol=1e-12)


@pytest.mark.parametrize("kind", [AllDifferences, AllSkewRows])
def test_one_action_has_no_rows(xp_like, kind):
    got = kind(as_like(np.ones((1, 3, 1, 2)), xp_like))
    assert not to_numpy(got.possible).any()
    assert not to_numpy(got.z_max).any()
