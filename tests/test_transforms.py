"""Transforms in front of a rule and behind it: against formulas and torch.optim, in every backend; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optgen.build import build
from optgen.diagnostics import SpecError
from optgen.spec.places import TRANSFORMS, spec_files
from tests.conftest import interpreted
from tests.test_oracles import STEPS, gradients
from tests.test_rows import equal_the_reference, optimizer_class

Array = np.ndarray[Any, Any]
SHAPES = ((5, 7), (40, 300), (33,))
HEAD = "name: Composed\nsummary: A rule with transforms.\n"


def spec(text: str, folder: Path, name: str = "composed") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def check(path: Path, backend: str, change: Callable[[Array, Array, int, dict[str, Array]], Array], **options: Any) -> None:
    """Over all steps p goes as `change`, of p, g, t and what it keeps itself, has it, in float64."""
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]
    expected = [p.detach().numpy().copy() for p in params]
    kept: list[dict[str, Array]] = [{} for _ in params]
    optimizer = optimizer_class(path)(params, backend=backend, **options)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, STEPS + 1):
        gradients(params, generator)
        optimizer.step()
        for i, p in enumerate(params):
            assert p.grad is not None
            expected[i] = expected[i] + change(expected[i], p.grad.numpy(), t, kept[i])
    for p, q in zip(params, expected, strict=True):
        assert np.allclose(p.detach().numpy(), q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_coupled_decay_in_front_is_that_of_torch(backend: str, tmp_path: Path) -> None:
    made_class = optimizer_class(spec("extends: sgd\nbefore: [coupled_decay]\n", tmp_path))
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in SHAPES] for _ in range(2))
    mine = made_class(ours, lr=0.1, momentum=0.9, coupled_decay_weight_decay=0.05, backend=backend)
    other = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.05)
    for params, optimizer in ((ours, mine), (theirs, other)):
        generator = torch.Generator().manual_seed(1)
        for _ in range(STEPS):
            gradients(params, generator)
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def adam(g: Array, t: int, kept: dict[str, Array]) -> Array:
    """The direction of Adam."""
    kept["m"] = 0.9 * kept.get("m", 0) + 0.1 * g
    kept["v"] = 0.999 * kept.get("v", 0) + 0.001 * g * g
    direction: Array = kept["m"] / (1 - 0.9**t) / (np.sqrt(kept["v"] / (1 - 0.999**t)) + 1e-8)
    return direction


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_adam_with_a_trust_ratio_and_decay_behind(backend: str, tmp_path: Path) -> None:
    """Changes are taken in their order: the ratio is of Adam's step alone, the decay comes to it."""
    text = """
extends: adam
hyper: {decay: {default: 0.1, min: 0}}
after:
  - trust_ratio
  - {use: decoupled_decay, hyper: {weight_decay: decay}}
"""

    def change(p: Array, g: Array, t: int, kept: dict[str, Array]) -> Array:
        u = -0.01 * adam(g, t, kept)
        u = u * (0.01 * np.linalg.norm(p) / np.linalg.norm(u))
        return np.asarray(u - 0.01 * 0.1 * p)

    check(spec(text.lstrip(), tmp_path), backend, change, lr=0.01)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_cautious_lion_on_clipped_gradients(backend: str, tmp_path: Path) -> None:
    text = """
extends: lion
before:
  - {use: unscale, hyper: {loss_scale: {default: 8.0}}}
  - {use: clip_rms, name: clip, hyper: {limit: {default: 0.5}}}
after: [cautious]
"""

    def change(_p: Array, g: Array, _t: int, kept: dict[str, Array]) -> Array:
        g = g / 8
        g = g / max(1, np.sqrt(np.mean(g * g)) / 0.5)
        m = kept.get("m", np.zeros_like(g))
        u = -0.01 * np.sign(0.9 * m + 0.1 * g)
        kept["m"] = 0.99 * m + 0.01 * g
        along = u * g < 0
        return np.asarray(u * along / max(np.mean(along), 1e-3))

    check(spec(text.lstrip(), tmp_path), backend, change, lr=0.01, weight_decay=0.0)


CENTRALIZED = """
name: Averaged
summary: The gradient without the mean of each column, averaged over steps.
kind: transform
hyper: {beta: {default: 0.5, min: 0, below: 1}, centralize: {default: true}}
state:
  a: {like: p, init: 0.5*g, storage: {codebook: linear, bits: 8, block: 64, min_size: 0}}
  r: {shape: [..., rows, 1]}
update: |
  if centralize:
    u = u - mean(u, over=rows)
  a = ema(a, u, beta)
  r = ema(r, rms(u, over=cols), beta)
  half = 0.5*a + 0.5*bits(a)/8*u
  if t > 1:
    half = half/(1 + r)
  u = half
"""
RULE = """
hyper: {lr: {default: 1e-2}, half: {default: 0.5}, centralize: {default: false}}
state:
  m: {like: p, storage: {codebook: dynamic_exponent, bits: 4, block: 128, min_size: 0}}
before:
  - averaged
  - {use: averaged, name: again, hyper: {beta: half, centralize: {default: false}}}
update: |
  m = ema(m, g, half)
  if centralize:
    m = m - 0.1*g
  p = p*(1 - lr*half) - lr*m/(1 + abs(m))
after:
  - {use: averaged, name: last, hyper: {beta: {default: 0.25}}}
"""
BACKENDS = ("torch", "cpp", "triton")


@pytest.mark.parametrize("backend", BACKENDS)
def test_transforms_with_states_equal_the_reference(backend: str, tmp_path: Path) -> None:
    """Names that rule and transforms share stay apart; states have their storage, and begin with what reaches them."""
    (tmp_path / "averaged.yaml").write_text(CENTRALIZED.lstrip(), encoding="utf-8")
    path = spec(RULE.lstrip(), tmp_path)
    spec_of, (program,) = build(str(path)).spec, build(str(path)).programs
    assert [hyper.name for hyper in spec_of.hypers] == [
        *("lr", "half", "centralize", "averaged_beta", "averaged_centralize"),
        *("again_centralize", "last_beta", "last_centralize"),
    ]
    names = [state.save_as for state in program.states]
    assert names == ["m", *(f"{name}_{state}" for name in ("averaged", "again", "last") for state in ("a", "r"))]
    shapes = ((33, 129), (2, 40, 70))
    if backend == "triton":
        code = f"import torch\nfrom tests.test_rows import *\nequal_the_reference(Path({str(path)!r}), 'triton', {shapes}, steps=2)"
        interpreted("-c", code)
    else:
        equal_the_reference(path, backend, shapes)


@pytest.mark.parametrize("path", spec_files(TRANSFORMS), ids=lambda path: path.stem)
def test_every_transform_alone_equals_the_reference(path: Path) -> None:
    for backend in ("torch", "cpp"):
        equal_the_reference(path, backend, SHAPES, steps=2)


def test_a_rule_uses_a_composition(tmp_path: Path) -> None:
    spec("extends: lion\nbefore: [clip_norm]\n", tmp_path, "clipped")
    text = "hyper: {lr: {default: 1}}\nrules:\n  - {when: ndim >= 2, use: clipped}\n  - {otherwise: sgd}\n"
    made_class = optimizer_class(spec(text, tmp_path, "both"))
    params = [torch.nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in SHAPES]
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    made_class(params, lr=0.1, clipped_weight_decay=0.0, clipped_clip_norm_limit=0.1).step()
    assert float(params[0][0, 0]) == pytest.approx(0.9)
    assert float(params[2][0]) == pytest.approx(0.8)


def test_what_a_transform_changes_may_take_other_shapes_on_the_way(tmp_path: Path) -> None:
    text = "kind: transform\nupdate: |\n  x = u\n  u = rms(u)\n  u = x/(1 + u)\n"
    spec(text, tmp_path, "scaled")

    def change(p: Array, g: Array, _t: int, _kept: dict[str, Array]) -> Array:
        u = -0.1 * g / (1 + np.sqrt(np.mean(g * g)))
        return np.asarray(u / (1 + np.sqrt(np.mean(u * u))))

    check(spec("extends: sgd\nbefore: [scaled]\nafter: [{use: scaled, name: again}]\n", tmp_path), "torch", change, lr=0.1)


def test_conditions_of_one_name_are_those_of_each_transform(tmp_path: Path) -> None:
    text = "kind: transform\nhyper: {beta: {default: 0.5}}\nupdate: |\n  if beta != 0:\n    u = u*(1 + beta)\n  else:\n    u = 2*u\n"
    spec(text, tmp_path, "damped")

    def change(_p: Array, g: Array, _t: int, _kept: dict[str, Array]) -> Array:
        return np.asarray(-0.1 * 2 * 1.5 * g)

    path = spec("extends: sgd\nbefore: [damped, {use: damped, name: again}]\n", tmp_path)
    check(path, "torch", change, lr=0.1, damped_beta=0.0, again_beta=0.5)


ALL_RULES = """
hyper: {lr: {default: 0.1}, limit: {default: 1.0, above: 0}}
before: [{use: clip_global_norm, hyper: {limit: limit}}]
after: [{use: decoupled_decay, name: decay, hyper: {lr: lr}}]
rules:
  - {when: ndim >= 2, use: adamw, hyper: {lr: lr}}
  - name: others
    when: ndim < 2
    update: |
      p = p - lr*g
"""


def transforms_of_all_rules(folder: Path, backend: str, limit: float = 0.5) -> None:
    """One norm of the gradients of all rules, with torch's function and two of its classes; each group has one of the optimizer."""
    path = spec(ALL_RULES, folder)
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in SHAPES] for _ in range(2))
    groups = [{"params": ours[:1]}, {"params": ours[1:]}]
    mine = optimizer_class(path)(groups, limit=limit, decay_weight_decay=0.05, adamw_weight_decay=0.0, backend=backend)
    others = [torch.optim.AdamW(theirs[:2], lr=0.1, weight_decay=0.05), torch.optim.SGD(theirs[2:], lr=0.1)]
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    for _ in range(STEPS):
        gradients(ours, generators[0])
        mine.step()
        gradients(theirs, generators[1])
        torch.nn.utils.clip_grad_norm_(theirs, limit)
        theirs[2].data.mul_(1 - 0.1 * 0.05)
        for other in others:
            other.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_all_rules_have_the_transforms_of_their_spec(backend: str, tmp_path: Path) -> None:
    transforms_of_all_rules(tmp_path, backend)


def test_all_rules_in_triton(tmp_path: Path) -> None:
    code = "import sys, pathlib; from tests.test_transforms import transforms_of_all_rules as f; f(pathlib.Path(sys.argv[1]), 'triton')"
    interpreted("-c", code, str(tmp_path))


def test_transforms_of_a_spec_with_rules_stand_outside_of_a_rules_own(tmp_path: Path) -> None:
    """And have one argument, whatever the rules are; states of theirs are each rule's."""
    spec("extends: sgd\nbefore: [{use: unscale, name: inner}]\nafter: [cautious]\n", tmp_path, "inside")
    text = (
        "hyper: {lr: {default: 1}}\nbefore: [unscale]\nafter: [{use: clip_rms, name: outer}]\nrules:\n  - otherwise: inside\n"
    )
    built = build(str(spec(text, tmp_path)))
    names = [hyper.name for hyper in built.spec.hypers]
    assert {"unscale_loss_scale", "outer_limit", "inside_inner_loss_scale"} <= set(names) and len(names) == len(set(names))
    order = [s.target for s in built.programs[0].body if getattr(s, "target", "").endswith("_u")]
    firsts = list(dict.fromkeys(order))
    assert firsts.index("unscale_u") < firsts.index("inner_u") < firsts.index("cautious_u") < firsts.index("outer_u")


REFUSED = {
    "a key of a state dict": (
        "extends: sgd\nstate: {average_m: {like: p, save_as: kept_m}}\nbefore: [{use: stateful, name: kept}]\n"
        "update: |\n  average_m = average_m + g\n  p = p - lr*average_m\n",
        "two states would be saved as 'kept_m'",
    ),
    "a long argument": (
        "extends: lion\nafter: [{use: long, name: a_name_of_twenty_sig}]\n",
        "which cannot be a name",
    ),
    "an optimizer": ("extends: lion\nbefore: [sgd]\n", "'sgd' to use"),
    "a path to an optimizer": ("extends: lion\nbefore: [lone]\n", "'lone' is an optimizer and no transform"),
    "two of one name": ("extends: lion\nafter: [clip_rms, clip_rms]\n", "two transforms are called 'clip_rms'"),
    "no name": ("extends: lion\nafter: [{use: clip_rms, name: Clip}]\n", "'Clip' cannot be the name of a transform"),
    "no use": ("extends: lion\nafter: [{name: clip}]\n", "a transform needs the key 'use'"),
    "unknown": ("extends: lion\nafter: [clip_rsm]\n", "there is no spec 'clip_rsm' to use"),
    "a hyperparameter": ("extends: lion\nafter: [{use: clip_rms, hyper: {most: lr}}]\n", "no hyperparameter 'most'"),
    "a taken argument": (
        "extends: lion\nhyper: {clip_rms_limit: {default: 1}}\nafter: [clip_rms]\n",
        "'clip_rms_limit', for 'limit' of 'clip_rms', is declared already",
    ),
    "an argument that a used spec has": (
        "hyper: {momentum: {default: 1}}\nafter: [{use: clip_rms, hyper: {limit: momentum}}]\nrules:\n  - {otherwise: sgd}\n",
        "'sgd' has a hyperparameter 'momentum' of its own, and a transform takes that of this spec",
    ),
    "another time": (
        "hyper: {lr: {default: 1}}\nafter: [clip_global_norm]\nrules:\n  - {when: ndim > 1, use: sgd, hyper: {lr: lr}}\n"
        "  - when: ndim < 2\n    update: |\n      p = p - lr*g/l2(g, over=group)\n",
        "wait for others at another time than those of the first",
    ),
    "p": ("kind: transform\nupdate: |\n  u = 2*u\n  p = p - u\n", "a transform does not assign to p"),
    "no u": ("kind: transform\nupdate: |\n  x = 2*u\n", "never assigns to u"),
    "a transform's transforms": ("kind: transform\nbefore: [clip_rms]\nupdate: |\n  u = 2*u\n", "a transform has no 'before'"),
    "a fault in a transform": ("extends: lion\nbefore: [broken]\n", "unknown symbol 'wrong'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, tmp_path: Path) -> None:
    text, message = REFUSED[what]
    spec("extends: lion\n", tmp_path, "lone")
    spec("kind: transform\nupdate: |\n  u = u*wrong\n", tmp_path, "broken")
    spec("kind: transform\nstate: {m: {like: p}}\nupdate: |\n  m = ema(m, u, 0.5)\n  u = m\n", tmp_path, "stateful")
    long = "a_hyperparameter_of_thirty_two_s"
    spec(f"kind: transform\nhyper: {{{long}: {{default: 1}}}}\nupdate: |\n  u = u*{long}\n", tmp_path, "long")
    with pytest.raises(SpecError) as caught:
        optimizer_class(spec(text, tmp_path))
    assert message in str(caught.value), caught.value
