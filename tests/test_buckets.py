"""Two launches at most per bucket of parameters, none per parameter; strides, alignment and neighbours on the triton backend."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.conftest import interpreted


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What tests/triton_buckets.py reports."""
    return json.loads(interpreted("-m", "tests.triton_buckets").splitlines()[-1])  # type: ignore[no-any-return]


def test_parameters_of_all_groups_share_launches(seen: dict[str, Any]) -> None:
    """One for tiles in the bulk, one for the rest of all."""
    assert seen["adamw launches of two steps"] == 2 * 2
    assert seen["adamw difference"] < 1e-6


def test_dtypes_and_flags_make_buckets(seen: dict[str, Any]) -> None:
    # float32 and bfloat16 without amsgrad, bfloat16 and float64 with it; the float32 bucket has a bulk and a rest, the others one
    assert seen["mixed launches of two steps"] == 2 * 5
    assert seen["mixed difference"] < 1e-6


def test_coded_and_plain_parameters_make_two(seen: dict[str, Any]) -> None:
    assert sorted(seen["solo launches of two steps"]) == ["update", "update", "update_coded", "update_coded"]
    assert seen["solo difference"] < 1e-6


def test_whole_tiles_and_others_are_launched_apart(seen: dict[str, Any]) -> None:
    """Blocks of a matrix: 37, 40, and 16 rows of 2 that are not whole; other tiles take a quarter, or a block at least."""
    assert seen["tails launches, False"] == [["update_coded", 4 + 5], ["update_coded", 3 + 16]]
    assert seen["tails launches, True"] == [["update_coded", 9 + 10], ["update_coded", 1 + 32]]
    assert max(seen["tails difference, False"], seen["tails difference, True"]) < 1e-6


def test_unaligned_tensors_make_a_bucket_of_their_own(seen: dict[str, Any]) -> None:
    assert seen["unaligned launches"] == 2
    assert seen["canary"]
    assert seen["version counter"]


def test_any_strides(seen: dict[str, Any]) -> None:
    assert seen["strided difference"] < 1e-6
    assert seen["strided coded difference"] < 1e-6


def test_parts_of_reductions_are_joined(seen: dict[str, Any]) -> None:
    assert seen["joined"]


def test_tables_reach_a_gpu_as_they_are() -> None:
    """They go there as one array of bytes, each from a multiple of 16."""
    launch = pytest.importorskip("optgen.runtime.launch")
    whole = torch.arange(15).view(3, 5)
    for tables in ([whole, torch.randn(3, 7), torch.arange(12).view(3, 4)], [whole[:1], torch.zeros(1, 0), whole[:, 1:3]]):
        packed = launch._packed(tables)
        assert packed.numel() == sum(-(-table.nbytes // 16) * 16 for table in tables)
        found = launch._unpacked(packed, tables)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, tables, strict=True))
        assert all((part.data_ptr() - packed.data_ptr()) % 16 == 0 for part in found if part.numel())
