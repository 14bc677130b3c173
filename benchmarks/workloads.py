"""What all benchmarks share: lists of parameters, the shipped optimizers, bytes that a step moves, the machine."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optgen.analysis.memory import MODELS, load_model
from optgen.build import Built
from optgen.ir.constants import default_flags
from optgen.plan.traffic import kernel_bytes
from optgen.runtime.rules import kernels_of
from optgen.spec.places import SHIPPED, spec_names

__all__ = [
    "SHAPES",
    "bytes_moved",
    "generated_class",
    "in_order",
    "machine",
    "parameters",
    "shapes_of",
    "state_bytes",
    "versions",
]

FIRST = ("solo", "adamw_8bit", "adamw", "lion", "adamw_4bit", "sgd", "adamw_bf16", "adamw_flash", "lion_8bit")
Shapes = list[tuple[int, ...]]


def _llama_1b() -> Shapes:
    """Llama-3.2-1B: 16 layers of width 2048, inner width 8192, 8 of 32 heads for keys, a vocabulary of 128256, tied head."""
    layer = [(2048, 2048), (512, 2048), (512, 2048), (2048, 2048), (8192, 2048), (8192, 2048), (2048, 8192), (2048,), (2048,)]
    return [(128256, 2048), *(layer * 16), (2048,)]


SHAPES: dict[str, Callable[[], Shapes]] = {
    "matrix": lambda: [(4096, 4096)],
    "large": lambda: [(8192, 8192)],
    "llama-1b": _llama_1b,
    "tiny": lambda: [(16, 16)] * 1000,
}


def shapes_of(name: str) -> Shapes:
    """A list by name: one of the above, one of the models of `optgen memory`, or `AxB` for one matrix."""
    if name in SHAPES:
        return SHAPES[name]()
    if name in MODELS:
        return [shape.shape for shape in load_model(name).shapes for _ in range(shape.count)]
    try:
        return [tuple(int(size) for size in name.split("x"))]
    except ValueError:
        raise SystemExit(f"there are no shapes '{name}': name one of {', '.join((*SHAPES, *MODELS))}, or 256x512") from None


def in_order(names: Iterable[str] = ()) -> list[str]:
    """The shipped specs that are named, or all, those first that show most."""
    known = spec_names(SHIPPED)
    for name in names:
        if name not in known:
            raise SystemExit(f"there is no shipped spec '{name}'; there are {', '.join(sorted(known))}")
    chosen = set(names) or set(known)
    return [*(name for name in FIRST if name in chosen), *sorted(chosen.difference(FIRST))]


def generated_class(spec: str) -> type[torch.optim.Optimizer]:
    """The class of a shipped spec, as it was built: no compiler of optgen's is needed."""
    module = importlib.import_module(f"optgen.generated.{spec}")
    made: type[torch.optim.Optimizer] = getattr(module, module.__all__[0])
    return made


def parameters(
    shapes: Sequence[tuple[int, ...]], device: str = "cpu", dtype: torch.dtype = torch.float32, period: int | None = None
) -> list[Tensor]:
    """Parameters with gradients, the same for every optimizer; values repeat after `period` elements, if given (made faster)."""
    generator = torch.Generator(device).manual_seed(0)
    made: list[Tensor] = []

    block = torch.randn(period or 0, generator=generator, device=device, dtype=dtype)

    def values(shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        if period is None or size <= period:
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)
        whole = torch.empty(size, device=device, dtype=dtype)
        for start in range(0, size, period):
            piece = whole[start : start + period]
            piece.copy_(block[: piece.numel()])
        return whole.view(shape)

    for shape in shapes:
        p = torch.nn.Parameter(values(shape))
        p.grad = values(shape)
        made.append(p)
    return made


def bytes_moved(built: Built, optimizer: torch.optim.Optimizer) -> float:
    """Bytes that a step moves by the plan, with every flag at its default: codes where the state has them."""
    total = 0.0
    for group in optimizer.param_groups:
        for p, index in zip(group["params"], kernels_of(optimizer, group), strict=True):
            kernel, size = built.plan.kernels[index], p.element_size()
            total += p.numel() * kernel_bytes(kernel, param=size, grad=size, flags=default_flags(kernel.program))
    return total


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in an optimizer's state, those in tensor subclasses, containers and objects too; each storage once."""
    seen: dict[int, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__") and type(value) is not Tensor:
            for name in value.__tensor_flatten__()[0]:
                add(getattr(value, name))
        elif isinstance(value, Tensor):
            storage = value.untyped_storage()
            seen[storage.data_ptr() or id(value)] = storage.nbytes()
        elif isinstance(value, dict):
            for part in value.values():
                add(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                add(part)
        elif isinstance(getattr(value, "__dict__", None), dict):
            add(vars(value))

    for state in optimizer.state.values():
        add(state)
    return sum(seen.values())


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures belong to."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n") if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    found: dict[str, Any] = {
        "cpu": model,
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        **versions("torch", "triton"),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": str(torch.version.cuda),
        }
    return found


def versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = torch.__version__ if package == "torch" else importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
