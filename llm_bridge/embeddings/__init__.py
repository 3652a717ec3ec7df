"""Features from the hidden states of any model, frozen and cached."""
