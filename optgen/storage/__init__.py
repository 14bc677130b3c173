"""Storage of states in a few bits: codebooks written as formulas, lowered once and printed by every backend."""
