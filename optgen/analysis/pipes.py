"""Instructions by what executes them: the kinds that the pipes of devices.yaml take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from optgen.analysis.machine_code import access_bits

__all__ = ["KINDS", "WORDS", "by_kind", "kind", "words"]

KINDS = {
    "fp32": "floating-point add, multiply and multiply-add",
    "multiply": "integer multiply-add, which NVIDIA's compiler also uses to move and shift",
    "integer": "integer, logic, shift, compare, minimum, maximum and select, of floats too",
    "packing": "packing of two floats into 16-bit ones, and quick conversions of integers",
    "conversion": "other conversions of numbers",
    "special": "reciprocal, square root, exponential and logarithm",
    "global": "loads and stores of global memory",
    "shared": "loads and stores of shared memory",
    "shuffle": "values from other lanes",
    "uniform": "what is done once for all lanes",
    "control": "branches, barriers and the rest",
}
WORDS = "words"  # of 32 bits, moved between a lane's registers and memory; a pipe may be bound by them

FP32 = ("FADD", "FMUL", "FFMA", "FADD2", "FMUL2", "FFMA2", "HADD2", "HMUL2", "HFMA2", "DADD", "DMUL", "DFMA")
INTEGER = """
IADD IADD3 IADD32I VIADD IABS VABSDIFF LEA SHF SHL SHR SGXT BMSK BREV FLO POPC LOP LOP3 LOP32I PLOP3 PRMT SEL FSEL ISETP ISET
ICMP FSETP FSET FCMP FCHK DSETP IMNMX VIMNMX VIMNMX3 VIADDMNMX FMNMX FMNMX3 DMNMX HMNMX2 HSETP2 HSET2 MOV MOV32I CS2R P2R R2P
"""
SASS = {
    **dict.fromkeys(FP32, "fp32"),
    **dict.fromkeys(("IMAD", "IMUL", "IDP", "IDP4A", "XMAD", "IMAD32I"), "multiply"),
    **dict.fromkeys(INTEGER.split(), "integer"),
    **dict.fromkeys(("F2FP", "I2FP", "I2IP"), "packing"),
    **dict.fromkeys(("F2F", "F2I", "I2F", "FRND", "I2I", "F2IP"), "conversion"),
    "MUFU": "special",
    **dict.fromkeys(("SHFL", "REDUX", "VOTE", "MATCH"), "shuffle"),
    **dict.fromkeys(("S2UR", "R2UR", "VOTEU", "REDUXU"), "uniform"),
}
AMD_SPECIAL = ("v_rcp", "v_sqrt", "v_rsq", "v_exp", "v_log", "v_sin", "v_cos")
AMD_MULTIPLY = ("v_mul_lo_u32", "v_mul_hi", "v_mad_u64", "v_mad_i64")
AMD_FP32 = ("add", "sub", "subrev", "mul", "fma", "mac", "fmac", "fmamk", "fmaak", "mad", "madmk", "madak", "div", "ldexp")


def by_kind(operations: Mapping[str, int]) -> dict[str, int]:
    """How many instructions of each kind there are, and how many words of 32 bits they move."""
    found = Counter(dict.fromkeys((*KINDS, WORDS), 0))
    for operation, count in operations.items():
        found[kind(operation)] += count
        found[WORDS] += count * words(operation)
    return dict(found)


def words(operation: str) -> int:
    """Words of 32 bits that a lane moves by an access; a smaller one takes as long as a whole word, a shuffle too."""
    if kind(operation) == "shuffle":
        return int(not operation.startswith("v_"))
    return -(-max(access_bits(operation), access_bits(operation, shared=True)) // 32)


def kind(operation: str) -> str:
    """The kind of an instruction, by its full mnemonic."""
    if access_bits(operation):
        return "global"
    if access_bits(operation, shared=True):
        return "shared"
    return _amd_kind(operation) if operation[0].islower() else _sass_kind(operation.split(".", 1)[0])


def _sass_kind(name: str) -> str:
    if name in SASS:
        return SASS[name]
    return "uniform" if name.startswith("U") else "control"


def _amd_kind(operation: str) -> str:
    if operation.startswith(("s_cbranch", "s_branch", "s_waitcnt", "s_barrier", "s_nop", "s_endpgm", "s_sleep", "s_setprio")):
        return "control"
    if operation.startswith("s_") or "readfirstlane" in operation:
        return "uniform"
    if operation.endswith("_dpp") or operation.startswith(
        ("ds_bpermute", "ds_permute", "ds_swizzle", "v_readlane", "v_writelane")
    ):
        return "shuffle"
    if operation.startswith(AMD_SPECIAL):
        return "special"
    if operation.startswith("v_cvt_pk"):
        return "packing"
    if operation.startswith("v_cvt"):
        return "conversion"
    if operation.startswith(AMD_MULTIPLY):
        return "multiply"
    name = operation.removeprefix("v_").removeprefix("pk_")
    if name.startswith(("div_scale", "div_fmas", "div_fixup")) or ("_f" in name and name.split("_")[0] in AMD_FP32):
        return "fp32"
    return "integer" if operation.startswith("v_") else "control"
