"""Estimators of rewards and preferences from comparisons, and their confidence sets."""
