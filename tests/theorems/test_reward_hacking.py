import numpy as np
import pytest
from numpy.testing import assert_allclose

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.reward_hacking import THEOREM

pytestmark = pytest.mark.theorem

TINY = {
    **THEOREM.quick,
    "replicas": 48,
    "block": 24,
    "contexts": 4,
    "actions": 10,
    "dim": 6,
    "labels": [30, 300],
    "eta": [10.0, 1.0, 0.3, 0.1, 0.01],
    "best_of": [1, 4, 64, 4096],
    "lcb": [1.0, 8.0],
    "uwo": [0.5, 8.0],
    "members": 3,
}
KEYS = ["replica", "labels", "method", "multiplier", "path", "step"]


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def test_curves_are_tidy_and_complete(frame):
    assert set(frame.columns) == {*KEYS, "dial", "kl", "gold", "proxy"}
    assert len(frame) == 48 * 2 * (1 + 2 + 2) * (5 + 4)
    assert not frame.duplicated(KEYS).any()
    assert np.isfinite(frame[["kl", "gold", "proxy"]]).all().all()


def test_best_of_one_is_the_reference_policy(frame):
    first = frame[(frame["path"] == "best-of-n") & (frame["step"] == 0)]
    assert_allclose(first[["kl", "gold", "proxy"]], 0.0, atol=1e-7)


def test_paths_raise_what_they_optimise_and_the_kl(frame):
    for column in ("kl", "proxy"):
        steps = frame.sort_values(KEYS).groupby(KEYS[:-1], observed=True)[column].diff().dropna()
        assert (steps >= -1e-6).all()  # stored in single precision


def test_replicas_do_not_depend_on_their_block(frame):
    other = THEOREM.curves({**TINY, "block": 48}, Key(0))
    a, b = (f.sort_values(KEYS)["gold"].to_numpy() for f in (frame, other))
    assert_allclose(a, b, atol=1e-6)


def test_verdict_passes_and_fails_where_pessimism_is_doctored(frame):
    checks = THEOREM.judge(frame, TINY)
    assert len(checks) == 6
    assert [c.name for c in checks if not c.passed] == []
    doctored = frame.copy()
    last = (doctored["method"] == "UWO") & (doctored["path"] == "Gibbs") & (doctored["step"] == 4)
    doctored.loc[last, "gold"] -= 0.5
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert len(failed) == 1
    assert failed[0].startswith("Gibbs: drop of UWO")


def test_verdict_fails_where_nothing_was_over_optimised(frame):
    doctored = frame.copy()
    plain = doctored["method"] == "plain proxy"
    doctored.loc[plain, "gold"] = doctored.loc[plain, "proxy"]
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert any("plain proxy loses from its peak" in name for name in failed)


def test_figure_caption_and_constants_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 6
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert "95 % bootstrap intervals over 48 replicas" in THEOREM.caption(frame, TINY)
    constants = THEOREM.constants(frame, TINY)
    assert len(constants) == 2 * 2 * 2 + 1
