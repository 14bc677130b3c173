"""Time of a step on this machine as a ratio to torch's fused AdamW, measured in pairs; writes a table and data.

    python benchmarks/steps.py                 every optimizer below, a 16M-element matrix and GPT-2's parameters
    python benchmarks/steps.py solo adamw_8bit --shapes matrix

A pair is one step of torch.optim.AdamW(fused=True) and one of the other, directly behind it; the ratio is the median of the
pairs. Absolute times of shared machines mean little.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import optgen
from optgen.analysis.memory import load_model
from optgen.output import write_bytes

DEFAULT = (
    "adamw",
    "lion",
    "sgd",
    "adamw_bf16",
    "adamw_8bit",
    "adamw_4bit",
    "adamw_flash",
    "lion_8bit",
    "solo",
    "solo_2bit",
    "solo_3bit",
)
SHAPES: dict[str, Callable[[], list[tuple[int, ...]]]] = {
    "matrix": lambda: [(4096, 4096)],
    "gpt2": lambda: _model_shapes("gpt2"),
    "tiny": lambda: [(16, 16)] * 1000,
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("optimizers", nargs="*", default=DEFAULT, help="specs; by default one of each kind")
    parser.add_argument("--shapes", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--backend", default="cpp", choices=("cpp", "torch"))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.shapes or SHAPES:
        for optimizer in arguments.optimizers:
            rows.append(measure(name, optimizer, arguments.backend, arguments.pairs))
            print(rows[-1], flush=True)
    Console(width=120).print(_table(rows))
    if arguments.out:
        data = {"machine": machine(), "threads": arguments.threads, "backend": arguments.backend, "rows": rows}
        write_bytes(arguments.out, (json.dumps(data, indent=1) + "\n").encode())


def measure(shapes: str, spec: str, backend: str, pairs: int) -> dict[str, Any]:
    """One row: ratio of medians of pairs, the quartiles of the ratio, bytes of state, seconds of the first step."""
    sizes = SHAPES[shapes]()
    theirs, ours = _parameters(sizes), _parameters(sizes)
    fused = torch.optim.AdamW(theirs, lr=1e-4, fused=True)
    optimizer = optgen.optimizer_class(spec)(ours, lr=1e-4, backend=backend)  # type: ignore[call-arg]
    first = _seconds(optimizer.step)
    for _ in range(3):
        fused.step()
        optimizer.step()
    found = [(_seconds(fused.step), _seconds(optimizer.step)) for _ in range(pairs)]
    ratios = [own / other for other, own in found]
    quartiles = statistics.quantiles(ratios, n=4)
    state = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values())
    return {
        "shapes": shapes,
        "optimizer": spec,
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "fused_ms": round(1e3 * statistics.median(other for other, _ in found), 3),
        "ms": round(1e3 * statistics.median(own for _, own in found), 3),
        "state_bytes": round(state / sum(p.numel() for p in ours), 4),
        "first_step_s": round(first, 2),
    }


def machine() -> dict[str, str]:
    """What the figures belong to."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").split("\n") if path.exists() else []


def _model_shapes(name: str) -> list[tuple[int, ...]]:
    return [tuple(shape.shape) for shape in load_model(name).shapes for _ in range(shape.count)]


def _parameters(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made: list[Tensor] = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator)
    return made


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("shapes", "optimizer", "ratio to fused AdamW", "quartiles", "ms", "fused ms", "state B/param", "first step s")
    for row in rows:
        low, high = row["quartiles"]
        numbers = (
            f"{row['ratio']:.2f}",
            f"{low:.2f} - {high:.2f}",
            *(f"{row[key]:g}" for key in ("ms", "fused_ms", "state_bytes")),
        )
        table.add_row(row["shapes"], row["optimizer"], *numbers, f"{row['first_step_s']:g}")
    return table


if __name__ == "__main__":
    main()
