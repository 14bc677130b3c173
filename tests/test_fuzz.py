"""Whatever bytes a spec holds, optgen answers with rendered errors or with code that compiles and computes the rule.

OPTGEN_FUZZ=n runs n times as many random cases; `random_specs.py` makes them, everything found so far is listed below.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optgen.cli.main import main
from optgen.diagnostics import SpecError
from optgen.ir.names import is_reserved
from optgen.runtime import torch_ops
from optgen.spec.load import load_program
from tests.conftest import ROOT, interpreted
from tests.damaged_specs import damaged
from tests.fuzzing import run_spec, try_spec
from tests.random_specs import random_spec
from tests.rule_specs import MIXED, OWN

TIMES = int(os.environ.get("OPTGEN_FUZZ", "1"))
GOOD = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "specs").glob("*.yaml"))]
HEAD = "name: Rule\nsummary: A rule.\n"
seeds = st.integers(0, 2**32)


def fuzz(examples: int) -> settings:
    return settings(max_examples=examples * TIMES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "rule.yaml"


@fuzz(30)
@given(seed=seeds)
def test_random_rules_equal_the_reference(seed: int, path: Path) -> None:
    path.write_text(random_spec(seed), encoding="utf-8")
    run_spec(path)


@fuzz(8)
@given(seed=seeds)
def test_random_rules_equal_the_reference_in_cpp(seed: int, path: Path) -> None:
    path.write_text(random_spec(seed), encoding="utf-8")
    run_spec(path, backend="cpp")


RULES = """
name: Rules
summary: Two random rules.
rules:
  - when: size(cols) == 5
    use: first
  - otherwise: second
"""


@fuzz(12)
@given(seed=seeds)
def test_random_specs_as_rules_equal_the_reference(seed: int, path: Path) -> None:
    """Arguments, flags and scalars of both keep apart, whatever they are called."""
    for name, text in (("first", random_spec(seed)), ("second", random_spec(seed + 1)), ("rules", RULES)):
        path.with_name(f"{name}.yaml").write_text(text, encoding="utf-8")
    try:
        run_spec(path.with_name("rules.yaml"))
    except SpecError as error:  # an argument such as `second_code`, or one that is a local there
        assert {d.code for d in error.diagnostics} <= {"bad-name", "name-clash"}


@fuzz(100)
@given(seed=seeds, base=st.sampled_from([MIXED, OWN]))
def test_damaged_rules(seed: int, base: str, path: Path) -> None:
    path.write_bytes(damaged(base, seed))
    try_spec(path)


@fuzz(200)
@given(seed=seeds, base=st.sampled_from(GOOD))
def test_damaged_specs(seed: int, base: str, path: Path) -> None:
    path.write_bytes(damaged(base, seed))
    try_spec(path)


@fuzz(200)
@given(seed=seeds)
def test_damaged_random_specs(seed: int, path: Path) -> None:
    path.write_bytes(damaged(random_spec(seed), seed))
    try_spec(path)


@fuzz(100)
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    try_spec(path)


@fuzz(150)
@given(formula=st.text(st.sampled_from("pgtlrm0123456789.e+-*/()<>=!, \n:#'\"[]{}ifandornot"), max_size=60))
def test_arbitrary_formulas(formula: str, path: Path) -> None:
    path.write_text(f"{HEAD}update: |\n  p = p - {formula}\n".replace("\n\n", "\n  "), encoding="utf-8")
    try_spec(path)


REFUSED = {
    "empty": b"",
    "only a comment": b"# nothing\n",
    "nothing but a document start": b"---\n",
    "invalid UTF-8": b"name: \xff\xfe\n",
    "UTF-16": HEAD.encode("utf-16"),
    "NUL": b"name: R\0le\n",
    "a zero-width space": "name: R\u200bule\n".encode(),
    "text that runs backwards": "name: R\u202eule\n".encode(),
    "a line separator": "name: Rule\u2028summary: A.\n".encode(),
    "a next-line character": "name: Rule\x85summary: A.\n".encode(),
    "a byte-order mark inside": "name: \ufeffRule\n".encode(),
    "an escaped NUL": b'name: Rule\nsummary: "a\\0b"\nupdate: p = p - g\n',
    "an escaped surrogate": b'name: Rule\nsummary: "\\ud800"\nupdate: p = p - g\n',
    "an escape beyond Unicode": b'name: Rule\nsummary: "\\U00110000"\nupdate: p = p - g\n',
    "a huge escape": b'name: Rule\nsummary: "\\UFFFFFFFF"\nupdate: p = p - g\n',
    "deep flow lists": b"name: " + b"[" * 50_000,
    "deep mappings": b"".join(b" " * i + b"a:\n" for i in range(300)),
    "deep block lists": b"- " * 20_000,
    "too large": b"#" * 100_001,
    "an anchor": b"name: &a Rule\n",
    "an alias": b"name: *a\n",
    "an alias bomb": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a tag": b"name: !!python/object/apply:os.system [ls]\n",
    "a second document": f"{HEAD}update: p = p - g\n---\nname: B\n".encode(),
    "a directive": b"%YAML 9.9\n---\nname: A\n",
    "a merge key": f"{HEAD}<<: {{update: p}}\n".encode(),
    "a merge key below": f"{HEAD}state: {{<<: {{m: 1}}}}\nupdate: p = p - g\n".encode(),
    "a key that is a list": b"? [a]\n: 1\n",
    "a key that is a block": b"? |\n  name\n: Rule\n",
    "an empty key": b": a\n",
    "a tab as indentation": f"{HEAD}update: |\n\tp = p - g\n".encode(),
    "an empty block before a key": f"{HEAD}update: |\nstate: {{}}\n".encode(),
    "an update of comments": f"{HEAD}update: |\n  # nothing\n".encode(),
    "digits of another script": f"{HEAD}hyper: {{lr: {{default: ١}}}}\nupdate: p = p - lr*g\n".encode(),
    "a long name": f"{HEAD}hyper: {{{'a' * 5000}: {{default: 1}}}}\nupdate: p = p - g\n".encode(),
    "a name with line breaks": f'{HEAD}"a\\nb": 1\nupdate: p = p - g\n'.encode(),
    "a class that is a keyword": b"name: None\nsummary: A.\nupdate: p = p - g\n",
    "a class that is imported": b"name: Tensor\nsummary: A.\nupdate: p = p - g\n",
    "the name of a folder": f"{HEAD}extends: .\n".encode(),
    "a parent that is missing": f"{HEAD}extends: /nowhere/at\\0all\n".encode(),
    "a parent with a long name": f"{HEAD}extends: {'a' * 5000}\n".encode(),
}
FORMULAS = {
    "a tower": "10**10**10",
    "a higher tower": "9**9**9**9",
    "a literal beyond float64": "1e400",
    "a literal that is 0": "1e-400",
    "ten thousand digits": "1" * 10_000,
    "many digits": "1" * 400,
    "division by zero": "g/0",
    "division by what is zero": "g/(1 - 1)",
    "a negative power of zero": "0**-1",
    "a root of a negative number": "sqrt(-1)",
    "the logarithm of zero": "log(0)",
    "overflow": "exp(1000)",
    "overflow in a word": "ema(1e308, 1e308, 1e10)",
    "deep parentheses": "(" * 1000 + "g" + ")" * 1000,
    "unclosed parentheses": "(" * 5000,
    "deep signs": "-" * 5000 + "g",
    "deep not": "where(" + "not " * 3000 + "g > 0, 1, 0)",
    "deep powers": "**".join(["g"] * 1000),
    "a long sum": " + ".join(["g"] * 1000),
    "many arguments": "min(" + ", ".join(["g"] * 2000) + ")",
    "many conditions": "where(" + " and ".join(["g > 0"] * 500) + ", 1, 0)",
    "a long comparison": "where(" + " < ".join(["g"] * 500) + ", 1, 0)",
    "very long": "g" + " " * 30_000,
    "a lambda": "(lambda: g)()",
    "an f-string": 'f"{g}"',
    "a walrus": "(p := g)",
    "a comprehension": "sum(x for x in g)",
    "await": "await g",
    "an attribute": "g.__class__.__mro__",
    "an import": '__import__("os")',
    "bytes": 'b"g"',
    "a complex number": "1j*g",
    "an ellipsis": "...",
    "a starred argument": "min(*g)",
    "a choice": '"g"',
    "choices to choose from": 'where(g > 0, "a", "b")',
    "a literal condition": "where(True, g, p)",
    "a set": "{g}",
    "an identifier that Python would normalize": "ℊ",
    "a backslash at the end": "g \\",
    "a semicolon": "g; import os",
    "a string that is not closed": '"g',
    "a condition that is always true": "where(1 < 2, g, p)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files(name: str, path: Path) -> None:
    path.write_bytes(REFUSED[name])
    assert not try_spec(path)


@pytest.mark.parametrize("name", FORMULAS)
def test_refused_formulas(name: str, path: Path) -> None:
    path.write_text(f"{HEAD}update: |\n  p = p - {FORMULAS[name]}\n", encoding="utf-8")
    assert not try_spec(path)


QUOTES = r"""
name: Rule
summary: '~~~A \N{DASH} \x "rule"'
reference: 'C:\new"'
hyper: {mode: {default: 'say "x"', choices: ['say "x"', 'a\b'], doc: '~~~ {{ x }} \'}}
state: {m: {like: p, doc: 'ends with "'}}
update: |
  # ~~~ \N{DASH} {% raw %} "
  m = m + g
  if mode == 'a\\b':
    m = m + g
  p = p - m
""".strip().replace("~~~", 3 * '"')
ACCEPTED = {
    "CRLF": f"{HEAD}update: |\n  p = p - g\n".replace("\n", "\r\n"),
    "lone carriage returns": f"{HEAD}update: |\n  p = p - g\n".replace("\n", "\r"),
    "a byte-order mark": f"\ufeff{HEAD}update: p = p - g\n",
    "quotes and backslashes in texts": QUOTES,
    "a word that is also a hyperparameter": f"""{HEAD}hyper:
  mode: {{default: use lr, choices: [use lr, mode]}}
  lr: {{default: 1}}
update: |
  d = g
  if mode == "use lr":
    d = lr*g
  p = p - d
""",
    "a flag beside t": f"{HEAD}hyper: {{f: {{default: false}}}}\nupdate: |\n  d = g\n  if f and t > 1:\n    d = 2*g\n  p = p - d\n",
    "a flag in where": f"{HEAD}hyper: {{f: {{default: false}}}}\nupdate: p = p - where(f, g, 2*g) - where(f or g > 1, 1, 0.1)\n",
    "a flag called lr": f"{HEAD}hyper: {{lr: {{default: true}}}}\nupdate: p = p - where(lr, g, 2*g)\n",
    "if, else and if again": f"""{HEAD}hyper: {{f: {{default: false}}}}
update: |
  d = g
  if f:
    d = 2*d
  else:
    d = 3*d
  if f:
    d = d + 1
  p = p - d
""",
    "t beside elements": f"{HEAD}update: p = p - max(g, t)\n",
    "the sign of a scalar": f"{HEAD}update: p = p - sign(t - 1.5)*g\n",
    "constants in names per element": f"{HEAD}state: {{m: {{like: p}}}}\nupdate: |\n  m = 0.3\n  d = 0.1\n  e = log(d)\n"
    "  d = g + m\n  p = p - d*e\n",
    "a parameter that becomes constant": f"{HEAD}update: p = 0.1\n",
    "float64 constants": f"{HEAD}update: p = p - where(g > 0.3719, 0.1, 0.2)*min(p, 0.3)\n",
    "a power of zero": f"{HEAD}update: p = p - abs(g**0)*sqrt(g**0)\n",
    "names of the compiler's own": f"""{HEAD}state:
  steps: {{like: p, sign: unsigned, storage: {{codebook: log, bits: 2, block: 32, min_size: 0}}}}
  m: {{like: p, storage: {{codebook: linear, bits: 4, block: 32, min_size: 0}}}}
  m_scale: {{like: p, storage: {{codebook: linear, bits: 8, block: 32, min_size: 0}}}}
  scale: {{like: p, sign: unsigned, storage: {{codebook: log, bits: 2, block: 64, min_size: 0}}}}
  v: {{like: p}}
update: |
  m_state = g
  v_state = g
  scale_m = g
  decode_m = g
  if t > 1:
    m_state = 2*g
  t_above_1 = m_state
  steps = steps + g**2
  scale = scale + g**2
  m = 0.5*m + g
  m_scale = 0.5*m_scale + g
  v = 0.5*v + v_state
  p = p - 0.1*(m + m_scale + t_above_1 + scale_m + decode_m + v + steps + scale)
""",
    "conditions on scalars and on elements": f"""{HEAD}hyper: {{a: {{default: 0.3}}}}
update: |
  b = a*t
  p = p - where(g > 0.3719 and (b > 0.7 or not (t > 1)), 0.1, 0.2) - where((b > 0.7) == (g > 0.3719), 0.3, g)
""",
    "a constant over what is never negative": f"""{HEAD}hyper: {{eps: {{default: 0.1, min: 0}}}}
update: |
  p = p - 0.5/(abs(g) + eps) - 2/sqrt(g*g + 0.1)
""",
    "names that kernels might use": f"""{HEAD}hyper: {{size: {{default: 0.3}}, blocks: {{default: true}}, tile: {{default: false}}}}
state:
  first: {{like: p}}
  words: {{like: p, storage: {{codebook: linear, bits: 4, block: 32, min_size: 0, rounding: stochastic}}}}
  slot: {{shape: scalar, init: 1}}
update: |
  start = g*size
  length = 0.5*t
  slot = slot*0.9
  valid = start
  if blocks:
    valid = 2*start
  if tile:
    valid = 3*start
  first = 0.5*first + valid
  words = 0.5*words + g
  tensors = first + words
  offsets = tensors/(1 + abs(tensors))
  p = p - 0.1*slot*offsets/length
""",
    "an average of averages": f"{HEAD}update: p = p - {'ema(0.5, 1/(1 + abs(g)), ' * 20}0.5{')' * 20}\n",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_specs(name: str, path: Path) -> None:
    path.write_bytes(ACCEPTED[name].encode())
    run_spec(path)


def test_specs_on_triton(tmp_path: Path) -> None:
    """In a process of its own: Triton must know early that it is to interpret."""
    pytest.importorskip("triton")
    names = ("conditions on scalars and on elements", "a constant over what is never negative", "names that kernels might use")
    texts = [*(ACCEPTED[name] for name in names), *map(random_spec, range(10 * TIMES))]
    for index, text in enumerate(texts):
        (tmp_path / f"rule{index}.yaml").write_bytes(text.encode())
    code = "import sys; from pathlib import Path; from tests.fuzzing import run_spec\n"
    code += (
        "for path in sorted(Path(sys.argv[1]).iterdir()): print(path.read_text(), flush=True); run_spec(path, backend='triton')"
    )
    interpreted("-c", code, str(tmp_path))


def test_many_branches_are_checked_in_time(path: Path) -> None:
    """Each pair of flags doubles the ways through the update."""
    flags = [f"f{i}" for i in range(40)]
    hypers = ", ".join(f"{flag}: {{default: false}}" for flag in flags)
    branches = "".join(f"  if {a}:\n    if {b}:\n      d = g\n" for a, b in zip(flags[::2], flags[1::2], strict=True))
    path.write_text(f"{HEAD}hyper: {{{hypers}}}\nupdate: |\n{branches}  p = p - d\n", encoding="utf-8")
    with pytest.raises(SpecError, match="may not have been assigned"):
        load_program(str(path))


def test_cycles_and_broken_parents(tmp_path: Path) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a"), ("long0", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"{HEAD}extends: {parent}\n", encoding="utf-8")
    for index in range(1, 20):
        (tmp_path / f"long{index}.yaml").write_text(f"{HEAD}extends: long{index - 1}\n", encoding="utf-8")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    (tmp_path / "of_bytes.yaml").write_text(f"{HEAD}extends: bytes\n", encoding="utf-8")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "of_folder.yaml").write_text(f"{HEAD}extends: folder\n", encoding="utf-8")
    for name in ("a", "long19", "of_bytes", "of_folder", "folder"):
        assert not try_spec(tmp_path / f"{name}.yaml")


@pytest.mark.parametrize("place", ["", ".", "/", "missing.yaml", "x" * 5000, "caf\udcff.yaml", "no\nsuch.yaml"])
def test_paths_that_are_no_specs(place: str) -> None:
    result = CliRunner().invoke(main, ["check", place])
    assert result.exit_code == 1
    assert "error[unreadable-file]" in result.output
    assert "Traceback" not in result.output


def test_a_path_with_a_zero_byte() -> None:
    assert not try_spec(Path("a\0b.yaml"))


@pytest.mark.parametrize("name", ["to", "load", "store"])
def test_names_of_what_kernels_call_are_reserved(name: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"name: Rule\nsummary: x\nstate: {{{name}: {{like: p}}}}\nupdate: p = p - {name}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=f"'{name}' already has a meaning"):
        load_program(str(path))


def test_names_of_the_runtime_are_reserved() -> None:
    """Generated modules import these; a local of the same name would hide them."""
    source = "".join(
        (ROOT / "optgen" / "runtime" / f"{name}.py").read_text() for name in ("triton_grid", "triton_ops", "triton_select")
    )
    helpers = [line.split("(")[0].removeprefix("def ") for line in source.split("\n") if line.startswith("def ")]
    for name in [*torch_ops.__all__, *helpers]:
        assert name.startswith("_") or is_reserved(name), name
