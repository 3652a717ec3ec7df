"""The language-model side: every planning oracle, every learner that trains, `lm iterate`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.golden import api, language_api
from tests.golden.language_api import direct, planner
from tests.golden.runs import Case


def _plan(made: Callable[[], Any], game: bool = False, start: bool = False) -> dict[str, Any]:
    before = language_api.plan(planner("dpo")).value if start else None
    return language_api.about_plan(language_api.plan(made(), game=game, start=before))


def _fit(made: Callable[[], Any]) -> dict[str, Any]:
    return language_api.about_plan(language_api.fit(made(), language_api.labelled(60)))


def _run(made: Callable[[], Any], pairs: int = 0, **more: Any) -> dict[str, Any]:
    data = language_api.labelled(pairs) if pairs else None
    return language_api.run(made(), data=data, **more)


PLANNERS: dict[str, dict[str, Any]] = {
    "dpo": {},
    **{
        f"dpo {loss}": {"loss": loss}
        for loss in ("ipo", "infonca", "bco", "sppo", "exponential", "chi-po made", "kto made")
    },
    "dpo some pairs": {"pairs": 10},
    "dpo draws": {"loss": "ipo", "law": "draws"},
}
_MADE = {
    "chi-po made": ("chi-po", {"beta": 0.25, "r_max": 3.0}),
    "kto made": ("kto", {"beta": 0.5}),
}

RULE = {"kind": "constant", "beta": 2.0, "lam": 0.5}


def _dpo(**settings: Any) -> Any:
    made = _MADE.get(settings.get("loss", ""))
    if made is not None:
        settings["loss"] = api.make_loss(made[0], **made[1])
    return planner("dpo", **settings)


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {"pools": language_api.about_pools}
    for name, settings in PLANNERS.items():
        found[f"plan/{name}"] = partial(_plan, partial(_dpo, **settings))
    for reference in ("fixed", "last"):
        for start in ("reference", "last"):
            found[f"plan/dpo from the last, {reference} {start}"] = partial(
                _plan, partial(planner, "dpo", reference=reference, start=start), start=True
            )
    for update, settings in {"inpo": {}, "nash-md": {}, "sppo": {"step": 1.5}}.items():
        made = partial(planner, "self-play", update=update, rounds=2, **settings)
        found[f"plan/self-play {update}"] = partial(_plan, made, game=True)
    found["plan/self-play from the last"] = partial(
        _plan, partial(planner, "self-play", rounds=1, start="last"), game=True, start=True
    )
    for rule, stages in (("rejection", 1), ("rejection", 2), ("best", 1)):
        made = partial(planner, "imitation", rule=rule, stages=stages, draws=8)
        found[f"plan/imitation {rule} {stages}"] = partial(_plan, made)

    for name, settings in {
        "dpo": {},
        "ipo": {"loss": "ipo"},
        "scaled": {"scale": 2.0},
        "bco": {"loss": "bco"},
        "nca-pair": {"loss": "nca-pair"},
    }.items():
        found[f"direct/{name}"] = partial(_fit, partial(direct, "direct", **settings))
    found["direct/margin"] = partial(_fit, lambda: direct("direct", radius=api.rule(**RULE)))
    found["direct/xpo"] = partial(
        _fit,
        lambda: direct(
            "direct", loss=api.make_loss("xpo", beta=0.5, alpha=0.1), sample=1, scale=None
        ),
    )

    for name, settings in {
        **{p: {"pairs": p} for p in ("on-policy", "best-worst", "optimistic")},
        "reference": {"pairs": "from-reference"},
        "latest": {"data": "latest"},
        "latest last": {"data": "latest", "reference": "last"},
        "start last": {"start": "last", "loss": "ipo"},
        "xpo": {"pairs": "from-reference", "loss": "xpo made"},
    }.items():
        found[f"iterative-direct/{name}"] = partial(_run, partial(_iterative, **settings))
    found["iterative-direct/hybrid"] = partial(_run, _iterative, pairs=20)
    found["iterative-direct/refreshed"] = partial(_run, _iterative, refresh=True)

    for explores in ("optimistic", "from-reference", "on-policy"):
        found[f"online/{explores}"] = partial(_run, partial(_online, "dpo", explores))
    found["online/refreshed"] = partial(_run, partial(_online, "dpo", "uniform"), refresh=True)
    found["online/hybrid"] = partial(_run, partial(_online, "dpo", "from-reference"), pairs=30)
    found["online/imitation"] = partial(
        _run, partial(_online, "imitation", "from-reference", draws=8)
    )
    for explores in ("information-ratio", "on-policy"):
        found[f"nash/{explores}"] = partial(_run, partial(_nash, explores), game=True)
    found["nash/refreshed"] = partial(
        _run, partial(_nash, "from-reference"), game=True, refresh=True
    )

    game = {"general": True}
    for name, (options, settings) in {
        "online": ({}, {}),
        "online scaled": ({"enhancer": "from-reference", "loss": "ipo"}, {"label_scale": 2.0}),
        "online fixed pools": ({"enhancer": "uniform"}, {"refresh": False}),
        "online pools": ({"planner": "pools"}, {}),
        "direct": ({"learner": "direct"}, {}),
        "direct optimistic": ({"learner": "direct", "pairs": "optimistic"}, {}),
        "nash": ({"learner": "nash", "self_play_rounds": 1}, game),
        "nash reward": ({"learner": "nash", "enhancer": "on-policy", "update": "nash-md"}, {}),
        "nash pools": ({"learner": "nash", "planner": "pools"}, game),
    }.items():
        found[f"iterate/{name}"] = partial(language_api.iterate, options, **settings)
    return {f"language/{name}": partial(_anew, case) for name, case in found.items()}


def small_cases() -> dict[str, Case]:
    """A few of them, for the test."""
    chosen = (
        *("pools", "plan/dpo", "plan/dpo infonca", "plan/self-play inpo"),
        *("plan/imitation rejection 2", "direct/margin", "iterative-direct/best-worst"),
        *("iterative-direct/refreshed", "online/refreshed", "nash/information-ratio"),
    )
    found = {f"language/{name}": cases()[f"language/{name}"] for name in chosen}
    for name, (options, settings) in {
        "online": ({"enhancer": "from-reference"}, {}),
        # Not the information ratio: rounding decides what it explores on an untrained model.
        "nash": (
            {"learner": "nash", "self_play_rounds": 1, "enhancer": "on-policy"},
            {"general": True},
        ),
    }.items():
        case = partial(language_api.iterate, options, details=False, **settings)
        found[f"language/iterate/{name}"] = partial(_anew, case)
    return found


def _anew(case: Case) -> dict[str, Any]:
    language_api.forget()
    return case()


def _iterative(batch_size: int = 16, **settings: Any) -> Any:
    if settings.get("loss") == "xpo made":
        settings["loss"] = api.make_loss("xpo", beta=0.5, alpha=0.1)
    return direct("iterative-direct", batch_size=batch_size, **settings)


def _online(kind: str, explores: str, **settings: Any) -> Any:
    return language_api.online(planner(kind, **settings), explores)


def _nash(explores: str) -> Any:
    return language_api.nash(planner("self-play", rounds=1), explores)
