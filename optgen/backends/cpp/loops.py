"""A sweep -> the lines of its tile function: loops over elements and blocks, with what passes between them in arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from optgen.backends.cpp.config import MOST_LANES, TILE
from optgen.backends.cpp.flatten import flatten
from optgen.backends.cpp.printer import LoopPrinter, condition, cpp_name, is_packed, unpacked
from optgen.backends.cpp.schedule import Level, Step, Value, is_single, schedule
from optgen.backends.cpp.versions import number_versions
from optgen.ir.infer import walk
from optgen.ir.nodes import Assign, Const, Domain, Expr, Guard, Kind, Op, Ref, Statement, Store, Symbol
from optgen.plan.nodes import Buffer, Kernel, Layout, Sweep

__all__ = ["salts_of", "tile_lines"]

INDENT = "    "


@dataclass(frozen=True)
class Form:
    """How a reduction is written: where it starts, how one more value is taken in, how two results and all lanes are joined."""

    start: str
    taken_in: str
    joined: str
    lanes: str


FORMS = {
    "block_max": Form("spread(-infinity)", "at_least({0}, {1})", "at_least(x, y)", "largest_lane({0})"),
    "block_min": Form("spread(infinity)", "at_most({0}, {1})", "at_most(x, y)", "smallest_lane({0})"),
    "block_count": Form("ints{}", "{0} - ({1})", "x + y", "sum_of_lanes({0})"),  # of a mask, -1
    "part_sum": Form("reals{}", "{0} + existing(tile, i, {1})", "x + y", "joined_lanes({0}, SUM)"),
    "part_max": Form(
        "spread<real>(-infinity)", "maximum(existing(tile, i, {1}, -infinity), {0})", "maximum(x, y)", "joined_lanes({0}, MAX)"
    ),
    "part_min": Form(
        "spread<real>(infinity)", "minimum(existing(tile, i, {1}, infinity), {0})", "minimum(x, y)", "joined_lanes({0}, MIN)"
    ),
}


def tile_lines(kernel: Kernel, sweep: Sweep) -> list[str]:
    """The body of a tile's function, behind the names of its buffers and scalars, of a kernel as the sweep sees it."""
    return _TileWriter(kernel, sweep).lines()


def salts_of(sweep: Sweep) -> list[int]:
    """The salts of the random bits that a sweep's states are rounded with."""
    nodes = [node for statement in sweep.body for node in walk(statement.value)]
    return sorted({_salt(node) for node in nodes if isinstance(node, Op) and node.op in ("random_bits", "random_elements")})


def _salt(node: Op) -> int:
    number = node.args[0]
    assert isinstance(number, Const)
    assert isinstance(number.value, int)
    return number.value


class _TileWriter:
    def __init__(self, kernel: Kernel, sweep: Sweep) -> None:
        functions = {function.name: function for function in kernel.functions}
        self.kernel = kernel
        self.buffers: dict[str, Buffer] = {buffer.name: buffer for buffer in (*kernel.buffers, *kernel.scratch)}
        body, known = number_versions(sweep.body, _known_in_front(sweep.body, kernel.program.symbols, self.buffers))
        statements, symbols = flatten(body, known, functions, self.buffers)
        self.schedule = schedule(statements, kernel)
        self.printer = LoopPrinter(kernel, symbols)
        self.symbols = symbols
        self.sweep = sweep
        blocks = [b.block for b in sweep.buffers if b.block and (b.layout == Layout.BLOCK or not kernel.grid)]
        blocks += [buffer.storage.block for buffer in sweep.buffers if buffer.layout == Layout.CODE]
        self.narrow = min(blocks, default=0)  # elements of the smallest block; 0 without codes
        self.names: dict[Value, str] = {}  # of arrays
        self.writes_param = any(isinstance(s, Store) and self.buffers[s.buffer].dtype == "param" for s in sweep.body)

    def lines(self) -> list[str]:
        loops: list[str] = []
        last = len(self.schedule.levels) - 1
        for number, level in enumerate(self.schedule.levels):
            if level.elements:
                loops += ["", *self.random_lines(level), *self.element_loop(level, is_last=0 < number == last)]
            for block, steps in sorted(level.blocks.items()):
                loops += ["", *self.block_loop(block, steps)]
        known = self.statements(self.schedule.known, self.element_statement, "0")
        return [*self.arrays(), *self.code_loads(), *([""] if known else []), *known, *loops, "", *self.stores()]

    # What passes between loops

    def array(self, value: Value) -> str:
        """The array that keeps a value; a name that has several gets a number."""
        if value not in self.names:
            used = set(self.names.values())
            name, count = f"_{value.name}", 2
            while name in used:
                name, count = f"_{value.name}_{count}", count + 1
            self.names[value] = name
        return self.names[value]

    def arrays(self) -> list[str]:
        lines = [f"alignas(64) uint8_t {unpacked(buffer)}[{TILE}];" for buffer in self.sweep.buffers if is_packed(buffer)]
        lines += [f"alignas(64) uint16_t _random_{salt}[{TILE}];" for salt in salts_of(self.sweep)]
        if self.writes_param:
            lines.append(f"alignas(64) [[maybe_unused]] uint16_t _random_{self.param_salt}[{TILE}];")
        for value in self.kept():
            count = TILE if value.domain == Domain.ELEMENT else max(TILE // self.narrow, MOST_LANES)
            lines.append(f"alignas(64) {self.single_type(value)} {self.array(value)}[{count}];")
        return lines

    def kept(self) -> list[Value]:
        levels = self.schedule.levels
        steps = [step for level in levels for steps in (level.elements, *level.blocks.values()) for step in steps]
        return list(dict.fromkeys(step.value for step in steps if step.value is not None and step.value.kept))

    def single_type(self, value: Value) -> str:
        if self.symbols[value.name].kind == Kind.INT:
            return "int32_t"
        assert self.symbols[value.name].kind == Kind.REAL, f"{value.name} would pass a condition from one loop to another"
        return "float" if value.precision == "float" else "real"

    def vector_type(self, value: Value) -> str:
        return {"int32_t": "ints", "float": "floats", "real": "reals"}[self.single_type(value)]

    @property
    def param_salt(self) -> int:
        return len(self.kernel.program.states)

    def code_loads(self) -> list[str]:
        lines = []
        for buffer in self.sweep.buffers:
            if is_packed(buffer) and buffer.read:
                bits, block = buffer.storage.bits, buffer.storage.block
                line = f"load_codes<{bits}, {block}>({cpp_name(buffer.name)}, {unpacked(buffer)}, tile.count / {block});"
                lines += guarded([line], () if buffer.guard is None else (buffer.guard,))
        return ["", *lines] if lines else []

    def random_lines(self, level: Level) -> list[str]:
        """Random bits that a loop needs, in front of it."""
        lines = []
        for step in level.elements:
            for node in walk(step.statement.value):
                if isinstance(node, Op) and node.op in ("random_bits", "random_elements"):
                    salt = _salt(node)
                    line = f"random_bits(tile.places, {salt}, tile.count, _random_{salt});"
                    lines += guarded([line], step.statement.guards)
            if step.value is None and self.is_param(step):
                salt = self.param_salt
                lines.append(f"if constexpr (is_random) random_bits(tile.places, {salt}, tile.count, _random_{salt});")
        return lines

    def is_param(self, step: Step) -> bool:
        return isinstance(step.statement, Store) and self.buffers[step.statement.buffer].dtype == "param"

    # Loops over elements

    def element_loop(self, level: Level, *, is_last: bool) -> list[str]:
        inner = self.element_steps(level.elements)
        by_columns = any(buffer.layout in (Layout.COLS, Layout.STRIPS) for buffer in self.sweep.buffers)
        if is_last or (by_columns and self.sweep.over == Domain.ELEMENT):  # the processor loses track among so many streams
            used = [b.name for b in self.sweep.buffers if b.layout == Layout.ELEMENT and b.read and b.guard is None]
            inner = [*(f"prefetch({cpp_name(name)} + {TILE} + i);" for name in used), *inner]
        if not self.narrow:
            return ["for (int i = 0; i < tile.count; i += LANES) {", *indented(inner), "}"]
        reductions = [step for step in level.elements if step.reduction]
        lines = [f"for (int block = 0; block < tile.count / {self.narrow}; ++block) {{"]
        lines += indented(self.block_values(level.elements))
        for step in reductions:
            assert step.value is not None
            lines.append(
                f"{INDENT}{self.vector_type(step.value)} {cpp_name(step.value.name)} = {FORMS[str(step.reduction)].start};"
            )
        head = f"for (int i = block * {self.narrow}; i < (block + 1) * {self.narrow}; i += LANES) {{"
        lines += indented([head, *indented(inner), "}"])
        for step in reductions:
            assert step.value is not None
            lanes = FORMS[str(step.reduction)].lanes.format(cpp_name(step.value.name))
            lines.append(f"{INDENT}{self.array(step.value)}[block] = {lanes};")
        lines.append("}")
        for step in reductions:  # of blocks that are larger than the loop's
            assert step.value is not None
            if step.value.block > self.narrow:
                ratio, both = step.value.block // self.narrow, FORMS[str(step.reduction)].joined
                lines.append(f"join<{ratio}>({self.array(step.value)}, tile.count / {step.value.block}, [](auto x, auto y) {{")
                lines.append(f"{INDENT}return {both};")
                lines.append("});")
        return lines

    def block_values(self, steps: Sequence[Step]) -> list[str]:
        """Values of each block that the loop over its elements reads."""
        lines = []
        for value in dict.fromkeys(v for step in steps for v in step.reads.values() if v.domain == Domain.BLOCK):
            array = self.array(value) if value.buffer is None else cpp_name(value.buffer)
            ratio = value.block // self.narrow
            index = "block" if ratio == 1 else f"block / {ratio}"
            line = f"{cpp_name(value.name)} = spread({array}[{index}]);"
            kind = self.vector_type(value)
            if value.guards and value.buffer is not None:
                lines += [f"{kind} {cpp_name(value.name)};", *guarded([line], value.guards)]
            else:
                lines.append(f"const {kind} {line}")
        return lines

    def element_steps(self, steps: Sequence[Step]) -> list[str]:
        """The statements of a loop over elements; what they read of other loops is loaded first."""
        made = {step.value for step in steps if step.value is not None}
        read = dict.fromkeys(v for step in steps for v in step.reads.values() if v.domain == Domain.ELEMENT)
        lines = [f"const {self.vector_type(v)} {cpp_name(v.name)} = load({self.array(v)} + i);" for v in read if v not in made]
        return lines + self.statements(steps, self.element_statement, "i")

    def element_statement(self, step: Step, declared: str) -> list[str]:
        if step.reduction:
            self.printer.reads = step.reads
            assert isinstance(step.statement.value, Op)
            of = self.printer.expression(step.statement.value.args[0])
            assert step.value is not None
            name = cpp_name(step.value.name)
            return [f"{name} = {FORMS[step.reduction].taken_in.format(name, of)};"]
        if isinstance(step.statement, Store) and self.buffers[step.statement.buffer].layout == Layout.STRIPS:
            return [self.strip(step, cpp_name(step.statement.buffer))]
        text = self.printer.value_of(step)
        if isinstance(step.statement, Assign):
            return [f"{declared}{cpp_name(step.statement.target)} = {text};"]
        buffer = self.buffers[step.statement.buffer]
        if buffer.dtype == "param":
            return [f"write_parameter(param, correction, i, {text}, _random_{self.param_salt});"]
        if buffer.layout == Layout.CODE:
            return [f"store_bytes({unpacked(buffer)} + i, {text});"]
        return [f"store_reals({cpp_name(buffer.name)} + i, {text});"]

    def statements(self, steps: Sequence[Step], write: Callable[[Step, str], list[str]], at: str) -> list[str]:
        """Statements under their guards, with declarations; what is kept goes to its array."""
        lines: list[str] = []
        declared: set[str] = set()
        for step in steps:
            guards, value = step.statement.guards, step.value
            kind = ""
            if value is not None and not step.reduction and value.name not in declared:
                kind = f"{self.kind_of(step)} "
                declared.add(value.name)
                if guards:
                    lines.append(f"{kind}{cpp_name(value.name)};")
                    kind = ""
            written = write(step, kind)
            if value is not None and value.kept and not step.reduction:
                written.append(f"store({self.array(value)} + {at}, {cpp_name(value.name)});")
            lines += guarded(written, guards)
        return joined(lines)

    def kind_of(self, step: Step) -> str:
        """The type that declares a name, which all its values in a loop have."""
        assert step.value is not None
        if self.symbols[step.value.name].kind != Kind.BOOL:
            return self.vector_type(step.value)
        compared = "floats" if step.value.precision == "float" else "reals"
        return f"decltype({compared}{{}} < {compared}{{}})" if step.statement.guards else "auto"

    def strip(self, step: Step, name: str) -> str:
        """What a strip leaves of each column takes in one more row."""
        value = step.statement.value
        assert isinstance(value, Op)
        self.printer.reads = step.reads
        text, before = self.printer.expression(value.args[0]), f"load_reals({name} + i)"
        taken = {"strip_sum": f"{before} + {text}", "strip_max": f"maximum({before}, {text})"}
        both = taken.get(value.op, f"minimum({before}, {text})")
        return f"store_reals({name} + i, tile.starts_strip ? {text} : {both});"

    # Loops over blocks, a block a lane

    def block_loop(self, block: int, steps: Sequence[Step]) -> list[str]:
        made = {step.value for step in steps}
        read = dict.fromkeys(v for step in steps for v in step.reads.values() if v.domain == Domain.BLOCK)
        lines = [f"for (int b = 0; b < tile.count / {block}; b += LANES) {{"]
        for value in read:
            if value in made:
                continue
            name, kind = cpp_name(value.name), self.vector_type(value)
            if value.buffer is None:
                lines.append(f"{INDENT}const {kind} {name} = load({self.array(value)} + b);")
            else:
                lines.append(
                    f"{INDENT}const {kind} {name} = load_some({cpp_name(value.buffer)} + b, tile.count / {block} - b);"
                )
        return [*lines, *indented(self.statements(steps, self.block_statement, "b")), "}"]

    def block_statement(self, step: Step, declared: str) -> list[str]:
        value = step.statement.value
        is_selection = isinstance(value, Op) and value.op == "block_select"
        text = self.selection(step, value) if is_selection else self.printer.value_of(step)
        assert isinstance(step.statement, Assign)
        return [f"{declared}{cpp_name(step.statement.target)} = {text};"]

    def selection(self, step: Step, value: Expr) -> str:
        assert isinstance(value, Op)
        self.printer.reads = step.reads
        values, rank, bound = value.args
        assert isinstance(values, Ref)
        assert isinstance(bound, Const)
        source, block = step.reads[values.name], step.reads[values.name].block
        ranks = f"spread({rank.value})" if isinstance(rank, Const) else self.printer.vector(rank, value)
        return f"select<{block}, {bound.value}>({self.array(source)} + b * {block}, {ranks}, tile.count / {block} - b)"

    def stores(self) -> list[str]:
        """Codes and block scalars, behind all loops."""
        lines = []
        for buffer in self.sweep.buffers:
            if is_packed(buffer) and buffer.written:
                if not any(isinstance(s, Store) and s.buffer == buffer.name for s in self.sweep.body):
                    continue
                bits, block = buffer.storage.bits, buffer.storage.block
                line = f"store_codes<{bits}, {block}>({unpacked(buffer)}, {cpp_name(buffer.name)}, tile.count / {block});"
                lines += guarded([line], () if buffer.guard is None else (buffer.guard,))
        for step in self.schedule.scalars:
            assert isinstance(step.statement, Store)
            assert isinstance(step.statement.value, Ref)
            value = step.reads[step.statement.value.name]
            if value.domain == Domain.TENSOR:
                line = f"*{cpp_name(step.statement.buffer)} = {cpp_name(value.name)}[0];"
                lines += guarded([line], step.statement.guards)
                continue
            array = self.array(value) if value.buffer is None else cpp_name(value.buffer)
            line = f"copy({array}, {cpp_name(step.statement.buffer)}, tile.count / {value.block});"
            lines += guarded([line], step.statement.guards)
        return joined(lines)


def _known_in_front(
    body: Sequence[Statement], symbols: Mapping[str, Symbol], buffers: Mapping[str, Buffer]
) -> dict[str, Symbol]:
    """The symbols of a sweep; what a tile reads one number of is known in front of its loops, as numbers of the tensor are."""
    known = dict(symbols)
    for statement in body:
        match statement:
            case Assign(target=target, value=Op(op="load", args=(Ref(name=name),))) if is_single(buffers[name]):
                known[target] = replace(known[target], domain=Domain.TENSOR)
    return known


def indented(lines: Sequence[str]) -> list[str]:
    """Lines one step further in."""
    return [INDENT + line if line else line for line in lines]


def guarded(lines: list[str], guards: Sequence[Guard]) -> list[str]:
    """Lines under compile-time conditions."""
    for guard in reversed(guards):
        lines = [f"if constexpr ({condition(guard)}) {{", *indented(lines), "}"]
    return lines


def joined(lines: list[str]) -> list[str]:
    """Neighbouring blocks under the same condition as one."""
    out: list[str] = []
    for line in lines:
        if out and out[-1] == "}" and line.startswith("if constexpr"):
            head = next((old for old in reversed(out) if old.startswith("if constexpr")), None)
            if head == line:
                out.pop()
                continue
        out.append(line)
    return out
