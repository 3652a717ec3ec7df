"""What every page is made of: the templates with their filters, and figures with their files."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlhf_theory.report.filters import tags_json
from rlhf_theory.report.svg import inline_svg, standalone_svg
from rlhf_theory.report.words import duration, formula, interval, pretty
from rlhf_theory.store import write_atomic

_MEDIA = {
    "pdf": "application/pdf",
    "svg": "image/svg+xml",
    "csv": "text/csv",
    "toml": "text/plain",
    "json": "application/json",
}
_WORDS = {"csv": "numbers (csv)"}
# A page of forty figures stays below 5 MB (PDF, the largest part, is compressed already). Shorter
# tables are put in as they stand, so that they also open where scripts are off.
_PLAIN_UP_TO = 16_000


@dataclass(frozen=True)
class Download:
    """A file that comes with the page.

    Attributes
    ----------
    name
        Name that it is saved under.
    label
        Text of its link.
    address
        Its content, as a data address.
    media
        Empty, or the type of a file that is compressed by gzip (``.svgz`` or ``.gz``): the script
        of the page hands it out unpacked, without a script it is saved compressed.
    """

    name: str
    label: str
    address: str
    media: str = ""


def download(kind: str, content: bytes, name: str, label: str = "") -> Download:
    """Return a file as a part of the page.

    Parameters
    ----------
    kind
        pdf, svg, csv, toml or json.
    content
        The file.
    name
        Name to save it under, without its ending.
    label
        Text of the link; empty takes the kind.
    """
    media, label = _MEDIA[kind], label or _WORDS.get(kind, kind)
    if kind == "svg" or (kind != "pdf" and len(content) > _PLAIN_UP_TO):
        # No date inside: writing a page twice gives the same page.
        packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
        ending = "svgz" if kind == "svg" else f"{kind}.gz"
        address = f"data:application/gzip;base64,{packed}"
        return Download(f"{name}.{ending}", label.replace(kind, ending), address, media)
    if kind == "pdf":
        address = f"data:{media};base64,{base64.b64encode(content).decode()}"
    else:
        address = f"data:{media};charset=utf-8,{quote(content, safe=' ,:;()/.*+-=_[]')}"
    return Download(f"{name}.{kind}", label, address)


def downloads(folder: Path, name: str, stem: str, kinds: Sequence[str]) -> tuple[Download, ...]:
    """Return the files of a figure in a folder, to be saved as ``name`` with their endings.

    PDF and numbers are the files as they are; the SVG is written shorter and draws the same.
    """
    found = []
    for kind in kinds:
        path = folder / f"{stem}.{kind}"
        if path.is_file():
            content = path.read_bytes()
            if kind == "svg":
                content = standalone_svg(content.decode()).encode()
            found.append(download(kind, content, name))
    return tuple(found)


def figure_svg(folder: Path, name: str, title: str, stem: str) -> Markup | None:
    """Return the figure in a folder as an element of a page, or None where there is none.

    ``name`` is unique on the page; ``title`` says what is shown to those who cannot see it.
    """
    try:
        svg = (folder / f"{stem}.svg").read_text(encoding="utf-8")
        return Markup(inline_svg(svg, name, f"Figure: {title}"))
    except (OSError, ValueError):
        return None


def render(
    path: Path, template: str, *, styles: Sequence[str] = ("page.css",), **content: object
) -> Path:
    """Write a page that holds everything it shows and needs no network; return its path.

    The page allows no script but its own two, by their hashes.

    Parameters
    ----------
    path
        File to write; its folder exists.
    template, styles
        Names of templates: the page, and the style sheets that it takes in.
    content
        What the template shows.
    """
    loader = PackageLoader("rlhf_theory.report", "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        pretty=pretty, interval=interval, duration=duration, formula=formula, tags=tags_json
    )
    style = Markup("\n".join(environment.get_template(name).render() for name in styles))
    scripts = [loader.get_source(environment, name)[0] for name in ("theme.js", "page.js")]
    page = environment.get_template(template).render(
        style=style,
        theme_script=Markup(scripts[0]),
        page_script=Markup(scripts[1]),
        trusted=Markup(" ".join(_hash(script) for script in scripts)),
        **content,
    )
    write_atomic(path, page.encode())
    return path


def _hash(script: str) -> str:
    """Return what a content security policy calls a script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
