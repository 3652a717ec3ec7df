"""Wrong algorithms for sabotages of cards, made of right ones."""

from __future__ import annotations

from rlhf_theory.data import PreferenceData


def misread(data: PreferenceData, share: float) -> PreferenceData:
    """Return data in which a share of the labels of every pair is read the wrong way round.

    A half: labels are ignored; 1: all winners are losers.
    """
    if share == 0.0:
        return data
    return data.reweighted(data.count, data.wins + share * (data.count - 2.0 * data.wins))
