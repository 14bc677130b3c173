"""Bytes of state as a picture: the whole beside float32 AdamW, and what each kind of parameter spends them on."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optgen.analysis.memory import ADAM_BYTES, PARTS, Model, ParameterMemory, binary_unit

__all__ = ["draw"]

COLORS = dict(zip(PARTS, ("#4c78a8", "#f58518", "#e45756", "#72b7b2", "#b279a2", "#9d9da1"), strict=True))
MOST_ROWS = 16  # kinds of parameters; those with the least state are left out


def draw(name: str, model: Model, rows: Sequence[ParameterMemory]) -> bytes:
    """A PNG."""
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    _draw_whole(left, name, model, rows)
    _draw_kinds(right, [row for row in rows if row.shape.elements])
    figure.legend(loc="outside lower center", ncols=len(PARTS), fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw_whole(axes: Axes, name: str, model: Model, rows: Sequence[ParameterMemory]) -> None:
    """Two bars: float32 AdamW, and this optimizer by parts."""
    adam, total = ADAM_BYTES * model.elements, sum(row.nbytes for row in rows)
    unit, word = binary_unit(max(adam, total))
    axes.bar(["AdamW, float32"], [adam / unit], color="#cccccc")
    bottom = 0.0
    for part, color in COLORS.items():
        height = sum(row.parts[part] for row in rows) / unit
        axes.bar([name], [height], bottom=bottom, color=color)
        bottom += height
    for place, nbytes in enumerate((adam, total)):
        axes.annotate(f"{nbytes / unit:.1f} {word}", (place, nbytes / unit), ha="center", va="bottom")
    axes.set(ylabel=f"optimizer state, {word}")
    axes.set_title(f"{model.name}, {model.elements:,} parameters").set_parse_math(False)


def _draw_kinds(axes: Axes, rows: Sequence[ParameterMemory]) -> None:
    """A bar for each kind of parameter, those with the most state on top."""
    most = sorted(rows, key=lambda row: row.nbytes, reverse=True)[:MOST_ROWS][::-1]
    for place, row in enumerate(most):
        start = 0.0
        for part, color in COLORS.items():
            width = row.parts[part] / row.shape.elements
            axes.barh(place, width, left=start, color=color)
            start += width
    labels = [f"{row.shape.name} {' x '.join(map(str, row.shape.shape))}" for row in most]
    axes.set_yticks(range(len(most)), labels, fontsize=8)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set(xlabel="bytes of state per parameter", title="what they are spent on")
    for part, color in COLORS.items():
        if any(row.parts[part] for row in rows):
            axes.bar(0, 0, color=color, label=part)
