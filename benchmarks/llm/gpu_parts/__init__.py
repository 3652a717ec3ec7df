"""The parts of the GPU benchmark: one module per kind of item, and what they share."""
