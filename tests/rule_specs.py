"""Specs with rules that several tests share, and what they must equal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tests.contract.rows import gradient

MIXED = """
name: Mixed
summary: Momentum for matrices, AdamW for vectors and for what is tagged.
hyper:
  lr:           {default: 1e-2, min: 0, doc: learning rate of all}
  momentum:     {default: 0.9, min: 0, below: 1}
  weight_decay: {default: 0.1, min: 0}
rules:
  - when: ndim >= 2 and not tagged("embedding", "head")
    name: matrix
    state:
      m: {like: p, save_as: momentum_buffer}
    update: |
      d = g + weight_decay*p
      m = momentum*m + d
      p = p - lr*m
  - otherwise: adamw
    hyper:
      weight_decay: weight_decay
      betas: {default: [0.9, 0.95]}
"""

OWN = """
name: Own
summary: Three rules of its own, with states of one name in several shapes and storages.
hyper:
  lr:    {default: 1e-2, min: 0}
  beta:  {default: 0.9, min: 0, below: 1}
  clip:  {default: false}
rules:
  - when: named("*.bias", "*norm*")
    update: |
      if clip:
        p = p - lr*clamp(g, -1, 1)
      else:
        p = p - lr*g
  - when: ndim >= 2 and size(cols) >= 32
    name: wide
    state:
      m: {like: p, storage: {codebook: dynamic_exponent, bits: 8, block: 64, min_size: 0}}
      product: {shape: scalar, init: 1}
    update: |
      product = product*beta
      m = ema(m, g, beta)
      p = p - lr*m/(1 - product)
  - otherwise:
    state:
      m: {like: p, storage: bfloat16_stochastic}
      v: {shape: tensor, sign: unsigned}
    update: |
      m = ema(m, g, beta)
      v = ema(v, mean(g**2), beta)
      if clip:
        p = p - lr*m/(sqrt(v) + 1)
      else:
        p = p - lr*m
"""

SHARDED = """
name: Sharded
summary: Rules by shapes that no process has, and by name.
hyper: {lr: {default: 1e-2, min: 0}}
rules:
  - when: ndim == 2 and size(rows) >= 64 or named("w*")
    name: large
    state:
      m: {like: p, storage: int8}
    update: |
      m = ema(m, g, 0.9)
      p = p - lr*m
  - otherwise: adamw
"""

SHAPES = {
    "wte.weight": (50, 32),
    "h.0.weight": (16, 24),
    "h.0.bias": (24,),
    "h.1.weight": (24, 130),
    "ln.weight": (32,),
    "head.weight": (50, 32),
}
TAGS = {"embedding": ["wte.*"], "head": ["head.*"]}
MATRICES = {"h.0.weight", "h.1.weight"}  # of MIXED, with these tags


def named(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[tuple[str, nn.Parameter]]:
    """The parameters of SHAPES."""
    generator = torch.Generator().manual_seed(seed)
    return [(name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype))) for name, shape in SHAPES.items()]


def give(params: Iterable[tuple[str, Any]], step: int) -> None:
    """A gradient for each, which its name and the step decide."""
    for name, p in params:
        p.grad = gradient(p, 100 * step + list(SHAPES).index(name))


def twins(params: list[tuple[str, nn.Parameter]], **options: Any) -> list[torch.optim.Optimizer]:
    """MIXED by the classes of torch.optim."""
    matrices = [p for name, p in params if name in MATRICES]
    others = [p for name, p in params if name not in MATRICES]
    chosen = {"lr": 1e-2, "weight_decay": 0.1, **options}
    return [
        torch.optim.SGD(matrices, momentum=0.9, **chosen),
        torch.optim.AdamW(others, betas=(0.9, 0.95), **chosen),
    ]
