"""Pass `hoist-scalars`: what depends on t and hyperparameters alone is computed once a step, on the host.

    p = p*(1 - lr*weight_decay)   ->   host: one_minus_lr_weight_decay = 1 - lr*weight_decay
                                       p = p*one_minus_lr_weight_decay

Assignments to host scalars move as a whole; a host scalar that is assigned to a name with values per element is spread. A host scalar that is assigned again gets a new name, so that the body
reads the value of its place.
"""

from __future__ import annotations

from dataclasses import replace

from optgen.ir.infer import infer, refs, substitute
from optgen.ir.names import free_name, name_for
from optgen.ir.nodes import Assign, Call, Const, Domain, Expr, Guard, Kind, Op, Program, Ref, Role, Statement, Symbol
from optgen.ir.ops import SPREAD

__all__ = ["hoist_scalars"]


def hoist_scalars(program: Program) -> Program:
    """Split the body into host statements and statements per element."""
    hoister = _Hoister(program)
    for statement in program.body:
        assert isinstance(statement, Assign)
        hoister.take(statement)
    return replace(
        program, host=tuple(hoister.host), body=tuple(hoister.body), symbols=hoister.symbols, outputs=hoister.outputs
    )


class _Hoister:
    def __init__(self, program: Program) -> None:
        self.symbols = dict(program.symbols)
        self.taken = set(program.symbols) | set(program.flags)
        self.host: list[Assign] = []
        self.body: list[Statement] = []
        self.current: dict[str, Expr] = {}  # the name that stands for a host scalar at this place
        self.captured: set[str] = set()  # names whose present value the body reads
        self.hoisted: dict[Expr, str] = {}
        self.outputs: dict[str, str] = {}

    def take(self, statement: Assign) -> None:
        value = substitute(statement.value, self.current)
        if self.symbols[statement.target].domain == Domain.HOST:
            self.assign_host(replace(statement, value=value))
        else:
            value = self.split(value, statement.guards)
            (kind, domain), target = infer(value, self.symbols), self.symbols[statement.target].domain
            if domain == Domain.HOST and kind in (Kind.REAL, Kind.INT):
                value = Op("number" if target == Domain.TENSOR else SPREAD[target], (value,))
            elif domain != target:
                value = _spread(value, kind, SPREAD[target])
            self.body.append(replace(statement, value=value))

    def assign_host(self, statement: Assign) -> None:
        """Add a host statement; a name that the body has read keeps its value and the new one gets a new name."""
        name = statement.target
        target = self.now(name)
        if target in self.captured:
            fresh = self.fresh(f"{name}_new")
            self.symbols[fresh] = replace(self.symbols[name], name=fresh, role=Role.LOCAL)
            if statement.guards:
                self.host.append(Assign(fresh, Ref(target), self.guards_of(target)))
            self.current[name] = Ref(fresh)
            target = fresh
        self.hoisted = {value: kept for value, kept in self.hoisted.items() if target not in refs(value)}
        self.host.append(replace(statement, target=target))
        if self.symbols[name].role == Role.STATE:
            self.outputs[name] = target

    def now(self, name: str) -> str:
        ref = self.current.get(name)
        return ref.name if isinstance(ref, Ref) else name

    def guards_of(self, name: str) -> tuple[Guard, ...]:
        """The guards that all assignments to `name` share: under them it has a value."""
        guards = [statement.guards for statement in self.host if statement.target == name]
        if not guards or self.symbols[name].role != Role.LOCAL:
            return ()
        shared = guards[0]
        for other in guards[1:]:
            shared = tuple(guard for guard, same in zip(shared, other, strict=False) if guard == same)
        return shared

    def fresh(self, name: str) -> str:
        candidate = free_name(name, self.taken)
        self.taken.add(candidate)
        return candidate

    def split(self, value: Expr, guards: tuple[Guard, ...]) -> Expr:
        """Replace the largest host expressions inside `value` by names."""
        if isinstance(value, Const):
            return value
        kind, domain = infer(value, self.symbols)
        if domain == Domain.HOST and kind == Kind.BOOL:
            chosen = Op("where", (value, Const(1.0), Const(0.0)))
            return Op("ne", (self.hoist(chosen, f"if_{_plain_name(value)}", guards), Const(0.0)))
        if domain == Domain.HOST and isinstance(value, Op):
            return self.hoist(value, None, guards)
        if isinstance(value, Op):
            return Op(value.op, tuple(self.split(arg, guards) for arg in value.args), value.span)
        assert isinstance(value, Ref | Call)
        if isinstance(value, Ref) and self.symbols[value.name].role == Role.STEP:
            return self.hoist(value, None, guards)
        if domain == Domain.HOST and isinstance(value, Ref):
            self.captured.add(value.name)
            if self.guards_of(value.name):
                return self.hoist(value, self.fresh(f"{value.name}_or_0"), guards)
        return value

    def hoist(self, value: Expr, name: str | None, guards: tuple[Guard, ...]) -> Ref:
        """A host scalar with this value; equal values share one. It is 0 where its inputs have no value."""
        if value not in self.hoisted:
            name = self.fresh(name) if name is not None else name_for(value, self.taken)
            self.taken.add(name)
            self.hoisted[value] = name
            self.symbols[name] = Symbol(name, Role.LOCAL, Kind.REAL, Domain.HOST)
            if any(self.guards_of(ref) for ref in refs(value)):
                self.host += [Assign(name, Const(0.0)), Assign(name, value, guards)]
            else:
                self.host.append(Assign(name, value))
        self.captured.add(self.hoisted[value])
        return Ref(self.hoisted[value])


def _spread(value: Expr, kind: Kind, spread: str) -> Expr:
    """A number, or a condition, of a smaller domain for every element, or every row or column."""
    if kind != Kind.BOOL:
        return Op(spread, (value,))
    return Op("ne", (Op(spread, (Op("where", (value, Const(1.0), Const(0.0))),)), Const(0.0)))


def _plain_name(value: Expr) -> str:
    return value.name if isinstance(value, Ref) else name_for(value, set())
