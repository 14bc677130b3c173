"""Run by tests/test_vendor.py where optgen cannot be imported: trains with a vendored class, prints a digest of all bits."""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
from typing import Any

import torch


class Blocked:
    """Packages that are not there."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def find_spec(self, name: str, *_: Any) -> None:
        if name.split(".", maxsplit=1)[0] in self.names:
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)


def main(folder: str, module: str, cls: str, backend: str, blocked: str) -> None:
    names = blocked.split(",")
    for name in [name for name in sys.modules if name.split(".", maxsplit=1)[0] in names]:
        del sys.modules[name]
    sys.meta_path.insert(0, Blocked(names))  # type: ignore[arg-type]
    sys.path.insert(0, folder)
    make = getattr(importlib.import_module(module), cls)
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    shapes = (((64, 64), torch.float32), ((31, 135), torch.bfloat16), ((7,), torch.float32))
    params = [torch.nn.Parameter(random(*shape)) for shape in shapes]
    optimizer = make(params, lr=1e-2, backend=backend)
    for _ in range(2):
        for p in params:
            p.grad = random(tuple(p.shape), p.dtype)
        optimizer.step()
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        optimizer = make(params, lr=0.5, backend=backend)
        optimizer.load_state_dict(torch.load(file, weights_only=True))
    digest = hashlib.sha256()
    for tensor in [*params, *(value for p in params for _, value in sorted(optimizer.state[p].items()))]:
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
