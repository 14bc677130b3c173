"""Block-coordinate descent as a schedule over any rule: BAdam against a new torch.optim.AdamW for each turn."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from optgen.diagnostics import SpecError
from optgen.generated.badam import BAdam
from optgen.spec.load import load_program


class Model(torch.nn.Module):
    """Three layers and a head that is in no block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6) for _ in range(3)])
        self.head = torch.nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Through all of them."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def batch(step: int) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step))


def train(model: Model, optimizer: Any, steps: range) -> None:
    for step in steps:
        model(batch(step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_each_turn_is_a_new_adamw_on_one_layer(order: str, backend: str) -> None:
    """Seven turns of four steps: each block has all of its steps, the first too, where the authors' package has one fewer."""
    mine, other = Model(), Model()
    optimizer = BAdam(mine.named_parameters(), lr=1e-2, switch_every=4, block_order=order, backend=backend)
    turns = itertools.cycle([0, 1, 2] if order == "ascending" else [2, 1, 0])
    for turn in range(7):
        layer = next(turns)
        assert optimizer.active_block == layer
        theirs = torch.optim.AdamW(other.layers[layer].parameters(), lr=1e-2)
        for step in range(4 * turn, 4 * turn + 4):
            train(mine, optimizer, range(step, step + 1))
            train(other, theirs, range(step, step + 1))
            other.zero_grad()
        for p, q in zip(mine.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
    assert torch.equal(mine.head.weight, Model().head.weight)


def test_only_the_active_block_has_gradients_and_states() -> None:
    model = Model()
    optimizer = BAdam(model.named_parameters(), switch_every=2, block_order="ascending")
    assert optimizer.blocks == [[f"layers.{i}.weight", f"layers.{i}.bias"] for i in range(3)]
    for step in range(5):
        model(batch(step)).square().mean().backward()
        active = [p for i in range(3) for p in model.layers[i].parameters() if i == optimizer.active_block]
        assert [p.grad is not None for p in model.parameters()] == [any(p is q for q in active) for p in model.parameters()]
        optimizer.step()
        assert len(optimizer.state) == (2 if step % 2 == 0 else 0)


def test_a_random_order_visits_every_block_in_each_pass_and_differs_by_seed() -> None:
    seen = []
    for seed in (0, 1, 0):
        model = Model()
        optimizer = BAdam(model.named_parameters(), switch_every=1, block_order="random", seed=seed)
        order = []
        for step in range(12):
            order.append(optimizer.active_block)
            train(model, optimizer, range(step, step + 1))
        assert all(sorted(order[i : i + 3]) == [0, 1, 2] for i in range(0, 12, 3))
        seen.append(order)
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize("order", ["descending", "random"])
def test_resumes_in_the_middle_of_a_turn(order: str) -> None:
    whole = Model()
    train(whole, BAdam(whole.named_parameters(), lr=1e-2, switch_every=3, block_order=order), range(11))
    part = Model()
    optimizer = BAdam(part.named_parameters(), lr=1e-2, switch_every=3, block_order=order)
    train(part, optimizer, range(7))
    saved = copy.deepcopy(optimizer.state_dict())
    again = BAdam(part.named_parameters(), lr=1e-2, switch_every=3, block_order=order)
    again.load_state_dict(saved)
    assert again.active_block == optimizer.active_block
    train(part, again, range(7, 11))
    assert all(map(torch.equal, whole.parameters(), part.parameters()))
    assert copy.deepcopy(again).active_block == again.active_block


def test_blocks_of_ones_own(generate: Callable[[str], ModuleType]) -> None:
    """A schedule lies over any rule: Lion with its momentum in 8 bits."""
    module = generate("""
        name: BlockLion
        summary: Lion on one block at a time.
        extends: lion_8bit
        blocks: {every: 2, order: ascending}
        """)
    model = Model()
    optimizer = module.BlockLion(model.named_parameters(), blocks=[["head.*", "layers.2.*"], ["layers.[01].weight"]])
    assert optimizer.blocks[1] == ["layers.0.weight", "layers.1.weight"]
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, optimizer, range(2))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert moved == {"head.weight", "head.bias", "layers.2.weight", "layers.2.bias"}
    assert optimizer.active_block == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"switch_every": 0}, "switch_every must be"),
        ({"switch_every": 2.5}, "switch_every must be"),
        ({"block_order": "up"}, "block_order must be one of"),
        ({"blocks": [["nothing.*"]]}, "no parameter is called like block 0"),
        ({"blocks": [["layers.*"], ["layers.1.*"]]}, "in block 0 and in block 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAdam(Model().named_parameters(), **options)


def test_names_and_layers_are_asked_for() -> None:
    with pytest.raises(ValueError, match="named_parameters"):
        BAdam(Model().parameters())
    with pytest.raises(ValueError, match="no name has a numbered layer"):
        BAdam([("weight", torch.nn.Parameter(torch.zeros(2, 2)))])
    optimizer = BAdam(Model().named_parameters())
    with pytest.raises(RuntimeError, match="cannot be added"):
        optimizer.add_param_group({"params": [("x", torch.nn.Parameter(torch.zeros(2)))]})


def test_names_of_the_arguments_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "rule.yaml"
    text = "name: Rule\nsummary: x\nhyper: {switch_every: {default: 1}}\nblocks: {every: 2}\nupdate: p = p - switch_every*g\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match="'switch_every' is an argument of every class with blocks"):
        load_program(str(path))
