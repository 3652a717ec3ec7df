"""Figures inside a page: SVG that follows the colours and the fonts around it."""

from __future__ import annotations

import re

from rlhf_theory.plots.style import COLORS, INK, MUTED, PAPER
from rlhf_theory.report.compact import compact_svg

# In a file as on a page: nothing that is drawn.
_NEEDLESS = (r"<!DOCTYPE.*?>", r"<!--.*?-->", r"<metadata>.*?</metadata>")
_DROPPED = (
    *_NEEDLESS,
    r"<\?xml.*?\?>",
    # A style sheet inside an SVG would hold for the whole page.
    r"<defs>\s*<style.*?</style>\s*</defs>",
    r'\s+xmlns(:\w+)?="[^"]*"',
    r'\s+version="1\.1"',
)


def standalone_svg(svg: str) -> str:
    """Return an SVG file that draws the same with fewer letters.

    It keeps its own colours, fonts and size, and loses what is not drawn: the description of the
    file (written by which program), comments, and names that nothing refers to.
    """
    for pattern in _NEEDLESS:
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    return compact_svg(svg, "figure").strip() + "\n"


def inline_svg(svg: str, name: str, title: str) -> str:
    """Return an SVG file as an element of an HTML page.

    Parameters
    ----------
    svg
        The file, as written by ``plots.figures.save``.
    name
        Unique on the page: all ids start with it, so that figures cannot refer to each other.
    title
        What is shown, for those who cannot see it.

    Returns
    -------
    An ``<svg>`` element without namespaces and metadata, made small, whose style sheet holds for
    itself only. Ink, muted ink and paper have become CSS variables of the page, the series colours
    variables with themselves as default; its natural width is the variable ``--natural``.
    """
    for pattern in _DROPPED:
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    scope = "figure-" + re.sub(r"[^\w-]", lambda m: f"-{ord(m[0]):x}-", name)
    svg = compact_svg(svg.replace("xlink:href", "href"), scope, digits=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r"font-family: ?[^;\"}]+", "font-family:inherit", svg)

    # Black is what matplotlib draws with outside the theme.
    variables = {
        INK: "currentColor",
        "#000000": "currentColor",
        MUTED: "var(--muted)",
        PAPER: "var(--paper)",
    }
    for label, color in COLORS.items():
        variables.setdefault(color, f"var(--{label}, {color})")
    for color, variable in variables.items():
        svg = re.sub(rf"(: ?){color}\b", rf"\g<1>{variable}", svg, flags=re.IGNORECASE)

    head = re.search(r"<svg[^>]*>", svg)
    width = re.search(r'width="([\d.]+)pt"', head.group() if head else "")
    if head is None or width is None:
        message = "A figure must be an SVG file with its width in points; got another file."
        raise ValueError(message)
    plain = re.sub(r'\s(width|height)="[^"]*"', "", head.group())
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    # 1 pt is 4/3 CSS pixels.
    natural = f"--natural: {float(width.group(1)) * 4 / 3:.0f}px"
    opened = plain[:-1] + f' role="img" aria-label="{label}" style="{natural}">'
    return svg.replace(head.group(), opened, 1).strip()
