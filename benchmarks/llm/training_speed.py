"""A step of DPO: ours against TRL's trainer with precomputed reference log-probabilities.

Both train the same untrained Llama on the same pairs of the tiny world's grammar, in the same
batches, with the same optimiser and schedule, in single precision on one thread. First the losses
of all steps are compared; then full trainings are timed in turn, from the first step to the last:
loading, tokenising and scoring by the reference are outside.

    python benchmarks/llm/training_speed.py [--hidden 128] [--repeats 5] [--out FILE.json]

About two minutes. The exit code is 1 if the losses differ by more than 1e-4 or the median of the
ratios is below 1.1.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainerCallback

from benchmarks.timing import command_line, finish
from llm_bridge.labels.preference_rows import PreferencePair
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel
from llm_bridge.tiny import AnswerLaw, questions, sample_answers, untrained
from llm_bridge.training.arguments import arguments, generators_kept
from llm_bridge.training.examples import Example
from llm_bridge.training.objective import Objective
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.trainer import PreferenceTrainer
from rlhf_theory.losses import DPO
from rlhf_theory.randomness import Key

RESULT = Path(__file__).parent / "results" / "training_speed.json"
KEY = Key(0).child("benchmark", "training speed")
BETA = 0.5
TARGET = 1.1
TOLERANCE = 1e-4


class Clock(TrainerCallback):
    """Seconds from the first step to the end, and the loss of every step."""

    def __init__(self) -> None:
        self.start = self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start once."""
        self.start = self.start or time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop with the last step."""
        self.seconds = time.perf_counter() - self.start


def draw_pairs(n: int) -> list[PreferencePair]:
    """Return pairs of answers to prompts of the grammar."""
    prompts = [questions()[i % len(questions())].text for i in range(0, 7 * n, 7)]
    one, other = (sample_answers(prompts, KEY.child(name), AnswerLaw()) for name in ("a", "b"))
    return [
        PreferencePair(p, a, b if a != b else f"{b} thank you")
        for p, a, b in zip(prompts, one, other, strict=True)
    ]


def examples_of(model: LanguageModel, pairs: Sequence[PreferencePair]) -> list[Example]:
    """Return the pairs as examples with reference log-probabilities."""
    prompts = [model.encode_prompt(p.prompt).ids for p in pairs]
    sides = [[model.encode_response(getattr(p, s)) for p in pairs] for s in ("chosen", "rejected")]
    scores = [sequence_log_probs(model, prompts, side) for side in sides]
    return [
        Example(prompt=prompt, responses=(a, b), log_ref=(float(u), float(v)), target=(1.0,))
        for prompt, a, b, u, v in zip(prompts, *sides, *scores, strict=True)
    ]


def ours(
    model: LanguageModel, examples: Sequence[Example], settings: TrainingSettings
) -> tuple[float, list[float]]:
    """Train once; return seconds and losses."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, generators_kept(model.device):
        args = arguments(settings, len(examples), Path(folder), model.device, KEY)
        objective = Objective(DPO(BETA), examples, model)
        trainer = PreferenceTrainer(model.clone().model, args, objective, settings)
        trainer.add_callback(clock)
        trainer.run()
    return clock.seconds, trainer.history


def theirs(
    model: LanguageModel, pairs: Sequence[PreferencePair], settings: TrainingSettings, *, log: bool
) -> tuple[float, list[float]]:
    """Train once with TRL; return seconds and, if they are logged every step, losses."""
    import datasets  # noqa: PLC0415  (only where TRL is)
    from trl import DPOConfig, DPOTrainer  # noqa: PLC0415

    rows = [
        {"prompt": p.prompt, "chosen": f" {p.chosen}", "rejected": f" {p.rejected}"} for p in pairs
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, generators_kept(model.device):
        args = arguments(settings, len(pairs), Path(folder), model.device, KEY)
        config = DPOConfig(
            output_dir=folder,
            beta=BETA,
            loss_type=["sigmoid"],
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            bf16=False,
            max_steps=args.max_steps,
            per_device_train_batch_size=args.per_device_train_batch_size,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            lr_scheduler_type=args.lr_scheduler_type,
            max_grad_norm=args.max_grad_norm,
            seed=args.seed,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=1 if log else 10,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = DPOTrainer(
            model=model.clone().model,
            ref_model=model.clone().model,
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=model.tokenizer,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return clock.seconds, losses


def measure(hidden: int, n_pairs: int, epochs: float, repeats: int) -> dict[str, Any]:
    """Verify, then time in turn; return all numbers."""
    model = untrained(hidden=hidden, layers=2)
    pairs = draw_pairs(n_pairs)
    examples = examples_of(model, pairs)
    settings = TrainingSettings(
        epochs=epochs, batch_size=16, learning_rate=5e-4, max_grad_norm=1.0, progress=False
    )
    _, mine = ours(model, examples, settings)
    _, trl_losses = theirs(model, pairs, settings, log=True)
    difference = max(abs(a - b) for a, b in zip(mine, trl_losses, strict=True))
    runs = []
    for _ in range(repeats):
        seconds, _ = ours(model, examples, settings)
        trl_seconds, _ = theirs(model, pairs, settings, log=False)
        runs.append({"ours": seconds, "trl": trl_seconds, "ratio": trl_seconds / seconds})
        print(f"  ours {seconds:6.2f} s   TRL {trl_seconds:6.2f} s   {trl_seconds / seconds:.2f}")
    n_steps = len(mine)
    ratio = statistics.median(run["ratio"] for run in runs)
    return {
        "claim": f"a DPO step is at least {TARGET} times as fast as TRL's",
        "met": difference <= TOLERANCE and ratio >= TARGET,
        "ratio": ratio,
        "runs": runs,
        "milliseconds_per_step": {
            who: 1000 * statistics.median(run[who] for run in runs) / n_steps
            for who in ("ours", "trl")
        },
        "largest_difference_of_losses": difference,
        "first_and_last_loss": [mine[0], mine[-1]],
        "setting": {
            "parameters": sum(p.numel() for p in model.model.parameters()),
            "pairs": n_pairs,
            "tokens_per_row": sum(e.n_tokens for e in examples) / len(examples),
            "steps": n_steps,
            "threads": torch.get_num_threads(),
            "identity": settings.identity(),
        },
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
    }


def main() -> int:
    """Measure and store; return 1 if the target is missed."""
    parser = command_line(__doc__, RESULT)
    parser.add_argument("--hidden", type=int, default=128, help="width: 128 has 341 000 weights")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=5, help="odd; the median counts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    result = measure(args.hidden, args.pairs, args.epochs, args.repeats)
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}, indent=1))
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
