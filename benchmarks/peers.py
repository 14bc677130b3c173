"""Our optimizers on a CPU beside others' packages, each in a process of its own; writes a table, data and a picture.

    python benchmarks/peers.py             all; it goes on where it stopped, and takes again what others disturbed
    python benchmarks/peers.py --fresh "optgen solo"    measures that one again
    python benchmarks/peers.py --quick     a few on small matrices, which writes nothing
    python benchmarks/peers.py --picture   draws the picture from the data, and measures nothing

The packages of benchmarks/peers-cpu.txt are installed into an environment of their own, .peers, when it is not there. Times
are ratios to torch's fused AdamW in pairs, as in benchmarks/steps.py. An optimizer that does not run has a row with the reason.
`others` is the share of the processors that others took meanwhile: where it is more than the threads left idle and a tenth, the
row is taken again once, in the next run too, and the quieter of the two stays.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peer_list import OURS, PEERS, QUICK, Peer
from peers_environment import ROOT, Environment
from peers_picture import draw, table
from rich.console import Console

from optgen.output import write_bytes

DATA = ROOT / "benchmarks" / "results" / "peers-cpu.json"
PICTURE = ROOT / "docs" / "images" / "peers.png"
THREADS = min(2, os.cpu_count() or 1)
PAIRS = {"kind": "pairs", "dtype": "float32", "threads": THREADS, "budget": 2.0, "least": 5, "most": 200, "limit": 120}
# What is timed: the cost of the first step comes before what fills the same caches of compiled code.
JOBS: tuple[dict[str, Any], ...] = (
    {"kind": "alone", "shapes": ["gpt2"], "dtype": "float32", "threads": THREADS, "limit": 300},
    {**PAIRS, "shapes": ["matrix", "gpt2", "256x256", "1024x1024", "large", "tiny"]},
    {**PAIRS, "shapes": ["256x256", "matrix", "large"], "threads": 1},
    {**PAIRS, "shapes": ["llama-1b"], "dtype": "bfloat16", "least": 2, "limit": 200},
)
QUICK_JOBS: tuple[dict[str, Any], ...] = (
    {"kind": "alone", "shapes": ["256x256"], "dtype": "float32", "threads": THREADS, "limit": 30},
    {**PAIRS, "shapes": ["256x256"], "budget": 0.2, "limit": 30},
)
PATIENCE = (5, 120)  # seconds to wait for a quiet machine, and when a row is taken again
KEY = ("kind", "optimizer", "shapes", "dtype", "threads")


def main() -> None:
    """Install, measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    known = {peer.name: peer for peer in (*OURS, *PEERS)}
    parser.add_argument("optimizers", nargs="*", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--shapes", action="append", help="names of workloads.py, or AxB; default: all")
    parser.add_argument("--quick", action="store_true", help="a smoke run, which writes nothing")
    parser.add_argument("--fresh", action="store_true", help="measure again what the data has of these optimizers")
    parser.add_argument("--picture", action="store_true", help="draw the picture from the data and do no more")
    parser.add_argument("--out", type=Path, default=DATA, help="the JSON file of the figures")
    arguments = parser.parse_args()
    for name in arguments.optimizers:
        if name not in known:
            parser.error(f"there is no optimizer '{name}'; there are {', '.join(known)}")
    if not arguments.picture:
        names = arguments.optimizers or (QUICK if arguments.quick else known)
        _measure([known[name] for name in names], arguments)
    if not arguments.quick:
        draw(json.loads(arguments.out.read_text(encoding="utf-8"))["rows"], PICTURE)


def _measure(peers: Sequence[Peer], arguments: argparse.Namespace) -> None:
    environment = Environment()
    environment.install()
    rows: list[dict[str, Any]] = []
    if arguments.out.exists() and not arguments.quick:
        rows = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"]
    if arguments.fresh:
        names = {peer.name for peer in peers}
        rows = [row for row in rows if row["optimizer"] not in names]
    machine = next(environment.answers({"kind": "machine", "limit": 60, "shapes": [""]}))
    chosen = [
        {**job, "shapes": [shapes for shapes in job["shapes"] if shapes in (arguments.shapes or [shapes])]}
        for job in (QUICK_JOBS if arguments.quick else JOBS)
    ]
    jobs = [(job, peer) for job in chosen for peer in peers]
    for again in [False] if arguments.quick else [False, True]:  # what is missing first
        for job, peer in jobs:
            known = [row for row in rows if not again or row.get("quiet", True)]
            for row in _rows(environment, peer, {**job, "patience": 0 if arguments.quick else PATIENCE[again]}, known):
                print(row, flush=True)
                _keep(rows, row)
                if not arguments.quick:
                    rows.sort(key=_place)
                    write_bytes(arguments.out, (json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n").encode())
    Console(width=150).print(table(rows))


def _rows(environment: Environment, peer: Peer, job: dict[str, Any], known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a job that are not known yet. Shapes that an optimizer fails on get a row with the reason."""
    have = {_key(row) for row in known}
    common = {"kind": job["kind"], "package": peer.package, "optimizer": peer.name}
    named = [{**common, "shapes": shapes, "dtype": job["dtype"], "threads": job["threads"]} for shapes in job["shapes"]]
    left = [row for row in named if _key(row) not in have]
    if left and job["kind"] == "alone":
        environment.forget(peer.name)
    while left:
        shapes = [row["shapes"] for row in left]
        for answer in environment.answers({**job, "optimizer": peer.name, "shapes": shapes}):
            yield {**left.pop(0), **answer}
            if "reason" in answer:
                break  # the process has ended; the shapes after this one get another


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in KEY)


def _keep(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Add a row, unless it stands there from a quieter moment."""
    for place, old in enumerate(rows):
        if _key(old) == _key(row):
            if row.get("others", 1.0) <= old.get("others", 1.0):
                rows[place] = row
            return
    rows.append(row)


def _place(row: dict[str, Any]) -> tuple[int, ...]:
    """Where a row stands in the data: by job, optimizer and shapes."""
    jobs = ((job, job["shapes"].index(row["shapes"])) for job in JOBS if row["shapes"] in job["shapes"])
    order = [peer.name for peer in (*OURS, *PEERS)]
    where = next((JOBS.index(job), shape) for job, shape in jobs if all(job[key] == row[key] for key in ("kind", "threads")))
    return where[0], order.index(row["optimizer"]), where[1]


if __name__ == "__main__":
    main()
