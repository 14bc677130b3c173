"""A generated package and the runtime that it uses -> one file, which needs torch, and Triton for its kernels, alone."""

from optgen.vendor.merge import vendor

__all__ = ["vendor"]
