"""What files give `lm train`: responses against themselves, and single labelled responses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from llm_bridge.commands import application
from llm_bridge.jobs.job import carry_out
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.jobs.train import TrainJob
from llm_bridge.jobs.train_data import training_data
from llm_bridge.labels.labelled_responses import (
    LabelledResponse,
    are_labelled_responses,
    read_labelled_responses,
)
from llm_bridge.labels.preference_files import Preferences, read_preferences, write_preferences
from llm_bridge.language.models import LanguageModel
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.examples.label_training import (
    labelled_examples,
    learns_from_equal,
    trained_on,
)
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.training.examples import with_mismatched
from llm_bridge.training.objective import Objective
from llm_bridge.training.train import NLL, TrainingSettings, UnpairedKTO, train
from rlhf_theory.losses import BCO, DPO, KTO, XPO
from rlhf_theory.randomness import Key
from tests.helpers.examples import distance, examples, in_double
from tests.helpers.rewarded import labelled, rewarded_problem

KEY = Key(5)


@pytest.fixture(scope="module")
def problem(tiny_model: LanguageModel) -> Any:
    """Pools in which draws repeat: answers of two tokens at most."""
    return rewarded_problem(LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=2)))


# ---------------------------------------------------------------- a response against itself


def test_which_losses_learn_from_a_response_against_itself():
    expected = {XPO(0.5, 0.1): True, BCO(0.5): True, KTO(0.5): True, DPO(0.5): False}
    assert {loss: learns_from_equal(loss) for loss in expected} == expected
    assert not learns_from_equal(NLL())


@pytest.mark.parametrize("loss", [XPO(0.5, 0.1), BCO(0.5), DPO(0.5)], ids=lambda x: x.name)
def test_a_file_trains_a_loss_on_what_the_learner_trains_it_on(tmp_path, problem, loss):
    """The data of a run, written and read, against the run's own: the same examples."""
    data = labelled(problem, 60)
    n_equal = len(data.comparisons_of(0, equal=True)) - len(data.comparisons)
    assert n_equal >= 5
    sample = "second" if "sample" in loss.needs else None
    path = tmp_path / "run.jsonl"
    write_preferences(path, Preferences.of(data))
    rows = training_data(path, loss, sample)
    base, pi0 = problem.policy.model, problem.policy
    got = rows.examples(rows.scored(base, 32), base, batch_size=32, bf16=False)

    want = labelled_examples(
        trained_on(data, loss),
        pi0,
        pi0,
        gamma=None,
        sample=None if sample is None else 1,
        mismatched=False,
    )
    assert len(want) == len(data.comparisons) + (n_equal if loss != DPO(0.5) else 0)

    def sides(made: Any) -> list[Any]:
        # The file has the winner first; the run has its own order and the label.
        turned = [e.responses if e.target[0] == 1.0 else e.responses[::-1] for e in made]
        samples = [None if e.sample is None else e.responses[e.sample] for e in made]
        return sorted(
            (e.prompt, r, s or (), e.weight) for e, r, s in zip(made, turned, samples, strict=True)
        )

    assert sides(got) == sides(want)
    assert f"{n_equal} rows" in rows.remarks()[0]
    assert ("learns from them" in rows.remarks()[0]) == (loss != DPO(0.5))


def test_the_calibration_term_of_xpo_needs_them(tmp_path, problem):
    """The gradient of the file's examples is that of the run's; without them it is another."""
    data, loss = labelled(problem, 60), XPO(0.5, 0.5)
    write_preferences(tmp_path / "run.jsonl", Preferences.of(data))
    rows = training_data(tmp_path / "run.jsonl", loss, "second")
    base = problem.policy.model
    made = rows.examples(rows.scored(base, 32), base, batch_size=32, bf16=False)
    model = in_double(base)

    def gradient(some: Any) -> torch.Tensor:
        copy = model.clone().model.requires_grad_(True)
        objective = Objective(loss, some, model)
        (objective(copy, objective.collate(some)) / len(some)).backward()
        return torch.cat([w.grad.flatten() for w in copy.parameters()])

    differ = [e for e in made if e.responses[0] != e.responses[1]]
    whole, part = gradient(made), gradient(differ)
    assert float((whole - part).norm() / whole.norm()) > 0.05
    # What was missing is exactly their own part.
    rest = [e for e in made if e.responses[0] == e.responses[1]]
    mixed = (len(differ) * part + len(rest) * gradient(rest)) / len(made)
    assert float((whole - mixed).norm() / whole.norm()) < 1e-5


GOOD = {"prompt": "why ?", "chosen": "b", "rejected": "c"}


def test_equal_texts_are_kept_unless_nobody_knows_where_they_begin(tmp_path, tiny_model):
    rows = [
        {**GOOD, "rejected": "b"},
        GOOD,
        {"chosen": "x y", "rejected": "x y"},
        {**GOOD, "rlhf_weight": 2.0, "chosen": "c"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    got = read_preferences(path)
    assert [(p.chosen, p.rejected) for p in got.pairs] == [("b", "c")]
    assert [(p.chosen, p.rejected) for p in got.all_pairs] == [("b", "c"), ("b", "b"), ("c", "c")]
    assert (got.n_identical, got.n_lost) == (3, 1)
    said = training_data(path, XPO(0.5, 0.1), "rejected").remarks()
    assert said[0].startswith("2 rows have equal responses: xpo learns from them")
    assert said[1].startswith("1 rows are left out")
    assert training_data(path, DPO(0.5), None).remarks()[0].startswith("3 rows are left out")
    write_preferences(tmp_path / "again.jsonl", got)
    again = read_preferences(tmp_path / "again.jsonl")
    assert again.all_pairs == got.all_pairs
    same = got.comparisons(tiny_model, equal=True)[1]
    assert same.first is same.second
    assert len(got.comparisons(tiny_model)) == 1


def test_the_command_trains_on_equal_responses_where_the_loss_learns_from_them(
    tmp_path, tiny_model, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny_model.save(tmp_path / "model")
    same = {"prompt": "what color is oak ?", "chosen": "brown .", "rejected": "brown ."}
    write_rows(tmp_path / "p.jsonl", [{**same, "rejected": "red ."}, same, same])
    command = ["train", "p.jsonl", "--model", "model", "--set", "beta=0.5", "--test-share", "0"]
    command += ["--batch-size", "1", "--lr", "1e-3"]

    def said(*options: str) -> str:
        done = CliRunner().invoke(application, [*command, *options])
        assert done.exit_code == 0, done.output
        return done.output

    xpo = ("--loss", "xpo", "--set", "alpha=0.1", "--sample", "rejected", "--out", "x")
    for dry in (("--dry-run",), ()):
        assert "2 rows have equal responses: xpo learns from them" in said(*xpo, *dry)
        assert "2 rows are left out" in said("--out", "d", *dry)
    steps = {
        name: len(json.loads((tmp_path / name / "metrics.json").read_text())["losses"])
        for name in ("x", "d")
    }
    assert steps == {"x": 3, "d": 1}
    # They are no comparisons: accuracy is of the other one alone.
    metrics = json.loads((tmp_path / "x" / "metrics.json").read_text())["metrics"]
    assert {m["metric"]: m["mean"] for m in metrics}["accuracy, train"] in (0.0, 1.0)


def test_a_file_that_does_not_say_which_was_second_is_refused(tmp_path, tiny_model):
    path = write_rows(tmp_path / "a.jsonl", [{**GOOD, "rlhf_second": "chosen"}, GOOD])
    rows = training_data(path, XPO(0.5, 0.1), "second")
    with pytest.raises(ValueError, match=r"rlhf_second.*comparison 2 says None"):
        rows.scored(tiny_model, 8)
    path = write_rows(tmp_path / "b.jsonl", [{**GOOD, "rlhf_second": "chosen"}])
    rows = training_data(path, XPO(0.5, 0.1), "second")
    made = rows.examples(rows.scored(tiny_model, 8), tiny_model, batch_size=8, bf16=False)
    assert [e.sample for e in made] == [0]


def test_rankings_with_equal_responses_count_once(tmp_path):
    row = {"prompt": "a", "completions": ["b", "c", "b"], "ranking": [0, 1, 2]}
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "completions": ["b"] * 3}) + "\n")
    got = read_preferences(path)
    assert [(p.chosen, p.rejected) for p in got.pairs] == [("b", "c"), ("c", "b")]
    pairs = [(p.chosen, p.rejected) for p in got.all_pairs]
    assert pairs == [("b", "c"), ("b", "b"), ("c", "b"), *[("b", "b")] * 3]
    assert sum(p.weight for p in got.all_pairs) == pytest.approx(2.0)
    assert got.n_identical == 1


# ---------------------------------------------------------------- single labelled responses


ROWS = [
    {"prompt": "what color is oak ?", "completion": "brown .", "label": True},
    {"prompt": "what color is oak ?", "completion": "red .", "label": False, "rlhf_weight": 2.0},
    {"prompt": "what color is pine ?", "completion": "green .", "label": True},
    {"prompt": "what size is fox ?", "completion": "small .", "label": True},
]


def write_rows(path: Path, rows: Any) -> Path:
    if path.suffix == ".parquet":
        names = list(dict.fromkeys(n for r in rows for n in r))
        pq.write_table(pa.Table.from_pylist([{n: r.get(n) for n in names} for r in rows]), path)
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_unpaired_form_of_trl_is_read(tmp_path, suffix):
    path = write_rows(tmp_path / f"u.{suffix}", ROWS)
    assert are_labelled_responses(path)
    assert read_labelled_responses(path)[:2] == (
        LabelledResponse("what color is oak ?", "brown .", True),
        LabelledResponse("what color is oak ?", "red .", False, 2.0),
    )
    chat = {
        "prompt": [{"role": "user", "content": "why"}],
        "completion": [{"role": "assistant", "content": "so"}],
        "label": False,
    }
    path = write_rows(tmp_path / f"c.{suffix}", [chat])
    assert read_labelled_responses(path) == (LabelledResponse(chat["prompt"], "so", False),)
    assert not are_labelled_responses(write_rows(tmp_path / f"p.{suffix}", [GOOD]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": 1}, "line 2: label must be true or false; got 1"),
        ({"label": None}, "label must be true or false; got None"),
        ({"completion": None}, "completion is missing"),
        ({"completion": " "}, "completion is empty"),
        ({"prompt": None}, "prompt is missing"),
        ({"rlhf_weight": -1.0}, "rlhf_weight must be"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, change, says):
    path = write_rows(tmp_path / "u.jsonl", [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises(ValueError, match=says):
        read_labelled_responses(path)


def unpaired(made: Any) -> list[Any]:
    """Return each comparison as two labelled responses, the first one desirable."""
    return [
        replace(e, responses=(r,), log_ref=(ref,), target=(good,))
        for e in made
        for r, ref, good in zip(e.responses, e.log_ref, (1.0, 0.0), strict=True)
    ]


def test_one_good_and_one_bad_response_are_a_pair_of_kto(gpt2_model):
    """The same trajectory: half the loss has half the gradient, which Adam does not see."""
    model = in_double(gpt2_model)
    made = with_mismatched(model, examples(model, 6, target=(1.0,)))
    made = [replace(e, log_ref_mismatched=e.log_ref_mismatched - 0.3) for e in made]
    settings = TrainingSettings(steps=4, batch_size=6, learning_rate=1e-3, max_grad_norm=0.0)
    pairs = train(model, made, KTO(0.5, 1.3, 0.8), settings, key=KEY)
    single = replace(settings, batch_size=12)
    alone = train(model, unpaired(made), UnpairedKTO(0.5, 1.3, 0.8), single, key=KEY)
    assert 2.0 * alone.history[0] == pytest.approx(pairs.history[0], rel=1e-12)
    np.testing.assert_allclose(2.0 * alone.history, pairs.history, rtol=1e-5)  # but for its epsilon
    assert distance(alone.model, pairs.model) < 1e-4
    assert alone.history[-1] < alone.history[0] - 1e-3


def test_accumulation_is_exact_for_single_responses_too(gpt2_model):
    model = in_double(gpt2_model)
    made = unpaired(with_mismatched(model, examples(model, 7)))
    made = [replace(e, weight=0.2 + i % 3) for i, e in enumerate(made)]
    whole = TrainingSettings(epochs=2.0, batch_size=16, learning_rate=1e-3)
    parts = replace(whole, batch_size=4, gradient_accumulation=4)
    one, other = (train(model, made, UnpairedKTO(0.5), s, key=KEY) for s in (whole, parts))
    np.testing.assert_allclose(one.history, other.history, rtol=1e-12)
    assert distance(one.model, other.model) < 1e-8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": (0.5,)}, "targets that are 0 or 1"),
        ({"target": ()}, "1 targets"),
        ({"log_ref": ()}, "log_ref"),
        ({"mismatched": ()}, "with_mismatched"),
        ({"gamma": (0.5,)}, "takes neither gamma"),
    ],
)
def test_what_unpaired_kto_lacks_is_refused(tiny_model, change, says):
    made = unpaired(with_mismatched(tiny_model, examples(tiny_model, 2)))
    with pytest.raises(ValueError, match=says):
        Objective(UnpairedKTO(0.5), [replace(e, **change) for e in made], tiny_model)


def test_weights_must_be_positive():
    with pytest.raises(ValueError, match="undesirable must be"):
        UnpairedKTO(0.5, undesirable=0.0)


def _job(tiny_model: LanguageModel, folder: Path, file: Path, **given: Any) -> TrainJob:
    tiny_model.save(folder / "model")
    source = ModelSource(name=str(folder / "model"), offline=True)
    settings = TrainingSettings(steps=8, batch_size=4, learning_rate=3e-3, progress=False)
    return TrainJob(file=file, source=source, training=settings, **given)


def test_kto_trains_on_single_responses_and_goes_on(tmp_path, tiny_model):
    file = write_rows(tmp_path / "u.jsonl", ROWS)
    job = _job(tiny_model, tmp_path, file, loss="kto", loss_settings={"beta": 0.5}, test_share=0.0)
    said: list[str] = []
    carry_out(job, tmp_path / "out", dry_run=True, say=said.append)
    assert "4 labelled responses of 3 prompts; 4 to train on" in said[0]
    assert said[1] == "3 of them are desirable, 1 are not."
    assert "UnpairedKTO(beta=0.5" in said[2]
    assert not (tmp_path / "out").exists()
    carry_out(job, tmp_path / "out", dry_run=False, say=said.append)
    metrics = {
        m["metric"]: m["mean"]
        for m in json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    }
    up, down = (metrics[f"mean log-ratio, {n}, train"] for n in ("desirable", "undesirable"))
    assert up > 0.1 > -0.1 > down
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "labelled responses trained on: 4" in card
    carry_out(job, tmp_path / "out", dry_run=False, say=said.append)
    assert any("found complete" in line for line in said)


def test_other_losses_refuse_single_responses(tmp_path, tiny_model):
    file = write_rows(tmp_path / "u.jsonl", ROWS)
    job = _job(tiny_model, tmp_path, file, loss_settings={"beta": 0.5})
    with pytest.raises(ValueError, match=r"no comparisons; only the loss kto learns from them"):
        carry_out(job, tmp_path / "out", dry_run=True, say=print)


def test_lopsided_labels_get_a_word(tmp_path):
    rows = training_data(
        write_rows(tmp_path / "u.jsonl", [ROWS[0], ROWS[2]] * 3 + ROWS[1:2]), KTO(0.5), None
    )
    assert "choose desirable and undesirable" in rows.remarks()[0]


def test_responses_that_do_not_fit_the_model_are_named(tmp_path, tiny_model):
    long = {**ROWS[0], "completion": "oak " * 300}
    rows = training_data(write_rows(tmp_path / "u.jsonl", [ROWS[1], long]), KTO(0.5), None)
    with pytest.raises(ValueError, match="row 1 has"):
        rows.scored(tiny_model, 8)
