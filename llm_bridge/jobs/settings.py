"""The settings of commands: stated once, and light, for their help is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_bridge.jobs.feature_options import FeatureOptions
from llm_bridge.jobs.model_jobs import ModelJob, PoolJob, RewardJob
from llm_bridge.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class FitSettings(RewardJob):
    """Fit a linear reward.

    Attributes
    ----------
    features
        How the model reads. The transform of the features is fitted to all responses of the
        comparisons that are trained on, and then frozen.
    rule
        Confidence set, of ``rlhf-theory list radii``: a given radius (constant), or one that covers
        with probability 1 - delta (adaptive, marginal-likelihood ...).
    beta
        Radius; a multiplier of it where the rule says one.
    lam
        Ridge lambda.
    norm
        Bound on |theta*|; not for constant.
    delta
        Miss probability; not for constant.
    cache
        Folder of a feature cache to share; None is ``cache`` in the folder of results.
    """

    features: FeatureOptions = field(default_factory=FeatureOptions)
    rule: str = "constant"
    beta: float = 1.0
    lam: float = 1.0
    norm: float = 1.0
    delta: float = 0.05
    cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TrunkSettings(RewardJob):
    """Train a reward model.

    Attributes
    ----------
    encoder
        Whether the model is an encoder instead of a causal model.
    training
        How to train.
    """

    encoder: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(ModelJob):
    """Train a model on comparisons, or (KTO) on single responses with labels.

    Attributes
    ----------
    file
        Preferences, or for ``"kto"`` labelled responses, JSONL or Parquet.
    source
        The model that training starts from, which is also the reference.
    loss
        A loss of ``rlhf-theory list losses``, or ``"sft"`` to imitate what was chosen.
    loss_settings
        Its settings.
    training
        How to train.
    sample
        The further response of XPO, VPO and SLiC; second: that of the run that asked. None for
        other losses.
    test_share
        Share of the prompts that is held out, with all their rows.
    """

    loss: str = "dpo"
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    sample: Literal["chosen", "rejected", "second"] | None = None
    test_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SelectSettings(PoolJob):
    """Choose pairs for people to label, no pair twice.

    Attributes
    ----------
    file
        Prompts.
    reward
        What is known so far: a folder of ``lm fit``; for rules that draw also its version, such as
        ``DIR#lower`` or ``DIR#min`` (see there), that makes the policy pessimistic.
    features
        Features of the reference model, where there is no ``reward`` to bring its own.
    rule
        ``"informative"``: the pairs that tell most about the reward (greedy D-optimal);
        ``"best-worst"``: best and worst of 4 draws of the estimate's policy by the estimate; or an
        enhancer of ``rlhf-theory list enhancers`` that explores for rewards: a draw of the
        estimate's policy against one of the enhancer's, such as ``"optimistic"``.
    pairs
        Different pairs; fewer where there are no more, which is said. Rules that draw stop looking
        after 20 times as many draws.
    eta
        Weight of the KL of the estimate's policy.
    """

    reward: str | None = None
    features: FeatureOptions = field(default_factory=FeatureOptions)
    rule: str = "informative"
    pairs: int = 100


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(PoolJob):
    """Evaluate policies against a reference.

    Attributes
    ----------
    file
        Held-out prompts.
    models
        Models to evaluate, each ``PATH`` or ``NAME=PATH``; device and offline mode are the
        reference's.
    gold
        True reward: a classifier, a folder of fit (or its version, such as ``DIR#lower``), or
        ``module:function``.
    proxy
        Another reward, such as a learnt one.
    preference
        Who wins, if not the larger gold reward: ``module:function``.
    game
        Payoff of the game whose exploitability is reported; needs a preference.
    metrics
        Further numbers of answers, ``NAME=module:function`` of prompt and response.
    samples
        Fresh responses per prompt; 0 for pools alone, else at least 2.
    limit
        Only the first so many prompts.
    """

    models: tuple[str, ...] = ()
    gold: str | None = None
    proxy: str | None = None
    preference: str | None = None
    game: Literal["logit", "probability"] | None = None
    metrics: tuple[str, ...] = ()
    pool_size: int = 16
    samples: int = 4
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(ModelJob):
    """Compute features of prompts and responses.

    Attributes
    ----------
    file
        Preferences (``prompt, chosen, rejected``), single responses (``prompt, response``), or
        prompts alone, to which the model writes ``samples`` responses each.
    features
        How the model reads.
    samples
        Responses that the model writes to every prompt of a file without responses; 0 for none.
    transform
        Centre, standardise, project and scale the features, fitted to these very rows; without it
        the raw features are written.
    max_new_tokens
        Longest response that is written.
    cache
        Folder of a feature cache to share; None is ``cache`` in the folder of results.
    """

    features: FeatureOptions = field(default_factory=FeatureOptions)
    samples: int = 0
    transform: bool = False
    max_new_tokens: int = 64
    cache: Path | None = None
