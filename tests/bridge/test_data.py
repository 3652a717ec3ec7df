import numpy as np
import pytest
import torch

from llm_bridge.language.sampler import Response
from llm_bridge.pools.candidates import refreshed_pools
from llm_bridge.pools.data import MAX_GAME_DIM, Comparison, PromptData
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import PairList, PreferenceData
from rlhf_theory.estimators.ensembles import bootstrap_weights
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.randomness import Key
from tests.helpers.assembled import compared
from tests.helpers.prompts import TokenFeatures, few_prompts, random_strings, string_problem


def batch(problem, key, n):
    """Contexts, two actions that pi0 can play, labels."""
    x = problem.sample_contexts(key.child("x"), n)
    sizes = (x.log_pi0 > -np.inf).sum(dim=-1)
    r = problem.n_replicas
    a1, a2 = ((key.child(k).uniform(r, n, like=x.like) * sizes).to(torch.int64) for k in ("a", "b"))
    y = (key.child("y").uniform(r, n, like=x.like) < 0.4).to(x.like.dtype)
    return x, a1, a2, y


@pytest.fixture
def problem():
    return string_problem()


def test_it_is_preference_data_with_the_numbers_of_a_pair_list(problem):
    data, plain = problem.empty_data(), PairList.empty(1, 3, problem.table.like)
    assert isinstance(data, PreferenceData)
    for k in range(3):
        args = batch(problem, Key(k), 7)
        data, plain = data.add(compared(*args)), plain.add(compared(*args))
    assert torch.equal(data.pairs.phi, plain.pairs.phi)
    assert torch.equal(data.pairs.log_pi0, plain.pairs.log_pi0)
    for name in ("count", "wins", "n_labels"):
        assert torch.equal(getattr(data, name), getattr(plain, name)), name
    assert torch.equal(data.differences.z, plain.differences.z)
    assert torch.equal(data.skew.z, plain.skew.z)
    assert 0 < float(data.n_labels[0]) < 21  # some pairs were of a response with itself


def test_comparisons_are_what_was_compared(problem):
    data = problem.empty_data()
    rows = []
    for k in range(3):
        x, a1, a2, y = batch(problem, Key(k), 7)
        data = data.add(compared(x, a1, a2, y))
        rows += [(k, *(int(v[0, j]) for v in (x.ids, a1, a2, y))) for j in range(7)]
    rows = [row for row in rows if row[2] != row[3]]
    assert len(data.comparisons) == len(rows) == int(data.n_labels[0])
    pools = problem.pools
    for c, (k, i, a, b, y) in zip(data.comparisons, rows, strict=True):
        assert c.prompt is pools.prompts[i]
        assert (c.first, c.second) == (pools.responses[i][a], pools.responses[i][b])
        assert (c.log_pi0_first, c.log_pi0_second) == (pools.log_pi0[i, a], pools.log_pi0[i, b])
        assert (c.label, c.round, c.weight) == (y, k, 1.0)


def test_it_survives_refreshed_pools(problem):
    first = problem.empty_data().add(compared(*batch(problem, Key(0), 7)))
    before, said = first.pairs.phi.clone(), first.comparisons
    other = problem.refresh(random_strings(6, 7, seed=3), Key(1))
    both = first.add(compared(*batch(other, Key(2), 5)))
    assert torch.equal(both.pairs.phi[:, :7], before)
    assert both.comparisons[: len(said)] == said
    features = TokenFeatures(3)
    for c, phi in zip(both.comparisons, both.pairs.phi[0][both.count[0] > 0], strict=True):
        rows = features.rows([c.prompt.ids] * 2, [c.first.ids, c.second.ids])
        assert torch.equal(rows, phi)


def test_the_latest_batch_alone(problem):
    data = problem.empty_data()
    assert data.latest is data
    for k in range(3):
        data = data.add(compared(*batch(problem, Key(k), 4 + k)))
    alone = problem.empty_data().add(compared(*batch(problem, Key(2), 6)))
    for name in ("count", "wins"):
        assert torch.equal(getattr(data.latest, name), getattr(alone, name))
    assert torch.equal(data.latest.pairs.phi, alone.pairs.phi)
    assert data.latest.comparisons == [c for c in data.comparisons if c.round == 2]
    # Data that go on from the latest keep count of the rounds.
    more = data.latest.add(compared(*batch(problem, Key(3), 4)))
    assert {c.round for c in more.comparisons} == {2, 3}
    assert more.latest.latest.comparisons == more.latest.comparisons


def test_reweighted_data_are_those_of_a_bootstrap(problem):
    data = problem.empty_data().add(compared(*batch(problem, Key(0), 30)))
    new = bootstrap_weights(data, Key(1))
    assert isinstance(new, PromptData)
    assert torch.equal(new.pairs.phi, data.pairs.phi)
    seen = data.count[0] > 0
    for c, old, count, wins in zip(
        new.comparisons, data.comparisons, new.count[0][seen], new.wins[0][seen], strict=True
    ):
        assert c.weight == float(count)
        assert c.label == pytest.approx(float(wins / count))
        assert (c.prompt, c.first, c.second) == (old.prompt, old.first, old.second)
    # A comparison with weight 0 is gone.
    count = data.count.clone()
    count[0, 3:] = 0.0
    few = data.reweighted(count, data.wins * (count > 0))
    assert len(few.comparisons) == int(count.sum())
    with pytest.raises(ValueError, match="between 0 and count"):
        data.reweighted(data.count, data.count + 1.0)


def test_replicas_have_comparisons_of_their_own():
    problem = string_problem(n_replicas=3)
    x, a1, a2, y = batch(problem, Key(0), 8)
    data = problem.empty_data().add(compared(x, a1, a2, y))
    with pytest.raises(ValueError, match=r"3 replicas.*comparisons_of"):
        _ = data.comparisons
    for r in range(3):
        kept = [j for j in range(8) if int(a1[r, j]) != int(a2[r, j])]
        got = data.comparisons_of(r)
        assert [c.prompt for c in got] == [problem.prompts[int(x.ids[r, j])] for j in kept]
        assert [c.label for c in got] == [float(y[r, j]) for j in kept]
    # Contexts and actions that all replicas share.
    shared = problem.empty_data().add(
        compared(Contexts.rows(problem.table, x.ids[:1]), a1[:1], a2[:1], y[:1].expand(3, 8))
    )
    assert shared.comparisons_of(0) == shared.comparisons_of(2)


def test_foreign_contexts_and_bad_labels_are_refused(problem):
    x, a1, a2, y = batch(problem, Key(0), 4)
    data = problem.empty_data()
    for foreign in (Contexts(x.phi, x.log_pi0), Contexts(x.phi, x.log_pi0, x.ids, "text")):
        with pytest.raises(ValueError, match="PromptProblem gave out"):
            data.add(compared(foreign, a1, a2, y))
    with pytest.raises(ValueError, match=r"Labels y must lie in \[0, 1\]"):
        data.add(compared(x, a1, a2, y + 2))
    narrow = torch.argmin((problem.table.log_pi0[0] > -np.inf).sum(dim=-1))
    last = torch.full((1, 4), problem.pools.size - 1)
    with pytest.raises(ValueError, match="pi0 can play"):
        data.add(compared(Contexts.rows(problem.table, narrow.expand(1, 4)), last, a2 * 0, y))


def test_comparisons_from_elsewhere_join(problem):
    data = problem.empty_data().add(compared(*batch(problem, Key(0), 12)))
    again = problem.data_of(data.comparisons)
    seen = data.count[0] > 0
    assert torch.equal(again.pairs.phi[0], data.pairs.phi[0][seen])
    assert torch.equal(again.wins[0], data.wins[0][seen])
    assert again.comparisons == data.comparisons  # round 0 both
    fit = bradley_terry_mle(data, ridge=0.5).value
    torch.testing.assert_close(bradley_terry_mle(again, ridge=0.5).value, fit, rtol=0, atol=1e-10)
    # Responses that no pool has, a pair of equal ones, soft labels and weights.
    c = Comparison(
        few_prompts(1)[0], Response((50,), "", 0.0), Response((51,), "", 0.0), -2.0, -3.0, 0.7
    )
    same = Comparison(c.prompt, c.first, c.first, -2.0, -2.0, 1.0)
    heavy = Comparison(c.prompt, c.second, c.first, -3.0, -2.0, 0.25, weight=4.0)
    given = problem.data_of([c, same, heavy])
    assert given.count.tolist() == [[1.0, 0.0, 4.0]]
    assert given.wins.tolist() == [[0.7, 0.0, 1.0]]
    assert given.comparisons == [c, heavy]
    assert given.pairs.log_pi0[0, 0].tolist() == [-2.0, -3.0]
    joined = data.joined(given.pairs.phi[0], [c, same, heavy])
    assert joined.comparisons[-1].round == 1
    assert float(joined.n_labels[0]) == float(data.n_labels[0]) + 5
    assert joined.latest.count.tolist() == given.count.tolist()
    assert data.joined(given.pairs.phi[0][:0], []) is data
    assert problem.data_of([]).n_labels.tolist() == [0.0]
    with pytest.raises(ValueError, match="Labels y"):
        problem.data_of([Comparison(c.prompt, c.first, c.second, -2.0, -3.0, float("nan"))])


def test_joined_comparisons_are_those_of_all_replicas():
    problem = string_problem(n_replicas=2)
    c = Comparison(
        problem.prompts[0], Response((50,), "", 0.0), Response((51,), "", 0.0), -2.0, -3.0, 1.0
    )
    data = problem.data_of([c])
    assert data.wins.tolist() == [[1.0], [1.0]]
    assert data.comparisons_of(1) == [c]


def test_general_preferences_need_few_features():
    wide = string_problem(dim=MAX_GAME_DIM + 1)
    data = wide.empty_data().add(compared(*batch(wide, Key(0), 4)))
    with pytest.raises(ValueError, match=r"d=33 .*for_preferences\(dim=32\)"):
        _ = data.skew
    assert data.differences.n_params == 33
    just = string_problem(dim=MAX_GAME_DIM)
    assert just.empty_data().skew.n_params == 528


def test_pools_of_comparisons_are_kept_once(problem):
    # A batch refers to its pools: what grows with the labels is three integers per label.
    data = problem.empty_data()
    for k in range(3):
        data = data.add(compared(*batch(problem, Key(k), 5)))
    assert {id(b.pools) for b in data.batches} == {id(problem.pools)}
    new = refreshed_pools(problem.pools, problem.policy, problem.policy, 4, Key(0))
    assert new.content != problem.pools.content
