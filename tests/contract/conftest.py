"""One run of each test for every row of the table."""

from __future__ import annotations

import pytest

from tests.contract.rows import ROWS, Row


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    """An optimizer and its options."""
    return request.param  # type: ignore[no-any-return]
