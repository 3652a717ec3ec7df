"""The array layer: library, device and dtype; stable scalar functions; batched linear algebra.

Everything follows an array that is already there: new arrays are made *like* it, so that they land
in its library, on its device, with its dtype.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any

import array_api_compat as compat
import numpy as np
from numpy.typing import ArrayLike

Array = Any
"""An array of any library that follows the Python array API standard."""


_NUMPY = importlib.import_module("array_api_compat.numpy")

# --------------------------------------------------------------------------- library and device


def namespace(*arrays: Array) -> Any:
    """Return the array library of ``arrays``; ``TypeError`` if they come from several."""
    if all(type(a) is np.ndarray for a in arrays):
        return _NUMPY  # the common case, at a tenth of the cost
    try:
        return compat.array_namespace(*arrays)
    except TypeError as error:
        kinds = sorted({type(a).__module__ + "." + type(a).__name__ for a in arrays})
        message = f"All arrays must come from one array library; got {', '.join(kinds)}."
        raise TypeError(message) from error


def library(name: str) -> Any:
    """Return the array library ``numpy`` or ``torch`` by name.

    ``ImportError`` where torch is missing: it comes with the extra ``llm``.
    """
    try:
        return importlib.import_module(f"array_api_compat.{name}")
    except ImportError as error:
        message = (
            f"The array library {name!r} is not installed. "
            "torch comes with the extra: pip install 'rlhf-theory[llm]'."
        )
        raise ImportError(message) from error


def as_like(values: ArrayLike | Array, like: Array) -> Array:
    """Return ``values`` in the library, on the device and with the dtype of ``like``."""
    if isinstance(like, np.ndarray):
        return np.asarray(to_numpy(values), dtype=like.dtype)
    xp = namespace(like)
    if compat.is_array_api_obj(values) and compat.array_namespace(values) is xp:
        return compat.to_device(xp.astype(values, like.dtype), compat.device(like))
    return _from_host(np.asarray(to_numpy(values)), like.dtype, like)


def int_like(values: ArrayLike | Array, like: Array) -> Array:
    """Return integer ``values`` (dtype int64) in the library and on the device of ``like``."""
    if isinstance(like, np.ndarray):
        return np.asarray(to_numpy(values), dtype=np.int64)
    xp = namespace(like)
    return _from_host(np.asarray(to_numpy(values), dtype=np.int64), xp.int64, like)


def _from_host(host: np.ndarray, dtype: object, like: Array) -> Array:
    """Return a copy of a host array: a read-only one must not become a writable view elsewhere."""
    copy = np.array(host, order="C", copy=True)
    return namespace(like).asarray(copy, dtype=dtype, device=compat.device(like))


def full_like(shape: Sequence[int], value: float, like: Array) -> Array:
    """Return an array of ``shape`` filled with ``value``."""
    xp = namespace(like)
    return xp.full(tuple(shape), value, dtype=like.dtype, device=compat.device(like))


def eye_like(n: int, like: Array) -> Array:
    """Return the ``(n, n)`` identity."""
    xp = namespace(like)
    return xp.eye(n, dtype=like.dtype, device=compat.device(like))


def arange_like(n: int, like: Array) -> Array:
    """Return the integers ``0 .. n - 1`` (dtype int64) on the device of ``like``."""
    xp = namespace(like)
    return xp.arange(n, dtype=xp.int64, device=compat.device(like))


def to_numpy(x: ArrayLike | Array) -> np.ndarray:
    """Return a NumPy array with the values of ``x``, wherever they live."""
    if isinstance(x, np.ndarray):
        return x
    if not compat.is_array_api_obj(x):
        return np.asarray(x)
    if compat.is_torch_array(x):
        return np.asarray(x.detach().cpu().numpy())
    try:
        return np.asarray(x)
    except (RuntimeError, TypeError, BufferError):
        # array-api-strict refuses to export from its simulated devices.
        cpu = namespace(x).Device("CPU_DEVICE")
        return np.asarray(compat.to_device(x, cpu))


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory instead of returning it to the system.

    glibc gives back arrays of more than some 100 kB at once, so that every temporary of a block
    of replicas is paged in anew: that made element-wise steps five times slower. Does nothing,
    and returns False, where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: 256 MiB.
    return bool(mallopt(-3, 1 << 28)) and bool(mallopt(-1, 1 << 28))


def check_finite(name: str, x: Array) -> None:
    """Raise ``ValueError`` if ``x`` has entries that are not finite numbers."""
    xp = namespace(x)
    if not bool(xp.all(xp.isfinite(x))):
        message = f"{name} must be finite; it has NaN or infinite entries."
        raise ValueError(message)


# --------------------------------------------------------------------------- scalar functions


def softplus(u: Array) -> Array:
    """Return ``log(1 + e^u)`` without overflow."""
    xp = namespace(u)
    return xp.where(u > 0, u, xp.zeros_like(u)) + xp.log1p(xp.exp(-xp.abs(u)))


def log_sigmoid(u: Array) -> Array:
    """Return ``log sigma(u) = -log(1 + e^-u)`` without overflow."""
    return -softplus(-u)


def sigmoid(u: Array) -> Array:
    """Return the logistic function ``1 / (1 + e^-u)``; 0 and 1 far out, without warnings."""
    # tanh neither overflows nor needs a branch, and keeps sigma(u) + sigma(-u) = 1 to the bit.
    if isinstance(u, np.ndarray) and u.ndim:
        # In place: a fresh array of some 100 kB costs more than the arithmetic on it.
        p = np.multiply(u, 0.5)
        np.tanh(p, out=p)
        p += 1.0
        p *= 0.5
        return p
    xp = namespace(u)
    return 0.5 * (1.0 + xp.tanh(0.5 * u))


def damping(change: Array, whole: float) -> Array:
    """Return ``log(1 + m) / m`` for ``m = change``, and 1 where ``m`` is at most ``whole``.

    Steps of this length along Newton's direction, ``m`` the largest change of a logit, decrease a
    generalised self-concordant loss from any start (Bach 2010, EJS 4, Proposition 1).
    """
    xp = namespace(change)
    long = change > whole
    some = xp.where(long, change, xp.ones_like(change))
    return xp.where(long, xp.log1p(some) / some, xp.ones_like(change))


def logsumexp(x: Array, axis: int = -1, *, keepdims: bool = False) -> Array:
    """Return ``log sum exp(x)`` along ``axis``; ``-inf`` where all entries are ``-inf``."""
    xp = namespace(x)
    top = xp.max(x, axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    total = xp.sum(xp.exp(x - top), axis=axis, keepdims=True)
    # log(0) is meant to be -inf here, without NumPy's warning.
    tiny = total == 0.0
    safe = xp.log(xp.where(tiny, xp.ones_like(total), total)) + top
    result = xp.where(tiny, xp.full_like(total, -math.inf), safe)
    return result if keepdims else xp.squeeze(result, axis=axis)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """Return ``x - log sum exp(x)``; entries of ``-inf`` stay ``-inf``."""
    xp = namespace(x)
    top = xp.max(x, axis=axis, keepdims=True)
    # The top goes first: subtracted with the sum, large entries would cost their digits.
    x = x - xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    total = xp.sum(xp.exp(x), axis=axis, keepdims=True)
    return x - xp.log(xp.where(total == 0.0, xp.ones_like(total), total))


# --------------------------------------------------------------------------- replica axis, gather


def expand_rows(x: Array, n_replicas: int) -> Array:
    """Return ``x`` with its first axis, of length 1 or ``R``, broadcast to ``R``."""
    if x.shape[0] == n_replicas:
        return x
    xp = namespace(x)
    return xp.broadcast_to(x, (n_replicas, *x.shape[1:]))


def block_rows(x: Array, first: int, stop: int) -> Array:
    """Return replicas ``first .. stop - 1`` of ``x``; what all share (first axis 1) stays."""
    return x if x.shape[0] == 1 else x[first:stop, ...]


def select(mask: Array, x: Array, y: Array) -> Array:
    """Return ``x`` where ``mask``, else ``y``; ``mask`` has the first axes of both."""
    xp = namespace(mask, x)
    return xp.where(xp.reshape(mask, (*mask.shape, *(1,) * (x.ndim - mask.ndim))), x, y)


def take_rows(table: Array, ids: Array) -> Array:
    """Return ``table[r, ids[r, b]]``.

    Parameters
    ----------
    table
        Shape ``(R, X, ...)`` or ``(1, X, ...)`` where all replicas share it.
    ids
        Integers in ``0 .. X - 1``, shape ``(R, B)`` or ``(1, B)``.

    Returns
    -------
    Array of shape ``(R, B, ...)``.
    """
    xp = namespace(table, ids)
    r, b = ids.shape
    x, rest = table.shape[1], table.shape[2:]
    if table.shape[0] == 1:
        flat = xp.take(table[0, ...], xp.reshape(ids, (-1,)), axis=0)
        return xp.reshape(flat, (r, b, *rest))
    if r == 1:
        return xp.take(table, ids[0, :], axis=1)
    rows = ids + x * arange_like(r, ids)[:, None]
    flat = xp.take(xp.reshape(table, (r * x, *rest)), xp.reshape(rows, (-1,)), axis=0)
    return xp.reshape(flat, (r, b, *rest))


def take_actions(values: Array, actions: Array) -> Array:
    """Return ``values[r, b, actions[r, b]]``, shape ``(R, B)``; ``values`` has ``(R|1, B, A)``."""
    xp = namespace(values, actions)
    n_replicas = max(values.shape[0], actions.shape[0])
    values, actions = expand_rows(values, n_replicas), expand_rows(actions, n_replicas)
    return xp.take_along_axis(values, actions[..., None], axis=-1)[..., 0]


def one_hot(index: Array, size: int, like: Array) -> Array:
    """Return rows of the identity, shape ``(*index.shape, size)``, with the dtype of ``like``."""
    xp = namespace(index, like)
    return xp.astype(index[..., None] == arange_like(size, like), like.dtype)


def tally(index: Array, size: int, weights: Array) -> Array:
    """Return the sum of ``weights`` at each index, per replica.

    Parameters
    ----------
    index
        Integers in ``0 .. size - 1``, shape ``(R, n)`` or ``(1, n)``.
    size
        Number of cells.
    weights
        Shape ``(R, n)``.

    Returns
    -------
    Array of shape ``(R, size)``.
    """
    xp = namespace(index, weights)
    n_replicas, n = weights.shape
    if n == 0:
        return full_like((n_replicas, size), 0.0, weights)
    if isinstance(weights, np.ndarray):
        flat = (index + size * np.arange(n_replicas)[:, None]).ravel()
        total = np.bincount(flat, weights=weights.ravel(), minlength=n_replicas * size)
        return total.reshape(n_replicas, size).astype(weights.dtype, copy=False)
    if compat.is_torch_array(weights):
        zero = full_like((n_replicas, size), 0.0, weights)
        return zero.scatter_add_(1, index.expand(n_replicas, n), weights)
    hot = one_hot(expand_rows(index, n_replicas), size, weights)
    return xp.matmul(weights[:, None, :], hot)[:, 0, :]


# --------------------------------------------------------------------------- linear algebra


def inner(v: Array, theta: Array) -> Array:
    """Return ``<v[r, ...], theta[r]>``.

    One matrix product where ``v`` is shared by all replicas.

    Parameters
    ----------
    v
        Shape ``(R, ..., d)`` or ``(1, ..., d)``.
    theta
        Shape ``(R, d)`` or ``(1, d)``.

    Returns
    -------
    Array of shape ``(R, ...)``.
    """
    xp = namespace(v, theta)
    middle, d = v.shape[1:-1], v.shape[-1]
    size = math.prod(middle)
    if v.shape[0] == 1:
        flat = xp.matmul(theta, xp.matrix_transpose(xp.reshape(v, (size, d))))
        return xp.reshape(flat, (theta.shape[0], *middle))
    rows = xp.reshape(v, (v.shape[0], size, d))
    return xp.reshape(xp.matmul(rows, theta[..., None])[..., 0], (v.shape[0], *middle))


def matvec(a: Array, v: Array) -> Array:
    """Return ``a[r] @ v[r]``, shape ``(R, m)``, for ``a`` ``(R, m, d)`` and ``v`` ``(R, d)``."""
    xp = namespace(a, v)
    return xp.matmul(a, v[..., None])[..., 0]


def solve(a: Array, b: Array) -> Array:
    """Return ``a[r]^-1 b[r]``, shape ``(R, d)``, for ``a`` ``(R, d, d)`` and ``b`` ``(R, d)``."""
    xp = namespace(a, b)
    return xp.linalg.solve(a, b[..., None])[..., 0]


def null_projector(gram: Array) -> tuple[Array, Array]:
    """Return the projector on what positive semi-definite matrices do not see, and its rank.

    Shapes ``(R, d, d)`` and ``(R,)``, for ``gram`` ``(R, d, d)``; eigenvalues count as 0 where they
    could be rounding.
    """
    xp = namespace(gram)
    values, vectors = xp.linalg.eigh(gram)
    floor = rank_floor(gram)
    top = values[:, -1:]
    unseen = xp.astype(values <= floor * xp.where(top > 0, top, xp.ones_like(top)), gram.dtype)
    null = xp.matmul(vectors * unseen[:, None, :], xp.matrix_transpose(vectors))
    return null, xp.sum(unseen, axis=-1)


def rank_floor(gram: Array) -> float:
    """Return the share of the largest eigenvalue below which another one could be rounding."""
    return 10.0 * int(gram.shape[-1]) * float(namespace(gram).finfo(gram.dtype).eps)


def batched_inverse(a: Array) -> Array:
    """Return the symmetrised inverses of symmetric matrices ``(R, d, d)``."""
    xp = namespace(a)
    inverse = xp.linalg.inv(a)
    return 0.5 * (inverse + xp.matrix_transpose(inverse))


def quadratic(v: Array, a: Array) -> Array:
    """Return ``v^T a v``.

    Parameters
    ----------
    v
        Shape ``(R, ..., d)`` or ``(1, ..., d)``.
    a
        Symmetric matrices, shape ``(R, d, d)`` or ``(1, d, d)``.

    Returns
    -------
    Array of shape ``(R, ...)``, never negative for a positive semi-definite ``a``.
    """
    xp = namespace(v, a)
    middle, d = v.shape[1:-1], v.shape[-1]
    rows = xp.reshape(v, (v.shape[0], math.prod(middle), d))
    value = xp.sum(xp.matmul(rows, a) * rows, axis=-1)
    # Rounding may leave -1e-17 where the true value is 0; a square root follows. NaN stays NaN.
    value = xp.where(value < 0, xp.zeros_like(value), value)
    return xp.reshape(value, (value.shape[0], *middle))
