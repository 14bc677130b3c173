"""Every codebook on every bfloat16 number: codes, block scalars and decoded values of a backend against the reference.

Run as a process where Triton interprets by tests/test_codebooks.py, which imports it for the other backends.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optgen.build import Built, build
from optgen.ir.nodes import Storage
from optgen.reference.interpreter import Reference
from optgen.storage.codebooks import CODEBOOKS
from optgen.verify import imported

BLOCK = 128
NF4 = (  # QLoRA's "normal float" (arXiv 2305.14314, appendix E)
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
TABLES = (
    (Storage("table", 4, BLOCK, levels=NF4), False),
    (Storage("table", 3, BLOCK, levels=(-0.5, -0.1, 0.0, 0.02, 0.3, 1.0)), False),
    (Storage("table", 4, BLOCK, levels=(0.0, 0.001, 0.01, 0.1, 0.5, 1.0)), True),
    (Storage("table", 1, BLOCK, levels=(0.25, 1.0)), True),
)
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "linear": ({}, {"zero": True}),
    "power": ({}, {"power": 3}, {"zero": True}, {"power": 3, "zero": True}),
}


def fixed_levels() -> Iterator[tuple[Storage, bool]]:
    """Every codebook with fixed levels, with all its options, signed and unsigned."""
    for name in ("dynamic_exponent", "linear", "power", "companded", "e4m3", "e5m2"):
        for bits, options, unsigned in itertools.product(CODEBOOKS[name].bits, OPTIONS.get(name, ({},)), (False, True)):
            if bits > 1 or unsigned or "zero" not in options:
                yield Storage(name, bits, BLOCK, **options), unsigned
    yield from TABLES


def every_storage(unsigned: bool) -> list[Storage]:
    """All of them with each rounding."""
    storages = [storage for storage, kind in fixed_levels() if kind == unsigned]
    storages += [Storage("log", bits, BLOCK) for bits in CODEBOOKS["log"].bits if unsigned]
    both = [replace(storage, rounding=rounding) for storage in storages for rounding in ("nearest", "stochastic")]
    return both + [replace(storage, rounding="unbiased") for storage in storages if storage.codebook == "log"]


def bfloat16_values(unsigned: bool) -> np.ndarray:
    """All bfloat16 numbers from -1 to 1, in blocks whose scale is 1."""
    values = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 1) & ((values >= 0) | (not unsigned))]
    padded = np.concatenate([values, np.zeros(-len(values) % (BLOCK - 1), dtype=np.float32)]).reshape(-1, BLOCK - 1)
    return np.concatenate([np.ones((len(padded), 1), dtype=np.float32), padded], axis=1)


def made(storages: list[Storage], unsigned: bool) -> Built:
    """An optimizer that stores the gradient in every way; `d` takes what was decoded."""
    lines = ["name: Copies", "summary: Copies the gradient.", "hyper: {lr: {default: 0.0}}", "state:"]
    update = []
    for i, s in enumerate(storages):
        options = [f"codebook: {s.codebook}", f"bits: {s.bits}", f"block: {s.block}", f"rounding: {s.rounding}", "min_size: 0"]
        options += [f"power: {s.power}"] if s.power else []
        options += ["zero: true"] if s.zero else []
        options += [f"levels: {list(s.levels)}"] if s.levels else []
        sign = "unsigned" if unsigned else "signed"
        lines += [f"  m{i}: {{like: p, sign: {sign}, storage: {{{', '.join(options)}}}}}", f"  d{i}: {{like: p}}"]
        update += [f"  d{i} = where(g > 3, d{i}, m{i})", f"  m{i} = g", f"  p = p - lr*d{i}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.yaml"
        path.write_text("\n".join([*lines, "update: |", *update]), encoding="utf-8")
        return build(str(path))


def differences(storages: list[Storage], unsigned: bool, **options: Any) -> list[str]:
    """What differs between a backend and the reference after two steps, bit for bit."""
    built = made(storages, unsigned)
    x = torch.from_numpy(bfloat16_values(unsigned))
    p = torch.nn.Parameter(torch.zeros_like(x))
    p.grad = x
    reference = Reference(built.program)
    with imported(built) as optimizer_class:
        optimizer = optimizer_class([p], **options)
        expected: dict[str, np.ndarray] = {}
        for _ in range(2):
            optimizer.step()
            state = {key: value.numpy() for key, value in optimizer.state[p].items()}
            _, expected = reference.step(p.detach().numpy(), x.numpy(), {**expected, **_key(state)}, optimizer.param_groups[0])
    found = []
    for key, value in expected.items():
        wrong = int(np.count_nonzero(state[key] != value))
        if wrong:
            index = int(key[1:].split(".")[0])
            found.append(f"{storages[index]} {key}: {wrong} of {value.size} differ")
    return found


def _key(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value for key, value in state.items() if key == "rounding_key"}


def main() -> None:
    """Compare Triton with the reference, and say how many storages were equal."""
    count = 0
    for unsigned in (False, True):
        storages = every_storage(unsigned)
        found = differences(storages, unsigned, backend="triton")
        if found:
            sys.exit("\n".join(found))
        count += len(storages)
    print(count)


if __name__ == "__main__":
    main()
