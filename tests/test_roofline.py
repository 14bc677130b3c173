"""What bounds a step: the path of the bulk, counted in machine code; devices' figures; what every shipped spec may take."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from optgen.analysis import devices
from optgen.analysis.devices import load_devices
from optgen.analysis.gpu_code import TARGETS, compile_kernel
from optgen.analysis.machine_code import PathError, bulk_path, parse_amdgcn, parse_sass
from optgen.analysis.memory import MATRIX
from optgen.analysis.pipes import KINDS, WORDS, by_kind, kind, words
from optgen.analysis.roofline import PARAMS, roofline
from optgen.build import build
from optgen.cli.main import main
from optgen.cli.roofline import DTYPES
from optgen.cli.roofline import TARGETS as SHOWN_TARGETS
from optgen.ir.constants import default_flags
from optgen.ir.infer import walk
from optgen.ir.nodes import Assign, Call, Domain, Op
from optgen.plan.nodes import Kernel
from optgen.plan.traffic import is_made, used_buffers
from tests.conftest import SHIPPED
from tests.test_gpu_code import KINDS as KINDS_OF_SPECS
from tests.test_gpu_code import looked_up, share

pytest.importorskip("triton")

BUDGETS = Path(__file__).with_name("roofline_budgets.json")


def sass(lines: str) -> str:
    """Lines as nvdisasm prints them, an instruction or a label each."""
    texts = [line.strip() for line in lines.strip().splitlines()]
    return "\n".join(text if text.endswith(":") else f"        /*{16 * n:04x}*/      {text} ;" for n, text in enumerate(texts))


def operations(lines: str) -> list[str]:
    return [one.operation for one in bulk_path(parse_sass(sass(lines)))]


TILE = """
    S2R R0, SR_TID.X
    ISETP.GT.AND P0, PT, R0, R1, PT
    @P0 BRA `(.L_x_0)
    LDG.E.128 R4, desc[UR6][R2.64]
    FCHK P0, R4, R5
    BSSY B0, `(.L_x_2)
    @!P0 BRA `(.L_x_1)
    MOV R9, 0x60
    CALL.REL.NOINC `($__internal_0_$slow)
    .L_x_1:
    BSYNC B0
    .L_x_2:
    @P1 BRA `(.L_x_3)
    STG.E desc[UR6][R2.64], R4
    .L_x_3:
    @P2 STG.E.128 desc[UR6][R2.64], R4
    STG.E.128 desc[UR6][R2.64], R4
    NOP
    @!P4 EXIT
    STG.E.U8 desc[UR6][R2.64], R4
    EXIT
    .L_x_0:
    @P0 LDG.E.U16 R4, desc[UR6][R2.64]
    @P0 STG.E.U16 desc[UR6][R2.64], R4
    EXIT
    $__internal_0_$slow:
    FADD R1, R2, R3
    RET.REL.NODEC R9 `(update)
    .L_x_4:
    BRA `(.L_x_4)
    """


def test_the_bulk_is_the_branch_without_masks() -> None:
    """It passes the slow way of a division and takes what one lane stores."""
    assert operations(TILE) == [
        *("S2R", "ISETP.GT.AND", "BRA", "LDG.E.128", "FCHK", "BSSY", "BRA", "BSYNC"),
        *("BRA", "STG.E", "STG.E.128", "STG.E.128", "EXIT", "STG.E.U8", "EXIT"),
    ]
    swapped = TILE.replace("@P0 BRA `(.L_x_0)", "@P0 BRA `(.L_x_8)\n BRA `(.L_x_0)\n .L_x_8:")
    assert len(operations(swapped)) == len(operations(TILE))


def test_code_with_masks_alone_is_counted_whole() -> None:
    """As others write kernels: of a full block every access is made."""
    lines = "@P0 BRA `(.L_x_0)\n @P1 LDG.E R4, desc[UR6][R2.64]\n FADD R1, R2, R3\n .L_x_0:\n EXIT"
    assert operations(lines) == ["BRA", "LDG.E", "FADD", "EXIT"]


def test_a_loop_may_be_counted_for_one_turn() -> None:
    """Also one that is left by what looks like a call."""
    lines = "MOV R1, R2\n .L_x_0:\n LDG.E R4, desc[UR6][R2.64]\n @P1 CALL.REL.NOINC `(.L_x_1)\n BRA `(.L_x_0)\n .L_x_1:\n EXIT"
    code = parse_sass(sass(lines))
    assert [one.operation for one in bulk_path(code, one_turn=True)] == ["MOV", "LDG.E", "CALL.REL.NOINC", "EXIT"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (".L_x_0:\n LDG.E.128 R4, desc[UR6][R2.64]\n @P0 BRA `(.L_x_0)\n EXIT", "loop"),
        ("CALL.REL.NOINC `($f)\n EXIT\n $f:\n RET.REL.NODEC R9 `(update)", "calls"),
        ("BRX R2 -0x40\n EXIT", "unknown place"),
        (".L_x_0:\n BRA `(.L_x_0)\n EXIT", "nothing leaves"),
    ],
)
def test_what_cannot_be_counted_is_refused(lines: str, reason: str) -> None:
    with pytest.raises(PathError, match=reason):
        operations(lines)


def test_the_bulk_of_amd_code() -> None:
    """Both branches meet before the end; jumps for want of lanes are not taken."""
    text = """
    update:
    \ts_load_dwordx2 s[0:1], s[0:1], 0x0
    \ts_cbranch_vccnz .LBB0_2
    \tglobal_load_dwordx4 v[0:3], v0, s[0:1] ; a comment
    \ts_and_saveexec_b64 s[0:1], s[2:3]
    \ts_cbranch_execz .LBB0_1
    \tglobal_store_dword v0, v1, s[0:1]
    .LBB0_1:
    \tbuffer_store_dwordx4 v[0:3], v11, s[24:27], 0 offen
    .LBB0_2:                                ; %Flow
    \ts_cbranch_vccnz .LBB0_4
    \tglobal_load_ushort v0, v0, s[0:1]
    \tglobal_load_dwordx4 v[0:3], v0, s[0:1]
    \tglobal_store_short v0, v1, s[0:1]
    .LBB0_4:
    \ts_endpgm
    """
    found = [one.operation for one in bulk_path(parse_amdgcn(re.sub(r"^    ", "", text, flags=re.MULTILINE)))]
    assert found == [
        *("s_load_dwordx2", "s_cbranch_vccnz", "global_load_dwordx4", "s_and_saveexec_b64", "s_cbranch_execz"),
        *("global_store_dword", "buffer_store_dwordx4", "s_cbranch_vccnz", "s_endpgm"),
    ]


@pytest.mark.parametrize(
    ("operation", "expected", "moved"),
    [
        *(("FFMA.FTZ", "fp32", 0), ("IMAD.WIDE.U32", "multiply", 0), ("FMNMX", "integer", 0), ("FSETP.GT.AND", "integer", 0)),
        *(("LOP3.LUT", "integer", 0), ("F2FP.BF16.F32.PACK_AB", "packing", 0), ("F2I.TRUNC.NTZ", "conversion", 0)),
        *(("MUFU.RCP", "special", 0), ("LDG.E.128", "global", 4), ("STG.E.U16", "global", 1), ("LDS.64", "shared", 2)),
        *(("LDSM.16.M88.4", "shared", 4), ("SHFL.BFLY", "shuffle", 1), ("ULEA.HI.X", "uniform", 0), ("BAR.SYNC", "control", 0)),
        *(("v_pk_fma_f32", "fp32", 0), ("v_max_f32_e32", "integer", 0), ("v_cmp_le_f32_e64", "integer", 0)),
        *(("v_mul_hi_u32", "multiply", 0), ("v_rcp_f32_e32", "special", 0), ("v_mov_b32_dpp", "shuffle", 0)),
        *(("ds_read2_b64", "shared", 4), ("ds_bpermute_b32", "shuffle", 1), ("global_load_dwordx4", "global", 4)),
        *(("s_add_u32", "uniform", 0), ("s_waitcnt", "control", 0), ("v_cvt_f32_u32_e32", "conversion", 0)),
    ],
)
def test_kinds(operation: str, expected: str, moved: int) -> None:
    assert (kind(operation), words(operation)) == (expected, moved)


def test_every_number_of_a_device_has_a_source() -> None:
    path = Path(devices.__file__).with_name("devices.yaml")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))["devices"]
    assert set(data) == set(TARGETS) == set(SHOWN_TARGETS) == set(load_devices())
    for entry in data.values():
        figures = [entry[name] for name in ("units", "clock_ghz", "bandwidth_tb_s")]
        assert all(figure["value"] > 0 and len(figure["source"]) > 10 for figure in figures)
        assert all(pipe["lanes"] > 0 and len(pipe["source"]) > 10 for pipe in entry["pipes"].values())
        assert all(set(pipe["takes"]) <= {*KINDS, WORDS} for pipe in entry["pipes"].values())
        assert set(entry["pipes"]["issue"]["takes"]) == set(KINDS)
        assert {kind for pipe in entry["pipes"].values() for kind in pipe["takes"]} == {*KINDS, WORDS}


def test_times_follow_from_figures() -> None:
    """52 instructions for 22 bytes on an H100: 132 x 128 lanes at 1.755 GHz, 3.35 TB/s."""
    kinds = dict.fromkeys((*KINDS, WORDS), 0.0) | {"fp32": 22.0, "integer": 30.0}
    times = load_devices()["sm_90"].times(22, kinds)
    assert times["memory"] == pytest.approx(6.567, abs=1e-3)
    assert times["issue"] == pytest.approx(52 / (132 * 128 * 1.755e-3))
    assert times["integer"] == pytest.approx(30 / (132 * 64 * 1.755e-3))


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_the_path_is_all_but_the_slow_ways_of_divisions(name: str, target: str) -> None:
    """A tile of the bulk has no masks: each access and exchange is there once."""
    plan = build(str(SHIPPED[name])).plan.kernels[-1]
    kernel = importlib.import_module(f"optgen.generated.{name}.triton_backend").KERNELS[-1]
    code = compile_kernel(kernel, target, flags=dict.fromkeys(plan.flags, False))
    path, whole = by_kind(code.bulk), by_kind(code.operations)
    for what in ("global", "shared", "shuffle", "conversion"):
        assert path[what] == whole[what], what
    assert 0.9 * sum(code.operations.values()) < sum(code.bulk.values()) <= sum(code.operations.values())
    if name == "adamw" and target == "sm_90":  # no division with a slow way: straight-line code
        assert code.bulk == {op: n - (op == "BRA") for op, n in code.operations.items() if op != "BRA" or n > 1}


def statements(kernel: Kernel) -> list[Assign]:
    return [statement for function in kernel.functions for statement in function.body]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_no_shipped_spec_takes_more_than_its_budget(target: str) -> None:
    """The most instructions, and the most that the integer side takes, per element with bf16 parameters.

    What selects no quantile, and has no scale of its own for each element, is bound by memory.
    OPTGEN_UPDATE=1 writes the figures of now; they should fall.
    """
    names = sorted(SHIPPED) if target == "sm_90" else list(KINDS_OF_SPECS)
    found = {}
    for name in names:
        built = build(str(SHIPPED[name]))
        rules = built.plan.rules[: built.spec.place_of(MATRIX) + 1]  # up to that of a matrix
        step, plan = roofline(built, target).step, rules[-1].kernels[-1]
        entry = importlib.import_module(f"optgen.generated.{name}.triton_backend").KERNELS[
            sum(len(r.kernels) for r in rules) - 1
        ]
        assert step.spill_bytes == 0
        flags = default_flags(plan.program)
        sweeps = [sweep for sweep in plan.sweeps if sweep.over == Domain.ELEMENT and is_made(sweep, flags)]
        used = [b for sweep in sweeps for b in used_buffers(sweep, flags) if b.key or b.name in ("param", "grad")]
        present = [b for b in used if b.guard is None or flags.get(b.guard.flag, False) == b.guard.holds]
        whole = [(b.read + b.written) * (share(b, entry.tile, entry.threads, "bf16", "bf16") // 16) for b in present]
        calls = any(isinstance(node, Call) for sweep in sweeps for s in sweep.body for node in walk(s.value))
        tables = looked_up(entry) if calls else 0
        wide = step.accesses[128] - sum(whole) - tables  # and what is of columns, which elements do not count
        assert wide >= 0 if plan.grid else wide == 0, f"another path than the bulk's of {name}"
        selects = any(isinstance(node, Op) and node.op == "block_low" for s in statements(plan) for node in walk(s.value))
        if not selects:
            assert step.bound_by == "memory", f"{name} is bound by {step.bound_by}"
        integer = step.kinds["integer"] + step.kinds["packing"]
        found[name] = {"instructions": round(step.instructions, 2), "integer": round(integer, 2)}
    budgets = json.loads(BUDGETS.read_text(encoding="utf-8")) if BUDGETS.exists() else {}
    if os.environ.get("OPTGEN_UPDATE"):
        BUDGETS.write_text(json.dumps({**budgets, target: found}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    assert set(budgets[target]) == set(found)
    over = [(name, what, n) for name, facts in found.items() for what, n in facts.items() if n > budgets[target][name][what]]
    assert not over, "more than in tests/roofline_budgets.json"


@pytest.mark.parametrize(("target", "most"), [("sm_80", 55.9), ("sm_90", 59.4)])
def test_8_bit_adamw_beside_what_rounds_to_nearest_too(target: str, most: float) -> None:
    """FlashOptim's kernel takes 96 instructions, bitsandbytes' 255; neither makes random bits for the parameters."""
    built = build(str(SHIPPED["adamw_8bit"]))
    nearest, stochastic = (roofline(built, target, rounding=rounding).step for rounding in ("nearest", "stochastic"))
    assert nearest.instructions <= most
    assert nearest.instructions + 6 < stochastic.instructions < nearest.instructions + 9
    assert nearest.bytes_moved == stochastic.bytes_moved


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["roofline", *arguments])


def test_the_table_says_what_bounds_a_step(tmp_path: Path) -> None:
    picture = tmp_path / "roofline.png"
    result = run("adamw", "--picture", str(picture))
    assert result.exit_code == 0, result.output
    assert "AdamW is bound by memory: 6.57 ps per element" in result.output
    assert all(what in result.output for what in ("H100 SXM", "22.00", "ps, integer", *KINDS))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_has_all_of_it() -> None:
    result = run("adamw_8bit", "--json")
    data = json.loads(result.output)
    assert (data["optimizer"], data["target"], data["param"], data["grad"]) == ("AdamW8bit", "sm_90", "bf16", "bf16")
    assert data["device"]["units"] == 132
    assert [kernel["name"] for kernel in data["kernels"]] == ["update", "update_coded"]
    for kernel in data["kernels"]:
        assert kernel["instructions"] == pytest.approx(sum(kernel["by_kind"].values()))
        assert kernel["bound_by"] == max(kernel["picoseconds"], key=kernel["picoseconds"].get)
        assert set(kernel["picoseconds"]) == {"memory", *data["device"]["lanes"]}
        assert kernel["accesses"]["128"] > 0
    assert data["bound_by"] == data["kernels"][-1]["bound_by"]
    assert data["kernels"][1]["bytes"] == pytest.approx(10 + 4 * 4 / 256)  # codes of a byte; a scale each for 256 of them


def test_dtypes_and_targets() -> None:
    data = json.loads(run("adamw", "--param", "fp32", "--target", "gfx942", "--json").output)
    assert (data["param"], data["grad"], data["kernels"][0]["bytes"]) == ("fp32", "fp32", 28)
    data = json.loads(run("adamw", "--param", "bf16", "--grad", "fp32", "--json").output)
    assert data["kernels"][0]["bytes"] == 24
    assert list(DTYPES) == list(PARAMS)
    nearest, default = (
        json.loads(run("adamw_bf16", *options, "--json").output)["kernels"][0] for options in (("--rounding", "nearest"), ())
    )
    assert nearest["bytes"] == default["bytes"] and nearest["instructions"] < default["instructions"]


def test_sweeps_are_summed(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    text = "name: Wide\nsummary: A wide scale.\nextends: lion\nstate:\n  m: {storage: {codebook: e4m3, block: tensor}}\n"
    path.write_text(text, encoding="utf-8")
    for target, tables in (("sm_90", [0, 0]), ("gfx942", [0, 1])):  # of addresses, read 128 bits at a time too
        data = json.loads(run(str(path), "--target", target, "--json").output)
        whole = [kernel["accesses"]["128"] for kernel in data["kernels"]]
        assert whole == [3 + 4 + tables[0], 3 + 8 + tables[1]]  # p, g and m; g and codes, then p, g and codes
        assert data["kernels"][1]["bytes"] == (2 + 1 + 8 / 128) + (4 + 2 + 2)  # g, codes, parts of the scale; p, g, codes


def test_faults_are_told(monkeypatch) -> None:
    assert "Invalid value for '--target'" in run("adamw", "--target", "sm_70").output
    assert "Invalid value for '--param'" in run("adamw", "--param", "fp64").output
    assert run("no_such_spec.yaml").exit_code == 1
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    result = run("adamw")
    assert result.exit_code == 1
    assert "unset TRITON_INTERPRET" in result.output


def test_facts_are_kept(tmp_path: Path, monkeypatch, generate: Callable[..., object]) -> None:
    """The second time nothing is compiled; a damaged file is made anew."""
    import triton

    monkeypatch.setenv("OPTGEN_CACHE_DIR", str(tmp_path))
    built = build(str(SHIPPED["sgd"]))
    first = roofline(built, "sm_90")
    files = list(tmp_path.glob("*.json"))
    assert len(files) == 1
    files[0].write_text("{", encoding="utf-8")
    assert roofline(built, "sm_90") == first
    monkeypatch.setattr(triton, "compile", None)
    assert roofline(built, "sm_90") == first
