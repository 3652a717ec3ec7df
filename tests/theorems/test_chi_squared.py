import numpy as np
import pytest

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.chi_squared import THEOREM

pytestmark = pytest.mark.theorem

SWEEP = {**THEOREM.quick, "replicas": 256, "block": 128, "betas": [2e-3, 2.0, 32]}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(SWEEP, Key(1))


def test_the_study_passes(frame):
    checks = THEOREM.judge(frame, SWEEP)
    assert all(c.passed for c in checks), [c for c in checks if not c.passed]


def test_a_doctored_kl_curve_fails(frame):
    doctored = frame.copy()
    kl = doctored["method"] == "KL"
    # A power law where the theorem has 1/log n.
    doctored.loc[kl, "regret"] *= (doctored.loc[kl, "pairs"] / 100.0) ** -0.5
    assert not all(c.passed for c in THEOREM.judge(doctored, SWEEP))


def test_a_doctored_chi_squared_curve_fails(frame):
    doctored = frame.copy()
    chi = doctored["method"] == "chi2"
    doctored.loc[chi, "regret"] = 0.3 / np.log(doctored.loc[chi, "pairs"])
    failed = [c.name for c in THEOREM.judge(doctored, SWEEP) if not c.passed]
    assert any("χ²" in name for name in failed)


def test_blocks_do_not_change_the_replicas(frame):
    other = THEOREM.curves({**SWEEP, "pairs": SWEEP["pairs"][:2], "block": 64}, Key(1))
    part = frame[(frame["kind"] == "replica") & frame["pairs"].isin(SWEEP["pairs"][:2])]
    same = other[other["kind"] == "replica"]
    assert np.allclose(np.sort(part["regret"]), np.sort(same["regret"]), atol=1e-8)


def test_figure_and_caption_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, SWEEP)
    assert len(fig.axes) == 3
    assert "256 replicas" in THEOREM.caption(frame, SWEEP)
    assert THEOREM.constants(frame, SWEEP)
