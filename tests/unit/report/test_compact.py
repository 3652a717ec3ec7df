from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_theory.report.compact import compact_svg


def path_of(svg: str) -> str:
    found = re.search(r' d="([^"]*)"', svg)
    assert found is not None
    return found.group(1)


def read(path: str) -> list[list[tuple[float, float]]]:
    """Read a path slowly, command by command; returns its lines as absolute points."""
    numbers = iter(re.findall(r"[A-Za-z]|-?\d*\.\d+|-?\d+", path))
    lines: list[list[tuple[float, float]]] = []
    letter, at = "", (0.0, 0.0)

    def number(first=None):
        return float(next(numbers) if first is None else first)

    for token in numbers:
        first = None
        if token.isalpha():
            letter = token
        else:
            first = token
        if letter == "z":
            lines[-1].append(lines[-1][0])
            at = lines[-1][0]
        elif letter == "M":
            at = (number(first), number())
            lines.append([at])
        else:
            x, y = at
            if letter == "h":
                at = (x + number(first), y)
            elif letter == "v":
                at = (x, y + number(first))
            elif letter == "l":
                at = (x + number(first), y + number())
            else:
                size = {"q": 4, "c": 6}[letter]
                steps = [number(first), *(number() for _ in range(size - 1))]
                lines[-1] += [
                    (x + dx, y + dy) for dx, dy in zip(steps[::2], steps[1::2], strict=True)
                ]
                at = lines[-1].pop()
            lines[-1].append(at)
    return lines


def distance(point, line) -> float:
    """Return the distance of a point from a line of segments."""
    p = np.array(point)
    best = min(float(np.linalg.norm(p - np.array(q))) for q in line)
    for a, b in pairwise(np.array(line)):
        if (length := float((b - a) @ (b - a))) > 0:
            s = np.clip((p - a) @ (b - a) / length, 0, 1)
            best = min(best, float(np.linalg.norm(p - a - s * (b - a))))
    return best


coordinate = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-2000, 2000).map(lambda v: round(v, 6))
)


@given(
    st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=12),
    st.booleans(),
    st.integers(1, 4),
)
def test_a_path_goes_through_the_same_points(points, closed, digits):
    d = "M " + "\nL ".join(f"{x:.6f} {y:.6f}" for x, y in points) + ("\nz" if closed else "")
    small = path_of(compact_svg(f'<svg><path d="{d}"/></svg>', "s", digits))
    (line,) = read(small)
    # Rounding moves a point by at most half a step in each direction.
    far = 0.5 * 10**-digits * np.sqrt(2) + 1e-9
    assert max(distance(p, line) for p in points) <= far
    whole = [*points, points[0]] if closed else points
    assert max(distance(p, whole) for p in line) <= far
    assert len(small) <= len(d)


def test_errors_do_not_add_up_along_a_path():
    d = "M 0 0 " + " ".join(f"L {0.004 * k:.3f} {k % 2}" for k in range(1, 1001))
    (line,) = read(path_of(compact_svg(f'<svg><path d="{d}"/></svg>', "s")))
    assert line[-1] == pytest.approx((4.0, 0.0), abs=0.005)


@pytest.mark.parametrize(
    ("d", "small"),
    [
        ("M 1 2 L 3 2 L 5 2 L 5 9", "M1 2h4v7"),
        ("M 1 2 L 3 2 L 2 2", "M1 2h2h-1"),  # back again: the end of the line counts
        ("M 1 2 L 1 2", "M1 2h0"),  # a dot, where ends are round
        ("M 0 0 Q 1 1 2 0 C 2 1 3 1 4 0.5 L 5 0", "M0 0q1 1 2 0c0 1 1 1 2 .5l1-.5"),
        ("M 0 0 L 1 1 z M 10 10 L 11 12", "M0 0l1 1zM10 10l1 2"),
        ("M 100.004 -0.006", "M100-.01"),
        ("M 0 0 A 1 1 0 0 0 2 2", "M 0 0 A 1 1 0 0 0 2 2"),  # an arc is left alone
        ("M 0 0 L 1", "M 0 0 L 1"),
    ],
)
def test_paths_are_written_in_steps(d, small):
    # Equal letters in a row are written once.
    small = small.replace("h2h-1", "h2-1")
    assert path_of(compact_svg(f'<svg><path d="{d}"/></svg>', "s")) == small


def test_what_is_used_and_what_is_said_stays():
    svg = """<svg viewBox="0 0 486 211.921758">
 <defs>
  <path id="m82cfd" d="M 0 0
L 0 2.6
" style="stroke: #1b1c1e; stroke-width: 0.6"/>
 </defs>
 <g id="figure_1">
  <g clip-path="url(#p56)">
   <use href="#m82cfd" x="43.025133" y="163.268984" style="stroke: #1b1c1e; fill: none"/>
   <use href="#m82cfd" x="53.025133" y="163.268984" style="stroke: #1b1c1e; fill: none"/>
  </g>
  <g id="text_1">
   <text x="1.00499" transform="translate(1.23456 2) rotate(-0 3 4)">0.123456  &lt; b</text>
   <text transform="rotate(-90 8.123456 4)"><tspan>a</tspan></text>
  </g>
  <image transform="scale(1 -1) translate(0 -12.34567)" width="10.000001"/>
  <rect clip-path="url(#p56)"/>
 </g>
 <clipPath id="p56"><rect height="1.999999"/></clipPath>
</svg>"""
    small = compact_svg(svg, "s")
    ET.fromstring(small)
    assert small == (
        '<svg class="s" viewBox="0 0 486 211.921758">'
        "<style>.s .a{stroke:#1b1c1e;fill:none}</style>"
        '<defs><path id="a" d="M0 0v2.6" style="stroke:#1b1c1e;stroke-width:0.6"/></defs>'
        '<g clip-path="url(#b)">'
        '<use href="#a" x="43.03" y="163.27" class="a"/>'
        '<use href="#a" x="53.03" y="163.27" class="a"/>'
        "</g>"
        '<text x="1" transform="translate(1.23 2)">0.123456  &lt; b</text>'
        '<text transform="rotate(-90 8.12 4)"><tspan>a</tspan></text>'
        '<image transform="scale(1 -1) translate(0 -12.34567)" width="10"/>'
        '<rect clip-path="url(#b)"/>'
        '<clipPath id="b"><rect height="2"/></clipPath></svg>'
    )


def test_names_stay_different_beyond_the_alphabet():
    uses = "".join(f'<use href="#m{k}"/><path id="m{k}" d="M {k} 0"/>' for k in range(800))
    small = compact_svg(f"<svg>{uses}</svg>", "s")
    ids = re.findall(r' id="([^"]+)" d="M(\d+) ', small)
    assert len({name for name, _ in ids}) == 800
    # Each reference still points to the path that followed it.
    assert [name for name, _ in ids] == re.findall(r'href="#([^"]+)"', small)


def test_a_broken_file_is_not_made_worse():
    assert compact_svg("<svg></g><path d='M 1 2'/></svg>", "s").count("</g>") == 1
