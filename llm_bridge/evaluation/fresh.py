"""Fresh responses of a policy and what they tell: rewards, KL, win rates, lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from llm_bridge.evaluation.win_rates import off_diagonal_mean, win_matrix
from llm_bridge.labels.scoring import Scorer
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.pools.beside import beside
from llm_bridge.pools.candidates import Generating, Pools, draw_responses, score_responses
from llm_bridge.pools.problem import PromptProblem, pool_contexts
from rlhf_theory.arrays import Array, int_like, to_numpy
from rlhf_theory.core import PreferenceOracle, RewardModel
from rlhf_theory.data import Contexts
from rlhf_theory.randomness import Key


@dataclass(frozen=True, eq=False)
class FreshAnswers:
    """Independent responses to every prompt of a held-out problem.

    Attributes
    ----------
    problem
        The held-out problem, whose pools stand for the reference policy.
    responses
        ``n`` responses to each of its ``N`` prompts.
    log_pi, log_pi0
        Sequence log-probabilities under the policy that wrote them and under the reference policy,
        shape ``(N, n)``.
    """

    problem: PromptProblem
    responses: tuple[tuple[Response, ...], ...]
    log_pi: np.ndarray
    log_pi0: np.ndarray

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts."""
        return self.problem.pools.prompts

    @cached_property
    def _placed(self) -> tuple[Pools, np.ndarray]:
        # Beside the pools of pi0, not in their place: a lower bound or an ensemble is measured from
        # the policy that the pools stand for.
        return beside(self.problem.pools, self.responses, self.log_pi0)

    @property
    def places(self) -> np.ndarray:
        """Where in the contexts each response is, shape ``(N, n)``."""
        return self._placed[1]

    @cached_property
    def _with_features(self) -> Contexts:
        return self.problem.with_pools(self._placed[0]).table

    def contexts(self, features: bool) -> Contexts:
        """Return the pools with the responses beside them; without features ``d`` is 0."""
        if features:
            return self._with_features
        pools, like = self._placed[0], self.problem.table.phi
        return pool_contexts(pools, like.new_zeros((1, len(pools.prompts), pools.size, 0)))

    def rewards(self, model: RewardModel) -> np.ndarray:
        """Return the reward of every response, shape ``(R|1, N, n)``.

        A reward that scores single responses is asked for these alone.
        """
        if isinstance(model, Scorer):
            n = self.log_pi.shape[1]
            flat = [r for row in self.responses for r in row]
            scores = model.scores([p for p in self.prompts for _ in range(n)], flat)
            return np.reshape(scores, (1, -1, n))
        table = host(model.rewards(self.contexts(_reads_features(model))))
        return np.take_along_axis(table, self.places[None, ...], axis=-1)

    def joined(self, other: FreshAnswers) -> FreshAnswers:
        """Return these responses followed by those of another policy, prompt by prompt."""
        return FreshAnswers(
            self.problem,
            tuple((*a, *b) for a, b in zip(self.responses, other.responses, strict=True)),
            np.concatenate([self.log_pi, other.log_pi], axis=1),
            np.concatenate([self.log_pi0, other.log_pi0], axis=1),
        )


def draw_answers(policy: Generating, problem: PromptProblem, n: int, key: Key) -> FreshAnswers:
    """Draw ``n`` responses to every prompt and score them under policy and reference.

    Both are scored by the same code path, so that the KL of a policy to itself is exactly 0.

    Raises
    ------
    ValueError
        If the policy samples at another temperature than 1.
    """
    prompts, reference = problem.pools.prompts, problem.policy
    responses = draw_responses(policy, prompts, n, key)
    log_pi = score_responses(policy, prompts, responses)
    same = policy is reference
    log_pi0 = log_pi if same else score_responses(reference, prompts, responses)
    return FreshAnswers(problem, responses, log_pi, log_pi0)


def fresh_values(
    drawn: FreshAnswers,
    baseline: FreshAnswers | None,
    *,
    gold: RewardModel | None,
    proxy: RewardModel | None,
    preference: PreferenceOracle | None,
    text_metrics: Mapping[str, Callable[[str, str], float]],
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Return means per prompt by name, shape ``(R|1, N)``, and one row per response.

    Parameters
    ----------
    drawn, baseline
        As many responses of the policy and of the policy it is compared with, of one problem; None
        leaves win rates out.
    gold, proxy, preference, text_metrics
        As in `HeldOut`; ``preference`` None compares gold rewards.
    """
    k1 = drawn.log_pi - drawn.log_pi0
    with np.errstate(over="ignore"):  # far from the reference: infinite, and said so
        k3 = np.expm1(-k1) + k1
    length = np.array([[float(len(r.ids)) for r in row] for row in drawn.responses])
    done = np.array([[float(r.finished) for r in row] for row in drawn.responses])
    each: dict[str, np.ndarray] = {
        "fresh_kl_k1": k1[None],
        "fresh_kl_k3": k3[None],
        "fresh_length": length[None],
        "fresh_entropy": -drawn.log_pi[None],
        "fresh_finished": done[None],
    }
    if gold is not None:
        each["fresh_gold"] = drawn.rewards(gold)
        each["fresh_objective"] = each["fresh_gold"] - drawn.problem.eta * k1
    if proxy is not None:
        each["fresh_proxy"] = drawn.rewards(proxy)
    for name, f in text_metrics.items():
        rows = zip(drawn.prompts, drawn.responses, strict=True)
        measured = [[float(f(p.text, r.text)) for r in row] for p, row in rows]
        each[f"fresh_{name}"] = np.array([measured])
    values = {name: value.mean(axis=-1) for name, value in each.items()}
    if baseline is not None and preference is not None:
        values["fresh_win_rate"] = _preference_wins(drawn, baseline, preference)
    elif baseline is not None and gold is not None:
        wins = win_matrix(each["fresh_gold"], baseline.rewards(gold))
        values["fresh_win_rate"] = off_diagonal_mean(wins)
    return values, _answers(drawn, {name: value[0] for name, value in each.items()})


def _preference_wins(
    drawn: FreshAnswers, baseline: FreshAnswers, oracle: PreferenceOracle
) -> np.ndarray:
    """Return ``P(response i beats response j)``, the mean over ``i != j``, shape ``(R|1, N)``."""
    both = drawn.joined(baseline)
    x = both.contexts(_reads_features(oracle))
    n = drawn.log_pi.shape[1]
    first, second = both.places[:, :n], both.places[:, n:]
    prob = [
        host(
            oracle.prob(
                x, int_like(first[None, :, i], x.like), int_like(second[None, :, j], x.like)
            )
        )
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return np.asarray(np.mean(prob, axis=0))


def _reads_features(model: object) -> bool:
    """Return whether a model may need features: those of texts and tokens do not."""
    of_texts = isinstance(model, Scorer) or hasattr(model, "halves")
    inner = getattr(model, "reward", None)
    return not (of_texts or (inner is not None and not _reads_features(inner)))


def _answers(drawn: FreshAnswers, each: Mapping[str, np.ndarray]) -> pd.DataFrame:
    n = len(drawn.responses[0])
    columns: dict[str, object] = {
        "prompt": [p.text for p in drawn.prompts for _ in range(n)],
        "number": list(range(n)) * len(drawn.prompts),
        "response": [r.text for row in drawn.responses for r in row],
        "log_pi": drawn.log_pi.ravel(),
        "log_pi0": drawn.log_pi0.ravel(),
    }
    return pd.DataFrame({**columns, **{name: value.ravel() for name, value in each.items()}})


def host(x: Array) -> np.ndarray:
    """Return an array of any library as doubles on the host."""
    return np.asarray(to_numpy(x), dtype=np.float64)
