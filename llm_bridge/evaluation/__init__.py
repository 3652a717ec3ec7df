"""Held-out metrics, figures, reports and model cards."""
