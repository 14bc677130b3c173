"""One step of a program in float64, statement by statement, on a state dict like the optimizers' own."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from optgen.ir.constants import by_part, evaluate_condition
from optgen.ir.guards import written_under
from optgen.ir.nodes import SHAPES, VECTORS, Assign, Const, Domain, Expr, Function, Op, Program, Ref, Role, State, Storage
from optgen.ir.ops import REDUCED, SCOPES
from optgen.reference import narrow, packing
from optgen.reference.evaluate import call, evaluate
from optgen.runtime.layout import vector_shape, view_shape
from optgen.storage.codebooks import CODEBOOKS, codec_of, half_gap, state_codes
from optgen.storage.codec import build_functions
from optgen.storage.scales import SMALLEST

__all__ = ["Reference", "rounded", "together"]

Array = np.ndarray[Any, Any]


class Wanted(NamedTuple):
    """What a step waits for: the values of all parameters of a scope, taken together at a place of the program."""

    place: int
    op: str
    value: Array


Stepping = Generator[Wanted, Array | None, tuple[Array, dict[str, Array]]]


@dataclass(frozen=True)
class Reference:
    """Runs the program of one spec, as it was lowered, before any pass."""

    program: Program

    def step(
        self,
        p: Array,
        g: Array,
        state: Mapping[str, Array],
        hypers: Mapping[str, Any],
        given: Mapping[str, Array] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """The parameter and state after one step of an optimizer that has no other parameter.

        Args:
            p: parameter, any shape.
            g: gradient, the same shape.
            state: as in a state dict, with `step` before this step; states that are missing are zeros.
            hypers: the parameter group's values; tuples under their own name.
            given: the inputs that this step has, by name, each shaped like p.

        Returns:
            The parameter in float64 and the new state dict.
        """
        return together([self.stepping(p, g, state, hypers, given or {})], [0])[0]

    def stepping(
        self, p: Array, g: Array, state: Mapping[str, Array], hypers: Mapping[str, Any], given: Mapping[str, Array]
    ) -> Stepping:
        """The step of one parameter, as `step` takes it, for `together`."""
        if self.program.cut:
            return (yield from self.viewed_step(p, g, state, hypers, given))
        t = int(state.get("step", np.zeros(()))) + 1
        env = self.inputs(p, g, t, hypers)
        env |= {name: value.astype(np.float64) for name, value in given.items()}
        flags = {name: bool(evaluate_condition(condition, env)) for name, condition in self.program.flags.items()}
        present = [s for s in self.program.states if s.when is None or flags[s.when.flag] == s.when.holds]
        for s in present:
            is_new = s.shared and s.save_as not in state  # others begin as zeros, and with their 'init' in the first step
            env[s.name] = evaluate(s.init, env, {}, np.float64) if is_new else self.read(s, state, p.shape)
        env |= flags
        self.facts(env, p.shape)
        for place, statement in enumerate(self.program.body):
            assert isinstance(statement, Assign)
            conditions = {**flags, **{g.flag: env.get(g.flag) for g in statement.guards if g.flag not in flags}}
            if all(bool(conditions[guard.flag]) == guard.holds for guard in statement.guards):
                known = yield from joined(statement.value, env, place)
                value = evaluate(known, env, {}, np.float64)
                domain = self.program.symbols[statement.target].domain
                is_full = domain in (*VECTORS, Domain.ELEMENT)
                env[statement.target] = np.broadcast_to(value, full_shape(domain, p.shape)) if is_full else value
        new: dict[str, Array] = {"step": np.asarray(float(t))}
        if "rounding_key" in state:
            new["rounding_key"] = state["rounding_key"]
        for index, s in enumerate(self.program.states):
            guard = written_under(self.program, s)
            if s in present and guard is not None and flags[guard.flag] != guard.holds and s.domain == Domain.ELEMENT:
                new |= {key: value for key, value in state.items() if key.split(".")[0] == s.save_as}  # it is left as it is
            elif s in present:
                new |= self.write(s, env[s.name], p.shape, index, state, t)
        return np.asarray(env["p"]), new

    def viewed_step(
        self, p: Array, g: Array, state: Mapping[str, Array], hypers: Mapping[str, Any], given: Mapping[str, Array]
    ) -> Stepping:
        """The same for a rule that cuts parameters: it sees p, g and states like p in another shape."""
        size = int(by_part(self.program, hypers)[self.program.view]) if self.program.view else 0
        seen = view_shape(p.shape, self.program.cut, size)
        inner = Reference(replace(self.program, cut="", view=""))
        cut = {key: x.reshape(seen) if x.shape == p.shape else x for key, x in state.items()}
        shaped = {name: x.reshape(seen) for name, x in given.items()}
        new_p, new = yield from inner.stepping(p.reshape(seen), g.reshape(seen), cut, hypers, shaped)
        return new_p.reshape(p.shape), {key: x.reshape(p.shape) if x.shape == seen else x for key, x in new.items()}

    def inputs(self, p: Array, g: Array, t: int, hypers: Mapping[str, Any]) -> dict[str, Any]:
        """The values of p, g, t and every hyperparameter."""
        env: dict[str, Any] = {"p": p.astype(np.float64), "g": g.astype(np.float64), "t": np.float64(t)}
        for hyper in self.program.hypers:
            value = hypers.get(hyper.name, hyper.default)
            if hyper.names:
                env |= {name: np.float64(part) for name, part in zip(hyper.names, value, strict=True)}
            else:
                env[hyper.name] = value if isinstance(value, bool | str) else np.float64(value)
        return env

    def facts(self, env: dict[str, Any], shape: tuple[int, ...]) -> None:
        """The values of `bits(m)` and `half_gap(m)` for a parameter of this shape."""
        for s in self.program.states:
            codes = state_codes(s)
            coded = codes is not None and codes.applies_to(shape)
            for name, symbol in self.program.symbols.items():
                if symbol.role == Role.FACT and name == f"bits_{s.name}":
                    env[name] = np.float64(s.storage.bits if coded and s.storage else 32)
                if symbol.role == Role.FACT and name == f"half_gap_{s.name}":
                    env[name] = np.float64((half_gap(s.storage, s.unsigned) or 0) if coded and s.storage else 0)

    def read(self, s: State, state: Mapping[str, Array], shape: tuple[int, ...]) -> Any:
        """The value of a state before the step, in float64."""
        codes = state_codes(s)
        if s.scalar:
            return np.float64(state.get(s.save_as, 0.0))
        own = full_shape(s.domain, shape)
        if codes is None or not codes.applies_to(shape):
            return np.asarray(state.get(s.save_as, np.zeros(own))).astype(np.float64)
        if f"{s.save_as}.codes" not in state:
            return np.zeros(own)
        functions, formulas = self.functions(s)
        code = packing.unpack(state[f"{s.save_as}.codes"], codes.bits, codes.block)
        scalars = [state[f"{s.save_as}.{name}"] for name in codes.scalars]
        if codes.scope == "rank1":
            scale = np.broadcast_to(np.minimum(*scalars), shape)
            args = [code, packing.to_blocks(scale, codes)]
        else:
            args = [code, *(x.reshape(-1, x.shape[-1], 1) for x in scalars)]
        return packing.from_blocks(call(formulas["decode"], args, functions), codes.elements(shape), codes).reshape(own)

    def write(
        self, s: State, value: Any, shape: tuple[int, ...], index: int, state: Mapping[str, Array], t: int
    ) -> dict[str, Array]:
        """The new entries of a state in the state dict."""
        codes, own = state_codes(s), full_shape(s.domain, shape)
        if s.floats is not None:
            return {s.save_as: rounded(np.broadcast_to(value, own), s.floats.dtype, s.floats.rounding, index, state, t)}
        if codes is None or not codes.applies_to(shape):
            return {s.save_as: np.broadcast_to(np.asarray(value, dtype=np.float64), own)}
        assert s.storage is not None
        functions, formulas = self.functions(s)
        coded = codes.elements(shape)
        x = packing.to_blocks(np.broadcast_to(value, own).reshape(coded), codes)
        known: dict[str, Any] = {"x": np.where(np.isfinite(x), x, np.float32(0))}
        codec = codec_of(s.storage, s.unsigned)
        if codes.scope == "rank1":
            single = np.broadcast_to(value, shape).astype(np.float32)
            sizes = np.where(np.isfinite(single), np.abs(single), np.float32(0))
            known["row_scale"], known["col_scale"] = sizes.max(axis=-1, keepdims=True), sizes.max(axis=-2, keepdims=True)
            scale = np.broadcast_to(np.minimum(known["row_scale"], known["col_scale"]), shape)
            known["inverse"] = np.float32(1) / np.maximum(packing.to_blocks(scale, codes), np.float32(SMALLEST))
        for scalar in codec.scalars if codes.scope != "rank1" else ():
            known[scalar.name] = self.apply(formulas[scalar.name], known, functions)
        if codec.random:
            words = packing.step_words(int(state["rounding_key"]) % 2**64, t)
            known["u"] = packing.random_bits(words, coded, codes, index)
        code = self.apply(formulas["encode"], known, functions)
        new = {f"{s.save_as}.codes": packing.pack(np.broadcast_to(code, x.shape), codes.bits).reshape(codes.codes_shape(shape))}
        for name in codes.scalars:
            new[f"{s.save_as}.{name}"] = known[name].reshape(codes.scalars_shape(shape, name))
        return new

    def apply(self, function: Function, known: Mapping[str, Any], functions: Mapping[str, Function]) -> Any:
        """Call a codec function with the values it asks for by name."""
        return call(function, [known[param.name] for param in function.params], functions)

    def functions(self, s: State) -> tuple[dict[str, Function], dict[str, Function]]:
        """The codec functions of a state, by their names and by the names of their formulas."""
        assert s.storage is not None
        return codec_functions(s.storage, s.unsigned, s.name)

    def places(self, s: State) -> Array:
        """For each code of a state, the place of its value among the values of all: int32 (2**bits,)."""
        assert s.storage is not None
        return code_places(s.storage, s.unsigned)


def together(steps: Sequence[Stepping], groups: Sequence[int]) -> list[tuple[Array, dict[str, Array]]]:
    """Run the steps of an optimizer's parameters, of these groups, beside one another, so that reductions find them all."""
    done: dict[int, tuple[Array, dict[str, Array]]] = {}
    waiting: dict[int, Wanted] = {}
    ready: dict[int, Array | None] = dict.fromkeys(range(len(steps)))
    while ready:
        for i, value in ready.items():
            try:
                waiting[i] = steps[i].send(value)
            except StopIteration as ended:
                done[i] = ended.value
        first = min((wanted[:2] for wanted in waiting.values()), default=None)
        at = [i for i, wanted in waiting.items() if wanted[:2] == first]
        ready = {i: _taken(i, at, waiting, groups) for i in at}
        waiting = {i: wanted for i, wanted in waiting.items() if i not in at}
    return [done[i] for i in range(len(steps))]


def _taken(i: int, at: Sequence[int], waiting: Mapping[int, Wanted], groups: Sequence[int]) -> Array:
    """What a parameter gets of a reduction for which those at `at` wait."""
    op = waiting[i].op
    own = [j for j in at if REDUCED[op][0].endswith("optimizer") or groups[j] == groups[i]]
    every = np.concatenate([np.ravel(waiting[j].value) for j in own])
    return np.asarray(evaluate(Op(op, (Ref("x"),)), {"x": every}, {}, np.float64))


def joined(value: Expr, env: Mapping[str, Any], place: int) -> Generator[Wanted, Array | None, Expr]:
    """`value`, a part of the statement at a place, with the numbers that reductions over several parameters are."""
    if not isinstance(value, Op):
        return value
    args = []
    for arg in value.args:
        args.append((yield from joined(arg, env, place)))  # noqa: PERF401 -- a comprehension cannot yield
    known = Op(value.op, tuple(args), value.span)
    if value.op not in REDUCED or REDUCED[value.op][0] not in SCOPES:
        return known
    result = yield Wanted(place, value.op, evaluate(args[0], env, {}, np.float64))
    assert result is not None
    return Const(float(result))


@functools.cache
def codec_functions(storage: Storage, unsigned: bool, name: str) -> tuple[dict[str, Function], dict[str, Function]]:
    """The codec functions of a state of this name, read once, by their names and by the names of their formulas."""
    codec = codec_of(storage, unsigned)
    built = build_functions(codec, name, storage.scope)
    by_formula = {formula.name: function for formula, function in zip(codec.formulas, built, strict=True)}
    return {function.name: function for function in built}, by_formula


@functools.cache
def code_places(storage: Storage, unsigned: bool) -> Array:
    """For each code, the place of its value among the values of all."""
    code = np.arange(2**storage.bits, dtype=np.int32)
    if CODEBOOKS[storage.codebook].levels(storage, unsigned) is None:
        return code
    functions, formulas = codec_functions(storage, unsigned, "m")
    values = call(formulas["decode"], [code, np.float32(1)], functions)
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def full_shape(domain: Domain, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what has a value for each element, row, column or matrix of a parameter of this shape, or one for all."""
    if domain in VECTORS:
        return vector_shape(SHAPES[domain], shape)
    return shape if domain == Domain.ELEMENT else ()


def rounded(x: Array, dtype: str, rounding: str, salt: int, state: Mapping[str, Array], t: int) -> Array:
    """Values as a 16-bit dtype holds them, in float64; arithmetic has handed them over in float32."""
    with np.errstate(over="ignore"):
        single = x.astype(np.float32).astype(np.float64)
    if rounding == "nearest":
        return narrow.nearest(single, dtype)
    words = packing.step_words(int(state["rounding_key"]) % 2**64, t)
    return narrow.stochastic(single, packing.random_elements(words, x.shape, salt), dtype)
