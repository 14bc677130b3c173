"""Damaged specs: texts that need not be specs at all."""

from __future__ import annotations

import random

__all__ = ["damaged"]

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
