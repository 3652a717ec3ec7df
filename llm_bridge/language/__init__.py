"""Causal language models: loading, log-probabilities, samplers."""
