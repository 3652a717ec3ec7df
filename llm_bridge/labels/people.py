"""Labels by people: the selected pairs go to a file, the answers come from one.

A run that needs labels which nobody gave yet writes its questions and stops; started again it finds
the answers and goes on. Answers are found by content, so a rerun replays its earlier rounds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from llm_bridge.errors import LabelsPending
from llm_bridge.labels.scoring import asked_pairs, shown, transcript
from llm_bridge.language.models import Prompt
from llm_bridge.language.sampler import Response
from llm_bridge.storage.folders import claim
from llm_bridge.storage.jsonl import problems_with, read_jsonl, write_jsonl
from rlhf_theory.arrays import as_like
from rlhf_theory.data import Comparisons, PairQuery
from rlhf_theory.randomness import Key
from rlhf_theory.store import DamagedError, seal, unseal

_MARKER = {"kind": "llm_bridge labels", "format": 1}
_WORDS = {"a": 1.0, "b": 0.0, "tie": 0.5}
_LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Question:
    """Which of two responses to a prompt is better.

    Attributes
    ----------
    prompt, response_a, response_b
        As people read them. Which response comes first is decided by the hash of the texts, so that
        its place tells nothing about who wrote it.
    """

    prompt: str
    response_a: str
    response_b: str

    @classmethod
    def of(cls, prompt: str, first: str, second: str) -> Question:
        """Return the question about a pair; the same one for the pair swapped."""
        low, high = sorted((first, second))
        flip = _digest(prompt, low, high)[-1] & 1
        return cls(prompt, high, low) if flip else cls(prompt, low, high)

    @property
    def key(self) -> str:
        """Hash of prompt and both responses, in whichever order; 24 hex digits."""
        return _digest(self.prompt, *sorted((self.response_a, self.response_b))).hex()

    def row(self, label: float | None = None) -> dict[str, object]:
        """Return the line of the file, with an empty label unless given."""
        return {
            "key": self.key,
            "prompt": self.prompt,
            "response_a": self.response_a,
            "response_b": self.response_b,
            "label": label,
        }


def _digest(*texts: str) -> bytes:
    # Escapes, so that any text has bytes and the ends of the parts are told apart.
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=12).digest()


@dataclass(frozen=True)
class LabelFile:
    """Feedback by people, through files of one folder.

    * ``pending.jsonl``: the questions that wait for an answer, one JSON object per line with
      ``key``, ``prompt``, ``response_a``, ``response_b`` and an empty ``label``. Fill in the labels
      there, or send the file around and put the answers into the next one.
    * ``answers.jsonl``: what was answered, lines with ``key`` and ``label`` at least. Where a line
      also has the responses, its ``label`` is about them, in their order there. A line that has
      been read gets a ``digest``, by which damage is told from then on.
    * ``questions.jsonl``: all that was ever asked.

    A label is ``"a"`` or ``"b"`` for the better response, ``"tie"``, or a number from 0 to 1: the
    share of people who prefer ``a``.

    One question is asked per content; a pair that comes again, in the same batch or a later round,
    gets the answer that is there. Estimators count every copy as an independent label, so replayed
    answers void the guarantee of confidence sets, which come out too small; `SelectJob` never asks
    a pair twice. Where several people answer, give the share. Equal texts are a tie, unasked.

    Attributes
    ----------
    folder
        Where the files are; made if it is missing.

    Raises
    ------
    ValueError
        If the folder holds anything else.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        claim(self.folder, _MARKER, "label file")

    @property
    def pending(self) -> Path:
        """The file with the questions that wait for an answer."""
        return self.folder / "pending.jsonl"

    @property
    def answers(self) -> Path:
        """The file with the answers."""
        return self.folder / "answers.jsonl"

    @property
    def questions(self) -> Path:
        """The file with all questions ever asked."""
        return self.folder / "questions.jsonl"

    def __call__(self, query: PairQuery, key: Key) -> Comparisons:  # noqa: ARG002
        """Return the query with the labels of people.

        Raises
        ------
        LabelsPending
            If some are missing; the questions have been written.
        ValueError
            For lines that cannot be used: half-written, with an unknown key, a label outside its
            range, or another label than elsewhere. Nothing is changed then.
        """
        pairs = asked_pairs(query.contexts, query.a1, query.a2)
        shape = np.broadcast_shapes(tuple(query.a1.shape), tuple(query.a2.shape))
        return query.answered(as_like(self.labels(*pairs).reshape(shape), query.contexts.like))

    def labels(
        self, prompts: list[Prompt], first: list[Response], second: list[Response]
    ) -> np.ndarray:
        """Return the label of every pair, shape ``(n,)``; see `__call__`."""
        asked: list[Question | None] = [
            None if a.text == b.text else Question.of(transcript(x), a.text, b.text)
            for x, a, b in zip(prompts, first, second, strict=True)
        ]
        with FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS):
            known = self._absorbed()
            open_ = {q.key: q for q in asked if q is not None and q.key not in known}
            n_lines = self._ask(open_, known) if open_ else 0
        if open_:
            raise LabelsPending(self._request(len(open_), n_lines))
        return np.array(
            [
                0.5 if q is None else known[q.key] if q.response_a == a.text else 1.0 - known[q.key]
                for q, a in zip(asked, first, strict=True)
            ]
        )

    def _request(self, n: int, n_lines: int) -> str:
        lines = "every line" if n == n_lines else f"the first {n} lines"
        noun = "question waits" if n == 1 else "questions wait"
        return (
            f"{n} {noun} for an answer in {self.pending}. Fill in the field label of {lines}: "
            '"a", "b", "tie", or a number from 0 to 1 (the share of people who prefer a). Then '
            "start the same run again: it replays what is there and goes on."
        )

    # ------------------------------------------------------------------ files

    def _absorbed(self) -> dict[str, float]:
        """Return all answers by key; those that were filled in where they are asked are kept."""
        questions = self._known_questions()
        known: dict[str, tuple[float, str]] = {}
        _collect(self.answers, questions, known)
        filled = _collect(self.pending, questions, known)
        rows = [row for _, row in read_jsonl(self.answers)[0]]
        sealed = [r if "digest" in r or _waits(r) else seal(r) for r in (*rows, *filled)]
        if sealed != rows:
            write_jsonl(self.answers, sealed)
        if filled:  # answers are safe before their questions are taken away
            self._write_pending({}, known)
        return {key: label for key, (label, _) in known.items()}

    def _known_questions(self) -> dict[str, Question]:
        rows, wrong = read_jsonl(self.questions)
        found: dict[str, Question] = {}
        for number, row in rows:
            question = _question(row)
            if question is None or question.key != row.get("key"):
                wrong.append(f"line {number} is no question of ours, or was changed")
            else:
                found[question.key] = question
        if wrong:
            advice = "It is written by the program alone; remove it if it is damaged."
            raise ValueError(problems_with(self.questions, wrong, advice))
        return found

    def _ask(self, new: Mapping[str, Question], known: Container[str]) -> int:
        """Write the questions; return how many lines wait in all."""
        write_jsonl(
            self.questions,
            (_without_label(q) for q in (self._known_questions() | dict(new)).values()),
        )
        return self._write_pending(new, known)

    def _write_pending(self, first: Mapping[str, Question], known: Container[str]) -> int:
        """Write what waits: ``first``, then other lines that are there, whatever was added to them.

        Those are of a run with other settings; their answers may still serve.
        """
        there = [(_key(row), row) for _, row in read_jsonl(self.pending)[0]]
        waiting = dict(there)
        rows = [waiting.get(key, question.row()) for key, question in first.items()]
        rows += [row for key, row in there if key not in first and key not in known]
        write_jsonl(self.pending, rows)
        return len(rows)


def _without_label(question: Question) -> dict[str, object]:
    row = question.row()
    del row["label"]
    return row


def _question(row: Mapping[str, object]) -> Question | None:
    """Return the question of a line as its texts say it, or None where it has none."""
    texts = [row.get(name) for name in ("prompt", "response_a", "response_b")]
    if all(isinstance(t, str) for t in texts):
        return Question(*texts)  # type: ignore[arg-type]
    return None


def _key(row: Mapping[str, object]) -> str:
    """Return the key of a line; that of its texts where it has none."""
    own = _question(row)
    return str(row.get("key", "" if own is None else own.key))


def _collect(
    path: Path, questions: Mapping[str, Question], known: dict[str, tuple[float, str]]
) -> list[dict[str, object]]:
    """Add the answers of a file to ``known`` (label and where it stands); return the new lines.

    Labels are about the responses in the order of `Question.of`.
    """
    rows, wrong = read_jsonl(path)
    filled: list[dict[str, object]] = []
    for number, row in rows:
        if not _as_read(row):
            wrong.append(
                f"line {number} is not what was read before: restore it or, if its label was "
                "changed on purpose, remove its digest"
            )
            continue
        if _waits(row):
            continue
        label = row["label"]
        where = f"line {number} of {path.name}"
        own, key, value = _question(row), _key(row), _label(label)
        asked = questions.get(key, own)
        if value is None:
            wrong.append(
                f'line {number}: label must be "a", "b", "tie" or a number from 0 to 1; '
                f"got {json.dumps(label)}"
            )
        elif asked is None:
            wrong.append(f"line {number} answers the key {key!r}, which was never asked")
        elif own is not None and own.key != key:
            wrong.append(
                f"line {number}: the texts were changed; they do not belong to the key {key!r} "
                f"({shown(own.response_a)})"
            )
        else:
            ours = Question.of(asked.prompt, asked.response_a, asked.response_b)
            if own is not None and own.response_a != ours.response_a:
                value = 1.0 - value
            if key not in known:
                known[key] = (value, where)
                filled.append({**ours.row(), **row, "key": key})
            elif abs(known[key][0] - value) > 1e-9:
                wrong.append(
                    f"line {number} answers {key} as {json.dumps(label)}, in conflict with "
                    f"{known[key][1]}"
                )
    if wrong:
        advice = "Correct these lines and start again. Nothing was changed."
        raise ValueError(problems_with(path, wrong, advice))
    return filled


def _waits(row: Mapping[str, object]) -> bool:
    return row.get("label") in (None, "")


def _as_read(row: dict[str, object]) -> bool:
    """Return whether a line is what it was when it got its digest; True where it has none yet."""
    try:
        return "digest" not in row or bool(unseal(row))
    except DamagedError:
        return False


def _label(value: object) -> float | None:
    """Return the share that prefers ``a``, or None for what is no label."""
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) and 0.0 <= value <= 1.0 else None
    return None
