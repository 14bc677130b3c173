"""Block-coordinate descent: only one block of parameters is trained at a time (Luo, Yu and Li 2024, BAdam, algorithm 1).

Any rule may be run so. The parameters of the other blocks ask for no gradients, so that backward computes and keeps none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optgen.runtime.optimizer import GeneratedOptimizer
from optgen.runtime.rules import is_like

__all__ = ["BlockOptimizer"]

LAYER = re.compile(r"^(?:.*?\.)?(?:layers?|h|blocks?)\.\d+(?=\.)")
ORDERS = ("ascending", "descending", "random")
SCHEDULE = "block_schedule"  # in the first parameter group: passes over all blocks, turns of this one, steps of this turn


class BlockOptimizer(GeneratedOptimizer):
    """An optimizer whose parameters take turns, a block after the other.

    A turn has `switch_every` steps. At its end the states of its block are dropped, so the next turn of a parameter begins as its
    first did, at t = 1; the gradients that it still has are set to None.
    """

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        blocks: Sequence[Sequence[str]] | None,
        switch_every: int,
        block_order: str,
        **options: Any,
    ) -> None:
        """Register the parameters and begin the turn of the first block.

        Args:
            params: `named_parameters()`, or groups of them.
            defaults: hyperparameters of groups that do not set their own.
            blocks: patterns of names, a list for each block; None for a block for each layer.
            switch_every: steps of a turn.
            block_order: of the blocks: "ascending", "descending", or "random", a new order for each pass.
            options: those of every optimizer.

        Raises:
            ValueError: without names, for blocks without parameters or with shared ones, for another order or number of steps.
        """
        if isinstance(switch_every, bool) or not isinstance(switch_every, int) or switch_every < 1:
            raise ValueError(f"switch_every must be a whole number of steps from 1, got {switch_every!r}")
        if block_order not in ORDERS:
            raise ValueError(f"block_order must be one of {', '.join(map(repr, ORDERS))}, got {block_order!r}")
        self._turns: dict[str, Any] = {"every": switch_every, "order": block_order, "patterns": None}
        super().__init__(params, defaults, **options)
        self._turns["patterns"] = _patterns(self._named(), blocks, self.description.name)
        self.param_groups[0][SCHEDULE] = [0, 0, 0]
        self._begin()

    def _named(self) -> dict[str, Tensor]:
        return {
            name: p
            for group in self.param_groups
            for name, p in zip(group.get("param_names", ()), group["params"], strict=False)
        }

    @property
    def blocks(self) -> list[list[str]]:
        """The names of the parameters of each block; what is in none is never trained."""
        names = self._named()
        return [[name for name in names if is_like(name, block)] for block in self._turns["patterns"]]

    @property
    def active_block(self) -> int:
        """The place of the block whose turn it is."""
        passes, turn, _ = self.param_groups[0][SCHEDULE]
        return self._order(int(passes))[int(turn)]

    def _order(self, passes: int) -> list[int]:
        count = len(self._turns["patterns"])
        if self._turns["order"] == "random":
            generator = torch.Generator().manual_seed(self._options["seed"] + passes)
            return [int(i) for i in torch.randperm(count, generator=generator)]
        return list(range(count)) if self._turns["order"] == "ascending" else list(range(count))[::-1]

    def _begin(self) -> None:
        """Let the parameters of the active block ask for gradients, and no others."""
        trained = set(self.blocks[self.active_block])
        for name, p in self._named().items():
            p.requires_grad_(name in trained)
            if name not in trained:
                p.grad = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the active block; after its last step it is the next one's turn."""
        loss = super().step(closure)
        passes, turn, steps = self.param_groups[0][SCHEDULE]
        steps += 1
        if steps == self._turns["every"]:
            named = self._named()
            for name in self.blocks[self.active_block]:
                self.state.pop(named[name], None)
            steps, turn = 0, turn + 1
            if turn == len(self._turns["patterns"]):
                turn, passes = 0, passes + 1
        switched = steps == 0
        self.param_groups[0][SCHEDULE] = [passes, turn, steps]
        if switched:
            self._begin()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once blocks are made: a new parameter would be in none of them.

        Raises:
            RuntimeError: always, after construction.
        """
        if self._turns["patterns"] is not None:
            raise RuntimeError(
                f"{self.description.name}: parameters cannot be added once there are blocks; make a new optimizer"
            )
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict, and go on in the turn in which it was saved.

        Raises:
            ValueError: if it does not fit; the optimizer is then unchanged.
        """
        super().load_state_dict(state_dict)
        self._begin()

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy keep."""
        return {**super().__getstate__(), "_turns": self._turns}


def _patterns(names: Mapping[str, Tensor], blocks: Sequence[Sequence[str]] | None, owner: str) -> list[list[str]]:
    """The patterns of each block."""
    if not names:
        raise ValueError(f"{owner}: blocks are made of names: pass model.named_parameters(), not model.parameters()")
    if blocks is None:
        layers = dict.fromkeys(found.group(0) for found in map(LAYER.match, names) if found is not None)
        if not layers:
            message = "no name has a numbered layer such as 'layers.0.': pass blocks=[['*.attn.*'], ['*.mlp.*']]"
            raise ValueError(f"{owner}: {message}")
        return [[f"{layer}.*"] for layer in layers]
    made = [[block] if isinstance(block, str) else list(block) for block in blocks]
    taken: dict[str, int] = {}
    for place, block in enumerate(made):
        found = [name for name in names if is_like(name, block)]
        if not found:
            raise ValueError(f"{owner}: no parameter is called like block {place}, {block!r}")
        for name in found:
            if taken.setdefault(name, place) != place:
                raise ValueError(f"{owner}: '{name}' is in block {taken[name]} and in block {place}")
    return made
