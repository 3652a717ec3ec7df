import numpy as np
import pytest

from rlhf_theory.experiments.trace import Trace, versions


def trace():
    gap = np.arange(12.0).reshape(4, 3)
    labels = gap.copy()
    labels[:, -1] = np.nan
    return Trace({"gap": gap, "labels": labels}, np.array([0, 1, 2]))


def test_arrays_are_found_by_name_and_near_names_are_suggested():
    assert trace()["gap"].shape == (4, 3)
    assert trace().n_replicas == 4
    with pytest.raises(ValueError, match="Did you mean 'labels'"):
        trace()["label"]


def test_the_frame_is_tidy():
    frame = trace().to_pandas()
    assert list(frame.columns) == ["replica", "round", "gap", "labels"]
    assert len(frame) == 12
    for r in range(4):
        for t in range(3):
            row = frame[(frame["replica"] == r) & (frame["round"] == t)]
            assert row["gap"].item() == trace()["gap"][r, t]
    assert list(trace().to_pandas(["gap"]).columns) == ["replica", "round", "gap"]


def test_the_summary_is_mean_interval_and_quantiles():
    table = trace().summary()
    assert list(table["metric"].unique()) == ["gap", "labels"]
    row = table[(table["metric"] == "gap") & (table["round"] == 1)].iloc[0]
    values = trace()["gap"][:, 1]
    error = values.std(ddof=1) / 2.0
    np.testing.assert_allclose(row["mean"], values.mean())
    np.testing.assert_allclose(
        [row["lower"], row["upper"]], values.mean() + 1.96 * error * np.array([-1, 1])
    )
    np.testing.assert_allclose([row["q05"], row["q95"]], np.quantile(values, [0.05, 0.95]))
    last = table[(table["metric"] == "labels") & (table["round"] == 2)].iloc[0]
    assert last[["mean", "lower", "upper", "q05", "q95"]].isna().all()


def test_one_replica_has_no_interval():
    table = Trace({"gap": np.ones((1, 2))}, np.arange(2)).summary()
    assert table["lower"].isna().all()
    assert (table["mean"] == 1.0).all()


def test_infinite_gaps_are_summarised_without_warnings():
    gap = np.ones((3, 2))
    gap[1, 0] = np.inf
    table = Trace({"gap": gap}, np.arange(2)).summary()
    assert np.isinf(table["mean"][0])
    assert table["mean"][1] == 1.0


def test_versions_name_what_results_depend_on():
    assert {"python", "numpy", "scipy"} <= set(versions())


def test_a_trace_draws_what_it_recorded():
    (ax,) = trace().plot("gap").axes
    assert ax.get_xlabel() == "rounds played"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), trace()["gap"].mean(axis=0))
