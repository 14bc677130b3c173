"""Ahead-of-time compilation of generated Triton kernels, no GPU needed, and the facts of the machine code."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TARGETS", "GpuCode", "compile_kernel"]

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
POINTERS = {"_tensors": "*i64", "_keys": "*i64", "_tiles": "*i32"}


@dataclass(frozen=True)
class GpuCode:
    """Facts of one compiled kernel. `operations` counts instructions by full mnemonic; spills are bytes."""

    target: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    operations: Mapping[str, int]
    text: str


def compile_kernel(
    kernel: Any,
    target: str,
    *,
    param: str = "bf16",
    grad: str = "bf16",
    flags: Mapping[str, bool],
    low_precision: str = "stochastic",
    sweep: int = -1,
) -> GpuCode:
    """Compile one sweep of a `TritonKernel`, by default the last, for `target` and read the facts of its code.

    Args:
        kernel: an entry of a generated module's KERNELS, imported without TRITON_INTERPRET.
        target: a key of TARGETS.
        param: Triton's short name of the parameter's dtype; the arithmetic is fp32 (fp64 for fp64).
        grad: that of the gradient.
        flags: values of the kernel's compile-time flags.
        low_precision: how parameters of 16 bits are rounded.
        sweep: which one, counted from 0.
    """
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    entry = kernel.sweeps[sweep].entry
    dtypes = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32, "fp64": tl.float64}
    real = "fp64" if param == "fp64" else "fp32"
    constants: dict[str, Any] = {
        **{flag: value for flag, value in flags.items() if flag in entry.arg_names},
        "PARAM": dtypes[param],
        "GRAD": dtypes[grad],
        "CORRECTION": {"correction8": tl.int8, "correction16": tl.int16}.get(low_precision, dtypes[param]),
        "low_precision": low_precision if param in ("bf16", "fp16") else "nearest",
        "REAL": dtypes[real],
        "ALIGNED": True,
        "TILE": kernel.tile,
    }
    names = list(entry.arg_names)
    pointers = {**POINTERS, "scalars": f"*{real}"}
    signature = {name: "constexpr" if name in constants else pointers[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in pointers}
    source = ASTSource(entry, signature=signature, constexprs=values, attrs=divisible)
    platform, _, warp_size = TARGETS[target]
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=kernel.options(platform, warp_size))
    return _nvidia(target, compiled) if target.startswith("sm_") else _amd(target, compiled)


def _nvidia(target: str, compiled: Any) -> GpuCode:
    """Disassemble a cubin with the tools that Triton's wheel carries."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = _tool("nvdisasm", "-c", file.name)
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
    pattern = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)")
    operations = Counter(match.group(1) for match in pattern.finditer(text))
    operations.pop("NOP", None)
    facts = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    return GpuCode(target, facts["REG"], facts["STACK"] + facts["LOCAL"], facts["SHARED"], operations, text)


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", name)
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def _amd(target: str, compiled: Any) -> GpuCode:
    """Read the assembly's metadata."""
    text = compiled.asm["amdgcn"]
    operations = Counter(re.findall(r"^\s+([a-z][a-z0-9_]+)\s", text, flags=re.MULTILINE))

    def fact(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", text)
        return int(found.group(1)) if found else 0

    # scalar registers spill to lanes of vector registers, which costs no memory
    spills = 4 * fact("vgpr_spill_count") + fact("private_segment_fixed_size")
    return GpuCode(target, fact("vgpr_count"), spills, fact("group_segment_fixed_size"), operations, text)
