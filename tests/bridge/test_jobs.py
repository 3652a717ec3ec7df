from __future__ import annotations

import json

import pandas as pd
import pytest

from llm_bridge.jobs.job import carry_out, flat
from llm_bridge.jobs.sources import read_prompts, split_held_out
from llm_bridge.storage.content import content_hash


def test_prompts_are_read_from_every_kind_of_file(tmp_path):
    messages = [{"role": "user", "content": "hello"}]
    (tmp_path / "p.txt").write_text("one\n\ntwo\none\n")
    assert read_prompts(tmp_path / "p.txt") == ["one", "two"]
    rows = [{"prompt": "one"}, {"prompt": messages}, {"prompt": "one", "other": 1}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert read_prompts(tmp_path / "p.jsonl") == ["one", messages]
    pd.DataFrame({"prompt": ["one", "two"]}).to_parquet(tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", "a", "must end in .txt, .jsonl or .parquet"),
        ("p.txt", "\n", "has no prompts"),
        ("p.jsonl", '{"prompt": " "}\n{"text": "a"}\n', "row 1: prompt must be text"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', "half-written"),
        ("p.parquet", "nothing", "is no Parquet file"),
    ],
)
def test_files_without_prompts_are_refused_with_the_row(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_prompts(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    for read in (read_prompts, content_hash):
        with pytest.raises(FileNotFoundError, match=r"There is no file .*p\.txt"):
            read(tmp_path / "p.txt")


def test_a_split_keeps_prompts_together_and_does_not_move_when_rows_are_added():
    prompts = [f"prompt {i}" for i in range(400)]
    held = split_held_out(prompts, 0.25, seed=0)
    # 400 draws of probability 1/4: 60 to 140 leave out less than 1e-5 on both sides.
    assert 60 < sum(held) < 140
    assert split_held_out(prompts[::-1], 0.25, seed=0) == held[::-1]
    assert split_held_out(prompts, 0.25, seed=1) != held
    more = split_held_out(prompts, 0.5, seed=0)
    assert all(b or not a for a, b in zip(held, more, strict=True))
    assert not any(split_held_out(prompts, 0.0, seed=0))
    assert split_held_out([[{"role": "user", "content": "a"}], "b", "b"], 0.5, 0)[1:] in (
        [True, True],
        [False, False],
    )


class _Job:
    def __init__(self, fail: bool = False, write: bool = False) -> None:
        self.fail, self.write = fail, write

    def study(self):
        return {"command": "mine", "nested": {"a": 1}}

    def plan(self, out):
        return ["would do it"]

    def run(self, out, say):
        if self.write:
            (out / "part").write_text("half")
        if self.fail:
            message = "no such model"
            raise ValueError(message)
        say("done")


def test_a_job_claims_its_folder_and_goes_on_in_it(tmp_path):
    said: list[str] = []
    for _ in range(2):
        carry_out(_Job(write=True), tmp_path / "out", dry_run=False, say=said.append)
    assert said == ["done", "done"]
    marker = json.loads((tmp_path / "out" / "study.json").read_text())
    assert marker == {"command": "mine", "nested.a": 1}


def test_a_job_that_fails_at_once_gives_its_folder_back(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(ValueError, match="no such model"):
            carry_out(_Job(fail=True), tmp_path / name, dry_run=False, say=print)
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]
    with pytest.raises(ValueError, match="no such model"):
        carry_out(_Job(fail=True, write=True), tmp_path / "out", dry_run=False, say=print)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["part", "study.json"]


def test_nested_settings_have_dotted_names():
    assert flat({"a": {"b": {"c": 1}}, "d": [1]}) == {"a.b.c": 1, "d": [1]}
