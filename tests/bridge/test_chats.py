"""Texts and chats that people give: one check of them, in words, for files and for calls."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest

from llm_bridge.jobs.sources import read_prompts
from llm_bridge.labels.labelled_responses import read_labelled_responses
from llm_bridge.labels.preference_rows import pair_of
from llm_bridge.language.chats import Message, Row, chat_of

ASKED = {"role": "user", "content": "why"}
BAD = [
    ([], "prompt must be text, or messages, at least one message; got an empty list"),
    (3, r"prompt must be text, or messages \{'role': \.\.\., 'content': \.\.\.\}; got 3"),
    (ASKED, r"prompt must be text, or messages .*; got \{'role': 'user', 'content': 'why'\}"),
    ([ASKED, "why"], "each must have role and content, both text; message 1 is 'why'"),
    ([{"role": "user"}], r"message 0 is \{'role': 'user'\}"),
    ([ASKED, {"role": "user", "content": 1}], r"message 1 is \{'role': 'user', 'content': 1\}"),
    ([{"role": None, "content": "x" * 200}], r"message 0 is \{'role': None, .{62}\.\.\.$"),
]


def test_a_chat_is_a_sequence_of_mappings():
    want = [Message(role="user", content="why")]
    for given in ([ASKED], (ASKED,), [MappingProxyType(ASKED)], want):
        assert chat_of("prompt", given) == want
    # A template may know more of a message than we do.
    assert chat_of("prompt", [ASKED | {"name": "Ada"}])[0].model_dump()["name"] == "Ada"


@pytest.mark.parametrize(("given", "says"), BAD)
def test_what_is_no_chat_is_told_what_is(given, says):
    with pytest.raises(ValueError, match=says):
        chat_of("prompt", given)
    with pytest.raises(ValueError, match=says):
        Row.read({"prompt": given})


@pytest.mark.parametrize(("given", "says"), BAD)
def test_all_files_answer_in_the_same_words(tmp_path, given, says):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": given, "completion": "so", "label": True}
    path.write_text(json.dumps(row))
    says = says.removesuffix("$")
    for read, place in ((read_prompts, "row 1: "), (read_labelled_responses, "line 1: ")):
        with pytest.raises(ValueError, match=f"{place}.*{says}.*Correct the file"):
            read(path)
    with pytest.raises(ValueError, match=says):
        pair_of({"prompt": given, "chosen": "so", "rejected": "because"})


def test_a_model_answers_in_the_same_words(chat_model):
    for given, says in BAD:
        if isinstance(given, list):
            with pytest.raises(ValueError, match=says.replace("prompt must", "A prompt must")):
                chat_model.encode_prompt(given)


def test_a_row_says_all_that_is_wrong_with_it():
    row = {"prompt": "", "chosen": "so", "rlhf_weight": -1, "margin": float("nan")}
    with pytest.raises(ValueError, match="prompt is empty") as caught:
        pair_of(row)
    assert str(caught.value) == (
        "prompt is empty, rejected is missing, margin must be a finite number; got nan, "
        "rlhf_weight must be a finite number, at least 0; got -1"
    )


def test_prompts_keep_what_their_messages_have_besides(tmp_path):
    asked = ASKED | {"name": "Ada"}
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": [asked], "other": None}))
    assert read_prompts(path) == [[asked]]
    # Pairs keep what two programs agree on.
    answer = [{"role": "assistant", "content": "so", "name": "Bo"}]
    pair = pair_of({"prompt": [asked], "chosen": answer, "rejected": answer})
    assert (pair.prompt, pair.chosen, pair.extras) == ([ASKED], "so", {})
