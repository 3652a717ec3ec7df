from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.figures import (
    frontier,
    frontier_points,
    over_optimisation,
    rounds,
    win_rates,
)
from rlhf_theory.experiments.trace import Trace
from rlhf_theory.plots.figures import plotted_numbers


def _details(shift):
    values = np.linspace(0.0, 1.0, 8)[None] + shift
    names = ("pool_kl", "pool_gold", "fresh_kl_k1", "fresh_gold")
    prompts = tuple(f"p{i}" for i in range(8))
    each = {name: values + k for k, name in enumerate(names)}
    return Details(prompts, each, np.full(8, 1 / 8))


def test_the_frontier_shows_each_arm_with_its_intervals(tmp_path):
    points = frontier_points({"a": [_details(0.0), _details(1.0)], "b": [_details(2.0)]}, "fresh")
    assert points["arm"].tolist() == ["a", "a", "b"]
    assert points["kl"].tolist() == pytest.approx([2.5, 3.5, 4.5])
    assert points["gold"].tolist() == pytest.approx([3.5, 4.5, 5.5])
    assert (points["gold_lower"] < points["gold"]).all()
    drawing = frontier(points, estimate="fresh")
    numbers = plotted_numbers(drawing.figure).dropna(subset=["lower"])
    assert numbers["series"].tolist() == ["a", "a", "b"]
    assert numbers["upper"].tolist() == pytest.approx(points["gold_upper"].tolist())
    assert "k1" in drawing.caption
    assert "intervals over held-out prompts" in drawing.caption
    assert drawing.figure.axes[0].get_xlabel() == "KL(π‖π0) in nats, of sequences, k1 estimate"
    folder = drawing.save(tmp_path / "frontier")
    assert {p.suffix for p in folder.iterdir()} == {".svg", ".pdf", ".csv", ".txt"}


def test_the_best_over_pools_stands_beside_exact_numbers_only():
    points = frontier_points({"a": [_details(0.0)]}, "pool")
    best = pd.DataFrame({"kl": [0.0, 1.0], "gold": [0.0, 2.0]})
    drawing = frontier(points, estimate="pool", best=best)
    assert "best over the pools" in plotted_numbers(drawing.figure)["series"].tolist()
    assert "Gibbs policies" in drawing.caption
    with pytest.raises(ValueError, match="estimate='pool'"):
        frontier(points, estimate="fresh", best=best)
    with pytest.raises(ValueError, match="estimate must be one of"):
        frontier(points, estimate="exact")


def test_the_law_is_fitted_to_the_gain_over_the_reference():
    d = np.linspace(0.0, 3.0, 7)[None]
    gold = 5.0 + d * (1.5 - 0.4 * d)
    drawing = over_optimisation(d**2, gold, 5.0 + d, law="best-of-n")
    assert "α = 1.5, β = 0.4" in drawing.caption
    assert "Bands" not in drawing.caption
    numbers = plotted_numbers(drawing.figure).set_index("series")
    assert numbers.loc["gold peaks", "x"] == pytest.approx(1.5 / 0.8, abs=0.01)
    assert numbers.loc["proxy reward", "y"].tolist() == pytest.approx(d[0].tolist())
    again = over_optimisation(np.repeat(d**2, 3, 0), np.repeat(gold, 3, 0), np.ones((3, 7)))
    assert "3 training seeds" in again.caption
    against_kl = over_optimisation(d**2, gold, 5.0 + d, law="best-of-n", against="kl")
    gold_x = plotted_numbers(against_kl.figure).set_index("series").loc["gold reward", "x"]
    assert gold_x.tolist() == pytest.approx((d[0] ** 2).tolist())
    with pytest.raises(ValueError, match="T at least 3"):
        over_optimisation(d[:, :2], gold[:, :2], gold[:, :2])


def test_rounds_say_whether_there_is_a_band():
    def trace(shift):
        return Trace({"fresh_objective": np.arange(3.0)[None] + shift}, np.arange(3))

    one = rounds({"online": [trace(0.0)]}, "fresh_objective")
    assert one.caption.endswith("One seed.")
    assert one.figure.axes[0].get_ylabel() == "J = E r − η KL(π‖π0)"
    several = rounds({"online": [trace(0.0), trace(2.0)]}, "fresh_objective", label="J, mine")
    assert "over 2 seeds" in several.caption
    numbers = plotted_numbers(several.figure)
    assert numbers["y"].tolist() == [1.0, 2.0, 3.0]
    assert (numbers["lower"] < numbers["y"]).all()


def test_win_rates_are_bars_with_a_half_marked():
    drawing = win_rates(["a", "b"], [0.6, 0.4], [0.5, 0.3], [0.7, 0.5], baseline="SFT")
    numbers = plotted_numbers(drawing.figure)
    assert numbers["y"].dropna().tolist() == [0.6, 0.4]
    assert 0.5 in numbers["x"].tolist()
    assert "ties counted half" in drawing.caption
    assert drawing.figure.axes[0].get_xlabel() == "win rate against SFT"
