"""The bridge and the learners on a second device, compared with the CPU: run as a program.

Prints one JSON object: for every part the largest difference, or the error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel
from llm_bridge.language.sampler import BatchedSampler, GenerateSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.tiny import untrained
from llm_bridge.training.objective import Objective
from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import PairQuery
from rlhf_theory.experiments import run
from rlhf_theory.losses import DPO
from rlhf_theory.oracles import BradleyTerry, feedback_from
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.rewards import LinearReward
from tests.helpers.assembled import Assembled
from tests.helpers.examples import examples, in_double, tokens
from tests.helpers.factories import OFFLINE, ONLINE
from tests.helpers.second_device import NAME, Elsewhere, SecondDevice, WrongDeviceError

WORDS = ("oak", "elm", "grass", "snow")


class Walk:
    """The same model in double precision in both places; each part returns a difference."""

    def __init__(self) -> None:
        self.host = in_double(untrained(hidden=32, layers=2, spread=0.3))
        module = self.host.clone().model.to(NAME)
        module.tie_weights()  # moved one by one, unlike to a real device
        self.there = LanguageModel(module, self.host.tokenizer, self.host.name)
        self.prompts = tokens(self.host, Key(1), 7, 1, 6)
        self.responses = tokens(self.host, Key(2), 7, 1, 8)
        self.problems: list[PromptProblem] = []

    def parts(self) -> Iterator[tuple[str, Callable[[], float]]]:
        yield "mistakes are noticed", self.mistakes
        yield "log-probabilities", self.log_probs
        yield "sampler", self.sampler
        yield "generate", self.generate
        for options in ({}, {"whiten": True, "dim": 3}, {"scale": "ball"}, {"scale": "unit"}):
            yield f"features {options}", lambda options=options: self.features(options)
        yield "problem", self.problem
        yield "pools", self.pools
        yield "loss and gradient", self.objective
        for name, learner in ONLINE.items():
            yield name, lambda learner=learner: self.online(learner())
        for name, learner in OFFLINE.items():
            yield name, lambda learner=learner: self.offline(learner())

    def mistakes(self) -> float:
        there, host = torch.ones(3, device=NAME), torch.ones(3)
        for mistake in (lambda: there + host, lambda: torch.cat([there, host]), there.numpy):
            try:
                mistake()
            except (WrongDeviceError, RuntimeError):
                continue
            message = "A tensor in the wrong place must be noticed; it was not."
            raise RuntimeError(message)
        return float((there + host.to(NAME)).sum() - 6.0)

    def log_probs(self) -> float:
        models = (self.there, self.host)
        return worst(*(sequence_log_probs(m, self.prompts, self.responses) for m in models))

    def sampler(self) -> float:
        draw = BatchedSampler(max_new_tokens=8, batch_size=8)
        ours, theirs = (draw(m, self.prompts, 3, Key(3)) for m in (self.there, self.host))
        same = [[r.ids for r in row] for row in ours] == [[r.ids for r in row] for row in theirs]
        return 0.0 if same else float("inf")

    def generate(self) -> float:
        drawn = GenerateSampler(max_new_tokens=6)(self.there, self.prompts, 2, Key(3))
        given = [p for p in self.prompts for _ in range(2)]
        rows = [r for row in drawn for r in row]
        scores = sequence_log_probs(self.host, given, [r.ids for r in rows])
        return worst(np.array([r.log_prob for r in rows]), scores)

    def features(self, options: dict[str, Any]) -> float:
        found = []
        for model in (self.there, self.host):
            raw = TransformerFeatures(model, progress=False, **options)
            fitted = raw.fit(self.prompts, self.responses, weights=np.arange(1.0, 8.0))
            found.append(fitted.rows(self.prompts, self.responses))
        expect_there(found[0])
        return worst(*found)

    def problem(self) -> float:
        for model in (self.there, self.host):
            policy = LanguageModelPolicy(model, BatchedSampler(max_new_tokens=6))
            features = TransformerFeatures(model, dim=4, progress=False)
            prompts = [f"what color is {w} ?" for w in WORDS]
            given = {"features": features, "pool_size": 4, "eta": 0.5, "n_replicas": 2}
            self.problems.append(PromptProblem(prompts, policy, **given))
        expect_there(self.problems[0].table.phi)
        return worst(*(p.table.phi for p in self.problems))

    def pools(self) -> float:
        found = []
        for p in self.problems:
            new = p.refresh(p.policy, Key(4))
            parts = (new, new.for_preferences(2), p.held_out(["what color is oak ?"]))
            arrays = [q.table.phi for q in parts] + [p.policy.log_probs(new.table)]
            found.append(np.concatenate([to_numpy(a).ravel() for a in arrays]))
        return worst(*(np.where(np.isfinite(a), a, 0.0) for a in found))

    def objective(self) -> float:
        data, found = examples(self.host, 6), []
        for model in (self.there, self.host):
            objective = Objective(DPO(beta=0.1), data, model)
            batch = send_to_device(objective.collate(data), model.device)
            module = model.clone().model.requires_grad_(True)
            loss = objective(module, batch)
            loss.backward()
            gradient = module.get_input_embeddings().weight.grad
            found.append(np.append(to_numpy(gradient).ravel(), loss.item()))
        return worst(*found)

    def online(self, learner: Any) -> float:
        def played(problem: PromptProblem) -> Any:
            def evaluate(policy: Any) -> dict[str, Any]:
                p = policy.log_probs(problem.table).exp()
                return {"reward": (p * reward(problem).rewards(problem.table)).sum(dim=(1, 2))}

            feedback = feedback_from(BradleyTerry(reward(problem), 2.0))
            return run(learner, Assembled(problem, feedback, evaluate), rounds=2, seed=3)["reward"]

        return worst(*map(played, self.problems))

    def offline(self, learner: Any) -> float:
        def learnt(problem: PromptProblem) -> Any:
            key, like = Key(9), problem.table.phi
            x = problem.sample_contexts(key.child("contexts"), 40)
            a1, a2 = (
                categorical(x.log_pi0, key.child(side).uniform(2, 40, like=like)) for side in "12"
            )
            feedback = feedback_from(BradleyTerry(reward(problem), 2.0))
            data = problem.empty_data().add(feedback(PairQuery(x, a1, a2), key.child("labels")))
            return learner(problem, data, key).value.log_probs(problem.table).exp()

        return worst(*map(learnt, self.problems))


def reward(problem: PromptProblem) -> LinearReward:
    theta = torch.tensor([[1.0, -1.5, 0.8, 0.3]], dtype=torch.float64)
    return LinearReward(theta.to(problem.table.phi.device))


def expect_there(x: torch.Tensor) -> None:
    if not isinstance(x, Elsewhere):
        message = f"Features must be on the model's device; they are on {x.device}."
        raise TypeError(message)


def worst(ours: Any, theirs: Any) -> float:
    return float(np.abs(to_numpy(ours) - to_numpy(theirs)).max())


def main() -> int:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with SecondDevice():
        for name, part in Walk().parts():
            try:
                found[name] = part()
            except Exception as error:
                found[name] = f"{type(error).__name__}: {str(error)[:300]}"
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
