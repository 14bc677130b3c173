"""Optimizers with several rules: which one a parameter takes, that each does what it does alone, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from optgen.build import build
from optgen.in_memory import optimizer_class
from optgen.vendor import vendor
from tests.conftest import ROOT, interpreted
from tests.contract.rows import distance, run, same, snapshot
from tests.contract.test_compile import CPU_BACKENDS
from tests.contract.test_state_dict import file
from tests.rule_specs import MATRICES, MIXED, OWN, SHAPES, TAGS, give, named, twins


def made(text: str, folder: Path) -> Any:
    """The class of a spec."""
    path = folder / "made.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return optimizer_class(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made(MIXED, tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made(OWN, tmp_path_factory.mktemp("own"))


def table(optimizer: Any) -> list[dict[str, str]]:
    """The lines of `explain`, by column."""
    heads, *lines = optimizer.explain().splitlines()
    columns = heads.split()
    starts = [heads.index(f" {name}") + 1 if i else 0 for i, name in enumerate(columns)]
    ends = [*starts[1:], None]
    return [{n: line[a:b].strip() for n, a, b in zip(columns, starts, ends, strict=True)} for line in lines]


def rules_of(optimizer: Any) -> dict[str, str]:
    return {row["parameter"]: row["rule"] for row in table(optimizer)}


# ---- each rule does what it does alone


@pytest.mark.parametrize("options", [{"backend": "torch"}, *({"backend": b} for b in ("cpp",)), {"backend": "torch", "compile": True}], ids=str)  # fmt: skip
def test_each_rule_equals_torch_optim(mixed: Any, options: dict[str, Any]) -> None:
    ours, theirs = named(), named()
    optimizer, others = mixed(ours, tags=TAGS, **options), twins(theirs)
    for step in range(20):
        give(ours, step)
        give(theirs, step)
        for one in (optimizer, *others):
            one.step()
    assert distance([p for _, p in ours], [p for _, p in theirs]) < 2e-6
    keys = {name: set(optimizer.state[p]) for name, p in ours}
    assert keys == {n: {"step", "momentum_buffer"} if n in MATRICES else {"step", "exp_avg", "exp_avg_sq"} for n in SHAPES}


def test_in_triton(tmp_path: Path) -> None:
    (tmp_path / "mixed.yaml").write_text(MIXED, encoding="utf-8")
    assert float(interpreted("-m", "tests.rules_process", str(tmp_path / "mixed.yaml"), "triton")) < 2e-6


def test_groups_mix_rules_and_have_settings_and_tags_of_their_own(mixed: Any) -> None:
    ours, theirs = dict(named()), dict(named())
    first, second = ("wte.weight", "h.0.weight", "ln.weight"), ("h.1.weight", "h.0.bias", "head.weight")
    groups = [{"params": [ours[name] for name in first]}, {"params": [ours[name] for name in second], "lr": 1e-3}]
    groups.append({"params": [groups[0]["params"].pop(0), groups[1]["params"].pop()], "tags": ["embedding", "unheard of"]})
    optimizer = mixed(groups)
    optimizer.param_groups[2]["lr"] = 1e-4  # as schedulers do: the lr of both rules
    rates = [(name, 1e-2 if name in first else 1e-3) for name in theirs]
    rates = [(name, 1e-4 if name in ("wte.weight", "head.weight") else lr) for name, lr in rates]
    others: list[torch.optim.Optimizer] = []
    for name, lr in rates:
        one = [theirs[name]]
        others.append(
            torch.optim.SGD(one, lr=lr, momentum=0.9, weight_decay=0.1)
            if name in MATRICES
            else torch.optim.AdamW(one, lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
        )
    for step in range(5):
        give(ours.items(), step)
        give(theirs.items(), step)
        for one_of_them in (optimizer, *others):
            one_of_them.step()
    assert distance(ours.values(), theirs.values()) < 2e-6


@pytest.mark.parametrize("text", [MIXED, OWN], ids=["mixed", "own"])
@pytest.mark.parametrize("backend", ["torch", "triton", "cpp"])
def test_every_rule_equals_the_reference(text: str, backend: str, tmp_path: Path) -> None:
    (tmp_path / "rule.yaml").write_text(text, encoding="utf-8")
    command = ("-m", "optgen.cli.main", "verify", str(tmp_path / "rule.yaml"), "--json", "--backend", backend)
    rows = json.loads(interpreted(*command, status=(0, 1)))
    assert not [row for row in rows if not row.get("passed")]
    names = {"matrix", "adamw"} if text == MIXED else {"rule_1", "wide", "otherwise"}
    assert {row["case"].split(": ")[0] for row in rows} - {"codes of m"} == names
    for name in names:
        cases = {row["case"].removeprefix(f"{name}: ") for row in rows if row["case"].startswith(f"{name}: ")}
        assert {"matrices", "small", "bfloat16", "float64"} <= cases
    assert {"adamw: adamw_amsgrad=True"} <= {row["case"] for row in rows} or text == OWN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backends_agree_on_all_rules_at_once(own: Any, dtype: torch.dtype) -> None:
    """States of one name in different shapes, scalars and random bits in some rules alone."""
    results = []
    for backend in ("torch", "cpp"):
        params = named(dtype=dtype)
        optimizer = own(params, backend=backend)
        for step in range(6):
            give(params, step)
            optimizer.step()
        results.append([p.detach().float() for _, p in params])
        kept = {name: set(optimizer.state[p]) for name, p in params}
        key = {"rounding_key"} if dtype == torch.bfloat16 else set()
        assert kept["h.0.bias"] == {"step"} | key
        assert kept["h.1.weight"] == kept["wte.weight"] == {"step", "product", "m.codes", "m.scale"} | key
        assert kept["ln.weight"] == kept["h.0.weight"] == {"step", "rounding_key", "m", "v"}
    close = 1e-5 if dtype == torch.float32 else 2e-2
    assert distance(*results) < close


# ---- checkpoints


@pytest.mark.parametrize("name", ["mixed", "own"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_training_goes_on_bit_for_bit(name: str, backend: str, request: pytest.FixtureRequest) -> None:
    cls, options = request.getfixturevalue(name), {"tags": TAGS} if name == "mixed" else {}
    params = named(dtype=torch.bfloat16)
    optimizer = cls(params, backend=backend, **options)
    run(optimizer, range(3))
    again = [(n, nn.Parameter(p.detach().clone())) for n, p in params]
    resumed = cls(again, backend=backend, **options)
    resumed.load_state_dict(file(optimizer.state_dict()))
    copied = copy.deepcopy(optimizer)
    run(optimizer, range(3, 6))
    for other in (resumed, copied):
        run(other, range(3, 6))
        assert same(snapshot(optimizer), snapshot(other))
    assert rules_of(pickle.loads(pickle.dumps(resumed.state_dict())) and resumed) == rules_of(optimizer)


def test_a_load_checks_each_parameter_against_its_own_rule(mixed: Any) -> None:
    params = named()
    optimizer = mixed(params, tags=TAGS)
    run(optimizer, range(2))
    saved = optimizer.state_dict()
    other = mixed(named(), tags={"embedding": ["wte.*"]})  # the head is a matrix here
    before = snapshot(other)
    with pytest.raises(ValueError, match=r"parameter 5 has a state 'exp_avg' here unknown \(known: step, momentum_buffer\)"):
        other.load_state_dict(saved)
    assert same(snapshot(other), before)
    missing = copy.deepcopy(saved)
    del missing["state"][1]["momentum_buffer"]
    with pytest.raises(ValueError, match="parameter 1 lacks the state 'momentum_buffer'"):
        mixed(named(), tags=TAGS).load_state_dict(missing)
    wrong = copy.deepcopy(saved)
    wrong["state"][1]["momentum_buffer"] = torch.zeros(16, 25)
    with pytest.raises(ValueError, match=r"'momentum_buffer' of parameter 1 has shape \(16, 25\), expected \(16, 24\)"):
        mixed(named(), tags=TAGS).load_state_dict(wrong)


def test_names_and_tags_are_not_loaded(own: Any, mixed: Any) -> None:
    """Which rule updates a parameter is decided by the optimizer that loads."""
    optimizer = own(named())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["param_names"] = [f"{name}.bias" for name in SHAPES]
    optimizer.load_state_dict(saved)
    assert rules_of(optimizer) == rules_of(own(named()))
    plain = mixed([{"params": [p]} for _, p in named()])
    saved = mixed([{"params": [p], "tags": ["head"]} for _, p in named()]).state_dict()
    plain.load_state_dict(saved)
    assert set(rules_of(plain).values()) == {"matrix", "adamw"}


def test_a_rounding_key_is_missed_where_a_rule_rounds(own: Any) -> None:
    optimizer = own(named())
    run(optimizer, range(1))
    saved = copy.deepcopy(optimizer.state_dict())
    own(named()).load_state_dict(saved)
    keys = [number for number, state in saved["state"].items() if "rounding_key" in state]
    assert keys == [1, 4]  # of the rule with bfloat16, in float32 parameters
    del saved["state"][4]["rounding_key"]
    with pytest.raises(ValueError, match="parameter 4 lacks the state 'rounding_key'"):
        own(named()).load_state_dict(saved)


def test_codes_of_other_levels_are_refused(own: Any, tmp_path: Path) -> None:
    optimizer = own(named())
    run(optimizer, range(1))
    other = made(OWN.replace("dynamic_exponent", "companded"), tmp_path)(named())
    with pytest.raises(ValueError, match=r"state 'wide\.m' was saved as codes of .* levels"):
        other.load_state_dict(optimizer.state_dict())


# ---- construction


def test_a_parameter_without_a_rule_is_refused(tmp_path: Path) -> None:
    text = MIXED.split("  - otherwise")[0]
    cls = made(text, tmp_path)
    params = dict(named())
    with pytest.raises(
        ValueError,
        match=r"Mixed: parameter 'h\.0\.bias' of shape \(24,\) is updated by no rule: matrix is for ndim >= 2 and not",
    ):
        cls([("h.0.weight", params["h.0.weight"]), ("h.0.bias", params["h.0.bias"])])
    optimizer = cls([params["h.0.weight"]])
    with pytest.raises(ValueError, match=r"parameter '1' of shape \(24,\) is updated by no rule"):
        optimizer.add_param_group({"params": [params["h.0.bias"]]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [params["h.1.weight"]], "lr": 1.0})
    assert rules_of(optimizer) == {"0": "matrix", "1": "matrix"}
    with pytest.raises(ValueError, match="is updated by no rule"):
        optimizer.add_param_group({"params": [params["wte.weight"]], "tags": ["embedding"]})


def test_names_are_asked_for(own: Any) -> None:
    with pytest.raises(ValueError, match=r"Own: its rules ask for the names of parameters: pass model\.named_parameters\(\)"):
        own([p for _, p in named()])


@pytest.mark.parametrize(
    ("tags", "error", "message"),
    [
        ({"embeddings": ["wte.*"]}, ValueError, r"no rule asks for the tag 'embeddings' \(known: 'embedding', 'head'\)"),
        ({"embedding": ["wte.*", "wpe.*"]}, ValueError, r"no parameter is called 'wpe\.\*', to be tagged 'embedding'"),
        ({"embedding": "wte.*"}, TypeError, r"the patterns of tag 'embedding' are a list such as \['\*\.wte\.weight'\]"),
    ],
)
def test_tags_by_name_that_do_nothing_are_refused(mixed: Any, tags: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mixed(named(), tags=tags)


def test_tags_by_name_need_names(mixed: Any) -> None:
    with pytest.raises(ValueError, match=r"tags by name need names: pass model\.named_parameters\(\)"):
        mixed([p for _, p in named()], tags=TAGS)
    with pytest.raises(TypeError, match=r"the tags of a group are a list of names such as \['embedding'\], got 'embedding'"):
        mixed([{"params": [p for _, p in named()], "tags": "embedding"}])


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_parameter_that_changes_its_rule_needs_a_new_state(mixed: Any, backend: str) -> None:
    params = [p for _, p in named()][:2]
    optimizer = mixed([{"params": params, "tags": ["head"]}], backend=backend)
    run(optimizer, range(2))
    before = snapshot(optimizer)
    optimizer.param_groups[0]["tags"] = []
    with pytest.raises(
        RuntimeError, match=r"is updated by the rule 'matrix' \(ndim >= 2 .*\), .* made by another: it has 'exp_avg'"
    ):
        run(optimizer, range(2, 3))
    optimizer.param_groups[0]["tags"] = ["head"]
    assert same(snapshot(optimizer)[0], before[0])
    optimizer.param_groups[0]["tags"] = []
    for p in params:
        optimizer.state.pop(p)
    run(optimizer, range(2, 3))
    assert set(optimizer.state[params[0]]) == {"step", "momentum_buffer"}


def test_storage_for_a_group_speaks_of_all_rules(own: Any) -> None:
    with pytest.raises(ValueError, match=r"Own was built without m in 'float32'"):
        own(named(), storage={"m": "float32"})  # that of `otherwise` is bfloat16
    optimizer = own(named(), storage="float32")
    run(optimizer, range(1))
    states = {row["parameter"]: row["states"] for row in table(optimizer)}
    assert states["h.1.weight"] == "m float32 (as asked); product one number"
    assert states["ln.weight"] == "m bfloat16; v one number of all elements"


# ---- compiled and vendored


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ["mixed", "own"])
def test_a_compiled_step_is_one_graph(name: str, backend: str, request: pytest.FixtureRequest) -> None:
    torch._dynamo.reset()
    cls, options = request.getfixturevalue(name), {"tags": TAGS} if name == "mixed" else {}
    params, plain = named(), named()
    optimizer, other = cls(params, backend=backend, **options), cls(plain, backend=backend, **options)
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    for number in range(6):
        for group in (*optimizer.param_groups, *other.param_groups):
            group["lr"] = 1e-2 / (number + 1)
        give(params, number)
        give(plain, number)
        step()
        other.step()
    assert counter.frame_count <= 2
    assert distance([p for _, p in params], [p for _, p in plain]) < 1e-6
    for (_, p), (_, q) in zip(params, plain, strict=True):
        kept, expected = optimizer.state[p], other.state[q]
        assert kept.keys() == expected.keys()
        assert all(kept[key] == expected[key] for key in ("step", "product", "rounding_key") if key in expected)
    torch._dynamo.reset()


def test_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "mixed_spec.yaml").write_text(MIXED, encoding="utf-8")
    built = build(str(tmp_path / "mixed_spec.yaml"))
    (tmp_path / "alone.py").write_text(vendor(built), encoding="utf-8")
    script = str(ROOT / "tests" / "vendored_process.py")
    (tmp_path / "package").mkdir()
    for file_name, text in built.files.items():
        (tmp_path / "package" / file_name).write_text(text, encoding="utf-8")
    for backend, blocked in (("triton", "optgen"), ("cpp", "optgen,triton")):
        expected = interpreted(script, str(tmp_path), "package", "Mixed", backend, "")
        assert interpreted(script, str(tmp_path), "alone", "Mixed", backend, blocked) == expected


# ---- where parameters of models go


def test_explain_says_which_rule_and_why(mixed: Any) -> None:
    optimizer = mixed(named()[:4], tags={"embedding": ["wte.*"]}, backend="torch")
    condition = 'ndim >= 2 and not tagged("embedding", "head")'
    assert [tuple(row.values()) for row in table(optimizer)] == [
        ("wte.weight", "(50, 32)", "float32", "adamw", "otherwise (tags: embedding)", "torch", "update_adamw", "m float32; v float32"),
        ("h.0.weight", "(16, 24)", "float32", "matrix", condition, "torch", "update_matrix", "m float32"),
        ("h.0.bias", "(24,)", "float32", "adamw", "otherwise", "torch", "update_adamw", "m float32; v float32"),
        ("h.1.weight", "(24, 130)", "float32", "matrix", condition, "torch", "update_matrix", "m float32"),
    ]  # fmt: skip


MUON_LIKE = """
name: Routed
summary: Rules as Muon, Adafactor and mixtures of experts want them.
hyper: {lr: {default: 1e-2}}
rules:
  - when: ndim == 3 and named("*experts*")
    name: experts
    update: p = p - lr*g
  - when: ndim == 2 and not tagged("embedding", "head") and not named("*embed*", "wte.*", "wpe.*", "lm_head.*")
    name: matrix
    update: p = p - lr*sign(g)
  - when: ndim <= 1 or numel < 64
    name: small
    update: p = p - 0.1*lr*g
  - otherwise:
    update: p = p - 0.5*lr*g
"""
LLAMA = {
    "model.embed_tokens.weight": ((320, 64), "otherwise"),
    "model.layers.0.self_attn.q_proj.weight": ((64, 64), "matrix"),
    "model.layers.0.self_attn.k_proj.weight": ((16, 64), "matrix"),
    "model.layers.0.mlp.gate_proj.weight": ((172, 64), "matrix"),
    "model.layers.0.input_layernorm.weight": ((64,), "small"),
    "model.norm.weight": ((64,), "small"),
    "lm_head.weight": ((320, 64), "otherwise"),
}
GPT2 = {
    "wte.weight": ((501, 64), "otherwise"),
    "wpe.weight": ((128, 64), "otherwise"),
    "h.0.attn.c_attn.weight": ((64, 192), "matrix"),  # q, k and v in one: a matrix by its shape
    "h.0.attn.c_attn.bias": ((192,), "small"),
    "h.0.ln_1.weight": ((64,), "small"),
    "h.0.mlp.c_fc.weight": ((64, 256), "matrix"),
}
MOE = {
    "layers.0.mlp.experts.gate_up_proj": ((8, 64, 128), "experts"),
    "layers.0.mlp.experts.down_proj_bias": ((8, 64), "matrix"),  # a list of biases has the shape of a matrix
    "layers.0.mlp.router.weight": ((8, 64), "matrix"),
    "layers.0.conv.weight": ((4, 1, 3), "small"),
    "layers.0.conv2d.weight": ((16, 3, 3, 3), "otherwise"),
    "layers.0.scale": ((), "small"),
}


@pytest.mark.parametrize("model", [LLAMA, GPT2, MOE], ids=["llama", "gpt2", "moe"])
def test_parameters_of_models_take_the_rules_that_they_should(model: dict[str, Any], tmp_path: Path) -> None:
    optimizer = made(MUON_LIKE, tmp_path)([(name, nn.Parameter(torch.zeros(shape))) for name, (shape, _) in model.items()])
    assert rules_of(optimizer) == {name: rule for name, (_, rule) in model.items()}
    conditions = {rule.name: rule.when for rule in optimizer.description.rules}
    assert all(row["why"] == conditions[row["rule"]] for row in table(optimizer))


def test_a_tag_moves_a_matrix(tmp_path: Path) -> None:
    params = [(name, nn.Parameter(torch.zeros(shape))) for name, (shape, _) in MOE.items()]
    optimizer = made(MUON_LIKE, tmp_path)(params, tags={"head": ["*router*"]})
    assert rules_of(optimizer)["layers.0.mlp.router.weight"] == "otherwise"
