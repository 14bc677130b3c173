"""`optgen roofline`: what bounds a step on a GPU, told without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from optgen.cli.console import print_json, spec_path, table_console
from optgen.output import write_bytes

if TYPE_CHECKING:
    from optgen.analysis.roofline import KernelRoofline, Roofline

__all__ = ["command"]

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = ("bf16", "fp32", "fp16")
ROUNDINGS = ("stochastic", "nearest")


@click.command("roofline")
@click.argument("spec", type=click.Path(), callback=spec_path)
@click.option("--target", type=click.Choice(TARGETS), default="sm_90", show_default=True, help="A100, H100, B200 or MI300X.")
@click.option("--param", type=click.Choice(DTYPES), default="bf16", show_default=True, help="Dtype of the parameters.")
@click.option("--grad", type=click.Choice(DTYPES), help="Dtype of the gradients.  [default: that of the parameters]")
@click.option("--rounding", type=click.Choice(ROUNDINGS), default="stochastic", show_default=True, help="Of 16-bit parameters.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Also draw it, into a PNG.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(spec: str, target: str, param: str, grad: str | None, rounding: str, picture: Path | None, as_json: bool) -> None:
    """Say what bounds a step of SPEC on a GPU: its memory or one of its pipes.

    The kernels are compiled for the target, no GPU needed. Counted are the instructions that the bulk of a large tensor runs,
    and the bytes that it moves; times are what each takes at least, per element.
    """
    from optgen.analysis.roofline import RooflineError, roofline
    from optgen.build import build

    try:
        found = roofline(build(spec), target, param=param, grad=grad or param, rounding=rounding)
    except RooflineError as error:
        raise click.ClickException(str(error)) from None
    if picture is not None:
        _draw(found, picture)
    if as_json:
        print_json(_data(found))
    else:
        _print(found)


def _data(found: Roofline) -> dict[str, object]:
    device = found.device
    return {
        "optimizer": found.optimizer,
        "target": found.target,
        "device": {
            "name": device.name,
            "units": device.units,
            "clock_ghz": device.clock_ghz,
            "bandwidth_tb_s": device.bandwidth_tb_s,
            "lanes": {name: pipe.lanes for name, pipe in device.pipes.items()},
        },
        "param": found.param,
        "grad": found.grad,
        "bound_by": found.step.bound_by,
        "kernels": [_kernel_data(kernel) for kernel in found.kernels],
    }


def _kernel_data(kernel: KernelRoofline) -> dict[str, object]:
    from optgen.analysis.pipes import KINDS, WORDS

    return {
        "name": kernel.name,
        "bytes": kernel.bytes_moved,
        "instructions": kernel.instructions,
        "by_kind": {kind: kernel.kinds[kind] for kind in KINDS},
        "words": kernel.kinds[WORDS],
        "registers": kernel.registers,
        "spill_bytes": kernel.spill_bytes,
        "shared_bytes": kernel.shared_bytes,
        "accesses": {str(bits): count for bits, count in kernel.accesses.items()},
        "picoseconds": dict(kernel.times),
        "bound_by": kernel.bound_by,
    }


def _print(found: Roofline) -> None:
    from rich.table import Table

    from optgen.analysis.pipes import KINDS

    device, kernels = found.device, found.kernels
    title = f"{found.optimizer} on {device.name} ({found.target}), {found.param} parameters, {found.grad} gradients"
    table = Table("per element", *(kernel.name for kernel in kernels), "what it is", title=title, title_justify="left")
    for column in table.columns[1:-1]:
        column.justify = "right"
    table.add_row("bytes", *(f"{kernel.bytes_moved:.2f}" for kernel in kernels), "read and written, each tensor once")
    table.add_row("instructions", *(f"{kernel.instructions:.1f}" for kernel in kernels), "of them:")
    for kind, meaning in KINDS.items():
        table.add_row(f"  {kind}", *(f"{kernel.kinds[kind]:.1f}" for kernel in kernels), meaning)
    table.add_section()
    for place in kernels[0].times:
        table.add_row(f"ps, {place}", *(_time(kernel, place) for kernel in kernels), _meaning(found, place))
    table.add_section()
    table.add_row("registers", *(str(kernel.registers) for kernel in kernels), "of a thread")
    table.add_row("spilled", *(str(kernel.spill_bytes) for kernel in kernels), "bytes of a thread")
    table.add_row("shared", *(str(kernel.shared_bytes) for kernel in kernels), "bytes of a program")
    table.add_row("accesses", *(_accesses(kernel) for kernel in kernels), "of a thread to global memory: count x bits")
    console = table_console()
    console.print(table)
    step = found.step
    verdict = f"{found.optimizer} is bound by {step.bound_by}"
    memory, longest = step.times["memory"], max(step.times.values())
    others = {name: time for name, time in step.times.items() if name != "memory"}
    if step.bound_by == "memory":
        next_name = max(others, key=lambda name: others[name])
        verdict += f": {memory:.2f} ps per element; the next, {next_name}, needs {others[next_name] / memory:.0%} of that"
    else:
        verdict += f": {longest:.2f} ps per element, {longest / memory:.1f} times what memory needs"
    console.print(verdict, highlight=False)


def _time(kernel: KernelRoofline, place: str) -> str:
    return f"{kernel.times[place]:.2f}{' *' if place == kernel.bound_by else '  '}"


def _meaning(found: Roofline, place: str) -> str:
    if place == "memory":
        return f"{found.device.bandwidth_tb_s} TB/s"
    pipe = found.device.pipes[place]
    takes = "all" if len(pipe.takes) > 8 else ", ".join(pipe.takes)
    return f"{pipe.lanes} lanes a clock: {takes}"


def _accesses(kernel: KernelRoofline) -> str:
    return ", ".join(f"{count}x{bits}" for bits, count in kernel.accesses.items())


def _draw(found: Roofline, path: Path) -> None:
    """The picture; a clear error where it cannot be drawn or written."""
    try:
        from optgen.analysis.roofline_picture import draw
    except ImportError:
        raise click.UsageError("--picture needs the package matplotlib: pip install matplotlib") from None
    write_bytes(path, draw(found))
    click.echo(f"wrote {path}", err=True)
