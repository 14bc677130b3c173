"""The measuring process of `gpu.py`: runs one job after the other and prints a line of JSON for each.

A process of its own, because an error of a kernel leaves CUDA unusable in the process where it happens.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from workloads import bytes_moved, generated_class, parameters, shapes_of, state_bytes

import optgen.build
from optgen.build import Built
from optgen.spec.find import find_spec

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LR = 1e-4


@dataclass
class Measured:
    """An optimizer with its parameters."""

    optimizer: torch.optim.Optimizer
    elements: int


@dataclass(frozen=True)
class Options:
    """How to measure."""

    device: str
    backend: str
    pairs: int
    group_ms: float
    quick: bool
    workloads: tuple[str, ...]
    tiny: str
    baselines: dict[tuple[str, str], Measured] = field(default_factory=dict)

    def sync(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def baseline(self, workload: str, kind: str) -> Measured:
        """The AdamW of torch, fused or foreach, made once for each workload."""
        if (workload, kind) not in self.baselines:
            options: dict[str, Any] = {kind: True}
            self.baselines[workload, kind] = _made(lambda p: torch.optim.AdamW(p, lr=LR, **options), workload, self)
        return self.baselines[workload, kind]


def main() -> None:
    """Run the jobs of the command line, each `part:spec`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="triton")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--group-ms", type=float, default=6.0)
    parser.add_argument("--workloads", nargs="*", default=["large:bf16", "large:fp32", "gpt2:bf16"])
    parser.add_argument("--tiny", default="tiny:fp32")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    options = Options(
        arguments.device,
        arguments.backend,
        arguments.pairs,
        arguments.group_ms,
        not arguments.full,
        tuple(arguments.workloads),
        arguments.tiny,
    )
    if options.device == "cpu":
        torch.set_num_threads(1)
    without_formatters()
    for job in arguments.jobs:
        part, _, spec = job.partition(":")
        start = time.perf_counter()
        noise = io.StringIO()
        try:
            with contextlib.redirect_stdout(noise):  # compilers print where the answers go
                found = PARTS[part](spec, options)
        except Exception as error:  # noqa: BLE001 - whatever a kernel does is a result
            found = {"error": _told(error)}
        found |= {"seconds": round(time.perf_counter() - start, 1)}
        print(json.dumps({"job": job, "found": found}), flush=True)
        if _is_lost(found.get("error", "")):
            sys.exit(3)


def without_formatters() -> None:
    """Where ruff and clang-format are not installed, what is built for a test is not formatted; its code is the same."""
    if importlib.util.find_spec("ruff") is None or importlib.util.find_spec("clang_format") is None:
        setattr(optgen.build, "format_files", dict)  # noqa: B010 - a module's function, for this process


def prepare(spec: str, options: Options) -> dict[str, Any]:
    """One step of each workload, so that compiled kernels lie in the cache on disk; their times mean little."""
    found = {}
    for workload in (*options.workloads, options.tiny):
        start = time.perf_counter()
        _ours(spec, workload, options).optimizer.step()
        options.sync()
        found[workload] = round(time.perf_counter() - start, 2)
    return {"first_step_s": found}


def measure(spec: str, options: Options) -> dict[str, Any]:
    """Every workload of one optimizer beside torch's fused AdamW."""
    found: dict[str, Any] = {}
    for workload in options.workloads:
        try:
            found[workload] = _compared(spec, workload, options)
        except Exception as error:  # noqa: BLE001 - the other workloads still count
            found[workload] = {"error": _told(error)}
            if _is_lost(found[workload]["error"]):
                return found | {"error": found[workload]["error"]}
    found[options.tiny] = {"host_ms": _host_ms(_ours(spec, options.tiny, options), options)}
    return found


def baselines(_: str, options: Options) -> dict[str, Any]:
    """The device's copy bandwidth; memory and host time of torch's AdamW, fused and foreach."""
    found: dict[str, Any] = {"copy_gb_s": _copy_gb_s(options)}
    for kind in ("fused", "foreach"):
        rows: dict[str, Any] = {options.tiny: {"host_ms": _host_ms(options.baseline(options.tiny, kind), options)}}
        for workload in options.workloads:
            made = options.baseline(workload, kind)
            rows[workload] = {
                "temporary_bytes": _temporary(made, options),
                "ms": round(statistics.median(_group(made, _steps(made, options), options) for _ in range(options.pairs)), 4),
            }
            if kind != "fused":
                del options.baselines[workload, kind]
        found[kind] = rows
    return found


def hold_to_reference(spec: str, options: Options) -> dict[str, Any]:
    """Equality with the float64 reference on this device."""
    from optgen.verify import Outcome, verify

    cases: list[dict[str, Any]] = []
    found: dict[str, Any] = {"cases": cases}
    try:
        for row in verify(find_spec(spec), (options.backend,), quick=options.quick):
            if not isinstance(row, Outcome):
                return found | {"error": f"skipped: {row.reason}"}
            difference = row.difference
            cases.append(
                {"case": row.case.name, "dtype": str(row.case.dtype).removeprefix("torch."), "passed": row.passed}
                | {key: float(f"{getattr(difference, key):.4g}") for key in ("p", "state")}
                | {key: getattr(difference, key) for key in ("codes", "wrong_codes", "far_codes", "lost")}
            )
    except Exception as error:  # noqa: BLE001 - the cases before it still count
        found["error"] = _told(error)
    found["passed"] = bool(cases) and "error" not in found and all(case["passed"] for case in cases)
    return found


PARTS: dict[str, Callable[[str, Options], dict[str, Any]]] = {
    "prepare": prepare,
    "baselines": baselines,
    "time": measure,
    "verify": hold_to_reference,
}


def _compared(spec: str, workload: str, options: Options) -> dict[str, Any]:
    fused = options.baseline(workload, "fused")
    start = time.perf_counter()
    ours = _ours(spec, workload, options)
    ours.optimizer.step()
    options.sync()
    first = time.perf_counter() - start
    temporary = _temporary(ours, options)
    theirs_steps, ours_steps = _steps(fused, options), _steps(ours, options)
    pairs = [(_group(fused, theirs_steps, options), _group(ours, ours_steps, options)) for _ in range(options.pairs)]
    quartiles = statistics.quantiles([own / other for other, own in pairs], n=4)
    ms = statistics.median(own for _, own in pairs)
    moved = bytes_moved(_built(spec), ours.optimizer)
    return {
        "ratio": round(quartiles[1], 3),
        "quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "ms": round(ms, 4),
        "fused_ms": round(statistics.median(other for other, _ in pairs), 4),
        "bytes_per_parameter": round(moved / ours.elements, 3),
        "gb_s": round(moved / ms / 1e6, 1),
        "copy_gb_s": _copy_gb_s(options),
        "state_bytes": round(state_bytes(ours.optimizer) / ours.elements, 4),
        "temporary_bytes": temporary,
        "host_ms": _host_ms(ours, options, 5),
        "fused_host_ms": _host_ms(fused, options, 5),
        "first_step_s": round(first, 2),
    }


def _ours(spec: str, workload: str, options: Options) -> Measured:
    made = generated_class(spec)
    return _made(lambda p: made(p, lr=LR, backend=options.backend), workload, options)  # type: ignore[call-arg]


def _made(make: Callable[[Any], torch.optim.Optimizer], workload: str, options: Options) -> Measured:
    shapes, _, dtype = workload.rpartition(":")
    params = parameters(shapes_of(shapes), options.device, DTYPES[dtype])
    return Measured(make(params), sum(p.numel() for p in params))


def _group(measured: Measured, steps: int, options: Options) -> float:
    """Milliseconds of a step on the device, averaged over a group of them."""
    step = measured.optimizer.step
    if options.device != "cuda":
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return 1e3 * (time.perf_counter() - start) / steps
    event: Any = torch.cuda.Event  # torch gives it no types
    first, last = event(enable_timing=True), event(enable_timing=True)
    first.record()
    for _ in range(steps):
        step()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / steps


def _steps(measured: Measured, options: Options) -> int:
    """Steps in a group, after a few to warm up."""
    _group(measured, 2, options)
    return max(1, min(50, round(options.group_ms / _group(measured, 3, options))))


def _host_ms(measured: Measured, options: Options, steps: int = 20) -> float:
    """Median milliseconds until a step returns, the device idle before it."""
    found = []
    for _ in range(steps + 2):
        options.sync()
        start = time.perf_counter()
        measured.optimizer.step()
        found.append(1e3 * (time.perf_counter() - start))
    options.sync()
    return round(statistics.median(found[2:]), 4)


def _temporary(measured: Measured, options: Options) -> int | None:
    """Bytes that a step has allocated at its peak beyond those before it; None where the allocator does not tell."""
    if options.device != "cuda":
        return None
    measured.optimizer.step()
    options.sync()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    measured.optimizer.step()
    options.sync()
    return int(torch.cuda.max_memory_allocated() - before)


def _copy_gb_s(options: Options) -> float:
    """Bytes read and written in a second by a copy of 512 MiB (on a CPU of 1 MiB)."""
    size = 2**29 if options.device == "cuda" else 2**20
    source = torch.zeros(size // 4, device=options.device)
    copy = Measured(_Copy(source, torch.empty_like(source)), size)
    steps = _steps(copy, options)
    return round(2 * size / min(_group(copy, steps, options) for _ in range(3)) / 1e6, 1)


class _Copy(torch.optim.Optimizer):
    """A copy, in the form of what is measured beside it."""

    def __init__(self, source: torch.Tensor, target: torch.Tensor) -> None:
        super().__init__([torch.nn.Parameter(source)], {})
        self.source, self.target = source, target

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002 - the interface of torch.optim
        self.target.copy_(self.source)


@cache
def _built(spec: str) -> Built:
    return optgen.build.build(find_spec(spec))


def _told(error: Exception) -> str:
    return "".join(traceback.format_exception(error, limit=-4))[-3000:]


def _is_lost(text: str) -> bool:
    """Whether the process cannot go on with the device."""
    return any(word in text for word in ("CUDA error", "AcceleratorError", "Triton Error [CUDA]"))


if __name__ == "__main__":
    main()
