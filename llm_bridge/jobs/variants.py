"""Which version of a fitted reward is meant: the estimate, or one that is pessimistic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_theory.errors import check_choice

_KINDS = ("estimate", "lower", "mean", "min", "uncertainty")


@dataclass(frozen=True)
class Variant:
    """A version of a fitted reward.

    Attributes
    ----------
    kind
        ``"estimate"``, the fit itself; ``"lower"``, the lower bound of its confidence set; of an
        ensemble ``"mean"``, ``"min"`` (the worst member, response by response) and
        ``"uncertainty"`` (mean minus ``weight`` times the variance).
    weight
        Of the variance.
    """

    kind: str = "estimate"
    weight: float = 0.0

    @property
    def needs_ensemble(self) -> bool:
        """Whether it is made of members."""
        return self.kind in ("mean", "min", "uncertainty")

    def of_members(self, ensemble: Any) -> Any:
        """Return this version of an ensemble: anything with ``mean``, ``min_reward`` and so on."""
        if self.kind == "min":
            return ensemble.min_reward()
        if self.kind == "uncertainty":
            return ensemble.uncertainty_weighted(self.weight)
        return ensemble.mean()


def variant_of(spec: str) -> tuple[str, Variant]:
    """Return the name of a reward without its version, and the version.

    ``NAME#VERSION``: ``#lower``, ``#mean``, ``#min`` or ``#uncertainty=WEIGHT``. A name that is a
    path as it stands has none. ``ValueError`` for another version.

    Examples
    --------
    >>> variant_of("fit#uncertainty=0.5")
    ('fit', Variant(kind='uncertainty', weight=0.5))
    >>> variant_of("fit")
    ('fit', Variant(kind='estimate', weight=0.0))
    """
    name, sign, text = spec.rpartition("#")
    if not sign or Path(spec).expanduser().exists():
        return spec, Variant()
    kind, equals, number = text.partition("=")
    check_choice("The version of a reward", kind, _KINDS)
    try:
        weight = float(number) if equals else 0.0
    except ValueError:
        weight = math.nan
    if (kind == "uncertainty") != bool(equals) or not (0.0 <= weight < math.inf):
        message = (
            "Of the versions of a reward, uncertainty and no other has a weight, at least 0: "
            f"#uncertainty=0.5; got #{text}."
        )
        raise ValueError(message)
    return name, Variant(kind, weight)
