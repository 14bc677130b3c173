"""Repairs of Triton's interpreter, so that kernels can be held to the reference on a CPU.

It truncates float32 to bfloat16 instead of rounding and mishandles subnormals, gives what a comparison answers the dtype
of what was compared, so that a scalar's answer turns into floats where it meets a tensor's, and it runs every reduction but
the simplest one number at a time. The replacements below are exact; tests check that they are still needed.

Four more save most of its time: it replaces the whole language by its own functions whenever one function of a kernel calls
another, computes every sum of integers a second time in 64 bits, for a check that is off, builds a table of all types whenever
it asks for one of numpy's, and compares shapes one number at a time, as if it had to compile them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

__all__ = ["binary_op", "broadcast", "convert_float", "generic_reduce", "numpy_type", "patch_language", "repair"]

ORIGINAL_BINARY = interpreter.InterpreterBuilder.binary_op
ORIGINAL_BROADCAST = TritonSemantic.broadcast_impl_value
ORIGINAL_CONVERT = interpreter._convert_float
ORIGINAL_NUMPY_TYPE = interpreter._get_np_dtype
ORIGINAL_PATCH = interpreter._patch_lang
ORIGINAL_REDUCE = interpreter.ReduceOps.generic_reduce
TORCH = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
NUMPY_TYPES: dict[str, Any] = {}
BITS = {16: (torch.int16, np.uint16), 32: (torch.int32, np.uint32), 64: (torch.int64, np.uint64)}


def repair() -> None:
    """Replace what is wrong or slow in the interpreter; harmless to call twice."""
    interpreter.InterpreterBuilder.binary_op = binary_op
    interpreter._convert_float = convert_float
    interpreter._get_np_dtype = numpy_type
    TritonSemantic.broadcast_impl_value = broadcast
    interpreter.ReduceOps.generic_reduce = generic_reduce
    interpreter._patch_lang = patch_language
    with contextlib.suppress(AttributeError, TypeError):  # a Triton without this check
        builder = interpreter.interpreter_builder
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def patch_language(function: Any) -> Any:
    """Replace the language by the interpreter's own functions, unless that was done and not undone."""
    if any(tl.core.is_builtin(module.load) for module in _language(function)):
        return ORIGINAL_PATCH(function)
    return interpreter._LangPatchScope()


@functools.cache
def _language(function: Any) -> list[Any]:
    """The modules of the language that a function sees."""
    seen = list(map(id, function.__globals__.values()))
    return [module for module in (tl, tl.core) if id(module) in seen]


def binary_op(self: Any, left: Any, right: Any, operation: Any) -> Any:
    """An operation on two values; conditions are conditions, whatever was compared."""
    result = ORIGINAL_BINARY(self, left, right, operation)
    return interpreter.TensorHandle(result.data, tl.int1) if result.data.dtype == np.bool_ else result


def numpy_type(kind: Any) -> Any:
    """Numpy's type for one of Triton's, or for the elements of a block; it is the name that says which."""
    scalar = kind.scalar
    found = NUMPY_TYPES.get(scalar.name)
    if found is None:
        found = NUMPY_TYPES[scalar.name] = ORIGINAL_NUMPY_TYPE(scalar)
    return found


def broadcast(self: Any, left: Any, right: Any) -> Any:
    """Two values brought to one shape, which they mostly have."""
    same = left.handle.data.shape == right.handle.data.shape and left.type.is_block() == right.type.is_block()
    return (left, right) if same else ORIGINAL_BROADCAST(self, left, right)


def convert_float(data: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
    """Convert between float types as hardware does: to nearest, ties to even, subnormals and NaN kept."""
    if source.name not in TORCH or target.name not in TORCH:
        return ORIGINAL_CONVERT(data, source, target, rounding_mode)
    bits, _ = BITS[source.primitive_bitwidth]
    values = torch.from_numpy(np.ascontiguousarray(data).view(f"i{source.primitive_bitwidth // 8}").copy())
    converted = values.view(bits).view(TORCH[source.name]).to(TORCH[target.name])
    bits, unsigned = BITS[target.primitive_bitwidth]
    return converted.view(bits).numpy().view(unsigned)


def generic_reduce(self: Any, inputs: Any) -> list[Any]:
    """Combine slices along the axis, whole arrays at a time."""
    if self.axis is None:
        return list(ORIGINAL_REDUCE(self, inputs))
    slices = [np.moveaxis(value.handle.data, self.axis, 0) for value in inputs]
    result = [self.to_tensor(part[0], value.dtype) for part, value in zip(slices, inputs, strict=True)]
    for index in range(1, slices[0].shape[0]):
        ahead = [self.to_tensor(part[index], value.dtype) for part, value in zip(slices, inputs, strict=True)]
        combined = self.combine_fn.fn(*result, *ahead)
        result = list(combined) if isinstance(combined, tuple | tl.core.tuple) else [combined]
    data = [value.handle.data for value in result]
    if self.keep_dims:
        data = [np.expand_dims(value, self.axis) for value in data]
    return [self.to_tensor(value, tensor.dtype) for value, tensor in zip(data, inputs, strict=True)]
