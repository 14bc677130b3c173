"""The picture and the table of what benchmarks/peers.py measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

__all__ = ["draw", "table"]

Rows = Sequence[dict[str, Any]]
COLUMNS = ("matrix", "gpt2", "llama-1b", "tiny")


def table(rows: Rows) -> Table:
    """A line for each optimizer: ratios by shapes, bytes of state, memory of a step, seconds of the first."""
    shapes = [name for name in COLUMNS if any(row["shapes"] == name for row in rows)] or ["256x256"]
    made = Table("optimizer", *shapes, "state B/param", "peak MiB", "first step s", "does not run")
    threads = max((row["threads"] for row in rows), default=0)
    for name in dict.fromkeys(row["optimizer"] for row in rows):
        mine = [row for row in rows if row["optimizer"] == name and row["threads"] == threads]
        cells = [
            "; ".join(_ratio(row) for row in mine if row["shapes"] == shape and row["kind"] == "pairs") for shape in shapes
        ]
        alone: dict[str, Any] = next((row for row in mine if row["kind"] == "alone"), {})
        figures = [str(alone.get(key, "")) for key in ("state_bytes", "peak_mib", "first_step_cold_s")]
        made.add_row(name, *cells, *figures, "; ".join(dict.fromkeys(row["reason"] for row in mine if "reason" in row)))
    return made


def _ratio(row: dict[str, Any]) -> str:
    if "ratio" not in row:
        return "-"
    low, high = row["quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f} - {high:.2f})"


def draw(rows: Rows, path: Path) -> None:
    """Not yet."""
    _ = rows, path
