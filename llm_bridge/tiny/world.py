"""The tiny world: a small Llama that answers like the grammar, kept on disk, with its prompts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from llm_bridge.language.models import LanguageModel
from llm_bridge.storage.records import found_whole, write_record
from llm_bridge.tiny.architecture import untrained
from llm_bridge.tiny.gold import gold_preference, gold_reward
from llm_bridge.tiny.grammar import questions, sample_answers, split_prompts
from llm_bridge.tiny.pretraining import Pair, pretrain
from llm_bridge.tiny.words import vocabulary
from rlhf_theory.errors import check_positive
from rlhf_theory.randomness import Key

MARKER = "tiny_world.json"
"""The file by which a finished world is known; it is written last."""

# Raise it when the way of training changes, so that worlds made another way are not taken.
_PROCEDURE = 2
_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class TinyWorldRecipe:
    """What decides the weights of a tiny world, together with the grammar.

    The defaults reach about 99 % grammatical and 97 % on-topic answers.

    Attributes
    ----------
    hidden, layers, heads
        Size of the Llama; 89 thousand weights by default.
    steps, batch_size, learning_rate
        Of the training.
    sequences
        Number of prompt-answer pairs, drawn once.
    seed
        Of the weights, the pairs and their order.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    steps: int = 1700
    batch_size: int = 24
    learning_rate: float = 0.03
    sequences: int = 30000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "steps", "batch_size", "learning_rate"):
            check_positive(name, getattr(self, name))
        if self.sequences < self.batch_size:
            message = (
                f"sequences must be at least batch_size={self.batch_size}; got {self.sequences}."
            )
            raise ValueError(message)

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that change with every setting, and with the grammar."""
        # The first texts stand for all: they change with any table and any habit of answering.
        sample = _texts(replace(self, sequences=256, batch_size=1))
        content = [_PROCEDURE, asdict(self), vocabulary(), sample]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class TinyWorld:
    """A tiny language model with everything that is known about its world.

    Attributes
    ----------
    folder
        Folder of model and tokenizer, as ``from_pretrained`` reads it.
    recipe
        How it was made.
    prompts, held_out
        Prompts to learn from and prompts to judge by; well mixed, so that the first few of either
        are a fair sample.
    losses
        Training loss in nats per token: of the first step, and averaged over the last 50.
    """

    folder: Path
    recipe: TinyWorldRecipe
    prompts: tuple[str, ...]
    held_out: tuple[str, ...]
    losses: tuple[float, float]

    @property
    def reward(self) -> Callable[[str, str], float]:
        """The gold reward of an answer to a prompt."""
        return gold_reward

    @property
    def preference(self) -> Callable[[str, str, str], float]:
        """The probability that the first of two answers is preferred; no reward explains it."""
        return gold_preference

    def model(self) -> LanguageModel:
        """Return the language model, loaded from its folder."""
        return LanguageModel.from_pretrained(self.folder, offline=True)


def cache_folder(folder: Path | str | None = None) -> Path:
    """Return the folder that keeps tiny worlds; nothing is made.

    Parameters
    ----------
    folder
        Where they shall be. By default the environment variable ``RLHF_THEORY_CACHE`` says it,
        else it is ``rlhf-theory`` in ``XDG_CACHE_HOME``, else ``~/.cache/rlhf-theory``.
    """
    if folder is not None:
        return Path(folder).expanduser()
    own = os.environ.get("RLHF_THEORY_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "rlhf-theory"


def build(
    recipe: TinyWorldRecipe | None = None,
    folder: Path | str | None = None,
    *,
    progress: bool = True,
) -> TinyWorld:
    """Return the tiny world of a recipe, from the cache or trained now.

    Training takes about 25 seconds on one quiet core with the default recipe. On one machine,
    equal recipes give equal weights. A build that is killed leaves nothing that would be taken
    for a world; when two processes build the same, one result is kept.

    Parameters
    ----------
    recipe
        How to make it; the defaults of `TinyWorldRecipe` if None.
    folder
        Cache, see `cache_folder`.
    progress
        Whether to show a bar while training.

    Raises
    ------
    ValueError
        If the cache is a file.
    """
    recipe = TinyWorldRecipe() if recipe is None else recipe
    cache = cache_folder(folder)
    if cache.exists() and not cache.is_dir():
        message = f"The cache {cache} must be a folder; it is a file. Choose another one."
        raise ValueError(message)
    home = cache / f"tiny-{recipe.hash}"
    found = found_whole(home / MARKER, home)
    if found is None:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        _make(recipe, home, progress)
        found = found_whole(home / MARKER, home)
    if found is None:
        message = f"The tiny world {home} cannot be read back after writing; is the disk full?"
        raise OSError(message)
    prompts, held_out = split_prompts(_key(recipe).child("split"))
    first, last = found["losses"]
    return TinyWorld(home, recipe, prompts, held_out, (first, last))


def _key(recipe: TinyWorldRecipe) -> Key:
    return Key(recipe.seed).child("tiny")


def _texts(recipe: TinyWorldRecipe) -> list[tuple[str, str]]:
    """Return prompts, drawn uniformly, with answers."""
    key, every = _key(recipe), [q.text for q in questions()]
    u = key.child("prompts").uniform_numpy(1, recipe.sequences)[0]
    prompts = [every[int(v * len(every))] for v in u]
    return list(zip(prompts, sample_answers(prompts, key.child("answers")), strict=True))


def _pairs(recipe: TinyWorldRecipe, model: LanguageModel) -> list[Pair]:
    prompts, answers = zip(*_texts(recipe), strict=True)
    left = model.tokenizer(list(prompts))["input_ids"]
    right = model.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    return [(tuple(p), (*a, model.eos_id)) for p, a in zip(left, right, strict=True)]


def _make(recipe: TinyWorldRecipe, home: Path, progress: bool) -> None:
    """Train and write a world under another name, then give it its own in one step."""
    model = untrained(
        recipe.hidden, recipe.layers, heads=recipe.heads, seed=recipe.seed, spread=0.08
    )
    with one_thread():
        losses = pretrain(
            model,
            _pairs(recipe, model),
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            key=_key(recipe).child("order"),
            progress=progress,
        )
    temporary = home.with_name(f".{home.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.mkdir()
    try:
        model.save(temporary)
        last = losses[-50:]
        marker = {
            "recipe": asdict(recipe),
            "losses": [losses[0], sum(last) / len(last)],
        }
        write_record(temporary / MARKER, marker, [f.name for f in temporary.iterdir()])
        if found_whole(home / MARKER, home) is None:
            # A folder of this name has no marker, or another process has just moved it away.
            shutil.rmtree(home, ignore_errors=True)
            try:
                temporary.rename(home)
            except OSError:  # another process was faster; its world is the same
                if found_whole(home / MARKER, home) is None:
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove what killed builds have left, once nobody can still be writing it."""
    for left in cache.glob(".tiny-*.tmp"):
        try:
            old = time.time() - left.stat().st_mtime > _STALE_SECONDS
        except OSError:
            continue  # its owner has just removed it
        if old:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: as fast at this size, and equal bits whatever the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
