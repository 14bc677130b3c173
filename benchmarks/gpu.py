"""Everything that needs a GPU, in one call: time, bandwidth, memory and equality with the reference of every optimizer.

    PYTHONPATH=. python benchmarks/gpu.py --out gpu.json
    PYTHONPATH=. python benchmarks/gpu.py solo adamw --only time
    PYTHONPATH=. python benchmarks/gpu.py --device cpu --backend cpp --large 64x64 --model 64x64 --workers 1

Needs torch with CUDA, triton, numpy, pyyaml and jinja2. First kernels are compiled and held to the float64 reference, by
several processes; then one process, alone on the device, measures. The JSON is written after each answer.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from workloads import in_order, machine

from optgen.output import write_bytes

PARTS = Path(__file__).parent / "gpu_parts.py"


class Runner:
    """Runs jobs in child processes, which are started anew when one is lost, and keeps what they found."""

    def __init__(self, options: Sequence[str], out: Path, limit: float, seconds_per_job: float) -> None:
        """`options` go to the children; nothing is started `limit` seconds after now."""
        self.options, self.out, self.start, self.limit = options, out, time.monotonic(), limit
        self.seconds_per_job = seconds_per_job
        self.lock = threading.Lock()
        self.data: dict[str, Any] = {}

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def run(self, jobs: Sequence[str], workers: int) -> None:
        """Run all jobs, dealt out to `workers` processes at a time."""
        hands = [list(jobs[first::workers]) for first in range(min(workers, len(jobs)))]
        threads = [threading.Thread(target=self._run_hand, args=(hand,)) for hand in hands]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def record(self, job: str, found: dict[str, Any]) -> None:
        """Keep what a job found, print a line, and write the file."""
        part, _, spec = job.partition(":")
        with self.lock:
            self.data.setdefault(part, {})[spec or "torch"] = found
            self.data["elapsed_s"] = round(self.elapsed(), 1)
            print(f"{self.elapsed():6.1f} s  {part:9} {spec:14} {summary(part, found)}", flush=True)
            write_bytes(self.out, (json.dumps(self.data, indent=1) + "\n").encode())

    def _run_hand(self, hand: list[str]) -> None:
        while hand and self.elapsed() < self.limit:
            done = 0
            for job, found in self._answers(hand):
                self.record(job, found)
                done += 1
            del hand[: max(done, 1)]
        for job in hand:
            self.record(job, {"error": f"not started: the limit of {self.limit:g} s had passed"})

    def _answers(self, hand: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """What one process answers, until it ends; a job in which it ends without an answer is answered for it."""
        child = subprocess.Popen(
            [sys.executable, str(PARTS), *hand, *self.options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lines: queue.Queue[str | None] = queue.Queue()
        errors: list[str] = []
        readers = [
            threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True),
            threading.Thread(target=lambda: errors.append(child.stderr.read() if child.stderr else ""), daemon=True),
        ]
        for reader in readers:
            reader.start()
        waiting, reason = list(hand), ""
        while waiting:
            try:
                line = lines.get(timeout=self.seconds_per_job)
            except queue.Empty:
                reason = f"no answer for {self.seconds_per_job:g} s"
                break
            if line is None:
                break
            if line.startswith('{"job"'):
                answer = json.loads(line)
                waiting.remove(answer["job"])
                yield answer["job"], answer["found"]
            if waiting and self.elapsed() > self.limit:
                child.kill()
                return
        if waiting:
            child.kill()
        child.wait()
        readers[1].join()
        if waiting and child.returncode != 3:  # 3: it has answered and says that it cannot go on
            yield waiting[0], {"error": reason or f"the process ended with {child.returncode}: {errors[0][-2000:]}"}


def main() -> None:
    """Compile, verify, measure, write."""
    arguments = parse()
    specs = in_order(arguments.specs)
    workloads = [f"{arguments.large}:bf16", f"{arguments.large}:fp32", f"{arguments.model}:bf16"]
    options = [
        *("--device", arguments.device, "--backend", arguments.backend, "--pairs", str(arguments.pairs)),
        *("--group-ms", str(arguments.group_ms), "--tiny", f"{arguments.tiny}:fp32"),
        *(["--full"] if arguments.full else []),
        *("--workloads", *workloads),
    ]
    runner = Runner(options, arguments.out, arguments.limit, arguments.job_limit)
    runner.data |= {"machine": machine(arguments.device), "backend": arguments.backend, "workloads": workloads}
    print(json.dumps(runner.data), flush=True)
    wants = (arguments.only,) if arguments.only else ("time", "verify")
    if "time" in wants:
        runner.run([f"prepare:{spec}" for spec in specs], arguments.workers)
        runner.run(["baselines:", *(f"time:{spec}" for spec in specs)], 1)
    if "verify" in wants:
        runner.run([f"verify:{spec}" for spec in specs], arguments.workers)
    print(f"{runner.elapsed():6.1f} s  wrote {arguments.out}", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("specs", nargs="*", help="shipped optimizers; by default all")
    parser.add_argument("--only", choices=("time", "verify"), help="by default both")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--limit", type=float, default=420.0, help="seconds after which nothing is started")
    parser.add_argument("--job-limit", type=float, default=120.0, help="seconds without an answer that end a process")
    parser.add_argument("--workers", type=int, default=8, help="processes that compile and verify")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--group-ms", type=float, default=6.0, help="milliseconds that a group of steps is to take")
    parser.add_argument("--large", default="large", help="shapes of the large workload, or AxB")
    parser.add_argument("--model", default="gpt2", help="shapes of the model, or AxB")
    parser.add_argument("--tiny", default="tiny", help="shapes for the host's time")
    parser.add_argument("--full", action="store_true", help="all cases of optgen verify, not the quick ones")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backend", choices=("triton", "torch", "cpp"), default="triton")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --backend cpp is a dry run")
    return arguments


def summary(part: str, found: dict[str, Any]) -> str:
    """An answer in a line."""
    if "error" in found:
        return f"FAILED: {(str(found['error']).strip().splitlines() or ['?'])[-1][:160]}"
    if part == "time":
        rows = [(name, row) for name, row in found.items() if isinstance(row, dict) and ("ratio" in row or "error" in row)]
        return ", ".join(f"{name} {row.get('ratio', 'FAILED')}" for name, row in rows)
    if part == "verify":
        return f"{'passed' if found['passed'] else 'NOT EQUAL'} in {len(found['cases'])} cases, {found['seconds']} s"
    return json.dumps(found)[:160]


def _read_lines(stream: Any, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


if __name__ == "__main__":
    main()
