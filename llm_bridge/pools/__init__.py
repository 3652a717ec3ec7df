"""Prompts with pools of responses as a problem of the theory; the model as its policy."""
