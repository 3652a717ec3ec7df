"""What the rules for confidence sets share: checks of settings, rows, the bound on ``|z|``."""

from __future__ import annotations

from typing import Any

from rlhf_theory.arrays import Array, expand_rows, full_like, namespace
from rlhf_theory.core import Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_positive, check_probability
from rlhf_theory.estimators.ball_mle import ball_mle
from rlhf_theory.estimators.scaling import scaled

__all__ = ["ball_fit", "check_rule", "longest_row", "rule_rows"]


def check_rule(rule: Any) -> None:
    """Raise ``ValueError`` for settings of a rule that cannot work; None is no setting."""
    for name in ("theta_bound", "lam", "scale", "z_max", "ridge", "n_draws"):
        value = getattr(rule, name, None)
        if value is not None:
            check_positive(name, value)
    check_probability("delta", rule.delta)


def rule_rows(rule: Any, data: PreferenceData, design: Design | None) -> Design:
    """Return the design, differences unless given, with the scale of the labels in its rows."""
    return scaled(data.differences if design is None else design, rule.scale)


def longest_row(rule: Any, rows: Design, count: Array) -> Array:
    """Return the bound on ``|z|``, scale included, shape ``(R,)``; at least a tiny number.

    Every bound here is proved for the rows at hand, so the longest of them will do even where the
    data chose them.
    """
    if rule.z_max is not None:
        return full_like((count.shape[0],), rule.scale * rule.z_max, count)
    xp = namespace(count)
    tiny = float(xp.finfo(count.dtype).smallest_normal)
    return xp.maximum(expand_rows(rows.z_max, count.shape[0]), full_like((1,), tiny, count))


def ball_fit(
    rule: Any, data: PreferenceData, design: Design | None, start: Solution[Array] | None
) -> Solution[Array]:
    """Return the MLE over the ball of the rule, without ridge, shape ``(R, p)``."""
    rows = data.differences if design is None else design
    return ball_mle(
        rows, data.count, data.wins, bound=rule.theta_bound, scale=rule.scale, start=start
    )
