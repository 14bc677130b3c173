"""The plan: everything a backend prints. Fields only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from optgen.ir.nodes import Assign, Function, Guard, Hyper, Program, State, Statement

__all__ = ["Buffer", "Kernel", "Layout", "Plan", "Variant"]


class Layout(Enum):
    """How a buffer's values lie."""

    ELEMENT = "element"  # one value per element of the parameter, in the parameter's shape
    BLOCK = "block"  # one float32 per block, shaped (leading dimensions..., blocks per row)
    CODE = "code"  # packed codes, bytes shaped (leading dimensions..., bytes per row)


@dataclass(frozen=True)
class Buffer:
    """A tensor that a kernel reads or writes.

    `dtype` is "param" or "grad" (that of the parameter or gradient), "real" (the dtype of the arithmetic), "correction"
    (that of the group's corrections), "float32", "bfloat16", "float16" or "uint8". `key` is the key in the state dict,
    None for the parameter and its gradient.
    """

    name: str
    layout: Layout
    dtype: str
    key: str | None
    state: State | None
    read: bool
    written: bool
    doc: str
    when: Guard | None = None

    @property
    def guard(self) -> Guard | None:
        """The condition under which the buffer exists."""
        return self.when if self.state is None else self.state.when


@dataclass(frozen=True)
class Variant:
    """Which states a parameter keeps in few bits, and the numbers that depend on it."""

    stored: tuple[str, ...]
    facts: dict[str, float]


@dataclass(frozen=True)
class Kernel:
    """One sweep over a parameter: each element of each buffer is read at most once and written at most once.

    `body` begins with the loads and ends with the stores. `columns` are the host scalars that it reads.
    """

    name: str
    variant: Variant
    buffers: tuple[Buffer, ...]
    functions: tuple[Function, ...]
    columns: tuple[str, ...]
    body: tuple[Statement, ...]
    program: Program  # its symbols cover the body

    @property
    def flags(self) -> tuple[str, ...]:
        """The compile-time flags that its statements stand under."""
        used = {guard.flag for statement in self.body for guard in statement.guards}
        return tuple(flag for flag in self.program.flags if flag in used)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The block sizes of its stored states, each once."""
        sizes = [b.state.storage.block for b in self.buffers if b.state is not None and b.state.storage is not None]
        return tuple(dict.fromkeys(size for size in sizes if self.variant.stored))


@dataclass(frozen=True)
class Plan:
    """All that is known of an optimizer before code is printed."""

    program: Program
    kernels: tuple[Kernel, ...]
    hypers: tuple[Hyper, ...]
    host_inputs: tuple[str, ...]  # the symbols of hyperparameters and facts that the host statements read
    host: tuple[Assign, ...]
    columns: tuple[str, ...]
    outputs: dict[str, str]

    @property
    def random(self) -> bool:
        """Whether a state is rounded stochastically, whatever the parameter's dtype."""
        storages = [state.storage or state.floats for state in self.program.states]
        return any(storage is not None and storage.rounding != "nearest" for storage in storages)
