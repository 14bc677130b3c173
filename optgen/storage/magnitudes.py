"""Codecs of codebooks that number magnitudes: sign, scale and stochastic rounding are the same for all of them.

Level n is the n-th smallest magnitude. Signed codes count magnitudes upwards and downwards from the code of zero, or,
where zero is no level, from the middle between two codes; `sign_bit` keeps sign and magnitude apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optgen.ir.nodes import Steps, Values
from optgen.storage.codec import BlockScalar, Codec, Formula
from optgen.storage.lookup import MOST_LEVELS, borders, decode, search
from optgen.storage.scales import DRAW, absmax, inverse, signed_absmax

__all__ = ["DECODE", "Numbers", "bisection", "magnitude_codec", "nearest_code", "unscaled", "with_signs"]

DECODE = Formula("decode", ("code", "scale"), "value = unscaled(code)*scale", "The value of each code.")


@dataclass(frozen=True)
class Numbers:
    """Which magnitudes there are, and which code each of them has."""

    first: int  # the number of the smallest
    last: int  # the number of 1
    signed: bool = False
    lowest: int | None = None  # the number of the largest negative magnitude, where -1 is no level
    middle: int = 0  # the code of the smallest magnitude without a minus sign, if signed
    smallest: float = 0.0  # the smallest magnitude; zero has one code for both signs
    sign_bit: int | None = None  # the code of -0, where the sign is a bit of its own


def magnitude_codec(
    level: str,
    nearest: str,
    numbers: Numbers,
    *,
    bits: int,
    random: bool,
    published: bool = False,
    bounded: bool = False,
    levels: Sequence[float] = (),
    steps: Sequence[float] = (),
) -> Codec:
    """A codec from the formulas of its magnitudes on a scale of 1.

    Args:
        level: value of magnitude `n`. A product must not be its last operation: a difference of two follows.
        nearest: magnitude nearest to `y`, 0 <= y <= 1; of numbers above the last one, the last is taken.
        numbers: the magnitudes and their codes.
        bits: of a code.
        random: whether rounding is stochastic.
        published: whether a block whose largest magnitude is negative shrinks where -1 is no level, as published;
            otherwise the scale takes that value's sign.
        bounded: whether `nearest` takes negative numbers too, for the smallest magnitude, and gives no number above the last.
        levels: of all codes, in their order, on a scale of 1. Where they are few, they are looked up, and a value goes to
            the nearest of them.
        steps: the numbers where `nearest` grows by one; empty if a table of it would be of no use.
    """
    turned = numbers.lowest is not None and not published
    scale = signed_absmax() if turned else absmax(not numbers.signed, published)
    doc = "The value of largest magnitude, with its sign." if turned else "The largest magnitude of each block."
    few = 0 < len(levels) <= MOST_LEVELS
    every = borders(levels) if few else _with_negative(steps, numbers)
    code = search(every, "y") if few else _nearest_code(numbers, bounded)
    encode = f"{inverse(signed=turned)}\nscaled = x*inverse\n"
    encode += _random_code(numbers) if random else "code = nearest_code(scaled)"
    formulas = (
        Formula("level", ("n",), level, "The value of magnitude n on a scale of 1.", table=Values(numbers.last + 1)),
        Formula("nearest", ("y",), nearest, "The magnitude nearest to y, 0 <= y <= 1.", table=_steps(steps)),
        unscaled(decode(levels) if few else _decode(numbers), 2**bits),
        nearest_code(code, every),
        Formula("scale", ("x",), scale, doc),
        DECODE,
        Formula("encode", ("x", "scale", "u") if random else ("x", "scale"), encode, "The code of each value."),
    )
    return Codec((BlockScalar("scale"),), formulas, random)


def unscaled(text: str, count: int) -> Formula:
    """The function of `code` that has the levels as its values."""
    return Formula("unscaled", ("code",), text, "The value of each code on a scale of 1.", table=Values(count))


def nearest_code(text: str, borders: Sequence[float]) -> Formula:
    """The function of `y` that has codes as its values; `borders` are where it grows, empty if it does not always."""
    return Formula("nearest_code", ("y",), text, "The code of the level nearest to y.", table=_steps(borders))


def _steps(borders: Sequence[float]) -> Steps | None:
    return Steps(tuple(borders)) if borders else None


def _with_negative(steps: Sequence[float], numbers: Numbers) -> list[float]:
    """The borders of codes, from those of magnitudes."""
    if not numbers.signed or numbers.sign_bit is not None:
        return list(steps) if not numbers.signed else []
    count = len(steps) if numbers.lowest is None else numbers.lowest - numbers.first
    zero = [] if numbers.smallest == 0 else [0.0]
    return [*(-step for step in reversed(steps[:count])), *zero, *steps]


def bisection(count: int, condition: str, *lines: str) -> str:
    """Formula text for the largest n below `count` with this condition on `next`, 0 if there is none.

    `lines` go before each condition; it must hold for all numbers up to some n and for none above.
    """
    text = ["n = 0"]
    for i in reversed(range((count - 1).bit_length())):
        text += [f"next = n + {2**i}", *lines, f"n = where({condition}, next, n)"]
    return "\n".join(text)


def with_signs(magnitudes: list[float]) -> list[float]:
    """The levels with these magnitudes, ascending; zero has one."""
    return [-value for value in reversed(magnitudes) if value != 0] + magnitudes


def _decode(numbers: Numbers) -> str:
    if not numbers.signed:
        offset = f" + {numbers.first}" if numbers.first else ""
        return f"value = level(code{offset})"
    if numbers.sign_bit is not None:
        magnitude = f"magnitude = level(bit_and(code, {numbers.sign_bit - 1}))"
        return f"{magnitude}\nvalue = where(code >= {numbers.sign_bit}, -magnitude, magnitude)"
    size = "abs(offset)" if numbers.smallest == 0 else "where(offset < 0, -1 - offset, offset)"
    return f"offset = code - {numbers.middle}\nmagnitude = level({size})\nvalue = where(offset < 0, -magnitude, magnitude)"


def _nearest_code(numbers: Numbers, bounded: bool) -> str:
    last, lines = _last(numbers, "y")
    if bounded and not numbers.signed:
        return "\n".join(["n = nearest(min(y, 1.0))", *_signed(numbers, "y")])
    return "\n".join([*lines, _size(numbers, "y"), f"n = min(nearest(size), {last})", *_signed(numbers, "y")])


def _random_code(numbers: Numbers) -> str:
    last, lines = _last(numbers, "scaled")
    lines += [
        _size(numbers, "scaled"),
        f"n = min(nearest(size), {last})",
        f"n = where(level(n) > size, {'n - 1' if numbers.smallest == 0 else f'max(n - 1, {numbers.first})'}, n)",
        "below = level(n)",
        f"gap = level(min(n + 1, {last})) - below",
        f"n = min(where(size - below > real({DRAW})*1.52587890625e-05*gap, n + 1, n), {last})",
    ]
    if numbers.signed and numbers.sign_bit is None and numbers.smallest != 0:  # between the two smallest, the sign is rounded
        turns = f"{numbers.smallest!r} - size > real({DRAW})*{numbers.smallest / 2**15!r}"
        lines += ["negative = where(scaled < 0.0, 1, 0)", f"negative = where({turns}, 1 - negative, negative)"]
        return "\n".join([*lines, _beside(numbers, "negative != 0")])
    return "\n".join([*lines, *_signed(numbers, "scaled")])


def _size(numbers: Numbers, name: str) -> str:
    """The magnitude; where no level is negative, the nearest to what is negative is the lowest."""
    magnitude = f"abs({name})" if numbers.signed else f"max({name}, 0.0)"
    return f"size = min({magnitude}, 1.0)"


def _last(numbers: Numbers, name: str) -> tuple[str, list[str]]:
    """The largest magnitude of the sign of `name`, and the lines that tell it."""
    if numbers.lowest is None:
        return str(numbers.last), []
    return "last", [f"last = where({name} < 0.0, {numbers.lowest}, {numbers.last})"]


def _signed(numbers: Numbers, name: str) -> list[str]:
    """The code of magnitude `n` with the sign of `name`."""
    if not numbers.signed:
        return [f"code = n - {numbers.first}" if numbers.first else "code = n"]
    if numbers.sign_bit is not None:
        return [f"code = where({name} < 0.0, n + {numbers.sign_bit}, n)"]
    return [_beside(numbers, f"{name} < 0.0")]


def _beside(numbers: Numbers, negative: str) -> str:
    """The code on either side of the middle."""
    down = numbers.middle if numbers.smallest == 0 else numbers.middle - 1
    return f"code = where({negative}, {down} - n, {numbers.middle} + n)"
