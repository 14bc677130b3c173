"""The triton backend: one fused kernel per sweep, launched once for a whole bucket of parameters."""

from optgen.backends.triton.emit import emit_triton

__all__ = ["emit_triton"]
