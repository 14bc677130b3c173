"""Program -> Program: one pass a file, the order in one tuple."""

from optgen.passes.pipeline import PASSES, run_passes

__all__ = ["PASSES", "run_passes"]
