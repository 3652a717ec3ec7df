from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rlhf_theory.plots.studies.frames import PRIMARY, arrange
from tests.helpers.study_frames import study_frame


def small(**options):
    return study_frame(2, (4, 8), **{"replicas": 3, "points": 5, **options})


def test_tables_are_replicas_by_points():
    frame = small()
    layout = arrange(frame.sample(frac=1.0, random_state=3), [PRIMARY, "kl"])
    assert layout.facet == "world"
    assert layout.hue == ["learner"]
    assert {p.title for p in layout.panels} == {"linear dim=4", "linear dim=8"}
    for series in layout.series:
        part = frame[frame["cell"] == series.cell]
        for name in ("gap", "kl"):
            expected = part.pivot_table(index="replica", columns="place", values=name)
            assert np.array_equal(series.tables[name], expected.to_numpy())
            assert np.array_equal(series.place, expected.columns.to_numpy())
        assert series.settings["world.dim"] == part["world.dim"].iloc[0]


def test_a_learner_looks_the_same_in_all_panels():
    frame = small()
    # The second world lacks the first learner.
    layout = arrange(frame[frame["cell"] != "0100"], ["gap"])
    looks = [{s.label: s.look for s in panel.series} for panel in layout.panels]
    assert looks == [{"GSHF": 0, "on-policy": 1}, {"on-policy": 1}]


def test_settings_divide_in_the_order_of_their_values():
    frame = study_frame(2, (16, 4, 8), replicas=2, points=4)
    layout = arrange(frame, ["gap"], facet="world.dim")
    assert [p.title for p in layout.panels] == ["dim = 4", "dim = 8", "dim = 16"]
    layout = arrange(frame, ["gap"], hue="world.dim")
    assert layout.facet == "learner"
    assert [s.label for s in layout.panels[0].series] == ["dim = 4", "dim = 8", "dim = 16"]


def test_labels_say_what_tells_cells_apart():
    layout = arrange(small(), ["gap"], facet="none")
    assert [s.label for s in layout.panels[0].series] == [
        "GSHF, linear dim=4",
        "on-policy, linear dim=4",
        "GSHF, linear dim=8",
        "on-policy, linear dim=8",
    ]
    frame = small()
    seeds = pd.concat([frame.assign(seed=0), frame.assign(seed=1, cell="s" + frame["cell"])])
    labels = [s.label for s in arrange(seeds, ["gap"]).panels[0].series]
    assert labels == [
        "GSHF, seed = 0",
        "on-policy, seed = 0",
        "GSHF, seed = 1",
        "on-policy, seed = 1",
    ]
    with pytest.raises(ValueError, match="nothing tells their curves apart"):
        arrange(seeds.drop(columns="seed"), ["gap"])


def test_a_setting_that_a_learner_lacks_has_a_panel_of_its_own():
    frame = study_frame(2, (4,), replicas=2, points=4)
    frame["learner.batch_size"] = np.where(frame["learner"] == "GSHF", 32.0, np.nan)
    layout = arrange(frame, ["gap"], facet="learner.batch_size", hue="learner")
    assert [p.title for p in layout.panels] == ["batch_size = 32", "no batch_size"]


def test_what_is_left_out_is_said():
    frame = small(offline=1)
    layout = arrange(frame, ["regret"])
    assert [s.label for s in layout.series] == ["GSHF", "GSHF"]
    assert layout.notes == ["on-policy is left out: it has no regret."]
    # Where a learner has it somewhere, the notes say where it has not.
    first = frame["world"].unique()[0]
    frame.loc[(frame["learner"] == "GSHF") & (frame["world"] == first), "regret"] = np.nan
    notes = arrange(frame, ["regret"]).notes
    assert notes == [f"on-policy, GSHF in {first} are left out: they have no regret."]
    with pytest.raises(ValueError, match=r"Nothing can be drawn. .*no regret"):
        arrange(frame[frame["counted"] == "pairs"], ["regret"])


def test_points_that_some_replicas_lack_are_dropped_and_counted():
    frame = study_frame(1, (4,), replicas=3, points=5)
    last = frame["place"].max()
    layout = arrange(frame[(frame["place"] < last) | (frame["replica"] < 2)], ["gap"])
    assert layout.series[0].place.max() < last
    assert layout.series[0].n_replicas == 3
    assert layout.notes == ["GSHF: 1 points that some replicas lack are left out."]
    # A column that nobody recorded at a point is no loss.
    frame.loc[frame["place"] == last, "kl"] = np.nan
    layout = arrange(frame, ["kl"])
    assert layout.notes == []
    assert layout.series[0].place.max() < last


def test_metrics_of_several_worlds_need_panels_of_their_own():
    frame = small().assign(exploitability=1.0)
    frame.loc[frame["world"] == "linear dim=8", "metric"] = "exploitability"
    layout = arrange(frame, [PRIMARY])
    assert [p.metric for p in layout.panels] == ["gap", "exploitability"]
    with pytest.raises(ValueError, match="mix the metrics gap, exploitability"):
        arrange(frame, [PRIMARY], facet="none")
    layout = arrange(frame, [PRIMARY], facet="none", metric="kl")
    assert layout.panels[0].metric == "kl"


def test_mistakes_are_answered():
    frame = small()
    with pytest.raises(ValueError, match="Did you mean 'learner'"):
        arrange(frame, ["gap"], hue="lerner")
    with pytest.raises(ValueError, match="facet must be one of none, world, learner"):
        arrange(frame, ["gap"], facet="world.dimm")
    with pytest.raises(ValueError, match="recorded column, regret, gap, kl; got 'gab'"):
        arrange(frame, [PRIMARY], metric="gab")
    with pytest.raises(ValueError, match="replica lack"):
        arrange(frame.drop(columns=["replica"]), ["gap"])
    with pytest.raises(ValueError, match="no results"):
        arrange(frame[:0], ["gap"])
    with pytest.raises(ValueError, match="several rows for the same replica"):
        arrange(pd.concat([frame, frame]), ["gap"])
    many = pd.concat(
        [
            frame.assign(learner=f"{i} " + frame["learner"], cell=f"{i}" + frame["cell"])
            for i in range(25)
        ]
    )
    with pytest.raises(ValueError, match="at most 24 series"):
        arrange(many, ["gap"])
    with pytest.raises(ValueError, match="at most 24 panels"):
        arrange(many, ["gap"], facet="learner")


def test_categories_and_settings_from_outside_are_read():
    frame = small().astype({"cell": "category", "world": "category", "learner": "category"})
    layout = arrange(frame, ["gap"], settings={"0000": {"world.eta": 0.5}})
    assert layout.series[0].settings == {"world.dim": 4, "world.eta": 0.5}
