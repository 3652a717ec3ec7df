from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rlhf_theory.cli import application
from rlhf_theory.report import write_report
from rlhf_theory.theorems import trials
from rlhf_theory.theorems.card import Sabotage
from rlhf_theory.theorems.reproduce import reproduce
from rlhf_theory.theorems.trials import read_trials, trials_of, try_cards, write_trials
from tests.helpers.fake_theorems import calls, fake, registered

FAILS = Sabotage(name="it fails", settings={"how": "fail"}, touches=lambda part: False)
UNSEEN = Sabotage(name="one sees nothing", settings={"odd": 99})
LOOSE = Sabotage(
    name="within the bound", settings={"odd": 98}, touches=lambda part: False, loose="9 times"
)


def odd(part):
    """Whether a part is the one that `odd` changes."""
    return part.settings["pairs"] == 100


@pytest.fixture
def side(tmp_path):
    folder = tmp_path / "side"
    folder.mkdir()
    return folder


def cut(side, *sabotages, name="a", **changes):
    return fake(name, side, cut=True, sabotages=sabotages, **changes)


def test_every_sabotage_is_judged_and_the_right_one_at_further_seeds(tmp_path, side):
    card = cut(side, FAILS, UNSEEN, LOOSE)
    tried = try_cards([card], tmp_path / "out", jobs=1)["a"]
    assert tried.right == {"1": [], "2": [], "3": []}
    assert tried.noticed == {"it fails": ["largest gap"], UNSEEN.name: [], LOOSE.name: []}
    assert tried.problems(card) == ["one sees nothing: no check notices it"]


def test_what_a_sabotage_does_not_touch_is_computed_once(tmp_path, side):
    touched = Sabotage(name="one part is another", settings={"odd": 99}, touches=odd)
    try_cards([cut(side, FAILS, LOOSE, touched)], tmp_path / "out", jobs=1, seeds=(1,))
    # Three parts of the right run of each of two seeds, and the one that is touched.
    assert calls("a", side) == 3 + 3 + 1


def test_the_same_call_goes_on_and_computes_nothing_twice(tmp_path, side):
    card, out = cut(side, FAILS, UNSEEN), tmp_path / "out"
    first = try_cards([card], out, jobs=1)
    before = calls("a", side)
    assert try_cards([card], out, jobs=1) == first
    assert calls("a", side) == before
    # A sabotage more costs what it touches, and another version of the card everything.
    try_cards([cut(side, FAILS, UNSEEN, LOOSE)], out, jobs=1)
    assert calls("a", side) == before
    try_cards([cut(side, FAILS, UNSEEN, version=2)], out, jobs=1)
    assert calls("a", side) == 2 * before


def test_a_damaged_trial_is_judged_again(tmp_path, side):
    card, out = cut(side, FAILS), tmp_path / "out"
    first = try_cards([card], out, jobs=1)
    for path in (out / "a" / "trials").glob("*.json"):
        path.write_text(path.read_text().replace('"passed": false', '"passed": true'))
    assert try_cards([card], out, jobs=1) == first


def test_what_raises_is_no_sabotage_that_was_noticed(tmp_path, side):
    broken = Sabotage(name="it raises", settings={"how": "raise"}, touches=odd)
    card = cut(side, broken)
    tried = try_cards([card], tmp_path / "out", jobs=1, seeds=())["a"]
    assert tried.noticed == {}
    problems = tried.problems(card)
    assert problems[0].startswith("it raises: raised RuntimeError: this study raises")
    assert problems[1] == "it raises: not tried"


def test_a_right_algorithm_that_fails_and_a_loose_bound_that_notices_are_problems(tmp_path, side):
    wrong = fake("a", side, "fail", sabotages=())
    tried = try_cards([wrong], tmp_path / "out", jobs=1, seeds=(5,))["a"]
    assert tried.problems(wrong) == ["right, seed 5: largest gap"]
    tight = Sabotage(name="said to be loose", settings={"how": "fail"}, loose="9 times")
    card = cut(side, tight, name="b")
    found = try_cards([card], tmp_path / "out", jobs=1, seeds=())["b"].problems(card)
    assert found == ["said to be loose: noticed, though it is said to be within the bound"]


def test_results_do_not_depend_on_the_workers(tmp_path, side):
    cards = [cut(side, FAILS, UNSEEN), cut(side, LOOSE, name="b")]
    one = try_cards(cards, tmp_path / "one", jobs=1)
    assert try_cards(cards, tmp_path / "two", jobs=2) == one


def test_a_sabotage_changes_a_setting_of_the_sweep(side):
    for settings in ({"unknown": 1}, {"odd": 100}):
        with pytest.raises(ValueError, match="must change settings of the sweep"):
            cut(side, Sabotage(name="nothing", settings=settings))
    with pytest.raises(ValueError, match="must have a name of its own"):
        cut(side, FAILS, FAILS)


# ------------------------------------------------------------------------------ the table


def test_a_table_is_of_the_cards_as_they_were(tmp_path, side):
    table = tmp_path / "table.json"
    card = cut(side, FAILS)
    found = try_cards([card], tmp_path / "out", jobs=1, seeds=(1,))
    write_trials(found, table)
    assert trials_of(card, table) == found["a"]
    others = [
        cut(side, FAILS, version=2),
        cut(side, FAILS, LOOSE),
        cut(side, FAILS, quick={**card.quick, "replicas": 3}),
        cut(side, FAILS, name="b"),
    ]
    assert [trials_of(other, table) for other in others] == [None] * 4
    # Other cards stay in the table, and the same card is replaced.
    write_trials({"b": found["a"]}, table)
    write_trials({"a": found["a"]}, table)
    assert list(read_trials(table)) == ["a", "b"]
    assert read_trials(tmp_path / "none.json") == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {"version": 1}}', '{"a": 1}'])
def test_a_file_that_is_no_table_is_refused_before_anything_runs(tmp_path, side, content):
    table = tmp_path / "table.json"
    table.write_text(content)
    with pytest.raises(ValueError, match="must be a table as `rlhf-theory sabotage` writes it"):
        read_trials(table)
    with registered(cut(side, FAILS)):
        call = ["sabotage", "a", "--out", str(tmp_path / "out"), "--table", str(table)]
        assert CliRunner().invoke(application(), call).exception is not None
    assert calls("a", side) == 0
    assert table.read_text() == content


# ------------------------------------------------------------------------------ command and page


def test_the_command_says_what_goes_unnoticed(tmp_path, side):
    out, table = str(tmp_path / "out"), tmp_path / "table.json"
    with registered(cut(side, FAILS, UNSEEN), cut(side, FAILS, LOOSE, name="b")):
        call = ["sabotage", "--jobs", "1", "--out", out]
        bad = CliRunner().invoke(application(), [*call, "a", "--table", str(table)])
        good = CliRunner().invoke(application(), [*call, "b"])
    assert (bad.exit_code, good.exit_code) == (1, 0)
    assert "a: one sees nothing: no check notices it" in bad.stdout
    assert json.loads(table.read_text())["a"]["noticed"]["it fails"] == ["largest gap"]
    assert "no check" not in good.stdout


@pytest.mark.parametrize("place", ["package", "beside the page"])
def test_the_page_shows_what_a_verdict_notices_and_what_not(tmp_path, side, monkeypatch, place):
    card = cut(side, FAILS, LOOSE)
    found = try_cards([card], tmp_path / "out", jobs=1, seeds=())
    reproduce([card], tmp_path / "cards", jobs=1)
    if place == "package":
        monkeypatch.setattr(trials, "TABLE", tmp_path / "table.json")
    write_trials(found, trials.TABLE if place == "package" else tmp_path / "cards/sabotages.json")
    with registered(card):
        page = write_report(tmp_path / "cards").read_text()
    assert "1 of 2 wrong algorithms" in page
    assert "it fails" in page
    assert "None: 9 times" in page
    # Nothing is said of a card of another version.
    with registered(cut(side, FAILS, LOOSE, version=2)):
        assert "wrong algorithms" not in write_report(tmp_path / "cards").read_text()
