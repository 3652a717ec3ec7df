import numpy as np
import pytest
from scipy import stats

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.randomness import Key, bernoulli, categorical
from tests.helpers.statistics import ALARM, assert_frequencies

# ------------------------------------------------------------------ keys


@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (5,), (8,), (2, 3), (3, 4), ()])
def test_rows_do_not_depend_on_how_many_are_drawn(shape):
    # Sizes that are and are not multiples of the four words of a counter.
    many = Key(3).child("x").uniform_numpy(9, *shape)
    assert many.shape == (9, *shape)
    for r in (1, 2, 5):
        np.testing.assert_array_equal(Key(3).child("x").uniform_numpy(r, *shape), many[:r])
    for first in (1, 3, 8):
        block = Key(3).child("x").block(first).uniform_numpy(9 - first, *shape)
        np.testing.assert_array_equal(block, many[first:])


def test_blocks_add_up_and_commute_with_children():
    key = Key(1)
    assert key.block(2).block(3) == key.block(5)
    assert key.block(2).child("a") == key.child("a").block(2)


def test_paths_are_one_path_however_they_are_made():
    assert Key(1).child("a", 3) == Key(1).child("a").child(3)


def test_golden_draws_keep_their_values():
    # A guard of the stream's format, not a test of correctness: published results are addressed by
    # seed and path, so a change here changes every number of every study. Philox4x64 with the
    # blake2b-128 digest of "int:0", "str:labels", "int:3", joined by the unit separator.
    got = Key(0).child("labels", 3).uniform_numpy(1, 4)[0]
    philox = np.random.Philox(key=GOLDEN_DIGEST)
    words = philox.random_raw(4) >> np.uint64(11)
    np.testing.assert_array_equal(got, words * 2.0**-53)


GOLDEN_DIGEST = 51405816419551999867631345406475077338


def test_children_seeds_and_types_have_distinct_streams():
    keys = [
        Key(0), Key(1), Key(-1), Key(0).child("a"), Key(0).child("b"), Key(0).child("a", "b"),
        Key(0).child("ab"), Key(0).child(1), Key(0).child("1"), Key(0).child("a", 1),
        Key(0).child("a", 11), Key(0).child("a1"), Key(1).child("a"), Key(0).child(""),
    ]  # fmt: skip
    draws = {tuple(key.uniform_numpy(1, 4)[0]) for key in keys}
    assert len(draws) == len(keys)
    assert len({key.seed_int() for key in keys}) == len(keys)
    assert all(0 <= key.seed_int() < 2**63 for key in keys)


def test_numpy_integers_address_the_same_draws():
    # Loops over np.arange must not silently meet other numbers than loops over range.
    a = Key(np.int64(2)).child("round", np.int32(3)).uniform_numpy(1, 4)
    np.testing.assert_array_equal(a, Key(2).child("round", 3).uniform_numpy(1, 4))


def test_generator_belongs_to_the_replica():
    a = Key(4).child("counts").generator(7).random(3)
    np.testing.assert_array_equal(a, Key(4).child("counts").block(5).generator(2).random(3))
    assert not np.array_equal(a, Key(4).child("counts").generator(6).random(3))


def test_draws_agree_across_libraries(xp_like):
    key = Key(5).child("u")
    got = key.uniform(3, 2, 5, like=xp_like)
    np.testing.assert_array_equal(to_numpy(got), key.uniform_numpy(3, 2, 5))
    assert got.dtype == xp_like.dtype
    normal = key.normal(3, 7, like=xp_like)
    np.testing.assert_array_equal(to_numpy(normal), key.normal_numpy(3, 7))


def test_single_precision_draws_stay_below_one():
    like = np.zeros(1, dtype=np.float32)
    u = Key(0).uniform(4, 250_000, like=like)
    assert u.dtype == np.float32
    assert u.min() >= 0.0
    # A double just below 1 rounds up to 1 in single precision, where bernoulli(1) would fail.
    high = np.array([[np.nextafter(1.0, 0.0)]])
    assert Rigged(high).uniform(1, 1, like=like)[0, 0] < 1.0


class Rigged(Key):
    """A key whose draws are given."""

    def __init__(self, draws):
        object.__setattr__(self, "draws", draws)

    def uniform_numpy(self, n_replicas, *shape):
        return self.draws.reshape(n_replicas, *shape)


@pytest.mark.statistical
def test_draws_are_uniform_and_normal():
    # Kolmogorov-Smirnov at 1e-6: notices a shift of the mean by 0.01.
    u = Key(11).uniform_numpy(4, 25_000).ravel()
    assert stats.kstest(u, "uniform").pvalue > ALARM
    z = Key(12).normal_numpy(4, 25_000).ravel()
    assert stats.kstest(z, "norm").pvalue > ALARM
    # Rows and neighbours are uncorrelated: each correlation has standard error 0.006.
    rows = Key(13).uniform_numpy(2, 25_000)
    assert abs(np.corrcoef(rows)[0, 1]) < 5 / np.sqrt(25_000)
    assert abs(np.corrcoef(rows[0, 1:], rows[0, :-1])[0, 1]) < 5 / np.sqrt(25_000)


def test_a_draw_of_zero_gives_a_finite_normal():
    z = Rigged(np.zeros((1, 1))).normal_numpy(1, 1)
    np.testing.assert_allclose(z, stats.norm.ppf(2.0**-54), rtol=1e-12)


# ------------------------------------------------------------------ samplers


def test_bernoulli_is_inversion(xp_like):
    p = as_like([[0.0, 0.25, 0.25, 1.0]], xp_like)
    u = as_like([[0.0, 0.2499, 0.25, 1.0 - 2.0**-53]], xp_like)
    np.testing.assert_array_equal(to_numpy(bernoulli(p, u)), [[0.0, 1.0, 0.0, 1.0]])


def test_categorical_has_exact_frequencies_on_a_grid(xp_like):
    # With u on a grid of N points and probabilities that are multiples of 1/N, every action is
    # drawn exactly N p times. Powers of two, so that sums are exact.
    n = 64
    counts = np.array([[0, 16, 0, 8, 40, 0], [64, 0, 0, 0, 0, 0], [1, 1, 0, 0, 60, 2]])
    with np.errstate(divide="ignore"):
        log_p = np.log(counts / n)
    u = (np.arange(n) + 0.5) / n
    wide = np.broadcast_to(log_p[:, None, :], (3, n, 6))
    a = categorical(as_like(wide, xp_like), as_like(np.broadcast_to(u, (3, n)), xp_like))
    drawn = [np.bincount(row, minlength=6) for row in to_numpy(a)]
    np.testing.assert_array_equal(drawn, counts)


@pytest.mark.parametrize("absent", [[0], [4], [0, 1], [3, 4], [2], [0, 2, 4], [0, 1, 2, 3]])
def test_absent_actions_are_never_drawn(xp_like, absent):
    rng = np.random.default_rng(len(absent))
    log_p = np.log(rng.dirichlet(np.ones(5), size=(1, 400)))
    log_p[..., absent] = -np.inf
    # Both ends, which rounding would push over: u = 0, the largest double below 1, and 1 itself.
    u = rng.random((1, 400))
    u[0, :100], u[0, 100:200], u[0, 200:250] = 0.0, 1.0 - 2.0**-53, 1.0
    total = np.exp(log_p).sum(axis=-1, keepdims=True)
    for lp in (log_p, log_p - np.log(total)):  # normalised or not
        a = to_numpy(categorical(as_like(lp, xp_like), as_like(u, xp_like)))
        assert not np.isin(a, absent).any()
        assert a.min() >= 0
        assert a.max() <= 4


def test_categorical_follows_a_shared_policy(xp_like):
    # log_probs of one row against draws of three replicas.
    log_p = np.log(np.array([[[0.5, 0.5], [0.25, 0.75]]]))
    u = np.array([[0.4, 0.2], [0.6, 0.3], [0.5, 0.9]])
    got = to_numpy(categorical(as_like(log_p, xp_like), as_like(u, xp_like)))
    np.testing.assert_array_equal(got, [[0, 0], [1, 1], [1, 1]])


@pytest.mark.statistical
def test_categorical_draws_follow_the_probabilities():
    p = np.array([0.05, 0.0, 0.6, 0.35])
    with np.errstate(divide="ignore"):
        log_p = np.broadcast_to(np.log(p), (1, 40_000, 4))
    a = categorical(log_p, Key(21).uniform_numpy(1, 40_000))
    assert_frequencies(np.bincount(a[0], minlength=4), p)
