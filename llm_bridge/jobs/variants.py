"""Which version of a fitted reward is meant: the estimate, or one that is pessimistic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_bridge.storage.content import content_hash, model_content
from rlhf_theory.errors import check_choice
from rlhf_theory.studies.entries import function
from rlhf_theory.studies.registry import head_of

HEAD, TRUNK, ENSEMBLE = "head.json", "reward_model.json", "ensemble.json"
"""Records of fitted rewards: of a linear one, a trained trunk, and several of these."""

RECORDS = (HEAD, f"reward/{ENSEMBLE}", ENSEMBLE, f"reward/{TRUNK}", TRUNK)
"""Where they lie in the folder of a fitted reward, in the order in which they are looked for."""

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


def reward_content(spec: str, revision: str | None = None) -> object:
    """Return what stands for a reward in keys, by content; see `rewards.reward_of`.

    Parameters
    ----------
    spec
        A function, a fitted reward, or a classifier; with a version.
    revision
        That of a classifier on a hub.

    Returns
    -------
    For a function what `head_of` says of its code; else a hash. A record of a fitted reward has
    digests of all that belongs to it.
    """
    name, _ = variant_of(spec)
    folder = Path(name).expanduser()
    for record in (folder / path for path in RECORDS):
        if record.is_file():
            return f"{content_hash(record)}{spec.removeprefix(name)}"
    if ":" in name and not folder.exists():
        return head_of(function(name))
    return model_content(name, revision)


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
