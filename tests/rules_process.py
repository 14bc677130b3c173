"""Run by tests/test_rules.py in Triton's interpreter: MIXED beside torch.optim, 20 steps; prints the largest difference."""

from __future__ import annotations

import sys

import torch

from optgen import optimizer_class
from tests.contract.rows import distance
from tests.rule_specs import TAGS, give, named, twins


def main(path: str, backend: str) -> None:
    ours, theirs = named(), named()
    optimizer = optimizer_class(path)(ours, tags=TAGS, backend=backend)  # type: ignore[call-arg]
    others = twins(theirs)
    for step in range(20):
        give(ours, step)
        give(theirs, step)
        optimizer.step()
        for other in others:
            other.step()
    assert isinstance(optimizer, torch.optim.Optimizer)
    print(distance([p for _, p in ours], [p for _, p in theirs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
