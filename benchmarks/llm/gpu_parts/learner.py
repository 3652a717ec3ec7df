"""The theory package's own code on the device: elliptical bonus and Newton steps of the MLE.

The estimators get torch tensors on the device, and nothing else changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from gpu_parts.measuring import Checks, OutOfTime, alternate, free_memory, limited
from rlhf_theory.data import PairList, Pairs
from rlhf_theory.estimators.ellipsoid import ellipsoid
from rlhf_theory.estimators.mle import bradley_terry_mle, logistic_mle
from rlhf_theory.randomness import Key

LAM = 1.0
DTYPES = {"float64": torch.float64, "float32": torch.float32}

# Relative. The Hessian of the data has a condition number of some ten, sums run over all rows.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


def bonus_and_newton(sizes: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Fit and measure on comparisons with ``dim`` features; in both precisions, and on the CPU."""
    checks = Checks()
    precise = comparisons(sizes["rows"], sizes["dim"], device)
    seconds: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for name, dtype in DTYPES.items():
        data = mapped(precise, partial(torch.Tensor.to, dtype=dtype))
        facts[name] = _verify(checks, name, data, precise, sizes["checked"])
        free_memory(device)
        seconds[name] = _times(data, device, sizes["repeats"])
        del data
        free_memory(device)
    host = torch.device("cpu")
    rows = min(sizes["rows"], _rows_that_fit(sizes["dim"]))
    outcome = "done"
    try:
        with limited(sizes["cpu_limit_s"]):
            some = mapped(precise, lambda v: v[:, :rows].to(host))
            seconds["cpu_float64"] = _times(some, host, 1, warmup=0)
    except OutOfTime:
        outcome = f"out of time ({sizes['cpu_limit_s']} s)"
    read = dict.fromkeys(seconds, sizes["rows"]) | {"cpu_float64": rows}
    rates = {
        side: {what: read[side] / s for what, s in times.items()} for side, times in seconds.items()
    }
    cpu = rates.get("cpu_float64")
    return {
        "verified": checks.made,
        "seconds": seconds,
        "rows_per_second": rates,
        "ratio_to_cpu": cpu
        and {
            side: {what: rate / cpu[what] for what, rate in found.items()}
            for side, found in rates.items()
            if side != "cpu_float64"
        },
        "cpu": {"outcome": outcome, "rows": rows},
        "fit": facts,
    }


def comparisons(n: int, dim: int, device: torch.device) -> PairList:
    """Return Bradley-Terry comparisons of features of length about one, in float64."""
    generator = torch.Generator(device).manual_seed(Key(0).child("theory").seed_int())

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float64)

    phi = normal(1, n, 2, dim) / dim**0.5
    theta = normal(dim)
    theta = 4.0 * theta / torch.linalg.vector_norm(theta)
    p = torch.sigmoid((phi[:, :, 0] - phi[:, :, 1]) @ theta)
    u = torch.rand((1, n), generator=generator, device=device, dtype=torch.float64)
    log_pi0 = torch.full((1, n, 2), -1.0, device=device, dtype=torch.float64)
    return PairList(Pairs(phi, log_pi0), torch.ones_like(p), (u < p).to(p.dtype))


def mapped(data: PairList, change: Callable[[torch.Tensor], torch.Tensor]) -> PairList:
    """Return the comparisons with every one of their arrays changed."""
    pairs = Pairs(change(data.pairs.phi), change(data.pairs.log_pi0))
    return PairList(pairs, change(data.count), change(data.wins))


def _rows_that_fit(dim: int) -> int:
    """Return the rows for which half of the host's free memory is enough."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, int(0.5 * free / (8 * 8 * dim)))  # doubles; about eight copies of the rows


def newton_step(data: PairList) -> torch.Tensor:
    """Return theta ``(1, d)`` after one step of the estimator from zero."""
    design = data.differences
    theta: torch.Tensor = logistic_mle(design, data.count, data.wins, ridge=LAM, max_iter=1).value
    return theta


def widths(data: PairList) -> torch.Tensor:
    """Return ``|phi|`` in the inverse of Sigma for every first response, shape ``(1, n)``."""
    center = torch.zeros_like(data.pairs.phi[:, 0, 0, :])
    width: torch.Tensor = ellipsoid(center, data, LAM, 1.0).width(data.pairs.phi[:, :, 0, :])
    return width


def _times(data: PairList, device: torch.device, repeats: int, warmup: int = 1) -> dict[str, float]:
    # The rows z are computed once, as the learners do.
    _ = data.differences
    found = alternate(
        {"newton_step": lambda: newton_step(data), "bonus": lambda: widths(data)},
        device,
        repeats=repeats,
        warmup=warmup,
    )
    median: dict[str, float] = found["median"]
    return median


def _verify(
    checks: Checks, name: str, data: PairList, precise: PairList, rows: int
) -> dict[str, Any]:
    """Compare with formulas written out in float64 and solved by Cholesky factors."""
    z = precise.pairs.phi[0, :, 0] - precise.pairs.phi[0, :, 1]
    wins, kind = precise.wins[0], "formulas in float64, solved by Cholesky factors"
    eye = LAM * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    sigma = z.T @ z + eye

    some = precise.pairs.phi[0, :rows, 0]
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(sigma), some.T, upper=False)
    expected = torch.linalg.vector_norm(half, dim=0)
    found = widths(data)[0, :rows].double()
    error = float(((found - expected).abs() / expected).max())
    checks.at_most(f"the bonus in {name}, relative", error, TOLERANCE[name], kind)

    # At zero all probabilities are one half; the step is damped by log(1 + m) / m (Bach 2010).
    factor = torch.linalg.cholesky(0.25 * (sigma - eye) + eye)
    step = torch.cholesky_solve((z.T @ (wins - 0.5))[:, None], factor)[:, 0]
    m = (z @ step).abs().max()
    damped = step * (torch.log1p(m) / m if m > 0.1 else 1.0)
    error = _distance(newton_step(data)[0].double(), damped)
    checks.at_most(f"the Newton step in {name}, relative", error, TOLERANCE[name], kind)

    fit = bradley_terry_mle(data, ridge=LAM)
    theta = fit.value[0].double()
    p = torch.sigmoid(z @ theta)
    gradient = z.T @ (p - wins) + LAM * theta
    curvature = torch.linalg.cholesky((z.T * (p * (1.0 - p))) @ z + eye)
    left = torch.cholesky_solve(gradient[:, None], curvature)[:, 0]
    error = _distance(theta - left, theta)
    checks.at_most(f"the MLE in {name}, relative", error, 10.0 * TOLERANCE[name], kind)
    return {"iterations": fit.n_iter, "converged": bool(fit.converged.all())}


def _distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y))
