"""What bounds a step on a GPU: bytes from the plan, instructions from the compiled code, times from the device's figures.

The figures are those of the bulk of a large tensor with every pipe always busy: what a step takes at least. Latencies, bank
conflicts and the launch come on top.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optgen.analysis.devices import Device, load_devices
from optgen.analysis.gpu_code import GpuCode, compile_kernel
from optgen.analysis.machine_code import access_bits
from optgen.analysis.memory import MATRIX
from optgen.analysis.pipes import KINDS, by_kind
from optgen.build import Built
from optgen.in_memory import package_of
from optgen.ir.constants import default_flags
from optgen.ir.nodes import Domain
from optgen.plan.nodes import Kernel
from optgen.plan.traffic import is_made, kernel_bytes

__all__ = ["PARAMS", "KernelRoofline", "Roofline", "RooflineError", "measure", "roofline"]

PARAMS = {"bf16": 2, "fp32": 4, "fp16": 2}  # bytes of an element


class RooflineError(RuntimeError):
    """Code that cannot be counted, or no compiler; the message says why."""


@dataclass(frozen=True)
class KernelRoofline:
    """One kernel, its sweeps over elements together.

    `bytes_moved` and `kinds`, instructions by kind, are per element. `accesses` counts those of a thread and tile to global
    memory, by bits. `times` are picoseconds per element that memory and each pipe need.
    """

    name: str
    bytes_moved: float
    kinds: Mapping[str, float]
    registers: int
    spill_bytes: int
    shared_bytes: int
    accesses: Mapping[int, int]
    times: Mapping[str, float]

    @property
    def instructions(self) -> float:
        """All of them, per element."""
        return sum(self.kinds[kind] for kind in KINDS)

    @property
    def bound_by(self) -> str:
        """What needs the longest: "memory", "issue" or another pipe."""
        return max(self.times, key=lambda name: self.times[name])


@dataclass(frozen=True)
class Roofline:
    """All kernels of an optimizer on a device; most parameters take the last one of their rule, that of codes if there is one."""

    optimizer: str
    target: str
    device: Device
    param: str
    grad: str
    kernels: tuple[KernelRoofline, ...]
    main: int = -1  # of the kernels, the one that most parameters take

    @property
    def step(self) -> KernelRoofline:
        """The kernel that most parameters take."""
        return self.kernels[self.main]


def roofline(built: Built, target: str, *, param: str = "bf16", grad: str = "bf16", rounding: str = "stochastic") -> Roofline:
    """Compile every kernel of an optimizer for a target, every hyperparameter at its default, and say what bounds it.

    `rounding` is that of 16-bit parameters, "stochastic" or "nearest".

    Raises:
        RooflineError: if Triton is missing or interprets, or the code of a kernel cannot be counted.
    """
    device = load_devices()[target]
    kernels = tuple(
        _kernel(plan, entry, device, target, param, grad, rounding)
        for plan, entry in zip(built.plan.kernels, _entries(built), strict=True)
    )
    rules = built.plan.rules[: built.spec.place_of(MATRIX) + 1]
    main = sum(len(rule.kernels) for rule in rules) - 1
    return Roofline(built.spec.name, target, device, param, grad, kernels, main)


def _entries(built: Built) -> Any:
    try:
        from optgen.runtime.backends import interpreting

        if interpreting():
            raise RooflineError("Triton interprets its kernels and compiles none: unset TRITON_INTERPRET")
        return importlib.import_module(f"{package_of(built)}.triton_backend").KERNELS
    except ImportError as error:
        raise RooflineError(f"this needs Triton, which cannot be imported ({error}): pip install triton") from error


def _kernel(plan: Kernel, entry: Any, device: Device, target: str, param: str, grad: str, rounding: str) -> KernelRoofline:
    flags = default_flags(plan.program)
    codes = []
    made = [(number, sweep) for number, sweep in enumerate(plan.sweeps) if is_made(sweep, flags)]
    over_elements = [number for number, sweep in made if sweep.over == Domain.ELEMENT]
    for sweep in over_elements:  # those over rows and columns have few elements
        given = {flag: flags[flag] for flag in plan.flags}
        code = compile_kernel(entry, target, param=param, grad=grad, flags=given, low_precision=rounding, sweep=sweep)
        if code.fault:
            raise RooflineError(f"sweep {sweep} of kernel '{plan.name}': {code.fault}")
        codes.append(code)
    nbytes = kernel_bytes(plan, param=PARAMS[param], grad=PARAMS[grad], flags=flags)
    return measure(plan.name, codes, nbytes, entry.tile / entry.threads, device)


def measure(name: str, codes: list[GpuCode], nbytes: float, elements: float, device: Device) -> KernelRoofline:
    """The facts of a kernel of which a thread has this many elements in a tile."""
    counts, accesses = Counter[str](), Counter[int]()
    for code in codes:
        counts.update(code.bulk)
        for operation, count in code.bulk.items():
            if bits := access_bits(operation):
                accesses[bits] += count
    kinds = {kind: count / elements for kind, count in by_kind(counts).items()}
    return KernelRoofline(
        name,
        nbytes,
        kinds,
        max(code.registers for code in codes),
        sum(code.spill_bytes for code in codes),
        max(code.shared_bytes for code in codes),
        dict(sorted(accesses.items(), reverse=True)),
        device.times(nbytes, kinds),
    )
