"""Preference data in files."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_bridge.errors import ModelError
from llm_bridge.labels.preference_files import (
    PreferencePair,
    PreferenceRanking,
    Preferences,
    read_preferences,
    write_preferences,
)
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.sampler import Response
from llm_bridge.pools.data import Comparison
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.randomness import Key
from tests.helpers.assembled import compared
from tests.helpers.language import CHAT_TEMPLATE, CHAT_WORDS, llama, word_tokenizer
from tests.helpers.prompts import TokenFeatures

SUFFIXES = ("jsonl", "parquet")

PAIRS = [
    PreferencePair("why ?", "because", "so", label=0.9, weight=2.0, extras={"annotator": "Ada"}),
    PreferencePair(
        "où est\u2028il ? 🦊", " ici\n«là»", "\tnulle part \u00a0x", ids=((3,), (4, 1), (5,))
    ),
    PreferencePair("a", "b", "c", label=0.5),
]
CHAT = [
    PreferencePair([{"role": "user", "content": "why"}], "because", "so"),
    PreferencePair(
        [{"role": "system", "content": "hello"}, {"role": "user", "content": "why ?"}], "so", "🦊"
    ),
]


def write_rows(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    else:
        names = list(dict.fromkeys(n for r in rows for n in r))
        pq.write_table(pa.Table.from_pylist([{n: r.get(n) for n in names} for r in rows]), path)


# --------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("pairs", [PAIRS, CHAT], ids=["text", "messages"])
def test_pairs_come_back(tmp_path, suffix, pairs):
    path = tmp_path / f"new/data.{suffix}"
    write_preferences(path, pairs)
    assert list(read_preferences(path).items) == pairs
    # and what was read writes the same file
    write_preferences(tmp_path / f"again.{suffix}", read_preferences(path))
    assert (tmp_path / f"again.{suffix}").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_margins_and_rankings_come_back(tmp_path, suffix):
    pairs = [PreferencePair("a", "b", "c", margin=m) for m in (0.5, -1.0)]
    write_preferences(tmp_path / f"m.{suffix}", pairs)
    assert list(read_preferences(tmp_path / f"m.{suffix}").items) == pairs
    rankings = [
        PreferenceRanking("a", ("x", "y", "z"), (2, 0, 1)),
        PreferenceRanking("b", ("x", "y"), (1, 0), extras={"who": 3}),
    ]
    write_preferences(tmp_path / f"r.{suffix}", rankings)
    assert list(read_preferences(tmp_path / f"r.{suffix}").items) == rankings
    chats = [PreferenceRanking([{"role": "user", "content": "a"}], ("x", "y"), (1, 0))]
    write_preferences(tmp_path / f"c.{suffix}", chats)
    assert list(read_preferences(tmp_path / f"c.{suffix}").items) == chats


def test_the_columns_are_those_of_trl(tmp_path):
    write_preferences(tmp_path / "a.jsonl", [PAIRS[0], CHAT[0]][:1])
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert row == {
        "prompt": "why ?", "chosen": "because", "rejected": "so", "rlhf_label": 0.9,
        "rlhf_weight": 2.0, "rlhf_annotator": "Ada", "rlhf_format": 1,
    }  # fmt: skip
    write_preferences(tmp_path / "c.jsonl", CHAT[:1])
    assert json.loads((tmp_path / "c.jsonl").read_text()) == {
        "prompt": [{"role": "user", "content": "why"}],
        "chosen": [{"role": "assistant", "content": "because"}],
        "rejected": [{"role": "assistant", "content": "so"}],
        "rlhf_format": 1,
    }


def test_other_columns_are_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    write_rows(path, [{"prompt": "a", "chosen": "b", "rejected": "c", "source": "web", "n": None}])
    (pair,) = read_preferences(path).items
    assert pair.extras == {"source": "web"}


def test_a_ranking_is_all_its_pairs_and_counts_once():
    pairs = PreferenceRanking("q", ("x", "y", "z"), (2, 0, 1)).pairs()
    assert [(p.chosen, p.rejected) for p in pairs] == [("z", "x"), ("z", "y"), ("x", "y")]
    assert math.fsum(p.weight for p in pairs) == pytest.approx(1.0)
    with_ties = PreferenceRanking("q", ("x", "y", "x"), (0, 1, 2)).pairs()
    assert [(p.chosen, p.rejected) for p in with_ties] == [("x", "y"), ("y", "x")]


# --------------------------------------------------------------------------- implicit prompts


TEXT_IMPLICIT = [
    {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    {"chosen": "Q: why? A: because", "rejected": "Q: why? A: no"},
    {"chosen": "abc", "rejected": "abd"},
]
CHAT_IMPLICIT = {
    "chosen": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
    "rejected": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "go"}],
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_prompt_may_be_the_common_beginning(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_rows(path, TEXT_IMPLICIT)
    got = [(p.prompt, p.chosen, p.rejected) for p in read_preferences(path).items]
    assert got == [
        ("The sky is", " blue.", " green."),
        ("Q: why? A:", " because", " no"),
        ("ab", "c", "d"),
    ]
    write_rows(path, [CHAT_IMPLICIT])
    (pair,) = read_preferences(path).items
    assert pair == PreferencePair([{"role": "user", "content": "hi"}], "hello", "go")


@pytest.mark.filterwarnings("ignore")
def test_implicit_prompts_are_those_of_trl():
    if importlib.util.find_spec("trl") is None:
        pytest.skip("needs trl")
    from trl.data_utils import extract_prompt  # noqa: PLC0415

    from llm_bridge.labels.preference_rows import pair_of, row_of  # noqa: PLC0415

    for row in (*TEXT_IMPLICIT, CHAT_IMPLICIT):
        want = extract_prompt(row)
        got = row_of(pair_of(row))
        assert {k: got[k] for k in want} == want


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("pairs", [PAIRS, CHAT], ids=["text", "messages"])
def test_the_loader_of_trl_reads_our_files(tmp_path, suffix, pairs, monkeypatch):
    for name in ("datasets", "trl"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from datasets import load_dataset  # noqa: PLC0415
    from trl import is_conversational  # noqa: PLC0415

    path = tmp_path / f"data.{suffix}"
    write_preferences(path, pairs)
    kind = "json" if suffix == "jsonl" else "parquet"
    data = load_dataset(
        kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [r["chosen"] for r in data] == [
        p.chosen if isinstance(p.prompt, str) else [{"role": "assistant", "content": p.chosen}]
        for p in pairs
    ]
    assert is_conversational(data[0]) == (pairs is CHAT)


# --------------------------------------------------------------------------- comparisons


@pytest.fixture(scope="module")
def model():
    return llama(word_tokenizer([*"abcdefg", "why", "because", "so"]))


def test_pairs_become_comparisons_scored_by_the_model(tmp_path, model):
    pairs = [
        PreferencePair("why a", "because b", "so", label=0.8, weight=3.0, extras={"round": 2}),
        PreferencePair("b", "c d", "e f g"),
    ]
    write_preferences(tmp_path / "a.jsonl", pairs)
    first, second = read_preferences(tmp_path / "a.jsonl").comparisons(model)
    assert first.prompt == model.encode_prompt("why a")
    assert first.first.ids == model.encode_response("because b")
    assert (first.label, first.weight, first.round, second.round) == (0.8, 3.0, 2, 0)
    want = sequence_log_probs(model, [first.prompt.ids], [first.second.ids])
    assert first.log_pi0_second == pytest.approx(want[0], abs=1e-5)
    assert second.second.text == "e f g"


def test_comparisons_of_a_run_come_back_token_for_token(tmp_path, model):
    prompt = model.encode_prompt("why")
    unfinished = model.encode_response("because so")[:-1]
    odd = (*model.encode_response("a")[:-1], 0, *model.encode_response("b"))  # a pad token inside
    responses = [
        Response(unfinished, model.decode(unfinished), 0.0, finished=False),
        Response(odd, model.decode(odd), 0.0),
    ]
    for label in (0.0, 0.3, 1.0):
        scores = sequence_log_probs(model, [prompt.ids] * 2, [r.ids for r in responses])
        c = Comparison(prompt, *responses, *map(float, scores), label=label, round=4)
        path = tmp_path / f"{label}.parquet"
        write_preferences(path, Preferences.of([c]))
        (got,) = read_preferences(path).comparisons(model)
        if label < 0.5:
            assert (got.first.ids, got.second.ids) == (odd, unfinished)
            assert got.label == pytest.approx(1.0 - label, rel=1e-12)
        else:
            assert (got.first.ids, got.second.ids) == (unfinished, odd)
            assert got.label == label
        assert got.round == 4
        assert got.log_pi0_first == pytest.approx(scores[int(label < 0.5)], abs=1e-5)
        assert not (got.first if label >= 0.5 else got.second).finished
        # Another tokenizer does not take these tokens on trust.
        other = llama(word_tokenizer(["so", "because", "why", "b", "a"]))
        (again,) = read_preferences(path).comparisons(other)
        assert other.decode(again.first.ids) == got.first.text


def test_data_of_a_problem_survive_the_file(tmp_path, tiny_policy):
    texts = ["what color is the oak ?", "what size is the fox ?"]
    problem = PromptProblem(texts, tiny_policy, features=TokenFeatures(3), pool_size=4)
    x, _ = problem.population(Key(0), 0)
    y = np.array([[1.0, 0.0]])
    like = problem.empty_data().count
    a1, a2 = like.new_zeros((1, 2)).long(), like.new_ones((1, 2)).long()
    data = problem.empty_data().add(compared(x, a1, a2, like.new_tensor(y)))
    write_preferences(tmp_path / "d.jsonl", Preferences.of(data))
    back = problem.data_of(read_preferences(tmp_path / "d.jsonl").comparisons(tiny_policy.model))
    # A pair with its label, or swapped with the other label: the same evidence.
    z, z_back = (d.pairs.phi[0, :, 0] - d.pairs.phi[0, :, 1] for d in (data, back))
    sign = 2.0 * data.wins[0] - 1.0
    np.testing.assert_allclose(z_back, sign[:, None] * z, rtol=1e-12)
    np.testing.assert_array_equal(back.wins, 1.0)


def test_chats_become_comparisons_through_the_template(tmp_path):
    model = llama(word_tokenizer(CHAT_WORDS, chat_template=CHAT_TEMPLATE))
    (c,) = Preferences((CHAT[0],)).comparisons(model)
    assert c.prompt.text == "<user> why <end> <assistant>"
    assert c.prompt.messages == (("user", "why"),)
    assert Preferences.of([c], ids=False).items == (
        PreferencePair(
            [{"role": "user", "content": "why"}],
            "because",
            "so",
            extras={"round": 0, "second": "rejected"},
        ),
    )
    plain = llama(word_tokenizer(CHAT_WORDS))
    with pytest.raises(ModelError, match=r"Pair 1 cannot be used with llama: .*chat template"):
        Preferences((CHAT[0],)).comparisons(plain)


def test_pairs_that_do_not_fit_the_model_are_named(model):
    pairs = Preferences((PAIRS[0], PreferencePair(" ".join("a" * 80), "b", "c")))
    with pytest.raises(ValueError, match=r"Pair 2 cannot be used with llama: .*context of 64"):
        pairs.comparisons(model)


def test_comparisons_without_text_or_difference_are_counted(model):
    prompt, empty = model.encode_prompt("why"), Response((model.eos_id,), "", 0.0)
    a, same = (Response(model.encode_response("a")[:n], "a", 0.0) for n in (1, 2))
    b = Response(model.encode_response("b"), "b", 0.0)
    cs = [Comparison(prompt, x, y, 0.0, 0.0, 1.0) for x, y in ((a, same), (a, empty), (a, b))]
    got = Preferences.of(cs)
    assert (len(got.items), got.n_identical, got.n_empty) == (1, 1, 1)


# --------------------------------------------------------------------------- bad input


GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "  \n"}, "chosen is empty"),
        ({"rejected": ""}, "rejected is empty"),
        ({"prompt": ""}, "prompt is empty"),
        ({"rejected": None}, "rejected is missing"),
        ({"prompt": None, "chosen": "ab", "rejected": "cd"}, "no common beginning"),
        ({"prompt": None, "chosen": "ab", "rejected": "abc"}, "the beginning of the other"),
        ({"rlhf_label": 1.2}, r"rlhf_label must be a number from 0 to 1; got 1\.2"),
        ({"rlhf_label": math.nan}, "rlhf_label must be a number from 0 to 1; got nan"),
        ({"margin": math.inf}, "margin must be a finite number; got inf"),
        ({"rlhf_weight": -1.0}, r"rlhf_weight must be a finite number, at least 0; got -1\.0"),
        ({"rlhf_ids": {"prompt": [1], "chosen": [2]}}, "rlhf_ids must hold the tokens"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_numbered(tmp_path, suffix, row, message):
    path = tmp_path / f"a.{suffix}"
    write_rows(path, [GOOD, {**GOOD, **row}])
    word = "line" if suffix == "jsonl" else "row"
    with pytest.raises(ValueError, match=rf"cannot be used: {word} 2: .*{message}"):
        read_preferences(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": 3}, "prompt and chosen must both be texts, or both messages"),
        ({"prompt": [{"role": "user", "content": "a"}]}, "must both be texts"),
        ({"prompt": [{"role": "user"}]}, "prompt must be text, or messages"),
        ({"margin": "much"}, "margin must be a finite number; got 'much'"),
        ({"rlhf_label": True}, "rlhf_label must be a number"),
        ({"prompt": None, "chosen": "a", "rejected": ["b"]}, "must both be texts"),
        (
            {
                "prompt": [{"role": "user", "content": "a"}],
                "chosen": [{"role": "user", "content": "b"}],
                "rejected": [{"role": "assistant", "content": "c"}],
            },
            "chosen must be one message of the assistant; its roles are: user",
        ),
    ],
)
def test_rows_of_mixed_types_are_numbered(tmp_path, row, message):
    path = tmp_path / "a.jsonl"
    write_rows(path, [{**GOOD, **row}])
    with pytest.raises(ValueError, match=rf"line 1: .*{message}"):
        read_preferences(path)


def test_all_bad_rows_are_listed_up_to_ten(tmp_path):
    path = tmp_path / "a.jsonl"
    write_rows(path, [{**GOOD, "chosen": ""}] * 13)
    with pytest.raises(ValueError, match=r"line 1: .*line 10: chosen is empty; and 3 more\."):
        read_preferences(path)


def test_half_written_lines_are_numbered(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD)[:20])
    with pytest.raises(ValueError, match="line 3 is no JSON, or half-written"):
        read_preferences(path)


def test_identical_pairs_are_dropped_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    same = {**GOOD, "rejected": "b"}
    implicit = {"chosen": "x y", "rejected": "x y"}
    write_rows(path, [same, GOOD, implicit, same])
    got = read_preferences(path)
    assert (len(got.items), got.n_identical) == (1, 3)
    write_rows(path, [{"prompt": "a", "completions": ["b", "b"], "ranking": [1, 0]}])
    assert read_preferences(path).n_identical == 1


@pytest.mark.parametrize("ranking", [[0, 0], [1, 2], [0], "best", [0.0, 1.0], None])
def test_rankings_must_be_permutations(tmp_path, ranking):
    path = tmp_path / "a.jsonl"
    write_rows(path, [{"prompt": "a", "completions": ["b", "c"], "ranking": ranking}])
    with pytest.raises(ValueError, match=r"line 1: ranking must hold 0 \.\. 1 once each"):
        read_preferences(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_columns_get_a_hint(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_rows(path, [{"prompt": "a", "choosen": "b", "rejected": "c"}])
    with pytest.raises(
        ValueError, match=r"columns chosen, rejected; it has .*Rename 'choosen' to 'chosen'\."
    ):
        read_preferences(path)
    write_rows(path, [{"prompt": "a", "completion": "b", "label": True}])
    with pytest.raises(ValueError, match="no comparisons"):
        read_preferences(path)
    write_rows(path, [{"prompt": "a", "completions": ["b", "c"]}])
    with pytest.raises(ValueError, match="must have the columns prompt, completions, ranking"):
        read_preferences(path)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.jsonl or \.parquet"):
        read_preferences(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_preferences(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no rows"):
        read_preferences(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match="no Parquet file, or damaged"):
        read_preferences(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_foreign_files_are_never_replaced_and_ours_only_when_asked(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_rows(path, [GOOD])
    before = path.read_bytes()
    for replace in (False, True):
        with pytest.raises(FileExistsError, match="not written by this program"):
            write_preferences(path, PAIRS, replace=replace)
    assert path.read_bytes() == before
    path.unlink()
    write_preferences(path, PAIRS)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="replace=True"):
        write_preferences(path, PAIRS[:1])
    assert path.read_bytes() == before
    write_preferences(path, PAIRS[:1], replace=True)
    assert len(read_preferences(path).items) == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary files


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no preferences"),
        ([PAIRS[0], CHAT[0]], "all as texts or all as messages"),
        ([PAIRS[0], PreferenceRanking("a", ("b", "c"), (0, 1))], "pairs or rankings"),
        (
            [PAIRS[0], PreferencePair("a", "b", "c", margin=1.0)],
            "margins for all pairs or for none",
        ),
        ([PreferencePair("a", "b", " ")], "Item 1 cannot be written: rejected is empty"),
        ([PreferencePair("a", "b", "c", label=2.0)], "rlhf_label must be"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, items, message):
    with pytest.raises(ValueError, match=message):
        write_preferences(tmp_path / "a.jsonl", items)
    assert list(tmp_path.iterdir()) == []
