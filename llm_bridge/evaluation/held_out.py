"""Evaluation of policies on held-out prompts: exactly on pools, and by fresh responses.

A name says how its number came about. ``pool_...`` is computed over the pools of the held-out
problem, where every policy is a table: no draws but the pools themselves. ``fresh_...`` is the mean
over new responses of the policy, with the sequence probabilities of the model, and needs a policy
that can generate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from llm_bridge.evaluation.cards import run_card, write_card
from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.fresh import FreshAnswers, draw_answers, fresh_values, host
from llm_bridge.evaluation.metrics import METRICS, fresh_names, measured
from llm_bridge.evaluation.win_rates import pool_win_probabilities, win_matrix
from llm_bridge.pools.candidates import Generating
from llm_bridge.pools.policy import LanguageModelPolicy
from rlhf_theory.arrays import log_softmax
from rlhf_theory.core import Policy, PreferenceOracle, RewardModel
from rlhf_theory.errors import check_choice, check_nonnegative
from rlhf_theory.evaluation.exploitability import exploitability_per_context
from rlhf_theory.evaluation.win_rates import win_rate_per_context
from rlhf_theory.oracles.labels import log_odds
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.policies import ReferencePolicy, expectation, kl
from rlhf_theory.randomness import Key

if TYPE_CHECKING:
    from llm_bridge.pools.problem import PromptProblem


@dataclass(frozen=True, eq=False)
class HeldOut:
    r"""Metrics of policies on held-out prompts: the judge of a `PromptWorld`.

    Every policy meets the same prompts, the same pools and the same uniform random numbers, so that
    differences between policies are paired. Fresh responses are those of the sequence law cut at
    the sampler's ``max_new_tokens``; their KL is estimated by

    .. math:: k_1 = \log\pi(y|x) - \log\pi_0(y|x), \qquad k_3 = e^{-k_1} - 1 + k_1,

    both unbiased for :math:`KL(\pi \Vert \pi_0)`; k3 is never negative and varies less where the
    policies are close, much more where they are far. Both policies are scored by one code path.

    The win rate compares response i of the policy with response j of the baseline for all
    ``i != j``: the two share their random numbers, and only those pairs are independent. So the
    rate of A against B and that of B against A add to one exactly.

    Attributes
    ----------
    problem
        A `PromptProblem` on the held-out prompts, such as ``problem.held_out(prompts)``.
    gold
        The true reward, a `RewardModel`; an oracle with a reward stands for its reward. None for
        preferences that have none; then give ``preference``. Without either only what needs no
        judge is reported: KL, entropy, length.
    proxy
        Another reward, such as a learnt one.
    preference
        Who wins; None lets the larger gold reward win, equal ones half each.
    game
        Payoff of the preference game whose exploitability is reported, ``"logit"`` or
        ``"probability"``; needs ``preference``.
    baseline
        Policy that win rates are against; the reference policy by default.
    n_samples
        Fresh responses per prompt: 0 (pools only) or at least 2. A policy that cannot generate gets
        NaN there, since all policies of a run must have the same names.
    text_metrics
        Further numbers of fresh responses: name to function of prompt and response, both texts;
        reported as ``fresh_NAME``.
    seed
        Of the fresh responses.
    records
        `Details` of every policy that was evaluated by calling this, in that order.

    Source: for k1 and k3 Schulman (2020), "Approximating KL divergence".
    """

    problem: PromptProblem
    gold: RewardModel | None = None
    _: KW_ONLY
    proxy: RewardModel | None = None
    preference: PreferenceOracle | None = None
    game: Literal["logit", "probability"] | None = None
    baseline: Policy | None = None
    n_samples: int = 4
    text_metrics: Mapping[str, Callable[[str, str], float]] = field(default_factory=dict)
    seed: int = 0
    records: list[Details] = field(default_factory=list, repr=False)
    _last: list[Policy] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        gold = self.gold
        if gold is not None and not isinstance(gold, RewardModel):
            reward = getattr(gold, "reward", None)
            if reward is None and self.preference is None and isinstance(gold, PreferenceOracle):
                object.__setattr__(self, "preference", gold)
            elif reward is None:
                message = (
                    "gold must be a reward model, or an oracle that has one; got "
                    f"{type(gold).__name__}. Give a preference as preference=..."
                )
                raise ValueError(message)
            object.__setattr__(self, "gold", reward)
        check_nonnegative("n_samples", self.n_samples)
        if self.n_samples == 1:
            message = (
                "n_samples must be 0 or at least 2: win rates compare responses i and j of "
                "different numbers; got 1."
            )
            raise ValueError(message)
        if self.game is not None:
            check_choice("game", self.game, ("logit", "probability"))
            if self.preference is None:
                message = "game needs preference=..., the law of the labels."
                raise ValueError(message)
        clash = sorted({f"fresh_{name}" for name in self.text_metrics} & set(METRICS))
        if clash:
            message = f"text_metrics must have new names; {', '.join(clash)} is taken."
            raise ValueError(message)

    def __call__(self, policy: Policy) -> dict[str, np.ndarray]:
        """Return all metrics, each of shape ``(R,)``, and keep the details."""
        found = self.details(policy)
        self.records.append(found)
        self._last[:] = [policy]
        result = {name: found.mean(name) for name in found.per_prompt}
        if self.n_samples:
            result["fresh_kl_k3_error"] = found.standard_error("fresh_kl_k3")
            if self._has_winners:
                won = found.interval("fresh_win_rate")
                result["fresh_win_rate_lower"] = np.reshape(won.lower, (-1,))
                result["fresh_win_rate_upper"] = np.reshape(won.upper, (-1,))
        rows = self.problem.n_replicas
        return {name: np.broadcast_to(v, (rows,)).copy() for name, v in result.items()}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what a call returns, the one that the world is about first."""
        return measured(
            gold=self.gold is not None,
            preference=self.preference is not None,
            game=self.game is not None,
            fresh=self.n_samples > 0,
            proxy=self.proxy is not None,
            text_metrics=self.text_metrics,
        )

    def leave(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Write what is known of all policies, and the last one where it is a language model.

        ``rounds/000.parquet`` and so on has results prompt by prompt, ``000.answers.parquet`` the
        responses; ``model/`` the weights with their card. See `rlhf_theory.worlds.recipe.Leaving`.
        """
        (folder / "rounds").mkdir()
        for t, found in enumerate(self.records):
            found.save(folder / "rounds", f"{t:03d}")
        last = self._last[0] if self._last else None
        if isinstance(last, LanguageModelPolicy):
            last.model.save(folder / "model")
            reference = self.problem.policy.model.fingerprint
            card = run_card(settings, self.problem.eta, self.records[-1], reference)
            write_card(folder / "model", card)

    def block(self, first: int, stop: int) -> HeldOut:
        """Return the judge of replicas ``first .. stop - 1``, with the same records."""
        return replace(self, problem=self.problem.block(first, stop))

    def details(self, policy: Policy) -> Details:
        """Return all results prompt by prompt, of the pools and of fresh responses."""
        found = self.pool(policy)
        if self.n_samples:
            fresh = self.fresh(policy)
            found = replace(
                found, per_prompt={**found.per_prompt, **fresh.per_prompt}, answers=fresh.answers
            )
        return found

    # ------------------------------------------------------------------ pools

    def pool(self, policy: Policy, *, proxy: RewardModel | None = None) -> Details:
        """Return the exact results on the pools; ``proxy`` takes the place of the own one."""
        log_pi, log_pi0, eta = self._table(policy), self._log_pi0, self.problem.eta
        divergence = kl(log_pi, log_pi0)
        values = {"pool_kl": divergence}
        if self.gold is not None:
            reward = expectation(log_pi, self._gold)
            best = gibbs_log_probs(self._gold, log_pi0, eta)
            values["pool_gold"] = reward
            values["pool_objective"] = reward - eta * divergence
            values["pool_gap"] = eta * kl(log_pi, best)
        other = self.proxy if proxy is None else proxy
        if other is not None:
            values["pool_proxy"] = expectation(log_pi, host(other.rewards(self.problem.table)))
        if self._has_winners:
            log_other = log_pi0 if self.baseline is None else self._table(self.baseline)
            values["pool_win_rate"] = win_rate_per_context(self._wins, log_pi, log_other)
        if self.game is not None:
            values["pool_exploitability"] = exploitability_per_context(
                self._payoff, log_pi, log_pi0, eta
            )
        values["pool_ess"] = self._worth(log_pi)
        values = {name: np.atleast_2d(v) for name, v in values.items()}
        return Details(self._prompts, values, self._weights)

    def _worth(self, log_pi: np.ndarray) -> np.ndarray:
        """Return ``ess / sum pi^2 / m``: of n draws of pi0 (m = mass) what is left under pi."""
        log_pi0 = self._log_pi0
        absent = log_pi0 == -np.inf
        log_ratio = 2.0 * np.where(absent, -np.inf, log_pi) - np.where(absent, 0.0, log_pi0)
        return np.asarray(self.problem.pools.ess / np.exp(log_ratio).sum(axis=-1))

    def _table(self, policy: Policy) -> np.ndarray:
        """Return log-probabilities on the pools, normalised in double precision."""
        return np.asarray(log_softmax(host(policy.log_probs(self.problem.table))))

    @property
    def _has_winners(self) -> bool:
        return self.gold is not None or self.preference is not None

    @property
    def _prompts(self) -> tuple[str, ...]:
        return tuple(p.text for p in self.problem.pools.prompts)

    @cached_property
    def _weights(self) -> np.ndarray:
        weights: np.ndarray = host(self.problem.population(Key(self.seed), 0)[1])[0]
        return weights

    @cached_property
    def _log_pi0(self) -> np.ndarray:
        return np.asarray(log_softmax(host(self.problem.table.log_pi0)))

    @cached_property
    def _gold(self) -> np.ndarray:
        if self.gold is None:
            message = "This evaluation has no gold reward."
            raise ValueError(message)
        return host(self.gold.rewards(self.problem.table))

    @cached_property
    def _wins(self) -> np.ndarray:
        """Win probabilities of all pairs, shape ``(R|1, N, K, K)``."""
        if self.preference is None:
            return win_matrix(self._gold, self._gold)
        return pool_win_probabilities(self.preference, self.problem.table)

    @cached_property
    def _payoff(self) -> np.ndarray:
        """Payoffs of the game, skew, shape ``(R|1, N, K, K)``; 0 beside absent responses."""
        if self.game == "probability":
            return np.asarray(0.5 * (self._wins - np.swapaxes(self._wins, -1, -2)))
        exact = getattr(self.preference, "logits", None)
        logits = log_odds(self._wins) if exact is None else host(exact(self.problem.table))
        here = self._log_pi0 > -np.inf
        return np.where(here[..., :, None] & here[..., None, :], logits, 0.0)

    # ------------------------------------------------------------------ fresh responses

    def fresh(self, policy: Policy, *, proxy: RewardModel | None = None) -> Details:
        """Return the results of fresh responses; NaN for a policy that cannot generate."""
        other = self.proxy if proxy is None else proxy
        names = fresh_names(
            gold=self.gold is not None,
            proxy=other is not None,
            winners=self._has_winners,
            text_metrics=self.text_metrics,
        )
        writer = self.problem.policy if isinstance(policy, ReferencePolicy) else policy
        if not isinstance(writer, Generating):
            nothing = np.full((1, len(self._prompts)), np.nan)
            return Details(self._prompts, dict.fromkeys(names, nothing), self._weights)
        drawn = self._draw(writer)
        values, answers = fresh_values(
            drawn,
            self._baseline_answers if self._has_winners else None,
            gold=self.gold,
            proxy=other,
            preference=self.preference,
            text_metrics=self.text_metrics,
        )
        return Details(self._prompts, {k: values[k] for k in names}, self._weights, answers)

    def _draw(self, policy: Generating) -> FreshAnswers:
        key = Key(self.seed).child("held out", "responses")
        return draw_answers(policy, self.problem, self.n_samples, key)

    @cached_property
    def _baseline_answers(self) -> FreshAnswers:
        other = self.baseline
        writer = (
            self.problem.policy if other is None or isinstance(other, ReferencePolicy) else other
        )
        if not isinstance(writer, Generating):
            message = (
                "Win rates of fresh responses need a baseline that can generate; got "
                f"{type(writer).__name__}. Set n_samples=0 for the pools alone."
            )
            raise ValueError(message)
        return self._draw(writer)
