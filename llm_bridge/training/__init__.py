"""Training of language models on a loss; knows no algorithm."""
