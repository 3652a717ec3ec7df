"""The entries of a study, one by one: labels, families, and where in the file they come from."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rlhf_theory.errors import suggestion
from rlhf_theory.store import canonical
from rlhf_theory.studies.findings import ALL_WORLDS
from rlhf_theory.studies.grids import LARGEST, Variant, check_grids, expand, grid_hint, label_of
from rlhf_theory.studies.messages import Path, choices, mistakes_of, shown
from rlhf_theory.studies.resolve import Resolver, Say, whole
from rlhf_theory.studies.signatures import ENVELOPE

Label = Annotated[str, Field(min_length=1)]


class _WorldKeys(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    label: Label | None = None
    family: Label | None = None
    metric: Label | None = None


class _LearnerKeys(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    label: Label | None = None
    offline_pairs: Annotated[int, Field(ge=0), BeforeValidator(whole)] = 0
    coverage: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    worlds: list[str] | None = None
    online: bool | None = None


@dataclass(frozen=True)
class WorldItem:
    """A world of a study.

    Attributes
    ----------
    path
        Where in the study its entry is.
    variant
        The entry, with what its grids put in.
    label, family, metric
        As in the study, or their defaults.
    spec
        Resolved.
    metrics
        What the world evaluates.
    """

    path: Path
    variant: Variant
    label: str
    family: str
    metric: str
    spec: Mapping[str, Any]
    metrics: tuple[str, ...]

    @property
    def replicas(self) -> int | None:
        """The number of its replicas, where the world says it and not the study."""
        return self.spec.get("replicas")

    def written(self) -> dict[str, object]:
        """Return the entry without grids, every setting named."""
        kind = {"kind": self.spec["kind"]}
        own = {"label": self.label, "family": self.family, "metric": self.metric}
        return {**kind, **own, **self.spec}


@dataclass(frozen=True)
class LearnerItem:
    """A learner of a study.

    Attributes
    ----------
    path, variant, label, spec
        As in `WorldItem`.
    offline_pairs, coverage
        As in the study.
    worlds
        Patterns of the labels of its worlds; None for all.
    online
        Whether it plays rounds.
    """

    path: Path
    variant: Variant
    label: str
    spec: Mapping[str, Any]
    offline_pairs: int
    coverage: float
    worlds: tuple[str, ...] | None
    online: bool

    def written(self) -> dict[str, object]:
        """Return the entry without grids, every setting named."""
        kind = {"kind": self.spec["kind"]}
        own: dict[str, object] = {"label": self.label, "offline_pairs": self.offline_pairs}
        patterns = None if self.worlds is None else list(self.worlds)
        own |= {"coverage": self.coverage, "worlds": patterns, "online": self.online}
        return {**kind, **own, **self.spec}


def _variants(
    entries: Sequence[object], root: str, say: Say
) -> Iterator[tuple[Path, Variant, Say]]:
    """Yield every entry without grids, with where it is and where its mistakes go."""
    for index, entry in enumerate(entries):
        path = (root, index)

        def at(inside: Path, text: str, path: Path = path) -> None:
            say((*path, *inside), text)

        if not isinstance(entry, Mapping):
            at((), f"must be a table with `kind`; got {shown(entry)}.")
            continue
        if (count := check_grids(entry, at)) > LARGEST:
            at((), f"its grids make {count} entries; at most {LARGEST} are allowed.")
            continue
        for variant in expand(entry):

            def inside(
                where: Path, text: str, variant: Variant = variant, path: Path = path
            ) -> None:
                say((*path, *variant.place(where)), text)

            yield path, variant, inside


def _split(
    role: str, variant: Variant, say: Say, model: type[BaseModel]
) -> tuple[Any, dict[str, Any]]:
    """Return the keys that are no settings, checked (None after a mistake), and the rest."""
    # `online` is no choice: resolved studies say it for those who read them.
    keys = [*(k for k in ENVELOPE[role] if k != "kind"), *(["online"] if role == "learner" else [])]
    own = {k: v for k, v in variant.value.items() if k in keys}
    rest = {k: v for k, v in variant.value.items() if k not in keys}
    if isinstance(own.get("worlds"), str):
        own["worlds"] = [own["worlds"]]
    try:
        return model(**own), rest
    except ValidationError as error:
        for mistake, complaint in zip(
            mistakes_of(error.errors(), (), keys), error.errors(), strict=True
        ):
            # A mistake inside of a list is about one of its entries.
            hint = "" if len(complaint["loc"]) > 1 else grid_hint(complaint["input"])
            say(tuple(complaint["loc"]), mistake.text + hint)
        return None, rest


def _short(kind: str) -> str:
    """Return the name of a kind for people: ``Mine`` for ``package.module:Mine``."""
    return kind.rpartition(":")[2].rpartition(".")[2]


def _label(given: str | None, kind: str, variant: Variant) -> str:
    skip = {("label",), ("family",), ("metric",), ("worlds",)}
    if given is None:
        skip.add(("kind",))
    varied = {path: value for path, value in variant.varied.items() if path not in skip}
    return label_of(given or _short(kind), varied)


def world_items(entries: Sequence[object], root: str, resolver: Resolver) -> list[WorldItem]:
    """Return the worlds of a study, one per value of every grid; mistakes go to the resolver."""
    found = []
    for path, variant, say in _variants(entries, root, resolver.say):
        own, rest = _split("world", variant, say, _WorldKeys)
        spec = resolver.at(say).entry("world", rest)
        if own is None or spec is None:
            continue
        metrics = resolver.fact("world", spec)
        metric = own.metric or metrics[0]
        if metric not in metrics:
            near = suggestion(metric, metrics)
            say(("metric",), f"must be one of {choices(metrics)}; got {shown(metric)}.{near}")
            continue
        label = _label(own.label, spec["kind"], variant)
        family = own.family or _short(spec["kind"])
        if family == ALL_WORLDS:
            text = f"{shown(family)} stands for every world in the scores; choose another name."
            say(("family",), text)
            continue
        found.append(WorldItem(path, variant, label, family, metric, spec, metrics))
    _distinct(found, resolver.say)
    return found


def learner_items(entries: Sequence[object], root: str, resolver: Resolver) -> list[LearnerItem]:
    """Return the learners of a study, one per value of every grid; mistakes go to the resolver."""
    found = []
    for path, variant, say in _variants(entries, root, resolver.say):
        own, rest = _split("learner", variant, say, _LearnerKeys)
        spec = resolver.at(say).entry("learner", rest)
        if own is None or spec is None:
            continue
        online = resolver.fact("learner", spec)
        if not online and own.offline_pairs > 0:
            say(
                ("offline_pairs",),
                "is for online learners, before their first round; an offline learner gets the "
                f"`pairs` of the study. Got {own.offline_pairs}.",
            )
        if online and own.offline_pairs == 0 and own.coverage > 0:
            say(
                ("coverage",),
                "is the law of offline pairs, and this online learner has none; give "
                f"`offline_pairs`. Got {own.coverage}.",
            )
        label = _label(own.label, spec["kind"], variant)
        patterns = None if own.worlds is None else tuple(own.worlds)
        found.append(
            LearnerItem(
                path, variant, label, spec, own.offline_pairs, own.coverage, patterns, online
            )
        )
    _distinct(found, resolver.say)
    return found


def _distinct(items: Sequence[WorldItem] | Sequence[LearnerItem], say: Say) -> None:
    """Report labels and contents that two entries share."""
    labels: dict[str, Path] = {}
    contents: dict[str, str] = {}
    for item in items:
        content = canonical(
            {k: v for k, v in item.written().items() if k not in ("label", "family", "metric")}
        )
        if item.label in labels and labels[item.label] != item.path:
            text = f"label {item.label!r} is taken; give each entry a `label` of its own."
            say((*item.path, "label"), text)
        elif item.label in labels:
            text = f"its grids make two entries with the label {item.label!r}."
            say((*item.path, "label"), text)
        elif content in contents:
            text = f"{item.label!r} is the same as {contents[content]!r} in all but its label."
            say(item.path, text)
        labels.setdefault(item.label, item.path)
        contents.setdefault(content, item.label)


def stored_world(table: Mapping[str, Any], index: int) -> WorldItem:
    """Return a world from what `WorldItem.written` gave, unchecked."""
    own = {k: table[k] for k in ("label", "family", "metric")}
    spec = {k: v for k, v in table.items() if k not in own}
    return WorldItem(("worlds", index), Variant(dict(table)), spec=spec, metrics=(), **own)


def stored_learner(table: Mapping[str, Any], index: int) -> LearnerItem:
    """Return a learner from what `LearnerItem.written` gave, unchecked."""
    own = {k: table[k] for k in ("label", "offline_pairs", "coverage", "worlds", "online")}
    spec = {k: v for k, v in table.items() if k not in own}
    own["worlds"] = None if own["worlds"] is None else tuple(own["worlds"])
    return LearnerItem(("learners", index), Variant(dict(table)), spec=spec, **own)


def _meant(worlds: Sequence[WorldItem], learners: Sequence[LearnerItem]) -> dict[str, set[str]]:
    """Return the labels of worlds that each pattern means; a label means itself, with any signs."""
    labels = [w.label for w in worlds]
    found = {}
    for pattern in {pattern for le in learners for pattern in le.worlds or ()}:
        match = re.compile(fnmatch.translate(pattern)).match
        found[pattern] = {label for label in labels if label == pattern or match(label)}
    return found


def _places(
    worlds: Sequence[WorldItem], learners: Sequence[LearnerItem]
) -> dict[tuple[str, ...] | None, set[str]]:
    """Return the labels of the worlds of learners, by their patterns, which grids repeat."""
    meant = _meant(worlds, learners)
    return {
        patterns: {w.label for w in worlds}
        if patterns is None
        else set().union(*(meant[pattern] for pattern in patterns))
        for patterns in {le.worlds for le in learners}
    }


def count_pairs(worlds: Sequence[WorldItem], learners: Sequence[LearnerItem]) -> int:
    """Return the number of pairs that `pairs_of` would make."""
    runs = _places(worlds, learners)
    counts = {patterns: sum(w.label in names for w in worlds) for patterns, names in runs.items()}
    return sum(counts[le.worlds] for le in learners)


def count_cells(
    worlds: Sequence[WorldItem], learners: Sequence[LearnerItem], *, seeds: int, blocks: int
) -> int:
    """Return the number of cells; a world that says its replicas has one size of blocks."""
    own = [w for w in worlds if w.replicas is not None]
    others = [w for w in worlds if w.replicas is None]
    return seeds * (count_pairs(own, learners) + blocks * count_pairs(others, learners))


def pairs_of(
    worlds: Sequence[WorldItem], learners: Sequence[LearnerItem], say: Say
) -> list[tuple[WorldItem, LearnerItem]]:
    """Return which learner runs in which world; report patterns that match no world."""
    names, meant = [w.label for w in worlds], _meant(worlds, learners)
    for learner in learners:
        for index, pattern in enumerate(learner.worlds or ()):
            if worlds and not meant[pattern]:
                near = suggestion(pattern, names)
                text = f"matches no world; their labels are {choices(names)}.{near}"
                place = learner.variant.place(("worlds", index))
                say((*learner.path, *place), f"{shown(pattern)} {text}")
    runs = _places(worlds, learners)
    return [(w, le) for w in worlds for le in learners if w.label in runs[le.worlds]]
