"""optgen: a compiler for optimizers. A declarative spec goes in, a `torch.optim.Optimizer` with fused kernels comes out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgen.in_memory import optimizer_class
    from optgen.spec.define import define

__all__ = ["__version__", "define", "optimizer_class"]

__version__ = "0.1.0"

COMPILER = {"define": "optgen.spec.define", "optimizer_class": "optgen.in_memory"}


def __getattr__(name: str) -> Any:
    """Import the compiler when it is asked for: generated optimizers do without."""
    if name in COMPILER:
        import importlib

        return getattr(importlib.import_module(COMPILER[name]), name)
    raise AttributeError(f"module 'optgen' has no attribute '{name}'")
