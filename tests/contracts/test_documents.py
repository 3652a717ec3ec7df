"""What the documents promise: references, sections and links exist, formulas render."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
SOURCES = sorted(
    path
    for folder in ("rlhf_theory", "llm_bridge", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
REFERENCES = ROOT / "docs" / "references.md"
THEORY = ROOT / "docs" / "theory.md"

NUMBERS = r"\d+(?:\.\d+)?(?:(?:,| and| to)\s+\d+(?:\.\d+)?)*"


def text_of(path):
    """Return a file as running text: string literals and comments joined across lines."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"\s*\n\s*#?\s*", " ", re.sub(r'"\s*\n\s*f?"', "", text))


def without_code(text):
    """Return a document without code blocks and code spans; lines stay where they are."""
    text = re.sub(r"```.*?```", lambda block: re.sub(r"[^\n]", "", block[0]), text, flags=re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def sections():
    """Return the numbers of sections, paragraphs and identities of the theory sheet."""
    text = THEORY.read_text(encoding="utf-8")
    return set(re.findall(r"^(?:#+ |\*\*)(\d+(?:\.\d+)?|I\d)\.? ", text, flags=re.M))


def anchors(path):
    """Return the anchors of the headings of a document."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_key_is_a_reference_and_every_reference_is_cited():
    listed = re.findall(
        r"^\* \[(\d{4}\.\d{5})\]\(", REFERENCES.read_text(encoding="utf-8"), flags=re.M
    )
    texts = [text_of(path) for path in [*SOURCES, *DOCUMENTS] if path != REFERENCES]
    cited = {key for text in texts for key in re.findall(r"\[(\d{4}\.\d{5})\]", text)}
    assert listed == sorted(set(listed))
    assert cited == set(listed)


def test_every_section_of_the_theory_sheet_that_is_cited_exists():
    found = set()
    for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]:
        text = text_of(path)
        for numbers in re.findall(rf"theory sheet,?\s+(?:section\s+)?({NUMBERS})", text):
            found |= set(re.findall(r"\d+(?:\.\d+)?", numbers))
        for names in re.findall(r"[Ii]dentit(?:y|ies) (I\d(?:(?:,| and) I\d)*)", text):
            found |= set(re.findall(r"I\d", names))
    assert len(found) > 20
    assert not found - sections()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_formulas_reach_the_renderer_as_they_are_written(path):
    """Markdown reads a text before its formulas are set, and must find nothing in them."""
    text = without_code(path.read_text(encoding="utf-8"))
    assert text.count("$") % 2 == 0
    for formula in re.findall(r"\$([^$]*)\$", text):
        assert formula == formula.strip()
        assert "\n" not in formula
        # A backslash before punctuation is dropped, an underscore after it opens an emphasis, and
        # these characters are emphasis, tags, entities or cells of tables.
        assert not re.search(r"\\[^A-Za-z ]|(?:^|[^A-Za-z0-9])_|[*<>&~|]|\]\(", formula), formula
    # A dollar sign beside a letter is none that opens or closes a formula.
    marked = re.sub(r"\$[^$]*\$", "$$", text)
    assert not re.search(r"[A-Za-z0-9]\$\$|\$\$[A-Za-z0-9]", marked)
