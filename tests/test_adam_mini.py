"""Adam-mini's partition by name and tag, against the authors' package, and the traps that it falls into."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adam_mini import Adam_mini
from torch import Tensor

from optgen.generated.adam_mini import AdamMini
from tests.test_oracles import STEPS, gradients

DIM, HEADS, HEAD = 32, 4, 8
LLAMA = {
    "model.embed_tokens.weight": (50, DIM),
    "model.layers.0.self_attn.q_proj.weight": (DIM, DIM),
    "model.layers.0.self_attn.k_proj.weight": (2 * HEAD, DIM),  # two heads of keys and values
    "model.layers.0.self_attn.v_proj.weight": (2 * HEAD, DIM),
    "model.layers.0.self_attn.o_proj.weight": (DIM, DIM),
    "model.layers.0.self_attn.q_proj.bias": (DIM,),
    "model.layers.0.mlp.gate_proj.weight": (80, DIM),
    "model.layers.0.mlp.down_proj.weight": (DIM, 80),
    "model.layers.0.input_layernorm.weight": (DIM,),
    "model.norm.weight": (DIM,),
    "lm_head.weight": (50, DIM),
}
RULES = ["row", "head", "head", "row", "row", "element", "row", "row", "norm", "norm", "row"]


def named(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes.values()]
    return [(name, torch.nn.Parameter(p)) for name, p in zip(shapes, made, strict=True)]


def rules_of(optimizer: Any) -> list[str]:
    """The rule of each parameter, as `explain()` says."""
    head, *lines = optimizer.explain().split("\n")
    at = head.index("rule")
    return [line[at:].split()[0] for line in lines]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("options", [{}, {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}], ids=str)
def test_equals_the_authors_package(options: dict[str, Any], backend: str, dtype: torch.dtype) -> None:
    mine, other = named(LLAMA, dtype), named(LLAMA, dtype)
    ours = AdamMini(mine, head_size=HEAD, backend=backend, **options)
    theirs = Adam_mini(other, dim=DIM, n_heads=HEADS, n_kv_heads=2, verbose=False, **options)
    generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for params, generator, optimizer in zip((mine, other), generators, (ours, theirs), strict=True):
            gradients([p for _, p in params], generator)
            optimizer.step()
    exact = 1.0 if dtype == torch.float32 else 1e-9
    for (name, p), (_, q) in zip(mine, other, strict=True):
        assert (p - q).abs().max() <= exact * 2e-6 * q.abs().max(), name


def test_every_parameter_of_a_llama_goes_where_the_paper_says() -> None:
    optimizer = AdamMini(named(LLAMA), head_size=HEAD)
    assert rules_of(optimizer) == RULES
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    shapes = [tuple(optimizer.state[p]["exp_avg_sq"].shape) for p in optimizer.param_groups[0]["params"]]
    assert shapes == [(50, 1), (4, 1, 1), (2, 1, 1), (16, 1), (32, 1), (32,), (80, 1), (32, 1), (), (), (50, 1)]
    assert optimizer.state[optimizer.param_groups[0]["params"][1]]["exp_avg"].shape == (DIM, DIM)


def test_the_traps_of_names_are_mended() -> None:
    """Fused weights and experts, for which the package has one number a tensor, or none, get one a row."""
    shapes = {
        "h.0.attn.qkv.weight": (3 * DIM, DIM),
        "h.0.attn.in_proj_weight": (3 * DIM, DIM),
        "h.0.experts.w1": (4, 80, DIM),
        "h.0.experts.down_proj": (4, DIM, 80),
        "h.0.router.gate.weight": (4, DIM),
        "h.0.fc1.weight": (80, DIM),
    }
    optimizer = AdamMini(named(shapes), head_size=HEAD)
    assert set(rules_of(optimizer)) == {"row"}
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[optimizer.param_groups[0]["params"][2]]["exp_avg_sq"].shape == (4, 80, 1)


def test_what_no_name_tells_is_refused_and_tags_mend_it() -> None:
    """GPT-2's c_attn is stored both ways round in the wild: rows are outputs in one and inputs in the other."""
    shapes = {"wte.weight": (50, DIM), "h.0.attn.c_attn.weight": (DIM, 3 * DIM), "h.0.mlp.c_proj.weight": (4 * DIM, DIM)}
    with pytest.raises(ValueError, match=r"c_attn.*is updated by no rule.*tagged"):
        AdamMini(named(shapes))
    optimizer = AdamMini(named(shapes), tags={"column": ["*.c_attn.*", "*.c_proj.*"]})
    assert rules_of(optimizer) == ["row", "column", "column"]
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[optimizer.param_groups[0]["params"][1]]["exp_avg_sq"].shape == (1, 3 * DIM)
    with pytest.raises(ValueError, match="is updated by no rule"):
        AdamMini(named({"block.mixer.weight": (8, 8)}))


def test_tags_come_before_names() -> None:
    shapes = {"a.q_proj.weight": (32, 32), "b.q_proj.weight": (32, 32), "c.weight": (32, 32), "d.bias": (32,)}
    tags = {"row": ["a.*"], "tensor": ["b.*", "d.*"], "head": ["c.*"]}
    assert rules_of(AdamMini(named(shapes), tags=tags, head_size=HEAD)) == ["row", "tensor", "head", "norm"]


@pytest.mark.parametrize("size", [5, 0.5, 64])
def test_heads_that_do_not_divide_the_rows_are_refused(size: float) -> None:
    with pytest.raises(ValueError, match=r"q_proj.*head_size"):
        AdamMini(named({"q_proj.weight": (32, 32)}), head_size=size)


def test_names_are_asked_for() -> None:
    with pytest.raises(ValueError, match="named_parameters"):
        AdamMini([torch.nn.Parameter(torch.zeros(4, 4))])


def test_resumes_bit_for_bit_and_survives_a_copy() -> None:
    runs = []
    for interrupted in (False, True):
        params = named(LLAMA)
        optimizer = AdamMini(params, head_size=HEAD, lr=1e-2)
        generator = torch.Generator().manual_seed(1)
        for step in range(6):
            if interrupted and step == 3:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = AdamMini(params, head_size=HEAD, lr=1e-2)
                optimizer.load_state_dict(saved)
            gradients([p for _, p in params], generator)
            optimizer.step()
        runs.append([p.detach().clone() for _, p in params])
    assert all(map(torch.equal, *runs))
    again = copy.deepcopy(optimizer)
    assert rules_of(again) == RULES


def test_parameters_with_other_strides() -> None:
    """A head is rows of the logical matrix, whatever lies in memory."""
    shapes = {"q_proj.weight": (32, 24)}
    ((_, p),) = plain = named(shapes)
    turned = [("q_proj.weight", torch.nn.Parameter(p.detach().t().contiguous().t()))]
    for backend in ("torch", "cpp"):
        a, b = copy.deepcopy(plain), copy.deepcopy(turned)
        for params in (a, b):
            optimizer = AdamMini(params, head_size=HEAD, backend=backend, lr=0.1)
            params[0][1].grad = torch.linspace(-1, 1, 32 * 24).view(32, 24)
            optimizer.step()
        assert torch.allclose(a[0][1], b[0][1], rtol=1e-6, atol=1e-7)
