"""Run a learner in a world: blocks of replicas, evaluation of every policy that is deployed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_theory.arrays import Array, expand_rows, keep_freed_memory, to_numpy
from rlhf_theory.core import Feedback, OfflineAlgorithm, OnlineAlgorithm, Policy, Record, World
from rlhf_theory.errors import ShapeError, check_nonnegative, check_positive
from rlhf_theory.experiments.blocks import blocks
from rlhf_theory.experiments.trace import Trace, versions
from rlhf_theory.randomness import Key

BLOCK = 64
"""Replicas per block unless told otherwise; part of a study, because it fixes the last bits."""

Advance = Callable[[str], None]
Row = Mapping[str, Array]


def run(
    learner: OnlineAlgorithm[Any] | OfflineAlgorithm,
    world: World,
    *,
    rounds: int | None = None,
    offline_pairs: int = 0,
    pairs: Sequence[int] | None = None,
    seed: int = 0,
    block: int = BLOCK,
    first_replica: int = 0,
    advance: Advance | None = None,
) -> Trace:
    """Run a learner and record metrics of every policy that it deploys.

    An online learner is run by `run_online`, an offline one by `run_offline`.

    Parameters
    ----------
    learner
        An online learner, which plays rounds, or an offline one, which gets pairs.
    world
        Where it runs.
    rounds, offline_pairs
        For an online learner: rounds ``T`` (0 records the policy before any round), and the pairs
        that it gets before the first one.
    pairs
        For an offline learner: increasing numbers of pairs; data are nested, a row of the trace
        for each number.
    seed
        Seed of data and learner; two learners with one seed meet the same contexts and label
        noise.
    block
        Replicas that advance together.
    first_replica
        Number of the first replica of ``world`` in its study: the part ``world.block(a, b)``, run
        with ``first_replica=a``, gives rows ``a .. b - 1`` of the whole run, to the bit if ``a`` is
        a multiple of ``block``.
    advance
        Called with a short text after every round or offline fit, to show progress.

    Examples
    --------
    >>> import rlhf_theory as rt
    >>> world = rt.worlds.linear(contexts=5, actions=3, dim=2, replicas=4)
    >>> trace = rt.run(rt.OnlineIterative(batch_size=8), world, rounds=3, seed=1)
    >>> trace["gap"].shape
    (4, 4)
    """
    name = type(learner).__name__
    options: dict[str, Any] = {
        "seed": seed,
        "block": block,
        "first_replica": first_replica,
        "advance": advance,
    }
    if isinstance(learner, OnlineAlgorithm):
        if rounds is None or pairs is not None:
            message = f"{name} is an online learner: give rounds; got {rounds=}, {pairs=}."
            raise ValueError(message)
        return run_online(learner, world, rounds, offline_pairs=offline_pairs, **options)
    if pairs is None or rounds is not None or offline_pairs:
        message = f"{name} is an offline learner: give pairs; got {pairs=}, {rounds=}"
        message += f", {offline_pairs=}." if offline_pairs else "."
        raise ValueError(message)
    return run_offline(learner, world, pairs, **options)


def run_online(
    learner: OnlineAlgorithm[Any],
    world: World,
    rounds: int,
    *,
    offline_pairs: int = 0,
    seed: int = 0,
    block: int = BLOCK,
    first_replica: int = 0,
    advance: Advance | None = None,
) -> Trace:
    """Play rounds.

    Column ``t`` of the trace has the metrics of the policy after ``t`` rounds, in the world in
    which it is played (the last one in the last world), the ``labels`` that it has used, and what
    the round that it played reported, NaN in the last. The world changes before every round.

    Arguments as in `run`.
    """
    check_nonnegative("rounds", rounds)
    check_nonnegative("offline_pairs", offline_pairs)

    def rows(part: World, key: Key) -> Iterator[Row]:
        data = part.offline_data(key.child("offline"), offline_pairs)
        labels = data.n_labels
        state = learner.init(part.problem, data, key.child("init"))
        for t in range(rounds):
            here, policy = key.child("round", t), learner.policy(state)
            part = part.next(policy, here.child("between"))
            row = _evaluated(part, policy, labels)
            count = _Count(part.feedback, labels)
            state, report = learner.step(state, part.problem, count, here)
            labels = count.labels
            if t == 0:
                _check_report(report, row, part.n_replicas)
            yield {**row, **report}
            if advance is not None:
                advance(f"round {t + 1}")
        yield _evaluated(part, learner.policy(state), labels)

    arrays = _blocks(rows, world, seed, block, first_replica)
    settings = _settings(learner, world, seed, block) | {"offline_pairs": offline_pairs}
    return Trace(arrays, np.arange(rounds + 1), "round", settings)


def run_offline(
    learner: OfflineAlgorithm,
    world: World,
    pairs: Sequence[int],
    *,
    seed: int = 0,
    block: int = BLOCK,
    first_replica: int = 0,
    advance: Advance | None = None,
) -> Trace:
    """Fit nested data: a row of the trace for every number of pairs, with the ``labels`` used.

    Rows also have ``residual`` and ``converged`` of the learner's solution. Arguments as in `run`.
    """
    sizes = list(pairs)
    if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 0:
        message = f"pairs must be increasing numbers of pairs, at least one; got {sizes}."
        raise ValueError(message)

    def rows(part: World, key: Key) -> Iterator[Row]:
        data, have = part.problem.empty_data(), 0
        for k, size in enumerate(sizes):
            data = part.offline_data(key.child("offline", k), size - have, onto=data)
            have = size
            plan = learner(part.problem, data, key.child("learner", k))
            solved = {"residual": plan.residual, "converged": plan.converged}
            yield {**_evaluated(part, plan.value, data.n_labels), **solved}
            if advance is not None:
                advance(f"{size} pairs")

    arrays = _blocks(rows, world, seed, block, first_replica)
    return Trace(arrays, np.asarray(sizes), "pairs", _settings(learner, world, seed, block))


class _Count:
    """The feedback of one round, and the labels that were given, those before it included."""

    def __init__(self, feedback: Feedback[Any, Record], labels: Array) -> None:
        self._feedback, self.labels = feedback, labels

    def __call__(self, query: Any, key: Key) -> Any:
        record = self._feedback(query, key)
        self.labels = self.labels + expand_rows(record.labels, self.labels.shape[0])
        return record


def _evaluated(world: World, policy: Policy, labels: Array) -> dict[str, Array]:
    """Return the metrics of a policy, and the labels that it has used."""
    row = dict(world.evaluate(policy))
    if "labels" in row:
        message = (
            f"The world {world.name!r} must not name a metric 'labels': the runner counts them."
        )
        raise ValueError(message)
    return {**row, "labels": labels}


def _check_report(report: Row, row: Row, replicas: int) -> None:
    """Raise ``ValueError`` unless a round reports new names, one value per replica each."""
    for name, value in report.items():
        if name == "labels":
            message = "The learner reports 'labels'; the runner counts them. Leave them out."
            raise ValueError(message)
        if name in row:
            message = f"The learner reports {name!r}, which is the name of a metric of the world."
            raise ValueError(message)
        got = tuple(getattr(value, "shape", ()))
        if got != (replicas,):
            message = (
                f"step must record {name!r} with shape (R,) = ({replicas},), one value per "
                f"replica; got {got}."
            )
            raise ShapeError(message)


def _blocks(
    rows: Callable[[World, Key], Iterator[Row]],
    world: World,
    seed: int,
    block: int,
    first_replica: int,
) -> dict[str, np.ndarray]:
    """Return the rows of all blocks of replicas, as arrays ``(R, rows)`` by name."""
    check_positive("block", block)
    check_nonnegative("first_replica", first_replica)
    keep_freed_memory()
    key = Key(seed).block(first_replica)
    parts = [_columns(list(rows(part, own))) for _, part, own in blocks(world, block, key)]
    return {name: np.concatenate([p[name] for p in parts], axis=0) for name in parts[0]}


def _settings(learner: object, world: World, seed: int, block: int) -> dict[str, object]:
    return {
        "learner": repr(learner),
        "world": {**world.settings, "name": world.name},
        "seed": seed,
        "block": block,
        "versions": versions(),
    }


def _columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Return arrays ``(R, T + 1)`` by name; NaN where a row does not have a name."""
    names = dict.fromkeys(name for row in rows for name in row)
    nothing = np.full(to_numpy(rows[0]["labels"]).shape, np.nan)
    return {
        name: np.stack(
            [np.asarray(to_numpy(r.get(name, nothing)), dtype=np.float64) for r in rows], axis=1
        )
        for name in names
    }
