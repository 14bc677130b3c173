"""Ahead-of-time compilation of generated Triton kernels, no GPU needed, and the facts of the machine code.

The facts are kept in optgen's cache folder by the content of all that they follow from.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optgen.analysis.machine_code import Instruction, PathError, bulk_path, parse_amdgcn, parse_sass
from optgen.output import OutputError, write_bytes
from optgen.runtime.cpp_compile import cache_folder

__all__ = ["TARGETS", "GpuCode", "compile_kernel", "read_code"]

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
POINTERS = {"_tensors": "*i64", "_keys": "*i64", "_tiles": "*i32", "_tables": "*i32"}


@dataclass(frozen=True)
class GpuCode:
    """Facts of one compiled kernel; spills are bytes.

    `operations` counts all its instructions by full mnemonic, `bulk` those that a thread runs in the bulk of a tensor; where
    they cannot be told, `fault` says why.
    """

    target: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    operations: Mapping[str, int]
    bulk: Mapping[str, int]
    fault: str = ""


def compile_kernel(
    kernel: Any,
    target: str,
    *,
    param: str = "bf16",
    grad: str = "bf16",
    flags: Mapping[str, bool],
    low_precision: str = "stochastic",
    sweep: int = -1,
    bulk: bool = True,
    whole: bool = True,
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
        bulk: for tiles that lie whole inside a parameter, or else for the rest.
        whole: with operations, which take as long to read as the kernel to compile; else there are none.
    """
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    entry = kernel.sweeps[sweep].entry
    dtypes = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32, "fp64": tl.float64}
    real = "fp64" if param == "fp64" else "fp32"
    low_precision = low_precision if param in ("bf16", "fp16") else "nearest"
    constants: dict[str, Any] = {
        **{flag: value for flag, value in flags.items() if flag in entry.arg_names},
        "PARAM": dtypes[param],
        "GRAD": dtypes[grad],
        "CORRECTION": {"correction8": tl.int8, "correction16": tl.int16}.get(low_precision, dtypes[param]),
        "low_precision": low_precision,
        "REAL": dtypes[real],
        "ALIGNED": True,
        "TILE": kernel.tile_of({**flags, "low_precision": low_precision}, bulk=bulk),
        "BULK": bulk,
    }
    if kernel.width:
        constants |= kernel.grid_sizes(kernel.sweeps[sweep].over)
    pointers = {**POINTERS, "scalars": f"*{real}"}
    signature = {name: "constexpr" if name in constants else pointers[name] for name in entry.arg_names}
    platform, _, warp_size = TARGETS[target]
    options = kernel.options(platform, warp_size, constants["TILE"], bulk=bulk, double=real == "fp64")
    place = _place(entry.cache_key, target, sorted(map(str, constants.items())), str(signature), sorted(options.items()), whole)
    with contextlib.suppress(OSError, ValueError, TypeError):  # not there, or not whole
        return GpuCode(**json.loads(place.read_text(encoding="utf-8")))
    source = _source(entry, signature, constants)
    code = read_code(target, triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options), whole=whole)
    with contextlib.suppress(OutputError):  # then the next one compiles too
        write_bytes(place, json.dumps(asdict(code)).encode())
    return code


def _source(entry: Any, signature: Mapping[str, str], constants: Mapping[str, Any]) -> Any:
    """What Triton compiles: its pointers are divisible by 16."""
    from triton.compiler import ASTSource

    names = list(signature)
    values = {(names.index(name),): value for name, value in constants.items()}
    divisible = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if name not in constants}
    return ASTSource(entry, signature=signature, constexprs=values, attrs=divisible)


def _place(*reasons: object) -> Path:
    """The file for the facts that follow from these reasons, from Triton and from what reads them."""
    digest = hashlib.sha256("\0".join([*map(str, reasons), _readers()]).encode()).hexdigest()[:32]
    return cache_folder() / f"{digest}.json"


@functools.cache
def _readers() -> str:
    import triton

    files = (Path(__file__), Path(__file__).with_name("machine_code.py"))
    return "\0".join([triton.__version__, *(file.read_text(encoding="utf-8") for file in files)])


def read_code(target: str, compiled: Any, *, one_turn: bool = False, whole: bool = True) -> GpuCode:
    """The facts of what Triton compiled; `one_turn` counts loops for one turn, instead of refusing them."""
    read = _nvidia if target.startswith("sm_") else _amd
    return read(target, compiled, one_turn=one_turn, whole=whole)


def _facts(target: str, registers: int, spills: int, shared: int, code: Sequence[Instruction], *, one_turn: bool) -> GpuCode:
    bulk, fault = {}, ""
    try:
        bulk = dict(Counter(one.operation for one in bulk_path(code, one_turn=one_turn))) if code else {}
    except PathError as error:
        fault = str(error)
    operations = dict(Counter(one.operation for one in code))
    return GpuCode(target, registers, spills, shared, operations, bulk, fault)


def _nvidia(target: str, compiled: Any, *, one_turn: bool, whole: bool) -> GpuCode:
    """Disassemble a cubin with the tools that Triton's wheel carries."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = _tool("nvdisasm", "-c", file.name) if whole else ""
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
    facts = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    spills = facts["STACK"] + facts["LOCAL"]
    return _facts(target, facts["REG"], spills, compiled.metadata.shared, parse_sass(text) if whole else (), one_turn=one_turn)


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", name)
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def _amd(target: str, compiled: Any, *, one_turn: bool, whole: bool) -> GpuCode:
    """Read the assembly's metadata."""
    text = compiled.asm["amdgcn"]

    def fact(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", text)
        return int(found.group(1)) if found else 0

    # scalar registers spill to lanes of vector registers, which costs no memory
    spills = 4 * fact("vgpr_spill_count") + fact("private_segment_fixed_size")
    return _facts(
        target, fact("vgpr_count"), spills, compiled.metadata.shared, parse_amdgcn(text) if whole else (), one_turn=one_turn
    )
