"""What every page is made of: the templates with their filters, and figures with their files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlhf_theory.experiments.store import write_atomic
from rlhf_theory.report.svg import inline_svg
from rlhf_theory.report.words import duration, formula, interval, pretty

__all__ = ["downloads", "figure_svg", "render"]

_DOWNLOADS = (("pdf", "application/pdf"), ("svg", "image/svg+xml"), ("csv", "text/csv"))


def figure_svg(folder: Path, name: str, title: str, stem: str = "figure") -> Markup | None:
    """Return the figure in a folder as an element of a page, or None where there is none.

    ``name`` is unique on the page; ``title`` says what is shown to those who cannot see it.
    """
    try:
        svg = (folder / f"{stem}.svg").read_text(encoding="utf-8")
        return Markup(inline_svg(svg, name, f"Figure: {title}"))
    except (OSError, ValueError):
        return None


def downloads(folder: Path, stem: str = "figure") -> tuple[tuple[str, str], ...]:
    """Return the files of a figure, kind and data address: they come with the page."""
    found = []
    for kind, media in _DOWNLOADS:
        path = folder / f"{stem}.{kind}"
        if path.is_file():
            content = base64.b64encode(path.read_bytes()).decode()
            found.append((kind, f"data:{media};base64,{content}"))
    return tuple(found)


def render(
    path: Path, template: str, *, styles: Sequence[str] = ("page.css",), **content: object
) -> Path:
    """Write a page that holds everything it shows and needs no network; return its path.

    Parameters
    ----------
    path
        File to write; its folder exists.
    template, styles
        Names of templates: the page, and the style sheets that it takes in.
    content
        What the template shows.
    """
    environment = Environment(
        loader=PackageLoader("rlhf_theory.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(pretty=pretty, interval=interval, duration=duration, formula=formula)
    style = Markup("\n".join(environment.get_template(name).render() for name in styles))
    page = environment.get_template(template).render(style=style, **content)
    write_atomic(path, page.encode())
    return path
