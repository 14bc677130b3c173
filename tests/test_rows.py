"""Rules of rows, columns and matrices: equal to the reference in every backend, whatever shares the launch and however tensors lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optgen import in_memory
from optgen.build import build
from optgen.reference.compare import Case, compare
from optgen.verify import Outcome, imported
from tests.conftest import interpreted

HEAD = "name: Rule\nsummary: A rule of rows and columns.\n"
ROW, COL, MATRIX = "[..., rows, 1]", "[..., 1, cols]", "[..., 1, 1]"
FACTORED = f"""
hyper:
  lr: {{default: 1e-2, min: 0}}
  rho: {{default: 0.9}}
  clip: {{default: 1.0}}
state:
  r: {{shape: {ROW}, sign: unsigned}}
  c: {{shape: {COL}, sign: unsigned}}
update: |
  r = ema(r, mean(g**2 + 1e-30, over=cols), rho)
  c = ema(c, mean(g**2 + 1e-30, over=rows), rho)
  u = g * rsqrt(r / mean(r, over=rows)) * rsqrt(c)
  u = u / max(1, rms(u)/clip)
  p = p - max(1e-3, rms(p)) * min(lr, 1/sqrt(t)) * u
"""
EVERY = """
update: |
  a = mean(g, over=cols) + rms(g, over=cols) + max(g, over=cols) - min(p, over=cols)
  a = a + sum(g, over=cols)/(1 + l1(g, over=cols)) + l2(g, over=cols)/(1 + l1(p, over=cols))
  b = mean(g, over=rows) + rms(g, over=rows) + max(g, over=rows) - min(p, over=rows)
  b = b + sum(g, over=rows)/(1 + l1(g, over=rows)) + l2(g, over=rows)/(1 + l1(p, over=rows))
  c = mean(g, over=(rows, cols)) + rms(g, over=(rows, cols)) + max(g, over=(rows, cols)) - min(p, over=(rows, cols))
  c = c + sum(g, over=(rows, cols))/(1 + l1(g, over=(rows, cols))) + l2(g, over=(rows, cols))/(1 + l1(p, over=(rows, cols)))
  p = p - 0.01*(a*b + c)/(1 + abs(a*b + c))
"""
CHAINS = f"""
state:
  k: {{shape: {MATRIX}}}
update: |
  a = mean(abs(g), over=rows)
  b = max(g/(a + 0.1), over=cols)
  d = rms(g*b/(1 + abs(g*b)), over=rows)
  k = ema(k, mean(b/(1 + abs(b)), over=rows) + max(d, over=cols), 0.5)
  e = sum(a)/(1 + l1(d)) + min(b/(1 + abs(b)) + k)
  p = p - 0.01*(g/(1 + a)*b/(1 + abs(b)) + d + k + e/(1 + abs(e)))
"""
CONDITIONS = f"""
hyper:
  flag: {{default: false}}
state:
  r: {{shape: {ROW}}}
  c: {{shape: {COL}, when: flag}}
  s: {{shape: tensor}}
update: |
  up = mean(g, over=cols) > 0.01234
  across = max(p, over=rows) > 0.7654
  x = where(up and not across, g/(1 + abs(g)), 0.5*p)
  h = where(up, rms(x, over=cols), 0.3)
  if flag:
    c = ema(c, rms(x, over=rows), 0.9)
    h = h + mean(c, over=cols)
    if t > 1:
      h = 0.5*h
  r = max(r, h)
  if t == 2:
    r = 0.5*r
  s = ema(s, sum(r)/(1 + l1(r)), 0.5)
  if flag:
    x = x + where(c > 0.4321 or up, r, s)
  p = p - 0.01*(x/(r + 1) + s)
"""
STARTS = f"""
state:
  r:
    shape: {ROW}
    init: mean(g**2, over=cols)
  c:
    shape: {COL}
    init: max(abs(p), over=rows)
  k:
    shape: {MATRIX}
    init: 0.5
  n: {{shape: tensor, init: mean(g)}}
  m: {{like: p, storage: {{codebook: linear, bits: 8, block: 64, min_size: 0}}}}
update: |
  r = max(r, mean(g**2, over=cols))
  c = ema(c, max(abs(g), over=rows), 0.9)
  k = ema(k, rms(r, over=rows), 0.5)
  n = ema(n, mean(c), 0.5)
  m = ema(m, g/(1 + abs(g)), 0.9)
  p = p - 0.01*(m/(1 + sqrt(r)) + c/(1 + c) + k/(1 + k) + n/(1 + abs(n)))
"""
ORDERS = f"""
hyper:
  flag: {{default: false}}
state:
  r: {{shape: {ROW}, init: 0.75}}
  c: {{shape: {COL}}}
update: |
  p = p - 0.01*r*g
  old = r
  n = rms(g, over=cols)
  u = g/(n + 1)
  n = max(g, over=cols)/(1 + abs(max(g, over=cols))) + 3
  if flag:
    n = n*0.5
  r = ema(r, n, 0.5)
  w = abs(u)
  x = l1(w, over=rows)
  w = 0.5*w
  y = max(w, over=rows)
  c = c + y/(x + 1)
  p = p - 0.01*(u*n + old + w/(x + y + 1) + c)
"""
AGAIN = """
hyper:
  flag: {default: false}
update: |
  a = sum(g, over=cols)
  s = sum(a)
  a = a + g**2
  a = rms(a/(1 + a), over=rows)
  b = max(a)
  a = 0.5
  if flag:
    a = rms(g, over=cols)
    b = b + max(a)
    a = rms(a*g, over=rows)
  else:
    a = rms(p, over=rows)
  p = p - 0.01*(s/(1 + abs(s)) + a/(1 + a) + b/(1 + b))
"""
SIDES = """
hyper: {flag: {default: false}}
update: |
  if flag:
    n = mean(g, over=rows)
  else:
    n = mean(p, over=rows)
  k = 0.5*mean(g, over=cols)
  if flag:
    k = mean(p, over=cols)
  p = p - 0.01*(g + n*k)
"""
RULES = {
    "sides": SIDES,
    "again": AGAIN,
    "factored": FACTORED,
    "every": EVERY,
    "chains": CHAINS,
    "conditions": CONDITIONS,
    "starts": STARTS,
    "orders": ORDERS,
}
SHAPES = ((1, 1), (5, 7), (33, 129), (40, 300), (2, 3, 70, 130), (3, 1, 256), (257, 1), (1, 5000), (64, 2049))
FEW = ((5, 7), (33, 129), (3, 1, 256))
SMALL = ((1, 1), (33, 129), (2, 2, 5, 3), (32, 128))  # for the interpreter: whole tiles and others


def optimizer_class(path: Path) -> Any:
    """The class of a spec; mypy knows nothing of its arguments."""
    return in_memory.optimizer_class(path)


def spec(name: str, folder: Path) -> Path:
    """The file of one of RULES."""
    path = folder / f"{name}.yaml"
    path.write_text(HEAD + RULES[name].lstrip(), encoding="utf-8")
    return path


def equal_the_reference(
    path: Path,
    backend: str,
    shapes: tuple[tuple[int, ...], ...],
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
    steps: int = 3,
    **options: Any,
) -> None:
    """Of every dtype, with flags off and on."""
    built = build(str(path))
    flags = [hyper.name for hyper in built.program.hypers if hyper.name == "flag"]
    with imported(built) as made_class:
        for dtype in dtypes:
            for hypers in ({}, *({flag: True} for flag in flags)):
                case = Case(f"{path.stem} {dtype} {hypers}", shapes, dtype, steps, hypers)
                difference = compare(made_class, built.program, case, backend=backend, **options)
                assert Outcome(backend, case, difference, 0.0).passed, (case, difference)


def stepped(optimizer: Any, params: Sequence[Tensor], steps: int = 3) -> list[Tensor]:
    """Parameters after some steps, then states; gradients depend on a parameter's shape and the step alone."""
    for step in range(steps):
        for p in params:
            values = torch.randn(p.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            p.grad = torch.empty_like(p).copy_(values)
        optimizer.step()
    return [*(p.detach() for p in params), *(value for p in params for value in kept(optimizer, p))]


def kept(optimizer: Any, p: Tensor) -> list[Tensor]:
    """The state of a parameter, without the key that its name decides."""
    return [value for key, value in optimizer.state.get(p, {}).items() if key != "rounding_key"]


def parameters(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype] = (torch.float32,)) -> list[torch.nn.Parameter]:
    """Those of one shape start alike, whatever the others are."""
    made = []
    for shape in shapes:
        for dtype in dtypes:
            values = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)
            made.append(torch.nn.Parameter(values.to(dtype)))
    return made


def alike(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, left, right)) and len(left) == len(right)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_rows_equal_the_reference(backend: str, name: str, tmp_path: Path) -> None:
    equal_the_reference(spec(name, tmp_path), backend, SHAPES)


def test_verifying_tells_of_rows_and_columns_of_zeros(tmp_path: Path) -> None:
    for over in ("cols", "rows"):
        path = tmp_path / f"{over}.yaml"
        path.write_text(f"{HEAD}update: |\n  p = p - 0.01*g/l2(g, over={over})\n", encoding="utf-8")
        built = build(str(path))
        with imported(built) as made_class:
            assert compare(made_class, built.program, Case("zeros", FEW), backend="torch").lost > 0


@pytest.mark.parametrize("name", ["factored", "chains"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_rows_of_16_bits_equal_the_reference(backend: str, name: str, tmp_path: Path) -> None:
    equal_the_reference(spec(name, tmp_path), backend, FEW, (torch.bfloat16, torch.float16))


@pytest.mark.parametrize("name", ["factored", "chains", "conditions"])
def test_the_other_instruction_set_equals_the_reference(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch calls AVX2, in a process of its own; where the machine has no more, this is the same code again."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    path = str(spec(name, tmp_path))
    code = f"from tests.test_rows import *; equal_the_reference(Path({path!r}), 'cpp', SHAPES, steps=2)"
    interpreted("-c", code)


def test_triton_equals_the_reference(tmp_path: Path) -> None:
    paths = [str(spec(name, tmp_path)) for name in RULES]
    code = (
        "from tests.test_rows import *\n"
        f"for path in {paths!r}:\n"
        "    equal_the_reference(Path(path), 'triton', SMALL, (torch.float32,), steps=2)\n"
        f"equal_the_reference(Path({paths[0]!r}), 'triton', SMALL[1:], (torch.bfloat16, torch.float64), steps=2)\n"
    )
    interpreted("-c", code)


@pytest.mark.parametrize("name", ["factored", "conditions"])
def test_compiled_torch_equals_the_reference(name: str, tmp_path: Path) -> None:
    equal_the_reference(spec(name, tmp_path), "torch", ((5, 7), (2, 3, 34, 5)), (torch.float32,), steps=2, compile=True)


@pytest.mark.parametrize("name", RULES)
def test_a_compiled_step_is_one_graph(name: str, tmp_path: Path) -> None:
    found = []
    for compiled in (False, True):
        params = parameters(FEW)
        optimizer: Any = optimizer_class(spec(name, tmp_path))(params, backend="torch")
        if compiled:
            torch._dynamo.reset()  # which counts how often it has compiled a step, whatever the optimizer
            optimizer.step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
        found.append(stepped(optimizer, params))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)


ALONE = (40, 300)
AMONG = [(257, 1), ALONE, (2, 3, 34, 5), (0, 4), (64, 256)]


def neighbours_change_nothing(path: Path, backend: str) -> None:
    """Of every dtype alone, and twice among others of every dtype and shape; its name decides its random bits."""
    every = (torch.float32, torch.bfloat16, torch.float64)
    made_class = optimizer_class(path)

    def after(params: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        optimizer = made_class([(f"{p.dtype} {tuple(p.shape)}", p) for p in params], backend=backend)
        return optimizer, stepped(optimizer, params, 2)

    first, second = [parameters(AMONG, every) for _ in range(2)]
    (optimizer, found), (_, again) = after(first), after(second)
    assert alike(found, again)
    for number, dtype in enumerate(every):
        p = first[AMONG.index(ALONE) * len(every) + number]
        assert alike(after(parameters([ALONE], [dtype]))[1], [p.detach(), *kept(optimizer, p)]), dtype


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_neighbours_in_a_launch_change_nothing(backend: str, name: str, tmp_path: Path) -> None:
    neighbours_change_nothing(spec(name, tmp_path), backend)


def test_neighbours_in_a_launch_of_triton_change_nothing(tmp_path: Path) -> None:
    path = str(spec("factored", tmp_path))
    interpreted("-c", f"from tests.test_rows import *\nneighbours_change_nothing(Path({path!r}), 'triton')\n")


@pytest.mark.parametrize("name", RULES)
def test_threads_change_nothing(name: str, tmp_path: Path) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            params = parameters([(700, 300), (3, 40, 130), (1, 70_000), (5000, 3)])
            found.append(stepped(optimizer_class(spec(name, tmp_path))(params, backend="cpp"), params, 2))
    finally:
        torch.set_num_threads(before)
    assert alike(found[0], found[1]) and alike(found[0], found[2])
