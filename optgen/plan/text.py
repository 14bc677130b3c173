"""Plan -> text: kernels, what each moves, and its statements, for `optgen show --stage plan`."""

from __future__ import annotations

from optgen.ir.constants import default_flags
from optgen.ir.text import function_text, statements
from optgen.plan.nodes import Buffer, Kernel, Layout, Plan, Reduction
from optgen.plan.traffic import buffer_bytes, kernel_bytes

__all__ = ["plan_text"]


def plan_text(plan: Plan) -> str:
    """The whole plan, with bytes per element for bfloat16 parameters and gradients."""
    lines = [f"plan {plan.name}, of bfloat16 parameters and gradients"]
    for rule in plan.rules:
        lines += ["", f"  rule {rule.name}"] if rule.name else []
        lines += ["  host scalars, once a step in float64:", *statements(rule.host, "    ")]
        lines.append(f"    columns: {', '.join(rule.columns)}")
        for kernel in rule.kernels:
            lines += ["", *_kernel(kernel)]
    return "\n".join(lines)


def _kernel(kernel: Kernel) -> list[str]:
    stored = ", ".join(kernel.variant.stored) or "none"
    total = kernel_bytes(kernel, param=2, grad=2, flags=default_flags(kernel.program))
    lines = [f"  kernel {kernel.name}: states stored as codes: {stored}; {total:g} bytes per element and step"]
    for sweep in kernel.sweeps:
        when = "" if sweep.when is None else f", if {'' if sweep.when.holds else 'not '}{sweep.when.flag}"
        lines += [f"    sweep {sweep.name}{when}", "      buffers", *(f"        {_buffer(b)}" for b in sweep.buffers)]
        lines += ["      statements", *statements(sweep.body, "        ")]
        lines += [f"      then {r.result} = {r.op} of {r.parts}{_of_whom(r)}" for r in sweep.reductions]
    lines += [f"    then {target} = {source}" for source, target in kernel.copies]
    for function in kernel.functions:
        lines += ["    " + line for line in function_text(function).split("\n")]
    return lines


def _of_whom(reduction: Reduction) -> str:
    if reduction.joint is None:
        return ""
    return f" of all parameters of the {reduction.joint.scope}, which wait here for one another"


def _buffer(buffer: Buffer) -> str:
    way = "+".join(word for word, used in (("read", buffer.read), ("write", buffer.written)) if used)
    size = buffer_bytes(buffer, param=2, grad=2)
    guard = "" if buffer.guard is None else f" if {'' if buffer.guard.holds else 'not '}{buffer.guard.flag}"
    per = f"{buffer.block} elements" if buffer.layout == Layout.BLOCK else buffer.layout.value
    return f"{buffer.name}: {buffer.dtype} per {per}, {way}, {size:g} bytes{guard}"
