"""A second device without a GPU: tensors that say they are elsewhere, with their data on the CPU.

An operation on tensors of both places raises, as CUDA would; so does ``numpy()``. Registers a back
end with torch for the whole process: use it in a process of its own.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

SUPPORTED = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
NAME = "second"

aten = torch.ops.aten
# Operations that move data, and those that take places of elements from the host as well.
MOVES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class WrongDeviceError(RuntimeError):
    """An operation has tensors of both places."""


class Elsewhere(torch.Tensor):
    """A tensor on the second device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data: torch.Tensor, requires_grad: bool = False) -> Self:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )

    def __init__(self, data: torch.Tensor, requires_grad: bool = False) -> None:
        self.data_here = data

    def tolist(self) -> Any:
        return self.data_here.tolist()  # as from CUDA: it waits and copies

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carry_out(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Within it, ``device="second"`` exists."""

    def __enter__(self) -> Any:
        if not hasattr(torch, NAME):
            backend_registration._setup_privateuseone_for_python_backend(NAME)
        self._lift = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor(..., device=...) comes through here
        return super().__enter__()

    def __exit__(self, *details: Any) -> Any:
        torch._C._set_only_lift_cpu_tensors(self._lift)
        return super().__exit__(*details)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carry_out(func, args, kwargs or {})


def _here(x: Any) -> Any:
    return x.data_here if isinstance(x, Elsewhere) else x


def _check(func: Any, args: Any, near: list[torch.Tensor], far: list[Elsewhere]) -> None:
    """Raise as CUDA does; single numbers may come from the host, and places of elements too."""
    arrays = [x for x in near if x.dim() > 0]
    if not arrays or not far or func in MOVES:
        return
    if func in INDEXED and isinstance(args[0], Elsewhere):
        values = args[2:3]  # of what is written; none where elements are read
        arrays = [x for x in arrays if any(x is value for value in values)]
    if arrays:
        shapes = [tuple(x.shape) for x in arrays]
        message = f"{func} has tensors on two devices; on the CPU are those of shape {shapes}."
        raise WrongDeviceError(message)


def _carry_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func.name().startswith("aten::to."):  # comes whole in inference mode
        with SecondDevice():
            return func.decompose(*args, **kwargs)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    far = [x for x in tensors if isinstance(x, Elsewhere)]
    _check(func, args, [x for x in tensors if not isinstance(x, Elsewhere)], far)
    there = isinstance(args[0], Elsewhere) if func is aten.copy_.default else bool(far)
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == NAME
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner = tree_map(_here, args), tree_map(_here, kwargs)
    if far and torch.Tag.inplace_view in func.tags:
        func(*inner[0], **inner[1])
        with no_dispatch():  # the shape that is shown changes as well
            func(*args, **kwargs)
        return args[0]
    out = func(*inner[0], **inner[1])
    if not there:
        return out
    known = {id(x.data_here): x for x in far}  # operations in place return what they were given

    def shown(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or isinstance(x, Elsewhere):
            return x
        if id(x) in known:
            return known[id(x)]
        # A view of a usual tensor is one, also where inference tensors are made.
        with torch.inference_mode(x.is_inference()):
            return Elsewhere(x)

    return tree_map(shown, out)
