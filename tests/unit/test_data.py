import numpy as np
import pytest

from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairList, PairTable, PreferenceData
from rlhf_theory.designs import LaplacianRows, Rows
from rlhf_theory.errors import ShapeError
from rlhf_theory.visited_pairs import VisitedPairs
from tests.helpers import reference
from tests.helpers.assembled import compared
from tests.helpers.small import comparisons, finite_problem, log

FORMS = {
    "table": lambda p: PairTable.empty(p.table, p.n_replicas),
    "visited": lambda p: VisitedPairs.empty(p.table, p.n_replicas),
    "list": lambda p: PairList.empty(p.n_replicas, p.dim, p.phi),
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def brute(problem, ids, a1, a2, y):
    """Count and wins of every (context, i < j), one comparison at a time; sums over labels of z."""
    replicas, n = a1.shape
    x, a = problem.phi.shape[1:3]
    pairs = reference.pairs_of(a)
    count, wins = np.zeros((replicas, x * len(pairs))), np.zeros((replicas, x * len(pairs)))
    for r in range(replicas):
        for k in range(n):
            i, j = a1[r, k], a2[r, k]
            if i == j:
                continue
            cell = ids[r, k] * len(pairs) + pairs.index((min(i, j), max(i, j)))
            count[r, cell] += 1
            wins[r, cell] += y[r, k] if i < j else 1 - y[r, k]
    return count, wins


def moments(data):
    """What estimators see: labels, ``sum c z z^T``, ``sum (w - c / 2) z``, and the skew twins."""
    out = [data.n_labels]
    for design in (data.differences, data.skew):
        out += [design.gram(data.count), design.adjoint(data.wins - 0.5 * data.count)]
    return [to_numpy(v) for v in out]


def test_the_table_counts_every_comparison(xp_like):
    problem = finite_problem(xp_like)
    (ids, a1, a2, y), arrays = comparisons(xp_like, 3, 3, 4, 50)
    x = Contexts.rows(problem.table, arrays[0])
    data = PairTable.empty(problem.table, 3).add(compared(x, *arrays[1:]))
    count, wins = brute(problem, ids, a1, a2, y)
    np.testing.assert_array_equal(to_numpy(data.count), count)
    np.testing.assert_array_equal(to_numpy(data.wins), wins)
    np.testing.assert_array_equal(to_numpy(data.n_labels), (a1 != a2).sum(axis=1))


@pytest.mark.parametrize("rows", [1, 3])
def test_all_forms_hold_the_same_comparisons(xp_like, form, rows):
    problem = finite_problem(xp_like, rows=rows)
    (ids, a1, a2, y), arrays = comparisons(xp_like, 3, 3, 4, 40)
    x = Contexts.rows(problem.table, arrays[0])
    data = form(problem)
    assert isinstance(data, PreferenceData)
    for part in (slice(0, 7), slice(7, 8), slice(8, 40)):
        here = Contexts.rows(problem.table, arrays[0][:, part])
        data = data.add(compared(here, *(v[:, part] for v in arrays[1:])))
    want = moments(PairTable.empty(problem.table, 3).add(compared(x, *arrays[1:])))
    for got, exact in zip(moments(data), want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-11)
    # And against the loops.
    phi = to_numpy(problem.phi)
    z = np.array(
        [
            [
                phi[r % rows, ids[r, k], a1[r, k]] - phi[r % rows, ids[r, k], a2[r, k]]
                for k in range(40)
            ]
            for r in range(3)
        ]
    )
    differ = (a1 != a2).astype(float)
    np.testing.assert_allclose(moments(data)[1], reference.gram(z, differ), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(
        moments(data)[2], reference.adjoint(z, (y - 0.5) * differ), rtol=1e-11, atol=1e-11
    )


def test_add_leaves_the_old_data_alone(xp_like, form):
    problem = finite_problem(xp_like)
    _, arrays = comparisons(xp_like, 3, 3, 4, 10)
    x = Contexts.rows(problem.table, arrays[0])
    empty = form(problem)
    once = empty.add(compared(x, *arrays[1:]))
    before = [v.copy() for v in moments(once)]
    once.add(compared(x, *arrays[1:]))
    for got, old in zip(moments(once), before, strict=True):
        np.testing.assert_array_equal(got, old)
    np.testing.assert_array_equal(to_numpy(empty.n_labels), np.zeros(3))


def test_equal_actions_are_no_comparison(xp_like, form):
    problem = finite_problem(xp_like)
    ids = int_like([[0, 1], [2, 2], [1, 0]], xp_like)
    a = int_like([[3, 1], [0, 0], [2, 2]], xp_like)
    y = as_like(np.ones((3, 2)), xp_like)
    data = form(problem).add(compared(Contexts.rows(problem.table, ids), a, a, y))
    for got in moments(data):
        np.testing.assert_array_equal(got, np.zeros_like(got))


def test_the_order_of_a_pair_does_not_matter(xp_like, form):
    problem = finite_problem(xp_like)
    _, (ids, a1, a2, y) = comparisons(xp_like, 3, 3, 4, 20)
    x = Contexts.rows(problem.table, ids)
    first, second = (
        form(problem).add(compared(x, a1, a2, y)),
        form(problem).add(compared(x, a2, a1, 1.0 - y)),
    )
    for got, want in zip(moments(first), moments(second), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)


def test_soft_labels_are_fractions_of_wins(xp_like, form):
    problem = finite_problem(xp_like)
    ids, a1 = int_like([[0]] * 3, xp_like), int_like([[2]] * 3, xp_like)
    a2, y = int_like([[1]] * 3, xp_like), as_like([[0.25], [0.5], [1.0]], xp_like)
    data = form(problem).add(compared(Contexts.rows(problem.table, ids), a1, a2, y))
    phi = to_numpy(problem.phi)[0, 0]
    want = (np.array([0.25, 0.5, 1.0]) - 0.5)[:, None] * (phi[2] - phi[1])
    np.testing.assert_allclose(moments(data)[2], want, rtol=1e-13, atol=1e-15)


def test_one_context_row_serves_all_replicas(xp_like, form):
    problem = finite_problem(xp_like)
    _, (_, a1, a2, y) = comparisons(xp_like, 3, 3, 4, 5)
    ids = int_like([[0, 1, 2, 0, 1]], xp_like)
    shared = form(problem).add(compared(Contexts.rows(problem.table, ids), a1, a2, y))
    wide = int_like([[0, 1, 2, 0, 1]] * 3, xp_like)
    each = form(problem).add(compared(Contexts.rows(problem.table, wide), a1, a2, y))
    for got, want in zip(moments(shared), moments(each), strict=True):
        np.testing.assert_array_equal(got, want)


def test_pairs_tell_features_and_reference_of_every_row(xp_like, form):
    problem = finite_problem(xp_like, rows=3)
    _, arrays = comparisons(xp_like, 3, 3, 4, 6)
    data = form(problem).add(compared(Contexts.rows(problem.table, arrays[0]), *arrays[1:]))
    pair = to_numpy(data.pairs.phi)
    z = np.broadcast_to(pair[:, :, 0] - pair[:, :, 1], (3, pair.shape[1], 2))
    for got, want in (
        (data.differences.gram(data.count), reference.gram(z, to_numpy(data.count))),
        (data.differences.adjoint(data.wins), reference.adjoint(z, to_numpy(data.wins))),
    ):
        np.testing.assert_allclose(to_numpy(got), want, rtol=1e-11, atol=1e-11)
    # Features identify the action, so its reference log-probability can be looked up.
    phi, log_pi0 = to_numpy(problem.phi), to_numpy(problem.log_pi0)
    lp = np.broadcast_to(to_numpy(data.pairs.log_pi0), (3, pair.shape[1], 2))
    for r in range(3):
        for i in range(pair.shape[1]):
            for side in (0, 1):
                where = np.argwhere((phi[r] == pair[r, i, side]).all(axis=-1))
                assert len(where) == 1
                assert lp[r, i, side] == log_pi0[0, where[0][0], where[0][1]]


def test_the_form_of_the_design_does_not_change_what_it_does(xp_like):
    # Shared and small: rows. Many actions and features, or own features: the Laplacian form.
    small, own = finite_problem(xp_like), finite_problem(xp_like, rows=3)
    wide = finite_problem(xp_like, x=1, a=20, d=20)
    assert isinstance(PairTable.empty(small.table, 3).differences, Rows)
    assert isinstance(PairTable.empty(own.table, 3).differences, LaplacianRows)
    assert isinstance(PairTable.empty(wide.table, 3).differences, LaplacianRows)
    for problem in (small, own, wide):
        design = PairTable.empty(problem.table, 3).differences
        z = reference.difference_rows(to_numpy(problem.phi))
        theta = np.random.default_rng(0).normal(size=(3, problem.dim))
        got = to_numpy(design.margins(as_like(theta, xp_like)))
        np.testing.assert_allclose(got, reference.margins(z, theta), rtol=1e-11, atol=1e-12)


def test_reweighted_changes_counts_only(xp_like, form):
    problem = finite_problem(xp_like)
    _, arrays = comparisons(xp_like, 3, 3, 4, 10)
    data = form(problem).add(compared(Contexts.rows(problem.table, arrays[0]), *arrays[1:]))
    twice = data.reweighted(2.0 * data.count, 2.0 * data.wins)
    for got, once in zip(moments(twice), moments(data), strict=True):
        np.testing.assert_allclose(got, 2.0 * once, rtol=1e-12)
    with pytest.raises(ValueError, match="wins must lie between 0 and count"):
        data.reweighted(data.count, data.count + 1.0)
    with pytest.raises(ValueError, match="or NaN"):
        data.reweighted(data.count, np.nan * data.wins)
    with pytest.raises(ShapeError, match="wins must have the shape"):
        data.reweighted(data.count, data.wins[:, 1:])
    with pytest.raises(ShapeError, match="count must have shape"):
        data.reweighted(data.count[:, 1:], data.wins)


def test_one_action_makes_data_without_pairs(xp_like, form):
    problem = finite_problem(xp_like, a=1)
    zero = int_like([[0, 0]] * 3, xp_like)
    y = as_like(np.ones((3, 2)), xp_like)
    data = form(problem).add(compared(Contexts.rows(problem.table, zero), zero, zero, y))
    for got in moments(data):
        np.testing.assert_array_equal(got, np.zeros_like(got))


# ------------------------------------------------------------------ absent actions


def test_absent_actions_add_no_direction(xp_like):
    # What data could ever see is spanned by pairs of present actions: an absent action with odd
    # features must not make a design look richer, or an MLE would wait for it forever.
    absent = ((0, 1), (1, 0), (1, 3), (2, 2))
    for rows in (1, 3):
        problem = finite_problem(xp_like, rows=rows, absent=absent, d=3)
        phi = to_numpy(problem.phi).copy()
        for c, a in absent:
            phi[:, c, a] = 77.0
        odd = type(problem)(as_like(phi, xp_like), problem.log_pi0, problem.weights, problem.eta, 3)
        data = PairTable.empty(odd.table, 3)
        present = np.isfinite(to_numpy(odd.log_pi0)[0])
        for design, name in ((data.differences, "differences"), (data.skew, "skew")):
            ones = as_like(np.ones((3, data.count.shape[1])), xp_like)
            assert to_numpy(design.z_max).max() < 60.0, name
            gram = to_numpy(design.gram(ones))
            for r in range(3):
                seen = [
                    rows_of(phi[r % rows, c, i], phi[r % rows, c, j], name)
                    for c in range(3)
                    for i, j in reference.pairs_of(4)
                    if present[c, i] and present[c, j]
                ]
                assert np.linalg.matrix_rank(gram[r]) == np.linalg.matrix_rank(np.array(seen))


def rows_of(first, second, kind):
    if kind == "differences":
        return first - second
    f, g = np.append(1.0, first), np.append(1.0, second)
    return np.array([f[i] * g[j] - f[j] * g[i] for i, j in reference.pairs_of(len(f))])


def test_comparing_an_absent_action_raises(xp_like, form):
    problem = finite_problem(xp_like, absent=((0, 1),))
    x = Contexts.rows(problem.table, int_like([[0]] * 3, xp_like))
    one, two = int_like([[1]] * 3, xp_like), int_like([[2]] * 3, xp_like)
    y = as_like([[1.0]] * 3, xp_like)
    for a1, a2, name in ((one, two, "a1"), (two, one, "a2")):
        with pytest.raises(ValueError, match=f"{name} must be actions that pi0 can play"):
            form(problem).add(compared(x, a1, a2, y))
    other = Contexts.rows(problem.table, int_like([[1]] * 3, xp_like))
    assert to_numpy(form(problem).add(compared(other, one, two, y)).n_labels).sum() == 3


def test_counts_on_absent_actions_raise(xp_like):
    problem = finite_problem(xp_like, absent=((0, 1),))
    data = PairTable.empty(problem.table, 3)
    count = np.zeros((3, 18))
    count[1, 0] = 1.0  # context 0, actions 0 and 1
    with pytest.raises(ValueError, match="actions that pi0 can play"):
        data.reweighted(as_like(count, xp_like), as_like(0.0 * count, xp_like))
    count = np.roll(count, 1, axis=1)  # actions 0 and 2
    assert to_numpy(data.reweighted(as_like(count, xp_like), data.wins).n_labels).sum() == 1


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1, np.inf])
def test_labels_outside_the_unit_interval_raise(xp_like, form, bad):
    problem = finite_problem(xp_like)
    x = Contexts.rows(problem.table, int_like([[0]] * 3, xp_like))
    a1, a2 = int_like([[1]] * 3, xp_like), int_like([[2]] * 3, xp_like)
    with pytest.raises(ValueError, match=r"Labels y must lie in \[0, 1\]"):
        form(problem).add(compared(x, a1, a2, as_like([[1.0], [bad], [0.0]], xp_like)))


@pytest.mark.parametrize("bad", [-1, 4])
def test_actions_that_do_not_exist_raise(xp_like, form, bad):
    problem = finite_problem(xp_like)
    x = Contexts.rows(problem.table, int_like([[0]] * 3, xp_like))
    a1, a2 = int_like([[1], [bad], [0]], xp_like), int_like([[2]] * 3, xp_like)
    y = as_like([[1.0]] * 3, xp_like)
    for first, second in ((a1, a2), (a2, a1)):
        with pytest.raises(ValueError, match=r"Actions must lie in 0 \.\. 3"):
            form(problem).add(compared(x, first, second, y))


def test_labels_of_the_wrong_shape_raise(xp_like, form):
    problem = finite_problem(xp_like)
    x = Contexts.rows(problem.table, int_like([[0, 1]] * 3, xp_like))
    a = int_like([[1, 2]] * 3, xp_like)
    with pytest.raises(ShapeError, match=r"y must have shape \(R, B\) = \(any, 2\); got \(3, 1\)"):
        form(problem).add(compared(x, a, a, as_like([[1.0]] * 3, xp_like)))


@pytest.mark.parametrize("name", ["table", "visited"])
def test_finite_data_need_ids(xp_like, name):
    problem = finite_problem(xp_like)
    x = Contexts(problem.phi[:, :1, ...], problem.log_pi0[:, :1, ...])
    a = int_like([[1]] * 3, xp_like)
    with pytest.raises(ValueError, match="contexts need ids"):
        FORMS[name](problem).add(compared(x, a, a, as_like([[1.0]] * 3, xp_like)))


def test_nan_features_raise_before_they_reach_an_estimate(xp_like):
    phi = np.ones((1, 2, 2, 2))
    phi[0, 1, 0, 1] = np.nan
    x = Contexts(as_like(phi, xp_like), as_like(log(np.full((1, 2, 2), 0.5)), xp_like))
    a1, a2 = int_like([[0, 0]], xp_like), int_like([[1, 1]], xp_like)
    with pytest.raises(ValueError, match="phi of the compared actions must be finite"):
        PairList.empty(1, 2, xp_like).add(compared(x, a1, a2, as_like([[1.0, 0.0]], xp_like)))


# ------------------------------------------------------------------ visited pairs


def test_visited_cells_are_sorted_distinct_and_padded(xp_like):
    problem = finite_problem(xp_like)
    (ids, a1, a2, y), arrays = comparisons(xp_like, 3, 3, 4, 12)
    data = VisitedPairs.empty(problem.table, 3)
    for k in range(12):
        x = Contexts.rows(problem.table, arrays[0][:, k : k + 1])
        data = data.add(compared(x, *(v[:, k : k + 1] for v in arrays[1:])))
    count, wins = brute(problem, ids, a1, a2, y)
    cell, got, won = (to_numpy(v) for v in (data.cell, data.count, data.wins))
    for r in range(3):
        visited = np.flatnonzero(count[r])
        np.testing.assert_array_equal(cell[r, : len(visited)], visited)
        assert (cell[r, len(visited) :] == 18).all()
        np.testing.assert_array_equal(got[r, : len(visited)], count[r, visited])
        np.testing.assert_array_equal(won[r, : len(visited)], wins[r, visited])
        assert (got[r, len(visited) :] == 0).all()
    assert cell.shape[1] == (count > 0).sum(axis=1).max()
    full = data.tabulated()
    np.testing.assert_array_equal(to_numpy(full.count), count)
    np.testing.assert_array_equal(to_numpy(full.wins), wins)


def test_a_table_takes_over_with_what_was_visited(xp_like):
    problem = finite_problem(xp_like)
    (ids, a1, a2, y), arrays = comparisons(xp_like, 3, 3, 4, 12)
    data = VisitedPairs.empty(problem.table, 3, room=8)
    forms = []
    for k in range(0, 12, 3):
        x = Contexts.rows(problem.table, arrays[0][:, k : k + 3])
        data = data.add(compared(x, *(v[:, k : k + 3] for v in arrays[1:])))
        forms.append(type(data))
    assert forms == [VisitedPairs, VisitedPairs, PairTable, PairTable]
    count, wins = brute(problem, ids, a1, a2, y)
    np.testing.assert_array_equal(to_numpy(data.count), count)
    np.testing.assert_array_equal(to_numpy(data.wins), wins)


def test_the_form_does_not_depend_on_what_a_block_visited(xp_like):
    # Notices a table that takes over by the cells visited, or by the labels of the busiest replica:
    # replica 0 visits every cell, replica 1 one cell, replica 2 compares actions with themselves.
    problem = finite_problem(xp_like, replicas=3)
    first, second = (np.array([p[k] for p in reference.pairs_of(4)] * 3) for k in (0, 1))
    ids = np.stack([np.repeat([0, 1, 2], 6), np.zeros(18), np.zeros(18)])
    a1 = np.stack([first, np.zeros(18), np.ones(18)])
    a2 = np.stack([second, np.ones(18), np.ones(18)])
    y = np.ones((3, 18))

    def forms(rows):
        data = VisitedPairs.empty(problem.block(0, len(rows)).table, len(rows), room=15)
        found = []
        for k in range(0, 18, 3):
            part = [v[rows, k : k + 3] for v in (ids, a1, a2)]
            at, one, two = (int_like(v, xp_like) for v in part)
            x = Contexts.rows(problem.table, at)
            data = data.add(compared(x, one, two, as_like(y[rows, k : k + 3], xp_like)))
            found.append(type(data))
        return found

    together = forms([0, 1, 2])
    assert together == [VisitedPairs] * 4 + [PairTable] * 2
    assert all(forms([r]) == together for r in range(3))


@pytest.mark.parametrize("rows", [1, 3])
def test_visited_pairs_know_what_any_pair_could_tell(xp_like, rows):
    # Directions and longest row are those of the table: notices a list that only knows its own
    # rows, whose radii and verdicts would move with every new pair.
    problem = finite_problem(xp_like, rows=rows, absent=((0, 1), (2, 3)), d=3)
    full, some = PairTable.empty(problem.table, 3), VisitedPairs.empty(problem.table, 3)
    for _ in range(2):
        for mine, theirs in ((some.differences, full.differences), (some.skew, full.skew)):
            got, want = to_numpy(mine.possible), to_numpy(theirs.possible)
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(to_numpy(mine.z_max), to_numpy(theirs.z_max), rtol=1e-7)
        at, one, two = (int_like([[k]] * 3, xp_like) for k in (1, 0, 2))
        y = as_like([[1.0]] * 3, xp_like)
        some = some.add(compared(Contexts.rows(problem.table, at), one, two, y))
    alone = PairList.empty(3, 3, xp_like).differences
    assert alone.possible is None
