"""One optimizer in a process of its own: benchmarks/peers.py starts it with a job, and it answers with a line for each row.

A job names the optimizer, a kind, the shapes, the dtype and the threads. Kinds: `pairs` times steps; `alone` has no other
optimizer beside it, and tells the cost of the first step and the memory that a later one takes for a while; `machine`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pairs import Step, figures, others_share, others_since, paired, quiet, seconds, wait
from peer_list import LEARNING_RATE, OURS, PEERS, Peer
from workloads import machine, parameters, shapes_of, state_bytes, versions

from optgen.runtime.cpp_compile import find_compiler

MEMORY = 20 * 2**30  # bytes; what needs more fails, rather than have the system end a process
SPARE = 2**30  # bytes that are left to others
PERIOD = 1 << 22
WARM = 5
PACKAGES = ("optgen", *dict.fromkeys(peer.package for peer in PEERS))


def main() -> None:
    """Do the job of the command line."""
    job = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # packages print what they like
    _limit_memory()
    if job["kind"] == "machine":
        print(json.dumps(_machine()), file=answers, flush=True)
        return
    torch.set_num_threads(job["threads"])
    peer = next(peer for peer in (*OURS, *PEERS) if peer.name == job["optimizer"])
    peer.load()
    for shapes in job["shapes"]:
        row = alone(peer, shapes, job) if job["kind"] == "alone" else pairs(peer, shapes, job)
        print(json.dumps(row), file=answers, flush=True)


def pairs(peer: Peer, shapes: str, job: dict[str, Any]) -> dict[str, Any]:
    """A row of times. Both optimizers step the same parameters, which keeps a model of 1B in memory."""
    params = parameters(shapes_of(shapes), dtype=getattr(torch, job["dtype"]), period=PERIOD)
    fused = torch.optim.AdamW(params, lr=LEARNING_RATE, fused=True)
    optimizer, step = peer.make(params)
    first = seconds(step)
    fused.step()
    spent: list[float] = []
    while len(spent) < WARM and sum(spent) < job["budget"]:
        spent.append(seconds(fused.step) + seconds(step))
    count = int(job["budget"] / min(spent))
    wait(job["patience"], job["threads"])
    start = others_since()
    found = paired(fused.step, step, max(job["least"], min(job["most"], count)))
    others = others_share(start)
    size = sum(p.numel() for p in params)
    return {
        **figures(found),
        "pairs": len(found),
        "others": round(others, 3),
        "quiet": quiet(others, job["threads"]),
        "parameters": size,
        "state_bytes": round(state_bytes(optimizer) / size, 4),
        "first_step_s": round(first, 3),
    }


def alone(peer: Peer, shapes: str, job: dict[str, Any]) -> dict[str, Any]:
    """A row of the first step, with what its construction and its compilation take, and of the memory of one after it."""
    params = parameters(shapes_of(shapes), dtype=getattr(torch, job["dtype"]), period=PERIOD)
    start = time.perf_counter()
    optimizer, step = peer.make(params)
    step()
    first = time.perf_counter() - start
    for _ in range(2):
        step()
    size = sum(p.numel() for p in params)
    return {
        "parameters": size,
        "state_bytes": round(state_bytes(optimizer) / size, 4),
        "first_step_cold_s": round(first, 3),
        "peak_mib": round(statistics.median(peak_bytes(step) for _ in range(3)) / 2**20, 2),
        "parameters_mib": round(sum(p.numel() * p.element_size() for p in params) / 2**20, 2),
        "largest_mib": round(max(math.prod(p.shape) * p.element_size() for p in params) / 2**20, 2),
    }


def peak_bytes(step: Step) -> int:
    """How far the resident memory of this process rises above its start during a step.

    The kernel's mark is set back before it. What earlier steps freed is given back to the system first, else a step takes it
    again unseen. Pages are of 4 KiB, and the kernel adds them up in batches, so that a fraction of a MiB means nothing.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _resident_peak()
    step()
    return _resident_peak() - before


def _resident_peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _limit_memory() -> None:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    limit = max(SPARE, min(MEMORY, available - SPARE))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")  # if it comes to that, this process is to end


def _machine() -> dict[str, Any]:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[-1].split("\n", 1)[0].split()
    vectors = [flag for flag in flags if flag.startswith(("avx", "fma"))]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    made = {"flags": vectors, "memory_gib": round(memory, 1), "compiler": find_compiler()[1]}
    return {**machine(), **made, "packages": versions(*PACKAGES, "numpy")}


if __name__ == "__main__":
    main()
