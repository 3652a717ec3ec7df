import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import betabinom

from rlhf_theory.plots import figures
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.confidence_coverage import THEOREM
from rlhf_theory.theorems.coverage_needed import NEEDED, Needed
from rlhf_theory.theorems.coverage_runs import ALL, schedule

pytestmark = pytest.mark.theorem

TINY = {
    **THEOREM.quick,
    "needed": [],
    "replicas": 6,
    "block": 3,
    "contexts": 3,
    "actions": 4,
    "dim": 2,
    "norms": [1.0],
    "labels": [10, 60],
    "growth": 0.2,
}
RULES = {"R1", "R1′", "R2", "R2′", "R3", "R4", "R5"}


@pytest.fixture(scope="module")
def frame():
    return THEOREM.curves(TINY, Key(0))


def ideal(replicas=1000):
    """Curves as the claim has them: the used share of every radius, drawn from a known law."""
    rng = np.random.Generator(np.random.Philox(1))
    miss = {"R1": 1e-6, "R1′": 1e-6, "R2": 1e-6, "R2′": 1e-6, "R3": 1e-6, "R4": 0.03, "R5": 0.05}
    parts = []
    for design in ("fixed", "GSHF", "MaxInP"):
        for look in (10, 60, ALL):
            for rule, chance in miss.items():
                share = 0.3 if (rule, look) == ("R5", ALL) else chance
                u = rng.uniform(size=replicas)
                parts.append(
                    pd.DataFrame(
                        {
                            "norm": 1.0,
                            "design": design,
                            "look": look,
                            "rule": rule,
                            "replica": np.arange(replicas),
                            "radius": 5.0,
                            "used": np.where(u < share, 1.1, 0.5),
                            "formula": np.nan if look == ALL else 5.0,
                            "laplace": 0.001 if rule == "R4" and design == "fixed" else np.nan,
                        }
                    )
                )
                if look != ALL and rule in ("R3", "R4"):
                    parts.append(parts[-1].assign(rule=f"{rule} in H"))
    return pd.concat(parts, ignore_index=True)


def test_curves_are_tidy_and_complete(frame):
    order = ["norm", "design", "look", "rule", "replica"]
    assert not frame.duplicated(order).any()
    assert set(frame["design"]) == {"fixed", "GSHF", "MaxInP"}
    for look, rules in ((ALL, RULES), (10, RULES | {"R3 in H", "R4 in H"})):
        part = frame[frame["look"] == look]
        assert set(part["rule"]) == rules
        assert len(part) == 3 * 6 * len(rules)
    assert np.isfinite(frame[["radius", "used"]]).all().all()
    known = frame[~frame["rule"].isin(["R4", "R4 in H"]) & (frame["look"] != ALL)]
    assert_allclose(known["formula"], known["radius"], rtol=1e-12)
    assert (frame["used"] >= 0).all()
    checked = frame.dropna(subset="laplace")
    assert set(checked["rule"]) == {"R4"}
    assert (checked["laplace"].abs() < 0.5).all()


def test_the_largest_share_over_time_is_at_least_that_of_every_look(frame):
    table = frame.pivot_table(
        index=["norm", "design", "rule", "replica"], columns="look", values="used"
    )
    table = table[table[ALL].notna()]
    assert (table[ALL] >= table[10] - 1e-12).all()
    assert (table[ALL] >= table[60] - 1e-12).all()


def test_replicas_do_not_depend_on_their_block(frame):
    other = THEOREM.curves({**TINY, "block": 6}, Key(0))
    order = ["norm", "design", "look", "rule", "replica"]
    a, b = (f.sort_values(order)["used"].to_numpy() for f in (frame, other))
    assert_allclose(a, b, atol=1e-6)


def test_rounds_have_one_label_first_and_end_at_the_looks():
    rounds = schedule(TINY)
    ends = np.cumsum(rounds)
    assert rounds[0] == 1
    assert {10, 60} <= set(ends)
    assert ends[-1] == 60
    assert max(rounds) > 1
    assert set(schedule({**TINY, "growth": 0.0})) == {1}


def test_order_of_the_radii(frame):
    """The short forms are about half the long ones; R4 is below R3; ellipsoids come on top."""
    mean = frame[frame["look"] == 60].groupby("rule")["radius"].mean()
    assert mean["R1′"] < 0.75 * mean["R1"]
    assert mean["R2′"] < 0.75 * mean["R2"]
    assert mean["R4"] < mean["R3"]
    assert mean["R4 in H"] < mean["R3 in H"]
    used = frame[frame["look"] == 60].groupby("rule")["used"].mean()
    assert used["R3 in H"] < used["R3"]


def test_verdict_is_passed_by_curves_that_behave_as_claimed():
    checks = THEOREM.judge(ideal(), TINY)
    assert len(checks) == 18
    assert all(check.passed for check in checks)
    for check in checks:
        low, high = check.interval or (check.measured, check.measured)
        assert low <= check.measured <= high


@pytest.mark.parametrize("rule", ["R2", "R2′", "R3", "R4"])
@pytest.mark.parametrize(
    ("design", "look", "words"),
    [("fixed", 60, "fixed"), ("MaxInP", 10, "adaptive"), ("GSHF", ALL, "every round")],
)
def test_verdict_fails_where_a_set_loses_its_coverage(rule, design, look, words):
    frame = ideal()
    mine = (frame["rule"] == rule) & (frame["design"] == design) & (frame["look"] == look)
    frame.loc[mine & (frame["replica"] < 90), "used"] = 1.5
    failed = [check for check in THEOREM.judge(frame, TINY) if not check.passed]
    assert [rule in check.name and words in check.name for check in failed] == [True]
    assert failed[0].measured < 0.95


def test_verdict_fails_where_the_asymptotic_set_survives():
    frame = ideal()
    mine = (frame["rule"] == "R5") & (frame["design"] == "fixed") & (frame["look"] == ALL)
    frame.loc[mine, "used"] = 0.9
    failed = [check for check in THEOREM.judge(frame, TINY) if not check.passed]
    assert [check.name.startswith("R5") for check in failed] == [True]


def test_an_empty_set_counts_as_lost():
    frame = ideal()
    mine = (frame["rule"] == "R4") & (frame["look"] == ALL) & (frame["replica"] < 200)
    frame.loc[mine, ["used", "radius"]] = np.inf, -0.1
    failed = [check for check in THEOREM.judge(frame, TINY) if not check.passed]
    assert len(failed) == 1
    assert "R4" in failed[0].name
    THEOREM.draw(frame, TINY)


def test_figure_and_numbers(frame):
    fig = THEOREM.draw(frame, TINY)
    assert len(fig.axes) == 3
    numbers = figures.plotted_numbers(fig)
    assert {"x", "y", "lower", "upper"} <= set(numbers.columns)
    assert figures.figure_bytes(fig, "svg")
    caption = THEOREM.caption(frame, TINY)
    assert "6 replicas" in caption
    assert "intervals over replicas" in caption
    constants = THEOREM.constants(frame, TINY)
    assert constants["R1: lowest coverage, fixed design"] == 1.0
    assert any("Laplace" in name for name in constants)


def test_constants_compare_with_the_sheet():
    frame = ideal().replace({"look": {10: 100, 60: 1000}})
    text = THEOREM.constants(frame, {**TINY, "labels": [100, 1000]})
    name = next(n for n in text if n.startswith("R3, threshold"))
    assert text[name] == "5 [29.9], 5 [41.4]"


# ------------------------------------------------------------------------- widths are pinned


def test_verdict_fails_where_a_radius_is_not_that_of_the_claim():
    frame = ideal()
    frame.loc[(frame["rule"] == "R2") & (frame["replica"] == 3), "radius"] *= 1.0 + 1e-6
    failed = [check for check in THEOREM.judge(frame, TINY) if not check.passed]
    assert ["from their formulas" in check.name for check in failed] == [True]


@pytest.mark.parametrize(("by", "words"), [(-0.02, "least of all"), (0.2, "largest at n")])
def test_verdict_fails_where_the_approximate_integral_is_far_off(by, words):
    frame = ideal()
    frame.loc[frame["rule"] == "R4", "laplace"] += by
    failed = [check for check in THEOREM.judge(frame, TINY) if not check.passed]
    assert words in failed[-1].name


def drawn(replicas, law, factor=1.0):
    """Curves of R2 alone whose share of the radius follows a law, over a factor of the radius."""
    return pd.DataFrame(
        {
            "norm": 1.0,
            "design": "fixed",
            "look": 60,
            "rule": "R2",
            "replica": np.arange(replicas),
            "radius": 5.0 * factor,
            "used": law.chisquare(5, size=replicas) ** 0.5 / 40.0 / factor,
            "formula": 5.0 * factor,
            "laplace": np.nan,
        }
    )


def needed(law, of=2000):
    used = sorted(drawn(of, law)["used"])
    return [["R2", 1.0, 60, q, used[round(q * of) - 1], of] for q in (0.5, 0.95)]


def tight(frame, rows):
    checks = THEOREM.judge(frame, {**TINY, "needed": rows})
    return [check for check in checks if "how much of it is needed" in check.name]


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.3, 2.0])
def test_verdict_fails_where_a_set_is_wider_or_shorter_than_it_was(factor):
    law = np.random.Generator(np.random.Philox(7))
    rows, rest = needed(law), ideal()
    rest = rest[(rest["rule"] != "R2") | (rest["look"] != 60) | (rest["design"] != "fixed")]
    (right,) = tight(pd.concat([rest, drawn(200, law)]), rows)
    (wrong,) = tight(pd.concat([rest, drawn(200, law, factor)]), rows)
    assert (right.passed, wrong.passed) == (True, False)
    # Coverage sees nothing of it.
    coverage = THEOREM.judge(pd.concat([rest, drawn(200, law, factor)]), {**TINY, "needed": rows})
    assert all(c.passed for c in coverage if "keeps its coverage, fixed" in c.name)


def test_counts_below_a_stored_point_have_the_law_that_the_check_says():
    """Of 3000 studies with new stored points each: beta-binomial, by 4 standard errors."""
    law = np.random.Generator(np.random.Philox(11))
    of, n, k = 60, 40, 57
    stored = np.sort(law.uniform(size=(3000, of)), axis=1)[:, k - 1]
    below = (law.uniform(size=(3000, n)) <= stored[:, None]).sum(axis=1)
    for value in (34, 37, 39):
        chance = betabinom(n, k, of - k + 1).cdf(value)
        assert abs((below <= value).mean() - chance) < 4.0 * (chance * (1 - chance) / 3000) ** 0.5


def test_what_is_stored_is_of_the_study():
    stored = pd.DataFrame(NEEDED, columns=Needed._fields)
    assert set(stored["rule"]) == RULES | {"R3 in H", "R4 in H"}
    assert set(stored["norm"]) == set(THEOREM.quick["norms"])
    assert set(stored["look"]) < set(THEOREM.quick["labels"])
    for _, rows in stored.groupby(["rule", "norm", "look"]):
        median, high = rows["value"]
        # Both are of a root of about 5 squares of normals: 1.60 between them (R3, R4 in H: less).
        assert 1.3 < high / median < 1.8


@pytest.mark.parametrize("sabotage", THEOREM.sabotages, ids=lambda s: s.name)
def test_sabotages_change_what_they_say(sabotage, frame):
    sweep = {**TINY, **sabotage.settings}
    part = next(p for p in THEOREM.parts(sweep) if sabotage.touches(p))
    wrong = THEOREM.measure(sweep, part, Key(0))
    order = ["norm", "design", "look", "rule", "replica"]
    right = frame.merge(wrong[order], on=order).sort_values(order)
    wrong = wrong.sort_values(order)
    assert len(right) == len(wrong)
    same = {
        name: np.allclose(wrong[wrong["rule"] == name]["radius"],
                          right[right["rule"] == name]["radius"], rtol=1e-9)
        for name in RULES
    }  # fmt: skip
    changed = {name for name, equal in same.items() if not equal}
    assert changed == CHANGED[sabotage.name]
    assert not np.allclose(wrong["used"], right["used"])


EVERY = {"R1", "R1′", "R2", "R2′", "R3", "R4", "R5"}
CHANGED = {
    "radii halved": EVERY,
    "radii of a tenth": EVERY,
    "curvature at half the range": {"R1", "R1′", "R2", "R2′", "R3"},
    "terms with log det V and d log dropped": {"R2", "R2′", "R3"},
    "4λB² dropped": {"R1", "R1′", "R2", "R2′"},
    "δ replaced by its root": EVERY,
    "every second pair counted": {"R2", "R2′", "R3", "R4"},
    "a tenth of the labels misread": {"R4"},
    "labels ignored": {"R4"},
}
