"""How inputs are called in keys and groups, for the compiler too, which knows no torch."""

from __future__ import annotations

__all__ = ["GIVEN", "INPUT"]

GIVEN = "given_inputs"  # in a group that flags are asked of: the names of the inputs that a step was given
INPUT = ".input"  # at the end of the key of an input, which is in no state dict
