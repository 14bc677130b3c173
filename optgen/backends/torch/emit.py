"""Plan -> the files of a generated package that need torch alone: the class and the torch backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optgen.backends.paragraphs import buffer_comment, joint_table, paragraphs
from optgen.backends.printer import NARROW_HELPERS
from optgen.backends.render import render
from optgen.backends.torch.printer import HostPrinter, KernelPrinter, TorchPrinter
from optgen.backends.view import PackageView
from optgen.ir.infer import refs, substitute
from optgen.ir.nodes import VECTORS, Assign, Domain, Expr, Function, Hyper, Kind, Op, Ref, Role, State, Statement
from optgen.ir.text import expression
from optgen.plan.nodes import Kernel, Plan, RulePlan
from optgen.plan.phases import phase_bodies
from optgen.runtime.given import GIVEN
from optgen.storage.codebooks import levels_in_words, saved_scalars

__all__ = ["emit_torch"]

SHAPE_HELPERS = frozenset(["lines_shape", "vector_shape"])


@dataclass(frozen=True)
class ArgumentView:
    """One line of a function's signature."""

    name: str
    annotation: str
    comment: str


@dataclass(frozen=True)
class FunctionView:
    """A function as text."""

    name: str
    arguments: tuple[ArgumentView, ...]
    result: str
    doc: str
    lines: tuple[str, ...]

    @property
    def brief(self) -> str:
        """The arguments on one line, if none has a comment."""
        return "" if any(a.comment for a in self.arguments) else ", ".join(f"{a.name}: {a.annotation}" for a in self.arguments)


def emit_torch(view: PackageView, plan: Plan) -> dict[str, str]:
    """The package's `__init__.py` and `torch_backend.py`, not formatted yet."""
    helpers: set[str] = set()
    functions = _functions(plan, helpers)
    phases = [_phases(kernel, rule, helpers) for rule in plan.rules for kernel in rule.kernels]
    updates = [each[-1] for each in phases]
    points = {
        point: [_move(point, kernel, own, helpers) for kernel in own.kernels]
        for rule in plan.rules
        for point, own in rule.points
    }
    backend = render(
        "torch/templates/backend.py.jinja",
        package=view,
        helpers=sorted(helpers - NARROW_HELPERS - SHAPE_HELPERS),
        shape_helpers=sorted(helpers & SHAPE_HELPERS),
        narrow_helpers=sorted(helpers & NARROW_HELPERS),
        functions=functions,
        updates=[*(update for each in phases for update in each), *(move for moves in points.values() for move in moves)],
    )
    host_helpers: set[str] = set()
    scalars = [_scalars(rule, host_helpers) for rule in plan.rules]
    scalars += [_point_scalars(point, own, host_helpers) for rule in plan.rules for point, own in rule.points]
    initial = render(
        "torch/templates/package.py.jinja",
        package=view,
        description=_description(view, plan),
        flags=[(name, _flag_text(plan, condition)) for name, condition in plan.flags.items()],
        helpers=sorted(host_helpers),
        scalars=scalars,
        updates=updates,
        points=points,
        early={place: each[:-1] for place, each in enumerate(phases) if each[:-1]},
    )
    return {"__init__.py": initial, "torch_backend.py": backend}


def _functions(plan: Plan, helpers: set[str]) -> list[FunctionView]:
    """The codec functions of all kernels, each once."""
    views: dict[str, FunctionView] = {}
    for kernel in plan.kernels:
        for function in kernel.functions:
            if function.name not in views:
                views[function.name] = _function(function, kernel, helpers)
    return list(views.values())


def _function(function: Function, kernel: Kernel, helpers: set[str]) -> FunctionView:
    printer = TorchPrinter({}, kernel.functions)
    lines = printer.function_body(function)
    helpers |= printer.helpers
    arguments = tuple(ArgumentView(param.name, "Tensor", "") for param in function.params)
    return FunctionView(function.name, arguments, "Tensor", function.doc, tuple(lines))


def _phases(kernel: Kernel, plan: RulePlan, helpers: set[str]) -> list[FunctionView]:
    """The functions of a kernel: one, or one more for each time that parameters wait for one another."""
    bodies = phase_bodies(kernel)
    return [_phase(kernel, plan, helpers, number, body, kernel.flags) for number, body in enumerate(bodies, 1)]


def _phase(
    kernel: Kernel, plan: RulePlan, helpers: set[str], number: int, statements: Sequence[Statement], flags: tuple[str, ...]
) -> FunctionView:
    """One of these functions: the last one takes the step, others return what all parameters reduce together."""
    printer = KernelPrinter(kernel)
    joint = [(r.result, r.joint.phase, f"{r.op} of all parameters of the {r.joint.scope}") for r in kernel.joint if r.joint]
    left = [name for name, phase, _ in joint if phase == number]
    guarded = [s.target for s in statements if isinstance(s, Assign) and s.target in left and s.guards]
    body = [f"{name} = scalars.new_zeros(())" for name in guarded]
    body += [line for chunk in paragraphs(statements) for line in ["", *printer.block(chunk)]]
    helpers |= printer.helpers
    lines = ["real = scalars.dtype", *_unbind(kernel, plan, statements), *body]
    arguments = [ArgumentView(b.name, "Tensor", buffer_comment(b)) for b in kernel.buffers]
    arguments.append(ArgumentView("scalars", "Tensor", "real[columns]  host scalars of this step"))
    arguments.append(ArgumentView("key", "Key", "of the random bits of this step"))
    arguments += [ArgumentView(name, "Tensor", f"real[]  {doc}") for name, phase, doc in joint if phase < number]
    arguments += [*(_flag_arguments(flags) or [ArgumentView("*", "", "")]), ArgumentView("low_precision", "str", "")]
    stored = ", ".join(kernel.variant.stored)
    doc = f"One step of one parameter, with {stored} stored as codes." if stored else "One step of one parameter."
    if not left:
        return FunctionView(kernel.name, tuple(arguments), "None", doc, tuple(lines))
    lines += ["", f"return ({', '.join(left)},)"]
    doc = f"What one parameter leaves for the reductions of all behind phase {number}."
    return FunctionView(f"{kernel.name}_phase_{number}", tuple(arguments), "tuple[Tensor, ...]", doc, tuple(lines))


def _move(point: str, kernel: Kernel, plan: RulePlan, helpers: set[str]) -> FunctionView:
    """The function that moves one parameter to where it is evaluated or trained."""
    view = _phase(kernel, plan, helpers, 1, kernel.body, tuple(plan.program.flags))
    return replace(view, doc=f"Move one parameter to where it is {'evaluated' if point == 'eval' else 'trained'}.")


def _point_scalars(point: str, plan: RulePlan, helpers: set[str]) -> FunctionView:
    """The host scalars of a move."""
    view = _scalars(plan, helpers)
    return replace(view, name=f"{view.name}_to_{point}", doc="The scalars that this move of a parameter reads.")


def _flag_arguments(flags: tuple[str, ...]) -> list[ArgumentView]:
    """Compile-time flags are keyword-only."""
    return [ArgumentView("*", "", ""), *(ArgumentView(flag, "bool", "") for flag in flags)] if flags else []


def _unbind(kernel: Kernel, plan: RulePlan, statements: Sequence[Statement]) -> list[str]:
    read = {name for statement in statements for name in refs(statement.value)}
    names = [name if name in kernel.columns and name in read else "_" for name in plan.columns]
    if not read & {*names}:
        return []
    return [f"{', '.join(names)}{',' if len(names) == 1 else ''} = scalars.unbind()"]


def _flag_text(plan: Plan, condition: Expr) -> str:
    """A compile-time flag as an expression over a parameter group."""
    names: dict[str, Expr] = {}
    for hyper in plan.hypers:
        value = f'group["{hyper.name}"]'
        names |= {part: Ref(f"{value}[{i}]") for i, part in enumerate(hyper.names)} or {hyper.name: Ref(value)}
    text = expression(_as_python(substitute(condition, names)))
    return text[1:-1] if isinstance(condition, Op) and condition.op == "given" else f"bool({text})"


def _as_python(condition: Expr) -> Expr:
    """A condition that asks a parameter group what a step was given."""
    match condition:
        case Op(op="given", args=(Ref(name=name),)):
            return Ref(f'("{name}" in group.get("{GIVEN}", ()))')
        case Op(op=op, args=args):
            return Op(op, tuple(map(_as_python, args)))
    return condition


def _scalars(plan: RulePlan, helpers: set[str]) -> FunctionView:
    """The host scalars as a function of t, hyperparameters, storage facts and scalar states."""
    printer = HostPrinter(plan.program.symbols)
    arguments = [ArgumentView("t", "Scalar", "step, from 1")]
    for role in (Role.HYPER, Role.FACT, Role.STATE):  # the order in which the base class passes them
        for name, symbol in plan.program.symbols.items():
            if symbol.role == role and symbol.domain == Domain.HOST and symbol.kind == Kind.REAL:
                arguments.append(ArgumentView(name, "Scalar", role.value))
    arguments += _flag_arguments(tuple(plan.program.flags))
    lines = printer.block(plan.host)
    helpers |= printer.helpers
    columns = "".join(f"{name}, " for name in plan.columns)
    outputs = "".join(f"{name}, " for name in plan.outputs.values())
    lines.append(f"return ({columns}), ({outputs})")
    doc = "The scalars of step t that kernels read, and the new values of scalar states."
    name = f"scalars_{plan.name}" if plan.name else "scalars"
    return FunctionView(name, tuple(arguments), "tuple[tuple[Scalar, ...], tuple[Scalar, ...]]", doc, tuple(lines))


def _description(view: PackageView, plan: Plan) -> list[str]:
    """The arguments of `Description(...)`, one per line."""
    hypers = ", ".join(_hyper_text(h) for h in plan.hypers)
    lines = [f"name={plan.name!r}", f"hypers=({hypers},)"]
    if not view.rules:
        return [*lines, *_rule_text(plan.rules[0])]
    for shown, rule in zip(view.rules, plan.rules, strict=True):
        taken = tuple(h.name for h in rule.program.hypers if not isinstance(h.default, bool) and not h.choices)
        more = [*_rule_text(rule), f"hypers={taken!r}", f"flags={tuple(rule.program.flags)!r}"]
        lines.append(f"RuleInfo({shown.name!r}, {shown.when!r}, {', '.join(more)})")
    lines[2:] = [f"rules=({', '.join(lines[2:])},)"]
    return [*lines, f"tags={view.tags!r}"] if view.tags else lines


def _rule_text(plan: RulePlan) -> list[str]:
    """What a description says of a rule."""
    states = ", ".join(_state_text(s) for s in plan.program.states)
    kernels = ", ".join(_kernel_text(k, joint_table(k, plan.name)) for k in plan.kernels)
    lines = [
        f"states=({states},)" if states else "states=()",
        f"kernels=({kernels},)",
        f"columns={tuple(plan.columns)!r}",
    ]
    if plan.program.inputs:
        lines.append(f"inputs={tuple(each.name for each in plan.program.inputs)!r}")
    if plan.outputs:
        lines.append(f"outputs={tuple(plan.outputs)!r}")
    if plan.random:
        lines.append("random=True")
    if plan.program.cut:
        lines.append(f"cut={plan.program.cut!r}")
    if plan.program.view:
        lines.append(f"view={plan.program.view!r}")
    if plan.whole:
        lines.append("whole=True")
    return lines


def _hyper_text(hyper: Hyper) -> str:
    parts = [repr(hyper.name)]
    if hyper.names:
        parts.append(f"names={hyper.names!r}")
    if hyper.choices:
        parts.append(f"choices={hyper.choices!r}")
    if isinstance(hyper.default, bool):
        parts.append("flag=True")
    for bound in ("min", "above", "max", "below"):
        value = getattr(hyper, bound)
        if value is not None:
            parts.append(f"{bound}={value!r}")
    return f"Hyper({', '.join(parts)})"


def _state_text(state: State) -> str:
    parts = [repr(state.name), repr(state.save_as)]
    if state.scalar:
        parts.append("scalar=True")
    if state.whole:
        parts.append("whole=True")
    if state.shared:
        first = state.init.name if isinstance(state.init, Ref) else float(getattr(state.init, "value", 0))
        parts += [f"scope={state.scope!r}", f"first={first!r}"]
    if state.same:
        parts.append(f"same={state.same!r}")
    if state.domain in VECTORS:
        parts.append(f"shape={state.shape!r}")
    if state.when is not None:
        parts.append(f"flag={state.when.flag!r}")
        if not state.when.holds:
            parts.append("holds=False")
    if state.floats is not None:
        parts.append(f"dtype={state.floats.dtype!r}")
    if state.storage is not None:
        s = state.storage
        scalars = saved_scalars(s, state.unsigned)
        more = (f", scope={s.scope!r}" if s.scope != "block" else "") + (f", row={s.row}" if s.row > s.block else "")
        more += (", grid=True" if s.grid else "") + (f", shape={state.shape!r}" if state.domain in VECTORS else "")
        parts.append(f"codes=Codes({s.bits}, {s.block}, {scalars!r}, min_size={s.min_size}, min_ndim={s.min_ndim}{more})")
        parts.append(f"levels={levels_in_words(s, state.unsigned)!r}")
    return f"State({', '.join(parts)})"


def _kernel_text(kernel: Kernel, joint: str) -> str:
    keys = tuple((b.state.name if b.state is not None else b.name, b.key) for b in kernel.buffers if b.key is not None)
    facts = tuple(kernel.variant.facts.values())
    extra = (f", facts={facts!r}" if facts else "") + (", grid=True" if kernel.grid else "")
    extra += f", {joint}" if joint else ""
    return f"KernelInfo({kernel.name!r}, stored={kernel.variant.stored!r}, keys={keys!r}, flags={kernel.flags!r}{extra})"
