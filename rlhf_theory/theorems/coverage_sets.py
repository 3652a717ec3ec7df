"""The confidence sets of the study of coverage: right ones, and sabotaged ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from rlhf_theory import bounds
from rlhf_theory.arrays import Array, to_numpy
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.confidence import (
    Adaptive,
    DesignRule,
    FixedDesign,
    GlobalAdaptive,
    GlobalFixedDesign,
    LikelihoodRatio,
    LikelihoodRule,
    MarginalLikelihood,
    Wald,
)
from rlhf_theory.estimators.curvature_rules import (
    Metric,
    adaptive_noise,
    fixed_noise,
    noise_radius,
)
from rlhf_theory.estimators.rule_parts import Ball
from rlhf_theory.theorems.card import Sweep

IN_DESIGN: dict[str, type[GlobalFixedDesign | FixedDesign | GlobalAdaptive | Adaptive]] = {
    "R1": GlobalFixedDesign,
    "R1′": FixedDesign,
    "R2": GlobalAdaptive,
    "R2′": Adaptive,
}
"""Rules with a radius in ``V``, by their number in the theory sheet."""

ON_LIKELIHOOD: dict[str, type[LikelihoodRatio | MarginalLikelihood | Wald]] = {
    "R3": LikelihoodRatio,
    "R4": MarginalLikelihood,
    "R5": Wald,
}
"""Rules with a threshold on the likelihood."""

Sets = Mapping[str, DesignRule | LikelihoodRule]
"""What the rules are made of, by their number."""

RIGHT = {
    "radius_factor": 1.0,
    "range_factor": 1.0,
    "dimension_term": 1.0,
    "lam_term": 1.0,
    "delta_power": 1.0,
}
"""Settings of a sweep with which `sabotaged_sets` are the right ones: factors of radii, of the
range of the curvature, of the terms with ``log det V`` or ``d log`` and with ``4 lambda B^2``, and
a power of delta."""


def settings(sweep: Sweep, norm: float) -> Sweep:
    """Return the settings of every rule; ``norm`` bounds the parameters."""
    return {"theta_bound": norm, "delta": sweep["delta"], "lam": sweep["lam"]}


def right_sets(sweep: Sweep, norm: float) -> Sets:
    """Return the sets for ``|theta*| <= norm``; the sweep has ``delta`` and ``lam``."""
    rules = {**IN_DESIGN, **ON_LIKELIHOOD}
    return {name: rule(**settings(sweep, norm)).parts for name, rule in rules.items()}


def sabotaged_sets(sweep: Sweep, norm: float, data: PreferenceData) -> Sets:
    """Return the sets as the sweep has them wrong, the right ones where it has `RIGHT`."""
    if all(sweep[name] == value for name, value in RIGHT.items()):
        return right_sets(sweep, norm)
    longest = float(to_numpy(data.differences.z_max).max())
    wrong = {
        **settings(sweep, norm),
        "delta": sweep["delta"] ** sweep["delta_power"],
        "z_max": sweep["range_factor"] * longest,
    }
    return {
        **{name: _in_design(name, r(**wrong).parts, wrong, sweep) for name, r in IN_DESIGN.items()},
        **{
            name: _on_likelihood(name, r(**wrong).parts, wrong, sweep)
            for name, r in ON_LIKELIHOOD.items()
        },
    }


_FORMULAS = {
    "R1": (fixed_noise, bounds.global_radius),
    "R1′": (fixed_noise, bounds.fixed_radius),
    "R2": (adaptive_noise, bounds.global_radius),
    "R2′": (adaptive_noise, bounds.adaptive_radius),
}


def _in_design(name: str, parts: DesignRule, wrong: Sweep, sweep: Sweep) -> DesignRule:
    noise, formula = _FORMULAS[name]
    share = sweep["dimension_term"] if noise is adaptive_noise else 1.0
    own = partial(_thinned, noise=noise, delta=wrong["delta"], share=share)
    ball = Ball(wrong["theta_bound"], wrong["z_max"])
    radius = noise_radius(own, ball, sweep["lam_term"] * wrong["lam"], formula)
    return replace(parts, radius=lambda metric: sweep["radius_factor"] * radius(metric))


def _thinned(
    metric: Metric, noise: Callable[[Metric, float], Array], delta: float, share: float
) -> Array:
    """Return the noise level with a share of its term of the dimension."""
    log = math.log(1.0 / delta)
    return (share * noise(metric, delta) ** 2 + (1.0 - share) * log / 2.0) ** 0.5


def _on_likelihood(name: str, parts: LikelihoodRule, wrong: Sweep, sweep: Sweep) -> LikelihoodRule:
    level, square = parts.level, sweep["radius_factor"] ** 2
    log, share = math.log(1.0 / wrong["delta"]), sweep["dimension_term"] if name == "R3" else 1.0
    return replace(parts, level=lambda *of: square * (share * level(*of) + (1.0 - share) * log))
