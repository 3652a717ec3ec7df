"""The tiny world's prompts, its answers, and the parser that reads them back."""

import itertools
import re

import numpy as np
import pytest

from llm_bridge.tiny import words
from llm_bridge.tiny.architecture import CONTEXT, tiny_tokenizer
from llm_bridge.tiny.grammar import (
    AnswerLaw,
    Question,
    questions,
    read_prompt,
    sample_answers,
    split_prompts,
)
from llm_bridge.tiny.parser import Answer, judge, parse
from rlhf_theory.randomness import Key
from tests.helpers.statistics import assert_frequencies, assert_frequency

PHRASES = [
    *(o for group in words.OPENERS.values() for o in group if o),
    *words.FILLERS,
    *(o for group in words.OPINIONS.values() for o in group if o),
    *words.CLOSINGS,
]


@pytest.fixture(scope="module")
def texts():
    """Pairs of a prompt and an answer, eight answers to every prompt."""
    prompts = [q.text for q in questions()] * 8
    return list(zip(prompts, sample_answers(prompts, Key(0)), strict=True))


def grammar_pattern():
    """The grammar of answers as one regular expression: a second way to tell what belongs to it."""

    def either(phrases):
        return "(?:" + "|".join(re.escape(p + " ") for p in phrases if p) + ")"

    facts = [
        form.format(topic=topic, value=value)
        for question, forms in words.FACT_FORMS.items()
        for form in forms
        for topic in words.TOPICS
        for value in words.VALUES[question]
    ]
    openers = either(o for group in words.OPENERS.values() for o in group)
    opinions = either(o for group in words.OPINIONS.values() for o in group)
    return re.compile(
        f"{openers}?{either(facts)}{either(words.FILLERS)}*{opinions}?{either(words.CLOSINGS)}?"
    )


# --------------------------------------------------------------------------- prompts


def test_prompts_are_all_combinations_and_distinct():
    every = questions()
    assert len(every) == len({q.text for q in every}) == 24 * 2 * 2 * 4 * 2
    cells = {(q.topic, q.question, q.style) for q in every}
    assert len(cells) == 96
    assert Question("oak", "color", "brief").text == "what color is oak ? answer briefly ."


def test_a_prompt_is_read_back():
    for q in questions():
        assert read_prompt(q.text) == q
        assert read_prompt(f"<bos>  {q.text} ") == q


def test_an_unknown_prompt_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"what color is oak \? answer briefly"):
        read_prompt("what colour is oak ? answer briefly .")


def test_split_is_disjoint_complete_and_reproducible():
    train, held = split_prompts(Key(3))
    assert (train, held) == split_prompts(Key(3))
    assert (train, held) != split_prompts(Key(4))
    assert set(train) | set(held) == {q.text for q in questions()}
    assert not set(train) & set(held)
    assert (len(train), len(held)) == (576, 192)


def test_held_out_cells_are_balanced_and_their_facts_stay_learnable():
    train, held = (
        {(q.topic, q.question, q.style) for q in map(read_prompt, part)}
        for part in split_prompts(Key(3))
    )
    assert not train & held
    assert len(held) == 24
    assert {topic for topic, _, _ in held} == set(words.TOPICS)
    for question, style in itertools.product(words.QUESTION_FORMS, words.STYLE_FORMS):
        assert sum((q, s) == (question, style) for _, q, s in held) == 6
    assert {(t, q) for t, q, _ in held} <= {(t, q) for t, q, _ in train}


def test_the_first_prompts_are_mixed():
    for part in split_prompts(Key(0)):
        first = [read_prompt(p) for p in part[:64]]
        assert len({q.topic for q in first}) > 16
        assert len({(q.question, q.style) for q in first}) == 4


# --------------------------------------------------------------------------- tokens


def test_every_word_is_in_the_vocabulary_and_every_token_is_used(texts):
    vocabulary = words.vocabulary()
    assert len(vocabulary) == len(set(vocabulary))
    used = {w for pair in texts for text in pair for w in text.split()}
    assert used == set(vocabulary) - set(words.SPECIAL)


def test_special_tokens_are_four_different_ones():
    tokenizer = tiny_tokenizer()
    special = (
        tokenizer.pad_token_id,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.unk_token_id,
    )
    assert special == (0, 1, 2, 3)
    assert len(tokenizer) == len(words.vocabulary())


def test_texts_survive_the_tokenizer(texts):
    tokenizer = tiny_tokenizer()
    longest = 0
    for prompt, answer in texts[:500]:
        left = tokenizer(prompt)["input_ids"]
        right = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert left[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in [*left, *right]
        assert tokenizer.decode(left, skip_special_tokens=True) == prompt
        assert tokenizer.decode(right) == answer
        longest = max(longest, len(left) + len(right) + 1)
    assert longest <= CONTEXT


def test_an_unknown_word_is_the_unknown_token():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("zebra", add_special_tokens=False)["input_ids"]
    assert ids == [tokenizer.unk_token_id]


def test_messages_have_the_tokens_of_the_plain_text():
    tokenizer = tiny_tokenizer()
    prompt, answer = "what color is oak ? answer briefly .", "oak is brown ."
    asked = [{"role": "user", "content": prompt}]
    shown = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(shown, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer(prompt)["input_ids"]

    chat = [*asked, {"role": "assistant", "content": answer}]
    shown = tokenizer.apply_chat_template(chat, tokenize=False)
    whole = tokenizer(shown, add_special_tokens=False)["input_ids"]
    right = tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert whole == [*ids, *right, tokenizer.eos_token_id]


# --------------------------------------------------------------------------- parser


def test_no_phrase_begins_another():
    # So that an answer has one reading only.
    facts = [f.format(topic="oak", value="red") for fs in words.FACT_FORMS.values() for f in fs]
    phrases = [tuple(p.split()) for p in [*PHRASES, *facts]]
    assert len(phrases) == len(set(phrases))
    for a, b in itertools.permutations(phrases, 2):
        assert a != b[: len(a)]


def test_every_combination_of_parts_is_read_as_it_was_put_together():
    openers = [(o, tone) for tone, group in words.OPENERS.items() for o in group]
    opinions = [(o, sign) for sign, group in words.OPINIONS.items() for o in group]
    closings = [("", False), *((c, True) for c in words.CLOSINGS)]
    fillers = [(), *((f,) for f in words.FILLERS), words.FILLERS[:2], words.FILLERS]
    facts = [
        (form.format(topic=topic, value=value), (topic, question, value))
        for topic in ("oak", "whale")
        for question, forms in words.FACT_FORMS.items()
        for form in forms
        for value in words.VALUES[question][:3]
    ]
    n = 0
    for (o, tone), (f, fact), fill, (op, sign), (c, closed) in itertools.product(
        openers, facts, fillers, opinions, closings
    ):
        text = " ".join(p for p in (o, f, *fill, op, c) if p)
        assert parse(text) == Answer(*fact, tone, sign, closed, len(fill))
        n += 1
    assert n == 5 * 24 * 8 * 5 * 3


def test_sampled_answers_are_what_extreme_habits_ask_for():
    prompts = [q.text for q in questions()]
    for tone, sign, closed, count in itertools.product(
        ("polite", "plain", "rude"), (1, 0, -1), (True, False), (0, 3)
    ):
        law = tuple(float(k == count) for k in range(4))
        answer_law = AnswerLaw(
            right=1.0,
            polite=float(tone == "polite"),
            rude=float(tone == "rude"),
            pleased=float(sign == 1),
            displeased=float(sign == -1),
            closing=float(closed),
            fillers={"brief": law, "full": law},
        )
        some = prompts[:: 7 + count]
        for prompt, answer in zip(some, sample_answers(some, Key(1), answer_law), strict=True):
            asked = read_prompt(prompt)
            want = Answer(asked.topic, asked.question, asked.value, tone, sign, closed, count)
            judged = judge(prompt, answer)
            assert judged.answer == want
            assert judged.on_topic
            assert judged.fact_right


def test_every_sampled_answer_is_grammatical_and_on_topic(texts):
    judged = [judge(p, a) for p, a in texts]
    assert all(j.grammatical and j.on_topic for j in judged)
    assert all(j.fact_right == j.answer.fact_right for j in judged)


def test_parser_agrees_with_a_regular_expression_on_damaged_answers(texts):
    pattern, rng = grammar_pattern(), np.random.default_rng(0)
    vocabulary = words.vocabulary()
    outcomes = []
    for _, answer in texts[:3000]:
        tokens = answer.split()
        at, other = rng.integers(len(tokens), size=2)
        damage = rng.integers(4)
        if damage == 0:
            del tokens[at]
        elif damage == 1:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif damage == 2:
            tokens[at] = vocabulary[rng.integers(4, len(vocabulary))]
        else:
            tokens = tokens[:at]
        belongs = pattern.fullmatch("".join(w + " " for w in tokens)) is not None
        assert (parse(" ".join(tokens)) is not None) == belongs
        outcomes.append(belongs)
    assert 100 < sum(outcomes) < 2900  # both verdicts were exercised


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sure ,",
        "oak is brown",
        "oak is forest .",
        "brown is oak .",
        "oak is brown . sure ,",
        "oak is brown . hope this helps . i love it .",
        "oak is brown . i love it . i hate it .",
        "oak is brown . oak is brown .",
        "oak is found in the brown .",
    ],
)
def test_ungrammatical_answers(text):
    assert parse(text) is None


def test_an_answer_to_another_question_is_off_topic_and_not_right():
    prompt = "what color is oak ? answer briefly ."
    for text in ("oak is found in the forest .", "moss is green ."):
        judged = judge(prompt, text)
        assert judged.grammatical
        assert judged.answer.fact_right
        assert not judged.on_topic
        assert not judged.fact_right
    assert not judge(prompt, "oak is red .").fact_right
    assert judge(prompt, "oak is red .").on_topic
    assert judge(prompt, "<bos> oak is brown . <eos> <pad>").fact_right


# --------------------------------------------------------------------------- the law of answers


def test_an_answer_depends_on_its_own_row_only():
    prompts = [q.text for q in questions()][:50]
    all_of_them = sample_answers(prompts, Key(5))
    assert sample_answers(prompts[:20], Key(5)) == all_of_them[:20]
    assert sample_answers(prompts, Key(6)) != all_of_them
    assert sample_answers([], Key(5)) == ()


@pytest.mark.statistical
def test_frequencies_are_those_of_the_habits():
    # False alarm 1e-6 per assertion; a probability that is off by 0.03 would be noticed.
    prompts = [q.text for q in questions()] * 20
    n, answer_law = len(prompts), AnswerLaw()
    judged = [judge(p, a) for p, a in zip(prompts, sample_answers(prompts, Key(11)), strict=True)]
    answers = [j.answer for j in judged]
    assert_frequency(sum(j.fact_right for j in judged), n, 0.55)
    tones = [sum(a.tone == t for a in answers) for t in ("polite", "plain", "rude")]
    assert_frequencies(tones, [0.35, 0.35, 0.3])
    assert_frequencies(
        [sum(a.sentiment == s for a in answers) for s in (1, 0, -1)], [0.25, 0.5, 0.25]
    )
    assert_frequency(sum(a.closing for a in answers), n, answer_law.closing)
    for style, law in answer_law.fillers.items():
        counts = [sum(j.style == style and j.answer.fillers == k for j in judged) for k in range(4)]
        assert_frequencies(counts, law)


@pytest.mark.statistical
def test_wrong_values_are_uniform_over_the_others():
    # False alarm 1e-6; a value twice as likely as it should be would be noticed.
    prompts = [Question("oak", "color", "brief").text] * 8000
    values = [parse(a).value for a in sample_answers(prompts, Key(12))]
    law = [0.55 if v == "brown" else 0.45 / 7 for v in words.COLORS]
    assert_frequencies([values.count(v) for v in words.COLORS], law)


@pytest.mark.statistical
def test_parts_are_independent():
    # False alarm 1e-6: whether the fact is right says nothing about the tone. A link that moves
    # one of the probabilities by 0.04 would be noticed.
    prompts = [q.text for q in questions()] * 20
    judged = [judge(p, a) for p, a in zip(prompts, sample_answers(prompts, Key(13)), strict=True)]
    table = [
        sum(j.fact_right == right and j.answer.tone == tone for j in judged)
        for right in (True, False)
        for tone in ("polite", "plain", "rude")
    ]
    assert_frequencies(table, np.outer([0.55, 0.45], [0.35, 0.35, 0.3]).ravel())


@pytest.mark.parametrize(
    "bad",
    [
        {"right": 1.2},
        {"polite": 0.8, "rude": 0.4},
        {"closing": -0.1},
        {"fillers": {"brief": (0.5, 0.6), "full": (1.0,)}},
        {"fillers": {"brief": (1.0,)}},
    ],
)
def test_habits_must_be_probabilities(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AnswerLaw(**bad)
