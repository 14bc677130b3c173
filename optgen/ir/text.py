"""IR -> text, in the notation of the spec language: for `optgen show`, documentation and error messages."""

from __future__ import annotations

from collections.abc import Sequence

from optgen.ir.nodes import Assign, Call, Const, Domain, Expr, Function, Guard, Op, Program, Ref, Statement

__all__ = ["expression", "function_text", "program_text", "statements"]

INFIX = {
    "or": (1, "or"),
    "and": (2, "and"),
    "lt": (4, "<"),
    "le": (4, "<="),
    "gt": (4, ">"),
    "ge": (4, ">="),
    "eq": (4, "=="),
    "ne": (4, "!="),
    "add": (5, "+"),
    "sub": (5, "-"),
    "mul": (6, "*"),
    "div": (6, "/"),
    "pow": (8, "**"),
}
PREFIX = {"not": (3, "not "), "neg": (7, "-")}


def expression(value: Expr, outer: int = 0) -> str:
    """`value` with the parentheses that its order of evaluation needs, inside an operator of precedence `outer`."""
    match value:
        case Const(value=text) if isinstance(text, str):
            return repr(text)
        case Const(value=number):
            return repr(number)
        case Ref(name=name):
            return name
        case Call(function=name, args=args):
            return f"{name}({', '.join(expression(arg) for arg in args)})"
        case Op(op=op, args=(left, right)) if op in INFIX:
            level, sign = INFIX[op]
            inside = (level + 1, level) if op == "pow" else (level, level + 1)
            text = f"{expression(left, inside[0])} {sign} {expression(right, inside[1])}"
            return f"({text})" if level < outer else text
        case Op(op=op, args=(arg,)) if op in PREFIX:
            level, sign = PREFIX[op]
            text = sign + expression(arg, level)
            return f"({text})" if level < outer else text
        case Op(op=op, args=args):
            return f"{op}({', '.join(expression(arg) for arg in args)})"


def statements(body: Sequence[Statement], indent: str = "") -> list[str]:
    """One line per statement; consecutive statements under the same guards stand under one `if`."""
    lines: list[str] = []
    previous: tuple[Guard, ...] = ()
    for statement in body:
        shared = 0
        while shared < min(len(previous), len(statement.guards)) and previous[shared] == statement.guards[shared]:
            shared += 1
        for depth in range(shared, len(statement.guards)):
            guard = statement.guards[depth]
            condition = guard.flag if guard.holds else f"not {guard.flag}"
            lines.append(f"{indent}{'  ' * depth}if {condition}:")
        pad = indent + "  " * len(statement.guards)
        left = statement.target if isinstance(statement, Assign) else f"{statement.buffer}[...]"
        lines.append(f"{pad}{left} = {expression(statement.value)}")
        previous = statement.guards
    return lines


def function_text(function: Function) -> str:
    """A function with its parameters and body."""
    params = ", ".join(f"{p.name}: {p.domain.name.lower()} {p.kind.value}" for p in function.params)
    head = f"function {function.name}({params}) -> {function.result.domain.name.lower()} {function.result.kind.value}"
    return "\n".join([head, *statements(function.body, "  "), f"  return {function.result.name}"])


def program_text(program: Program) -> str:
    """Everything a program holds."""
    lines = [f"program {program.name}"]
    parts = {hyper.name: f"  # {', '.join(hyper.names)}" if hyper.names else "" for hyper in program.hypers}
    lines += [f"  hyper {hyper.name} = {hyper.text}{parts[hyper.name]}" for hyper in program.hypers]
    lines += [f"  flag {name} = {expression(condition)}" for name, condition in program.flags.items()]
    for state in program.states:
        shape = "like p" if state.domain == Domain.ELEMENT else state.shape
        sign = "unsigned" if state.unsigned else "signed"
        when = "" if state.when is None else f" when {state.when.flag if state.when.holds else 'not ' + state.when.flag}"
        how = "" if state.storage is None else f" stored {state.storage.codebook} {state.storage.bits} bits"
        if state.floats is not None:
            how = f" stored {state.floats.dtype}"
        lines.append(
            f"  state {state.name}: {shape}, {sign}, init {expression(state.init)}, saved as {state.save_as}{when}{how}"
        )
    lines += [f"  input {each.name}: like p, under {each.flag.flag}" for each in program.inputs]
    if program.host:
        lines += ["  host", *statements(program.host, "    ")]
    lines += ["  update", *statements(program.body, "    ")]
    lines += ["  " + text.replace("\n", "\n  ") for text in map(function_text, program.functions)]
    return "\n".join(lines)
