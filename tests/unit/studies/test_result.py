from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import rlhf_theory as rt
from rlhf_theory.evaluation.comparisons import holm
from rlhf_theory.evaluation.sequences import confidence_sequence
from rlhf_theory.evaluation.statistics import mean_interval, slope_bootstrap
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.studies.findings import comparisons
from rlhf_theory.studies.pairing import Pair
from rlhf_theory.studies.places import placed
from rlhf_theory.studies.registry import build_learner, build_world
from rlhf_theory.study import StudyResult
from tests.helpers.studied import WORLDS, small_result


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return small_result(tmp_path_factory.mktemp("study"))


def direct(cell):
    """Run a cell with the runner, without any of the study's machinery."""
    size = {"rounds": cell.rounds} if cell.online else {"pairs": list(cell.pairs)}
    world = build_world(cell.world, cell.replicas)
    return rt.run(build_learner(cell.learner), world, seed=cell.seed, block=cell.block, **size)


def test_curves_are_the_runs_themselves(result):
    table = result.to_pandas()
    for cell in result.cells:
        trace, part = direct(cell), placed(table[table["cell"] == cell.key])
        metric = part["metric"].iloc[0]
        values = part.pivot_table(index="replica", columns="place", values=metric)
        np.testing.assert_array_equal(values.columns, trace.index)
        np.testing.assert_array_equal(values.to_numpy(), trace[metric])
    assert set(table["metric"]) == {"gap", "exploitability"}
    assert table.groupby("world")["metric"].unique().map(list).to_dict() == {
        "easy dim=2": ["gap"],
        "easy dim=3": ["gap"],
        "game": ["exploitability"],
    }


def test_regret_is_the_sum_over_earlier_rounds(result):
    table = result.to_pandas()
    online = table[(table["learner"] == "GSHF") & (table["world"] == "game")]
    for _, part in online.groupby("replica"):
        ordered = part.sort_values("round")
        want = np.concatenate([[0.0], np.cumsum(ordered["exploitability"].to_numpy())[:-1]])
        np.testing.assert_allclose(ordered["regret"], want, rtol=1e-13)
    assert table.loc[table["learner"] == "greedy", "regret"].isna().all()


def test_columns_hold_what_varies_and_only_that(result):
    table = result.to_pandas()
    assert {"world.dim", "world.kind", "learner.kind"} <= set(table.columns)
    assert "world.actions" not in table.columns
    assert "seed" not in table.columns
    assert list(table.columns[:5]) == ["cell", "world", "learner", "family", "metric"]


def test_final_rows_are_the_last_of_every_replica(result):
    final = result.to_pandas("final")
    assert len(final) == len(result.cells) * 12
    ends = placed(final).groupby("counted", observed=True)["place"].unique()
    assert ends.map(list).to_dict() == {"pairs": [40], "round": [6]}
    with pytest.raises(ValueError, match="level must be one of curves, final; got 'end'"):
        result.to_pandas("end")


def test_changing_the_table_leaves_the_result_alone(result):
    table = result.to_pandas()
    table["gap"] = 0.0
    assert result.to_pandas()["gap"].max() > 0


def test_the_summary_is_mean_interval_and_quantiles(result):
    summary = result.summary()
    assert len(summary) == 6
    row = summary[(summary["world"] == "easy dim=3") & (summary["learner"] == "GSHF")].iloc[0]
    cell = next(c for c in result.cells if c.world_label == "easy dim=3" and c.online)
    values = direct(cell)["gap"][:, -1]
    want = mean_interval(values)
    assert (row["mean"], row["lower"], row["upper"]) == (want.value, want.lower, want.upper)
    np.testing.assert_allclose(
        row[["q05", "median", "q95"]].astype(float), np.quantile(values, [0.05, 0.5, 0.95])
    )
    assert (row["replicas"], row["round"]) == (12, 6)
    assert row["pairs"] is pd.NA


def test_a_summary_can_be_of_an_earlier_point_and_of_other_metrics(result):
    early = result.summary(at=5, metrics=["kl", "labels"])
    assert len(early) == 12
    row = early[(early["learner"] == "GSHF") & (early["metric"] == "labels")].iloc[0]
    assert row["round"] == 5
    assert 0 < row["mean"] <= 5 * 8
    with pytest.raises(
        ValueError, match=r"metric must be one of .*; got 'gapp'\. Did you mean 'gap'"
    ):
        result.summary(metrics=["gapp"])


def at_equal_labels(result, world, names, at=None):
    """The metric of learners at the last number of labels that both have, replica by replica."""
    table, found = result.to_pandas(), []
    for replica in range(12):
        rows = [
            table[where(table, world, name) & (table["replica"] == replica)].sort_values("labels")
            for name in names
        ]
        count = min(r["labels"].max() for r in rows) if at is None else at
        for recorded in rows:
            r = recorded[recorded["labels"] > 0].drop_duplicates("labels", keep="last")
            assert r["labels"].min() <= count <= r["labels"].max()
            metric = r[r["metric"].iloc[0]]
            found.append(np.interp(np.log(count), np.log(r["labels"]), metric))
    return np.reshape(found, (12, len(names))).T


def test_comparisons_are_paired_by_replica_at_equal_labels(result):
    table = result.compare("GSHF", "greedy")
    assert list(table["world"]) == list(WORLDS)
    assert table.attrs["left_out"] == []
    for row in table.itertuples():
        first, second = at_equal_labels(result, row.world, ["GSHF", "greedy"])
        difference = first - second
        assert row.difference == pytest.approx(difference.mean(), rel=1e-12)
        assert row.better == pytest.approx(np.mean(difference < 0) + 0.5 * np.mean(difference == 0))
        want = mean_interval(difference)
        ends = (row.difference_lower, row.difference_upper)
        assert ends == pytest.approx((want.lower, want.upper), rel=1e-12)
    np.testing.assert_allclose(table["adjusted"], holm(table["p_value"].to_numpy()))
    # At the ends, with more labels for one of them, other differences would be found.
    ends = result.to_pandas("final").groupby(["world", "learner"])["labels"].mean()
    assert (ends[:, "GSHF"] > ends[:, "greedy"] + 3).any()
    for row in table.itertuples():
        assert row.by == "labels"
        assert row.at <= min(ends[row.world]) + 1e-9


def test_comparisons_can_be_at_a_number_of_labels(result):
    table = result.compare("GSHF", "greedy", at=12).set_index("world")
    for world in WORLDS:
        first, second = at_equal_labels(result, world, ["GSHF", "greedy"], at=12)
        assert table.loc[world, "difference"] == pytest.approx((first - second).mean())
        assert table.loc[world, "at"] == 12
    # Never beyond what is recorded, nor before it.
    for at in (40, 3):
        with pytest.raises(ValueError, match=rf"to compare at {at} labels\..*greedy: \d+ to \d+ l"):
            result.compare("GSHF", "greedy", at=at)
    for at in (-1, np.nan):
        with pytest.raises(ValueError, match="at must be finite and at least 0"):
            result.compare(at=at)
    with pytest.raises(ValueError, match="by must be one of labels, rounds, pairs; got 'label'"):
        result.compare(by="label")


def test_rounds_and_pairs_are_compared_on_request_and_never_with_one_another(result):
    with pytest.raises(ValueError, match=r"nothing to compare by rounds\. greedy in easy dim=2"):
        result.compare("GSHF", "greedy", by="rounds")
    twice = Twice(result)
    table = twice.compare("GSHF", "again", by="rounds", at=4.5)
    assert table[["by", "at", "difference"]].to_numpy().tolist() == [["rounds", 4.0, 0.0]] * 3
    assert table.attrs["left_out"] == []
    assert "greedy in game (not by rounds)" in twice.compare(by="rounds").attrs["left_out"]
    offline = twice.compare("greedy", "greedy again", by="pairs")
    assert offline["at"].tolist() == [40.0] * 3


class Twice(StudyResult):
    """A result in which every learner is there under a second name."""

    def __init__(self, result):
        super().__init__(result.folder.path)
        table = result.to_pandas()
        names = {"GSHF": "again", "greedy": "greedy again"}
        more = table.assign(learner=table["learner"].map(names), cell=table["cell"] + "+")
        self.curves = pd.concat([table, more], ignore_index=True)
        self.cells = [
            *result.cells,
            *(replace(c, learner_label=names[c.learner_label]) for c in result.cells),
        ]


def test_a_pair_without_a_common_number_of_labels_is_left_out_and_named(result, changed):
    # Some rows in the range of the other are enough.
    early = changed(lambda t: t[~(where(t, "game", "GSHF") & (t["round"] > 2))])
    assert set(early.compare("GSHF", "greedy")["world"]) == set(WORLDS)
    # In some replicas the only row of one is beyond the end of the other.
    late = changed(lambda t: t[~(where(t, "game", "greedy") & (t["pairs"] < 40))])
    final = late.to_pandas("final")
    final = final[final["world"] == "game"]
    ends = final.pivot_table(index="replica", columns="learner", values="labels")
    beyond = ends["greedy"] > ends["GSHF"]
    assert 0 < beyond.sum() < 12
    assert set(late.compare("GSHF", "greedy")["world"]) == set(WORLDS[:2])
    never = changed(
        lambda t: t[
            ~(where(t, "game", "GSHF") & (t["round"] > 1))
            & ~(where(t, "game", "greedy") & (t["pairs"] < 40))
        ]
    )
    table = never.compare("GSHF", "greedy")
    assert set(table["world"]) == set(WORLDS[:2])
    [said] = table.attrs["left_out"]
    assert said.startswith("GSHF and greedy in game (GSHF: ")
    assert "Not compared: greedy and GSHF in game" in never.report().read_text()


def test_all_pairs_a_baseline_and_two_learners_agree(result):
    pair, against = result.compare("GSHF", "greedy"), result.compare(baseline="greedy")
    pd.testing.assert_frame_equal(pair, against)
    every = result.compare()
    np.testing.assert_allclose(every["difference"], -pair["difference"])
    assert list(every["first"].unique()) == ["greedy"]


def test_intervals_for_people_who_peek_are_confidence_sequences(result):
    # With twelve replicas nothing is known at the default; so there are 48.
    replicas, pairs = list(range(48)), []
    noise = np.random.default_rng(0).normal(scale=0.1, size=(3, 48))
    # Where one is far better, the interval must say so, and where none is, must not.
    for world, shift, own in zip(
        WORLDS, (-5.0, 5.0, np.resize([1.0, -1.0], 48)), noise, strict=True
    ):
        both = np.stack([own + shift, np.zeros(48)])
        pairs.append(Pair(world, "GSHF", "greedy", replicas, both, np.full(48, 9.0)))
    table = comparisons(pairs, "labels", 0.95, anytime=True)
    assert "p_value" not in table
    assert table["winner"].tolist() == ["GSHF", "greedy", None]
    for row, pair in zip(table.itertuples(), pairs, strict=True):
        want = confidence_sequence(pair.both[0] - pair.both[1], level=1 - 0.05 / 3)
        ends = (row.difference_lower, row.difference_upper)
        assert ends == (want.lower[-1], want.upper[-1])
    # Longer than for one look, and not known at all at twelve.
    assert np.isinf(result.summary(anytime=True)["upper"]).all()
    assert np.isinf(result.compare(anytime=True)["difference_upper"]).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("GSHF",), "two learners, or a baseline"),
        (("GSHF", "greedi"), r"learner must be one of greedy, GSHF; got 'greedi'\. Did you mean"),
    ],
)
def test_comparisons_of_unknown_or_single_learners_raise(result, arguments, words):
    with pytest.raises(ValueError, match=words):
        result.compare(*arguments)


@pytest.fixture
def changed(result, monkeypatch):
    """Return the result with its table changed by a function."""

    def change(edit):
        again = StudyResult(result.folder.path)
        table = result.to_pandas()
        monkeypatch.setattr(again, "curves", edit(table), raising=False)
        return again

    return change


def where(table, world, learner):
    return (table["world"] == world) & (table["learner"] == learner)


def test_failed_replicas_are_left_out_of_their_pairs(result, changed):
    odd = changed(lambda t: t[~(where(t, "game", "GSHF") & (t["replica"] < 3))])
    row = odd.compare("GSHF", "greedy").set_index("world").loc["game"]
    first, second = at_equal_labels(result, "game", ["GSHF", "greedy"])
    difference = (first - second)[3:]
    assert (row["n_replicas"], row["difference"]) == (9, pytest.approx(difference.mean()))
    scores = odd.scores().set_index(["family", "learner"])["score"]
    assert ("games", "GSHF") not in scores.index
    assert ("rewards", "GSHF") in scores.index
    # The others lose nothing by it: greedy is where it ends, since nobody whole ends before.
    final = result.values()["game"]["greedy"].to_numpy()
    cell = next(c for c in result.cells if c.world_label == "game")
    base = build_world(cell.world, 12).evaluate(ReferencePolicy())[cell.metric]
    assert scores["games", "greedy"] == pytest.approx(np.clip(1 - final / base, 0, 1).mean())


@pytest.mark.parametrize("replicas", [range(12), [2, 5]])
def test_nan_in_one_cell_costs_only_that_cell(result, changed, replicas):
    def edit(table):
        rows = where(table, "game", "GSHF") & table["replica"].isin(replicas)
        table.loc[rows, "exploitability"] = np.nan
        return table

    odd = changed(edit)
    summary, before = (r.summary().set_index(["world", "learner"]) for r in (odd, result))
    assert np.isnan(summary.loc[("game", "GSHF"), "mean"])
    others = before.index.drop(("game", "GSHF"))
    pd.testing.assert_frame_equal(summary.loc[others], before.loc[others])
    # What is not a number is the worst there is.
    row = odd.compare("GSHF", "greedy").set_index("world").loc["game"]
    assert (row["difference"], row["n_replicas"]) == (np.inf, 12)
    anytime = odd.compare("GSHF", "greedy", anytime=True).set_index("world").loc["game"]
    assert (anytime["difference_lower"], anytime["winner"]) == (-np.inf, None)
    scores = odd.scores().set_index(["family", "learner"])["score"]
    assert (
        scores["games", "GSHF"]
        < result.scores().set_index(["family", "learner"])["score"]["games", "GSHF"]
    )


def test_a_metric_that_only_some_worlds_have_is_compared_there(result):
    assert set(result.compare("GSHF", "greedy", metric="gap")["world"]) == set(WORLDS[:2])
    assert set(result.summary(metrics=["regret"])["learner"]) == {"GSHF"}


def test_what_rounds_report_ends_one_round_earlier(result):
    summary = result.summary(metrics=["residual"])
    online = summary[summary["learner"] == "GSHF"]
    assert list(online["round"]) == [5, 5, 5]
    assert online["mean"].notna().all()


def test_learners_are_compared_at_rounds_that_all_have(result, changed):
    # One block of one learner was not extended yet.
    short = changed(
        lambda table: table[
            ~(where(table, "game", "GSHF") & (table["replica"] < 5) & (table["round"] > 4))
        ]
    )
    summary = short.summary().set_index(["world", "learner"])
    assert summary.loc[("game", "GSHF"), "round"] == 4
    assert summary.loc[("game", "GSHF"), "replicas"] == 12
    assert summary.loc[("game", "greedy"), "pairs"] == 40
    assert summary.loc[("easy dim=2", "GSHF"), "round"] == 6
    pd.testing.assert_series_equal(
        short.values()["game"]["GSHF"], result.values(at=4)["game"]["GSHF"]
    )


def test_the_summary_says_after_how_many_labels(result):
    summary = result.summary().set_index(["world", "learner"])
    cell = next(c for c in result.cells if c.world_label == "game" and c.online)
    labels = direct(cell)["labels"][:, -1].mean()
    assert summary.loc[("game", "GSHF"), "labels"] == pytest.approx(labels)


def test_a_result_writes_its_report(result):
    page = result.report()
    assert page == result.folder.path / "report.html"
    assert "Two learners in two worlds" in page.read_text()


def test_nothing_is_recorded_before_the_first(result):
    with pytest.raises(
        ValueError, match="at must be at least 0, the first that is recorded; got -1"
    ):
        result.values(at=-1)


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5])
def test_levels_are_probabilities(result, level):
    with pytest.raises(ValueError, match="level"):
        result.compare(level=level)


def test_scores_are_shares_of_the_way_from_the_reference(result):
    scores = result.scores().set_index(["family", "learner"])
    shares = {}
    for cell in result.cells:
        base = build_world(cell.world, 12).evaluate(ReferencePolicy())[cell.metric]
        names = ["GSHF", "greedy"]
        both = at_equal_labels(result, cell.world_label, names)  # at equal labels, too
        metric = both[names.index(cell.learner_label)]
        shares[cell.world_label, cell.learner_label] = np.clip(1 - metric / base, 0, 1).mean()
    for learner in ("greedy", "GSHF"):
        want = np.mean([shares[w, learner] for w in WORLDS[:2]])
        assert scores.loc[("rewards", learner), "score"] == pytest.approx(want, rel=1e-12)
        want = np.mean([shares[w, learner] for w in WORLDS])
        assert scores.loc[("all worlds", learner), "score"] == pytest.approx(want, rel=1e-12)


def test_rates_are_slopes_of_mean_curves_in_labels(result):
    cell = next(c for c in result.cells if c.world_label == "game" and c.online)
    trace = direct(cell)
    labels = trace["labels"].mean(axis=0)
    window = (labels[2], labels[6])
    table = result.rates(window)
    row = table[(table["world"] == "game") & (table["learner"] == "GSHF")].iloc[0]
    fit = slope_bootstrap(labels, trace["exploitability"], window=window)
    assert (row["slope"], row["lower"], row["upper"]) == pytest.approx((fit.value, *fit.ends))
    # In rounds it would be another one: fewer labels come in later rounds.
    rounds = slope_bootstrap(np.arange(7), trace["exploitability"], window=(2, 6))
    assert abs(rounds.value - row["slope"]) > 1e-3


def test_a_slope_that_cannot_be_fitted_says_why(result):
    table = result.rates((1000, 2000))
    assert table["slope"].isna().all()
    assert table["remark"].str.contains("at least two different positive x").all()


def test_the_window_of_rates_is_the_late_part(result):
    row = result.rates().set_index(["world", "learner"]).loc[("game", "GSHF")]
    cell = next(c for c in result.cells if c.world_label == "game" and c.online)
    labels = direct(cell)["labels"].mean(axis=0)[1:]
    # The last two thirds of the decades.
    start = np.exp(np.log(labels[0]) + np.log(labels[-1] / labels[0]) / 3.0)
    assert (row["from"], row["to"]) == pytest.approx((labels[labels >= start][0], labels[-1]))


def test_exports_hold_the_table(result, tmp_path):
    frame = pd.read_csv(result.export(tmp_path / "final.csv", "final"))
    assert len(frame) == 72
    frame = pd.read_parquet(result.export(tmp_path / "curves.parquet"))
    pd.testing.assert_frame_equal(
        frame, result.to_pandas(), check_dtype=False, check_categorical=False
    )
    with pytest.raises(ValueError, match=r"suffix must be one of \.csv, \.parquet; got '\.xlsx'"):
        result.export(tmp_path / "a.xlsx")


def test_a_result_shows_itself(result):
    assert repr(result) == "StudyResult('small': 6 cells, 18 of 18 blocks done, 0 failed)"
    assert "<table" in result._repr_html_()
    figure = result.plot("suboptimality", facet="world")
    assert "12 replicas" in figure.caption


def test_a_folder_can_be_opened_again(result):
    again = StudyResult(result.folder.path)
    assert [c.key for c in again.cells] == [c.key for c in result.cells]
    pd.testing.assert_frame_equal(again.to_pandas(), result.to_pandas())
    assert again.tally is None
    assert result.tally.done == 18


def test_status_counts_blocks_per_cell(result):
    status = result.status()
    assert list(status["blocks"]) == list(status["done"]) == [3] * 6
    assert list(status["failed"]) == [0] * 6
    assert (status["seconds"] > 0).all()
    assert result.failures().empty


def test_other_folders_are_no_results(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be the folder of a study"):
        StudyResult(tmp_path)
    with pytest.raises(ValueError, match="must be the folder of a study"):
        StudyResult(tmp_path / "missing")
