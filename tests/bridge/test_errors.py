"""Exceptions, and advice where memory runs out."""

from __future__ import annotations

import pytest
import torch

from llm_bridge.errors import LabelsPending, ModelError, memory_advice


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ..."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["python", "cuda", "cpu", "windows", "cublas"],
)
def test_a_failed_allocation_names_the_knob(error):
    with (
        pytest.raises(
            MemoryError, match=r"^Not enough memory\. Make batch_size=8 smaller\."
        ) as caught,
        memory_advice("batch_size=8"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


def test_a_real_failed_allocation_is_recognised():
    with pytest.raises(MemoryError, match="batch_size=3"), memory_advice("batch_size=3"):
        torch.empty(2**60, dtype=torch.uint8)


def test_the_innermost_knob_is_named():
    with (
        pytest.raises(MemoryError, match="inner") as caught,
        memory_advice("outer"),
        memory_advice("inner"),
    ):
        raise MemoryError
    assert "outer" not in str(caught.value)


def test_other_advice_can_be_given():
    with (
        pytest.raises(MemoryError, match=r"^Not enough memory\. Sleep\.$"),
        memory_advice("", advice="Sleep."),
    ):
        raise MemoryError


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x"), ModelError("no")])
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, memory_advice("batch_size=8"):
        raise error
    assert caught.value is error


def test_kinds_of_errors():
    # Callers of the theory package catch ValueError for arguments.
    assert issubclass(ModelError, ValueError)
    assert issubclass(LabelsPending, RuntimeError)
