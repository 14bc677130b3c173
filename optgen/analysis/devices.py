"""What bounds a kernel's time on the device of each target: figures as data, each with its source."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["Device", "Pipe", "load_devices"]


@dataclass(frozen=True)
class Pipe:
    """What executes instructions of some kinds: `lanes` a clock and unit; `takes` says how many turns each kind needs."""

    lanes: int
    takes: Mapping[str, int]

    def turns(self, kinds: Mapping[str, float]) -> float:
        """How often it turns for this many instructions of each kind."""
        return sum(kinds[kind] * turns for kind, turns in self.takes.items())


@dataclass(frozen=True)
class Device:
    """A GPU."""

    name: str
    units: int  # streaming multiprocessors, or compute units
    clock_ghz: float
    bandwidth_tb_s: float
    pipes: Mapping[str, Pipe]

    def times(self, nbytes: float, kinds: Mapping[str, float]) -> dict[str, float]:
        """Picoseconds that memory and each pipe need for this many bytes and instructions, all units at work."""
        lanes_per_ps = {name: pipe.lanes * self.units * self.clock_ghz / 1000 for name, pipe in self.pipes.items()}
        pipes = {name: pipe.turns(kinds) / lanes_per_ps[name] for name, pipe in self.pipes.items()}
        return {"memory": nbytes / self.bandwidth_tb_s, **pipes}


@functools.cache
def load_devices() -> dict[str, Device]:
    """The device of each target."""
    data = yaml.safe_load(Path(__file__).with_name("devices.yaml").read_text(encoding="utf-8"))
    return {
        target: Device(
            entry["name"],
            entry["units"]["value"],
            entry["clock_ghz"]["value"],
            entry["bandwidth_tb_s"]["value"],
            {name: Pipe(pipe["lanes"], pipe["takes"]) for name, pipe in entry["pipes"].items()},
        )
        for target, entry in data["devices"].items()
    }
