"""Times of steps in pairs: a step of torch's fused AdamW and one of the other, directly behind it.

Absolute times of shared machines mean little; what slows one half of a pair down mostly slows the other too.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Step", "figures", "others_share", "others_since", "paired", "quiet", "seconds", "wait"]

QUIET = 0.1  # of the processors, what others may take besides those that are idle

Step = Callable[[], Any]


def seconds(step: Step) -> float:
    """The time of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def paired(fused: Step, step: Step, pairs: int) -> list[tuple[float, float]]:
    """The seconds of both in so many pairs."""
    return [(seconds(fused), seconds(step)) for _ in range(pairs)]


def figures(found: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The median of the pairs' ratios and its quartiles, the medians of both in milliseconds."""
    ratios = [own / other for other, own in found]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive" if len(ratios) < 4 else "exclusive")
    return {
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "fused_ms": round(1e3 * statistics.median(other for other, _ in found), 3),
        "ms": round(1e3 * statistics.median(own for _, own in found), 3),
    }


def others_share(start: tuple[float, float]) -> float:
    """The share of the processors that others have taken since `others_since` gave the start."""
    now = others_since()
    return max(0.0, (now[1] - start[1]) / (now[0] - start[0]) / (os.cpu_count() or 1))


def others_since() -> tuple[float, float]:
    """The time, and the seconds that others than this process had of Linux's processors, or a hypervisor gave to other guests."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, fields)
    own = os.times()
    busy = (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), busy - own.user - own.system


def quiet(others: float, threads: int) -> bool:
    """Whether a share of the processors that others take leaves so many threads alone."""
    return others <= QUIET + 1 - min(1.0, threads / (os.cpu_count() or 1))


def wait(patience: float, threads: int) -> None:
    """Wait until others leave so many processors alone, for so many seconds at most."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        start = others_since()
        time.sleep(0.5)
        if quiet(others_share(start), threads):
            return
