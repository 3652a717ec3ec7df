"""The table of faults in the documents says what the tests show: no more, no less."""

import inspect
import re

from tests.faults import test_faults
from tests.faults.cases import CASES

ROW = re.compile(r"^\|(.+)\|(.+)\|(.+)\|(.+)\| `(\w+)` \|$", flags=re.M)


def cases_of(test):
    """Return the cases that a test is about; one without cases is about a study."""
    if "case" not in inspect.signature(test).parameters:
        return {"study"}
    for mark in getattr(test, "pytestmark", []):
        names = [mark.args[0]] if isinstance(mark.args[0], str) else mark.args[0]
        if "name" in names:
            values = [getattr(value, "values", value) for value in mark.args[1]]
            return {v if isinstance(v, str) else v[0] for v in values}
    return set(CASES)


def test_the_table_of_faults_is_that_of_the_tests():
    """Catches a row whose test is gone or has lost a case, and a test that has no row."""
    rows = {}
    for _, *cells, name in ROW.findall(test_faults.TABLE.read_text(encoding="utf-8")):
        told = zip(CASES, cells, strict=True)
        rows[f"test_{name}"] = {case for case, cell in told if cell.strip() != "–"}
    tests = {n: t for n, t in vars(test_faults).items() if n.startswith("test_")}
    assert rows == {name: cases_of(test) for name, test in tests.items()}
