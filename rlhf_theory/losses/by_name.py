"""The losses by name, made from settings or for a given weight of the KL."""

from __future__ import annotations

import dataclasses
from typing import Any

from rlhf_theory.errors import check_positive, suggestion
from rlhf_theory.losses.comparisons import GroupLoss, PairLoss, Plans
from rlhf_theory.register import facts_of, named


def make(name: str, **settings: Any) -> PairLoss | GroupLoss:
    """Return a loss by name.

    Parameters
    ----------
    name
        As in ``rlhf-theory list losses``; an unknown one raises ``ValueError`` and suggests the
        nearest.
    **settings
        The settings of its class; unknown and missing ones raise ``ValueError``.
    """
    kind = named("loss", name)
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
        As in ``rlhf-theory list losses``. Losses without a reference, or without a minimiser at a
        weight of the KL, raise ``ValueError``.
    eta
        Weight of the KL, positive.
    **settings
        Further settings of the loss, such as ``smoothing``; not the one that ``eta`` decides.
    """
    facts = facts_of(named("loss", name))
    check_positive("eta", eta)
    plans = None if facts is None else facts.more
    if not isinstance(plans, Plans):
        message = f"The loss {name!r} does not plan for a weight of the KL: {plans or 'not said'}."
        raise ValueError(message)
    setting = plans.setting
    if setting in settings:
        message = f"eta decides {setting} of the loss {name!r}: leave {setting} out, or use make."
        raise ValueError(message)
    settings = {**plans.plain, **settings}
    if not callable(plans.weight):
        return make(name, **{setting: plans.weight * eta}, **settings)
    loss: Any = make(name, **{setting: eta}, **settings)
    result: PairLoss | GroupLoss = dataclasses.replace(loss, **{setting: plans.weight(loss, eta)})
    return result
