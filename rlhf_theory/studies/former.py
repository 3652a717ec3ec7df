"""What format 1 called things, so that whoever writes it is told what to write; never an alias."""

from __future__ import annotations

KINDS = {
    ("radius", "r1"): "global-fixed-design",
    ("radius", "r1-prime"): "fixed-design",
    ("radius", "r2"): "global-adaptive",
    ("radius", "r2-prime"): "adaptive",
    ("radius", "r2-ridge"): "adaptive-ridge",
    ("radius", "r3"): "likelihood-ratio",
    ("radius", "r4"): "marginal-likelihood",
    ("radius", "r5"): "wald",
}
"""By role and former name of a kind: its name."""

SETTINGS = {
    ("learner", "n_offline"): "offline_pairs",
    ("world", "n"): "pairs",
}
"""By role and former name of a key or setting: its name. An entry may have a setting of that name;
then it is no former one."""

_RESULTS = (1, 2)
"""Former formats of results; study files have numbers of their own."""

WORDS = {"t": "round or pairs", "n": "labels"}
"""By former name of what the rows of results count: what bounds and axes call it."""


def file_of_format_1() -> str:
    """Return what to write in the place of a file of format 1."""
    keys = ", ".join(f"{new} for {old}" for (_, old), new in SETTINGS.items())
    words = ", ".join(f"{new} for {old}" for old, new in WORDS.items())
    kinds = ", ".join(f"{new} for {old}" for (_, old), new in KINDS.items())
    return (
        f"is 1, which is not read any more; write format = 2, and in the file: {keys}; in "
        f"bounds and as x of plots: {words}; as kinds of confidence rules: {kinds}."
    )


def former_results(what: str, written_in: object) -> str:
    """Return what to do about results of a former format, or nothing where it is none.

    Parameters
    ----------
    what
        What they are, at the start of the sentence.
    written_in
        The format that they say.
    """
    if written_in not in _RESULTS:
        return ""
    return (
        f"{what} is of format {written_in}, which is not read any more: the results have to be "
        "computed anew, in another folder."
    )
