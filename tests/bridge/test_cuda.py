"""On a GPU: the bridge and the theory on top of it give the numbers of the CPU.

In double precision, so that only the order of sums differs, and draws fall on the same tokens.
Skipped without CUDA; `test_second_device` finds tensors in the wrong place on any machine.
"""

import numpy as np
import pytest
import torch

from llm_bridge.embeddings.encoders import EncoderModel
from llm_bridge.embeddings.features import TransformerFeatures
from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.language.models import LanguageModel
from llm_bridge.language.sampler import BatchedSampler, GenerateSampler
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from llm_bridge.training.train import LoRA, TrainingSettings, train, with_mismatched
from rlhf_theory.algorithms.offline_pessimistic import OfflinePessimistic
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.arrays import to_numpy
from rlhf_theory.data import PairQuery
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.evaluation.gaps import suboptimality
from rlhf_theory.experiments import run
from rlhf_theory.losses import DPO, KTO
from rlhf_theory.oracles import BradleyTerry, feedback_from
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.rewards import LinearReward
from tests.helpers.assembled import Assembled
from tests.helpers.examples import distance, examples, in_double, tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DIM = 4
PROMPTS = [f"what color is {w} ?" for w in ("oak", "elm", "the sky", "grass", "snow", "coal")]


@pytest.fixture(scope="module")
def both(tiny_model):
    """The same model in double precision on the CPU and on the GPU."""
    host = in_double(tiny_model)
    return host, LanguageModel(host.clone().model.to("cuda"), host.tokenizer, host.name)


@pytest.fixture(scope="module")
def problems(both):
    """The same prompts, pools and features on both."""

    def made(model):
        policy = LanguageModelPolicy(model, BatchedSampler(max_new_tokens=6))
        features = TransformerFeatures(model, dim=DIM, whiten=True, progress=False)
        return PromptProblem(PROMPTS, policy, features=features, pool_size=5, eta=0.4, n_replicas=2)

    return tuple(map(made, both))


def theta(problem):
    values = torch.tensor([[0.5, -0.8, 0.4, 0.2]], dtype=torch.float64)
    return LinearReward(values.to(problem.table.phi.device))


def feedback(problem):
    return feedback_from(BradleyTerry(theta(problem), 2.0))


def test_log_probabilities_agree(both):
    host, there = both
    prompts = tokens(host, Key(1), 9, 1, 6)
    responses = tokens(host, Key(2), 9, 1, 9)
    for reduction in ("sum", "mean"):
        given = {"reduction": reduction, "batch_size": 4}
        np.testing.assert_allclose(
            sequence_log_probs(there, prompts, responses, **given),
            sequence_log_probs(host, prompts, responses, **given),
            rtol=1e-10,
        )


def test_the_sampler_draws_the_same_tokens(both):
    host, there = both
    prompts = tokens(host, Key(3), 5, 1, 6)
    sampler = BatchedSampler(max_new_tokens=8, batch_size=8)
    ours, theirs = (sampler(model, prompts, 4, Key(4)) for model in (there, host))
    for row, other in zip(ours, theirs, strict=True):
        assert [r.ids for r in row] == [r.ids for r in other]
        np.testing.assert_allclose(
            [r.log_prob for r in row], [r.log_prob for r in other], rtol=1e-9
        )


def test_generate_runs_and_leaves_the_generator_alone(both):
    _, there = both
    before = torch.cuda.get_rng_state()
    sampler = GenerateSampler(max_new_tokens=6)
    one, two = (sampler(there, [(4, 5), (6,)], 3, Key(5)) for _ in range(2))
    assert [[r.ids for r in row] for row in one] == [[r.ids for r in row] for row in two]
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_features_arrive_on_the_gpu(both):
    host, there = both
    prompts, responses = tokens(host, Key(6), 12, 1, 6), tokens(host, Key(7), 12, 1, 9)
    for options in ({}, {"whiten": True, "dim": 3}, {"scale": "ball", "dim": 2}):
        ours, theirs = (
            TransformerFeatures(m, progress=False, **options).fit(prompts, responses)
            for m in (there, host)
        )
        phi, log_probs = ours.with_log_probs(prompts, responses)
        assert phi.is_cuda
        assert log_probs.is_cuda
        expected, scores = theirs.with_log_probs(prompts, responses)
        torch.testing.assert_close(phi.cpu(), expected, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(log_probs.cpu(), scores, atol=1e-10, rtol=1e-10)


def test_single_and_half_precision_arrive_as_well(tiny_model):
    prompts, responses = tokens(tiny_model, Key(8), 6, 1, 6), tokens(tiny_model, Key(9), 6, 1, 6)
    exact, _ = TransformerFeatures(tiny_model, progress=False).rows(prompts, responses)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
        module = tiny_model.clone().model.to("cuda", dtype)
        there = LanguageModel(module, tiny_model.tokenizer, "there")
        phi, _ = TransformerFeatures(there, progress=False).rows(prompts, responses)
        assert phi.dtype == torch.float64
        error = torch.linalg.vector_norm(phi.cpu() - exact, dim=1)
        assert float((error / torch.linalg.vector_norm(exact, dim=1)).max()) < tolerance


def test_encoders_run_there(tiny_model):
    # The body of the causal model, read as an encoder.
    module = tiny_model.clone().model.model.double()
    texts = ["oak is brown .", "elm"]

    def rows(device):
        encoder = EncoderModel(module.to(device), tiny_model.tokenizer)
        return TransformerFeatures(encoder, progress=False).rows(["what ?"] * 2, texts)[0]

    expected = rows("cpu").clone()
    found = rows("cuda")
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, atol=1e-10, rtol=1e-10)


def test_the_online_learner_runs_there_with_the_same_numbers(problems):
    learner = OnlineIterative(radius=Constant(beta=0.5), batch_size=6)

    def played(problem):
        x, w = problem.population(Key(0), 0)
        best = gibbs_log_probs(theta(problem).rewards(x), x.log_pi0, problem.eta)

        def evaluate(policy):
            return {"gap": suboptimality(policy.log_probs(x), best, w, problem.eta)}

        return run(learner, Assembled(problem, feedback(problem), evaluate), rounds=4, seed=3)

    host, there = problems
    assert there.table.phi.is_cuda
    assert learner.init(there, there.empty_data(), Key(0)).data.count.is_cuda
    ours, theirs = played(there), played(host)
    for name in ("gap", "labels"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-8, rtol=0)


@pytest.mark.parametrize("option", ["I", "II"])
def test_the_offline_learner_runs_there_with_the_same_numbers(option, problems):
    def learnt(problem):
        key, like = Key(9), problem.table.phi
        x = problem.sample_contexts(key.child("contexts"), 40)
        a1, a2 = (
            categorical(x.log_pi0, key.child(name).uniform(2, 40, like=like)) for name in ("1", "2")
        )
        data = problem.empty_data().add(feedback(problem)(PairQuery(x, a1, a2), key.child("y")))
        learner = OfflinePessimistic(radius=Constant(beta=0.5), option=option)
        solution = learner(problem, data, key.child("plan"))
        log_pi = solution.value.log_probs(problem.table)
        assert log_pi.device == like.device
        return np.exp(to_numpy(log_pi))

    host, there = map(learnt, problems)
    np.testing.assert_allclose(there, host, atol=1e-8, rtol=0)


def test_refreshed_pools_stay_there(problems):
    _, there = problems
    new = there.refresh(there.policy, Key(1))
    assert new.table.phi.is_cuda
    assert there.policy.log_probs(new.table).is_cuda
    assert new.for_preferences(2).table.phi.is_cuda


@pytest.mark.parametrize("kind", ["all weights", "adapters", "recomputed", "in parts", "kto"])
def test_a_training_takes_the_same_steps(kind, both):
    host, there = both
    settings = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "progress": False}
    settings |= {
        "adapters": {"lora": LoRA(rank=2)},
        "recomputed": {"gradient_checkpointing": True},
        "in parts": {"batch_size": 2, "gradient_accumulation": 2},
    }.get(kind, {})
    data, loss = examples(host, 8), DPO(beta=0.5)
    if kind == "kto":
        data, loss = with_mismatched(host, data), KTO(beta=0.5)
    trained = [
        train(model, data, loss, TrainingSettings(**settings), key=Key(10)) for model in both
    ]
    assert trained[1].model.device.type == "cuda"
    np.testing.assert_allclose(trained[1].history, trained[0].history, atol=1e-8, rtol=0)
    back = LanguageModel(trained[1].model.model.to("cpu"), host.tokenizer, "back")
    # A gradient that is zero up to rounding may still move its weight by a part of the rate.
    assert distance(back, trained[0].model) < 1e-5
    assert distance(back, host) > 1e-4
    assert there.device.type == "cuda"  # where training started is left as it was


def test_training_in_half_precision_follows_single_precision(tiny_model):
    there = LanguageModel(tiny_model.clone().model.to("cuda"), tiny_model.tokenizer, "there")
    data = examples(tiny_model, 8)
    settings = {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "progress": False}
    half, single = (
        train(model, data, DPO(beta=0.5), TrainingSettings(**settings, bf16=bf16), key=Key(11))
        for model, bf16 in ((there, True), (tiny_model, False))
    )
    np.testing.assert_allclose(half.history, single.history, atol=0.05)
    assert half.model.dtype == torch.float32
