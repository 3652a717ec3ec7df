"""The names of what is measured on held-out prompts, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping

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
