"""Training on labelled comparisons: their examples, their margins, the trained policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llm_bridge.language.models import Ids, Prompt
from llm_bridge.planning.planners import Loss
from llm_bridge.pools.data import Comparison, PromptData
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.training.examples import Example, with_mismatched
from llm_bridge.training.settings import TrainingSettings
from llm_bridge.training.train import train
from llm_bridge.training.units import TrainingLoss, compares_equal
from rlhf_theory.arrays import as_like, inner, namespace, to_numpy
from rlhf_theory.core import ConfidenceSet, Policy, Problem, Solution
from rlhf_theory.data import PreferenceData
from rlhf_theory.features import mean_feature
from rlhf_theory.randomness import Key


def require_texts(data: PreferenceData) -> PromptData:
    """Return the data, known to keep prompts and responses; ``ValueError`` if they do not."""
    if not isinstance(data, PromptData):
        message = (
            "Training on labels needs PromptData, which keeps prompts and responses; got "
            f"{type(data).__name__}. Start from problem.empty_data() or problem.data_of(...)."
        )
        raise ValueError(message)
    return data


def learns_from_equal(loss: TrainingLoss) -> bool:
    """Return whether a loss learns from a response against itself.

    It has no label, and most losses are constant on it. But its calibration sample counts as those
    of other pairs do: without it these samples would have the law ``pi0(a) (1 - pi_t(a))``. And
    losses that pin each log-ratio are about the full law of the pairs, in which a response wins
    half of the time against itself.
    """
    return loss.takes == "pairs" and ("sample" in loss.needs or compares_equal(loss))


def trained_on(data: PromptData, loss: Loss) -> list[Comparison]:
    """Return the comparisons that a loss learns from; for data of one replica."""
    counted = data.comparisons
    return data.comparisons_of(0, equal=True) if learns_from_equal(loss) else counted


def penalties(confidence: ConfidenceSet, problem: Problem, data: PromptData) -> np.ndarray:
    r"""Return the penalty of both responses of every comparison that counts, shape ``(n, 2)``.

    .. math:: \Gamma(x, a) = \langle\hat\theta, v\rangle
              - \min_{\theta \in C}\langle\theta, v\rangle,
              \qquad v = \varphi(x, a) - \varphi(x, \pi_0),

    which for an ellipsoid is :math:`\beta\lVert v\rVert_{\Sigma^{-1}}`. The mean feature of pi0 is
    that of the problem's pools, so ``ValueError`` for comparisons of prompts that have none. A
    prompt that the problem has several times has several pools of draws, and the mean over them;
    one that it has in other words alone, cut into the same tokens, has those.

    Source: [2312.11456], offline GSHF, direct version.
    """
    contexts, _ = problem.population(Key(0), 1)
    nu = mean_feature(contexts, contexts.log_pi0)
    pools: dict[Prompt | Ids, list[int]] = {}
    for i, prompt in enumerate(contexts.source.prompts):
        for name in (prompt, prompt.ids):
            pools.setdefault(name, []).append(i)
    row = {name: k for k, name in enumerate(pools)}
    xp = namespace(nu)
    # Data outlive the pools they came from: which of them it was says nothing about the prompt.
    nu = xp.stack([xp.mean(nu[:, places, :], axis=1) for places in pools.values()], axis=1)
    comparisons = data.comparisons
    strange = [c.prompt.text for c in comparisons if c.prompt.ids not in row]
    if strange:
        message = (
            "Margins need the problem's pools for every compared prompt; there is none for "
            f"{strange[0][:60]!r} and {len(strange) - 1} more. Give a problem over these prompts."
        )
        raise ValueError(message)
    counted = np.nonzero(to_numpy(data.count)[0] > 0)[0].tolist()
    rows = [row.get(c.prompt, row[c.prompt.ids]) for c in comparisons]
    v = data.pairs.phi[:, counted, ...] - nu[:, rows, None, :]
    gamma: np.ndarray = to_numpy(inner(v, confidence.center) - confidence.lower(v))[0]
    return gamma


def labelled_examples(
    comparisons: Sequence[Comparison],
    reference: LanguageModelPolicy,
    pi0: LanguageModelPolicy,
    *,
    gamma: np.ndarray | None,
    sample: int | Sequence[int] | None,
    mismatched: bool,
    bf16: bool = False,
) -> list[Example]:
    """Return the comparisons as examples, measured from ``reference``.

    ``sample`` is the place of the further response, in all comparisons or in each. ``bf16`` says
    whether they are trained on in half precision: so is the reference then.
    """
    log_ref = np.array([(c.log_pi0_first, c.log_pi0_second) for c in comparisons])
    if reference is not pi0 or bf16:
        prompts = [c.prompt.ids for c in comparisons for _ in range(2)]
        responses = [r.ids for c in comparisons for r in (c.first, c.second)]
        log_ref = reference.sequence_log_probs(prompts, responses, bf16=bf16).reshape(-1, 2)
    examples = [
        Example(
            prompt=c.prompt.ids,
            responses=(c.first.ids, c.second.ids),
            log_ref=(float(log_ref[i, 0]), float(log_ref[i, 1])),
            target=(float(c.label),),
            weight=float(c.weight),
            gamma=() if gamma is None else (float(gamma[i, 0]), float(gamma[i, 1])),
            sample=sample[i] if isinstance(sample, Sequence) else sample,
        )
        for i, c in enumerate(comparisons)
    ]
    if mismatched:
        return with_mismatched(
            reference.model, examples, bf16=bf16, score=reference.sequence_log_probs
        )
    return examples


def fit_labels(
    data: PromptData,
    loss: Loss,
    settings: TrainingSettings,
    *,
    pi0: LanguageModelPolicy,
    reference: LanguageModelPolicy,
    start: LanguageModelPolicy,
    gamma: np.ndarray | None = None,
    sample: int | None = None,
    key: Key,
    folder: str | Path | None = None,
    name: str,
) -> Solution[Policy]:
    """Return the policy that one training on labels gives, and how much the loss still fell.

    Parameters
    ----------
    data, loss, settings, key, folder, name
        The comparisons, and how they are trained on; see `training.train`.
    pi0
        The reference policy of the data, whose sampler the result has.
    reference, start
        What the loss measures from, and whose weights training starts from.
    gamma
        Penalties of both responses, shape ``(n, 2)``; None for no margin.
    sample
        Place of the further response in all comparisons, for losses that have one.
    """
    # Penalties are of the comparisons that count; losses with a margin learn from these alone.
    comparisons = trained_on(data, loss) if gamma is None else data.comparisons
    examples = labelled_examples(
        comparisons,
        reference,
        pi0,
        gamma=gamma,
        sample=sample,
        mismatched="z0" in loss.needs,
        bf16=settings.bf16,
    )
    trained = train(
        start.model,
        examples,
        loss,
        settings,
        key=key.child("training"),
        folder=folder,
        name=name,
    )
    residual = as_like(np.array([_still_falling(trained.history)]), data.count)
    # Stopping after so many steps is the regulariser: labels that can be separated have no
    # minimiser. So all steps taken is what is asked for.
    policy = replace(pi0, model=trained.model)
    return Solution(policy, residual, residual >= 0.0, trained.n_steps)


def _still_falling(history: np.ndarray) -> float:
    """Return how much the mean loss fell from the last but one to the last fifth of the steps."""
    fifth = max(1, len(history) // 5)
    last, before = history[-fifth:], history[-2 * fifth : -fifth]
    return max(0.0, float(before.mean() - last.mean())) if before.size else float("inf")
