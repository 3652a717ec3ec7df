"""Features on disk: what was computed is never computed again, and never anything else."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from llm_bridge.embeddings import extraction
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.storage.cache import row_key
from tests.helpers.readings import lengths_read, random_texts, raw

# Sums over tokens are some tens: the tolerance is relative there.
SINGLE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the texts of every forward pass."""
    return lengths_read(monkeypatch)


def n_read(passes: list[list[int]]) -> int:
    """Texts of all passes."""
    return sum(map(len, passes))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cached_rows_are_the_computed_ones(tiny_model, tmp_path, passes, dtype: str) -> None:
    texts = random_texts(tiny_model, 40)
    plain, plain_log = raw(tiny_model, texts)
    new = raw(tiny_model, texts, cache=tmp_path, cache_dtype=dtype)
    computed = n_read(passes)
    again = raw(tiny_model, texts, cache=tmp_path, cache_dtype=dtype, batch_size=3)
    assert n_read(passes) == computed == 80
    np.testing.assert_array_equal(again[0], new[0])
    np.testing.assert_array_equal(again[1], new[1])
    np.testing.assert_array_equal(new[1], plain_log)  # log-probabilities are never rounded
    np.testing.assert_array_equal(new[0][:, :-1], plain[:, :-1].astype(dtype).astype(float))


def test_only_what_is_new_is_computed(tiny_model, tmp_path, passes) -> None:
    prompts, responses = random_texts(tiny_model, 12)
    raw(tiny_model, (prompts[:8], responses[:8]), cache=tmp_path)
    before = n_read(passes)
    got, _ = raw(tiny_model, (prompts, responses), cache=tmp_path)
    assert n_read(passes) - before == 4
    np.testing.assert_allclose(got, raw(tiny_model, (prompts, responses))[0], **SINGLE)


def test_other_features_never_come_from_the_cache(tiny_model, gpt2_model, tmp_path, passes) -> None:
    texts = random_texts(gpt2_model, 3)
    settings = [{}, {"pooling": "mean"}, {"layers": -1}, {"over": "text"}]
    for count, options in enumerate(settings, 1):
        raw(tiny_model, texts, cache=tmp_path, **options)
        assert n_read(passes) == 3 * count
    raw(gpt2_model, texts, cache=tmp_path)
    other = tiny_model.clone()
    with torch.no_grad():
        next(other.model.parameters())[5] += 1.0
    raw(other, texts, cache=tmp_path)
    assert n_read(passes) == 3 * 6
    # Whether the log-probability is a feature does not matter: it is kept anyway.
    raw(tiny_model, texts, cache=tmp_path, log_prob=False)
    assert n_read(passes) == 3 * 6


def test_interrupted_work_is_kept(tiny_model, tmp_path, monkeypatch, passes) -> None:
    texts = random_texts(tiny_model, 40)
    counted = extraction.forward

    def stopping(module, readings, **options):
        if len(passes) == 6:
            raise KeyboardInterrupt
        return counted(module, readings, **options)

    monkeypatch.setattr(extraction, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        raw(tiny_model, texts, cache=tmp_path, batch_size=4)
    monkeypatch.setattr(extraction, "forward", counted)
    got, log_probs = raw(tiny_model, texts, cache=tmp_path, batch_size=4)
    assert n_read(passes) == 40
    # To the bit, though rounding depends on the company of a text in its batch.
    want, want_log = raw(tiny_model, texts, batch_size=4)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(log_probs, want_log)


def test_full_disk_costs_the_cache_and_not_the_features(tiny_model, tmp_path, monkeypatch) -> None:
    texts = random_texts(tiny_model, 80)
    features = TransformerFeatures(tiny_model, cache=tmp_path, batch_size=2)
    features.rows(texts[0][:5], texts[1][:5])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llm_bridge.storage.cache._write_at", full)
    with pytest.warns(RuntimeWarning, match="What it holds is intact.*no longer kept") as record:
        phi, _ = features.rows(*texts)
    assert len(record) == 1
    np.testing.assert_allclose(phi, raw(tiny_model, texts)[0], **SINGLE)
    assert len(features.store) == 5


def test_two_at_a_time_share_a_cache(tiny_model, tmp_path) -> None:
    texts = random_texts(tiny_model, 60)
    want, _ = raw(tiny_model, texts)
    got = {}

    def work(name: int) -> None:
        features = TransformerFeatures(tiny_model, cache=tmp_path, batch_size=5)
        got[name] = features.rows(*texts)[0].numpy()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    later, _ = raw(tiny_model, texts, cache=tmp_path)
    np.testing.assert_allclose(later, want, **SINGLE)
    for phi in got.values():
        np.testing.assert_array_equal(phi, later)
    assert len(TransformerFeatures(tiny_model, cache=tmp_path).store) == 60


def test_slower_of_two_takes_what_is_kept(tiny_model, tmp_path, monkeypatch) -> None:
    texts = random_texts(tiny_model, 5)
    features = TransformerFeatures(tiny_model, cache=tmp_path)
    real = extraction.forward

    def overtaken(module, readings, **options):
        phi, log_probs = real(module, readings, **options)
        keys = [row_key(r.ids[: r.answer], r.ids[r.answer :]) for r in readings]
        features.store.append(keys, phi.numpy() + 1.0, log_probs.numpy()[:, None] - 1.0)
        return phi, log_probs

    monkeypatch.setattr(extraction, "forward", overtaken)
    phi, log_probs = features.rows(*texts)
    monkeypatch.setattr(extraction, "forward", real)
    want, want_log = raw(tiny_model, texts)
    np.testing.assert_allclose(phi[:, :-1], want[:, :-1] + 1.0, **SINGLE)
    np.testing.assert_allclose(log_probs, want_log - 1.0, **SINGLE)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_batches_hold_what_is_missing(size: int) -> None:
    lengths = [5, 9, 2, 7, 7, 1, 3, 9]
    everything = extraction._batches(lengths, np.ones(8, dtype=bool), size)
    assert [i for batch in everything for i in batch] == [1, 7, 3, 4, 0, 6, 2, 5]
    for known in range(8):
        missing = np.arange(8) != known
        batches = extraction._batches(lengths, missing, size)
        assert sorted(i for b in batches for i in b) == [i for i in range(8) if i != known]
        assert all(b in batches for b in everything if known not in b)
        assert [lengths[b[0]] for b in batches] == sorted(lengths[b[0]] for b in batches)[::-1]
