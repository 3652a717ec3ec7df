"""The tables of the tiny world: topics and their facts, question forms, and phrases of answers."""

from __future__ import annotations

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Tokens that are no words, at the head of the vocabulary; padding is not the end of a text."""

COLORS = ("black", "blue", "brown", "gray", "green", "red", "white", "yellow")
PLACES = ("desert", "field", "forest", "garden", "lake", "mountain", "river", "sea")

VALUES = {"color": COLORS, "place": PLACES}
"""Possible answers to each of the two questions."""

_NATURE = {
    "bear": ("brown", "mountain"),
    "cactus": ("green", "desert"),
    "camel": ("brown", "desert"),
    "crab": ("red", "sea"),
    "crow": ("black", "field"),
    "daisy": ("white", "field"),
    "fox": ("red", "forest"),
    "frog": ("green", "lake"),
    "goat": ("white", "mountain"),
    "lemon": ("yellow", "garden"),
    "lizard": ("green", "desert"),
    "mole": ("black", "garden"),
    "moss": ("green", "forest"),
    "oak": ("brown", "forest"),
    "otter": ("brown", "river"),
    "rose": ("red", "garden"),
    "sand": ("yellow", "desert"),
    "shark": ("gray", "sea"),
    "snow": ("white", "mountain"),
    "swan": ("white", "lake"),
    "trout": ("gray", "river"),
    "wasp": ("yellow", "field"),
    "whale": ("blue", "sea"),
    "wolf": ("gray", "forest"),
}

TOPICS = tuple(_NATURE)

FACTS = {
    (topic, question): value
    for topic, (color, place) in _NATURE.items()
    for question, value in (("color", color), ("place", place))
}
"""The right answer to each question about each topic."""

# Every question ends before the style begins, and every style names its length in its own words, so
# that a prompt is read back without guessing.
QUESTION_FORMS = {
    "color": (
        "what color is {topic} ?",
        "which color does {topic} have ?",
        "tell me the color of {topic} .",
        "i want to know the color of {topic} .",
    ),
    "place": (
        "where is {topic} found ?",
        "where can i find {topic} ?",
        "tell me the place of {topic} .",
        "i want to know the place of {topic} .",
    ),
}

STYLE_FORMS = {
    "brief": ("answer briefly .", "keep it short ."),
    "full": ("answer in full .", "give me the details ."),
}
"""How a prompt asks for a short or a long answer."""

OPENERS = {
    "polite": ("sure ,", "of course ,"),
    "plain": ("",),
    "rude": ("obviously ,", "silly question ,"),
}
"""Openers by tone; a plain answer has none."""

FACT_FORMS = {
    "color": ("{topic} is {value} .", "the color of {topic} is {value} ."),
    "place": ("{topic} is found in the {value} .", "look for {topic} in the {value} ."),
}

FILLERS = (
    "this is well known .",
    "many people say so .",
    "books tell more .",
    "nothing new here .",
    "much could be added .",
)
"""Sentences that say nothing."""

OPINIONS = {
    1: ("i love it .", "how lovely ."),
    0: ("",),
    -1: ("i hate it .", "how ugly ."),
}
"""Opinions by sentiment; a neutral answer has none."""

CLOSINGS = ("hope this helps .", "have a nice day .")


def vocabulary() -> tuple[str, ...]:
    """Return all tokens: the special ones, then every word of the grammar in alphabetical order."""
    phrases = [
        *(f for forms in QUESTION_FORMS.values() for f in forms),
        *(f for forms in STYLE_FORMS.values() for f in forms),
        *(o for openers in OPENERS.values() for o in openers),
        *(f for forms in FACT_FORMS.values() for f in forms),
        *FILLERS,
        *(o for opinions in OPINIONS.values() for o in opinions),
        *CLOSINGS,
        *TOPICS,
        *COLORS,
        *PLACES,
    ]
    words = {w for p in phrases for w in p.split()} - {"{topic}", "{value}"}
    return (*SPECIAL, *sorted(words))
