"""How each operation is written in torch. `@` marks a function of the runtime."""

from optgen.ir.ops import REDUCED, REDUCTIONS, SCOPES

__all__ = ["FORMATS", "HOST_FORMATS"]

TAKEN = {"sum": "sum", "mean": "mean", "max": "amax", "min": "amin"}
DIMS = {
    "all": "",
    "rows": ", -2, keepdim=True",
    "cols": ", -1, keepdim=True",
    "matrix": ", (-2, -1), keepdim=True",
    **dict.fromkeys(SCOPES, ""),
}

FORMATS = {
    "abs": "torch.abs({0})",
    "sqrt": "torch.sqrt({0})",
    "rsqrt": "torch.rsqrt({0})",
    "exp": "torch.exp({0})",
    "log": "torch.log({0})",
    "sign": "@sign({0})",
    "min": "torch.minimum({0}, {1})",
    "max": "torch.maximum({0}, {1})",
    "where": "torch.where({0}, {1}, {2})",
    "mul_high": "@mul_high({0}, {1})",
    "mul_high16": "@mul_high16({0}, {1})",
    "share16": "@mul_high16({0}, {1})",
    "real": "({0}).to(torch.float32)",
    "trunc": "({0}).to(torch.int32)",
    "bits": "({0}).view(torch.int32)",
    "from_bits": "({0}).view(torch.float32)",
    "reciprocal": "torch.reciprocal({0})",
    "is_finite": "torch.isfinite({0})",
    "block_max": "torch.amax({0}, dim=-1, keepdim=True)",
    "block_min": "torch.amin({0}, dim=-1, keepdim=True)",
    "row_max": "torch.amax({0}, dim=(-2, -1), keepdim=True)",
    "row_min": "torch.amin({0}, dim=(-2, -1), keepdim=True)",
    "tensor_max": "torch.amax({0}, dim=(-3, -2, -1), keepdim=True)",
    "tensor_min": "torch.amin({0}, dim=(-3, -2, -1), keepdim=True)",
    "block_count": "torch.sum({0}, dim=-1, keepdim=True, dtype=torch.int32)",
    "block_low": "@block_low({0}, {1}, {2})",
    "block_select": "@block_select({0}, {1}, {2})",
    **{op: f"torch.{TAKEN[how]}({{0}}{DIMS[REDUCED[op][0]]})" for op, how in REDUCTIONS.items()},
    "number": "{0}",
    "spread_rows": "{0}",
    "spread_cols": "{0}",
    "spread_matrices": "{0}",
    "spread": "{0}.expand(param.shape)",
    "stochastic_bfloat16": "@stochastic_bfloat16({0}, {1})",
    "stochastic_float16": "@stochastic_float16({0}, {1})",
}
# Host scalars, by functions of `optgen.runtime.host`.
HOST_FORMATS = {
    **{name: f"@{name}({{0}})" for name in ("sqrt", "rsqrt", "exp", "log", "sign")},
    "abs": "@absolute({0})",
    "min": "@minimum({0}, {1})",
    "max": "@maximum({0}, {1})",
    "where": "@where({0}, {1}, {2})",
}
