"""The repaired interpreter: the repairs are right, and still needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton.language as tl

from optgen.runtime import interpreter


def samples() -> torch.Tensor:
    """Float32 values of every kind: normal, subnormal, ties, infinities, NaN with payloads."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(-(2**31), 2**31, (200_000,), generator=generator, dtype=torch.int64).to(torch.int32)
    special = torch.tensor([0, 1, 0x8000, 0x18000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7FFFFFFF, -1, 0x7FFF, 0x00400000])
    return torch.cat([patterns, special.to(torch.int32)]).view(torch.float32)


def same(ours: np.ndarray, expected: torch.Tensor) -> bool:
    """Bits equal, but for which NaN it is."""
    theirs = expected.view(torch.int16).numpy().view(np.uint16)
    nan = torch.isnan(expected).numpy()
    return bool(np.array_equal(ours[~nan], theirs[~nan])) and bool(
        torch.isnan(torch.from_numpy(ours[nan].view(np.int16).copy()).view(expected.dtype)).all()
    )


@pytest.mark.parametrize(("target", "dtype"), [(tl.bfloat16, torch.bfloat16), (tl.float16, torch.float16)])
def test_narrowing_rounds_to_nearest_even(target: object, dtype: torch.dtype) -> None:
    x = samples()
    assert same(interpreter.convert_float(x.numpy(), tl.float32, target, None), x.to(dtype))


def test_widening_is_exact() -> None:
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    expected = patterns.view(torch.bfloat16).float().view(torch.int32)
    ours = interpreter.convert_float(patterns.numpy().view(np.uint16), tl.bfloat16, tl.float32, None)
    assert np.array_equal(ours.view(np.int32), expected.numpy())


def spread_condition(binary_op: Any) -> np.ndarray:
    """`scalar != 0.0` spread over a tile, as `tile_condition & (scalar != 0.0)` does."""
    handle, builder = interpreter.interpreter.TensorHandle, interpreter.interpreter.InterpreterBuilder()
    scalar, zero = (handle(np.array([value], dtype=np.float32), tl.float32) for value in (1.0, 0.0))
    answer = binary_op(builder, scalar, zero, np.not_equal)
    spread: np.ndarray = builder.create_splat(tl.block_type(tl.int1, [4]), answer).data
    return spread


def test_a_scalar_condition_stays_one() -> None:
    spread = spread_condition(interpreter.binary_op)
    assert spread.dtype == np.bool_ and spread.all()


def test_the_repair_of_conditions_is_still_needed() -> None:
    """When this fails, Triton has mended its comparisons and ours can go."""
    assert spread_condition(interpreter.ORIGINAL_BINARY).dtype != np.bool_


def test_the_repair_of_conversions_is_still_needed() -> None:
    """When this fails, Triton has mended its conversion and ours can go."""
    x = samples()
    assert not same(interpreter.ORIGINAL_CONVERT(x.numpy(), tl.float32, tl.bfloat16, None), x.to(torch.bfloat16))


def an_inner_function() -> Any:
    """What a kernel calls, and what sees the language."""
    return tl.load


def test_the_language_is_replaced_once_and_comes_back() -> None:
    before = tl.load, tl.core.load, tl.tensor.__add__
    outer = interpreter.patch_language(an_inner_function)
    try:
        assert not tl.core.is_builtin(tl.load)
        replaced = tl.load
        inner = interpreter.patch_language(an_inner_function)
        assert not inner._changes
        assert tl.load is replaced
    finally:
        outer.restore()
    assert (tl.load, tl.core.load, tl.tensor.__add__) == before


def test_a_function_that_sees_more_of_the_language_gets_all_of_it() -> None:
    """As triton.language's own functions do, which see `core`."""
    outer = interpreter.patch_language(an_inner_function)
    inner = interpreter.patch_language(tl.standard.sigmoid.fn)
    try:
        assert not tl.core.is_builtin(tl.core.load)
    finally:
        inner.restore()
        outer.restore()
    assert tl.core.is_builtin(tl.core.load)


def test_replacing_the_language_once_is_still_worth_it() -> None:
    """When this fails, Triton does not replace it again for every call and ours can go."""
    outer = interpreter.ORIGINAL_PATCH(an_inner_function)
    inner = interpreter.ORIGINAL_PATCH(an_inner_function)
    try:
        assert inner._changes
    finally:
        inner.restore()
        outer.restore()
