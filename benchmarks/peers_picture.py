"""The picture and the table of what benchmarks/peers.py measured."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from optgen.output import write_bytes

__all__ = ["draw", "table"]

Rows = Sequence[dict[str, Any]]
COLUMNS = ("matrix", "gpt2", "llama-1b", "tiny")
OURS = "optgen "
SHOWN = {
    "matrix": ("4096 x 4096", "s", "#1f77b4"),
    "gpt2": ("GPT-2 (124M)", "o", "#d62728"),
    "llama-1b": ("Llama-3.2-1B, bfloat16", "D", "#2ca02c"),
    "tiny": ("1,000 of 16 x 16", "x", "#9467bd"),
}
SIZES = ("256x256", "1024x1024", "matrix", "large")
SCALED = {
    "optgen adamw": "#1f77b4",
    "optgen adamw_8bit": "#17becf",
    "optgen solo": "#2ca02c",
    "torch AdamW, fused": "black",
    "torch AdamW, foreach": "#7f7f7f",
    "deepspeed CPUAdam": "#ff7f0e",
    "bitsandbytes AdamW8bit": "#d62728",
    "torchao AdamW8bit": "#9467bd",
}


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
    """Draw ratios of every optimizer, its state against them, and what sizes and threads change, into a PNG."""
    figure = Figure(figsize=(13, 8.5), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    timed = [row for row in rows if "ratio" in row]
    most = max(row["threads"] for row in timed)
    _ratios(figure.add_subplot(grid[:, 0]), [row for row in timed if row["threads"] == most])
    _state(figure.add_subplot(grid[0, 1]), [row for row in timed if row["threads"] == most and row["shapes"] == "gpt2"])
    _scaling(figure.add_subplot(grid[1, 1]), [row for row in timed if row["dtype"] == "float32" and row["quiet"]], most)
    made = io.BytesIO()
    figure.savefig(made, format="png")
    write_bytes(path, made.getvalue())


def _ratios(axes: Axes, rows: Rows) -> None:
    names = list(dict.fromkeys(row["optimizer"] for row in rows))[::-1]
    for shapes, (label, marker, color) in SHOWN.items():
        for undisturbed, look in ((True, {"label": label}), (False, {"alpha": 0.35, "markerfacecolor": "none"})):
            mine = [row for row in rows if row["shapes"] == shapes and row["quiet"] is undisturbed]
            places = [names.index(row["optimizer"]) for row in mine]
            middles = [row["ratio"] for row in mine]
            off = [[row["ratio"] - row["quartiles"][0] for row in mine], [row["quartiles"][1] - row["ratio"] for row in mine]]
            axes.errorbar(middles, places, xerr=off, fmt=marker, color=color, markersize=5, linewidth=1, **look)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.axhspan(len(names) - sum(name.startswith(OURS) for name in names) - 0.5, len(names) - 0.5, color="#1f77b4", alpha=0.08)
    axes.set(xscale="log", xlabel="time of a step / torch's fused AdamW, median and quartiles (hollow, pale: disturbed)")
    axes.set_title("A step on a CPU")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.5, len(names) - 0.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")


def _state(axes: Axes, rows: Rows) -> None:
    heights: dict[int, float] = {}
    for row in sorted(rows, key=lambda row: row["ratio"]):
        column, bytes_ = round(row["state_bytes"]), row["state_bytes"]
        color = "#1f77b4" if row["optimizer"].startswith(OURS) else "#d62728"
        heights[column] = max(row["ratio"], 1.17 * heights.get(column, 0.0))  # one label above the other
        axes.plot(bytes_, row["ratio"], "o", color=color, markersize=5, markerfacecolor=color if row["quiet"] else "none")
        axes.annotate(row["optimizer"], (bytes_ + 0.15, heights[column]), color=color, fontsize=6.5, va="center")
    axes.set(
        yscale="log", xlabel="state, bytes per parameter", ylabel="time / fused AdamW", title="State and time, GPT-2 (124M)"
    )
    axes.set_xlim(0, 11)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)


def _scaling(axes: Axes, rows: Rows, most: int) -> None:
    for name, color in SCALED.items():
        for threads, style in ((1, "--"), (most, "-")):
            mine = [row for row in rows if row["optimizer"] == name and row["threads"] == threads and row["shapes"] in SIZES]
            mine.sort(key=lambda row: row["parameters"])
            points = [row["parameters"] for row in mine], [1e6 * row["ms"] / row["parameters"] for row in mine]
            axes.plot(*points, style, color=color, marker="o", markersize=3, label=name if threads == most else None)
    axes.set(xscale="log", yscale="log", xlabel="parameters of one matrix", ylabel="nanoseconds per parameter")
    axes.set_title(f"Size and threads: 1 dashed, {most} solid")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.set_ylim(top=4 * axes.get_ylim()[1])
    axes.legend(fontsize=7, ncols=2, loc="upper right")
