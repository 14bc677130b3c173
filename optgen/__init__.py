"""optgen: a compiler for optimizers. A declarative spec goes in, a `torch.optim.Optimizer` with fused kernels comes out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgen.spec.define import define

__all__ = ["__version__", "define"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the compiler when it is asked for: generated optimizers do without."""
    if name == "define":
        from optgen.spec.define import define

        return define
    raise AttributeError(f"module 'optgen' has no attribute '{name}'")
