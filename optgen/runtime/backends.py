"""Which backend updates a parameter, whether it is there, and its launch."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from optgen.runtime.cpp_compile import CompilerError, find_compiler
from optgen.runtime.torch_launch import run_torch

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["BACKENDS", "constant_when_traced", "interpreting", "launch", "pick_backend", "traced_backend"]

BACKENDS = ("auto", "torch", "triton", "cpp")
TRITON_DEVICES = ("cuda", "xpu")  # HIP devices call themselves cuda


def pick_backend(asked: str, device: torch.device | None, *, compiled: bool = False) -> str:
    """The backend for parameters on `device` (None: only check that `asked` can be had at all).

    "auto" is triton on a GPU and cpp on a CPU, if they can be had, else torch; `compiled` asks for torch's compiler.

    Raises:
        ValueError: for a name that is no backend.
        RuntimeError: for a backend that was asked for and cannot run here, saying what is missing.
    """
    if asked not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {asked!r}")
    if asked == "torch" or (asked == "auto" and device is None):
        return "torch"
    if asked == "auto":
        assert device is not None
        return _best_backend(device, compiled)
    if asked == "cpp":
        return _checked_cpp(device)
    if not _has_triton():
        raise RuntimeError("backend='triton' needs the package triton: pip install triton")
    if device is not None and device.type not in TRITON_DEVICES and not interpreting():
        raise RuntimeError(
            f"backend='triton' cannot update a parameter on {device}: move it to a GPU, take backend='torch', "
            "or set TRITON_INTERPRET=1 before Python starts to run the kernels in Triton's interpreter"
        )
    return "triton"


def constant_when_traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `torch.compiler.assume_constant_result` does, which imports torch's compiler, and with it Triton, for everyone."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_traced
def traced_backend(asked: str, device: torch.device, *, compiled: bool) -> str:
    """`pick_backend` while torch.compile traces, which runs this and keeps the answer."""
    return pick_backend(asked, device, compiled=compiled)


def _best_backend(device: torch.device, compiled: bool) -> str:
    if device.type in TRITON_DEVICES and _has_triton():
        return "triton"
    if device.type != "cpu" or compiled or _unusable:
        return "torch"
    try:
        find_compiler()
    except CompilerError as error:
        give_up_cpp(error)
        return "torch"
    return "cpp"


_unusable: list[str] = []  # why "auto" takes the cpp backend no more in this process


def launch(optimizer: type[Any], backend: str, batches: list[Batch], *, auto: bool, compiled: bool) -> None:
    """Update batches by a backend of a generated class.

    Args:
        optimizer: the class.
        backend: "torch", "triton" or "cpp".
        batches: of parameters where this backend can update them.
        auto: take torch, and warn once, where C++ cannot be compiled.
        compiled: compile torch's update functions.

    Raises:
        CompilerError: if C++ cannot be compiled; nothing was updated then.
    """
    if backend == "torch":
        run_torch(optimizer, batches, compiled=compiled)
        return
    try:
        getattr(optimizer, f"launch_{backend}")(batches)
    except CompilerError as error:  # before anything was updated
        if not auto:
            raise
        give_up_cpp(error)
        launch(optimizer, "torch", batches, auto=auto, compiled=compiled)


def give_up_cpp(error: CompilerError) -> None:
    """Let "auto" take torch on CPUs from now on, and warn once."""
    if not _unusable:
        _unusable.append(str(error))
        warnings.warn(
            f"optgen updates parameters on the CPU in torch, which is slower than its C++ kernels: {error}\n"
            "With backend='torch' it does so without this warning.",
            RuntimeWarning,
            stacklevel=2,
        )


def _checked_cpp(device: torch.device | None) -> str:
    try:
        find_compiler()
    except CompilerError as error:
        raise RuntimeError(f"backend='cpp' is not available: {error}") from error
    if device is not None and device.type != "cpu":
        raise RuntimeError(f"backend='cpp' cannot update a parameter on {device}: take backend='triton' or 'torch'")
    return "cpp"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether Triton was told to run kernels in its interpreter."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
