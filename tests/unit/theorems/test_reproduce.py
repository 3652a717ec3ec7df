from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlhf_theory.engine.sources import OtherCodeError
from rlhf_theory.store import DamageWarning
from rlhf_theory.theorems import reproduce as module
from rlhf_theory.theorems.reproduce import check_device, reproduce
from rlhf_theory.theorems.stored import (
    FILES,
    CardRun,
    read_curves,
    read_verdict,
    stored_verdict,
    write_curves,
)
from rlhf_theory.theorems.tasks import PartTask, VerdictTask
from tests.helpers import fake_theorems
from tests.helpers.fake_theorems import calls, fake

ROOT = Path(__file__).parents[3]


@pytest.fixture
def side(tmp_path):
    """A folder beside the output, where fakes note their calls."""
    folder = tmp_path / "side"
    folder.mkdir()
    return folder


def same_results(one: Path, two: Path, name: str) -> bool:
    kinds = [f for f in FILES if f != "verdict.json"]
    return all((one / name / f).read_bytes() == (two / name / f).read_bytes() for f in kinds)


def test_a_study_leaves_its_files(tmp_path, side):
    (verdict,) = reproduce([fake("a", side)], tmp_path / "out", jobs=1, seed=3)
    folder = tmp_path / "out" / "a"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    content = json.loads((folder / "verdict.json").read_text())
    assert content["passed"] is True
    assert (content["mode"], content["seed"], content["replicas"]) == ("quick", 3, 4)
    assert content["checks"][1]["measured"] == "inf"
    assert read_verdict(folder) is not None
    assert verdict.checks == read_verdict(folder).checks
    curves = pd.read_parquet(folder / "curves.parquet")
    numbers = pd.read_csv(folder / "figure.csv")
    assert numbers[numbers["series"] == "gap"]["y"].tolist() == pytest.approx(curves["gap"])


def test_stored_studies_are_not_computed_again(tmp_path, side):
    out, said = tmp_path / "out", []
    first = reproduce([fake("a", side), fake("b", side, "fail")], out, jobs=1)
    again = reproduce([fake("a", side), fake("b", side, "fail")], out, jobs=1, say=said.append)
    assert [v.passed for v in first] == [v.passed for v in again] == [True, False]
    assert calls("a", side) == calls("b", side) == 1
    assert all("stored already" in line for line in said if line)


@pytest.mark.parametrize("change", ["version", "sweep", "file"])
def test_a_study_that_changed_is_computed_again(tmp_path, side, change):
    out, theorem = tmp_path / "out", fake("a", side)
    reproduce([theorem], out, jobs=1)
    if change == "version":
        theorem = fake("a", side, version=2)
    elif change == "sweep":
        theorem = fake("a", side, quick={**theorem.quick, "pairs": [10, 20]})
    else:
        (out / "a" / "figure.pdf").unlink()
    reproduce([theorem], out, jobs=1)
    assert calls("a", side) == 2


def test_more_theorems_may_come_to_a_folder(tmp_path, side):
    reproduce([fake("a", side)], tmp_path / "out", jobs=1)
    reproduce([fake("b", side), fake("a", side)], tmp_path / "out", jobs=1)
    assert calls("a", side) == calls("b", side) == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"mode": "full"}, {"replicas": 5}])
def test_a_folder_of_another_study_is_refused(tmp_path, side, change):
    out = tmp_path / "out"
    reproduce([fake("a", side)], out, jobs=1)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(ValueError, match="it holds another one"):
        reproduce([fake("a", side)], out, jobs=1, **change)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert calls("a", side) == 1


@pytest.mark.parametrize("name", ["replicas", "jobs"])
def test_numbers_below_one_are_refused_before_anything_is_written(tmp_path, side, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        reproduce([fake("a", side)], tmp_path / "out", **{name: 0})
    assert not (tmp_path / "out").exists()


def test_a_study_that_raises_fails_alone_and_runs_again(tmp_path, side):
    out = tmp_path / "out"
    verdicts = reproduce([fake("a", side, "raise"), fake("b", side)], out, jobs=1)
    assert [v.passed for v in verdicts] == [False, True]
    assert "this study raises" in read_verdict(out / "a").error
    assert "Traceback" in verdicts[0].error
    reproduce([fake("a", side, "raise"), fake("b", side)], out, jobs=1)
    assert (calls("a", side), calls("b", side)) == (2, 1)


def test_a_study_that_raises_leaves_no_figure_of_an_older_version(tmp_path, side):
    out = tmp_path / "out"
    reproduce([fake("a", side)], out, jobs=1)
    reproduce([fake("a", side, "raise", version=2)], out, jobs=1)
    names = {p.name for p in (out / "a").iterdir() if p.is_file()}
    assert names == {"verdict.json"}


def test_a_study_without_checks_has_shown_nothing(tmp_path, side):
    theorem = fake("a", side, judge=lambda table, sweep: [])
    (verdict,) = reproduce([theorem], tmp_path / "out", jobs=1)
    assert not verdict.passed


def test_a_verdict_that_cannot_be_read_is_none(tmp_path, side):
    theorem = fake("a", side)
    reproduce([theorem], tmp_path / "out", jobs=1)
    folder = tmp_path / "out" / "a"
    (folder / "verdict.json").write_text('{"name": ')
    with pytest.warns(DamageWarning, match="counts as none"):
        assert read_verdict(folder) is None
    run = CardRun(theorem=theorem, folder=folder, sweep=theorem.quick, mode="quick", seed=0)
    with pytest.warns(DamageWarning):
        assert stored_verdict(run) is None


# --------------------------------------------------------------------------- one card in parts


@pytest.mark.parametrize("backend", ["serial", "local"])
def test_a_card_in_parts_is_the_same_whoever_computes_them(tmp_path, side, backend):
    card = fake("a", side, cut=True)
    reproduce([card], tmp_path / "out", jobs=2, backend=backend)
    reproduce([card], tmp_path / "alone", jobs=1)
    assert calls("a", side) == 6
    assert same_results(tmp_path / "out", tmp_path / "alone", "a")
    assert not (tmp_path / "out" / "a" / "parts").exists()
    # In the order of the parts, whatever their names on disk are.
    assert read_curves(tmp_path / "out" / "a")["pairs"].tolist() == [10, 100, 1000]


def test_parts_that_are_measured_are_not_measured_again_after_a_failure(tmp_path, side):
    """The old pool computed a study that had raised from its beginning."""
    out = tmp_path / "out"
    [verdict] = reproduce([fake("a", side, "raise", cut=True)], out, jobs=1)
    assert "a: pairs 100: Traceback" in verdict.error
    assert calls("a", side) == 3
    assert len(list((out / "a" / "parts").glob("*.parquet"))) == 2
    [record] = (out / "a" / "parts").glob("*.failed.json")
    assert "this study raises" in json.loads(record.read_text())["error"]
    reproduce([fake("a", side, "raise", cut=True)], out, jobs=1)
    assert calls("a", side) == 4


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_part_is_measured_again(tmp_path, side, damage):
    out = tmp_path / "out"
    reproduce([fake("a", side, "raise", cut=True)], out, jobs=1)
    path = sorted((out / "a" / "parts").glob("*.parquet"))[0]
    content = path.read_bytes()
    flipped = content[:4] + bytes([content[4] ^ 1]) + content[5:]  # in the first page
    path.write_bytes(flipped if damage == "flip" else content[:-20])
    reproduce([fake("a", side, "raise", cut=True)], out, jobs=1)
    assert calls("a", side) == 3 + 2


@pytest.mark.parametrize("name", ["verdict.json", "curves.parquet"])
def test_a_flipped_bit_is_no_other_verdict(tmp_path, side, name):
    """One bit in a stored number was another measured number, without a word."""
    out = tmp_path / "out"
    [first] = reproduce([fake("a", side)], out, jobs=1)
    path = out / "a" / name
    whole, stored, curves = path.read_bytes(), read_verdict(out / "a"), read_curves(out / "a")
    random = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(content)
        run = CardRun(
            theorem=fake("a", side), folder=out / "a", sweep=first.sweep, mode="quick", seed=0
        )
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            found = stored_verdict(run)
        # Some bits of a Parquet file say nothing.
        if found is not None:
            assert name == "curves.parquet"
            assert found.to_json() == stored.to_json()
            assert read_curves(out / "a").equals(curves)
    path.write_bytes(whole[:-30])
    with pytest.warns(DamageWarning):
        reproduce([fake("a", side)], out, jobs=1)
    assert read_verdict(out / "a").checks == first.checks


def test_an_edited_card_of_a_user_is_computed_again(tmp_path, monkeypatch):
    """Without raising its version: its code counts, as the code of a learner does."""
    monkeypatch.syspath_prepend(tmp_path)
    text = Path(fake_theorems.__file__).read_text()
    (tmp_path / "edited_card.py").write_text(text)
    out = tmp_path / "out"
    run_in_new_process(tmp_path, out)
    first = read_verdict(out / "a")
    run_in_new_process(tmp_path, out)
    assert calls("a", tmp_path) == 1
    (tmp_path / "edited_card.py").write_text(text.replace(".mean(axis=0) / n", ".max(axis=0) / n"))
    run_in_new_process(tmp_path, out)
    assert calls("a", tmp_path) == 2
    now = read_verdict(out / "a")
    assert now.version == first.version
    assert (now.code != first.code, now.checks[0].measured > first.checks[0].measured) == (
        True,
        True,
    )


def run_in_new_process(folder: Path, out: Path) -> None:
    code = (
        "from pathlib import Path; from edited_card import fake; "
        "from rlhf_theory.theorems.reproduce import reproduce; "
        f"reproduce([fake('a', Path({str(folder)!r}))], Path({str(out)!r}), jobs=1)"
    )
    path = os.pathsep.join([str(ROOT), str(folder)])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_a_worker_with_other_code_of_a_card_neither_measures_nor_judges(tmp_path, side):
    """Judging with other code wrote a verdict that said the code of the worker."""
    card = fake("a", side)
    run = CardRun(theorem=card, folder=tmp_path / "a", sweep=card.quick, mode="quick", seed=0)
    other = pickle.loads(pickle.dumps(run))
    assert other.code == run.code != ""  # it goes with the run, and is not found anew there
    object.__setattr__(other, "code", "elsewhere 0123")
    part = PartTask(run=other, part=card.parts(card.quick)[0])
    for task in (part, VerdictTask(run=other, parts=(part,))):
        with pytest.raises(OtherCodeError, match="and not 'elsewhere 0123'"):
            task.make()
    assert calls("a", side) == 0
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_curves_of_every_kind_of_column_come_back(tmp_path, n):
    """Categories were written, and no reader knew them again: such cards were always made anew."""
    texts = np.resize(["x", "é", "x"], n)
    frame = pd.DataFrame(
        {
            "text": texts,
            "category": pd.Categorical(texts, categories=["é", "never", "x"]),
            "missing": pd.Categorical(np.where(np.arange(n) % 2, texts, None)),
            "number": np.linspace(0.0, 1.0, n),
            "single": np.linspace(0.0, 1.0, n, dtype=np.float32),
            "count": np.arange(n),
            "truth": np.arange(n) % 2 == 0,
        }
    )
    write_curves(tmp_path, frame)
    found = read_curves(tmp_path)
    assert list(found.columns) == list(frame.columns)
    for name in frame:
        wanted = frame[name].astype(object).where(frame[name].notna(), None)
        assert found[name].astype(object).where(found[name].notna(), None).equals(wanted), name


def test_a_stored_card_with_categories_is_only_read(tmp_path, side, recwarn):
    card = fake("a", side, gather=lambda tables, sweep: tables[0].astype({"pairs": "category"}))
    text = fake(
        "b",
        side,
        gather=lambda tables, sweep: tables[0].assign(name=pd.Categorical(["a", "b", "a"])),
    )
    for _ in range(2):
        reproduce([card, text], tmp_path / "out", jobs=1)
    assert calls("a", side) == calls("b", side) == 1
    assert not [w for w in recwarn if w.category is DamageWarning]


def test_the_time_limit_leaves_what_is_not_begun(tmp_path, side):
    said: list[str] = []
    card = fake("a", side, cut=True)
    assert reproduce([card], tmp_path / "out", jobs=1, max_time=1e-9, say=said.append) == []
    assert any("The time limit is reached" in line for line in said)
    assert calls("a", side) == 0
    assert reproduce([card], tmp_path / "out", jobs=1)[0].passed


def test_the_device_must_be_known_and_there(tmp_path, side, monkeypatch):
    cards = [fake("a", side)]
    check_device("cpu", cards)
    with pytest.raises(ValueError, match="Did you mean 'cuda'"):
        check_device("cuda0", cards)

    class Torch:
        class cuda:  # noqa: N801 named as in torch
            available = False

            @classmethod
            def is_available(cls):
                return cls.available

    monkeypatch.setattr(module, "library", lambda _name: Torch)
    with pytest.raises(ValueError, match="torch finds none"):
        check_device("cuda", cards)
    Torch.cuda.available = True
    with pytest.raises(ValueError, match="a compute with NumPy on the host"):
        check_device("cuda", cards)
    check_device("cuda", [fake("a", side, devices=("cpu", "cuda"))])
    # Where a study can, it is told by its sweep.
    ready = [fake("a", side, devices=("cpu", "cuda"))]
    (verdict,) = reproduce(ready, tmp_path / "out", jobs=1, device="cuda")
    assert verdict.sweep["device"] == "cuda"


def test_cuda_without_torch_names_the_extra(side, monkeypatch):
    def missing(_name):
        raise ImportError("pip install 'rlhf-theory[llm]'")

    monkeypatch.setattr(module, "library", missing)
    with pytest.raises(ValueError, match="needs torch; pip install"):
        check_device("cuda", [fake("a", side)])
