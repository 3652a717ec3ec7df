import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, namespace, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.errors import ShapeError


def table(like, rows=1, pi0_rows=1, x=5, a=3, d=2):
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(rows, x, a, d))
    log_pi0 = np.log(rng.dirichlet(np.ones(a), size=(pi0_rows, x)))
    ids = int_like(np.arange(x)[None], like)
    return Contexts(as_like(phi, like), as_like(log_pi0, like), ids, whole=True), phi, log_pi0


@pytest.mark.parametrize(("rows", "pi0_rows"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_gathered_contexts_are_rows_of_the_table(xp_like, rows, pi0_rows):
    full, phi, log_pi0 = table(xp_like, rows, pi0_rows)
    ids = np.random.default_rng(1).integers(5, size=(3, 7))
    x = Contexts.rows(full, int_like(ids, xp_like))
    assert x.shape == (3, 7, 3, 2)
    for r in range(3):
        for b in range(7):
            got = to_numpy(x.phi)[r, b]
            np.testing.assert_array_equal(got, phi[r % rows, ids[r, b]])
            np.testing.assert_array_equal(
                to_numpy(x.log_pi0)[r, b], log_pi0[r % pi0_rows, ids[r, b]]
            )


def test_features_are_gathered_only_when_asked_for(xp_like):
    full, _, _ = table(xp_like)
    x = Contexts.rows(full, int_like([[1, 2]], xp_like))
    assert x.shape == (1, 2, 3, 2)
    assert x.like is full.phi
    assert x._phi is None


@pytest.mark.parametrize("kind", ["table", "rows", "no ids"])
@pytest.mark.parametrize("rows", [1, 3])
def test_lookup_and_at_are_indexing(xp_like, kind, rows):
    full, _, _ = table(xp_like, rows)
    rng = np.random.default_rng(2)
    x = {
        "table": full,
        "rows": Contexts.rows(full, int_like(rng.integers(5, size=(3, 7)), xp_like)),
        "no ids": Contexts(full.phi, full.log_pi0),
    }[kind]

    def f(c):
        return namespace(c.phi).sum(c.phi, axis=-1) ** 2

    direct = np.broadcast_to(to_numpy(x.phi).sum(axis=-1) ** 2, (3, x.shape[1], 3))
    looked = np.broadcast_to(to_numpy(x.lookup(f)), direct.shape)
    np.testing.assert_allclose(looked, direct, rtol=1e-14)
    actions = rng.integers(3, size=(3, x.shape[1]))
    want = np.take_along_axis(direct, actions[..., None], axis=-1)[..., 0]
    got = to_numpy(x.at(f, int_like(actions, xp_like)))
    np.testing.assert_allclose(got, want, rtol=1e-14)
    # Vectors per action too.
    phi = np.broadcast_to(to_numpy(x.phi), (3, x.shape[1], 3, 2))
    want = np.take_along_axis(phi, actions[..., None, None], axis=2)[:, :, 0]
    np.testing.assert_array_equal(to_numpy(x.at(lambda c: c.phi, int_like(actions, xp_like))), want)


def test_lookup_computes_once_per_row_of_the_table():
    full, _, _ = table(np.zeros(1))
    x = Contexts.rows(full, np.zeros((3, 100), dtype=np.int64))
    seen = []

    def f(c):
        seen.append(c.shape[1])
        return c.phi

    x.lookup(f)
    assert seen == [5]


def test_tables_of_values_follow_the_ids(xp_like):
    full, _, _ = table(xp_like)
    values = np.arange(10.0).reshape(1, 5, 2)
    v = as_like(values, xp_like)
    np.testing.assert_array_equal(to_numpy(full.from_table(v)), values)
    # As many contexts as the table has, in another order: the order must count.
    ids = np.array([[4, 3, 2, 1, 0]])
    x = Contexts.rows(full, int_like(ids, xp_like))
    for contexts in (x, x.block(0, 1), Contexts(x.phi, x.log_pi0, x.ids)):
        np.testing.assert_array_equal(to_numpy(contexts.from_table(v)), values[:, ids[0]])
    with pytest.raises(ValueError, match="contexts with ids"):
        Contexts(full.phi, full.log_pi0).from_table(v)


@pytest.mark.parametrize("kind", ["table", "rows"])
@pytest.mark.parametrize("rows", [1, 4])
def test_a_block_holds_its_replicas(xp_like, kind, rows):
    full, _, _ = table(xp_like, rows)
    x = full
    if kind == "rows":
        ids = np.random.default_rng(3).integers(5, size=(4, 6))
        x = Contexts.rows(full, int_like(ids, xp_like))
    part = x.block(1, 3)
    want = np.broadcast_to(to_numpy(x.phi), (4, *x.phi.shape[1:]))[1:3]
    np.testing.assert_array_equal(np.broadcast_to(to_numpy(part.phi), want.shape), want)


def test_all_present_sees_absent_actions(xp_like):
    full, phi, log_pi0 = table(xp_like)
    assert full.all_present
    assert Contexts.rows(full, int_like([[0]], xp_like)).all_present
    cut = log_pi0.copy()
    cut[0, 2] = [np.log(0.5), -np.inf, np.log(0.5)]
    some = Contexts(as_like(phi, xp_like), as_like(cut, xp_like), full.ids)
    assert not some.all_present


@pytest.mark.parametrize(
    ("phi", "log_pi0", "match"),
    [
        ((2, 3, 4), (2, 3, 4), r"phi must have shape \(R, B, A, d\)"),
        ((1, 3, 4, 2), (1, 3, 5), r"log_pi0 must have shape \(R, B, A\) = \(any, 3, 4\); got"),
        ((2, 3, 4, 2), (3, 3, 4), "disagree on R: got 2 and 3"),
    ],
)
def test_wrong_shapes_raise(phi, log_pi0, match):
    with pytest.raises(ShapeError, match=match):
        Contexts(np.zeros(phi), np.zeros(log_pi0))
