"""The names of what is measured on held-out prompts, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

METRICS: Mapping[str, str] = {
    "pool_gold": "gold reward, exact on the pools",
    "pool_proxy": "proxy reward, exact on the pools",
    "pool_kl": "KL(π‖π0) in nats, exact on the pools",
    "pool_objective": "J = E r − η KL(π‖π0), exact on the pools",
    "pool_gap": "J(π*) − J(π), exact on the pools: η KL(π‖π*)",
    "pool_win_rate": "win rate against the baseline, exact on the pools",
    "pool_exploitability": "exploitability in the regularised game, exact on the pools",
    "pool_ess": "effective draws, what the pools are worth for this policy",
    "fresh_gold": "gold reward, of fresh responses",
    "fresh_proxy": "proxy reward, of fresh responses",
    "fresh_kl_k1": "sequence KL(π‖π0) in nats, k1 estimator: mean of log π − log π0, unbiased",
    "fresh_kl_k3": "sequence KL(π‖π0) in nats, k3 estimator: mean of π0/π − 1 − log π0/π, a check",
    "fresh_kl_k3_error": "standard error of the k3 estimate, over prompts",
    "fresh_objective": "J = E r − η KL(π‖π0), fresh responses, KL by the k1 estimator",
    "fresh_win_rate": "win rate against the baseline, fresh responses of both",
    "fresh_win_rate_lower": "lower end of the 95 % interval of the win rate, over prompts",
    "fresh_win_rate_upper": "upper end of the 95 % interval of the win rate, over prompts",
    "fresh_length": "length in tokens, of fresh responses",
    "fresh_entropy": "entropy per sequence in nats, mean of −log π of fresh responses",
    "fresh_finished": "share of finished responses, that end before the limit of new tokens",
}
"""What every name means, for tables and figures; a short name comes before the first comma."""


def fresh_names(
    *, gold: bool, proxy: bool, winners: bool, text_metrics: Iterable[str] = ()
) -> list[str]:
    """Return what is measured of fresh responses, by what policies are judged by."""
    return [
        *(["fresh_gold", "fresh_objective"] if gold else []),
        *(["fresh_proxy"] if proxy else []),
        *(["fresh_win_rate"] if winners else []),
        *("fresh_kl_k1", "fresh_kl_k3", "fresh_length", "fresh_entropy", "fresh_finished"),
        *(f"fresh_{name}" for name in text_metrics),
    ]


def measured(
    *,
    gold: bool,
    preference: bool,
    game: bool,
    fresh: bool,
    proxy: bool = False,
    text_metrics: Iterable[str] = (),
) -> tuple[str, ...]:
    """Return the names of all that a `HeldOut` measures, the one that it is about first.

    Parameters
    ----------
    gold, preference, game, proxy, text_metrics
        Whether it has these, and the names of the last.
    fresh
        Whether fresh responses are drawn.
    """
    winners = gold or preference
    names = [
        "pool_kl",
        *(["pool_gold", "pool_objective", "pool_gap"] if gold else []),
        *(["pool_proxy"] if proxy else []),
        *(["pool_win_rate"] if winners else []),
        *(["pool_exploitability"] if game else []),
        "pool_ess",
    ]
    if fresh:
        names += fresh_names(gold=gold, proxy=proxy, winners=winners, text_metrics=text_metrics)
        names += ["fresh_kl_k3_error"]
        names += ["fresh_win_rate_lower", "fresh_win_rate_upper"] if winners else []
    main = ("pool_gap", "pool_exploitability", "pool_win_rate", "pool_kl")
    first = next(name for name in main if name in names)
    return (first, *(name for name in names if name != first))
