"""Random specs: valid ones that use the whole language, and damaged ones that need not be specs at all."""

from __future__ import annotations

import random
from collections.abc import Callable

from optgen.ir.names import is_reserved

__all__ = ["damaged", "random_spec"]

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
        self.conditions: list[str] = []  # static
        self.lines: list[str] = []

    def spec(self) -> str:
        hypers = self.hypers()
        states = self.states()
        for _ in range(self.rng.randint(1, 6)):
            self.statement("", 0)
        everything = [*self.element[2:], *self.numbers, *self.host[1:]]
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

    def bounded(self, name: str, unsigned: bool) -> str:
        value = self.squash(f"({self.element_value(2)})")
        return f"0.5*{name} + {value}**2" if unsigned else f"ema({name}, {value}, 0.5)"

    def squash(self, value: str) -> str:
        return f"{value}/(1 + abs({value}))"

    def statement(self, indent: str, depth: int) -> None:
        kinds: list[Callable[[str, int], None]] = [self.local, self.local, self.again, self.branch, self.flag]
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

    def again(self, indent: str, depth: int) -> None:  # noqa: ARG002
        """Assign once more to a local."""
        assigned = {line.split(" = ")[0].strip() for line in self.lines if " = " in line}
        declared = [name for name in (*self.host, *self.element[2:]) if name in assigned]
        if not declared:
            return
        name = self.rng.choice(declared)
        value = self.host_value(2) if name in self.host else self.element_value(2)
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
        self.lines.append(f"{indent}{name} = {self.host_condition(2) if host else self.element_condition(2)}")
        target = next(self.names)
        self.lines.append(f"{indent}{target} = where({name}, {self.element_value(1)}, {self.element_value(1)})")
        self.element.append(target)
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
        leaf = self.rng.choice([*self.element, *self.element, *self.numbers, *self.host, self.constant()])
        if depth == 0 or self.rng.random() < 0.15:
            return leaf
        if self.rng.random() < 0.08:
            return self.reduction(depth)
        return self.combine(self.element_value, self.element_condition, depth, leaf)

    def reduction(self, depth: int) -> str:
        """One number of all elements; g is among them, so that there are some."""
        value = self.squash(f"(g + {self.element_value(depth - 1)})")
        word = self.rng.choice(["mean", "rms", "max", "min", "l1", "l2", "sum"])
        return f"{word}({value})" if word in ("mean", "rms", "max", "min") else f"{word}({value})/(1 + l1({value}))"

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
            f"{self.rng.choice(self.element)} {self.rng.choice(['<', '<=', '>', '>='])} {self.rng.choice(['0.3719', '-1.137'])}"
        )
        if depth == 0:
            return plain
        return self.logic(plain, self.rng.choice([self.host_condition(1), "-0.737 < g < 0.537", *self.conditions]))

    def logic(self, a: str, b: str) -> str:
        forms = [f"{a}", f"not ({a})", f"({a}) and ({b})", f"({a}) or ({b})", f"not ({b}) and ({a})", f"({a}) == ({b})"]
        return self.rng.choice([*forms, f"({a}) != ({b})", f"where({a}, {b}, {a})"])


TOKEN_TEXT = """
: :: - -- --- ... , [ ] { } ( ) & * ! | |- |2 |9 > ' " # % @ ` ~ \\ / // ** ^ = == := -> <<: ? &a *a !!python/object: !t
null true True no on 1e-8 1e400 1e-400 0x1F 1_000 10**10**10 9**9**9**9 1/0 0**-1 -1 nan inf 1j "" '' None lambda yield await
if else: for while def class import return pass del in is not and or x[0] p.grad f"{p}" (p:=1) [x for x in g] *g **g a<b<c
p g t lr m v beta1 self __class__ extends: hyper: state: update: name: when: init: storage: like: shape: scalar default: names:
choices: codebook: bits: block: log linear 128 0 -0 0.5 sqrt( ema( where( max( min( bits( half_gap( clamp( \t \r \x00 \x07
\ufeff \u200b \u202e \u2028 \x85 \xa0 é β 大 🙂 ÷ ² ١ "\\x00" "\\ud800" "\\U00110000" '''  \"\"\" {{ }} {% %} {# \\N{DASH} \\u
"""
TOKENS = TOKEN_TEXT.replace("\n", " ").split(" ")


def damaged(text: str, seed: int) -> bytes:
    """`text` after some random damage."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 4)):
        text = rng.choice(DAMAGES)(text, rng)
    data = text.encode("utf-8", errors="surrogatepass")
    if rng.random() < 0.1:
        place = rng.randint(0, len(data))
        data = data[:place] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 3))) + data[place:]
    return data


def _insert(text: str, rng: random.Random) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + rng.choice(TOKENS) + text[place:]


def _replace_word(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice([*TOKENS, rng.choice(words)])
    return " ".join(words)


def _cut(text: str, rng: random.Random) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + text[place + rng.choice([1, 1, 2, 5, 30]) :]


def _repeat(text: str, rng: random.Random) -> str:
    place, length = rng.randint(0, len(text)), rng.choice([1, 3, 10, 60])
    return text[:place] + text[place : place + length] * rng.choice([2, 3, 30]) + text[place + length :]


def _lines(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.5:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines.insert(other, lines[one])
    return rng.choice(["\n", "\n", "\r\n", "\r"]).join(lines)


DAMAGES = (_insert, _insert, _replace_word, _replace_word, _cut, _repeat, _lines)
