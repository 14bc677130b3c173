"""How a kernel reads, whatever the language: paragraphs, comments, and the table of what lies between its sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from optgen.ir.nodes import Assign, Call, Domain, Op, Statement
from optgen.plan.nodes import Buffer, Kernel, Layout, Sweep

__all__ = ["buffer_comment", "joint_table", "paragraphs", "scratch_table", "sweep_doc"]


SHAPES = {
    Layout.ELEMENT: "elements",
    Layout.BLOCK: "blocks",
    Layout.ROW: "rows",
    Layout.TENSOR: "1",
    Layout.ROWS: "rows",
    Layout.COLS: "columns",
    Layout.MATRICES: "matrices",
    Layout.STRIPS: "strips, columns",
    Layout.CODE: "bytes",
}


def paragraphs(body: Sequence[Statement]) -> list[list[Statement]]:
    """Loads, the update, encoding and stores: what a person would separate by blank lines."""
    chunks: list[list[Statement]] = []
    last = None
    for statement in body:
        phase = "store" if last == "store" else _phase(statement)
        if phase != last:
            chunks.append([])
            last = phase
        chunks[-1].append(statement)
    return chunks


def _phase(statement: Statement) -> str:
    if not isinstance(statement, Assign):
        return "store"
    value = statement.value
    if isinstance(value, Op) and value.op in ("load", "load_codes", "elements"):
        return "load"
    coding = isinstance(value, Call) or statement.target.endswith("_blocks")  # all that follows is coding too
    return "store" if coding else "update"


def buffer_comment(buffer: Buffer) -> str:
    """Direction, shape and meaning of a kernel's tensor."""
    way = "in/out" if buffer.read and buffer.written else "out" if buffer.written else "in"
    guard = "" if buffer.guard is None else f" ({'' if buffer.guard.holds else 'not '}{buffer.guard.flag})"
    return f"{way} [{SHAPES[buffer.layout]}] {buffer.doc}{guard}"


def sweep_doc(kernel: Kernel, sweep: Sweep) -> str:
    """What the function for a tile does, in one sentence."""
    moves = any(buffer.dtype == "param" and buffer.written for buffer in sweep.buffers)
    what = "One step of a tile" if moves or sweep is kernel.sweeps[-1] else "What later sweeps need of a tile"
    stored = ", ".join(kernel.variant.stored)
    return f"{what}, with {stored} stored as codes." if stored else f"{what}."


def joint_table(kernel: Kernel, rule: str, slots: Sequence[str] = ()) -> str:
    """The argument of a table that says which reductions are of several parameters; with the places of their results in `slots`."""
    rows = []
    for reduction in kernel.joint:
        joint = reduction.joint
        assert joint is not None
        name = f"{rule}.{joint.name}" if rule and not joint.of_all else joint.name
        more = f", over={joint.over.name.lower()!r}" if joint.over != Domain.ELEMENT else ""
        guards = tuple((guard.flag, guard.holds) for guard in joint.guards)
        more += f", when={guards!r}" if guards else ""
        more += f", slot={slots.index(reduction.result)}" if slots else ""
        rows.append(f"Joint({name!r}, {joint.scope!r}, {reduction.op!r}, phase={joint.phase}{more})")
    return f"joint=({', '.join(rows)},)" if rows else ""


def scratch_table(kernel: Kernel) -> str:
    """The argument of a launch table that says what lies between the sweeps; empty if nothing does."""
    slots = [buffer.name for buffer in (*kernel.buffers, *kernel.scratch)]
    copied = {source: slots.index(target) for source, target in kernel.copies}
    rows = []
    for buffer in kernel.scratch:
        more = "" if buffer.guard is None else f", flag={buffer.guard.flag!r}, holds={buffer.guard.holds}"
        more += ", real=True" * (buffer.dtype == "real")
        target = copied.get(buffer.name)
        state = kernel.buffers[target].state if target is not None else None
        more += ", shared=True" * (state is not None and state.shared)
        more += f", over={buffer.over.name.lower()!r}" * (buffer.over != Domain.ELEMENT)
        rows.append(f"Scratch({buffer.layout.value!r}, {buffer.block}, copy_to={copied.get(buffer.name)}{more})")
    return f"scratch=({', '.join(rows)},)" if rows else ""
