"""Time of a step on this machine as a ratio to torch's fused AdamW, measured in pairs; writes a table and data.

    python benchmarks/steps.py                 every optimizer below, a 16M-element matrix and GPT-2's parameters
    python benchmarks/steps.py solo adamw_8bit --shapes matrix

A pair is one step of torch.optim.AdamW(fused=True) and one of the other, directly behind it; the ratio is the median of the
pairs. Absolute times of shared machines mean little.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pairs import figures, paired, seconds
from rich.console import Console
from rich.table import Table
from workloads import machine, parameters, shapes_of, state_bytes

import optgen
from optgen.output import write_bytes

DEFAULT = (
    "adamw",
    "lion",
    "sgd",
    "torch.SGD",
    "adamw_bf16",
    "adamw_8bit",
    "adamw_4bit",
    "adamw_flash",
    "lion_8bit",
    "solo",
    "solo_2bit",
    "solo_3bit",
    "lamb",
    "adafactor",
    "sm3",
    "adam_mini",
    "adamw_4bit_rank1",
)
SHAPES = ("matrix", "gpt2", "tiny")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "optimizers", nargs="*", default=DEFAULT, help="specs, and torch's own such as torch.SGD; by default one of each kind"
    )
    parser.add_argument("--shapes", action="append", help=f"names of workloads.py, or AxB; default: {', '.join(SHAPES)}")
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
    theirs, ours = parameters(shapes_of(shapes)), parameters(shapes_of(shapes))
    fused = torch.optim.AdamW(theirs, lr=1e-4, fused=True)
    optimizer = _optimizer(spec, ours, backend)
    first = seconds(optimizer.step)
    for _ in range(3):
        fused.step()
        optimizer.step()
    return {
        "shapes": shapes,
        "optimizer": spec,
        **figures(paired(fused.step, optimizer.step, pairs)),
        "state_bytes": round(state_bytes(optimizer) / sum(p.numel() for p in ours), 4),
        "first_step_s": round(first, 2),
    }


def _optimizer(name: str, params: list[torch.Tensor], backend: str) -> torch.optim.Optimizer:
    """A spec's optimizer, or torch's fused one: how fast memory is with fewer bytes than AdamW's."""
    if name.startswith("torch."):
        fused: torch.optim.Optimizer = getattr(torch.optim, name.removeprefix("torch."))(params, lr=1e-4, fused=True)
        return fused
    made: Any = optgen.optimizer_class(name)
    return made(_named(params) if made.description.tags else params, lr=1e-4, backend=backend)  # type: ignore[no-any-return]


def _named(params: list[torch.Tensor]) -> list[dict[str, Any]]:
    """The parameters for a rule that asks for names: matrices have a number for each row, all others are of norms."""
    groups: dict[str, list[tuple[str, torch.Tensor]]] = {"row": [], "": []}
    for place, p in enumerate(params):
        groups["row" if p.ndim > 1 else ""].append((f"{place}.{'weight' if p.ndim > 1 else 'norm'}", p))
    return [{"params": members, "tags": [tag] if tag else []} for tag, members in groups.items() if members]


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
