"""Disassembled GPU code -> its control-flow graph, and the path through it that the bulk of a tensor takes.

Every kernel has a branch for tiles that lie whole inside a tensor, the bulk, and one for the others, whose accesses are
masked: narrow, and predicated. The bulk's path is the one that moves most bytes by whole accesses of 128 bits; of such paths,
on an NVIDIA GPU, the one that moves most bytes at all, which takes the stores that one lane does for its block; of these the
one with the fewest instructions, which avoids the slow ways of divisions, for numbers near the ends of float32's range. AMD's
compiler lets both branches meet before the end, so that the tail seems to follow the bulk: it must not win by tables it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

__all__ = ["Instruction", "PathError", "access_bits", "bulk_path", "parse_amdgcn", "parse_sass"]

WIDE = 128  # bits of a whole access
CALL_COST = 1000  # more instructions than what can be done without a call
SASS_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
SASS_LABEL = re.compile(r"^\s*(\.L_x_\w+|\$[\w$]+):")
AMD_LINE = re.compile(r"^\s+((?:s|v|ds|global|buffer|flat|scratch)_\w+)([^;]*)")
AMD_LABEL = re.compile(r"^(\.LBB\w+):")
INDIRECT = ("BRX", "BRXU", "JMX", "JMXU", "s_setpc_b64", "s_swappc_b64", "s_call_b64")
SASS_BITS = {"128": 128, "64": 64, "U8": 8, "S8": 8, "U16": 16, "S16": 16}
AMD_BITS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "short": 16, "ushort": 16, "sshort": 16}
AMD_BITS |= {"b128": 128, "b96": 96, "b64": 64, "b32": 32, "b16": 16, "u16": 16, "i16": 16}


class PathError(ValueError):
    """Code whose path cannot be told: a loop, a call or a computed jump; the message says which."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its full mnemonic, whether a predicate guards it, where it may go on.

    `jump` is the label that it may go to, `falls` whether it may go on to the next; `calls` says that it calls a function.
    """

    operation: str
    labels: tuple[str, ...] = ()
    guarded: bool = False
    jump: str | None = None
    falls: bool = True
    calls: bool = False


@dataclass(frozen=True)
class _Block:
    """Instructions that run one after another, and the numbers of the blocks that may follow."""

    code: tuple[Instruction, ...]
    following: tuple[int, ...]


def parse_sass(text: str) -> list[Instruction]:
    """The instructions of what nvdisasm prints, without NOPs."""
    found = []
    labels: list[str] = []
    for line in text.splitlines():
        if label := SASS_LABEL.match(line):
            labels.append(label.group(1))
        elif (match := SASS_LINE.search(line)) and match.group(2) != "NOP":
            found.append(_sass(match.group(2), match.group(3), tuple(labels), guarded=match.group(1) is not None))
            labels = []
    return found


def _sass(operation: str, operands: str, labels: tuple[str, ...], *, guarded: bool) -> Instruction:
    name = operation.split(".", 1)[0]
    found = re.search(r"`\(([^)]+)\)", operands)
    target = found.group(1) if found else "?"
    if name == "CALL" and target.startswith(".L"):  # a way out of a loop, not a function
        return Instruction(operation, labels, guarded, target, guarded)
    if name in ("BRA", "JMP"):
        conditional = guarded or operation != name or re.match(r"!?U?P\d", operands) is not None
        return Instruction(operation, labels, guarded, target, conditional)
    if name in ("EXIT", "RET"):
        return Instruction(operation, labels, guarded, falls=guarded)
    if name in INDIRECT:
        return Instruction(operation, labels, guarded, "?", falls=False)
    return Instruction(operation, labels, guarded, calls=name == "CALL")


def parse_amdgcn(text: str) -> list[Instruction]:
    """The instructions of an assembly for an AMD GPU.

    Some lane is always at work in the bulk: jumps where there is none are never taken, those where there is one always.
    """
    found = []
    labels: list[str] = []
    for line in text.splitlines():
        if label := AMD_LABEL.match(line):
            labels.append(label.group(1))
        elif match := AMD_LINE.match(line):
            found.append(_amd(match.group(1), match.group(2).strip(), tuple(labels)))
            labels = []
    return found


def _amd(operation: str, operands: str, labels: tuple[str, ...]) -> Instruction:
    if operation in ("s_branch", "s_cbranch_execnz"):
        return Instruction(operation, labels, jump=operands, falls=False)
    if operation.startswith("s_cbranch") and operation != "s_cbranch_execz":
        return Instruction(operation, labels, jump=operands)
    if operation == "s_endpgm":
        return Instruction(operation, labels, falls=False)
    if operation in INDIRECT:
        return Instruction(operation, labels, jump="?", falls=False)
    return Instruction(operation, labels)


def access_bits(operation: str, *, shared: bool = False) -> int:
    """The bits that a lane moves by an access to global memory, or to shared memory; 0 for other instructions."""
    if operation[0].islower():
        starts = ("ds_read", "ds_write") if shared else ("global_", "buffer_", "flat_")
        if not operation.startswith(starts) or "atomic" in operation or operation.startswith("buffer_inv"):
            return 0
        twice = 2 if operation.startswith(("ds_read2", "ds_write2")) else 1
        return twice * next((AMD_BITS[word] for word in operation.split("_") if word in AMD_BITS), 8)
    name, *suffixes = operation.split(".")
    if name not in (("LDS", "STS", "LDSM", "STSM") if shared else ("LDG", "STG", "LD", "ST")):
        return 0
    if name in ("LDSM", "STSM"):
        return 32 * next((int(suffix) for suffix in suffixes if suffix in ("2", "4")), 1)
    return next((bits for word, bits in SASS_BITS.items() if word in suffixes), 32)


def bulk_path(code: Sequence[Instruction], *, one_turn: bool = False) -> list[Instruction]:
    """The instructions that a thread runs in the bulk, in order.

    Args:
        code: all of a kernel.
        one_turn: whether loops are counted for one turn, such as a loop over tiles, instead of being refused.

    Raises:
        PathError: if a loop, a call or a computed jump lies on the path: how many instructions it runs is not known.
    """
    blocks = _blocks(code)
    is_amd = any(one.operation[0].islower() for one in code)
    telling = _telling({one.operation for one in code})
    best: dict[int, tuple[tuple[int, int, int], int | None]] = {}
    for number in _order(blocks):
        own = _worth(blocks[number].code, telling, lanes_branch=not is_amd)
        ways: list[tuple[tuple[int, int, int], int | None]] = [(best[n][0], n) for n in blocks[number].following if n in best]
        if blocks[number].following and not ways:  # it leads back alone, as the end of a loop that is left before
            continue
        worth, following = max(ways, default=((0, 0, 0), None), key=lambda way: way[0])
        best[number] = tuple(map(sum, zip(own, worth, strict=True))), following  # type: ignore[assignment]
    if 0 not in best:
        raise PathError("the kernel runs through a loop that nothing leaves")
    path: list[Instruction] = []
    place: int | None = 0
    while place is not None:
        _refuse(blocks, place, one_turn=one_turn)
        path += blocks[place].code
        place = best[place][1]
    return path


def _telling(operations: Set[str]) -> Set[str]:
    """The whole accesses that tell the bulk from the tail, which reads tables too: on an AMD GPU the stores, if there are any."""
    whole = {operation for operation in operations if access_bits(operation) == WIDE}
    return {operation for operation in whole if "_store_" in operation} or whole


def _worth(code: Sequence[Instruction], telling: Set[str], *, lanes_branch: bool) -> tuple[int, int, int]:
    """By what the bulk's path is told from others: whole accesses, bits of all, and few instructions."""
    whole = sum(one.operation in telling and not one.guarded for one in code)
    moved = sum(access_bits(one.operation) for one in code) if lanes_branch else 0
    return whole, moved, -len(code) - CALL_COST * sum(one.calls for one in code)


def _blocks(code: Sequence[Instruction]) -> list[_Block]:
    ends = [n + 1 for n, one in enumerate(code) if one.jump or not one.falls or (n + 1 < len(code) and code[n + 1].labels)]
    starts = [0, *(end for end in ends if end < len(code))]
    numbers = {label: number for number, start in enumerate(starts) for label in code[start].labels}
    blocks = []
    for number, start in enumerate(starts):
        own = tuple(code[start : starts[number + 1] if number + 1 < len(starts) else len(code)])
        blocks.append(_Block(own, tuple(_following(own[-1], number, numbers, len(starts)))))
    return blocks


def _following(last: Instruction, number: int, numbers: Mapping[str, int], count: int) -> Iterator[int]:
    if last.falls and number + 1 < count:
        yield number + 1
    if last.jump is not None and last.jump in numbers:
        yield numbers[last.jump]


def _order(blocks: Sequence[_Block]) -> Iterator[int]:
    """The blocks that can be reached, each behind all that may follow it but those that lead back to it."""
    seen, stack = {0}, [(0, iter(blocks[0].following))]
    while stack:
        number, following = stack[-1]
        other = next((other for other in following if other not in seen), None)
        if other is None:
            yield number
            stack.pop()
        else:
            seen.add(other)
            stack.append((other, iter(blocks[other].following)))


def _refuse(blocks: Sequence[_Block], number: int, *, one_turn: bool) -> None:
    last = blocks[number].code[-1]
    if any(one.calls for one in blocks[number].code):
        raise PathError("the bulk calls a function: how many instructions it runs is not known")
    if last.jump and not blocks[number].following:
        raise PathError(f"the bulk jumps by {last.operation} to an unknown place")
    reached, new = set(blocks[number].following), list(blocks[number].following)
    while new:
        more = [other for other in blocks[new.pop()].following if other not in reached]
        reached.update(more)
        new += more
    if number in reached and not one_turn:
        raise PathError("the bulk runs through a loop: how many turns it takes is not known")
