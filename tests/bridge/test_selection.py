from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from llm_bridge.language.models import Prompt
from llm_bridge.language.responses import Response
from llm_bridge.planning.examples.selection import distinct_pairs, most_informative
from llm_bridge.pools.candidates import merge_draws
from rlhf_theory.data import Contexts


def _contexts(key, n=3, k=3, d=4, absent=()):
    phi = torch.from_numpy(key.child("phi").normal_numpy(1, n, k, d))
    log_pi0 = torch.zeros((1, n, k), dtype=torch.float64)
    for i, a in absent:
        log_pi0[0, i, a] = -torch.inf
    ids = torch.arange(n)[None]
    return Contexts(phi, torch.log_softmax(log_pi0, dim=-1), ids, whole=True)


def _one_by_one(contexts, sigma, n, repeat):
    """The same rule without updates: invert anew and look at all pairs every time."""
    phi, present = contexts.phi[0].numpy(), contexts.log_pi0[0].numpy() > -np.inf
    sigma, chosen = sigma[0].numpy().copy(), []
    for _ in range(n):
        gains = {
            (i, a, b): (phi[i, a] - phi[i, b]) @ np.linalg.solve(sigma, phi[i, a] - phi[i, b])
            for i in range(len(phi))
            for a, b in itertools.combinations(np.nonzero(present[i])[0], 2)
            if repeat or (i, a, b) not in chosen
        }
        if not gains:
            break
        best = max(gains, key=gains.get)
        z = phi[best[0], best[1]] - phi[best[0], best[2]]
        sigma += np.outer(z, z)
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("repeat", [False, True])
def test_it_is_the_greedy_choice_of_most_information(key, repeat):
    contexts = _contexts(key, absent=[(0, 2)])
    sigma = 0.5 * torch.eye(4, dtype=torch.float64)[None]
    row, first, second = most_informative(contexts, sigma, 9, repeat=repeat)
    chosen = list(zip(row, first, second, strict=True))
    assert chosen == _one_by_one(contexts, sigma, 9, repeat)
    # Seven pairs are there: without repetition they run out.
    assert len(chosen) == (9 if repeat else 7)
    assert (len(set(chosen)) == len(chosen)) != repeat


def test_it_tells_more_than_pairs_that_come_as_they_are(key):
    contexts = _contexts(key, n=20, k=4, d=6)
    sigma = torch.eye(6, dtype=torch.float64)[None]
    phi = contexts.phi[0].numpy()

    def information(row, first, second):
        z = phi[row, first] - phi[row, second]
        return np.linalg.slogdet(np.eye(6) + z.T @ z)[1]

    row, first, second = most_informative(contexts, sigma, 12)
    u = key.child("pairs").uniform_numpy(1, 12)[0]
    others = (u * 20).astype(int), np.zeros(12, int), np.ones(12, int)
    assert information(row, first, second) > information(*others) + 1.0


def test_prompts_can_be_limited_and_run_out(key):
    contexts = _contexts(key)
    sigma = torch.eye(4, dtype=torch.float64)[None]
    row, _, _ = most_informative(contexts, sigma, 9, per_prompt=1)
    assert sorted(row) == [0, 1, 2]


def test_pools_of_one_response_have_nothing_to_compare(key):
    contexts = _contexts(key, n=2, k=2, absent=[(0, 1), (1, 1)])
    with pytest.raises(ValueError, match="nothing to compare"):
        most_informative(contexts, torch.eye(4, dtype=torch.float64)[None], 1)
    with pytest.raises(ValueError, match="pairs must be"):
        most_informative(contexts, torch.eye(4, dtype=torch.float64)[None], 0)


def test_too_many_pairs_are_refused_with_what_to_do(key, monkeypatch):
    monkeypatch.setattr("llm_bridge.planning.examples.selection._LARGEST", 10)
    with pytest.raises(MemoryError, match="fewer prompts"):
        most_informative(_contexts(key), torch.eye(4, dtype=torch.float64)[None], 1)


def test_pairs_of_equal_texts_are_asked_once_and_those_without_text_never():
    responses = tuple(
        tuple(Response((k, i), text, -1.0) for k, text in enumerate(texts))
        for i, texts in enumerate([("a", "b", "a", ""), ("a", "b", "c", "d")])
    )
    prompts = (Prompt("p", (1,)), Prompt("q", (2,)))
    pools = merge_draws(prompts, responses, np.zeros((2, 4)))
    row = np.array([0, 0, 0, 0, 1, 1])
    first, second = np.array([0, 1, 0, 0, 0, 2]), np.array([1, 2, 2, 3, 1, 3])
    # (a, b) of p, (b, a) again, (a, a), (a, nothing), then (a, b) and (c, d) of q.
    assert distinct_pairs(pools, row, first, second).tolist() == [0, 4, 5]
