"""Storage that is chosen when an optimizer is made: float32 for a group, and classes in memory for any other."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optgen
from optgen.diagnostics import SpecError
from optgen.generated.adamw import AdamW
from optgen.generated.adamw_8bit import AdamW8bit
from optgen.generated.lion import Lion
from optgen.generated.lion_8bit import Lion8bit
from optgen.generated.solo import Solo
from tests.conftest import ROOT, interpreted
from tests.contract.rows import make_params, run, same, snapshot, values

TWO = ((64, 128), (64, 128))
TWO_CONDITIONS = """
    name: TwoConditions
    summary: AdamW whose states are coded from different sizes on.
    extends: adamw
    state:
      m: {storage: {codebook: dynamic_exponent, bits: 8, block: 128, min_size: 100}}
      v: {storage: {codebook: linear, bits: 8, block: 128, min_size: 6000}}
"""


def keys(optimizer: torch.optim.Optimizer, p: Tensor) -> set[str]:
    return set(optimizer.state[p]) - {"step", "rounding_key"}


@pytest.mark.parametrize("storage", ["float32", {"m": "float32", "v": "float32"}, {"v": "float32", "m": "float32"}], ids=str)
def test_a_group_in_float32(storage: Any) -> None:
    params = make_params(TWO)
    optimizer = Solo([{"params": params[:1]}, {"params": params[1:], "storage": storage}], lr=1e-2)
    run(optimizer, range(3))
    assert keys(optimizer, params[0]) == {
        "exp_avg.codes",
        "exp_avg.scale",
        "exp_avg_sq.codes",
        "exp_avg_sq.scale",
        "exp_avg_sq.base",
    }
    assert keys(optimizer, params[1]) == {"exp_avg", "exp_avg_sq"}
    exact = make_params(TWO)
    run(AdamW(exact, lr=1e-2, betas=(0.8, 0.999)), range(3))
    assert torch.equal(params[1], exact[1])
    assert not torch.equal(params[0], exact[0])
    lines = optimizer.explain().splitlines()[1:]
    assert "m float32 (as asked)" in lines[1]
    assert "m 4 bits" in lines[0]


def test_for_all_groups_and_in_checkpoints() -> None:
    params = make_params(TWO)
    optimizer = Solo(params, storage="float32")
    run(optimizer, range(2))
    again = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = Solo(again)  # takes the storage from the state dict
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups[0]["storage"] == "m,v"
    run(optimizer, range(2, 4))
    run(resumed, range(2, 4))
    assert same(snapshot(optimizer), snapshot(resumed))
    exact = optimizer.state_dict()
    with pytest.raises(ValueError, match="has a state 'exp_avg' here unknown"):
        Solo(again).load_state_dict({**exact, "param_groups": [{**exact["param_groups"][0], "storage": "spec"}]})


def test_a_change_in_mid_training_is_refused() -> None:
    params = make_params(TWO)
    optimizer = Solo(params)
    run(optimizer, range(1))
    before = values(params)
    optimizer.param_groups[0]["storage"] = "float32"
    with pytest.raises(RuntimeError, match="its state was made for another"):
        run(optimizer, range(1, 2))
    assert same(values(params), before)


def test_one_state_where_there_is_a_kernel_for_it(generate: Callable[[str], ModuleType]) -> None:
    cls = generate(TWO_CONDITIONS).TwoConditions
    (p,) = make_params(((64, 128),))
    optimizer = cls([p], storage={"v": "float32"})
    run(optimizer, range(1))
    assert keys(optimizer, p) == {"exp_avg.codes", "exp_avg.scale", "exp_avg_sq"}
    with pytest.raises(ValueError, match="was built to keep m, v or v in float32, not m alone"):
        cls([p], storage={"m": "float32"})


@pytest.mark.parametrize(
    ("cls", "storage", "told"),
    [
        (Solo, {"m": "int8"}, "Solo was built without m in 'int8'.*optimizer_class"),
        (Lion, {"m": "int4"}, "Lion was built without m in 'int4'.*storage={'m': 'int4'}"),
        (Solo, {"m": "float32"}, "built to keep m, v in float32, not m alone"),
        (Solo, {"q": "float32"}, r"a mapping of states \('m', 'v'\) to 'float32'"),
        (Lion, "int4", "storage is 'float32' or a mapping"),
        (Lion, None, "storage is 'float32' or a mapping"),
        (Lion, 3, "storage is 'float32' or a mapping"),
    ],
)
def test_other_storages_are_refused(cls: Any, storage: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cls(make_params(), storage=storage)
    optimizer = cls(make_params())
    with pytest.raises(ValueError, match=told):
        optimizer.add_param_group({"params": make_params(), "storage": storage})
    assert len(optimizer.param_groups) == 1


def test_a_class_in_memory() -> None:
    made = optgen.optimizer_class("lion", storage={"m": "int8"})
    assert made is optgen.optimizer_class("lion", storage={"m": "int8"})
    assert made.__name__ == "Lion"
    params, others = make_params(TWO), make_params(TWO)
    optimizer, written = made(params, lr=1e-3), Lion8bit(others, lr=1e-3)
    for each in (optimizer, written):
        run(each, range(3))
    assert same(values(params), values(others))
    copies = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))
    assert all(same(each.state_dict(), optimizer.state_dict()) for each in copies)


def test_a_storage_takes_the_place_of_the_specs() -> None:
    storage = {"m": {"codebook": "linear", "bits": 8, "block": 64}, "v": "bfloat16"}  # nothing is left of v's quantile
    made = optgen.optimizer_class("solo", storage=storage)
    (p,) = make_params(((64, 128),))
    optimizer = made([p])
    run(optimizer, range(1))
    assert optimizer.state[p]["exp_avg_sq"].dtype == torch.bfloat16
    assert optimizer.state[p]["exp_avg.scale"].shape == (64, 2)


def test_a_rule_of_a_notebook() -> None:
    rule = optgen.define(
        name="Sign",
        summary="Follows the sign of an average.",
        hyper={"lr": {"default": 1e-3}, "beta": {"default": 0.9, "below": 1}},
        state={"m": {"like": "p"}},
        update="""
            m = ema(m, g, beta)
            p = p - lr*sign(m)
        """,
    )
    (p,) = make_params(((64, 128),))
    before = p.detach().clone()
    run(optgen.optimizer_class(rule, storage={"m": "int4"})([p]), range(1))
    assert torch.allclose((before - p).abs(), torch.full_like(p, 1e-3), atol=1e-6)


def test_its_faults_stand_in_the_call() -> None:
    with pytest.raises(SpecError) as caught:
        optgen.optimizer_class("lion", storage={"mm": "int4", "m": "int5"})
    places = [(d.code, d.primary.span.text) for d in caught.value.diagnostics]
    assert places == [("unknown-key", '"mm"'), ("bad-value", '"int5"')]
    for storage in ("int4", ["m"]):
        with pytest.raises(SpecError, match="'storage' is a mapping of states to storages"):
            optgen.optimizer_class("lion", storage=storage)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="cannot read 'nothing'"):
        optgen.optimizer_class("nothing", storage={"m": "int4"})


def test_codes_of_other_levels_do_not_load() -> None:
    """A class of the same name, with codes of the same shape that mean something else."""
    params = make_params(TWO)
    optimizer = AdamW8bit(params)
    run(optimizer, range(1))
    other = optgen.optimizer_class("adamw_8bit", storage={"m": {"codebook": "linear", "bits": 8, "block": 256}})(params)
    saved = optimizer.state_dict()
    told = "AdamW8bit: state 'm' was saved as codes of signed dynamic_exponent levels, here they are signed linear"
    with pytest.raises(ValueError, match=told):
        other.load_state_dict(saved)
    same_levels = optgen.optimizer_class("adamw_8bit", storage={"m": {"codebook": "dynamic_exponent", "bits": 8, "block": 256}})
    same_levels(params).load_state_dict(saved)
    for group in saved["param_groups"]:
        del group["codes"]  # as an earlier version wrote it
    other.load_state_dict(saved)


def test_threads_and_forks_make_classes() -> None:
    code = """
        import os, pathlib, sys, threading
        import optgen
        found = []
        def make():
            found.append(optgen.optimizer_class("lion", storage={"m": "int4"}))
        threads = [threading.Thread(target=make) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert len(found) == 4 and len(set(found)) == 1
        place = pathlib.Path(sys.modules[found[0].__module__].__file__)
        child = os.fork()
        if not child:
            sys.exit()  # runs what is registered for the end of a process
        assert os.waitpid(child, 0)[1] == 0
        assert place.exists()
        print(place)
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()


def test_a_class_in_memory_has_triton_kernels() -> None:
    pytest.importorskip("triton")
    code = (
        "import optgen, torch; p = torch.nn.Parameter(torch.ones(64, 128)); p.grad = torch.ones_like(p)\n"
        "optgen.optimizer_class('lion', storage={'m': 'int4'})([p], backend='triton').step(); print(float(p[0, 0]))"
    )
    assert float(interpreted("-c", code)) < 1
