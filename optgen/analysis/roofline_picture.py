"""What bounds a step as a picture: the time of each pipe beside that of memory, for every kernel."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from optgen.analysis.roofline import Roofline

__all__ = ["draw"]

MEMORY, PIPE, LONGEST = "#4c78a8", "#72b7b2", "#e45756"


def draw(found: Roofline) -> bytes:
    """A PNG."""
    figure = Figure(figsize=(5.5 * len(found.kernels), 3.6), dpi=120, layout="constrained")
    for axes, kernel in zip(figure.subplots(1, len(found.kernels), squeeze=False)[0], found.kernels, strict=True):
        names = list(kernel.times)[::-1]
        colors = [MEMORY if name == "memory" else LONGEST if name == kernel.bound_by else PIPE for name in names]
        axes.barh(names, [kernel.times[name] for name in names], color=colors)
        axes.axvline(kernel.times["memory"], color=MEMORY, linestyle="--", linewidth=1)
        for place, name in enumerate(names):
            axes.annotate(f" {kernel.times[name]:.2f}", (kernel.times[name], place), va="center", fontsize=8)
        axes.margins(x=0.12)
        axes.set(xlabel="picoseconds per element, at least")
        title = f"{kernel.name}: {kernel.bytes_moved:.1f} bytes, {kernel.instructions:.0f} instructions"
        axes.set_title(f"{title}, bound by {kernel.bound_by}", fontsize=9).set_parse_math(False)
    heading = f"{found.optimizer} on {found.device.name}, {found.param} parameters, {found.grad} gradients"
    figure.suptitle(heading).set_parse_math(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
