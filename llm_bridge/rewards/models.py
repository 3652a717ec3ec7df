"""Linear rewards on frozen features, ensembles of rewards, and pessimistic versions of both.

Estimates, confidence sets and ways to combine members are those of the theory package; rewards
whose trunk is trained too are at home in `reward_training`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from llm_bridge.embeddings.projection import FrozenFeatures
from llm_bridge.labels.scoring import pools_of
from llm_bridge.pools.data import PromptData, prompt_numbers
from llm_bridge.rewards.calibration import Calibration, calibration
from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.arrays import Array, as_like, eye_like, int_like, namespace, to_numpy
from rlhf_theory.core import Policy, RewardModel, Solution
from rlhf_theory.data import Contexts, PreferenceData
from rlhf_theory.estimators.confidence import ConfidenceRule, Constant, Scalable, label_scale
from rlhf_theory.estimators.ensembles import EnsembleReward, RewardEnsemble, ensemble_of
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward

# --------------------------------------------------------------------------- a linear head


@dataclass(frozen=True, eq=False)
class HeadFit:
    """A linear reward on frozen features with what is known about it.

    Attributes
    ----------
    reward
        ``<theta_hat, phi>``.
    confidence
        The confidence set around it.
    solution
        The estimate with the solver's verdict.
    held_out
        How well the reward predicts labels of prompts that it was not fitted to; None for data of
        several replicas, or of a single prompt.
    """

    reward: LinearReward
    confidence: Scalable
    solution: Solution[Array]
    held_out: Calibration | None

    def lower(self, reference: Policy | None = None) -> LowerBound:
        """Return the pessimistic reward: its lower bound, measured from a policy (pi0)."""
        return LowerBound(self.confidence, ReferencePolicy() if reference is None else reference)


def fit_head(
    data: PreferenceData,
    *,
    rule: ConfidenceRule | None = None,
    folds: int = 5,
    key: Key | None = None,
) -> HeadFit:
    """Fit a linear reward to comparisons, and say how far it can be trusted.

    The report comes from cross-fitting: prompts are split into folds, and the labels of each are
    predicted by a fit to the others, so that all comparisons are both used and held out.

    Parameters
    ----------
    data
        Comparisons, such as `PromptData`.
    rule
        How to fit, and the confidence set that goes with it; a ridge fit with a small radius and no
        guarantee unless given (``Adaptive`` and ``MarginalLikelihood`` have one).
    folds
        Folds of the report, at least 2; 0 for no report.
    key
        Address of the split.
    """
    rule = Constant(beta=1.0) if rule is None else rule
    fit = rule.fit(data)
    confidence = rule.confidence_set(fit, data)
    report = None
    if folds and data.count.shape[0] == 1:
        report = _cross_fitted(data, rule, folds, key or Key(0).child("folds"))
    return HeadFit(LinearReward(fit.value), confidence, fit, report)


def fit_ensemble(
    data: PreferenceData, *, rule: ConfidenceRule | None = None, n_members: int = 5, key: Key
) -> Solution[RewardEnsemble]:
    """Fit linear rewards to Bayesian bootstraps of comparisons, by the estimator of a rule.

    Parameters
    ----------
    data
        Comparisons, such as `PromptData`.
    rule
        How to fit, as in `fit_head`; its confidence set is not used.
    n_members
        ``K``, at least 2: one alone disagrees with nobody.
    key
        Address of the bootstraps.

    Returns
    -------
    Solution with the largest residual over members; converged where all are.

    Source: [2310.02743]; theory sheet 6.2.
    """
    if n_members < 2:
        message = f"n_members must be at least 2; got {n_members}."
        raise ValueError(message)
    rule = Constant(beta=1.0) if rule is None else rule
    return ensemble_of(rule.fit, data, key, n_members)


def _cross_fitted(
    data: PreferenceData, rule: ConfidenceRule, folds: int, key: Key
) -> Calibration | None:
    if folds < 2:
        message = f"folds must be at least 2, or 0 for no report; got {folds}."
        raise ValueError(message)
    count, wins = to_numpy(data.count)[0], to_numpy(data.wins)[0]
    seen = np.nonzero(count > 0)[0]
    if isinstance(data, PromptData):
        prompt = np.array(prompt_numbers(data.comparisons), dtype=np.int64)
    else:
        prompt = np.arange(seen.size)  # nobody knows: each of its own
    n_prompts = int(prompt.max(initial=-1)) + 1
    if n_prompts < 2:
        return None
    order = np.argsort(key.uniform_numpy(1, n_prompts)[0], kind="stable")
    fold = np.empty(n_prompts, dtype=np.int64)
    fold[order] = np.arange(n_prompts) % folds
    logits = np.zeros(seen.size)
    for k in range(min(folds, n_prompts)):
        out = fold[prompt] == k
        keep = np.ones_like(count)
        keep[seen[out]] = 0.0
        mask = as_like(keep[None, :], data.count)
        theta = rule.fit(data.reweighted(data.count * mask, data.wins * mask)).value
        margins = to_numpy(data.differences.margins(theta))[0]
        logits[out] = label_scale(rule) * margins[seen[out]]
    return calibration(logits, wins[seen] / count[seen], weights=count[seen], prompts=prompt)


# --------------------------------------------------------------------------- other features


def with_features(data: PromptData, features: FrozenFeatures) -> PromptData:
    """Return the same comparisons with other features, such as those of a trained reward model.

    Parameters
    ----------
    data
        Comparisons of one replica.
    features
        Anything with ``rows(prompts, responses) -> (n, d)``.
    """
    comparisons = data.comparisons
    if not comparisons:
        message = "There are no comparisons whose features could be computed."
        raise ValueError(message)
    phi = features.rows(
        [c.prompt.ids for c in comparisons for _ in range(2)],
        [r.ids for c in comparisons for r in (c.first, c.second)],
    )
    phi = torch.as_tensor(phi).to(torch.float64)
    empty = PromptData.empty(1, int(phi.shape[1]), phi)
    return empty.joined(phi.reshape(len(comparisons), 2, -1), comparisons)


@dataclass(frozen=True, eq=False)
class OnFeatures:
    """A reward over features of its own, whatever features the problem has.

    With the lower bound of a confidence set it is the pessimistic version of a trained reward:
    ``OnFeatures(trained, fit_head(with_features(data, trained)).lower())``.

    Attributes
    ----------
    features
        Anything with ``rows(prompts, responses) -> (n, d)``.
    model
        A reward over contexts with these features.
    """

    features: FrozenFeatures
    model: RewardModel
    _tables: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""
        pools = pools_of(contexts)
        if pools.content not in self._tables:
            if len(self._tables) >= 4:  # pools change from round to round
                self._tables.pop(next(iter(self._tables)))
            i, k, prompts, responses = pools.rows()
            phi = torch.as_tensor(self.features.rows(prompts, responses))
            table = phi.new_zeros((*pools.log_mass.shape, phi.shape[1]))
            table[i, k] = phi
            self._tables[pools.content] = table[None, ...]
        like = contexts.like
        mass = as_like(pools.log_mass[None, ...], like)
        ids = int_like(np.arange(mass.shape[1])[None, :], like)
        table = as_like(self._tables[pools.content], like)
        whole = Contexts(table, mass, ids, pools, whole=True)
        return contexts.from_table(self.model.rewards(whole))


# --------------------------------------------------------------------------- ensembles


@dataclass(frozen=True, eq=False)
class ModelEnsemble:
    """Rewards that disagree where data are missing; combined as `RewardEnsemble` does.

    Each member is measured from the reference policy before anything else: comparisons identify it
    only up to a constant per prompt, and without that a minimum or a variance would compare numbers
    that mean nothing (theory sheet 6.2). Linear members are fitted by `fit_ensemble`, trained ones
    by `train_ensemble`.

    Attributes
    ----------
    members
        At least one reward model.
    """

    members: Sequence[RewardModel]

    def __post_init__(self) -> None:
        if not self.members:
            message = "An ensemble needs at least one member; got none."
            raise ValueError(message)

    @property
    def size(self) -> int:
        """Number of members ``K``."""
        return len(self.members)

    def _core(self, like: Array) -> RewardEnsemble:
        # Members' rewards as features, and unit vectors as members: the theory's ensemble.
        return RewardEnsemble(eye_like(self.size, like)[None, ...])

    def mean(self) -> RewardModel:
        """Return the mean of the members."""
        return _Combined(self, lambda core: core.mean())

    def min_reward(self) -> RewardModel:
        """Return the smallest member, response by response (worst-case optimisation)."""
        return _Combined(self, lambda core: core.min_reward())

    def uncertainty_weighted(self, weight: float, ddof: int = 0) -> RewardModel:
        """Return ``mean - weight * variance``; see `RewardEnsemble.uncertainty_weighted`."""
        self._core(np.zeros(1)).uncertainty_weighted(weight, ddof)  # refuses what it cannot do
        return _Combined(self, lambda core: core.uncertainty_weighted(weight, ddof))


@dataclass(frozen=True, eq=False)
class _Combined:
    ensemble: ModelEnsemble
    combine: Callable[[RewardEnsemble], EnsembleReward]

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""
        parts = [m.rewards(contexts) for m in self.ensemble.members]
        xp = namespace(*parts)
        members = xp.stack(xp.broadcast_arrays(*parts), axis=-1)
        core = self.combine(self.ensemble._core(contexts.like))  # noqa: SLF001
        return core.rewards(Contexts(members, contexts.log_pi0))
