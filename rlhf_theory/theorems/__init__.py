"""The theorems: one module each with a card, found by the register when asked for."""
