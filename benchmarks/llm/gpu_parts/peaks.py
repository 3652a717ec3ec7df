"""What the device could do at best, and what the measurements were made with."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from typing import Any

import torch

from gpu_parts.measuring import alternate
from rlhf_theory.randomness import Key

# Dense bf16 products with single-precision sums, TFLOP/s, from the makers' data sheets. The first
# name that the device's name contains counts.
NOMINAL = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H200", 989.0),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("RTX 4090", 165.0),
)


def nominal_peak(name: str) -> float | None:
    """Return the nominal peak of a device in TFLOP/s, None where it is not in the table."""
    return next((peak for part, peak in NOMINAL if part in name), None)


@lru_cache(maxsize=4)
def peaks(device: torch.device) -> dict[str, Any]:
    """Return nominal and measured peak in TFLOP/s; random data, since zeros would run faster."""
    on_gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if on_gpu else (256, torch.float32)
    generator = torch.Generator(device).manual_seed(Key(0).child("peak").seed_int())
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    seconds = alternate(
        {"product": lambda: [torch.matmul(a, b, out=out) for _ in range(8)]}, device, repeats=5
    )["median"]["product"]
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    return {
        "nominal": nominal_peak(name),
        "measured": 8 * 2.0 * size**3 / seconds / 1e12,
        "measured_by": f"median product of two {size} x {size} matrices, {dtype}",
    }


def shares(flops_per_second: float, device: torch.device) -> dict[str, Any]:
    """Return a rate in TFLOP/s and as share of both peaks."""
    found = peaks(device)
    rate = flops_per_second / 1e12
    return {
        "tflops": rate,
        "of_nominal_peak": None if found["nominal"] is None else rate / found["nominal"],
        "of_measured_peak": rate / found["measured"],
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    words = done.stdout.split()
    return words[0] if words else None


def provenance(device: torch.device) -> dict[str, Any]:
    """Return device, driver, versions and date."""
    names = ("torch", "transformers", "accelerate", "peft", "tokenizers", "numpy", "triton")
    found: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
        "cpu": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "device": "CPU",
        "peak": peaks(device),
    }
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        found |= {
            "device": facts.name,
            "memory_gib": round(facts.total_memory / 2**30, 1),
            "compute_capability": f"{facts.major}.{facts.minor}",
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return found
