from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import typer

from rlhf_theory import cli
from tests.helpers.fake_theorems import calls, fake, registered


@pytest.fixture
def fakes(tmp_path):
    side = tmp_path / "side"
    side.mkdir()
    with registered(
        fake("first-theorem", side), fake("second-theorem", side, "fail"), fake("third", side)
    ):
        yield side


@pytest.fixture
def command(capsys):
    """Run the command; return exit code, output and error output."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        seen = capsys.readouterr()
        return int(end.value.code or 0), seen.out, seen.err

    return run


def test_reproduce_prints_verdicts_and_the_page(command, fakes, tmp_path):
    out = tmp_path / "out"
    code, said, _ = command("reproduce", "first-theorem", "--jobs", 1, "--out", out)
    assert code == 0
    assert f"Report: {out / 'report.html'}" in said
    assert (out / "report.html").is_file()
    row = next(line for line in said.splitlines() if line.startswith("first-theorem"))
    assert row.split()[1:4] == ["holds", "2/2", "4"]
    assert calls("third", fakes) == 0


def test_a_verdict_that_fails_is_the_exit_code(command, fakes, tmp_path):
    code, said, _ = command("reproduce", "--jobs", 1, "--out", tmp_path / "out")
    assert code == 1
    assert "second-theorem  FAILS" in said
    assert calls("first-theorem", fakes) == calls("third", fakes) == 1


def test_modes_seeds_and_replicas_reach_the_study(command, fakes, tmp_path):
    arguments = ["--full", "--seed", 5, "--replicas", 3, "--jobs", 1]
    command("reproduce", "third", *arguments, "--out", tmp_path / "out")
    verdict = json.loads((tmp_path / "out" / "third" / "verdict.json").read_text())
    assert (verdict["mode"], verdict["seed"], verdict["replicas"]) == ("full", 5, 3)


def test_results_go_to_a_folder_of_the_mode(command, fakes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("reproduce", "third", "third", "--jobs", 1)
    assert (tmp_path / "results" / "quick" / "report.html").is_file()
    assert calls("third", fakes) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reproduce", "first-theorm"], "Did you mean 'first-theorem'?"),
        (["reproduce", "--quick", "--full"], "not both"),
        (["reproduce", "--replicas", "0"], "replicas must be at least 1; got 0"),
        (["reproduce", "--replicas", "many"], "valid integer"),
        (["reproduce", "--device", "gpu"], "device must be one of cpu, cuda; got 'gpu'"),
        (["reproduce", "--outt", "x"], "--out"),
        (["repoduce"], "reproduce"),
        (["list", "world"], "Did you mean 'worlds'?"),
        (["list", "losses", "dppo"], "loss must be one of bco,"),
        (["list", "theorems", "thrid"], "Did you mean 'third'?"),
        (["report", "nowhere"], "it holds no verdict"),
    ],
)
def test_bad_input_is_answered_with_what_to_do(
    command, fakes, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    code, _, said = command(*arguments)
    assert code == 2
    assert words in said
    assert "Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["side"]


def test_a_folder_that_holds_something_else_is_refused(command, fakes, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    code, _, said = command("reproduce", "third", "--out", out)
    assert code == 2
    assert "holds other files (thesis.tex)" in said
    code, _, said = command("reproduce", "third", "--out", out / "thesis.tex")
    assert code == 2
    assert "it is a file" in said
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]
    assert calls("third", fakes) == 0


def test_a_folder_that_cannot_be_made_is_an_error_not_a_traceback(command, fakes, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, said = command("reproduce", "third", "--out", tmp_path / "file" / "below")
    assert code == 2
    assert "Traceback" not in said


def test_an_interrupt_exits_with_130(command, fakes, tmp_path, monkeypatch):
    def interrupt(*_a, **_k):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_theory.theorems.reproduce.reproduce", interrupt)
    code, _, said = command("reproduce", "third", "--out", tmp_path / "out")
    assert code == 130
    assert "goes on" in said


def test_everything_is_listed(command, fakes):
    code, said, _ = command("list")
    assert code == 0
    for name in ("third", "linear", "offline-greedy", "from-reference", "dpo", "standard"):
        assert f"\n{name} " in said


def test_lists_are_json_for_programs(command, fakes):
    _, said, _ = command("list", "theorems", "--json")
    assert [entry["name"] for entry in json.loads(said)] == [
        "first-theorem",
        "second-theorem",
        "third",
    ]
    assert set(json.loads(said)[0]) == {"name", "description", "source"}
    _, said, _ = command("list", "--json")
    assert {"theorems", "learners", "enhancers", "worlds", "losses", "studies"} < set(
        json.loads(said)
    )
    _, said, _ = command("list", "worlds", "chi-squared", "--json")
    (world,) = json.loads(said)
    assert world["name"] == "chi-squared"
    assert world["source"].startswith("[2407.13399], section 2.3")


def test_one_thing_can_be_read_about(command, fakes):
    assert "Source: [fake], Theorem 1 (v1)" in command("list", "theorems", "third")[1]
    assert "theta_norm" in command("list", "worlds", "linear")[1]
    assert "Did you mean 'linear'?" in command("list", "worlds", "liner")[2]


def test_doctor_shows_versions(command):
    code, said, _ = command("doctor")
    assert code == 0
    assert "linear algebra" in said


def test_plugins_add_commands_and_broken_ones_only_a_remark(command, monkeypatch):
    group = typer.Typer()

    @group.command("fit")
    def fit() -> None:
        typer.echo("fitted")

    @group.command("embed")
    def embed() -> None:
        typer.echo("embedded")

    def hello() -> None:
        """Say hello."""
        typer.echo("hello")

    class Entry:
        def __init__(self, name, part):
            self.name, self.part = name, part

        def load(self):
            if self.part is None:
                raise ImportError("no torch")
            return self.part

    entries = [Entry("lm", group), Entry("hello", hello), Entry("broken", None)]
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)
    code, said, complaint = command("lm", "fit")
    assert (code, said.strip()) == (0, "fitted")
    assert "The command 'broken' cannot be loaded: no torch" in complaint
    assert command("hello")[1].strip() == "hello"


def test_the_entry_point_is_main():
    assert EntryPoint("rlhf-theory", "rlhf_theory.cli:main", "console_scripts").load() is cli.main


def test_help_imports_nothing_heavy():
    heavy = ["scipy.stats", "pandas", "matplotlib", "seaborn", "torch", "jinja2"]
    code = (
        "import sys; from rlhf_theory.cli import main\n"
        "try: main(['reproduce', '--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
