"""What losses are computed from: log-probabilities of compared responses, and what losses promise.

The same arrays serve a table, where a response is an action of length 1, and a language model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.errors import ShapeError
from rlhf_theory.register import Example, asked_by, register

Law = Literal["any", "distinct", "full"]
"""What a loss's minimiser takes from the law of the pairs, see `PairLoss`."""

FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "pairs": {
        "reference": ("log_ref_w", "log_ref_l"),
        "lengths": ("length_w", "length_l"),
        "margin": ("margin",),
        "wins": ("win_w", "win_l"),
        "z0": ("z0",),
        "sample": ("log_pi_sample",),
    },
    "groups": {"reference": ("log_ref",), "lengths": ("lengths",)},
}
"""By what a loss takes: what it may need or accept, and the fields that hold it."""

# The reference and the lengths are facts about the responses that a caller may know in any case;
# these are wishes, which a loss fulfils or refuses.
_WISHES = ("margin", "wins", "z0", "sample")

_MEANING = {
    "reference": "log-probabilities under the reference policy",
    "lengths": "numbers of tokens",
    "margin": "a margin",
    "wins": "probabilities of beating the opponent policy",
    "z0": "the estimate of the KL divergence",
    "sample": "the log-probability of a further response",
}

_WHY_NOT = {
    "margin": " A margin needs a loss whose minimiser is the logit of the preference, such as dpo.",
    "wins": " Probabilities as labels of a pair go through `soft`.",
}


def _check_one_shape(what: object, arrays: dict[str, Array], expected: tuple[int, ...]) -> None:
    for name, array in arrays.items():
        if tuple(array.shape) != expected:
            message = (
                f"All arrays of {type(what).__name__} must have one shape, {expected}; "
                f"{name} has {tuple(array.shape)}."
            )
            raise ShapeError(message)
    namespace(*arrays.values())


def _check_constant(arrays: dict[str, Array]) -> None:
    for name, array in arrays.items():
        if getattr(array, "requires_grad", False):
            message = f"{name} must be a constant, but carries a gradient: detach it."
            raise ValueError(message)


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Compared responses, ``w`` preferred to ``l``; every array has one shape, mostly ``(n,)``.

    Log-probabilities are sums over the tokens of a response, never means; a loss that takes means
    says so and needs the lengths.

    Attributes
    ----------
    log_pi_w, log_pi_l
        Under the policy. Gradients flow through these (and ``log_pi_sample``) only.
    log_ref_w, log_ref_l
        Under the reference policy; both or neither.
    length_w, length_l
        Numbers of tokens, of the same dtype; both or neither.
    margin
        ``Gamma_w - Gamma_l``: what pessimism takes off the reward of ``w`` more than of ``l``. It
        is added to the logit, as in ``-log sigma(beta h + margin)``: the policy is then fitted to
        ``r - Gamma``.
    win_w, win_l
        Probabilities that each response beats a draw from the opponent policy (SPPO).
    z0
        Estimate of the KL divergence to the reference (KTO), the same entry everywhere.
    log_pi_sample
        Log-probability under the policy of one further response per comparison: the calibration
        sample of XPO and VPO, the supervised target of SLiC-HF.
    """

    log_pi_w: Array
    log_pi_l: Array
    # None where not given. `Array` is Any and admits it: `checked` looks before a loss computes.
    log_ref_w: Array = None
    log_ref_l: Array = None
    length_w: Array = None
    length_l: Array = None
    margin: Array = None
    win_w: Array = None
    win_l: Array = None
    z0: Array = None
    log_pi_sample: Array = None

    def __post_init__(self) -> None:
        given = {name: a for name, a in vars(self).items() if a is not None}
        _check_one_shape(self, given, tuple(self.log_pi_w.shape))
        _check_constant({name: a for name, a in given.items() if not name.startswith("log_pi")})
        for what in ("reference", "lengths", "wins"):
            first, second = FIELDS["pairs"][what]
            if (first in given) != (second in given):
                message = f"Give both {first} and {second}, or neither."
                raise ValueError(message)

    def swapped(self) -> Comparisons:
        """Return the comparisons with the other response preferred."""
        return replace(
            self,
            log_pi_w=self.log_pi_l,
            log_pi_l=self.log_pi_w,
            log_ref_w=self.log_ref_l,
            log_ref_l=self.log_ref_w,
            length_w=self.length_l,
            length_l=self.length_w,
            margin=None if self.margin is None else -self.margin,
            win_w=self.win_l,
            win_l=self.win_w,
        )

    @property
    def log_ratio_w(self) -> Array:
        """``log pi / pi_ref`` of the preferred response."""
        return self.log_pi_w - self.log_ref_w

    @property
    def log_ratio_l(self) -> Array:
        """``log pi / pi_ref`` of the other response."""
        return self.log_pi_l - self.log_ref_l

    @property
    def h(self) -> Array:
        """``log (pi / pi_ref)(w) - log (pi / pi_ref)(l)``, zero at the reference."""
        return self.log_ratio_w - self.log_ratio_l


@dataclass(frozen=True, eq=False)
class Groups:
    """``K`` responses to each prompt with rewards; every array has shape ``(n, K)``.

    Attributes
    ----------
    log_pi
        Log-probabilities under the policy, sums over tokens.
    rewards
        Finite rewards; a label that only names the best is a reward far above the others.
    log_ref
        Log-probabilities under the reference policy.
    lengths
        Numbers of tokens, of the same dtype.
    """

    log_pi: Array
    rewards: Array
    log_ref: Array = None
    lengths: Array = None

    def __post_init__(self) -> None:
        given = {name: a for name, a in vars(self).items() if a is not None}
        if len(self.log_pi.shape) != 2 or self.log_pi.shape[1] < 2:
            message = (
                "log_pi must have shape (n, K) with K of 2 or more; "
                f"got {tuple(self.log_pi.shape)}."
            )
            raise ShapeError(message)
        _check_one_shape(self, given, tuple(self.log_pi.shape))
        _check_constant({name: a for name, a in given.items() if name != "log_pi"})

    @property
    def log_ratio(self) -> Array:
        """``log pi / pi_ref`` of each response."""
        return self.log_pi - self.log_ref


class Loss(Protocol):
    """What every loss says of itself, a frozen dataclass of its settings.

    Attributes
    ----------
    name
        Its name in ``rlhf-theory list losses``.
    takes
        ``"pairs"`` for a `PairLoss`, ``"groups"`` for a `GroupLoss`.
    needs, accepts
        What must and what may be given besides the policy's log-probabilities: ``"reference"``,
        ``"lengths"``, ``"margin"``, ``"wins"``, ``"z0"``, ``"sample"``. The rest is refused, but
        for reference and lengths, which may be known without being used.
    law
        What the minimiser under Bradley-Terry labels takes from the law of the pairs (for groups,
        of their members). ``"any"``: nothing, all laws that reach every response have the same.
        ``"distinct"``: how often two responses that differ meet. ``"full"``: also how often a
        response meets itself; such a pair is a constant for the others, but not where each
        log-probability counts by itself.
    """

    name: ClassVar[str]
    takes: ClassVar[Literal["pairs", "groups"]]
    needs: ClassVar[frozenset[str]]
    accepts: ClassVar[frozenset[str]]

    @property
    def law(self) -> Law:
        """What the minimiser takes from the law of the pairs."""
        ...


@asked_by("loss")
class PairLoss(Loss, Protocol):
    """A loss of comparisons."""

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison, in the shape of its arrays."""
        ...


@asked_by("loss")
class GroupLoss(Loss, Protocol):
    """A loss of groups of responses with rewards."""

    def __call__(self, g: Groups) -> Array:
        """Return the loss of each group, shape ``(n,)``."""
        ...


@dataclass(frozen=True)
class Plans:
    """How a loss plans for a weight of the KL: which of its settings is which multiple of ``eta``.

    Attributes
    ----------
    setting
        Its name.
    weight
        The setting at which the loss is exact or nearest (first order in the reward) to the Gibbs
        policy of ``eta = 1``; a function of the loss and ``eta`` where other settings matter.
    plain
        Settings that planning sets unless they are given.
    """

    setting: str = "beta"
    weight: float | Callable[[Any, float], float] = 1.0
    plain: Mapping[str, float] = field(default_factory=dict)


NO_REFERENCE = "it knows no reference policy"
"""Why a loss without a reference does not plan."""

L = TypeVar("L", bound=type[PairLoss] | type[GroupLoss])
D = TypeVar("D", Comparisons, Groups)


def loss(*examples: Example, plans: Plans | str) -> Callable[[L], L]:
    """Return a decorator that makes a class a loss with a name, its own ``name``.

    Parameters
    ----------
    *examples
        Settings for the tests.
    plans
        How it plans for a weight of the KL, or why it does not.
    """
    return lambda kind: register("loss", kind.name, *examples, more=plans)(kind)


def checked(loss: Loss, data: D) -> D:
    """Return ``data``, or raise ``ValueError`` where it lacks what a loss needs or has more."""
    fields = FIELDS[loss.takes]
    given = {what for what, names in fields.items() if getattr(data, names[0]) is not None}
    for what in sorted(loss.needs - given):
        names = " and ".join(fields[what])
        message = f"The loss {loss.name!r} needs {_MEANING[what]}: give {names}."
        raise ValueError(message)
    for what in _WISHES:
        if what in given - loss.needs - loss.accepts:
            message = f"The loss {loss.name!r} does not take {_MEANING[what]}."
            raise ValueError(message + _WHY_NOT.get(what, ""))
    return data


def soft(loss: PairLoss, c: Comparisons, p: Array) -> Array:
    """Return the loss under labels that are probabilities, ``p loss(c) + (1 - p) loss(swapped)``.

    Parameters
    ----------
    loss
        Any loss of comparisons.
    c
        Comparisons, ``w`` being the first response and not necessarily the better one.
    p
        Probability that the first response wins, in the shape of the arrays of ``c``; 1 gives the
        loss itself.

    Returns
    -------
    Array in the shape of ``p``.
    """
    _check_one_shape(c, {"p": p}, tuple(c.log_pi_w.shape))
    return p * loss(c) + (1.0 - p) * loss(c.swapped())
