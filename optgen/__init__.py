"""optgen: a compiler for optimizers. A declarative spec goes in, a `torch.optim.Optimizer` with fused kernels comes out."""

__all__ = ["__version__"]

__version__ = "0.1.0"
