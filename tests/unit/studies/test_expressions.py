from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_theory.studies.expressions import Expression, ExpressionError, setting_names

NUMBERS = {"t": 7.0, "d": 4.0, "eta": 0.1, "world.dim": 9.0}


def trees(depth=3):
    """Expressions as text, in the common subset of ours and Python's with ``math``."""
    leaf = st.sampled_from(["t", "d", "eta", "2", "0.5", "1e2", "world.dim"])

    def grow(inner):
        return st.one_of(
            st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(
                lambda p: f"({p[0]} {p[1]} {p[2]})"
            ),
            inner.map(lambda a: f"-{a}"),
            inner.map(lambda a: f"sqrt(max({a}, 0.25))"),
            inner.map(lambda a: f"log(max({a}, 0.5, d))"),
            inner.map(lambda a: f"exp(min({a}, 3))"),
            inner.map(lambda a: f"max({a}, 0.5) ** 1.5"),
        )

    return st.recursive(leaf, grow, max_leaves=8)


@given(trees())
def test_values_are_those_of_python(text):
    names = {"sqrt": math.sqrt, "log": math.log, "exp": math.exp, "min": min, "max": max}
    plain = text.replace("world.dim", "world_dim")
    try:
        expected = eval(plain, {"__builtins__": {}}, {**names, **NUMBERS, "world_dim": 9.0})
    except (ZeroDivisionError, OverflowError):
        return
    assert np.isclose(Expression(text).evaluate(NUMBERS), expected, rtol=1e-12, equal_nan=True)


def test_arrays_broadcast_and_edges_are_infinite():
    t = np.array([0.0, 1.0, 4.0])
    values = Expression("d * log(t) / sqrt(t)").evaluate({"t": t, "d": 2})
    assert np.isnan(values[0]) or np.isinf(values[0])
    assert np.allclose(values[1:], [0.0, 2 * math.log(4) / 2])
    assert Expression("3").evaluate({}).shape == ()
    # A tower of powers is infinity, not an hour of arithmetic.
    assert Expression("9**9**9**9").evaluate({}) == math.inf


def test_names_are_listed():
    assert Expression("world.dim * sqrt(t) + max(n, 2)").names == {"world.dim", "t", "n"}
    assert Expression("-2").names == frozenset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be text"),
        ("d / ", "cannot be read"),
        ("d^2", "write \\*\\* for a power"),
        ("__import__('os').system('true')", "not allowed"),
        ("().__class__", "not allowed"),
        ("t.__class__.__mro__()", "not allowed"),
        ("[t for t in (1, 2)]", "not allowed"),
        ("lambda: 1", "not allowed"),
        ("'d'", "not allowed"),
        ("True", "not allowed"),
        ("1j", "not allowed"),
        ("t if d else 1", "not allowed"),
        ("t % 2", "not allowed"),
        ("(t := 3)", "not allowed"),
        ("f'{t}'", "not allowed"),
        ("log(t, base=2)", "not allowed"),
        ("ln(t)", "functions are sqrt, log"),
        ("sqr(t)", "Did you mean 'sqrt'"),
        ("sqrt", "write sqrt"),
        ("sqrt(t, 2)", "takes one number"),
        ("max(t)", "takes two numbers"),
        ("1e999", "at most 1e300"),
        ("+".join(["t"] * 200), "at most 300 characters"),
        ("\0", "cannot be read"),
    ],
)
def test_anything_else_is_refused(text, words):
    with pytest.raises(ExpressionError, match=words):
        Expression(text)


def test_deep_nesting_is_read_or_refused_but_never_fatal():
    assert Expression("(" * 60 + "t" + ")" * 60).evaluate({"t": 2}) == 2
    # How deep the parser goes depends on the version of Python.
    with contextlib.suppress(ExpressionError):
        Expression("(" * 149 + "t" + ")" * 149).evaluate({"t": 2})


def test_a_missing_name_lists_the_known_ones():
    with pytest.raises(ExpressionError, match=r"known are batch_size, t, learner.batch_size") as e:
        Expression("t * batchsize").evaluate({"t": 1, "batch_size": 2, "learner.batch_size": 2})
    assert "Did you mean 'batch_size'?" in str(e.value)
    with pytest.raises(ExpressionError, match="must be a number; got 'x'"):
        Expression("t").evaluate({"t": "x"})


def test_settings_have_long_short_and_single_letter_names():
    names = setting_names(
        {
            "world.dim": 4,
            "world.actions": np.int64(10),
            "world.kind": "linear",
            "world.shared": True,
            "world.scale": math.inf,
            "learner.batch_size": 32,
            "learner.radius.multiplier": 0.1,
            "learner.enhancer.multiplier": 0.5,
            "world.eta": 0.1,
            "learner.eta": 0.1,
        }
    )
    value = Expression("d + A + m + world.dim + batch_size + eta").evaluate(names)
    assert value == 4 + 10 + 32 + 4 + 32 + 0.1
    assert not {"kind", "shared", "scale", "X"} & set(names)
    with pytest.raises(ExpressionError, match=r"learner.radius.multiplier or learner.enhancer"):
        Expression("multiplier").evaluate(names)
    assert Expression("learner.radius.multiplier").evaluate(names) == 0.1
