"""The studies that come with the package, by name: the standard regret benchmark."""

from __future__ import annotations

import tomllib
from pathlib import Path

from rlhf_theory.errors import check_choice

# In a wheel the files lie beside this one; in a checkout they are those of `benchmarks/regret`.
_PLACES = (
    Path(__file__).parent / "regret",
    Path(__file__).parents[2] / "benchmarks" / "regret",
)


def bundled_studies() -> dict[str, Path]:
    """Return the studies that come with the package, name to file."""
    for place in _PLACES:
        if place.is_dir():
            return {path.stem: path for path in sorted(place.glob("*.toml"))}
    return {}


def title(path: Path) -> str:
    """Return the title of a study file."""
    return str(tomllib.loads(path.read_text(encoding="utf-8")).get("title", ""))


def study_path(study: str) -> Path:
    """Return the file of a study: a path that exists, or a listed name.

    Raises
    ------
    ValueError
        If it is neither.
    """
    path = Path(study)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        message = f"The study must be a file or a listed name; there is no file {study}."
        raise ValueError(message)
    if path.with_suffix(".toml").is_file():
        message = f"The study must be a file or a listed name. Did you mean {study}.toml?"
        raise ValueError(message)
    known = bundled_studies()
    check_choice("study", study, known)
    return known[study]


def study_text(study: str) -> str:
    """Return the text of a study, a file or a listed name."""
    return study_path(study).read_text(encoding="utf-8")
