"""optgen: a compiler for optimizers. A declarative spec goes in, a `torch.optim.Optimizer` with fused kernels comes out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgen.in_memory import optimizer_class
    from optgen.runtime.estimates import hutchinson, sampled_gradients
    from optgen.spec.define import define

__all__ = ["__version__", "define", "hutchinson", "optimizer_class", "sampled_gradients"]

__version__ = "0.1.0"

LATE = {
    "define": "optgen.spec.define",
    "hutchinson": "optgen.runtime.estimates",
    "optimizer_class": "optgen.in_memory",
    "sampled_gradients": "optgen.runtime.estimates",
}


def __getattr__(name: str) -> Any:
    """Import the compiler, or torch, when it is asked for: generated optimizers do without the one, the commands without the other."""
    if name in LATE:
        import importlib

        return getattr(importlib.import_module(LATE[name]), name)
    raise AttributeError(f"module 'optgen' has no attribute '{name}'")
