"""One line per mistake."""

import pickle

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf_theory.studies.messages import (
    Mistake,
    StudyError,
    choices,
    mistakes_of,
    place_of,
    shown,
)


def test_places_read_as_in_the_file():
    assert place_of(("world", 1, "dim", "grid", 0)) == "world[1].dim.grid[0]"
    assert place_of(()) == ""
    assert str(Mistake("", "all wrong")) == "all wrong"


def test_an_error_says_each_mistake_once_and_travels():
    a, b = Mistake("rounds", "is missing."), Mistake("world[0]", "must be a table.")
    error = StudyError([a, b, a])
    assert str(error) == "rounds: is missing.\nworld[0]: must be a table."
    assert isinstance(error, ValueError)
    copy = pickle.loads(pickle.dumps(error))
    assert copy.mistakes == (a, b)
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        ("a", '"a"'),
        (None, "none"),
        (0.1, "0.1"),
        ([1, "b"], '[1, "b"]'),
        ({"kind": "x", "n": 1}, '{ kind = "x", n = 1 }'),
    ],
)
def test_values_are_shown_as_a_file_has_them(value, text):
    assert shown(value) == text


def test_long_values_are_cut():
    assert len(shown(list(range(100)))) == 80
    assert choices([]) == "none"


def test_complaints_of_pydantic_become_sentences():
    class Table(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
        count: int = Field(ge=1)
        share: float = Field(lt=1.0, default=0.5)
        words: list[str] = Field(min_length=1, default=["a"])
        flag: bool = False

    with pytest.raises(ValidationError) as caught:
        Table(share=2.0, words=[], flag="yes", cuont=3)
    lines = [str(m) for m in mistakes_of(caught.value.errors(), ("table",), Table.model_fields)]
    assert lines == [
        "table.count: is missing.",
        "table.share: must be less than 1.0; got 2.0.",
        "table.words: must have at least 1 entries; got [].",
        'table.flag: must be true or false; got "yes".',
        "table.cuont: unknown key; allowed are 'count', 'share', 'words', 'flag'. "
        "Did you mean 'count'?",
    ]
