"""SVG of matplotlib, made small: the same drawing, to a fraction of a point."""

from __future__ import annotations

import itertools
import re
from collections import Counter

_LENGTHS = {"M": 2, "L": 2, "Q": 4, "C": 6, "z": 0}
_TOKEN = re.compile(r"[A-Za-z]|[-+]?[\d.]+(?:[eE][-+]?\d+)?")
_ROUNDED = r"(?:x|y|x1|x2|y1|y2|cx|cy|r|width|height|points)"


def compact_svg(svg: str, scope: str, digits: int = 2) -> str:
    """Return an SVG element that draws the same with fewer letters: about a quarter.

    Coordinates are rounded, and paths written in steps from point to point; styles that come
    back become classes; white space between elements, ids that nothing refers to, and groups
    without attributes go. Text stays as it is, and so does a path of other commands than those of
    matplotlib.

    Parameters
    ----------
    svg
        An element, as written by matplotlib with text as text.
    scope
        A class that the ``<svg>`` element gets: the new style sheet holds below it only. Unique on
        the page.
    digits
        Decimals of a point that are kept, at least one. The report shows a point as at most two
        pixels: with one decimal, nothing is off by more than a tenth of a pixel.

    Examples
    --------
    >>> print(compact_svg('<svg><g id="a"><path d="M 1.004 2 L 3.5 2 L 5 0 z"/></g></svg>', "s"))
    <svg class="s"><path d="M1 2h2.5l1.5-2z"/></svg>
    """
    used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    short = {name: _letters(number) for number, name in enumerate(sorted(used))}
    out: list[str] = []
    kept: list[bool] = []
    for piece in re.split(r"(<[^>]*>)", svg):
        if not piece.startswith("<"):
            # Between elements only white space is written; words stand inside <text> or <tspan>.
            out.append(piece if piece.strip() else "")
            continue
        tag = _tag(piece, short, digits)
        if tag == "</g>":
            if not kept or kept.pop():
                out.append(tag)
        elif tag == "<g>":
            kept.append(False)
        else:
            if tag.startswith("<g ") and not tag.endswith("/>"):
                kept.append(True)
            out.append(tag)
    return _classes("".join(out), scope)


def _classes(svg: str, scope: str) -> str:
    """Return the element with a style sheet of its own for styles that stand in it repeatedly."""
    counts = Counter(re.findall(r' style="([^"]*)"', svg))
    # The most frequent ones get the shortest names; equal counts in order of their first use.
    repeated = [style for style, count in counts.most_common() if count > 1 and style]
    names = {style: _letters(number) for number, style in enumerate(repeated)}
    rules = "".join(f".{scope} .{name}{{{style}}}" for style, name in names.items())
    svg = re.sub(
        r' style="([^"]*)"', lambda m: f' class="{names[m[1]]}"' if m[1] in names else m[0], svg
    )
    sheet = f"<style>{rules}</style>" if rules else ""
    return re.sub(r"<svg([^>]*)>", lambda m: f'<svg class="{scope}"{m[1]}>{sheet}', svg, count=1)


def _letters(number: int) -> str:
    """Return a short name: a, b, ..., z, aa, ab, ..."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("a") + rest) + name
    return name


def _tag(tag: str, short: dict[str, str], digits: int) -> str:
    tag = re.sub(r"\s+", " ", tag) if " d=" not in tag else tag
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", tag)
    tag = re.sub(r'href="#([^"]+)"', lambda m: f'href="#{short[m[1]]}"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{short[m[1]]})", tag)
    tag = re.sub(r' d="([^"]*)"', lambda m: f' d="{_path(m[1], digits)}"', tag)
    tag = re.sub(rf' ({_ROUNDED})="([^"]*)"', lambda m: f' {m[1]}="{_round(m[2], digits)}"', tag)
    tag = re.sub(r' style="([^"]*)"', lambda m: f' style="{_style(m[1])}"', tag)
    tag = re.sub(r' transform="([^"]*)"', lambda m: _transform(m, digits), tag)
    return re.sub(r"\s*(/?>)$", r"\1", tag)


def _style(style: str) -> str:
    return re.sub(r"([:;,]) +", r"\1", style.strip().rstrip(";"))


def _transform(match: re.Match[str], digits: int) -> str:
    # A scale multiplies large numbers: only shifts and turns may be rounded.
    if not re.fullmatch(r"(?:\s*(?:translate|rotate)\([^)]*\))*\s*", match[1]):
        return match[0]
    kept = [
        f"{kind}({_round(inside, digits)})"
        for kind, inside in re.findall(r"(translate|rotate)\(([^)]*)\)", match[1])
        if not (kind == "rotate" and float(re.split(r"[ ,]+", inside.strip())[0]) == 0)
    ]
    return f' transform="{"".join(kept)}"' if kept else ""


def _round(numbers: str, digits: int) -> str:
    return re.sub(
        r"-?\d+\.\d+", lambda m: _written(round(float(m[0]) * 10**digits), digits), numbers
    )


def _written(number: int, digits: int) -> str:
    """Return a whole number of steps of ``10**-digits`` as a decimal, without needless zeros."""
    whole, rest = divmod(abs(number), 10**digits)
    text = f"{whole or ''}.{rest:0{digits}d}".rstrip("0") if rest else str(whole)
    return f"-{text}" if number < 0 else text


def _path(d: str, digits: int) -> str:
    """Return a path with steps instead of places, straight runs joined; or itself, if unknown."""
    tokens = iter(_TOKEN.findall(d))
    out = _Pen(digits)
    for command in tokens:
        if command not in _LENGTHS:
            return d
        numbers = list(itertools.islice(tokens, _LENGTHS[command]))
        if len(numbers) < _LENGTHS[command] or any(n.isalpha() for n in numbers):
            return d
        # Rounded before differences are taken, so that errors do not add up along the path.
        places = [round(float(n) * 10**digits) for n in numbers]
        out.draw(command, places)
    return out.text()


class _Pen:
    """Writes a path; knows where it is and joins steps in one direction."""

    def __init__(self, digits: int) -> None:
        self._digits = digits
        self._parts: list[str] = []
        self._last = ""
        self._at = (0, 0)
        self._start = (0, 0)
        self._step: tuple[int, int] | None = None

    def draw(self, command: str, places: list[int]) -> None:
        """Add one command with absolute places, in whole steps."""
        if command == "L":
            self._line(places[0] - self._at[0], places[1] - self._at[1])
        else:
            self._flush()
            if command == "z":
                self._write("z", [])
                self._at = self._start
                return
            if command == "M":
                self._write("M", places)
                self._start = (places[-2], places[-1])
            else:
                x, y = self._at
                self._write(
                    command.lower(), [p - (x if k % 2 == 0 else y) for k, p in enumerate(places)]
                )
        self._at = (places[-2], places[-1])

    def text(self) -> str:
        """Return the path."""
        self._flush()
        return "".join(self._parts)

    def _line(self, dx: int, dy: int) -> None:
        if self._step is not None:
            x, y = self._step
            if x * dy == y * dx and x * dx + y * dy > 0:
                self._step = (x + dx, y + dy)
                return
            self._flush()
        # A step of nothing is a dot where the path has round ends: it is kept if nothing follows.
        if (dx, dy) != (0, 0) or self._last == "M":
            self._step = (dx, dy)

    def _flush(self) -> None:
        if self._step is None:
            return
        dx, dy = self._step
        self._step = None
        if dy == 0:
            self._write("h", [dx])
        elif dx == 0:
            self._write("v", [dy])
        else:
            self._write("l", [dx, dy])

    def _write(self, letter: str, numbers: list[int]) -> None:
        self._parts.append("" if letter == self._last and letter != "M" else letter)
        for k, number in enumerate(numbers):
            word = _written(number, self._digits)
            first = k == 0 and self._parts[-1] != ""
            self._parts.append(word if first or word.startswith("-") else f" {word}")
        self._last = letter
