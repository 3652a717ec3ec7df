"""Rejection sampling from the Gibbs policy: its cost in one and in several stages, exactly."""

from __future__ import annotations

from rlhf_theory.arrays import Array, full_like, log_softmax, logsumexp, namespace, take_actions
from rlhf_theory.errors import check_positive
from rlhf_theory.randomness import Key, categorical


def _from_best(rewards: Array, log_pi0: Array) -> Array:
    """Return the reward below that of the best action that pi0 can play, at most 0."""
    xp = namespace(rewards, log_pi0)
    low = full_like((1,), -float("inf"), rewards)
    present = log_pi0 > low
    best = xp.max(xp.where(present, rewards, low), axis=-1, keepdims=True)
    return xp.where(present, rewards - best, xp.zeros_like(rewards))


def _stages(rewards: Array, log_pi0: Array, eta: float, steps: int) -> list[Array]:
    """Return the logits of all stages."""
    check_positive("eta", eta)
    if steps != int(steps) or steps < 1:
        message = f"steps must be a whole number, at least 1; got {steps}."
        raise ValueError(message)
    below = _from_best(rewards, log_pi0)
    return [log_pi0 + below * (i / (steps * eta)) for i in range(steps + 1)]


def stage_log_probs(rewards: Array, log_pi0: Array, eta: float, steps: int) -> list[Array]:
    r"""Return the laws of all stages: ``pi0 exp(i r / (N eta))`` for ``i = 0 .. N``.

    Parameters
    ----------
    rewards, log_pi0
        Shape ``(R, B, A)``; ``-inf`` in ``log_pi0`` marks absent actions.
    eta
        Weight of the KL of the last stage, positive.
    steps
        Number of stages ``N``.

    Returns
    -------
    ``N + 1`` arrays ``(R, B, A)``: the first is pi0, the last the Gibbs policy.
    """
    return [log_softmax(logits) for logits in _stages(rewards, log_pi0, eta, steps)]


def acceptance_rates(rewards: Array, log_pi0: Array, eta: float, steps: int = 1) -> Array:
    r"""Return the share of proposals that each stage accepts.

    Stage ``i`` proposes from stage ``i - 1`` and accepts with probability
    :math:`\exp((r - r_{\max}) / (N \eta))`. One stage accepts
    :math:`Z(x) e^{-r_{\max}/\eta}`; the product over ``N`` stages is the same number.

    Parameters
    ----------
    rewards, log_pi0, eta, steps
        As in `stage_log_probs`.

    Returns
    -------
    Array of shape ``(R, B, N)``, entries in ``(0, 1]``.

    Source: [2312.11456], multi-step rejection sampling; theory sheet 1.5.
    """
    log_z = [logsumexp(logits) for logits in _stages(rewards, log_pi0, eta, steps)]
    xp = namespace(log_z[0])
    pairs = zip(log_z[1:], log_z[:-1], strict=True)
    return xp.stack([xp.exp(new - old) for new, old in pairs], axis=-1)


def expected_draws(rewards: Array, log_pi0: Array, eta: float, steps: int = 1) -> Array:
    """Return the proposals that all stages need for one accepted action each, ``(R, B)``.

    The sum of the inverse `acceptance_rates`: every stage can be sampled afresh once it is there,
    as after a fine-tuning on its accepted responses.
    """
    rates = acceptance_rates(rewards, log_pi0, eta, steps)
    return namespace(rates).sum(1.0 / rates, axis=-1)


def rejection_sample(
    rewards: Array, log_pi0: Array, eta: float, key: Key, proposals: int, steps: int = 1
) -> tuple[Array, Array]:
    """Draw proposals in the last stage and say which are accepted.

    Parameters
    ----------
    rewards, log_pi0, eta, steps
        As in `stage_log_probs`.
    key
        Address of the draws.
    proposals
        Proposals ``n`` per context, drawn from the last stage but one (pi0 for one stage).

    Returns
    -------
    Actions, integers ``(R, n, B)``, and whether each is accepted, ``(R, n, B)``. The accepted ones
    are independent draws of the Gibbs policy.
    """
    check_positive("proposals", proposals)
    before = stage_log_probs(rewards, log_pi0, eta, steps)[-2]
    below = _from_best(rewards, log_pi0)
    xp = namespace(before)
    r, b, _ = before.shape
    actions, accepted = [], []
    for i in range(proposals):
        here = key.child("proposal", i)
        action = categorical(before, here.child("action").uniform(r, b, like=before))
        chance = xp.exp(take_actions(below, action) / (steps * eta))
        actions.append(action)
        accepted.append(here.child("accept").uniform(r, b, like=before) < chance)
    return xp.stack(actions, axis=1), xp.stack(accepted, axis=1)
