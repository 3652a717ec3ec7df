"""Whether an unpenalised maximum-likelihood estimate exists."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from rlhf_theory.arrays import Array, as_like, eye_like, to_numpy
from rlhf_theory.data import PreferenceData


def separable(data: PreferenceData) -> Array:
    """Return whether the unpenalised MLE does not exist because data are separable.

    True where a direction ``v`` exists with ``<z, v> >= 0`` for every win, ``<= 0`` for every loss
    and not all zero (complete or quasi-complete separation); decided by a linear program per
    replica, on the host.

    Source: Albert and Anderson (1984), Biometrika 71(1), Theorems 1-3.

    Returns
    -------
    Booleans of shape ``(R,)``; False without data.
    """
    count, wins = to_numpy(data.count), to_numpy(data.wins)
    # The rows, through the operator: unit vectors in, columns out.
    eye = eye_like(data.differences.n_params, data.count)
    columns = [to_numpy(data.differences.margins(eye[k : k + 1, :])) for k in range(eye.shape[0])]
    z_all = np.stack(columns, axis=-1)
    # Rows of length one: the verdict knows no scale, but the program's tolerance does.
    length = np.linalg.norm(z_all, axis=-1, keepdims=True)
    z_all = np.divide(z_all, length, out=np.zeros_like(z_all), where=length > 0)
    verdict = np.zeros(count.shape[0], dtype=bool)
    for r in range(count.shape[0]):
        seen = count[r] > 0
        z = z_all[r if z_all.shape[0] > 1 else 0][seen]
        share = wins[r][seen] / count[r][seen]
        sign = np.where(share >= 1.0, 1.0, np.where(share <= 0.0, -1.0, 0.0))
        pure, mixed = z[sign != 0] * sign[sign != 0, None], z[sign == 0]
        if pure.shape[0] == 0:
            continue
        answer = linprog(
            -pure.sum(axis=0),
            A_ub=-pure,
            b_ub=np.zeros(pure.shape[0]),
            A_eq=mixed if mixed.shape[0] else None,
            b_eq=np.zeros(mixed.shape[0]) if mixed.shape[0] else None,
            bounds=(-1.0, 1.0),
            method="highs",
        )
        verdict[r] = bool(answer.status == 0 and float(-(answer.fun or 0.0)) > 1e-7)
    like = data.count
    return as_like(verdict, like) > 0.5
