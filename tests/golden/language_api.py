"""As `api`, for the language-model side: the only part of the golden record that calls it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from llm_bridge.jobs.online import online_study
from llm_bridge.jobs.sources import ModelSource
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.direct import DirectPreference, IterativeDirect
from llm_bridge.planning.planners import DPOPlanner, plan_quality
from llm_bridge.planning.rejection import Imitation
from llm_bridge.planning.self_play import SelfPlay
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.tiny import split_prompts, untrained
from llm_bridge.training.settings import TrainingSettings
from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import PairQuery
from rlhf_theory.experiments import run as run_package
from rlhf_theory.oracles import feedback_from
from rlhf_theory.oracles.bradley_terry import BradleyTerry
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.rewards import LinearReward, ProbabilityPreference, SkewBilinear
from rlhf_theory.study import Study
from tests.golden.api import columns, enhancer, learner
from tests.helpers.assembled import Assembled
from tests.helpers.prompts import TokenFeatures

ETA = 0.5
KEY = Key(3)
PROMPTS = ("what color is oak ?", "what color is pine ?", "what color is elm ?", "is oak good")
TRAINING = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3}

REWARD = LinearReward(torch.tensor([[2.0, -3.0, 1.0]], dtype=torch.float64))
PREFERENCE = ProbabilityPreference(
    SkewBilinear(torch.tensor([[1.0, -2.0, 0.5, 3.0, -2.0, 2.5]], dtype=torch.float64))
)

_PLANNERS = {"dpo": DPOPlanner, "self-play": SelfPlay, "imitation": Imitation}
_DIRECT = {"direct": DirectPreference, "iterative-direct": IterativeDirect}


@cache
def pi0() -> LanguageModelPolicy:
    return LanguageModelPolicy(
        untrained(hidden=32, layers=2, spread=0.3), BatchedSampler(max_new_tokens=4)
    )


@cache
def problem(eta: float = ETA) -> PromptProblem:
    """Four prompts with pools of six draws, and features of the tokens."""
    return PromptProblem(PROMPTS, pi0(), pool_size=6, eta=eta, features=TokenFeatures(3))


def forget() -> None:
    """Begin anew: what was scored before, and in which batches, moves last bits."""
    pi0.cache_clear()
    problem.cache_clear()


def training(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**{**TRAINING, **changes})


def planner(kind: str, **settings: Any) -> Any:
    """A planning oracle that trains pi0 of the problem."""
    return _PLANNERS[kind].of(training(), **settings)


def direct(kind: str, **settings: Any) -> Any:
    """A learner that trains on labels."""
    return _DIRECT[kind].of(training(), **settings)


def labelled(pairs: int, key: Key = KEY) -> Any:
    """Data of pairs of draws from pi0, with Bradley-Terry labels of the reward."""
    given = problem()
    x = given.sample_contexts(key.child("x"), pairs)
    a1, a2 = (
        categorical(x.log_pi0, key.child(name).uniform(1, pairs, like=x.like))
        for name in ("a1", "a2")
    )
    record = feedback_from(BradleyTerry(REWARD))(PairQuery(x, a1, a2), key.child("y"))
    return given.empty_data().add(record)


def about_pools() -> dict[str, Any]:
    """The pools that everything else is about."""
    pools = problem().pools
    return {
        "log_mass": pools.log_mass,
        "log_pi0": pools.log_pi0,
        "responses": [r.text for row in pools.responses for r in row],
        "phi": to_numpy(problem().table.phi),
    }


def about_plan(plan: Any) -> dict[str, Any]:
    """What a plan is on the pools."""
    return {
        "log_pi": to_numpy(plan.value.log_probs(problem().table)),
        "residual": to_numpy(plan.residual),
        "converged": to_numpy(plan.converged),
        "steps": plan.n_iter,
    }


def plan(made: Any, *, game: bool = False, start: Any = None) -> Any:
    """Plan for the reward or the preference on the pools."""
    return made(PREFERENCE if game else REWARD, problem(), KEY, start)


def fit(made: Any, data: Any) -> Any:
    """Call an offline learner."""
    return made(problem(), data, KEY)


def run(
    made: Any,
    *,
    rounds: int = 2,
    game: bool = False,
    refresh: bool = False,
    data: Any = None,
) -> dict[str, Any]:
    """Return trace and last policy of an online learner; every policy meets the first pools."""
    fixed = problem()
    last: list[Any] = []

    def evaluate(policy: Any) -> dict[str, Any]:
        last[:] = [policy]
        quality = plan_quality(policy, REWARD, fixed, KEY)
        return {"gap": quality.gap, "kl": quality.kl_to_reference}

    world = Assembled(
        fixed.for_preferences() if game else fixed,
        feedback_from(PREFERENCE_ORACLE if game else BradleyTerry(REWARD)),
        evaluate,
        change=PromptProblem.refresh if refresh else None,
        data=data,
    )
    trace = run_package(made, world, rounds=rounds, seed=1)
    return {
        "round": np.asarray(trace.index),
        **trace.arrays,
        "last log_pi": to_numpy(last[0].log_probs(fixed.table)),
    }


class _GamePreference:
    """The preference as the law of labels."""

    def prob(self, contexts: Any, a1: Any, a2: Any) -> Any:
        win = PREFERENCE.payoff(contexts) + 0.5
        rows = torch.take_along_dim(win, a1[..., None, None], dim=-2)[..., 0, :]
        return torch.take_along_dim(rows, a2[..., None], dim=-1)[..., 0]


PREFERENCE_ORACLE = _GamePreference()


def online(planned: Any, explores: str, batch: int = 60) -> Any:
    """The online learner of the theory package with a planning oracle that trains."""
    return learner(
        "online-iterative", enhancer=enhancer(explores), batch_size=batch, planner=planned
    )


def nash(planned: Any, explores: str, batch: int = 60) -> Any:
    return learner(
        "nash-game",
        enhancer=enhancer(explores),
        batch_size=batch,
        game="probability",
        planner=planned,
    )


def iterate(
    options: dict[str, Any], *, general: bool = False, details: bool = True, **settings: Any
) -> dict[str, Any]:
    """Return what two rounds of `lm iterate` leave behind; labels by reward or by preference."""
    trains = options.get("planner") != "pools"
    kind, changes = _learner(options)
    given: dict[str, Any] = {"eta": 0.5, "pool_size": 3, "max_new_tokens": 6}
    given |= {"samples": 2} if trains else {}
    what = "preference" if general else "labels"
    given[what] = f"tests.golden.letters:{'preference' if general else 'reward'}"
    how = {"minibatch" if k == "batch_size" else k: v for k, v in (TRAINING | {"steps": 3}).items()}
    with tempfile.TemporaryDirectory() as folder:
        home, out = Path(folder), Path(folder) / "out"
        pi0().model.save(home / "model")
        prompts = split_prompts(Key(0))[0][:20]
        (home / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
        given |= {"prompts": str(home / "prompts.txt"), "model": str(home / "model")}
        tables = online_study(
            {**given, **settings},
            rounds=2,
            learner=kind,
            changes=changes,
            training=how if trains else {},
        )
        result = Study(**tables).run(out, quiet=True)
        about = ["cell", "pairs", "regret", "world", "learner", "family", "metric"]
        found = columns(result.curves.drop(columns=about).astype({"replica": "int64"}))
        [block] = (out / "cells").glob("*/*.files")
        for path in sorted((block / "rounds").glob("*.parquet")) if details else ():
            for name, values in columns(pd.read_parquet(path)).items():
                found[f"rounds/{path.stem}/{name}"] = values
        if trains:
            trained = ModelSource(name=str(block / "model")).policy(max_new_tokens=6, batch_size=32)
            found["last log_pi"] = to_numpy(trained.log_probs(problem().table))
    return found


_LEARNERS = {"online": "online-iterative", "nash": "nash-game", "direct": "iterative-direct"}
_PLACES = {"update": "planner.update", "self_play_rounds": "planner.rounds", "loss": "planner.loss"}
_PLACES |= {"beta": "radius.beta", "lam": "radius.lam"}


def _learner(options: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the learner of a case; the record speaks of options that were one each."""
    given = {"batch_size": 12, **options}
    kind = _LEARNERS[given.pop("learner", "online")]
    if given.get("planner") == "pools":
        given["planner"] = "nash" if kind == "nash-game" else "gibbs"
    direct = kind == "iterative-direct"
    return kind, [f"{k if direct else _PLACES.get(k, k)}={v}" for k, v in given.items()]
