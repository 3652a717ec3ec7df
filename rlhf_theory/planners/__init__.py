"""Planning oracles: from a reward or preference model to a policy."""
