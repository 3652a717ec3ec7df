"""The hash of users' code: what it covers, and that nothing is imported for it."""

from __future__ import annotations

import importlib
import linecache
import os
import py_compile
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from rlhf_theory.engine import modules, sources
from rlhf_theory.engine.sources import ABSENT, OtherCodeError, check_code, code_of, entry_code
from rlhf_theory.register import found
from rlhf_theory.studies import entries

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write files into a folder on the path; modules from there are forgotten at the end."""
    monkeypatch.syspath_prepend(tmp_path)

    def files(**texts: str) -> Path:
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        return tmp_path

    yield files
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    entries.refresh()


def parts(root: str) -> set[str]:
    return set(code_of(root).parts)


def test_a_helper_of_a_helper_counts_and_nothing_is_imported(write):
    write(mine="import one", one="from two import x", two="x = 1\n", other="y = 1\n")
    before = code_of("mine").text
    assert parts("mine") == {"mine", "one", "two"}
    write(other="y = 2\n")
    assert code_of("mine").text == before
    write(two="x = 2\n")
    assert code_of("mine").text != before
    write(two="x = 1\n")
    assert code_of("mine").text == before  # content, not time
    assert not {"mine", "one", "two"} & set(sys.modules)


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("import pack.a.b", {"pack", "pack.a", "pack.a.b"}),
        ("import pack.a.b as short", {"pack", "pack.a", "pack.a.b"}),
        ("from pack.a import b", {"pack", "pack.a", "pack.a.b"}),
        ("from pack.a import thing", {"pack", "pack.a"}),
        ("from pack import *", {"pack", "pack.a", "pack.c"}),
        ("def f():\n    from pack import c", {"pack", "pack.c"}),
        ("if False:\n    import pack.c", {"pack", "pack.c"}),
        ("import importlib\nimportlib.import_module('pack.c')", {"pack", "pack.c"}),
        ("__import__('pack')", {"pack"}),
        ("import json, os.path, sys", set()),
        ("try:\n    import not_there\nexcept ImportError: pass", {"not_there"}),
        ("text = 'import pack'  # import pack", set()),
    ],
)
def test_imports_of_every_form_are_seen(write, text, more):
    write(
        mine=text,
        pack__in____init__="",
        pack__in__a__in____init__="thing = 1",
        pack__in__a__in__b="",
        pack__in__c="",
    )
    assert parts("mine") == {"mine"} | more
    if "not_there" in more:
        assert code_of("mine").parts["not_there"] == ABSENT


def test_relative_imports_circles_and_the_packages_around(write):
    write(
        pack__in____init__="",
        pack__in__learn__in____init__="from . import eps",
        pack__in__learn__in__eps="from ..tools import f\nfrom ... import x\nfrom .more import g",
        pack__in__learn__in__more="from . import eps",
        pack__in__tools="f = 1",
        pack__in__unused="",
    )
    seen = {"pack", "pack.learn", "pack.learn.eps", "pack.learn.more", "pack.tools"}
    assert parts("pack.learn.eps") == seen


def test_a_package_that_gives_its_modules_out_on_request_counts_whole(write):
    lazy = """
        import importlib
        def __getattr__(name):
            return importlib.import_module(f'pack.{name}')
    """
    write(mine="from pack import Eps", pack__in____init__=lazy, pack__in__eps="", pack__in__b="")
    assert parts("mine") == {"mine", "pack", "pack.eps", "pack.b"}


def test_namespace_packages_in_two_folders(write, tmp_path, monkeypatch):
    root = write(spread__in__here__in__a="from spread.there import b", unrelated="")
    other = tmp_path / "other"
    (other / "spread" / "there").mkdir(parents=True)
    (other / "spread" / "there" / "b.py").write_text("")
    monkeypatch.syspath_prepend(other)
    assert root
    assert parts("spread.here.a") == {"spread.here.a", "spread.there.b"}
    importlib.import_module("spread.here.a")
    assert parts("spread.here.a") == {"spread.here.a", "spread.there.b"}


def test_siblings_count_where_the_file_puts_its_folder_on_the_path_itself(write, tmp_path):
    """A worker looks before it imports, the main process after: both have to find the same."""
    (tmp_path / "deep").mkdir()
    text = (
        "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent))\nimport beside"
    )
    write(deep__in__odd=text, deep__in__beside="x = 1\n")
    before = code_of("deep.odd").text
    assert parts("deep.odd") == {"deep.odd", "beside"}
    path = list(sys.path)
    importlib.import_module("deep.odd")
    assert code_of("deep.odd").text == before
    sys.path[:] = path


def test_packages_that_are_installed_count_by_version_and_python_not_at_all(write, monkeypatch):
    write(mine="import numpy.linalg, yaml_not, json\nfrom scipy import optimize", yaml_not="")
    found_parts = dict(code_of("mine").parts)
    assert found_parts.pop("numpy") == version("numpy")
    assert found_parts.pop("scipy") == version("scipy")
    assert set(found_parts) == {"mine", "yaml_not"}
    before = code_of("mine").text
    modules.refresh()
    monkeypatch.setattr(modules, "version", lambda name: "77" if name == "scipy" else version(name))
    assert code_of("mine").text != before
    modules.refresh()


def test_a_package_of_another_name_than_its_module_counts_by_its_version(write):
    write(mine="import dateutil.parser")  # python-dateutil, which pandas brings
    assert code_of("mine").parts["python-dateutil"] == version("python-dateutil")


def test_an_installed_plug_in_counts_by_version_and_an_editable_one_by_source(
    write, tmp_path, monkeypatch
):
    site, checkout = tmp_path / "site-packages", tmp_path / "checkout"
    for name in ("brought", "linked"):
        (site / f"{name}-2.5.dist-info").mkdir(parents=True)
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n"
        (site / f"{name}-2.5.dist-info" / "METADATA").write_text(about)
    (site / "brought").mkdir()
    (site / "brought" / "__init__.py").write_text("")
    (checkout / "linked").mkdir(parents=True)
    (checkout / "linked" / "__init__.py").write_text("x = 1")
    (site / "linked").symlink_to(checkout / "linked", target_is_directory=True)
    (site / "stray.py").write_text("x = 1")  # no package has brought it
    monkeypatch.syspath_prepend(site)
    modules.refresh()
    assert code_of("brought").parts == {"brought": "2.5"}
    assert len(code_of("linked").parts["linked"]) == len(code_of("stray").parts["stray"]) == 16
    modules.refresh()


def test_a_finder_of_an_editable_install_is_asked(write, tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "there.py").write_text("import numpy")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            place = tmp_path / "src" / f"{name}.py"
            where = importlib.util.spec_from_file_location(name, place)
            return where if place.exists() else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert parts("there") == {"there", "numpy"}


def test_things_of_this_package_count_by_the_version_of_what_is_named(write, monkeypatch):
    write(
        one="import rlhf_theory as rt\nx = rt.OnlineIterative",
        two="from rlhf_theory.algorithms.online_iterative import OnlineIterative as Own",
        three="import rlhf_theory.algorithms.online_iterative\n"
        "def f(): return rlhf_theory.algorithms.online_iterative.OnlineIterative()",
        four="from rlhf_theory import OfflineGreedy",
    )
    names = ("one", "two", "three", "four")
    before = {name: code_of(name).text for name in names}
    assert all(parts(name) == {name} for name in names)
    kind = found("learner")["online-iterative"].thing
    monkeypatch.setattr(kind, "VERSION", 2, raising=False)
    sources._version.cache_clear()
    changed = {name for name in names if code_of(name).text != before[name]}
    sources._version.cache_clear()
    assert changed == {"one", "two", "three"}


def test_ours_have_no_code_but_a_version(write):
    assert entry_code(found("learner")["online-iterative"]) is None
    by_address = "rlhf_theory.algorithms.online_iterative:OnlineIterative"
    assert entry_code(entries.find("learner", by_address)) is None
    assert entry_code(found("planner")["gibbs"]) is None
    write(mine="Eps = dict")
    assert entry_code(entries.find("learner", "mine:Eps")) == code_of("mine").text


def test_line_ends_say_nothing_and_encodings_and_marks_do_not_matter(write, tmp_path):
    write(mine="x = 1\ny = 2\n")
    before = code_of("mine").text
    (tmp_path / "mine.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    assert code_of("mine").text == before
    latin = "# coding: latin-1\nimport other\nx = 'caf\xe9'\n".encode("latin-1")
    (tmp_path / "mine.py").write_bytes(latin)
    write(other="")
    assert parts("mine") == {"mine", "other"}
    (tmp_path / "mine.py").write_bytes(b"\xef\xbb\xbfimport other\n")
    assert parts("mine") == {"mine", "other"}
    (tmp_path / "mine.py").write_bytes(b"print 'of another Python'\n")
    assert parts("mine") == {"mine"}


def test_links_count_by_what_they_point_to(write, tmp_path):
    write(first="x = 1\n", second="x = 2\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "first.py")
    before = code_of("link").text
    (tmp_path / "link.py").unlink()
    (tmp_path / "link.py").symlink_to(tmp_path / "second.py")
    assert code_of("link").text != before


def test_the_place_of_a_file_says_nothing(write, tmp_path, monkeypatch):
    write(mine="x = 1\n")
    before = code_of("mine").text
    (tmp_path / "moved").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "moved" / "mine.py")
    assert code_of("moved.mine").text != before  # another name is another module
    monkeypatch.syspath_prepend(tmp_path / "moved")
    assert code_of("mine").text == before


def test_archives_have_source(write, tmp_path, monkeypatch):
    def pack(text: str) -> None:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
            file.writestr("packed/__init__.py", "")
            file.writestr("packed/mine.py", text)
        importlib.invalidate_caches()
        sys.path_importer_cache.pop(str(tmp_path / "all.zip"), None)

    pack("import packed.other")
    monkeypatch.syspath_prepend(tmp_path / "all.zip")
    before = code_of("packed.mine")
    assert before.parts["packed.other"] == ABSENT
    pack("import json")
    assert code_of("packed.mine").text != before.text


@pytest.mark.parametrize("kind", ["compiled", "extension", "made by hand", "used by another"])
def test_what_has_no_source_is_refused(write, tmp_path, monkeypatch, kind):
    write(mine="x = 1", user="import mine")
    if kind in ("compiled", "used by another"):
        py_compile.compile(str(tmp_path / "mine.py"), str(tmp_path / "mine.pyc"))
    (tmp_path / "mine.py").unlink()
    if kind == "extension":
        (tmp_path / f"mine{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"")
    if kind == "made by hand":
        monkeypatch.setitem(sys.modules, "mine", type(sys)("mine"))
    with pytest.raises(ValueError, match=r"module mine has no source that can be read .*install"):
        code_of("user" if kind == "used by another" else "mine")


def test_an_edit_of_what_is_imported_is_refused_until_it_is_reloaded(write):
    write(mine="import helper\nEps = dict\n", helper="x = 1\n")
    entry = entries.find("learner", "mine:Eps")
    assert entry.thing is dict
    before = entry_code(entry)
    write(helper="x = 22\n")
    with pytest.raises(ValueError, match=r"helper has changed since this process imported it\. S"):
        entry_code(entry)
    # What runs here is what was imported: a worker that has it goes on.
    assert code_of("mine").text == before
    check_code(before)
    assert code_of("mine", on_disk=True).text != before
    importlib.reload(sys.modules["helper"])
    assert entry_code(entry) == code_of("mine", on_disk=True).text != before


def test_other_code_is_told_from_the_one_that_is_asked_for(write):
    write(mine="x = 1\n")
    wanted = code_of("mine").text
    check_code(wanted)
    write(mine="x = 2\n")
    with pytest.raises(OtherCodeError, match=rf"here is '{code_of('mine').text}'.* '{wanted}'"):
        check_code(wanted)
    with pytest.raises(OtherCodeError, match="is not here: There is no module gone"):
        check_code("gone 0123456789abcdef")


def test_what_is_imported_late_counts_as_it_is_then(write):
    """A helper that a function imports, edited before that: the second look tells."""
    write(mine="def f():\n    import late\n", late="x = 1\n")
    importlib.import_module("mine")
    wanted = code_of("mine").text
    write(late="x = 22\n")
    importlib.import_module("mine").f()
    with pytest.raises(OtherCodeError):
        check_code(wanted)


SCRIPT = """
import sys
from rlhf_theory.engine.sources import code_of
import script
print(code_of("script").parts["script"] == code_of("__main__").parts["__main__"])
"""


def test_a_script_is_known_by_its_file_also_where_it_is_imported_too(tmp_path):
    (tmp_path / "script.py").write_text(
        f"if __name__ == '__main__':\n{textwrap.indent(SCRIPT, '    ')}"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [Path.cwd()]))}
    said = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == ["True"]


CELLS = (
    """
import numpy as np
SCALE = {scale}
def helper(x):
    return SCALE * np.exp(x)
def unused():
    return {unused}
""",
    """
def twice(kind): return kind
@twice
class Eps:
    def step(self):
        return helper(1.0)
""",
)


@pytest.fixture
def notebook(monkeypatch):
    """Run cells as a notebook does: in a main module without a file, lines known to Python."""
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)

    def run(scale: float = 1.0, unused: int = 0) -> str:
        for k, cell in enumerate(CELLS):
            name, text = f"<cell {k}>", cell.format(scale=scale, unused=unused)
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
            exec(compile(text, name, "exec"), vars(main))
        return code_of("__main__:Eps").text

    yield run
    for k in range(len(CELLS)):
        linecache.cache.pop(f"<cell {k}>", None)


def test_a_notebook_counts_by_the_source_of_what_is_used(notebook):
    before = notebook()
    used = {"__main__:Eps", "__main__:helper", "__main__:twice", "__main__:SCALE", "numpy"}
    assert set(code_of("__main__:Eps").parts) >= used
    assert notebook(unused=1) == before
    assert notebook(scale=2.0) != before
    assert entry_code(entries.find("learner", "__main__:Eps")) == code_of("__main__:Eps").text
    entries.refresh()


def test_what_a_notebook_has_no_source_of_is_refused(notebook):
    notebook()
    vars(sys.modules["__main__"])["Bare"] = type("Bare", (), {"__module__": "__main__"})
    with pytest.raises(ValueError, match=r"no source of Bare, .* a file such as bare\.py"):
        code_of("__main__:Bare")
    with pytest.raises(ValueError, match="nothing is called Gone"):
        code_of("__main__:Gone")


def test_what_users_name_of_this_package_is_not_imported_for_its_version(tmp_path):
    """Half a minute of torch and its libraries, in every process, for a number that none has."""
    text = "def learner():\n    from llm_bridge.training.trainer import PreferenceTrainer\n"
    (tmp_path / "names_ours.py").write_text(text)
    code = (
        "import sys; from rlhf_theory.engine.sources import code_of; "
        "parts = code_of('names_ours').parts; "
        "assert set(parts) == {'names_ours'}, parts; "
        "assert not {'torch', 'llm_bridge.training'} & set(sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})
