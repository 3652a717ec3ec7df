import itertools

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.reward_hacking import THEOREM, _best_of_two

pytestmark = pytest.mark.theorem

TINY = {
    **THEOREM.quick,
    "replicas": 48,
    "block": 24,
    "contexts": 4,
    "actions": 10,
    "dim": 6,
    "labels": [30, 300],
    "eta": [100.0, 10.0, 1.0, 0.1, 0.01],
    "best_of": [1, 2, 64, 4096],
    "lcb": [1.0, 8.0],
    "uwo": [0.3, 8.0],
    "members": 10,
}
KEYS = ["world", "replica", "labels", "method", "multiplier", "path", "step"]


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def test_curves_are_tidy_and_complete(frame):
    assert set(frame.columns) == {*KEYS, "dial", "kl", "gold", "proxy"}
    # Of the uniform world only the ends of the paths, and the enumerated pairs in both.
    assert len(frame) == 48 * 2 * (1 + 2 + 2) * ((5 + 4 + 1) + (1 + 1 + 1))
    assert not frame.duplicated(KEYS).any()
    assert np.isfinite(frame[["kl", "gold", "proxy"]]).all().all()


def test_best_of_one_is_the_reference_policy(frame):
    first = frame[(frame["path"] == "best-of-n") & (frame["dial"] == 1)]
    assert_allclose(first[["kl", "gold", "proxy"]], 0.0, atol=1e-7)


def test_paths_raise_what_they_optimise_and_the_kl(frame):
    for column in ("kl", "proxy"):
        steps = frame.sort_values(KEYS).groupby(KEYS[:-1], observed=True)[column].diff().dropna()
        assert (steps >= -1e-6).all()  # stored in single precision


def test_replicas_do_not_depend_on_their_block(frame):
    other = THEOREM.curves({**TINY, "block": 48}, Key(0))
    a, b = (f.sort_values(KEYS)["gold"].to_numpy() for f in (frame, other))
    assert_allclose(a, b, atol=1e-6)


def failed(frame):
    return [c.name for c in THEOREM.judge(frame, TINY) if not c.passed]


def test_verdict_passes(frame):
    assert len(THEOREM.judge(frame, TINY)) == 1 + 2 * (4 + 2)
    assert failed(frame) == []


def at(frame, **values):
    """Which rows have these values."""
    return (frame[list(values)] == pd.Series(values)).all(axis=1)


def test_a_pessimist_that_ends_lower_or_is_a_coward_fails(frame):
    lower = frame.copy()
    end = at(lower, method="UWO", path="Gibbs", world="leaning", step=4)
    lower.loc[end, "gold"] -= 0.5
    assert [name.partition(",")[0] for name in failed(lower)] == ["Gibbs: gold reward at the end"]
    # Half of the plain proxy's gold reward where there is nothing to be careful of.
    coward = frame.copy()
    coward.loc[at(coward, method="LCB", path="best-of-n", world="uniform"), "gold"] *= 0.5
    [name] = failed(coward)
    assert name.startswith("best-of-n: gold reward at the end, LCB")


def test_each_sentence_on_the_plain_proxy_can_fail(frame):
    plain = frame["method"] == "plain proxy"
    rising = frame.copy()
    rising.loc[plain, "gold"] = rising.loc[plain, "proxy"]
    assert any("plain proxy loses from its peak" in name for name in failed(rising))
    falling = frame.copy()
    falling.loc[plain, "gold"] = -falling.loc[plain, "proxy"]
    assert any("near π0" in name for name in failed(falling))
    uneven = frame.copy()
    uneven.loc[at(uneven, method="plain proxy", path="Gibbs", step=2, replica=7), "proxy"] += 9.0
    assert [name for name in failed(uneven) if "least step" in name]
    still = frame.copy()
    few = at(still, world="leaning", method="plain proxy", labels=30)
    many = at(still, world="leaning", method="plain proxy", labels=300)
    still.loc[many, ["kl", "gold"]] = still.loc[few, ["kl", "gold"]].to_numpy()
    assert sum("the peak moves" in name for name in failed(still)) == 2


def test_best_of_two_is_found_by_going_through_all_pairs():
    rng = np.random.default_rng(0)
    p, rewards = rng.dirichlet(np.ones(5), size=(2, 3)), rng.normal(size=(2, 3, 5))
    rewards[..., 1] = rewards[..., 0]  # equal ones share
    expected = np.zeros_like(p)
    for a, b in itertools.product(range(5), repeat=2):
        both = p[..., a] * p[..., b]
        first, second = rewards[..., a] > rewards[..., b], rewards[..., a] < rewards[..., b]
        expected[..., a] += both * (first + 0.5 * (~first & ~second))
        expected[..., b] += both * (second + 0.5 * (~first & ~second))
    assert_allclose(np.exp(_best_of_two(rewards, np.log(p))), expected, atol=1e-14)


def test_figure_caption_and_constants_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 6
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert "95 % bootstrap intervals over 48 replicas" in THEOREM.caption(frame, TINY)
    constants = THEOREM.constants(frame, TINY)
    assert len(constants) == 2 * 2 * 2 + 1
