"""Random specs: valid ones that use the whole language."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from optgen.ir.names import is_reserved

__all__ = ["random_spec"]

# Names that generated code might use for something of its own.
NAME_TEXT = """
a alpha args axis backend_ base batch beta bits_m block buffer c cls code codes columns copy count d data decode_m denom dim
encode_m eps exp_avg first flags fp functions g2 g_new gamma grad_ grads half h inf inv_lr k kernel kernels launch left length
load load_elements lo hi lr lr_new m m_bits m_block m_code m_new m_scale m_scale_ m_state m_state_2 match math maximum mean
minimum mode momentum mu n name nan not_ nu numpy ones one_minus_beta one_minus_lr out p2 p_state param_ params_ pack pid
pointer product q r random random_bits rate rho round row s scale scale_m sign_ size slot sqrt_v square start store_elements
sum t2 t_is_1 t_above_2 t_or_0 threads tile_ torch_ to_blocks u unpack v v2 v_scale v_state value view w warmup weight_decay
where_ width words x x_2 y z zeros base_v scale_v decode_v encode_v quantile_v choose_real from_blocks block_scalars
tile_elements store_scalars load_scalars store_codes load_codes key_ step_ case type_ is_finite real_ int32 float32 float64 nearest steps nearest_code positive distance level
pos neg
"""
STORAGES = (
    "{codebook: linear, bits: 4, block: 32}",
    "{codebook: linear, bits: 2, block: 64, rounding: stochastic, min_size: 0, min_ndim: 1}",
    "{codebook: dynamic_exponent, bits: 8, block: 64}",
    "{codebook: dynamic_exponent, bits: 3, block: 32, min_size: 0, published: true}",
    "{codebook: linear, bits: 1, block: 32, min_size: 0}",
    "{codebook: linear, bits: 4, block: 32, zero: true, rounding: stochastic, min_size: 0}",
    "{codebook: power, bits: 3, block: 64, power: 3, min_size: 0}",
    "{codebook: companded, bits: 8, block: 32, min_size: 0}",
    "{codebook: e4m3, block: 64, rounding: stochastic, min_size: 0}",
    "{codebook: linear, bits: 8, block: row, min_size: 0}",
    "{codebook: e5m2, block: tensor, rounding: stochastic, min_size: 0}",
    "bfloat16",
    "{codebook: bfloat16, rounding: stochastic}",
    "{use: int4, min_size: 0}",
    "float32",
)
UNSIGNED_STORAGES = (
    "{codebook: log, bits: 2, block: 32, quantile: 0.2}",
    "{codebook: log, bits: 3, block: 64, min_size: 16}",
    "{codebook: log, bits: 2, block: 32, rounding: unbiased, min_size: 0}",
    "{codebook: table, bits: 2, levels: [0, 0.01, 0.2, 1], block: 32, min_size: 0}",
)
VECTORS = {"row": "[..., rows, 1]", "col": "[..., 1, cols]", "matrix": "[..., 1, 1]"}  # their shapes
REDUCED = {  # what becomes one number of all, or one for each of VECTORS: values of what, reduced over what
    "all": [("element", ""), ("row", ""), ("col", ""), ("matrix", "")],
    "row": [("element", ", over=cols")],
    "col": [("element", ", over=rows")],
    "matrix": [("element", ", over=(rows, cols)"), ("row", ", over=rows"), ("col", ", over=cols")],
}


def random_spec(seed: int) -> str:
    """A valid spec; the same seed gives the same text."""
    return _Writer(random.Random(seed)).spec()


class _Writer:
    """Writes one spec. Values stay bounded, and jumps lie away from values that rounding could move across them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        names = [name for name in dict.fromkeys(NAME_TEXT.split()) if not is_reserved(name)]
        rng.shuffle(names)
        self.names = iter(names)
        self.host: list[str] = ["t"]
        self.element: list[str] = ["p", "g"]
        self.numbers: list[str] = []  # states that are one number of all elements
        self.vectors: dict[str, list[str]] = {name: [] for name in VECTORS} if rng.random() < 0.5 else {}
        self.conditions: list[str] = []  # static
        self.lines: list[str] = []

    def spec(self) -> str:
        hypers = self.hypers()
        states = self.states()
        for _ in range(self.rng.randint(1, 6)):
            self.statement("", 0)
        everything = [*self.element[2:], *self.all_vectors(), *self.numbers, *self.host[1:]]
        total = " + ".join(f"0.1*{name}" for name in everything) or "0"
        self.lines.append(f"final_sum = {total}")
        for condition in self.conditions:
            self.lines.append(f"final_sum = where({condition}, final_sum, 0.5*final_sum)")
        self.lines.append(f"p = p - 0.01*{self.squash('final_sum')} - 0.01*g")
        update = "\n".join(f"  {line}" for line in self.lines)
        name = self.rng.choice(["Rule", "A", "AdamW", "My2ndRule"])
        return f"name: {name}\nsummary: A random rule.\n{hypers}{states}update: |\n{update}\n"

    def hypers(self) -> str:
        lines = []
        for _ in range(self.rng.randint(0, 4)):
            name = next(self.names)
            kind = self.rng.choice(["number", "tuple", "flag", "choice", "number"])
            if kind == "number":
                default = self.rng.choice(["0.3", "1e-1", ".5", "1", "2.", "+0.25", "5E-1"])
                lines.append(
                    f"{name}: {{default: {default}{self.rng.choice(['', ', min: 0', ', above: 0, below: 3', ', max: 4'])}}}"
                )
                self.host.append(name)
            elif kind == "tuple":
                parts = [next(self.names) for _ in range(self.rng.randint(1, 3))]
                lines.append(f"{name}: {{default: [{', '.join(['0.9'] * len(parts))}], names: [{', '.join(parts)}], below: 1}}")
                self.host += parts
            elif kind == "flag":
                lines.append(f"{name}: {{default: {self.rng.choice(['false', 'true'])}}}")
                self.conditions.append(name)
            else:
                lines.append(f"{name}: {{default: one, choices: [one, two three, 'm']}}")
                self.conditions.append(f'{name} {self.rng.choice(["==", "!="])} "{self.rng.choice(["one", "two three", "m"])}"')
        numbers = [name for name in self.host[1:] if name != "lr"]
        if numbers and self.rng.random() < 0.5:
            self.conditions.append(
                f"{self.rng.choice(numbers)} {self.rng.choice(['>', '<=', '!='])} {self.rng.choice(['0', '0.4'])}"
            )
        return "hyper:\n" + "".join(f"  {line}\n" for line in lines) if lines else ""

    def states(self) -> str:
        lines, initial = [], self.host[1:]
        for _ in range(self.rng.randint(0, 3)):
            name = next(self.names)
            if self.rng.random() < 0.2:
                init = self.rng.choice(["", ", init: 1", *(f", init: 2*{host}" for host in initial)])
                lines.append(f"{name}: {{shape: scalar{init}}}")
                self.lines.append(f"{name} = 0.5*{name} + {self.host_value(2)}/(1 + abs({self.host_value(1)}))")
                self.host.append(name)
                continue
            if self.rng.random() < 0.2:
                init = self.rng.choice(["", ", init: 0.7", ", init: rms(g)", ", init: max(p)"])
                lines.append(f"{name}: {{shape: tensor{init}}}")
                self.numbers.append(name)
                self.lines.append(f"{name} = 0.5*{name} + {self.reduction(2)}")
                continue
            if self.vectors and self.rng.random() < 0.6:
                lines.append(self.vector_state(name, has_condition="when" in "".join(lines)))
                continue
            init = self.rng.choice(["", "", ", init: p", ", init: g**2", ", init: 0.25"])
            unsigned = self.rng.random() < 0.3
            storages = UNSIGNED_STORAGES if unsigned else STORAGES
            storage = f", storage: {self.rng.choice(storages)}" if self.rng.random() < 0.4 else ""
            sign = ", sign: unsigned" if unsigned else ""
            if self.conditions and self.rng.random() < 0.3 and "when" not in "".join(lines):
                condition = self.rng.choice(self.conditions)
                lines.append(f"{name}: {{like: p{sign}{init}{storage}, when: {condition}}}")
                local = next(self.names)
                value = self.bounded(name, unsigned)
                self.lines += [f"{local} = g", f"if {condition}:", f"  {name} = {value}", f"  {local} = {name}"]
                self.element.append(local)
                continue
            lines.append(f"{name}: {{like: p{sign}{init}{storage}}}")
            self.lines.append(f"{name} = {self.bounded(name, unsigned)}")
            self.element.append(name)
        return "state:\n" + "".join(f"  {line}\n" for line in lines) if lines else ""

    def vector_state(self, name: str, has_condition: bool) -> str:
        """One number for each row, column or matrix."""
        domain = self.rng.choice(list(VECTORS))
        inits = ["", "\n    init: 0.7", f"\n    init: mean(g**2{REDUCED[domain][0][1]})"]
        declared = f"{name}:\n    shape: {VECTORS[domain]}{self.rng.choice(inits)}"
        value = f"ema({name}, {self.reduction(2, domain)}, 0.5)"
        if self.conditions and not has_condition and self.rng.random() < 0.3:
            condition, local = self.rng.choice(self.conditions), next(self.names)
            begun = self.reduction(1, domain)
            self.lines += [f"{local} = {begun}", f"if {condition}:", f"  {name} = {value}", f"  {local} = {name}"]
            self.vectors[domain].append(local)
            return f"{declared}\n    when: {condition}"
        self.lines.append(f"{name} = {value}")
        self.vectors[domain].append(name)
        return declared

    def all_vectors(self) -> list[str]:
        return [name for names in self.vectors.values() for name in names]

    def bounded(self, name: str, unsigned: bool) -> str:
        value = self.squash(f"({self.element_value(2)})")
        return f"0.5*{name} + {value}**2" if unsigned else f"ema({name}, {value}, 0.5)"

    def squash(self, value: str) -> str:
        return f"{value}/(1 + abs({value}))"

    def statement(self, indent: str, depth: int) -> None:
        kinds: list[Callable[[str, int], None]] = [self.local, self.local, self.again, self.branch, self.flag]
        kinds += [self.vector_local, self.vector_local] if self.vectors else []
        self.rng.choice(kinds)(indent, depth)

    def local(self, indent: str, depth: int) -> None:
        host = self.rng.random() < 0.4
        value = self.host_value(3) if host else self.element_value(3)
        if depth:  # under a condition only names that have a value
            return self.again(indent, depth)
        name = next(self.names)
        self.lines.append(f"{indent}{name} = {value}")
        (self.host if host else self.element).append(name)
        return None

    def vector_local(self, indent: str, depth: int) -> None:
        if depth:
            return self.again(indent, depth)
        domain, name = self.rng.choice(list(VECTORS)), next(self.names)
        self.lines.append(f"{indent}{name} = {self.reduction(2, domain)} + {self.squash(f'({self.vector_value(domain, 2)})')}")
        self.vectors[domain].append(name)
        return None

    def again(self, indent: str, depth: int) -> None:  # noqa: ARG002
        """Assign once more to a local."""
        assigned = {line.split(" = ")[0].strip() for line in self.lines if " = " in line}
        declared = [name for name in (*self.host, *self.element[2:], *self.all_vectors()) if name in assigned]
        if not declared:
            return
        name = self.rng.choice(declared)
        domain = next((domain for domain, names in self.vectors.items() if name in names), "element")
        value = self.host_value(2) if name in self.host else self.value(domain, 2)
        sign = self.rng.choice(["=", "+=", "-=", "*="])
        line = f"{name} {sign} {self.squash(f'({value})')}"
        guarded = any(f"{name}: {{" in text for text in self.lines)
        if not guarded:
            self.lines.append(f"{indent}{line}")

    def flag(self, indent: str, depth: int) -> None:
        """A local that is a condition."""
        if depth:
            return
        name = next(self.names)
        host = self.rng.random() < 0.5
        target = next(self.names)
        known = [domain for domain, names in self.vectors.items() if names and self.rng.random() < 0.3]
        domain = known[0] if known else "element"
        self.lines.append(f"{indent}{name} = {self.host_condition(2) if host else self.condition(domain, 2)}")
        chosen = f"where({name}, {self.value(domain, 1)}, {self.value(domain, 1)})"
        self.lines.append(f"{indent}{target} = {f'{self.rng.choice(self.vectors[domain])} + ' if known else ''}{chosen}")
        (self.vectors[domain] if known else self.element).append(target)
        if host:
            self.lines += [f"if {name}:", f"  {target} = 0.5*{target}"]

    def branch(self, indent: str, depth: int) -> None:
        if depth > 2:
            return
        static = self.conditions and self.rng.random() < 0.5
        condition = self.rng.choice(self.conditions) if static else self.host_condition(1)
        before = len(self.lines)
        self.lines.append(f"{indent}if {condition}:")
        self.statement(f"{indent}  ", depth + 1)
        if len(self.lines) == before + 1:
            self.lines.pop()
            return
        if self.rng.random() < 0.5:
            place = len(self.lines)
            self.statement(f"{indent}  ", depth + 1)
            if len(self.lines) > place:
                self.lines.insert(
                    place, f"{indent}else:" if self.rng.random() < 0.7 else f"{indent}elif {self.host_condition(1)}:"
                )

    def constant(self) -> str:
        return self.rng.choice(["0", "1", "2", "0.5", "1e-3", "3.25", "-0.75", "0.1*2", ".3"])

    def host_value(self, depth: int) -> str:
        leaf = self.rng.choice([*self.host, self.constant()])
        if depth == 0 or self.rng.random() < 0.2:
            return leaf
        return self.combine(self.host_value, self.host_condition, depth, leaf)

    def element_value(self, depth: int) -> str:
        leaf = self.rng.choice([*self.element, *self.element, *self.all_vectors(), *self.numbers, *self.host, self.constant()])
        if depth == 0 or self.rng.random() < 0.15:
            return leaf
        if self.rng.random() < 0.08:
            return self.reduction(depth, self.rng.choice(["all", *self.vectors]))
        return self.combine(self.element_value, self.element_condition, depth, leaf)

    def vector_value(self, domain: str, depth: int) -> str:
        """Of each row, column or matrix; perhaps a number that is the same for all."""
        others = self.vectors["matrix"] + self.numbers
        leaf = self.rng.choice([*self.vectors[domain], *self.vectors[domain], *others, *self.host, self.constant()])
        if depth == 0 or self.rng.random() < 0.15:
            return leaf
        if self.rng.random() < 0.2:
            return self.reduction(depth, domain)
        return self.combine(partial(self.vector_value, domain), partial(self.condition, domain), depth, leaf)

    def value(self, domain: str, depth: int) -> str:
        return self.element_value(depth) if domain == "element" else self.vector_value(domain, depth)

    def condition(self, domain: str, depth: int) -> str:
        if domain == "element":
            return self.element_condition(depth)
        names = self.vectors[domain] or self.host
        plain = f"{self.rng.choice(names)} {self.rng.choice(['<', '>='])} {self.rng.choice(['0.3719', '0.1137'])}"
        return plain if depth == 0 else self.logic(plain, self.rng.choice([self.host_condition(1), *self.conditions]))

    def reduction(self, depth: int, domain: str = "all") -> str:
        """One number of all elements, or for each row, column or matrix; what is reduced has g in it, so that there are some."""
        inner, over = self.rng.choice(REDUCED[domain] if self.vectors else REDUCED["all"][:1])
        some = "g" if inner == "element" else self.rng.choice([*self.vectors[inner], f"mean(g{REDUCED[inner][0][1]})"])
        value = self.squash(f"({some} + {self.value(inner, depth - 1)})")
        word = self.rng.choice(["mean", "rms", "max", "min", "l1", "l2", "sum"])
        reduced = f"{word}({value}{over})"
        return reduced if word in ("mean", "rms", "max", "min") else f"{reduced}/(1 + l1({value}{over}))"

    def combine(self, value: Callable[[int], str], condition: Callable[[int], str], depth: int, leaf: str) -> str:
        a, b = value(depth - 1), value(depth - 1)
        c = self.host_value(0)
        power = self.rng.choice(["2", "3", "-1", "0.5", "-0.5", "1", "0", "7", "1.5", "-2"])
        return self.rng.choice(
            [
                f"({a} + {b})",
                f"({a} - {b})",
                f"{self.squash(f'({a})')}*({b})",
                f"({a})/(abs({b}) + 1)",
                f"sqrt(abs({a}))",
                f"rsqrt(abs({a}) + 0.5)",
                f"exp(-abs({a}))",
                f"log(abs({a}) + 1)",
                f"-({a})",
                f"abs({a})",
                f"sign({leaf} - 0.37)",
                f"min({a}, {b})",
                f"max({a}, {b}, {c})",
                f"clamp({a}, -2, abs({c}))",
                f"clamp({a}, -1/t, 3)",
                f"where({condition(depth - 1)}, {a}, {b})",
                f"ema({a}, {b}, 0.9)",
                f"ema({a}, {b}, 1/(1 + abs({c})))",
                f"(abs({self.squash(f'({a})')}) + 0.5)**{power}",
                f"(abs({self.squash(f'({a})')}) + 0.5)**(1/(1 + abs({c})))",
                f"0.9**t*({a})",
                f"({a})/(1 - 0.9**t)",
                f"lr_like*({a})".replace("lr_like", self.rng.choice(["0.1", "2", "0.5"])),
            ]
        )

    def host_condition(self, depth: int) -> str:
        plain = f"t {self.rng.choice(['==', '!=', '<', '<=', '>', '>='])} {self.rng.choice(['1', '2', '1.5'])}"
        if depth == 0:
            return plain
        other = self.rng.choice(
            [
                plain,
                "1 <= t < 3",
                f"t*({self.host_value(1)}) > 0.4137",
                f"{self.rng.choice(self.host)} < 0.4137",
                *self.conditions,
            ]
        )
        return self.logic(plain, other)

    def element_condition(self, depth: int) -> str:
        plain = (
            f"{self.rng.choice([*self.element, *self.all_vectors()])} {self.rng.choice(['<', '<=', '>', '>='])} "
            f"{self.rng.choice(['0.3719', '-1.137'])}"
        )
        if depth == 0:
            return plain
        return self.logic(plain, self.rng.choice([self.host_condition(1), "-0.737 < g < 0.537", *self.conditions]))

    def logic(self, a: str, b: str) -> str:
        forms = [f"{a}", f"not ({a})", f"({a}) and ({b})", f"({a}) or ({b})", f"not ({b}) and ({a})", f"({a}) == ({b})"]
        return self.rng.choice([*forms, f"({a}) != ({b})", f"where({a}, {b}, {a})"])
