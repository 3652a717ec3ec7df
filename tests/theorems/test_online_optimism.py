import numpy as np
import pandas as pd
import pytest

from rlhf_theory import worlds
from rlhf_theory.algorithms.enhancers import FromReference
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.estimators.confidence import Adaptive
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.online_exploration import LimitingGap, unseen_arms
from rlhf_theory.theorems.online_optimism import THEOREM, _count_bound, _counts
from rlhf_theory.theorems.online_runs import best_rounds, table

pytestmark = pytest.mark.theorem

TINY = {
    **THEOREM.quick,
    "replicas": 6,
    "block": 3,
    "contexts": 3,
    "actions": 4,
    "dim": 2,
    "batch": 16,
    "rounds": 4,
    "dims": [1, 2],
    "count_actions": 6,
    "count_replicas": 3,
    "count_rounds": 30,
    "labels_rounds": 2,
    "batches": [64, 256],
    "arms_batch": 1024,
    "arms_replicas": 3,
}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def many(frame, copies=30):
    """The same curves with so many replicas that intervals are short."""
    parts = [frame.assign(replica=frame["replica"] + 100 * k) for k in range(copies)]
    many = pd.concat(parts, ignore_index=True)
    # Few labels and replicas are far from any limit: there, gaps as the theory has them.
    labels = (many["study"] == "labels") & (many["round"] > 0)
    noise = np.random.Generator(np.random.Philox(5)).gamma(2.5, 1.0 / 2.5, size=labels.sum())
    many.loc[labels, "limit"] = 5.0 / (many["batch"] * many["round"])
    many.loc[labels, "gap"] = many["limit"][labels] * noise
    return many


def test_curves_are_tidy_and_complete(frame):
    names = ["round", "replica", "labels", "gap", "left", "learner", "dim", "uncertainty"]
    more = ["study", "batch", "limit", "other bound"]
    bounds = [f"{kind} {rule}" for kind in ("bound", "closed") for rule in ("R2′", "R4")]
    assert set(frame.columns) == {*names, *more, *bounds}
    assert not frame.duplicated(["study", "learner", "dim", "batch", "round", "replica"]).any()
    learners = frame[frame["study"] == "rounds"]
    assert len(learners) == 6 * 6 * 5
    assert not learners.duplicated(["learner", "round", "replica"]).any()
    assert (learners["left"] >= learners["gap"]).all()
    played = learners[learners["round"] < 4]
    assert played[["bound R2′", "bound R4", "labels"]].notna().all().all()
    assert (played.loc[played["round"] == 0, "labels"] == 0).all()
    for rule in ("R2′", "R4"):
        # Bound (c) lies above bound (a).
        assert (played[f"closed {rule}"] >= played[f"bound {rule}"] * (1 - 1e-9)).all()
    labels = table(learners[learners["learner"] == "uniform pairs"], "labels")
    assert (np.diff(labels, axis=1) > 0).all()
    assert (labels[:, -1] <= 4 * 16).all()


def test_replicas_do_not_depend_on_their_block(frame):
    other = THEOREM.curves({**TINY, "block": 6}, Key(0))
    order = ["study", "learner", "dim", "batch", "round", "replica"]
    for name, tol in (("gap", 1e-6), ("bound R2′", 1e-6)):
        a, b = (f.sort_values(order)[name].to_numpy() for f in (frame, other))
        np.testing.assert_allclose(a, b, rtol=tol)


def test_all_learners_start_from_the_same_policy(frame):
    start = frame[(frame["round"] == 0) & (frame["study"] == "rounds")]
    assert start.groupby("replica")["gap"].nunique().eq(1).all()


def test_the_bound_on_uncertairounds_is_the_potential_argument():
    # The paper's count by hand: d = 2, T = 30, lambda = .1.
    want = 2.0 * np.log(1.0 + 4.0 * 30.0 / 0.2) / np.log(2.0)
    assert _count_bound(TINY, 2) == pytest.approx(want, rel=1e-12)


def test_uncertairounds_are_counted(frame):
    for dim in TINY["dims"]:
        counts = _counts(frame, dim)
        assert counts.shape == (3,)
        # The first round is uncertain: lambda = .1 there.
        assert (counts >= 1).all()
        assert (counts <= _count_bound(TINY, dim)).all()


def test_verdict_passes_on_the_curves(frame):
    checks = THEOREM.judge(many(frame), TINY)
    assert len(checks) == 13
    assert [c.name for c in checks if not c.passed] == []


def test_verdict_fails_without_enough_replicas(frame):
    failed = [c.name for c in THEOREM.judge(frame, TINY) if not c.passed]
    assert sum("held at all rounds" in name for name in failed) == 2


def test_verdict_fails_if_the_bound_is_broken_once_in_some_replicas(frame):
    doctored = many(frame)
    rows = (
        (doctored["study"] == "rounds")
        & (doctored["learner"] == "on-policy pairs")
        & (doctored["round"] == 2)
        & (doctored["replica"] % 100 == 0)
    )
    doctored.loc[rows, "bound R4"] = 0.0
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert len(failed) >= 1
    assert any("R4 held" in name for name in failed)
    assert not any("R2′ held" in name for name in failed)


def test_verdict_fails_if_too_many_rounds_are_uncertain(frame):
    doctored = many(frame)
    doctored.loc[(doctored["study"] == "count") & (doctored["dim"] == 1), "uncertainty"] = 2.0
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert len(failed) == 1
    assert "rounds with |v_t| > 1" in failed[0]


def test_verdict_fails_if_nothing_is_learnt(frame):
    doctored = many(frame)
    doctored["gap"] = 0.4
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    # Before any label, in m, over its limit, and in rounds of two learners.
    assert sum("gap at t0" in name for name in failed) == 6


def test_t0_is_the_running_argmin(frame):
    part = frame[(frame["study"] == "rounds") & (frame["learner"] == "constrained, β")]
    bound = table(part, "bound R4")[:, :-1]
    chosen = best_rounds(bound)
    for t in range(bound.shape[1]):
        np.testing.assert_array_equal(chosen[:, t], bound[:, : t + 1].argmin(axis=1))


def test_unseen_arms_are_found_by_exploration_alone(frame):
    part = frame[(frame["study"] == "arms") & (frame["dim"] == 2)]
    for learner, found in part.groupby("learner"):
        gap = table(found, "gap")
        if learner in ("π0 as enhancer", "on-policy pairs"):
            np.testing.assert_allclose(gap, gap[:, :1] * np.ones(gap.shape[1]), rtol=1e-6)
        else:
            assert (gap[:, 2] < 0.1 * gap[:, 0]).all()


def test_the_world_of_unseen_arms_is_as_it_says():
    world = unseen_arms(3, 2)
    x, _ = world.population
    log_pi0 = x.log_pi0[0, 0]
    assert np.exp(log_pi0).sum() == pytest.approx(1.0, abs=1e-12)
    # The best arm is worth its KL, and pi* plays it nearly always.
    star = np.exp(world.log_pi_star[0, 0])
    assert star[-1] > 0.99
    assert star @ (np.log(star) - log_pi0) * world.problem.eta < 0.65


def test_the_limiting_gap_is_that_of_many_fits():
    """Against fits to drawn labels of one design: 400 replicas, 4 standard errors."""
    world = worlds.linear(contexts=4, actions=4, dim=2, eta=0.5, replicas=400, seed=3)
    data, problem = world.offline_data(Key(1), 20_000), world.problem
    learner = OnlineIterative(radius=Adaptive(theta_bound=2.0), enhancer=FromReference())
    state = learner.init(problem, data, Key(2))
    limit = LimitingGap(world)(state, problem, None, Key(3))[0]["limit"]
    ratio = world.evaluate(state.plan.value)["gap"] / limit
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std() / 20.0


def test_another_search_needs_no_part_of_the_bound(frame):
    part = frame[(frame["study"] == "rounds") & (frame["learner"] == "constrained, β")]
    share = part["other bound"] / part["bound R2′"]
    assert share.notna().sum() == 6 * 2  # rounds 0 and 3 of 4
    assert 0.8 <= share.min() <= share.max() <= 1.05


@pytest.mark.parametrize(
    ("column", "factor", "words"),
    [("other bound", 1.2, "largest share"), ("other bound", 0.7, "median share")],
)
def test_verdict_fails_if_the_bound_is_another_one(frame, column, factor, words):
    doctored = many(frame)
    doctored[column] *= factor
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert [words in name for name in failed] == [True]


def test_verdict_fails_if_the_gap_falls_like_one_over_root_m(frame):
    doctored = many(frame)
    rows = doctored["study"] == "labels"
    doctored.loc[rows, "gap"] *= (doctored.loc[rows, "batch"] / 256.0) ** 0.5
    failed = [c.name for c in THEOREM.judge(doctored, TINY) if not c.passed]
    assert ["slope of the gap" in name for name in failed] == [True]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("the main agent is its own enhancer", "unseen arms"),
        ("no pair counted in Σ", "unseen arms"),
        ("bound (a) times 0.4", "largest share"),
        ("radius halved", "largest share"),
        ("radius doubled", "median share"),
        ("each pair counted 25 times in Σ", "largest share"),
        ("fits to the last round alone", "unseen arms"),
    ],
)
def test_sabotages_are_noticed_in_a_small_study(frame, name, words):
    sabotage = next(s for s in THEOREM.sabotages if s.name == name)
    sweep = {**TINY, **sabotage.settings}
    parts = [p for p in THEOREM.parts(sweep) if sabotage.touches(p) and "batch" not in p.settings]
    wrong = pd.concat([THEOREM.measure(sweep, p, Key(0)) for p in parts])
    same = ["study", "learner", "dim", "batch"]
    kept = frame.merge(wrong[same].drop_duplicates(), on=same, how="left", indicator=True)
    kept = kept[kept["_merge"] == "left_only"].drop(columns="_merge")
    checks = THEOREM.judge(many(pd.concat([kept, wrong], ignore_index=True)), sweep)
    assert any(words in c.name for c in checks if not c.passed)


@pytest.mark.parametrize("name", ["plans with 1.2 η", "labels ignored", "winners taken for losers"])
def test_sabotages_of_what_is_learnt_are_far_from_the_limit(name):
    sabotage = next(s for s in THEOREM.sabotages if s.name == name)
    sweep = {**TINY, **sabotage.settings, "batches": [20_000], "replicas": 20}
    (part,) = (p for p in THEOREM.parts({**sweep, "block": 20}) if "batch" in p.settings)
    frame = THEOREM.measure({**sweep, "block": 20}, part, Key(0))
    last = frame[frame["round"] == 1]
    assert last["gap"].mean() > 3.0 * last["limit"].mean()


def test_figure_caption_and_constants_come_from_the_curves(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 4
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert "over 6 replicas" in THEOREM.caption(frame, TINY)
    assert len(THEOREM.constants(frame, TINY)) == 6 + 12 + 2 + 1
