"""Run a learner in a world: blocks of replicas, exact evaluation after every round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rlhf_theory.arrays import Array, keep_freed_memory, to_numpy
from rlhf_theory.core import Feedback, OfflineAlgorithm, OnlineAlgorithm, Policy, Problem
from rlhf_theory.data import PreferenceData
from rlhf_theory.errors import ShapeError, check_nonnegative, check_positive
from rlhf_theory.experiments.trace import Trace, versions
from rlhf_theory.oracles.labels import feedback_from
from rlhf_theory.randomness import Key
from rlhf_theory.worlds.world import World, cut

__all__ = ["BLOCK", "run"]

BLOCK = 64
"""Replicas per block unless told otherwise; part of a study, because it fixes the last bits."""

Evaluate = Callable[[Policy], Mapping[str, Array]]
Advance = Callable[[str], None]


class _Between(Protocol):
    def __call__(self, problem: Any, policy: Policy, key: Key) -> Any: ...


def run(
    learner: OnlineAlgorithm[Any] | OfflineAlgorithm,
    world: World | Problem,
    *,
    n_rounds: int | None = None,
    n: Sequence[int] | None = None,
    seed: int = 0,
    block: int = BLOCK,
    first_replica: int = 0,
    n_offline: int = 0,
    behaviour: Policy | float = 0.0,
    data: PreferenceData | None = None,
    feedback: Feedback | None = None,
    evaluate: Evaluate | None = None,
    between: _Between | None = None,
    advance: Advance | None = None,
) -> Trace:
    """Run a learner and record exact metrics of every policy that it deploys.

    Parameters
    ----------
    learner
        An online learner (give ``n_rounds``) or an offline one (give ``n``).
    world
        A `World`; or a bare problem, and then ``feedback`` (online) or ``data`` (offline), and
        ``evaluate``.
    n_rounds
        Rounds ``T`` of an online learner; 0 records the policy before any round.
    n
        Increasing numbers of offline pairs; data are nested, one column per number.
    seed
        Seed of data and learner; two learners with one seed meet the same contexts and label
        noise.
    block
        Replicas that advance together.
    first_replica
        Number of the first replica of ``world`` in its study: the part ``world.block(a, b)``, run
        with ``first_replica=a``, gives rows ``a .. b - 1`` of the whole run, to the bit if ``a`` is
        a multiple of ``block``.
    n_offline
        Pairs that an online learner gets before its first round.
    behaviour
        Policy of the offline pairs, or the coverage dial ``k``: ``(1 - k) pi0 + k pi*``.
    data, feedback, evaluate
        The parts of a world one by one, for problems that are none; R replicas in one block.
    between
        Called before every round with (problem, policy, key); returns the problem of that round.
        For prompt pools that follow the policy.
    advance
        Called with a short text after every round or offline fit, to show progress.

    Returns
    -------
    A `Trace`; offline traces also hold ``n_labels``, ``residual`` and ``converged``.

    Examples
    --------
    >>> import rlhf_theory as rt
    >>> world = rt.worlds.linear(contexts=5, actions=3, dim=2, replicas=4)
    >>> trace = rt.run(rt.OnlineIterative(batch_size=8), world, n_rounds=3, seed=1)
    >>> trace["gap"].shape
    (4, 4)
    """
    online = hasattr(learner, "step")
    if online == (n_rounds is None) or online == (n is not None):
        kind, give = ("an online", "n_rounds") if online else ("an offline", "n")
        message = f"{type(learner).__name__} is {kind} learner: give {give}, and only that."
        raise ValueError(message)
    if n_rounds is not None and n_rounds < 0:
        message = f"n_rounds must be at least 0; got {n_rounds}."
        raise ValueError(message)
    if n is not None and (len(n) == 0 or list(n) != sorted(set(n)) or n[0] < 0):
        message = f"n must be increasing numbers of pairs, at least one; got {list(n)}."
        raise ValueError(message)
    check_positive("block", block)
    check_nonnegative("first_replica", first_replica)
    _refuse_ignored(online, isinstance(world, World), n_offline, behaviour, data, feedback, between)
    keep_freed_memory()
    key = Key(seed).block(first_replica)
    parts: list[dict[str, np.ndarray]] = []
    if isinstance(world, World):
        total = world.n_replicas
        for first in range(0, total, block):
            part = world.block(first, min(first + block, total))
            law = (
                part.behaviour(behaviour)
                if isinstance(behaviour, float | int)
                else cut(behaviour, first, min(first + block, total))
            )
            here = key.block(first)
            sink = evaluate or part.evaluate
            if online:
                start = part.offline_data(here.child("offline"), n_offline, law)
                labels = feedback_from(part.oracle)
                if feedback is not None:
                    labels = cut(feedback, first, min(first + block, total))
                parts.append(
                    _online(
                        learner,
                        part.problem,
                        start,
                        labels,
                        sink,
                        n_rounds or 0,
                        here,
                        between,
                        advance,
                    )
                )
            else:
                parts.append(_offline(learner, part, law, list(n or ()), sink, here, advance))
    else:
        if evaluate is None or (online and feedback is None) or (not online and data is None):
            message = (
                "A problem that is no World needs `evaluate`, and `feedback` for an online learner "
                "or `data` for an offline one."
            )
            raise ValueError(message)
        start = world.empty_data() if data is None else data
        if online and feedback is not None:
            parts.append(
                _online(
                    learner, world, start, feedback, evaluate, n_rounds or 0, key, between, advance
                )
            )
        else:
            message = (
                "An offline learner over a bare problem is a call: learner(problem, data, key)."
            )
            raise ValueError(message)
    arrays = {name: np.concatenate([p[name] for p in parts], axis=0) for name in parts[0]}
    settings = {
        "learner": repr(learner),
        "world": dict(world.settings) | {"name": world.name}
        if isinstance(world, World)
        else type(world).__name__,
        "seed": seed,
        "block": block,
        "n_offline": n_offline,
        "versions": versions(),
    }
    index = np.arange((n_rounds or 0) + 1) if online else np.asarray(n)
    return Trace(arrays, index, "round" if online else "n", settings)


def _refuse_ignored(
    online: bool,
    is_world: bool,
    n_offline: int,
    behaviour: Policy | float,
    data: PreferenceData | None,
    feedback: Feedback | None,
    between: _Between | None,
) -> None:
    """Raise ``ValueError`` for an option that this kind of run would silently ignore."""
    coverage = not isinstance(behaviour, float | int) or behaviour != 0.0
    if n_offline < 0:
        message = f"n_offline must be at least 0; got {n_offline}."
        raise ValueError(message)
    ignored = {
        "data (a World draws its own: give `n_offline` or `n`)": is_world and data is not None,
        "n_offline (for online learners in a World; give `n` or `data`)": n_offline > 0
        and not (online and is_world),
        "behaviour (of offline pairs drawn in a World)": coverage and not is_world,
        "feedback (for online learners)": feedback is not None and not online,
        "between (for online learners)": between is not None and not online,
    }
    wrong = [text for text, bad in ignored.items() if bad]
    if wrong:
        message = "This run would ignore " + "; ".join(wrong) + "."
        raise ValueError(message)


def _online(
    learner: Any,
    problem: Any,
    data: PreferenceData,
    feedback: Feedback,
    evaluate: Evaluate,
    n_rounds: int,
    key: Key,
    between: _Between | None,
    advance: Advance | None,
) -> dict[str, np.ndarray]:
    """Play the rounds of one block; return arrays ``(R, T + 1)``."""
    state = learner.init(problem, data, key.child("init"))
    values: list[Mapping[str, Array]] = [evaluate(learner.policy(state))]
    reports: list[Mapping[str, Array]] = []
    for t in range(n_rounds):
        here = key.child("round", t)
        if between is not None:
            problem = between(problem, learner.policy(state), here.child("between"))
        state, report = learner.step(state, problem, feedback, here)
        if t == 0:
            _check_report(report, problem.n_replicas)
        reports.append(report)
        values.append(evaluate(learner.policy(state)))
        if advance is not None:
            advance(f"round {t + 1}")
    result = {name: _columns([v[name] for v in values]) for name in values[0]}
    last = {} if not reports else reports[-1]
    for name in last:
        if name in result:
            message = f"The learner reports {name!r}, which is the name of a metric of the world."
            raise ValueError(message)
        columns = _columns([r[name] for r in reports])
        result[name] = np.concatenate([columns, np.full((columns.shape[0], 1), np.nan)], axis=1)
    return result


def _check_report(report: Mapping[str, Array], replicas: int) -> None:
    """Raise ``ShapeError`` unless a round reports one value per replica under every name."""
    for name, value in report.items():
        got = tuple(getattr(value, "shape", ()))
        if got != (replicas,):
            message = (
                f"step must record {name!r} with shape (R,) = ({replicas},), one value per "
                f"replica; got {got}."
            )
            raise ShapeError(message)


def _offline(
    learner: Any,
    world: World,
    behaviour: Policy,
    sizes: list[int],
    evaluate: Evaluate,
    key: Key,
    advance: Advance | None,
) -> dict[str, np.ndarray]:
    """Fit one block at every number of pairs; return arrays ``(R, len(n))``."""
    data: PreferenceData = world.problem.empty_data()
    have = 0
    columns: dict[str, list[Array]] = {}
    for k, size in enumerate(sizes):
        data = world.offline_data(key.child("offline", k), size - have, behaviour, onto=data)
        have = size
        plan = learner(world.problem, data, key.child("learner", k))
        row = dict(evaluate(plan.value))
        row |= {"n_labels": data.n_labels, "residual": plan.residual, "converged": plan.converged}
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
        if advance is not None:
            advance(f"n = {size}")
    return {name: _columns(values) for name, values in columns.items()}


def _columns(values: Sequence[Array]) -> np.ndarray:
    return np.stack([np.asarray(to_numpy(v), dtype=np.float64) for v in values], axis=1)
