"""Numbers and formulas as people write them, for the page."""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape

from rlhf_theory.plots.axes import power_of_ten

# A letter, a combining accent or a closing bracket, then _ or ^, then {anything}, a word, or signs.
_SCRIPT = re.compile(
    r"(?P<before>[^\W\d_]+|[\u0300-\u036f‖|)\]*]|</sub>)"
    r"(?P<kind>[_^])"
    r"(?:\{(?P<braces>[^{}]+)\}|(?P<bare>[−+-]?\w+[*]?|\*))"
)


def pretty(value: object) -> str:
    """Return a number as people write it; other values as text.

    Examples
    --------
    >>> [pretty(v) for v in (0.95, -3, 3.2e-7, float("inf"), "yes")]
    ['0.95', '−3', '3.2·10⁻⁷', '∞', 'yes']
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size != 0 and not 1e-3 <= size < 1e6:
        lead, exponent = f"{value:.2e}".split("e")
        lead = lead.rstrip("0").rstrip(".")
        return f"{lead}·{power_of_ten(int(exponent))}".replace("-", "−")
    digits = f"{value:,.0f}" if size >= 1e4 else f"{value:.4g}"
    # A thin space between thousands; a minus sign instead of a hyphen.
    return digits.replace(",", "\u202f").replace("-", "−")


def interval(ends: tuple[float, float] | None) -> str:
    """Return an interval in words; ``exact`` where there is none.

    Examples
    --------
    >>> interval((-0.5, 1.25)), interval(None)
    ('−0.5 to 1.25', 'exact')
    """
    return "exact" if ends is None else f"{pretty(ends[0])} to {pretty(ends[1])}"


def duration(seconds: float) -> str:
    """Return a time in words.

    Examples
    --------
    >>> duration(3.14159), duration(125.0)
    ('3.1 s', '2 min 5 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def formula(text: str) -> Markup:
    """Return plain text as HTML, with ``_`` and ``^`` of formulas as indices and exponents.

    An underscore between two longer words is a name in code and stays.

    Examples
    --------
    >>> print(formula("‖v‖_{Σ⁻¹} < C^π, batch_size"))
    ‖v‖<sub>Σ⁻¹</sub> &lt; C<sup>π</sup>, batch_size
    """
    once = _SCRIPT.sub(_script, str(escape(text)))
    # Once more for an exponent behind an index.
    return Markup(_SCRIPT.sub(_script, once))


def _script(match: re.Match[str]) -> str:
    before, inside = match["before"], match["braces"] or match["bare"]
    name = match["braces"] is None and match["kind"] == "_" and before[-1:].isascii()
    if name and len(inside) > 1 and not inside.isupper():
        return match.group()
    tag = "sub" if match["kind"] == "_" else "sup"
    return f"{before}<{tag}>{inside}</{tag}>"
