"""The torch backend: pure functions of tensors, eager or compiled, and the optimizer class."""

from optgen.backends.torch.emit import emit_torch

__all__ = ["emit_torch"]
