"""What specs mean: each rule against a few lines of numpy, and against the reference on the torch backend."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from optgen.build import build
from optgen.reference.compare import Case, compare
from optgen.reference.tolerances import TOLERANCES
from optgen.verify import imported

HEAD = "name: Rule\nsummary: A rule.\n"
Memory = dict[str, np.ndarray]
Rule = Callable[[np.ndarray, np.ndarray, Memory, int], np.ndarray]


def run(module: ModuleType, rule: Rule, steps: int = 4, **options: Any) -> None:
    """Compare a generated class with `rule(p, g, memory, t) -> p` in float64."""
    generator = np.random.default_rng(0)
    p = torch.nn.Parameter(torch.from_numpy(generator.standard_normal((5, 7))))
    expected, memory = p.detach().numpy().copy(), {}
    optimizer = module.Rule([p], **options)
    for t in range(1, steps + 1):
        g = generator.standard_normal((5, 7))
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        expected = rule(expected, g, memory, t)
        assert p.detach().numpy() == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_old_and_new_values(generate: Callable[[str], ModuleType]) -> None:
    module = generate(f"""{HEAD}
state: {{m: {{like: p}}}}
update: |
  u = m + g
  m = 0.5*m + g
  p = p - 0.1*(u - m)
""")

    def rule(p: np.ndarray, g: np.ndarray, memory: Memory, t: int) -> np.ndarray:
        old = memory.get("m", np.zeros_like(p))
        memory["m"] = 0.5 * old + g
        return p - 0.1 * (old + g - memory["m"])

    run(module, rule)


def test_phases_and_a_state_that_begins_again(generate: Callable[[str], ModuleType]) -> None:
    """The example of the documentation: momentum, then Adam from its first step on."""
    page = (Path(__file__).parent.parent / "docs" / "spec-language.md").read_text(encoding="utf-8")
    text = next(block for block in page.split("```yaml\n") if block.startswith("name: TwoPhases")).split("```")[0]
    module = generate(text.replace("TwoPhases", "Rule"))

    def rule(p: np.ndarray, g: np.ndarray, memory: Memory, t: int) -> np.ndarray:
        n = t - 2
        m = 0.0 if n == 1 else memory.get("m", 0.0)
        memory["m"] = 0.9 * m + 0.1 * g
        if n < 1:
            return p - 0.01 * memory["m"]
        memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * g * g
        return p - 0.01 * (memory["m"] / (1 - 0.9**n)) / (np.sqrt(memory["v"] / (1 - 0.999**n)) + 1e-8)

    for backend in ("torch", "cpp"):
        run(module, rule, steps=7, lr=0.01, change=3, backend=backend)


def test_conditions_on_t_flags_and_choices(generate: Callable[[str], ModuleType]) -> None:
    module = generate(
        f"""{HEAD}
hyper:
  lr: {{default: 0.1}}
  warm: {{default: 2}}
  twice: {{default: false}}
  mode: {{default: plain, choices: [plain, sign, square]}}
state: {{m: {{like: p}}}}
update: |
  if t == 1:
    m = g
  elif t <= warm:
    m = m + g
  else:
    m = 0.9*m + g
  if mode == "sign":
    d = sign(m)
  elif mode == "square":
    d = m**2
  else:
    d = m
  if twice and t > 1:
    d = 2*d
  p = p - lr*d
""".replace("if twice and t > 1:", "if twice:\n    if t > 1:\n      d = 2*d\n  if not twice:").replace(
            "    d = 2*d\n  p", "    d = d\n  p"
        )
    )

    def rule_for(mode: str, twice: bool) -> Rule:
        def rule(p: np.ndarray, g: np.ndarray, memory: Memory, t: int) -> np.ndarray:
            m = memory.get("m")
            memory["m"] = g if t == 1 else m + g if t <= 2 else 0.9 * m + g
            d = {"plain": lambda x: x, "sign": np.sign, "square": np.square}[mode](memory["m"])
            return p - 0.1 * d * (2 if twice and t > 1 else 1)

        return rule

    for mode in ("plain", "sign", "square"):
        for twice in (False, True):
            run(module, rule_for(mode, twice), mode=mode, twice=twice)


def test_functions(generate: Callable[[str], ModuleType]) -> None:
    module = generate(
        f"""{HEAD}
hyper: {{lr: {{default: 0.1}}}}
update: |
  a = sqrt(abs(g)) + rsqrt(1 + g**2) + exp(-abs(g)) + log(1 + abs(g))
  b = min(g, 0.5, p) + max(g, -0.5, p) + clamp(p, -1/t, abs(g))
  c = where(g > p and not g < 0, g**3, p**-2) + where(g != 0, abs(g)**1.5, 0)
  d = ema(a, b, 0.9) + sign(c)
  p = p - lr*d + 0.01*(g**0.5)**2*0
""".replace(" + 0.01*(g**0.5)**2*0", "")
    )

    def rule(p: np.ndarray, g: np.ndarray, memory: Memory, t: int) -> np.ndarray:
        a = np.sqrt(np.abs(g)) + 1 / np.sqrt(1 + g**2) + np.exp(-np.abs(g)) + np.log(1 + np.abs(g))
        b = (
            np.minimum(np.minimum(g, 0.5), p)
            + np.maximum(np.maximum(g, -0.5), p)
            + np.minimum(np.maximum(p, -1 / t), np.abs(g))
        )
        c = np.where((g > p) & ~(g < 0), g**3, p**-2.0) + np.where(g != 0, np.abs(g) ** 1.5, 0)
        return p - 0.1 * (0.9 * a + 0.1 * b + np.sign(c))

    run(module, rule)


def test_scalar_states_and_initial_values(generate: Callable[[str], ModuleType]) -> None:
    module = generate(f"""{HEAD}
hyper:
  lr: {{default: 0.1}}
  begin: {{default: 0.25}}
state:
  product: {{shape: scalar, init: 1 + begin}}
  z: {{like: p, init: p}}
  v: {{like: p, init: g**2}}
update: |
  mu = 0.9*(1 - 0.5**t)
  product = product*mu
  v = 0.5*v + 0.5*g**2
  z = z - lr*g/(1 + product)
  p = z + 0.1*v
""")

    def rule(p: np.ndarray, g: np.ndarray, memory: Memory, t: int) -> np.ndarray:
        mu = 0.9 * (1 - 0.5**t)
        memory["product"] = memory.get("product", np.array(1.25)) * mu
        memory["v"] = 0.5 * memory.get("v", g**2) + 0.5 * g**2
        memory["z"] = memory.get("z", p) - 0.1 * g / (1 + memory["product"])
        return memory["z"] + 0.1 * memory["v"]

    run(module, rule)


def test_a_scalar_read_before_and_after_it_changes(generate: Callable[[str], ModuleType]) -> None:
    module = generate(f"""{HEAD}
hyper: {{lr: {{default: 0.1}}, shrink: {{default: false}}}}
update: |
  a = lr
  p = p - a*g
  if shrink:
    a = a*0.5
  p = p - a*sign(g)
  a = a + 1/t
  p = p*(1 - 0.01*a)
""")

    def rule_for(shrink: bool) -> Rule:
        def rule(p: np.ndarray, g: np.ndarray, memory: Memory, t: int) -> np.ndarray:
            a = 0.1 * (0.5 if shrink else 1)
            return (p - 0.1 * g - a * np.sign(g)) * (1 - 0.01 * (a + 1 / t))

        return rule

    for shrink in (False, True):
        run(module, rule_for(shrink), shrink=shrink)


def test_augmented_assignment_and_elementwise_powers_of_scalars(generate: Callable[[str], ModuleType]) -> None:
    module = generate(f"""{HEAD}
hyper: {{lr: {{default: 0.1}}, power: {{default: 1.3}}}}
update: |
  d = abs(g)
  d += 1
  d **= power
  d /= 2
  p -= lr*d
""")

    def rule(p: np.ndarray, g: np.ndarray, memory: Memory, t: int) -> np.ndarray:
        return p - 0.1 * (np.abs(g) + 1) ** 1.3 / 2

    run(module, rule)


def test_inheritance_merges_and_removes(generate: Callable[[str], ModuleType], tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        textwrap.dedent("""
        name: Base
        summary: The parent.
        hyper:
          lr: {default: 0.5, min: 0}
          momentum: {default: 0.9}
        state: {m: {like: p, save_as: kept}}
        update: |
          m = momentum*m + g
          p = p - lr*m
        """),
        encoding="utf-8",
    )
    child = generate(f"{HEAD}\nextends: base\nhyper: {{lr: {{default: 0.1}}}}\n")
    assert child.Rule([torch.zeros(2, requires_grad=True)]).defaults["lr"] == 0.1
    with pytest.raises(ValueError, match="lr must be at least 0"):
        child.Rule([torch.zeros(2, requires_grad=True)], lr=-1.0)
    plain = generate(f"{HEAD}\nextends: base\nhyper: {{momentum: }}\nstate: {{m: }}\nupdate: |\n  p = p - lr*g\n", "plain")
    optimizer = plain.Rule([torch.zeros(2, requires_grad=True)])
    assert set(optimizer.defaults) >= {"lr", "maximize"}
    assert "momentum" not in optimizer.defaults


RULES = {
    "nadam": """
hyper:
  lr: {default: 2e-3}
  betas: {default: [0.9, 0.999], names: [beta1, beta2], min: 0, below: 1}
  eps: {default: 1e-8}
state:
  m: {like: p}
  v: {like: p, sign: unsigned}
  mu_product: {shape: scalar, init: 1}
update: |
  mu = beta1*(1 - 0.5*0.96**(t*4e-3))
  mu_next = beta1*(1 - 0.5*0.96**((t + 1)*4e-3))
  mu_product = mu_product*mu
  m = ema(m, g, beta1)
  v = ema(v, g**2, beta2)
  d = sqrt(v/(1 - beta2**t)) + eps
  p = p - lr*(1 - mu)/(1 - mu_product)*g/d - lr*mu_next/(1 - mu_product*mu_next)*m/d
""",
    "shared_subexpressions": """
hyper: {lr: {default: 0.1}, other: {default: false}}
state: {v: {like: p, sign: unsigned}}
update: |
  v = v - 0.01*sign(v - g**2)*g**2
  if other:
    p = p - lr*sqrt(v + 1)
  else:
    p = p - lr*sqrt(v + 1)*g
  p = p - lr*sqrt(v + 1)
""",
    "conditional_states": """
hyper: {lr: {default: 0.1}, momentum: {default: 0}, centered: {default: false}}
state:
  b: {like: p, when: momentum > 0}
  a: {like: p, when: centered}
update: |
  d = g
  if centered:
    a = ema(a, g, 0.9)
    d = d - a
  if momentum > 0:
    b = momentum*b + d
    d = b
  p = p - lr*d
""",
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_rules_equal_the_reference(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(HEAD + RULES[name], encoding="utf-8")
    built = build(str(path))
    flags = [h.name for h in built.program.hypers if isinstance(h.default, bool)]
    extra = [{"momentum": 0.9}, {"momentum": 0.9, "centered": True}] if name == "conditional_states" else []
    with imported(built) as optimizer_class:
        for hypers in [{}, *({flag: True} for flag in flags), *extra]:
            case = Case(name, ((4, 9), (), (3,)), dtype, steps=5, hypers=hypers)
            difference = compare(optimizer_class, built.program, case)
            assert difference.passes(TOLERANCES[str(dtype).removeprefix("torch.")]), (hypers, difference)


def test_a_scalar_state_beside_a_fact_of_a_storage(generate: Callable[[str], ModuleType]) -> None:
    """Both are arguments of the host scalars; each must get its own value."""
    module = generate("""
        name: Rule
        summary: A scalar state and the bits of a state.
        hyper: {lr: {default: 1e-2, min: 0}}
        state:
          m: {like: p}
          f: {shape: scalar, init: lr}
        update: |
          f = f
          m = ema(m, g, 0.5)
          p = p - f*m*bits(m)/32
        """)
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = module.Rule([p])
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
    assert optimizer.state[p]["f"] == 0.01
    torch.testing.assert_close(p.detach(), torch.full((3,), -0.01 * (0.5 + 0.75)))


def test_states_that_begin_late(generate: Callable[[str], ModuleType]) -> None:
    """A state whose condition comes to hold in mid-training starts from its `init`; a scalar one may be missing before."""
    module = generate("""
        name: Late
        summary: A sum that can be switched on.
        hyper: {lr: {default: 0.1}, late: {default: false}}
        state:
          k: {shape: scalar, when: late, init: 2}
          s: {like: p, when: late, init: 5*g}
        update: |
          d = g
          if late:
            k = k + 1
            s = s + g
            d = s/k
          p = p - lr*d
        """)
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = module.Late([p])

    def step() -> dict[str, Any]:
        p.grad = torch.ones(3)
        optimizer.step()
        return {key: float(value.sum()) for key, value in optimizer.state[p].items()}

    step()
    assert step() == {"step": 2.0}
    optimizer.param_groups[0]["late"] = True
    assert step() == {"step": 3.0, "k": 3.0, "k.made": 1.0, "s": 18.0, "s.made": 1.0}
    assert step() == {"step": 4.0, "k": 4.0, "k.made": 1.0, "s": 21.0, "s.made": 1.0}
    again = module.Late([torch.nn.Parameter(torch.zeros(3))])
    again.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["late"] = False
    assert step() == {"step": 5.0, "k": 4.0, "k.made": 1.0, "s": 21.0, "s.made": 1.0}
