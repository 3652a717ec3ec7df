import json
import os
import shutil
import sys

import pandas as pd
import pytest

from rlhf_theory import cli
from rlhf_theory.commands.studies import seconds_of
from rlhf_theory.studies import entries, running
from rlhf_theory.studies.cells import Cell
from tests.helpers.studied import TOML, small_file

SERIAL = ("--backend", "serial")


@pytest.fixture
def command(capsys):
    """Run the command; return exit code, output and error output."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        seen = capsys.readouterr()
        return int(end.value.code or 0), seen.out, seen.err

    return run


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A folder that the command has written."""
    home = tmp_path_factory.mktemp("command")
    with pytest.raises(SystemExit):
        cli.main(["run", str(small_file(home)), "--out", str(home / "out"), *SERIAL, "--quiet"])
    return home / "out"


@pytest.fixture
def out(ready, tmp_path):
    """A copy of it, to write to."""
    return shutil.copytree(ready, tmp_path / "out")


def test_run_leaves_results_figures_and_a_page(command, tmp_path):
    out = tmp_path / "out"
    code, said, log = command("run", small_file(tmp_path), "--out", out, *SERIAL)
    assert code == 0
    assert f"Report: {out / 'report.html'}" in said
    assert "18/18 blocks" in log
    row = next(line for line in said.splitlines() if line.startswith("game") and "GSHF" in line)
    assert row.split()[2:4] == ["exploitability", "12"]
    names = {p.name for p in out.iterdir()}
    assert names >= {"report.html", "summary.csv", "curves.parquet", "study.toml", "resolved.json"}
    figures = {p.suffix for p in (out / "figures").iterdir()}
    assert figures == {".svg", ".pdf", ".csv", ".txt"}
    assert len(pd.read_csv(out / "summary.csv")) == 6


def test_a_dry_run_tells_and_writes_nothing(command, tmp_path):
    out = tmp_path / "out"
    code, said, _ = command("run", small_file(tmp_path), "--out", out, "--dry-run")
    assert code == 0
    assert "6 cells, 18 blocks: 0 done, 0 failed" in said
    assert "18 to do" in said
    assert "Nothing was written" in said
    assert "About " in said
    assert not out.exists()


def test_a_dry_run_knows_what_is_done(command, out, tmp_path):
    before = sorted(p for p in out.rglob("*"))
    _, said, _ = command("run", small_file(tmp_path), "--out", out, "--dry-run")
    assert "18 done, 0 failed" in said
    assert "Nothing is left to compute" in said
    assert sorted(p for p in out.rglob("*")) == before


def test_a_dry_run_meets_what_cannot_run(command, tmp_path):
    path = tmp_path / "failing.toml"
    path.write_text(TOML.replace('"from-reference"', '"information-ratio"'))
    code, said, _ = command("run", path, "--out", tmp_path / "out", "--dry-run")
    assert code == 1
    assert "could not be run: easy dim=2/GSHF" in said
    assert "ShapeError: sigma must have shape" in said
    assert not (tmp_path / "out").exists()


def test_quick_and_set_change_the_study(command, tmp_path):
    out = tmp_path / "out"
    code, _, _ = command(
        *("run", small_file(tmp_path), "--out", out, *SERIAL, "--quick"),
        *("--set", "learner.batch_size=4", "--only", "game"),
    )
    assert code == 0  # all that was asked for
    stored = json.loads((out / "resolved.json").read_text())
    assert (stored["replicas"], stored["rounds"], stored["pairs"]) == (4, 2, [5])
    assert stored["learners"][1]["batch_size"] == 4
    (record,) = (out / "provenance").iterdir()
    origins = json.loads(record.read_text())["origins"]
    assert origins["learners[1].batch_size"] == "--set"
    assert origins["rounds"] == "quick"
    assert origins["title"] == "file"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "world.dmi=3"], "dmi"),
        (["--set", "rounds=many"], "rounds"),
        (["--backend", "slrum"], "Did you mean 'slurm'"),
        (["--jobs", "0"], "jobs must be at least 1; got 0"),
        (["--max-time", "soon"], "--max-time must be a positive time such as 90s"),
        (["--option", "partition"], "--option must look like KEY=VALUE"),
        (["--only", "gmae"], "matches none of"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_bad_input_is_one_line_and_writes_nothing(command, tmp_path, arguments, words, dry):
    out = tmp_path / "out"
    code, _, said = command("run", small_file(tmp_path), "--out", out, *arguments, *dry)
    assert code == 2
    assert words in said
    assert not out.exists()


def test_an_unknown_study_is_not_found(command, tmp_path):
    assert command("run", tmp_path / "none.toml")[0] == 2
    code, _, said = command("run", "standrad")
    assert code == 2
    assert "Did you mean 'standard'" in said


def test_a_failed_cell_is_reported_and_the_rest_completes(command, tmp_path):
    # An enhancer for games has no confidence set of a reward, which only the first round finds out.
    text = TOML.replace('enhancer = "from-reference"', 'enhancer = "information-ratio"')
    path = tmp_path / "failing.toml"
    path.write_text(text)
    out = tmp_path / "out"
    code, said, log = command("run", path, "--out", out, *SERIAL)
    assert code == 1
    assert "failed: game/GSHF, 3 blocks: ShapeError: sigma must have shape" in log
    assert "left alone until `run --retry-failed`" in log
    (line,) = [text for text in log.splitlines() if text.startswith("failed: game/GSHF")]
    assert ".py, line " in line
    assert log.count("failed: ") == 3
    assert said.count("greedy") >= 3
    code, said, _ = command("status", out)
    assert code == 0
    assert "18 blocks, 9 done, 9 failed, 0 missing" in said
    # Left alone, until they are asked for again.
    _, _, log = command("run", path, "--out", out, *SERIAL)
    assert "blocks, 9 done before" not in log
    _, _, log = command("run", path, "--out", out, *SERIAL, "--retry-failed")
    assert "9 failed" in log


def test_a_finished_study_is_left_as_it_is(command, out, tmp_path):
    page = (out / "report.html").stat().st_mtime_ns
    code, said, _ = command("run", small_file(tmp_path), "--out", out, *SERIAL)
    assert (code, said) == (0, f"Nothing was left to compute. Report: {out / 'report.html'}\n")
    assert (out / "report.html").stat().st_mtime_ns == page
    # Another figure is a reason to write the page again.
    path = tmp_path / "more.toml"
    path.write_text(TOML + '\n[[plot]]\nkind = "tails"\n')
    code, said, _ = command("run", path, "--out", out, *SERIAL)
    assert (code, "Report:" in said) == (0, True)
    assert (out / "figures" / "02-tails.svg").is_file()


MINE_TOML = """
format = 2
name = "mine"
replicas = 4
block = 2
pairs = [5]
[[world]]
kind = "linear"
contexts = 3
[[learner]]
kind = "their_module:learner"
label = "greedy"
[[plot]]
kind = "suboptimality"
"""

MINE = """
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy
def learner(scale: float = 1.0):
    return OfflineGreedy(lam=scale * {lam})
"""


def test_results_of_older_code_are_told_adopted_and_dropped(command, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path, out = tmp_path / "mine.toml", tmp_path / "out"
    path.write_text(MINE_TOML)

    def go(lam, *options):
        (tmp_path / "their_module.py").write_text(MINE.format(lam=lam))
        sys.modules.pop("their_module", None)
        entries.refresh()
        return command("run", path, "--out", out, *SERIAL, *options)

    def lines(said):
        return [line for line in said.splitlines() if line.startswith("of older code: ")]

    go(1.0)
    code, _, log = go(2.0)
    told = ["of older code: linear/greedy, 2 blocks; changed since: their_module"]
    assert (code, lines(log), log.count("--keep-old")) == (0, told, 1)
    assert lines(command("status", out)[1]) == told
    assert "2 blocks of older code" in go(2.0, "--dry-run")[1]
    assert lines(go(2.0, "--drop-old")[2]) == []
    code, said, log = go(3.0, "--keep-old")
    assert (code, lines(log)) == (0, [])
    assert "2/2 blocks" not in log
    assert f"Report: {out / 'report.html'}" in said  # written anew: it says so
    assert "greedy in linear: 2 of 2 blocks were computed by older code and adopted" in log
    code, _, log = go(3.0, "--keep-old", "--drop-old")
    assert code == 2
    assert "--keep-old adopts results of older code, --drop-old removes them; give one." in log
    code, _, log = command("extend", out, "--replicas", 5, *SERIAL)
    assert code == 0
    (tmp_path / "their_module.py").write_text(MINE.format(lam=4.0))
    sys.modules.pop("their_module", None)
    entries.refresh()
    code, _, log = command("extend", out, "--replicas", 6, *SERIAL)
    assert code == 2
    assert "learners[0].code: must be 'their_module " in log.replace('"', "'")
    code, _, log = command("extend", out, "--replicas", 6, *SERIAL, "--drop-old")
    assert (code, lines(log)) == (0, [])
    sys.modules.pop("their_module", None)
    entries.refresh()


def test_status_of_a_finished_study(command, out):
    code, said, _ = command("status", out)
    assert code == 0
    assert said.rstrip().endswith("18 blocks, 18 done, 0 failed, 0 missing")
    counts = json.loads(command("status", out, "--json")[1])
    assert (counts["done"], len(counts["cells"])) == (18, 6)


def rot(path):
    """Turn a bit, and leave size and time of change as they are: what a disk does."""
    content, state = path.read_bytes(), path.stat()
    path.write_bytes(content[:-200] + bytes([content[-200] ^ 4]) + content[-199:])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_damage_is_named_taken_away_and_mended(command, out, tmp_path):
    block, path = sorted(out.glob("cells/*/r*.parquet"))[0], small_file(tmp_path)
    good = block.read_bytes()
    shutil.rmtree(out / "journal")  # times of change are others in a copy
    command("run", path, "--out", out, *SERIAL, "--quiet")
    rot(block)
    code, said, log = command("status", out)
    assert (code, log, said.rstrip()[-9:]) == (0, "", "0 missing")
    # A dry run reads all, and writes nothing.
    _, said, log = command("run", path, "--out", out, "--dry-run", "--verify")
    assert log.startswith(f"Damaged: {block} must be a block of a study")
    assert "17 done, 0 failed" in said
    assert block.exists()
    # A command that reads names it, and goes on without it.
    (out / "curves.parquet").unlink()
    code, _, log = command("export", out, "--to", tmp_path / "all.csv")
    (line,) = log.splitlines()
    assert (code, line.startswith(f"Damaged: {block} must be a block of a study")) == (0, True)
    assert line.endswith("It is left out; the next run makes it anew.")
    assert command("run", path, "--out", out, *SERIAL, "--quiet")[0] == 0
    assert block.read_bytes() == good
    rot(block)
    code, said, log = command("status", out, "--verify")
    assert (code, said.rstrip()[-9:]) == (0, "1 missing")
    assert log.startswith(f"Damaged: {block} must be a block of a study")
    assert log.endswith("The next run makes it anew.\n")


@pytest.mark.parametrize("sets", [("replicas=1000000000", "block=1"), ("replicas=1000000000",)])
def test_a_slip_that_makes_too_many_blocks_is_told_at_once(command, tmp_path, monkeypatch, sets):
    # Before any block is made, however long that would take.
    monkeypatch.setattr(Cell, "blocks", None)
    changes = [word for change in sets for word in ("--set", change)]
    code, _, said = command("run", small_file(tmp_path), "--out", tmp_path / "out", *changes)
    assert code == 2
    assert "replicas: makes " in said
    assert "at most 1000000 are allowed: 6 times 1000000000 replicas, cut into blocks of" in said
    assert "Make block larger, or replicas or the grids smaller." in said
    assert not (tmp_path / "out").exists()


def test_extend_adds_replicas_and_says_where_they_come_from(command, out):
    code, said, _ = command("extend", out, "--replicas", 15, *SERIAL)
    assert code == 0
    assert " 15 " in said
    assert json.loads((out / "resolved.json").read_text())["replicas"] == 15
    code, _, said = command("extend", out)
    assert (code, "--replicas or --rounds" in said) == (2, True)
    code, _, said = command("extend", out, "--replicas", 3)
    assert (code, "can only grow, from 15; got 3" in said) == (2, True)


def test_a_figure_that_cannot_be_drawn_is_said(command, tmp_path):
    path = tmp_path / "bound.toml"
    path.write_text(TOML + '\n[[plot]]\nkind = "slopes"\nwindow = [1000.0, 2000.0]\n')
    code, _, log = command("run", path, "--out", tmp_path / "out", *SERIAL, "--quick")
    assert code == 0
    assert "The figure 02-slopes could not be drawn:" in log
    assert "could not be drawn" in (tmp_path / "out" / "report.html").read_text()


def test_a_shorter_study_says_what_it_does_not_show(command, out, tmp_path):
    command("extend", out, "--replicas", 15, *SERIAL)
    code, _, said = command("run", small_file(tmp_path), "--out", out, *SERIAL)
    assert code == 0
    assert "The folder has 15 replicas, this study 12: the others are kept" in said


def test_compare_prints_pairs(command, out):
    code, said, _ = command("compare", out, "GSHF", "greedy")
    assert code == 0
    assert len([line for line in said.splitlines() if "GSHF" in line]) == 3
    rows = json.loads(command("compare", out, "--baseline", "greedy", "--json")[1])
    assert [row["world"] for row in rows] == ["easy dim=2", "easy dim=3", "game"]
    code, said, _ = command("compare", out, "GSHF", "greedy", "--anytime")
    assert (code, "confidence sequence" in said, "Holm" in said) == (0, True, False)
    code, _, said = command("compare", out, "GHSF", "greedy")
    assert (code, "Did you mean 'GSHF'" in said) == (2, True)


def test_plot_writes_four_files(command, out, tmp_path):
    code, said, _ = command("plot", out, "--kind", "regret", "--to", tmp_path / "fig" / "regret")
    assert code == 0
    files = {p.name for p in (tmp_path / "fig").iterdir()}
    assert files == {"regret.pdf", "regret.svg", "regret.csv", "regret.txt"}
    assert len(said.split()) == 4
    command("plot", out, "--to", tmp_path / "fig")
    assert (tmp_path / "fig" / "suboptimality.svg").is_file()
    assert command("plot", out, "--kind", "tails")[0] == 0
    assert (out / "figures" / "tails.svg").is_file()
    code, _, said = command("plot", out, "--kind", "regrets")
    assert (code, "Did you mean 'regret'" in said) == (2, True)


def test_export_and_report(command, out, tmp_path):
    code, said, _ = command("export", out, "--to", tmp_path / "a.csv", "--level", "final")
    assert (code, said.strip()) == (0, str(tmp_path / "a.csv"))
    assert len(pd.read_csv(tmp_path / "a.csv")) == 72
    (out / "report.html").unlink()
    code, said, _ = command("report", out)
    assert (code, said.strip()) == (0, f"Report: {out / 'report.html'}")
    assert (out / "report.html").is_file()


def test_ctrl_c_is_130_and_the_same_command_goes_on(command, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    path, out = small_file(tmp_path), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(running, "execute", interrupted)
        code, _, said = command("run", path, "--out", out, *SERIAL)
    assert code == 130
    assert "goes on from what" in said
    (record,) = (out / "provenance").iterdir()
    assert json.loads(record.read_text())["tally"]["stopped"] == "Interrupted."
    assert command("run", path, "--out", out, *SERIAL)[0] == 0


def test_new_writes_a_study_that_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, _ = command("new", "mine")
    assert (code, "mine.toml" in said) == (0, True)
    code, said, _ = command("run", "mine.toml", "--dry-run")
    assert code == 0
    code, _, said = command("run", "mine")
    assert (code, "Did you mean mine.toml?" in said) == (2, True)
    code, _, said = command("new", "mine.toml")
    assert (code, "exists already" in said) == (2, True)
    assert command("new", "copy", "--from", "standard")[0] == 0
    assert 'name = "copy"' in (tmp_path / "copy.toml").read_text()


def test_the_schema_is_json(command):
    code, said, _ = command("schema")
    assert code == 0
    assert json.loads(said)["type"] == "object"


def test_studies_are_listed(command):
    code, said, _ = command("list", "studies")
    assert code == 0
    assert "standard" in said


@pytest.mark.parametrize(("text", "want"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_times(text, want):
    assert seconds_of(text) == want


@pytest.mark.parametrize("text", ["0", "-1m", "1d", "", "0.0h"])
def test_bad_times(text):
    with pytest.raises(ValueError, match="--max-time must be a positive time"):
        seconds_of(text)
