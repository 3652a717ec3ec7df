"""The stored table of what verdicts notice: it is current, and a part of it is found again."""

import pytest

from rlhf_theory.randomness import Key
from rlhf_theory.register import found
from rlhf_theory.theorems.trials import FURTHER_SEEDS, TABLE, read_trials, trials_of
from tests.helpers.registered import built_in

pytestmark = pytest.mark.theorem

CARDS = sorted(built_in("theorem"))


def card(name):
    return found("theorem")[name].thing


@pytest.mark.parametrize("name", CARDS)
def test_the_table_is_of_the_cards_as_they_are(name):
    """Of another version or sweep, or other sabotages: run ``make sabotages``."""
    tried = trials_of(card(name), TABLE)
    assert tried is not None
    assert tried.problems(card(name)) == []
    assert set(tried.right) == set(map(str, FURTHER_SEEDS))
    assert set(tried.noticed) == {s.name for s in card(name).sabotages}


def test_the_table_has_no_card_that_is_gone():
    assert sorted(read_trials(TABLE)) == CARDS


@pytest.mark.parametrize("name", CARDS)
def test_every_card_has_sabotages_of_its_own(name):
    assert len(card(name).sabotages) >= 5


@pytest.mark.parametrize(
    ("name", "sabotage"),
    [
        ("greedy-fails", "sign of the bonus flipped"),
        ("greedy-fails", "d = 2 in the radius"),
        ("greedy-fails", "estimate over |θ| ≤ 2B"),
        ("chi-squared", "χ² left out"),
        ("chi-squared", "rewards of range 2"),
        ("chi-squared", "plans with 1.2 β"),
    ],
)
def test_a_quick_subset_is_found_again(name, sabotage):
    theorem = card(name)
    wrong = next(s for s in theorem.sabotages if s.name == sabotage)
    sweep = {**theorem.sweep("quick"), **wrong.settings}
    checks = theorem.judge(theorem.curves(sweep, Key(seed=0).child(name)), sweep)
    failed = [check.name for check in checks if not check.passed]
    assert failed == list(read_trials(TABLE)[name].noticed[sabotage])
