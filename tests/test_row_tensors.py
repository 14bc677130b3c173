"""Tensors of rules of rows and columns: NaN, strides, no elements, states in a state dict, and what is refused."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import interpreted
from tests.test_rows import HEAD, ROW, RULES, alike, optimizer_class, parameters, spec, stepped

LENGTHS = """
n = l2(g, over=cols) + 1e-8
p = p - 0.1*g/n
"""
WORDS = {
    "l2(g, over=cols)": "row",
    "max(g, over=cols)": "row",
    "min(g, over=rows)": "column",
    "max(l1(g, over=cols), over=rows)": "matrix",
    "sum(max(g, over=rows))": "all",
}


def made(update: str, folder: Path, states: str = "") -> Any:
    """The class of a rule given as text."""
    path = folder / "made.yaml"
    lines = textwrap.indent(textwrap.dedent(update).strip(), "  ")
    path.write_text(f"{HEAD}{states}update: |\n{lines}\n", encoding="utf-8")
    return optimizer_class(path)


def not_finite_stays(folder: Path, backend: str) -> None:
    """NaN in one element reaches its row, column or matrix, and nothing else."""
    for word, what in WORDS.items():
        p = torch.nn.Parameter(torch.ones(2, 35, 130))
        p.grad = torch.arange(9100.0).view(2, 35, 130)
        p.grad[1, 33, 128] = float("nan")
        made(f"p = p - 1e-9*{word}", folder)([p], backend=backend).step()
        expected = torch.zeros(2, 35, 130, dtype=torch.bool)
        expected[{"row": (1, 33), "column": (1, slice(None), 128), "matrix": (1,), "all": ()}[what]] = True
        assert torch.equal(p.isnan(), expected), word


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_nan_reaches_what_it_must_and_nothing_else(backend: str, tmp_path: Path) -> None:
    not_finite_stays(tmp_path, backend)


def test_nan_in_triton(tmp_path: Path) -> None:
    interpreted("-c", f"from tests.test_row_tensors import *; not_finite_stays(Path({str(tmp_path)!r}), 'triton')")


def laid(values: Tensor, how: str) -> Tensor:
    """The same values with other strides."""
    if how == "turned":
        return values.mT.contiguous().mT
    if how == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if how == "apart":
        return torch.stack([values, values], dim=-1)[..., 0]
    return values.movedim(0, -1).contiguous().movedim(-1, 0)


STATES = {  # of a rule all of whose tensors have one shape, and of others
    "no states": ("", LENGTHS),
    "a momentum": ("state: {m: {like: p}}\n", "m = ema(m, g, 0.9); p = p - 0.1*m/(l2(m, over=rows) + 1e-8)"),
    "rows": (f"state: {{r: {{shape: {ROW}}}}}\n", "r = ema(r, rms(g, over=cols), 0.9); p = p - 0.1*g/(r + 1e-8)"),
}


def strides_change_nothing(folder: Path, backend: str, rule: str, shapes: Sequence[tuple[int, ...]], *, exact: bool) -> None:
    states, update = STATES[rule]
    made_class = made(update.replace("; ", "\n"), folder, states)
    for shape in shapes:
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        (expected, *_) = stepped(made_class([p := torch.nn.Parameter(values.clone())], backend=backend), [p])
        for how in ("turned", "channels_last", "apart", "rotated"):
            p = torch.nn.Parameter(laid(values.clone(), how))
            before = p.stride()
            (found, *_) = stepped(made_class([p], backend=backend), [p])
            assert p.stride() == before
            assert torch.equal(found, expected) if exact else torch.allclose(found, expected, atol=1e-6), (shape, how)


@pytest.mark.parametrize("rule", STATES)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_rows_are_logical_whatever_the_strides(backend: str, rule: str, tmp_path: Path) -> None:
    """Also where all tensors lie alike and dense, which rules of elements take as they are."""
    strides_change_nothing(tmp_path, backend, rule, ((2, 3, 5, 7), (1, 1, 33, 40), (6, 1, 4, 9)), exact=backend == "cpp")


def test_strides_in_triton(tmp_path: Path) -> None:
    call = f"strides_change_nothing(Path({str(tmp_path)!r}), 'triton', rule, [(2, 2, 5, 7)], exact=True)"
    interpreted("-c", f"from tests.test_row_tensors import *\nfor rule in ('no states', 'rows'): {call}")


EMPTY = [(0, 5), (5, 0), (2, 0, 3), (0, 3, 4)]


def empty_parameters_are_left_alone(path: Path, backend: str) -> None:
    made_class = optimizer_class(path)
    for shapes in (EMPTY[:2], [*EMPTY, (5, 7)]):
        params = parameters(shapes)
        found = stepped(made_class(params, backend=backend), params)
        assert [tuple(p.shape) for p in found[: len(shapes)]] == shapes
        assert all(bool(value.isfinite().all()) for value in found)
    alone = parameters([(5, 7)])
    assert torch.equal(stepped(made_class(alone, backend=backend), alone)[0], params[-1])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_parameters_without_rows_or_columns_are_left_alone(backend: str, name: str, tmp_path: Path) -> None:
    empty_parameters_are_left_alone(spec(name, tmp_path), backend)


def test_empty_parameters_in_triton(tmp_path: Path) -> None:
    path = str(spec("factored", tmp_path))
    interpreted("-c", f"from tests.test_row_tensors import *; empty_parameters_are_left_alone(Path({path!r}), 'triton')")


@pytest.mark.parametrize("shape", [(), (1,), (7,)])
def test_what_has_no_rows_is_refused_by_name(shape: tuple[int, ...], tmp_path: Path) -> None:
    made_class: Any = optimizer_class(spec("factored", tmp_path))
    bias = torch.nn.Parameter(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"layer\.bias.* needs rows and columns"):
        made_class([("layer.weight", *parameters([(3, 4)])), ("layer.bias", bias)])
    optimizer = made_class([("layer.weight", *parameters([(3, 4)]))])
    groups, state = [dict(group) for group in optimizer.param_groups], dict(optimizer.state)
    with pytest.raises(ValueError, match=r"layer\.bias.* needs rows and columns"):
        optimizer.add_param_group({"params": [("other", *parameters([(5, 4)])), ("layer.bias", bias)]})
    assert [dict(group) for group in optimizer.param_groups] == groups and dict(optimizer.state) == state


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_loaded_state_goes_on_bit_for_bit(backend: str, name: str, tmp_path: Path) -> None:
    made_class = optimizer_class(spec(name, tmp_path))
    params = parameters([(5, 7), (2, 3, 34, 5), (64, 129)])
    optimizer = made_class(params, backend=backend)
    stepped(optimizer, params, 2)
    torch.save(optimizer.state_dict(), tmp_path / "kept.pt")
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = made_class(others, backend=backend)
    resumed.load_state_dict(torch.load(tmp_path / "kept.pt", weights_only=True))
    assert alike(stepped(optimizer, params, 2), stepped(resumed, others, 2))


def test_states_of_a_stack_keep_its_shape(tmp_path: Path) -> None:
    (p,) = params = parameters([(2, 3, 34, 5)])
    optimizer = optimizer_class(spec("starts", tmp_path))(params)
    stepped(optimizer, params, 1)
    shapes = {key: tuple(value.shape) for key, value in optimizer.state[p].items() if key in ("r", "c", "k", "n")}
    assert shapes == {"r": (2, 3, 34, 1), "c": (2, 3, 1, 5), "k": (2, 3, 1, 1), "n": ()}
    assert all(optimizer.state[p][key].dtype == torch.float32 for key in shapes)
