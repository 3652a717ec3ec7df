"""Exact evaluation of policies against the truth, and statistics over replicas."""
