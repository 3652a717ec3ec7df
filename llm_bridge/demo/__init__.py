"""The tiny world end to end, to one page: what `rlhf-theory lm demo` does."""
