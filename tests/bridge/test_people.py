"""Labels by people, through files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llm_bridge.errors import LabelsPending
from llm_bridge.labels.oracles import RewardModelOracle, TextReward
from llm_bridge.labels.people import LabelFile, Question
from llm_bridge.language.models import Prompt
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import Contexts, PairQuery
from rlhf_theory.experiments.runner import run
from rlhf_theory.randomness import Key
from tests.helpers.assembled import Assembled
from tests.helpers.prompts import TokenFeatures, few_prompts, random_strings
from tests.helpers.text_pools import text_contexts

TEXTS = {"why ?": ["because", "so", "no"], "où ?\u2028": ["ici", "là « \n »"]}


@pytest.fixture
def table() -> Contexts:
    return text_contexts(TEXTS)


@pytest.fixture
def file(tmp_path) -> LabelFile:
    return LabelFile(tmp_path / "labels")


def ask(file, table, ids, a1, a2):
    x = Contexts.rows(table, np.array([ids]))
    return file(PairQuery(x, np.array([a1]), np.array([a2])), Key(0)).y[0]


def lines(path):
    return [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]


def fill(path, label):
    """Answer every open question of a file; ``label`` maps a line to its label."""
    rows = lines(path)
    for row in rows:
        if row["label"] is None:
            row["label"] = label(row)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def shorter(row):
    return "a" if len(row["response_a"]) < len(row["response_b"]) else "b"


# --------------------------------------------------------------------------- questions


def test_questions_are_written_and_the_run_stops(file, table):
    with pytest.raises(LabelsPending, match=r"2 questions wait .*pending\.jsonl.*of every line"):
        ask(file, table, [0, 1], [0, 1], [1, 0])
    first, second = lines(file.pending)
    assert first["prompt"] == "why ?"
    assert {first["response_a"], first["response_b"]} == {"because", "so"}
    assert second["prompt"] == "où ?\u2028"
    assert {second["response_a"], second["response_b"]} == {"ici", "là « \n »"}
    assert first["label"] is None
    assert not file.answers.exists()


def test_answers_are_read_in_either_order_of_the_pair(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0, 1], [0, 1], [1, 0])
    fill(file.pending, shorter)
    got = ask(file, table, [0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0])
    np.testing.assert_array_equal(got, [0.0, 1.0, 1.0, 0.0])
    assert lines(file.pending) == []
    assert len(lines(file.answers)) == 2


@pytest.mark.parametrize(
    ("label", "value"),
    [("a", 1.0), ("B", 0.0), (" tie ", 0.5), (0, 0.0), (1, 1.0), (0.3, 0.3)],
)
def test_labels_are_words_or_shares(file, table, label, value):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    row = lines(file.pending)[0]
    fill(file.pending, lambda _: label)
    got = ask(file, table, [0, 0], [0, 1], [1, 0])
    want = value if row["response_a"] == "because" else 1.0 - value
    np.testing.assert_allclose(got, [want, 1.0 - want], rtol=1e-12)


def test_the_place_of_a_response_tells_nothing_about_who_wrote_it():
    first = [
        Question.of(f"prompt {i}", f"answer {i}", f"zzz {i}").response_a.startswith("answer")
        for i in range(400)
    ]
    # A fair coin: outside these bounds with probability below 1e-6.
    assert 150 < sum(first) < 250
    for i in range(20):
        assert Question.of("x", f"{i}", "b") == Question.of("x", "b", f"{i}")


def test_equal_texts_tie_unasked_and_repeats_are_one_question(file):
    table = text_contexts({"why ?": ["so", "so", "no"]})
    np.testing.assert_array_equal(ask(file, table, [0], [0], [1]), [0.5])
    with pytest.raises(LabelsPending, match="1 question waits"):
        ask(file, table, [0, 0, 0], [0, 2, 1], [2, 0, 2])
    fill(file.pending, shorter)
    row = lines(file.pending)[0]
    wins = float((row["response_a"] == "so") == (row["label"] == "a"))
    np.testing.assert_array_equal(
        ask(file, table, [0, 0, 0], [0, 2, 1], [2, 0, 2]), [wins, 1.0 - wins, wins]
    )


def test_many_replicas_are_asked_together(file, table):
    x = Contexts.rows(table, np.array([[0, 1], [0, 0]]))
    a1, a2 = np.array([[0, 0], [1, 2]]), np.array([[1, 1], [0, 0]])
    with pytest.raises(LabelsPending, match="3 questions"):
        file(PairQuery(x, a1, a2), Key(0))
    fill(file.pending, shorter)
    got = file(PairQuery(x, a1, a2), Key(0)).y
    np.testing.assert_array_equal(got, [[0.0, 1.0], [1.0, 1.0]])


def test_a_chat_is_shown_as_people_read_it(file):
    chat = Prompt("<user> why <assistant>", (1,), (("user", "why"),))
    responses = text_contexts({"x": ["a", "b"]}).source.responses[0]
    with pytest.raises(LabelsPending):
        file.labels([chat], [responses[0]], [responses[1]])
    assert lines(file.pending)[0]["prompt"] == "user: why"


# --------------------------------------------------------------------------- half-done work


def test_some_answers_are_kept_while_others_wait(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0, 0], [0, 0], [1, 2])
    rows = lines(file.pending)
    rows[0]["label"], rows[0]["who"] = "a", "Ada"
    rows[1]["note"] = "hard"
    file.pending.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(LabelsPending, match="1 question"):
        ask(file, table, [0, 0], [0, 0], [1, 2])
    assert lines(file.pending) == [rows[1]]  # with what was noted there
    assert [r | {"digest": None} for r in lines(file.answers)] == [rows[0] | {"digest": None}]
    fill(file.pending, shorter)
    assert ask(file, table, [0, 0], [0, 0], [1, 2]).shape == (2,)
    assert [r["key"] for r in lines(file.answers)] == [r["key"] for r in rows]


def test_answers_may_come_by_key_alone(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    row = lines(file.pending)[0]
    file.answers.write_text(json.dumps({"key": row["key"], "label": "a"}))  # no end of line
    for _ in range(2):
        got = ask(file, table, [0], [0], [1])
        assert got[0] == float(row["response_a"] == "because")
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [2])
    fill(file.pending, shorter)
    assert ask(file, table, [0, 0], [0, 0], [1, 2]).shape == (2,)
    assert len(lines(file.answers)) == 2


def test_answers_with_their_texts_swapped_are_understood(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    row = lines(file.pending)[0]
    a, b = row["response_a"], row["response_b"]
    file.answers.write_text(json.dumps({**row, "response_a": b, "response_b": a, "label": 0.9}))
    got = ask(file, table, [0], [0], [1])
    assert got[0] == pytest.approx(0.9 if b == "because" else 0.1, rel=1e-12)
    # The same answer, said the other way round, is no conflict.
    file.answers.write_text(
        file.answers.read_text() + "\n" + json.dumps({**row, "label": 0.1}) + "\n"
    )
    assert ask(file, table, [0], [0], [1])[0] == got[0]


def test_answers_of_another_folder_can_be_taken_along(file, table, tmp_path):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    fill(file.pending, shorter)
    want = ask(file, table, [0], [0], [1])
    other = LabelFile(tmp_path / "other")
    other.answers.write_bytes(file.answers.read_bytes())
    assert ask(other, table, [0], [0], [1]) == want


def test_questions_of_another_run_stay_and_come_last(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    with pytest.raises(LabelsPending, match="Fill in the field label of the first 1 lines"):
        ask(file, table, [1], [0], [1])
    prompts = [r["prompt"] for r in lines(file.pending)]
    assert prompts == ["où ?\u2028", "why ?"]


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("label", ["c", 1.5, -0.1, True, [1], float("nan")])
def test_labels_outside_their_range_name_the_line_and_change_nothing(file, table, label):
    with pytest.raises(LabelsPending):
        ask(file, table, [0, 0], [0, 0], [1, 2])
    rows = lines(file.pending)
    rows[0]["label"], rows[1]["label"] = "a", label
    file.pending.write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = file.pending.read_bytes()
    with pytest.raises(ValueError, match=r"pending\.jsonl cannot be used: line 2: label must be"):
        ask(file, table, [0, 0], [0, 0], [1, 2])
    assert file.pending.read_bytes() == before
    assert not file.answers.exists()


def test_half_written_and_foreign_lines_are_named(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    before = file.pending.read_text()
    file.pending.write_text(before + '\n{"key": "ab", "lab\n[1]\n')
    with pytest.raises(
        ValueError, match=r"line 3 is no JSON.*line 4 must be a JSON object; .*list"
    ):
        ask(file, table, [0], [0], [1])
    file.pending.write_text(before)
    file.answers.write_bytes(b'{"key": "\xff"}')
    with pytest.raises(ValueError, match=r"answers\.jsonl cannot be used: it is not UTF-8"):
        ask(file, table, [0], [0], [1])


def test_unknown_keys_and_changed_texts_are_refused(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    row = lines(file.pending)[0]
    file.answers.write_text('{"key": "abc", "label": "a"}\n{"label": "b"}\n')
    with pytest.raises(ValueError, match=r"line 1 answers the key 'abc', which was never.*line 2"):
        ask(file, table, [0], [0], [1])
    file.answers.write_text(json.dumps({**row, "response_a": "changed", "label": "a"}))
    with pytest.raises(ValueError, match=r"line 1: the texts were changed"):
        ask(file, table, [0], [0], [1])


def test_conflicting_answers_are_refused(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    row = lines(file.pending)[0]
    file.answers.write_text(json.dumps({**row, "label": "a"}) + "\n")
    fill(file.pending, lambda _: "b")
    before = file.pending.read_bytes(), file.answers.read_bytes()
    with pytest.raises(ValueError, match=r'as "b", in conflict with line 1 of answers\.jsonl'):
        ask(file, table, [0], [0], [1])
    assert (file.pending.read_bytes(), file.answers.read_bytes()) == before


def test_a_changed_record_of_questions_is_refused(file, table):
    with pytest.raises(LabelsPending):
        ask(file, table, [0], [0], [1])
    file.questions.write_text(file.questions.read_text().replace("because", "becaus"))
    with pytest.raises(ValueError, match=r"questions\.jsonl cannot be used: line 1 is no question"):
        ask(file, table, [0], [0], [1])


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"label file folder .* other files \(notes\.txt\)"):
        LabelFile(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_contexts_without_texts_are_refused(table, file):
    x = Contexts(table.phi, table.log_pi0)
    with pytest.raises(ValueError, match="PromptProblem"):
        file(PairQuery(x, np.array([[0]]), np.array([[1]])), Key(0))


def test_a_run_that_is_killed_while_it_writes_loses_no_answer(file, table, monkeypatch):
    with pytest.raises(LabelsPending):
        ask(file, table, [0, 0], [0, 0], [1, 2])
    fill(file.pending, shorter)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LabelFile, "_write_pending", killed)
        with pytest.raises(KeyboardInterrupt):
            ask(file, table, [0, 0], [0, 0], [1, 2])
    assert len(lines(file.answers)) == 2
    np.testing.assert_array_equal(ask(file, table, [0, 0], [0, 0], [1, 2]), [0.0, 0.0])
    assert len(lines(file.answers)) == 2


# --------------------------------------------------------------------------- a whole run


def test_a_run_stops_at_each_round_and_replays_the_earlier_ones(tmp_path):
    policy = random_strings(6, 8)
    problem = PromptProblem(few_prompts(6), policy, features=TokenFeatures(3), pool_size=6)
    learner = OnlineIterative(batch_size=5)
    truth = RewardModelOracle(TextReward(lambda p, a: float(hash_of(p, a))))
    file = LabelFile(tmp_path / "people")

    def play(rounds):
        x, _ = problem.population(Key(0), 0)

        def evaluate(p):
            return {"first": np.exp(to_numpy(p.log_probs(x))[:, 0, 0])}

        return run(learner, Assembled(problem, file, evaluate), rounds=rounds, seed=3)

    def answer(row):
        better = truth.reward.f(row["prompt"], row["response_a"]) > truth.reward.f(
            row["prompt"], row["response_b"]
        )
        return "a" if better else "b"

    with pytest.raises(LabelsPending):
        play(2)
    asked = [r["key"] for r in lines(file.pending)]
    with pytest.raises(LabelsPending):  # nobody answered: the same questions
        play(2)
    assert [r["key"] for r in lines(file.pending)] == asked
    fill(file.pending, answer)
    one = play(1)
    with pytest.raises(LabelsPending):
        play(2)
    later = [r["key"] for r in lines(file.pending)]
    assert later
    assert not set(later) & set(asked)
    fill(file.pending, answer)
    two, again = play(2), play(2)
    assert lines(file.pending) == []
    for name in ("first", "residual", "labels"):
        # Round 1 is the same to the last bit: the same pairs, the same answers.
        np.testing.assert_array_equal(two[name][:, :1], one[name][:, :1])
        np.testing.assert_array_equal(two[name], again[name])
    np.testing.assert_array_equal(two["first"][:, 1], one["first"][:, 1])
    assert (two["first"][:, 2] != two["first"][:, 1]).all()


def hash_of(prompt, response):
    return Key(1).child(prompt, response).uniform_numpy(1, 1)[0, 0]
