"""The triton backend, in Triton's interpreter: its states are those of the torch backend, and it keeps the contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import interpreted
from tests.contract.rows import Row

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What tests/contract/triton_process.py reports of each row."""
    return json.loads(interpreted("-m", "tests.contract.triton_process").splitlines()[-1])  # type: ignore[no-any-return]


def test_state_dicts_are_interchangeable(row: Row, seen: dict[str, Any]) -> None:
    found = seen[row.name]
    assert found["layout"]
    assert found["torch loads into triton"] and found["triton loads into torch"]
    assert found["halfway"] < 1e-6
    assert found["torch then triton"] < 1e-6
    assert found["triton then torch"] < 1e-6


def test_codes_are_equal_bit_for_bit(row: Row, seen: dict[str, Any]) -> None:
    codes = seen[row.name]["codes"]
    assert all(codes.values()), codes
    assert any(key.endswith(".codes") for key in codes) == row.coded


def test_the_contract_of_a_step(row: Row, seen: dict[str, Any]) -> None:
    found = seen[row.name]["contract"]
    assert all(found.values()), found
