"""Storage is a lowering: the first read of a stored state becomes decode, its last value is encoded and written.

    v = beta2*v + ...   ->   v_code = load_codes(v_codes)
                             v_scale = load(v_scale_)
                             v = elements(decode_v(v_code, v_scale))
                             v = beta2*v + ...
                             v_blocks = where(is_finite(blocks(v)), blocks(v), 0)
                             v_scale = scale_v(v_blocks)
                             v_code = encode_v(v_blocks, v_scale)
                             write v_scale and v_code

A value that is not finite is stored as zero: it does not reach the other values of its block.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from optgen.ir.guards import written_under
from optgen.ir.infer import infer, refs, substitute, walk
from optgen.ir.nodes import (
    Assign,
    Call,
    Const,
    Domain,
    Expr,
    Function,
    Guard,
    Input,
    Kind,
    Op,
    Program,
    Ref,
    Role,
    State,
    Statement,
    Store,
    Symbol,
)
from optgen.ir.ops import WIDE_REDUCTIONS
from optgen.plan.nodes import VECTOR_LAYOUTS, Buffer, Layout
from optgen.runtime.given import INPUT
from optgen.storage.codebooks import RANK1, codec_of, saved_scalars
from optgen.storage.codec import Codec, build_functions
from optgen.storage.lookup import LARGEST
from optgen.storage.scales import SMALLEST

__all__ = ["Lowered", "lower_storage"]


LAYOUTS = {"row_scale": Layout.ROWS, "col_scale": Layout.COLS}
DOMAINS = {"row_scale": Domain.ROW, "col_scale": Domain.COL}


@dataclass
class Lowered:
    """What storage lowering makes of a program."""

    buffers: list[Buffer] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    body: list[Statement] = field(default_factory=list)
    symbols: dict[str, Symbol] = field(default_factory=dict)


def lower_storage(program: Program, stored: tuple[str, ...]) -> Lowered:
    """Add loads and stores around the body; the states named in `stored` are kept as codes."""
    return _Lowering(program, stored).run()


class _Lowering:
    def __init__(self, program: Program, stored: tuple[str, ...]) -> None:
        self.program = program
        self.stored = stored
        self.out = Lowered(symbols=dict(program.symbols))
        self.codecs: dict[tuple[Codec, str], dict[str, str]] = {}  # codec and scope -> its function names
        self.stores: list[Statement] = []
        self.taken = {*program.symbols, *program.flags}  # names that locals and functions must not have

    def run(self) -> Lowered:
        for state in self.program.states:
            if state.storage is not None:
                kept = saved_scalars(state.storage, state.unsigned)
                self.taken |= {f"{state.name}_codes", *(f"{state.name}_{scalar}_blocks" for scalar in kept)}
        self.parameter()
        for each in self.program.inputs:
            self.given(each)
        for index, state in enumerate(self.program.states):
            if state.scalar:
                continue
            if state.name in self.stored:
                self.coded(state, index)
            else:
                buffer = f"{state.name}_state"
                while buffer in self.taken:
                    buffer += "_"
                self.stores.append(self.element(state, buffer, index))
        # the parameter is written first, so that encoding finds the registers that it has freed
        self.out.body = [*self.out.body, *self.program.body, Store("param", Ref("p")), *self.stores]
        self.out.functions = _called(self.out.functions, [statement.value for statement in self.out.body])
        return self.out

    def parameter(self) -> None:
        """The parameter, its gradient, and what rounding took from the parameter."""
        for name, buffer, doc in (("p", "param", "parameter"), ("g", "grad", "gradient")):
            self.load(Buffer(buffer, Layout.ELEMENT, buffer, None, None, self.reads(name), name == "p", doc), name)
        doc = "lost in rounding"
        self.out.buffers.append(
            Buffer("correction", Layout.ELEMENT, "correction", "correction", None, True, True, doc, when=Guard("is_corrected"))
        )

    def given(self, each: Input) -> None:
        """An input: a buffer that is there, and read, under its flag."""
        name = f"{each.name}_input"
        while name in self.taken:
            name += "_"
        reads, doc = self.reads(each.name), each.doc or each.name
        buffer = Buffer(name, Layout.ELEMENT, "real", f"{each.name}{INPUT}", None, reads, False, doc, when=each.flag)
        self.load(buffer, each.name)

    def element(self, state: State, buffer: str, index: int) -> Store:
        """A state with one value per element, row or column, or one of all; returns how it is written."""
        dtype = "real" if state.floats is None else state.floats.dtype
        doc = state.doc or state.name
        layout = Layout.TENSOR if state.whole else VECTOR_LAYOUTS.get(state.domain, Layout.ELEMENT)
        self.load(Buffer(buffer, layout, dtype, state.save_as, state, self.reads(state.name), True, doc), state.name)
        value: Expr = Ref(state.name)
        if state.floats is not None and state.floats.rounding == "stochastic":
            value = Op(f"stochastic_{dtype}", (Op("real", (value,)), Op("random_elements", (Const(index),))))
        return Store(buffer, value, self.written(state))

    def written(self, state: State) -> tuple[Guard, ...]:
        """The guards of what is done to write a state: none where it is left as it is."""
        guard = written_under(self.program, state)
        return () if guard is None else (guard,)

    def encoded(self, state: State) -> str:
        """What the names of codes and scalars begin with that are written; those that were read keep theirs where all is left as it is."""
        return state.name if self.written(state) == _guards(state) else f"{state.name}_new"

    def load(self, buffer: Buffer, name: str) -> None:
        """Add a buffer, and a load of it into `name` if it is read."""
        self.out.buffers.append(buffer)
        if buffer.read:
            self.out.body.append(
                Assign(name, Op("load", (Ref(buffer.name),)), (buffer.guard,) if buffer.guard is not None else ())
            )

    def reads(self, name: str) -> bool:
        """Whether the value of the last step matters: the name is read before it is assigned on every path."""
        for statement in self.program.body:
            if name in refs(statement.value):
                return True
            if isinstance(statement, Assign) and statement.target == name and not statement.guards:
                return False
        return True

    def coded(self, state: State, index: int) -> None:
        """A state kept as packed codes and block scalars."""
        assert state.storage is not None
        codec = codec_of(state.storage, state.unsigned)
        names = self.function_names(codec, state.storage.scope, state.name)
        read = self.reads(state.name)
        saved = [scalar.name for scalar in codec.scalars if scalar.saved]
        saved = list(RANK1) if state.storage.scope == "rank1" else saved
        self.buffers(state, saved, read)
        if read:
            self.decode(state, names, saved, index)
        self.encode(state, codec, names, index)

    def buffers(self, state: State, saved: list[str], read: bool) -> None:
        assert state.storage is not None
        doc = f"{state.doc or state.name}, {state.storage.bits}-bit codes"
        name, key = state.name, state.save_as
        self.out.buffers.append(Buffer(f"{name}_codes", Layout.CODE, "uint8", f"{key}.codes", state, read, True, doc))
        for scalar in saved:
            scope = state.storage.scope
            doc = f"{scalar} of {'all' if scope == 'tensor' else f'each {scope}'} of {state.name}"
            saved_as, block, layout = f"{key}.{scalar}", state.storage.block, LAYOUTS.get(scalar) or Layout(scope)
            doc = f"{scalar} of {state.name}" if scope == "rank1" else doc
            buffer = Buffer(f"{name}_{scalar}_blocks", layout, "float32", saved_as, state, read, True, doc, block=block)
            self.out.buffers.append(buffer)

    def decode(self, state: State, names: dict[str, str], saved: list[str], index: int) -> None:
        guards = _guards(state)
        code = self.local(f"{state.name}_code", Kind.INT, state.domain)
        self.out.body.append(Assign(code, Op("load_codes", (Ref(f"{state.name}_codes"),)), guards))
        args: list[Expr] = [Ref(code)]
        for scalar in saved:
            name = self.local(f"{state.name}_{scalar}", Kind.REAL, DOMAINS.get(scalar, Domain.BLOCK))
            self.out.body.append(Assign(name, Op("load", (Ref(f"{state.name}_{scalar}_blocks"),)), guards))
            args.append(Ref(name))
        if len(args) > 1 and saved == list(RANK1):
            args = [args[0], self.smaller(state, args[1], args[2], index)]
        value = Op("elements", (Call(names["decode"], tuple(args)), Const(index)))
        self.out.body.append(Assign(state.name, value, guards))

    def encode(self, state: State, codec: Codec, names: dict[str, str], index: int) -> None:
        assert state.storage is not None
        guards = self.written(state)
        arranged = self.local(f"{state.name}_blocks", Kind.REAL, state.domain)
        finite = Op("where", (Op("is_finite", (Ref(arranged),)), Ref(arranged), Const(0.0)))
        self.stores += [
            Assign(arranged, Op("blocks", (Ref(state.name), Const(index))), guards),
            Assign(arranged, finite, guards),
        ]
        known: dict[str, Expr] = {"x": Ref(arranged)}
        if state.storage.scope == "rank1":
            self.rank1(state, codec, names, index, known)
            return
        for scalar in codec.scalars:
            name = self.local(f"{self.encoded(state)}_{scalar.name}", scalar.kind, Domain.BLOCK)
            call = self.call(names[scalar.name], known)
            if state.storage.scope == "block":
                self.stores.append(Assign(name, call, guards))
            else:
                self.inline(call, name, self.encoded(state), guards)
            known[scalar.name] = Ref(name)
        self.codes(state, codec, names, index, known)
        for scalar in codec.scalars:
            if scalar.saved:
                self.stores.append(Store(f"{state.name}_{scalar.name}_blocks", known[scalar.name], guards))

    def codes(self, state: State, codec: Codec, names: dict[str, str], index: int, known: dict[str, Expr]) -> None:
        """Encode, and write the codes."""
        guards = self.written(state)
        if codec.random:
            known["u"] = Op("random_bits", (Const(index),))
        code = self.local(f"{self.encoded(state)}_code", Kind.INT, state.domain)
        self.stores.append(Assign(code, self.call(names["encode"], known), guards))
        self.stores.append(Store(f"{state.name}_codes", Ref(code), guards))

    def rank1(self, state: State, codec: Codec, names: dict[str, str], index: int, known: dict[str, Expr]) -> None:
        """The largest magnitude of each row and each column; the smaller one is the scale of an element (Li et al. 2023, 4.2)."""
        guards, magnitude = self.written(state), Op("abs", (Ref(state.name),))
        size = self.local(f"{state.name}_size", Kind.REAL, Domain.ELEMENT)
        finite = Op("where", (Op("le", (magnitude, Const(LARGEST))), magnitude, Const(0.0)))
        self.stores.append(Assign(size, finite, guards))
        scales: list[Expr] = []
        inverses: list[Expr] = []
        for scalar, op in zip(RANK1, ("cols_max", "rows_max"), strict=True):
            name = self.local(f"{self.encoded(state)}_{scalar}", Kind.REAL, DOMAINS[scalar])
            self.stores.append(Assign(name, Op(op, (Ref(size),)), guards))
            scales.append(Ref(name))
            inverse = self.local(f"{self.encoded(state)}_{scalar}_inverse", Kind.REAL, DOMAINS[scalar])
            floor = Op("max", (Op("real", (Ref(name),)), Const(float(SMALLEST))))
            self.stores.append(Assign(inverse, Op("reciprocal", (floor,)), guards))
            inverses.append(Ref(inverse))
        # the smaller scale has the larger inverse: so each row and column is divided by, and no element
        inverse = self.local(f"{self.encoded(state)}_inverse", Kind.REAL, Domain.ELEMENT)
        self.stores.append(Assign(inverse, Op("blocks", (Op("max", tuple(inverses)), Const(index))), guards))
        known["inverse"] = Ref(inverse)
        self.codes(state, codec, names, index, known)
        for scalar, scale in zip(RANK1, scales, strict=True):
            self.stores.append(Store(f"{state.name}_{scalar}_blocks", scale, guards))

    def smaller(self, state: State, row: Expr, col: Expr, index: int) -> Ref:
        """The scale of each element, arranged in blocks."""
        name = self.local(f"{state.name}_scale", Kind.REAL, Domain.ELEMENT)
        self.out.body.append(Assign(name, Op("blocks", (Op("min", (row, col)), Const(index))), _guards(state)))
        return Ref(name)

    def inline(self, call: Call, name: str, state: str, guards: tuple[Guard, ...]) -> None:
        """Write out a function that reduces more than a block, so that its reductions stand in the body by themselves."""
        function = next(f for f in self.out.functions if f.name == call.function)
        known: dict[str, Expr] = {param.name: arg for param, arg in zip(function.params, call.args, strict=True)}
        for statement in function.body:
            value = self.lifted(substitute(statement.value, known), state, guards)
            is_last = statement is function.body[-1]
            kind, domain = infer(value, self.out.symbols)
            target = name if is_last else self.local(f"{state}_{statement.target}", kind, domain)
            self.stores.append(Assign(target, value, guards))
            known[statement.target] = Ref(target)

    def lifted(self, value: Expr, state: str, guards: tuple[Guard, ...], *, is_whole: bool = True) -> Expr:
        """A value whose wide reductions, where they are parts of it, have got names of their own."""
        if not isinstance(value, Op):
            return value
        value = Op(value.op, tuple(self.lifted(arg, state, guards, is_whole=False) for arg in value.args))
        if is_whole or value.op not in WIDE_REDUCTIONS:
            return value
        target = self.local(f"{state}_{value.op}", *infer(value, self.out.symbols))
        self.stores.append(Assign(target, value, guards))
        return Ref(target)

    def call(self, name: str, known: dict[str, Expr]) -> Call:
        function = next(f for f in self.out.functions if f.name == name)
        return Call(name, tuple(known[param.name] for param in function.params))

    def function_names(self, codec: Codec, scope: str, state: str) -> dict[str, str]:
        if (codec, scope) not in self.codecs:
            taken = self.taken | self.values()
            while any(f"{formula.name}_{state}" in taken for formula in codec.formulas):
                state += "_"
            functions = build_functions(codec, state, scope)
            self.out.functions += functions
            self.codecs[codec, scope] = {f.name: g.name for f, g in zip(codec.formulas, functions, strict=True)}
        return self.codecs[codec, scope]

    def values(self) -> set[str]:
        """The names that locals of coded states may get; a function of such a name would be hidden."""
        names = set()
        for state in self.program.states:
            if state.storage is not None:
                codec = codec_of(state.storage, state.unsigned)
                prefixes = {state.name, self.encoded(state)}
                names |= {f"{prefix}_{scalar.name}" for prefix in prefixes for scalar in codec.scalars}
        return names

    def local(self, name: str, kind: Kind, domain: Domain) -> str:
        """A local of this name, or of a longer one where the rule already uses it."""
        while name in self.taken:
            name += "_"
        self.out.symbols[name] = Symbol(name, Role.LOCAL, kind, domain)
        return name


def _called(functions: list[Function], values: list[Expr]) -> list[Function]:
    """The functions that `values` call, directly or through others, in their order."""
    names: set[str] = set()
    for function in reversed(functions):
        if any(isinstance(node, Call) and node.function == function.name for value in values for node in walk(value)):
            names.add(function.name)
            values = [*values, *(statement.value for statement in function.body)]
    return [function for function in functions if function.name in names]


def _guards(state: State | None) -> tuple[Guard, ...]:
    return () if state is None or state.when is None else (state.when,)
