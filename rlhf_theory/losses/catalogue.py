"""The losses by name, made from settings or for a given weight of the KL."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rlhf_theory.errors import check_choice, check_positive, suggestion
from rlhf_theory.losses.comparisons import GroupLoss, PairLoss
from rlhf_theory.losses.divergences import FDPO, ChiPO
from rlhf_theory.losses.group_losses import NCA, RRHF, InfoNCA
from rlhf_theory.losses.logistic import CDPO, DPO, RDPO, VPO, XPO, RobustDPO
from rlhf_theory.losses.margin_losses import EXO, Exponential, Hinge, Savage, SquaredHinge
from rlhf_theory.losses.ratio_losses import BCO, KTO, SPPO, NCAPair, SPPOHard
from rlhf_theory.losses.reference_free import CPO, ORPO, SimPO, SLiC
from rlhf_theory.losses.square_losses import INPO, IPO, IPOPerToken

__all__ = ["CATALOGUE", "make", "planning"]

CATALOGUE: dict[str, tuple[type, str]] = {
    "dpo": (DPO, "logistic loss of the log-ratio, margin for pessimism (2305.18290)"),
    "cdpo": (CDPO, "DPO with smoothed labels"),
    "robust-dpo": (RobustDPO, "DPO corrected for a known share of flipped labels (2403.00409)"),
    "r-dpo": (RDPO, "DPO that charges for length (2403.19159)"),
    "f-dpo": (FDPO, "DPO for other divergences than the KL (2309.16240)"),
    "chi-po": (ChiPO, "chi-squared plus KL with a clipped logit (2407.13399)"),
    "xpo": (XPO, "DPO plus optimism (2405.21046)"),
    "vpo": (VPO, "DPO plus or minus the value: optimism or pessimism (2405.19320)"),
    "ipo": (IPO, "square loss of the log-ratio, not divided by lengths (2310.12036)"),
    "ipo-per-token": (IPOPerToken, "IPO on mean log-ratios per token (2310.12036)"),
    "inpo": (INPO, "IPO against a mixture of reference and last iterate (2407.00617)"),
    "hinge": (Hinge, "hinge of the log-ratio (2309.06657)"),
    "squared-hinge": (SquaredHinge, "squared hinge of the log-ratio (2402.05749)"),
    "exponential": (Exponential, "exponential loss of the log-ratio (2402.05749)"),
    "savage": (Savage, "bounded loss of the log-ratio (2402.05749)"),
    "exo": (EXO, "reverse KL of the policy's preference (2402.00856)"),
    "nca-pair": (NCAPair, "noise contrast that pins each log-ratio (2402.05369)"),
    "bco": (BCO, "winners against losers as a classifier (2404.04656)"),
    "sppo": (SPPO, "self-play with win probabilities (2405.00675)"),
    "sppo-hard": (SPPOHard, "self-play with labels (2405.00675)"),
    "kto": (KTO, "desirable and undesirable responses (2402.01306)"),
    "cpo": (CPO, "without reference, plus cloning (2401.08417)"),
    "simpo": (SimPO, "without reference, per token, target margin (2405.14734)"),
    "orpo": (ORPO, "without reference, cloning plus odds ratio (2403.07691)"),
    "slic-hf": (SLiC, "without reference, hinge plus supervised targets (2305.10425)"),
    "infonca": (InfoNCA, "contrast of K responses with rewards (2402.05369)"),
    "nca": (NCA, "noise contrast of K responses with rewards (2402.05369)"),
    "rrhf": (RRHF, "ranking of K responses, plus cloning (2304.05302)"),
}
"""Name to (class, one line with the paper)."""

# The loss is exact or nearest (first order in the reward) to Gibbs at eta = 1 for this setting.
_WEIGHTS: dict[str, tuple[str, float]] = {
    "dpo": ("beta", 1.0),
    "cdpo": ("beta", 1.0),
    "robust-dpo": ("beta", 1.0),
    "r-dpo": ("beta", 1.0),
    "f-dpo": ("beta", 1.0),
    "chi-po": ("beta", 0.5),
    "xpo": ("beta", 1.0),
    "vpo": ("beta", 1.0),
    "ipo": ("tau", 0.25),
    "hinge": ("beta", 1.0),
    "squared-hinge": ("beta", 0.5),
    "exponential": ("beta", 0.5),
    "savage": ("beta", 1.0),
    "exo": ("beta", 0.5),
    "nca-pair": ("beta", 0.5),
    "bco": ("beta", 1.0),
    "sppo": ("beta", 0.25),
    "sppo-hard": ("beta", 0.25),
    "infonca": ("beta", 1.0),
    "nca": ("beta", 1.0),
}

_PLAIN = {"cdpo": {"smoothing": 0.0}, "robust-dpo": {"smoothing": 0.0}, "r-dpo": {"alpha": 0.0}}

_NO_PLANNING = {
    "kto": "its log-ratios have no finite minimiser",
    "ipo-per-token": "its tau counts per token: use ipo, or make it with eta n / 4 at length n",
    "inpo": "it takes steps of a game: make it with tau and step",
}


def make(name: str, **settings: Any) -> PairLoss | GroupLoss:
    """Return a loss by name.

    Parameters
    ----------
    name
        A name of `CATALOGUE`; an unknown one raises ``ValueError`` and suggests the nearest.
    **settings
        The settings of its class; unknown and missing ones raise ``ValueError``.
    """
    check_choice("loss", name, CATALOGUE)
    kind = CATALOGUE[name][0]
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for given in settings:
        if given not in fields:
            message = f"The loss {name!r} has no setting {given!r}; it has {', '.join(fields)}."
            raise ValueError(message + suggestion(given, fields))
    missing = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING and f.name not in settings
    ]
    if missing:
        message = f"The loss {name!r} needs the settings {', '.join(missing)}."
        raise ValueError(message)
    loss: PairLoss | GroupLoss = kind(**settings)
    return loss


def planning(name: str, eta: float, **settings: Any) -> PairLoss | GroupLoss:
    """Return the loss whose population minimiser is, or is nearest to, the Gibbs policy at ``eta``.

    Labels are Bradley-Terry probabilities of the reward (for groups the rewards themselves), known
    exactly: ``smoothing`` is 0 for ``cdpo`` and ``robust-dpo`` unless it is given. Pairs cover all
    actions. Exact are ``dpo``, ``cdpo``, ``robust-dpo``, ``r-dpo`` (``alpha`` is 0 unless given),
    ``f-dpo`` with ``reverse-kl``, ``exponential``, ``savage`` and ``infonca``; ``xpo`` and ``vpo``
    up to their bonus. The others agree with the Gibbs policy to first order in the reward: those
    that pin each log-ratio (``bco``, ``nca-pair``, ``sppo``) for pairs from the reference, those of
    a response with itself included, ``nca`` up to a factor ``1 - 1/K``. ``hinge`` keeps no size of
    the reward and takes it to be 1.

    Parameters
    ----------
    name
        A name of `CATALOGUE`. Losses without a reference, or without a minimiser at a weight of
        the KL, raise ``ValueError``.
    eta
        Weight of the KL, positive.
    **settings
        Further settings of the loss, such as ``smoothing``; not the one that ``eta`` decides.
    """
    check_choice("loss", name, CATALOGUE)
    check_positive("eta", eta)
    if name not in _WEIGHTS:
        why = _NO_PLANNING.get(name, "it knows no reference policy")
        message = f"The loss {name!r} does not plan for a weight of the KL: {why}."
        raise ValueError(message)
    setting, factor = _WEIGHTS[name]
    if setting in settings:
        message = f"eta decides {setting} of the loss {name!r}: leave {setting} out, or use make."
        raise ValueError(message)
    settings = {**_PLAIN.get(name, {}), **settings}
    loss: Any = make(name, **{setting: factor * eta}, **settings)
    if isinstance(loss, FDPO):
        return dataclasses.replace(loss, beta=eta / loss.curvature)
    if isinstance(loss, EXO):
        spread = math.log1p(-loss.smoothing) - math.log(loss.smoothing)
        return dataclasses.replace(loss, beta=0.5 * eta * spread)
    if isinstance(loss, (InfoNCA, NCA)):
        return dataclasses.replace(loss, beta=eta / loss.alpha)
    result: PairLoss | GroupLoss = loss
    return result
