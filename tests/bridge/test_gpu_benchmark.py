"""The GPU benchmark at toy sizes on the CPU: it runs, and its checks notice what is wrong."""

import importlib
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

import llm_bridge.language.sampler
import llm_bridge.training.objective
import rlhf_theory.estimators.newton
from llm_bridge.embeddings.features import TransformerFeatures
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.losses import DPO

# Studies are scripts beside their parts, not a package.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "llm"))
gpu = importlib.import_module("gpu")
dpo, items, measuring, peaks, shapes = (
    importlib.import_module(f"gpu_parts.{name}")
    for name in ("dpo", "items", "measuring", "peaks", "shapes")
)

CPU = torch.device("cpu")
RATES = ("texts_per_second", "tokens_per_second", "rows_per_second")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    file = tmp_path_factory.mktemp("gpu") / "gpu.json"
    assert gpu.main(["--toy", "--out", str(file)]) == 0
    return json.loads(file.read_text())


def numbers(value):
    """All numbers within lists and dictionaries."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for part in value for n in numbers(part)]
    return [value] if isinstance(value, (int, float)) else []


def test_every_item_runs_and_says_what_it_was_compared_with(report):
    assert list(report["items"]) == list(items.ITEMS)
    for name, found in report["items"].items():
        assert found["status"] == "done", found
        assert all(math.isfinite(n) for n in numbers(found)), name
        assert found["verified"], name
        for check in found["verified"]:
            assert check["passed"]
            assert check["error"] <= check["tolerance"]
            assert "float" in check["reference"]
        rates = [n for key in RATES for n in numbers(found.get(key, {}))]
        assert len(rates) >= 2, name
        assert min(rates) > 0, name
    assert report["toy"]
    # Some builds name themselves behind a plus, where their package does not.
    found = report["provenance"]["versions"]["torch"]
    assert found.partition("+")[0] == torch.__version__.partition("+")[0]
    assert report["provenance"]["peak"]["measured"] > 0


def test_the_losses_that_are_compared_have_moved(report):
    # A training that does nothing would agree with a reference that does nothing.
    for name in ("dpo-0.5b", "dpo-1.5b", "dpo-3b", "lora-8b"):
        losses = report["items"][name]["reference_losses"]
        assert losses[0] == pytest.approx(math.log(2.0), abs=1e-5)
        assert losses[0] - losses[1] > 10 * dpo.LOSS_ERROR, name
        assert losses[1] - losses[2] > 3 * dpo.LOSS_ERROR, name


def test_every_step_is_timed_and_its_operations_counted(report):
    for name in ("dpo-0.5b", "dpo-3b", "lora-8b"):
        found, sizes = report["items"][name], items.ITEMS[name].toy
        assert len(found["seconds_per_step"]["ours"]) == sizes["steps"] - 1
        assert len(found["seconds_per_step"]["plain"]) == sizes["plain_steps"] - 1
        step = found["tokens_per_step"] / found["tokens_per_second"]["ours"]
        rate = found["flops_per_step"] / step / 1e12
        assert found["utilisation"]["ours"]["tflops"] == pytest.approx(rate)
        measured = found["peak"]["measured"]
        assert found["utilisation"]["ours"]["of_measured_peak"] == pytest.approx(rate / measured)


def scaled_rows(rows, factor):
    def broken(self, prompts, responses):
        phi, log_probs = rows(self, prompts, responses)
        return phi * factor, log_probs

    return broken


def break_features(monkeypatch):
    rows = scaled_rows(TransformerFeatures.rows, 1.05)
    monkeypatch.setattr(TransformerFeatures, "rows", rows)


def break_bonus(monkeypatch):
    width = Ellipsoid.width
    monkeypatch.setattr(Ellipsoid, "width", lambda self, v: width(self, v) * (1.0 + 1e-6))


def break_newton(monkeypatch):
    whole = lambda design, count, step, size, scale: torch.ones_like(size)  # noqa: E731
    monkeypatch.setattr(rlhf_theory.estimators.newton, "_damping", whole)


def break_loss(monkeypatch):
    # Right before the first step, and then with another beta.
    monkeypatch.setattr(DPO, "__call__", lambda self, c: torch.log1p(torch.exp(-0.2 * c.h)))


def break_log_probs(monkeypatch):
    right = llm_bridge.training.objective.response_log_probs
    mean = lambda *args: right(*args, reduction="mean")  # noqa: E731
    monkeypatch.setattr(llm_bridge.training.objective, "response_log_probs", mean)


def break_sampler(monkeypatch):
    choose = llm_bridge.language.sampler._choose
    hot = lambda logits, u: choose(logits / 2.0, u)  # noqa: E731
    monkeypatch.setattr(llm_bridge.language.sampler, "_choose", hot)


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("embeddings-minilm", break_features, "features by ours"),
        ("embeddings-1b", break_features, "ours"),
        ("bonus-and-newton", break_bonus, "the bonus in float64"),
        ("bonus-and-newton", break_newton, "the Newton step in float64"),
        ("dpo-0.5b", break_loss, "the loss before step 1"),
        ("lora-8b", break_log_probs, "the loss before step"),
        ("rollout-1b", break_sampler, "by ours"),
    ],
)
def test_a_wrong_result_fails_before_anything_is_timed(name, damage, what, monkeypatch):
    damage(monkeypatch)
    found = items.run_item(name, CPU, toy=True)
    assert found["status"] == "failed verification"
    assert what in found["message"]
    assert not found["verified"][-1]["passed"]
    assert not any(key in found for key in RATES)


def test_what_an_item_cannot_do_is_reported_and_the_others_go_on(monkeypatch, tmp_path):
    def no_memory(sizes, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def no_host_memory(sizes, device):
        raise MemoryError("Not enough memory. Make batch_size=8 smaller.")

    def broken(sizes, device):
        raise KeyError("something else")

    def endless(sizes, device):
        time.sleep(60)

    for name, measure in {
        "embeddings-minilm": no_memory,
        "embeddings-1b": no_host_memory,
        "dpo-0.5b": broken,
        "dpo-1.5b": endless,
        "dpo-3b": lambda sizes, device: {"tokens_per_second": {"ours": 1.0}},
    }.items():
        item = replace(items.ITEMS[name], measure=measure, limit_s=0.2)
        monkeypatch.setitem(items.ITEMS, name, item)
    file = tmp_path / "folder" / "gpu.json"
    names = ["embeddings-minilm", "embeddings-1b", "dpo-0.5b", "dpo-1.5b", "dpo-3b"]
    assert gpu.main(["--toy", "--out", str(file), "--only", *names]) == 1
    found = json.loads(file.read_text())["items"]
    assert {name: found[name]["status"] for name in names} == {
        "embeddings-minilm": "out of memory",
        "embeddings-1b": "out of memory",
        "dpo-0.5b": "error",
        "dpo-1.5b": "out of time",
        "dpo-3b": "done",
    }
    assert "Tried to allocate" in found["embeddings-minilm"]["message"]
    assert "something else" in found["dpo-0.5b"]["message"]
    assert found["dpo-0.5b"]["where"][-1].endswith("broken")


def test_items_of_the_same_device_are_kept(monkeypatch, tmp_path):
    values = iter([1.0, 2.0, 3.0, 4.0])
    for name in ("dpo-0.5b", "dpo-3b"):
        item = replace(items.ITEMS[name], measure=lambda *_: {"value": next(values)})
        monkeypatch.setitem(items.ITEMS, name, item)
    file = tmp_path / "gpu.json"

    def found():
        return {n: f["value"] for n, f in json.loads(file.read_text())["items"].items()}

    for name in ("dpo-3b", "dpo-0.5b", "dpo-3b"):
        assert gpu.main(["--toy", "--only", name, "--out", str(file)]) == 0
    assert found() == {"dpo-0.5b": 2.0, "dpo-3b": 3.0}
    other = json.loads(file.read_text())
    other["provenance"]["device"] = "another one"
    file.write_text(json.dumps(other))
    assert gpu.main(["--toy", "--only", "dpo-0.5b", "--out", str(file)]) == 0
    assert found() == {"dpo-0.5b": 4.0}


def test_messages_name_no_folders():
    error = RuntimeError("cannot compile '/home/someone/.cache/kernel.cu' with /opt/bin/nvcc: no")
    assert measuring.told(error) == "RuntimeError: cannot compile 'kernel.cu' with nvcc: no"


def test_training_that_does_not_fit_recomputes_its_activations(monkeypatch):
    asked = []

    def first_fails(sizes, device, *, checkpointing):
        asked.append(checkpointing)
        if not checkpointing:
            raise MemoryError("Not enough memory.")
        return {"gradient_checkpointing": True}

    monkeypatch.setattr(dpo, "_dpo", first_fails)
    found = dpo.dpo(items.ITEMS["dpo-3b"].toy, CPU)
    assert asked == [False, True]
    assert found["without_checkpointing"] == "MemoryError: Not enough memory."


def test_recomputed_activations_give_the_same_losses():
    sizes = items.ITEMS["lora-8b"].toy
    found = dpo._dpo(sizes, CPU, checkpointing=True)
    assert found["gradient_checkpointing"]
    assert all(check["passed"] for check in found["verified"])


def test_limits_are_kept_one_within_another():
    with pytest.raises(measuring.OutOfTime), measuring.limited(0.05):
        time.sleep(10)
    with pytest.raises(measuring.OutOfTime), measuring.limited(0.05), measuring.limited(10):
        time.sleep(10)

    def inner_then_outer():
        with pytest.raises(measuring.OutOfTime), measuring.limited(0.05):
            time.sleep(10)
        inner.append(time.perf_counter())
        time.sleep(10)

    inner, start = [], time.perf_counter()
    with pytest.raises(measuring.OutOfTime), measuring.limited(0.3):
        inner_then_outer()
    assert inner[0] - start < 0.3 <= time.perf_counter() - start + 0.01 < 5
    with measuring.limited(0.05):
        pass
    time.sleep(0.1)  # no alarm is left


def test_all_items_together_take_less_than_ten_minutes():
    assert sum(item.limit_s for item in items.ITEMS.values()) < 600


def test_a_comparison_with_nan_fails():
    checks = measuring.Checks()
    checks.at_most("a sum", 1e-7, 1e-6, "doubles")
    with pytest.raises(measuring.VerificationError, match="a sum must agree with doubles"):
        checks.at_most("a sum", float("nan"), 1e-6, "doubles")
    assert [made["passed"] for made in checks.made] == [True, False]
    json.dumps(checks.made, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen2.5-0.5B", 0.494),
        ("Qwen2.5-1.5B", 1.544),
        ("Llama-3.2-1B", 1.236),
        ("Llama-3.2-3B", 3.213),
        ("Llama-3.1-8B", 8.030),
        ("Qwen3-8B", 8.191),
    ],
)
def test_shapes_have_the_published_numbers_of_weights(name, billions):
    shape = shapes.SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16)
    assert sum(w.numel() for w in model.parameters()) / 1e9 == pytest.approx(billions, abs=6e-4)
    matrices = [w for n, w in model.named_parameters() if w.dim() == 2 and ".layers." in n]
    assert sum(w.numel() for w in matrices) == shape.n_body
    assert model.get_output_embeddings().weight.numel() == shape.n_head


def test_the_operations_of_a_step_are_those_that_torch_counts():
    rows, prompt, response = 3, 6, 10
    shape = shapes.SHAPES["Llama-3.2-1B"].toy()
    model = shapes.build(shape, CPU, torch.float32).model
    model.set_attn_implementation("eager")  # a counter sees every product of it
    ids = torch.full((rows, prompt + response), 5)
    counted = {}
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        inputs = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        with FlopCounterMode(display=False) as counter:
            model(inputs_embeds=inputs, logits_to_keep=response).logits.sum().backward()
        counted[frozen] = counter.get_total_flops()
    length = prompt + response
    # The counter sees both halves of the attention, ours the one before the diagonal.
    behind = rows * 3 * shape.layers * 2 * length**2 * shape.heads * shape.head_dim
    work = shapes.Work(shape, rows, prompt, response)
    for frozen, total in counted.items():
        rotations = total - behind - work.flops(frozen=frozen)
        assert 0 <= rotations < 0.01 * total  # angles of the positions: a product, of no weights


def test_peaks_are_known_by_the_name_of_the_device():
    assert peaks.nominal_peak("NVIDIA H200") == 989.0
    assert peaks.nominal_peak("NVIDIA H100 80GB HBM3") == 989.0
    assert peaks.nominal_peak("NVIDIA H100 PCIe") == 756.0
    assert peaks.nominal_peak("NVIDIA A100-SXM4-80GB") == 312.0
    assert peaks.nominal_peak("a device of next year") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="needs a CUDA GPU; torch sees none"):
        gpu.main([])
