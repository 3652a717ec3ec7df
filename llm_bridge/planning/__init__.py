"""From a reward or a preference to a language model: planners, direct learners, selection."""
