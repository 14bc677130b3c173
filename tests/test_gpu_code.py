"""Static facts of the GPU code, compiled ahead of time without a GPU: it compiles, does not spill, moves 128 bits at a time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from optgen.analysis.gpu_code import TARGETS, GpuCode, compile_kernel
from optgen.build import build
from optgen.in_memory import package_of
from optgen.ir.infer import walk
from optgen.ir.nodes import Call, Domain
from optgen.plan.nodes import Buffer, Kernel, Layout
from optgen.plan.traffic import used_buffers
from tests.conftest import SHIPPED
from tests.test_rows import FACTORED, HEAD

pytest.importorskip("triton")

KINDS = ("sgd", "adamw", "lion", "stable_adam16", "adamw_8bit", "solo")  # no state, floats, 16-bit floats, codes, selection
SPECS = sorted(SHIPPED)
DTYPES = (("bf16", "bf16"), ("fp32", "fp32"), ("bf16", "fp32"))
BYTES = {"bf16": 2, "fp32": 4}


def kernels(name: str) -> list[tuple[Kernel, Any]]:
    """The planned kernels of a shipped spec beside those of its Triton module."""
    module = importlib.import_module(f"optgen.generated.{name}.triton_backend")
    return list(zip(build(str(SHIPPED[name])).plan.kernels, module.KERNELS, strict=True))


def share(buffer: Buffer, tile: int, threads: int, param: str, grad: str) -> float:
    """Bytes of a buffer that one thread moves in a full tile."""
    if buffer.layout not in (Layout.ELEMENT, Layout.CODE):
        return 0
    if buffer.layout == Layout.CODE:
        assert buffer.state is not None and buffer.state.storage is not None
        return tile * buffer.state.storage.bits / 8 / threads
    sizes = {"param": BYTES[param], "grad": BYTES[grad], "real": 4, "bfloat16": 2, "float16": 2, "correction": 2}
    return tile * sizes[buffer.dtype] / threads


def wide_accesses(buffers: Sequence[Buffer], tile: int, threads: int, param: str, grad: str) -> tuple[int, int]:
    """How many 128-bit loads and stores the bulk of a tile takes, when all flags are off."""
    present = [b for b in buffers if b.guard is None or not b.guard.holds]  # not the corrections
    shares = [(b, share(b, tile, threads, param, grad)) for b in present]
    loads = sum(size // 16 for b, size in shares if b.read and size >= 16)
    stores = sum(size // 16 for b, size in shares if b.written and size >= 16)
    return int(loads), int(stores)


def looked_up(kernel: Any) -> int:
    """How many 128-bit loads the tables of a kernel take."""
    entries = [table.entries * (1 + getattr(table, "signed", False)) for table in kernel.tables]
    return sum(count * 4 // kernel.threads // 16 for count in entries)


def compiled(entry: Any, target: str, where: str, **given: Any) -> GpuCode:
    """The code for the bulk; neither that nor the one for other tiles spills."""
    bulk, rest = (compile_kernel(entry, target, bulk=is_bulk, **{"whole": is_bulk, **given}) for is_bulk in (True, False))
    assert (bulk.spill_bytes, rest.spill_bytes) == (0, 0), where
    return bulk


def facts(code: GpuCode) -> tuple[int, int]:
    """128-bit loads and stores of a kernel."""
    if code.target == "gfx942":
        count = {
            way: sum(n for op, n in code.operations.items() if op.endswith(f"_{way}_dwordx4")) for way in ("load", "store")
        }
        return count["load"], count["store"]
    return code.operations.get("LDG.E.128", 0), code.operations.get("STG.E.128", 0)


@pytest.mark.parametrize(
    ("name", "target"), [(name, target) for name in SPECS for target in TARGETS if target == "sm_90" or name in KINDS]
)
def test_every_kernel_compiles_without_spills_and_with_wide_accesses(name: str, target: str) -> None:
    pairs = DTYPES if target == "sm_90" and name in KINDS else DTYPES[:1]
    for plan, entry in kernels(name):
        for param, grad in pairs:
            where = f"{name}.{plan.name} for {target}, {param} parameters and {grad} gradients"
            for number, sweep in enumerate(plan.sweeps):
                flags = dict.fromkeys(plan.flags, False) | ({sweep.when.flag: sweep.when.holds} if sweep.when else {})
                code = compiled(entry, target, where, param=param, grad=grad, flags=flags, sweep=number)
                loads, stores = facts(code)
                expected = wide_accesses(used_buffers(sweep, flags), entry.tile, entry.threads, param, grad)
                calls = any(isinstance(node, Call) for s in sweep.body for node in walk(s.value))
                expected = expected[0] + (looked_up(entry) if calls else 0), expected[1]
                if plan.grid:  # what is of rows and columns may be wide too; sweeps over these alone have masks
                    is_wide = loads >= expected[0] and stores >= expected[1]
                    assert is_wide or sweep.over != Domain.ELEMENT, where
                elif target == "gfx942":  # rows of the tensor table may be read 128 bits at a time too
                    assert loads >= expected[0], where
                    assert stores == expected[1], where
                else:
                    assert (loads, stores) == expected, where


@pytest.mark.parametrize("name", SPECS)
def test_every_flag_compiles(name: str) -> None:
    """Each flag alone for one optimizer of each kind, all at once for the others."""
    for plan, entry in kernels(name):
        for chosen in [{flag} for flag in plan.flags] if name in KINDS else [set(plan.flags)]:
            where = f"{name}.{plan.name} with {', '.join(chosen)}"
            compiled(entry, "sm_90", where, flags={flag: flag in chosen for flag in plan.flags}, whole=False)


@pytest.mark.parametrize("mode", ["nearest", "kahan", "correction8", "correction16"])
def test_every_low_precision_compiles(mode: str) -> None:
    """The default, "stochastic", is what the other tests compile. A correction moves in wide accesses too."""
    for name in ("adamw", "adamw_8bit"):
        for plan, entry in kernels(name):
            for param in ("bf16", "fp16") if name == "adamw" else ("bf16",):  # the runtime's rounding is all that differs
                flags = dict.fromkeys(plan.flags, False)
                where = f"{name}.{plan.name} with {param} parameters"
                code = compiled(entry, "sm_90", where, param=param, grad=param, flags=flags, low_precision=mode)
                tile = entry.tile_of({**flags, "low_precision": mode})
                loads, stores = wide_accesses(plan.buffers, tile, entry.threads, "bf16", "bf16")
                extra = 0 if mode in ("nearest", "correction8") else 2 * tile // entry.threads // 16
                assert facts(code) == (loads + looked_up(entry) + extra, stores + extra)


def test_every_sweep_compiles_without_spills_and_with_wide_accesses(generate: Callable[[str], ModuleType]) -> None:
    """Scales of rows and of the tensor need a sweep of their own."""
    text = """
        name: Wide
        summary: AdamW with wide scales.
        extends: adamw
        state:
          m: {storage: {codebook: dynamic_exponent, bits: 8, block: row}}
          v: {storage: {codebook: e4m3, block: tensor}}
        """
    module = generate(text)
    path = Path(module.__path__[0]).parent.parent / f"{module.__name__}.yaml"
    kernels = importlib.import_module(f"{module.__name__}.triton_backend").KERNELS
    assert [len(kernel.sweeps) for kernel in kernels] == [1, 2]
    for plan, kernel in zip(build(str(path)).plan.kernels, kernels, strict=True):
        for number, sweep in enumerate(plan.sweeps):
            code = compiled(kernel, "sm_90", sweep.name, flags=dict.fromkeys(plan.flags, False), sweep=number)
            loads, stores = wide_accesses(sweep.buffers, kernel.tile, kernel.threads, "bf16", "bf16")
            tables = looked_up(kernel) if number == 1 else 0  # the first sweep only finds the scales
            assert facts(code) == (loads + tables, stores)


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_of_rows_compile_without_spills_and_with_wide_accesses(target: str, tmp_path: Path) -> None:
    """Sweeps over vectors have masks always, so only their spills are looked at."""
    path = tmp_path / "rows.yaml"
    path.write_text(HEAD + FACTORED.lstrip(), encoding="utf-8")
    built = build(str(path))
    (plan,) = built.plan.kernels
    (kernel,) = importlib.import_module(f"{package_of(built)}.triton_backend").KERNELS
    flags = dict.fromkeys(plan.flags, False)
    for number, sweep in enumerate(plan.sweeps):
        if sweep.over != Domain.ELEMENT:
            code = compile_kernel(kernel, target, flags=flags, sweep=number, bulk=False, whole=False)
            assert code.spill_bytes == 0, sweep.name
            continue
        code = compiled(kernel, target, sweep.name, flags=flags, sweep=number)
        present = [b for b in sweep.buffers if b.dtype in ("param", "grad")]
        loads, stores = wide_accesses(present, kernel.tile, kernel.threads, "bf16", "bf16")
        assert facts(code)[0] >= loads, sweep.name  # values of columns are wide too
        assert facts(code)[1] == stores, sweep.name
        narrow = ("LDG.E.U16", "STG.E.U16", "global_load_ushort", "global_store_short")
        assert not any(operation.startswith(narrow) for operation in code.operations), sweep.name
        assert not code.fault, sweep.name  # such as a division of 64 bits, which is a call


@pytest.mark.parametrize("op", ["max", "min", "sum", "mean"])
@pytest.mark.parametrize("target", TARGETS)
def test_what_joins_the_parts_of_reductions_compiles(target: str, op: str) -> None:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from optgen.runtime.triton_reduce import join_parts

    constants = {(1,): op, (2,): tl.float32, (3,): 1024}
    signature = {"parameters": "*i64", **dict.fromkeys(("OP", "REAL", "CHUNK"), "constexpr")}
    source = ASTSource(join_parts, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget(*TARGETS[target])).asm


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "solo"])
def test_float64_parameters_compile(name: str) -> None:
    for plan, entry in kernels(name):
        code = compiled(entry, "sm_90", plan.name, param="fp64", grad="fp64", flags=dict.fromkeys(plan.flags, False))
        assert any(operation.startswith("DFMA") for operation in code.operations)


@pytest.mark.parametrize(("block", "threads", "doubles"), [(1024, 256, 248), (2048, 512, 128)])
def test_large_blocks_compile(block: int, threads: int, doubles: int, generate: Callable[[str], ModuleType]) -> None:
    """A tile with masks has a whole block too, and more threads for it; a processor has 65,536 registers."""
    storage = f"{{storage: {{codebook: dynamic_exponent, bits: 8, block: {block}}}}}"
    module = generate(
        f"name: Large\nsummary: AdamW with large blocks.\nextends: adamw\nstate: {{m: {storage}, v: {storage}}}\n"
    )
    kernel = importlib.import_module(f"{module.__name__}.triton_backend").KERNELS[-1]
    compiled(kernel, "sm_90", f"blocks of {block}", flags={"amsgrad": False, "maximize": False}, whole=False)
    given = [kernel.options("cuda", 32, block, bulk=False, double=double) for double in (False, True)]
    assert given == [{"num_warps": threads // 32, "maxnreg": most} for most in (128, doubles)]


def test_offsets_have_64_bits() -> None:
    """A parameter of more than 2**31 elements: addresses are computed in 64 bits from the table on."""
    for name in ("adamw", "solo"):
        for plan, entry in kernels(name):
            code = compile_kernel(entry, "sm_90", flags=dict.fromkeys(plan.flags, False))
            assert any(operation.startswith("IMAD.WIDE") for operation in code.operations), plan.name


def test_arithmetic_is_float32() -> None:
    """bfloat16 is only a storage format: no instruction computes in it."""
    for name in ("adamw", "solo", "adamw_8bit"):
        for plan, entry in kernels(name):
            code = compile_kernel(entry, "sm_90", flags=dict.fromkeys(plan.flags, False))
            low = [operation for operation in code.operations if operation.startswith(("HADD", "HMUL", "HFMA2.BF"))]
            assert not [operation for operation in low if operation.startswith(("HMUL", "HADD2.BF"))], low
            assert not any(
                operation.startswith("D") and operation[1:4] in ("ADD", "MUL", "FMA") for operation in code.operations
            )
