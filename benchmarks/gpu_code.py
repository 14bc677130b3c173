"""Instructions per element of our Triton kernels and of others', compiled ahead of time; writes a table and data.

    pip install --no-deps -r benchmarks/peers-gpu.txt
    python benchmarks/gpu_code.py --out benchmarks/results/gpu-code.json

Parameters and gradients are bfloat16; ours are rounded stochastically or, where that is said, to nearest, as the others'. The
others' kernels are compiled with the arguments that their optimizers pass for a matrix of 4096 x 4096; they mask every access,
and of a full block all are made. No GPU is needed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from optgen.analysis.devices import load_devices
from optgen.analysis.gpu_code import TARGETS, read_code
from optgen.analysis.roofline import KernelRoofline, measure, roofline
from optgen.build import build
from optgen.output import write_bytes
from optgen.spec.find import find_spec

OURS = ("adamw", "adamw_bf16", "adamw_8bit", "adamw_flash", "adamw_4bit", "lion_8bit", "solo", "solo_2bit")
NEAREST = ("adamw_bf16", "adamw_8bit", "adamw_flash")  # beside those of others
SHOWN = ("fp32", "multiply", "integer", "special", "global", "shared", "shuffle")


@dataclass(frozen=True)
class Peer:
    """A kernel of others: `pointers` are the dtypes of its tensors, `constants` its compile-time arguments.

    Other arguments that `whole` names are integers, the rest floats. `tile` elements are a program's, or a turn's of its loop.
    """

    package: str
    label: str
    place: str  # its module, a colon and its name
    pointers: Mapping[str, str]
    constants: Mapping[str, Any]
    whole: tuple[str, ...]
    bytes_moved: float
    tile: int
    warps: int = 4

    def measure(self, target: str) -> KernelRoofline:
        """Compile it and count."""
        module, name = self.place.split(":")
        entry = getattr(importlib.import_module(module), name)
        names = entry.arg_names
        kinds = {**{name: f"*{dtype}" for name, dtype in self.pointers.items()}, **dict.fromkeys(self.whole, "i32")}
        signature = {name: "constexpr" if name in self.constants else kinds.get(name, "fp32") for name in names}
        divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in (*self.pointers, *self.whole[:1])}
        values = {(names.index(name),): value for name, value in self.constants.items()}
        source = ASTSource(entry, signature=signature, constexprs=values, attrs=divisible)
        compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options={"num_warps": self.warps})
        code = read_code(target, compiled, one_turn=True)
        if code.fault:
            raise RuntimeError(f"{self.label}: {code.fault}")
        elements = self.tile / (self.warps * TARGETS[target][2])
        return measure(self.label, [code], self.bytes_moved, elements, load_devices()[target])


FLASH_KERNEL = "flashoptim.optimizers:_triton_adam_kernel"
OPTIMI_KERNEL = "optimi.adam:_adam_kernel"
BITSANDBYTES_KERNEL = "bitsandbytes.backends.triton.kernels_optim:_optimizer_update_2state_8bit_blockwise_triton_kernel"
FLASH = {
    "GROUP_SIZE": 32,
    "DECOUPLED_WEIGHT_DECAY": True,
    "PARAM_DTYPE": tl.bfloat16,
    "QUANTIZE_OPTIM_STATES": True,
    "SIGNED_ERROR_T": tl.int8,
    "NUM_MANTISSA_BITS": 7,
    "SIGNED_MAX_VAL": 127,
    "BLOCK_SIZE_N": 1024,
}
FLASH_POINTERS = {
    "mom_ptr": "i8",
    "mom_scales_f16_ptr": "fp16",
    "var_ptr": "u8",
    "var_scales_f16_ptr": "fp16",
    "param_ptr": "bf16",
    "grad_ptr": "bf16",
    "ecc_ptr": "i8",
}
OPTIMI = {
    "do_weight_decay": True,
    "decouple_wd": True,
    "update_parameters": True,
    "BLOCK_SIZE": 1024,
}
OPTIMI_POINTERS = dict.fromkeys(("param_ptr", "grad_ptr", "exp_avg_ptr", "exp_avg_sq_ptr", "kahan_ptr"), "bf16")
BITSANDBYTES = {
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.01,
    "gnorm_scale": 1.0,
    "BLOCK_SIZE_N": 256,
    "N_PER_TH": 1,
    "OPTIMIZER_ID": 3,
}
BITSANDBYTES_POINTERS = {
    "p_ptr": "bf16",
    "g_ptr": "bf16",
    "state1_ptr": "u8",
    "state2_ptr": "u8",
    **dict.fromkeys(("qmap1_ptr", "qmap2_ptr", "absmax1_ptr", "absmax2_ptr"), "fp32"),
}
PEERS = (
    Peer("flashoptim", "AdamW, int8", FLASH_KERNEL, FLASH_POINTERS, {**FLASH, "USE_ECC": False}, ("N", "step"), 10.25, 1024),
    Peer(
        "flashoptim",
        "AdamW, int8, corrected",
        FLASH_KERNEL,
        FLASH_POINTERS,
        {**FLASH, "USE_ECC": True},
        ("N", "step"),
        12.25,
        1024,
    ),
    Peer("torch-optimi", "AdamW", OPTIMI_KERNEL, OPTIMI_POINTERS, {**OPTIMI, "kahan_sum": False}, ("n_elements",), 14, 1024),
    Peer(
        "torch-optimi", "AdamW, Kahan", OPTIMI_KERNEL, OPTIMI_POINTERS, {**OPTIMI, "kahan_sum": True}, ("n_elements",), 18, 1024
    ),
    Peer(
        "bitsandbytes",
        "Adam, 8 bits",
        BITSANDBYTES_KERNEL,
        BITSANDBYTES_POINTERS,
        BITSANDBYTES,
        ("n_elements", "step"),
        10 + 16 / 256,
        256,
        warps=2,
    ),
)


def main() -> None:
    """Compile, count, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: sm_90 and sm_80")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    rows = []
    for target in arguments.target or ("sm_90", "sm_80"):
        rows += [_row("optgen", target, name, roofline(build(find_spec(name)), target).step) for name in OURS]
        steps = {name: roofline(build(find_spec(name)), target, rounding="nearest").step for name in NEAREST}
        rows += [_row("optgen", target, f"{name}, nearest", step) for name, step in steps.items()]
        rows += [_row(_versioned(peer.package), target, peer.label, peer.measure(target)) for peer in PEERS]
    Console(width=170).print(_table(rows))
    if arguments.out:
        data = {"triton": triton.__version__, "rows": rows}
        write_bytes(arguments.out, (json.dumps(data, indent=1) + "\n").encode())


def _versioned(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _row(package: str, target: str, label: str, kernel: KernelRoofline) -> dict[str, Any]:
    return {
        "target": target,
        "package": package,
        "optimizer": label,
        "bytes": round(kernel.bytes_moved, 4),
        "instructions": round(kernel.instructions, 2),
        "by_kind": {kind: round(count, 3) for kind, count in kernel.kinds.items()},
        "picoseconds": {place: round(time, 3) for place, time in kernel.times.items()},
        "bound_by": kernel.bound_by,
        "over_memory": round(max(kernel.times.values()) / kernel.times["memory"], 2),
        "registers": kernel.registers,
        "spill_bytes": kernel.spill_bytes,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("target", "package", "optimizer", "bytes", "instr.", *SHOWN, "bound by", "x memory")
    for row in rows:
        numbers = (f"{row['by_kind'][kind]:.1f}" for kind in SHOWN)
        counts = (f"{row['bytes']:.2f}", f"{row['instructions']:.1f}", *numbers)
        table.add_row(row["target"], row["package"], row["optimizer"], *counts, row["bound_by"], f"{row['over_memory']:.2f}")
    return table


if __name__ == "__main__":
    main()
