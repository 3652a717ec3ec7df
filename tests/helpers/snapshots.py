"""All arrays inside a value, for tests that nothing is changed in place."""

from dataclasses import fields, is_dataclass

import numpy as np

from rlhf_theory.arrays import to_numpy


def arrays_in(value, path="", seen=None):
    """Yield ``(path, host copy)`` of every array reachable through fields, lists and mappings."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, str | int | float | bool | type(None)):
        return
    seen.add(id(value))
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        yield path, np.array(to_numpy(value))
    elif isinstance(value, dict):
        for k in value:
            yield from arrays_in(value[k], f"{path}[{k!r}]", seen)
    elif isinstance(value, list | tuple):
        for k, v in enumerate(value):
            yield from arrays_in(v, f"{path}[{k}]", seen)
    elif is_dataclass(value):
        for f in fields(value):
            yield from arrays_in(getattr(value, f.name), f"{path}.{f.name}", seen)
    elif type(value).__module__.startswith("rlhf_theory"):
        for k in list(vars(value)):
            yield from arrays_in(vars(value)[k], f"{path}.{k}", seen)


def snapshot(*values):
    """Return host copies of all arrays in ``values``, by path."""
    return {f"{k}{path}": copy for k, value in enumerate(values) for path, copy in arrays_in(value)}


def assert_unchanged(before, *values):
    """Fail if an array of ``before`` has changed; arrays that were cached since are no change."""
    after = snapshot(*values)
    for path, copy in before.items():
        np.testing.assert_array_equal(after[path], copy, err_msg=path)
