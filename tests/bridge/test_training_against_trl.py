"""Our training of DPO against TRL's: the same batches, the same losses at every step."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import transformers

from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.training.arguments import generators_kept
from llm_bridge.training.train import Example, TrainingSettings, train
from rlhf_theory.losses import DPO
from rlhf_theory.randomness import Key

pytest.importorskip("trl")

KEY = Key(0).child("trl")
BETA = 0.5
SETTINGS = TrainingSettings(epochs=3.0, batch_size=4, learning_rate=1e-3)
ROWS = [
    {"prompt": prompt, "chosen": f" {good}", "rejected": f" {bad}"}
    for prompt, good, bad in [
        ("what color is oak ? answer briefly .", "it is brown .", "it is blue . thank you"),
        ("what color is pine ?", "green .", "red . i think so"),
        ("where is the oak ?", "it is in the forest", "i do not know"),
        ("answer briefly .", "yes", "oak pine brown green"),
        ("what color is pine ? answer briefly .", "green", "brown , i think"),
        ("what color is oak ?", "brown", "green"),
        ("where is pine ?", "in the forest . thank you", "blue"),
    ]
]


@pytest.fixture(scope="module")
def theirs(tiny_model, tmp_path_factory):
    """Return TRL's token ids and the losses of its steps."""
    out = tmp_path_factory.mktemp("trl")
    with warnings.catch_warnings(), generators_kept(tiny_model.device):
        warnings.simplefilter("ignore")
        import datasets  # noqa: PLC0415
        from trl import DPOConfig, DPOTrainer  # noqa: PLC0415

        datasets.disable_progress_bars()
        config = DPOConfig(
            output_dir=str(out),
            beta=BETA,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            bf16=False,
            num_train_epochs=SETTINGS.epochs,
            per_device_train_batch_size=SETTINGS.batch_size,
            learning_rate=SETTINGS.learning_rate,
            seed=KEY.seed_int() % 2**31,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = DPOTrainer(
            model=tiny_model.clone().model,
            ref_model=tiny_model.clone().model,
            args=config,
            train_dataset=datasets.Dataset.from_list(ROWS),
            processing_class=tiny_model.tokenizer,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    columns = trainer.train_dataset.with_format(None).to_dict()
    return columns, [e["loss"] for e in trainer.state.log_history if "loss" in e]


def _examples(model):
    made = []
    for row in ROWS:
        prompt = model.encode_prompt(row["prompt"]).ids
        responses = tuple(model.encode_response(row[side]) for side in ("chosen", "rejected"))
        log_ref = sequence_log_probs(model, [prompt] * 2, responses)
        made.append(
            Example(prompt=prompt, responses=responses, log_ref=tuple(log_ref), target=(1.0,))
        )
    return made


def test_tokens_and_reference_scores_are_theirs(tiny_model, theirs):
    columns, _ = theirs
    for i, e in enumerate(_examples(tiny_model)):
        assert list(e.prompt) == columns["prompt_ids"][i]
        assert [list(r) for r in e.responses] == [
            columns["chosen_ids"][i],
            columns["rejected_ids"][i],
        ]
        scores = [columns["ref_chosen_logps"][i], columns["ref_rejected_logps"][i]]
        np.testing.assert_allclose(e.log_ref, scores, atol=1e-4)


def test_losses_of_all_steps_are_theirs(tiny_model, theirs):
    _, losses = theirs
    result = train(tiny_model, _examples(tiny_model), DPO(BETA), SETTINGS, key=KEY)
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_allclose(result.history, losses, atol=1e-4)


def test_accumulated_steps_are_near_theirs(tiny_model, theirs):
    """Halves of the same batches: our step weighs examples equally, whatever the cut."""
    _, losses = theirs
    halves = replace(SETTINGS, batch_size=2, gradient_accumulation=2)
    result = train(tiny_model, _examples(tiny_model), DPO(BETA), halves, key=KEY)
    np.testing.assert_allclose(result.history, losses, atol=1e-4)
