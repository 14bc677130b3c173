"""Which optimizers benchmarks/peers.py times: ours, torch's and those of other packages, each by its place and options."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pairs import Step
from torch import Tensor

__all__ = ["OURS", "PEERS", "QUICK", "Peer"]

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Peer:
    """An optimizer: `place` is its module, a colon and its class, or a spec of ours."""

    package: str  # as pip names it
    label: str
    place: str
    options: Mapping[str, Any] = field(default_factory=dict)
    compiled: bool = False  # whether `torch.compile` takes the whole step

    @property
    def name(self) -> str:
        """What rows and arguments call it."""
        return f"{self.package} {self.label}"

    def load(self) -> type[Any]:
        """Its class; imports its package."""
        if self.package == "optgen":
            import optgen

            return optgen.optimizer_class(self.place)
        module, name = self.place.split(":")
        found: type[Any] = getattr(importlib.import_module(module), name)
        return found

    def make(self, parameters: Sequence[Tensor]) -> tuple[torch.optim.Optimizer, Step]:
        """The optimizer and what takes a step of it."""
        optimizer = self.load()(list(parameters), **{"lr": LEARNING_RATE, **self.options})
        if self.package == "heavyball":
            optimizer.consume_grad = False  # else a step leaves no gradients for the next
        if not self.compiled:
            return optimizer, optimizer.step
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(LEARNING_RATE)  # a float would be compiled in, anew for each rate of a schedule
        return optimizer, torch.compile(optimizer.step)


def _ours(spec: str) -> Peer:
    return Peer("optgen", spec, spec, {"backend": "cpp"})


OURS = tuple(
    map(_ours, ("adamw", "adamw_bf16", "adamw_8bit", "adamw_flash", "adamw_4bit", "solo", "lion", "lion_8bit")),
)
EAGER = {"quantize": False, "master_weight_bits": None, "fused": False}
PEERS = (
    Peer("torch", "AdamW, fused", "torch.optim:AdamW", {"fused": True}),
    Peer("torch", "AdamW, foreach", "torch.optim:AdamW", {"foreach": True}),
    Peer("torch", "AdamW, compiled", "torch.optim:AdamW", {"foreach": True, "capturable": True}, compiled=True),
    Peer("deepspeed", "CPUAdam", "deepspeed.ops.adam:DeepSpeedCPUAdam", {"adamw_mode": True}),
    Peer("deepspeed", "CPULion", "deepspeed.ops.lion:DeepSpeedCPULion"),
    Peer("bitsandbytes", "AdamW8bit", "bitsandbytes.optim:AdamW8bit"),
    Peer("bitsandbytes", "Lion8bit", "bitsandbytes.optim:Lion8bit"),
    Peer("torchao", "AdamW8bit", "torchao.optim:AdamW8bit"),
    Peer("torchao", "AdamW4bit", "torchao.optim:AdamW4bit"),
    Peer("torchao", "AdamWFp8", "torchao.optim:AdamWFp8"),
    Peer("torch-optimi", "AdamW", "optimi:AdamW"),
    Peer("torch-optimi", "Lion", "optimi:Lion"),
    Peer("pytorch_optimizer", "AdamW", "pytorch_optimizer:AdamW"),
    Peer("pytorch_optimizer", "Lion", "pytorch_optimizer:Lion"),
    Peer("heavyball", "AdamW", "heavyball:AdamW"),
    Peer("flashoptim", "AdamW, unfused", "flashoptim:FlashAdamW", EAGER),
    Peer("flashoptim", "AdamW, 8 bits", "flashoptim:FlashAdamW"),
)
QUICK = (
    "optgen adamw_8bit",
    "torch AdamW, foreach",
    "bitsandbytes AdamW8bit",
    "torch-optimi AdamW",
    "flashoptim AdamW, 8 bits",
)
