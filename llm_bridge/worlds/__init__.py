"""Worlds of language models that study files can name."""
