"""The planner's sweeps: where a reduction splits a step, what each pass reads and writes, and what lies between."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from optgen.build import build
from optgen.ir.constants import default_flags
from optgen.ir.nodes import Assign, Const, Domain, Kind, Op, Program, Ref, Role, State, Storage, Store, Symbol
from optgen.ir.ops import WIDE_REDUCTIONS
from optgen.plan.nodes import Buffer, Kernel, Layout
from optgen.plan.sweeps import split_sweeps
from optgen.plan.traffic import kernel_bytes
from optgen.storage.codebooks import codec_of
from tests.conftest import SHIPPED
from tests.fewest_bytes import fewest_bytes, planned_bytes

SPECS = SHIPPED.values()


def planned(m: str, v: str, folder: Path) -> Kernel:
    """AdamW's kernel for parameters whose states are stored like this."""
    path = folder / "planned.yaml"
    lines = ["name: Planned", "summary: x", "extends: adamw", "state:", f"  m: {{storage: {m}}}", f"  v: {{storage: {v}}}"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return build(str(path)).plan.kernels[-1]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_an_elementwise_rule_is_one_sweep(path: Path) -> None:
    plan = build(str(path)).plan
    for kernel in [kernel for rule in plan.rules if not rule.whole for kernel in rule.kernels if not kernel.grid]:
        (sweep,) = kernel.sweeps
        assert (sweep.buffers, sweep.body, sweep.columns) == (kernel.buffers, kernel.body, kernel.columns)
        assert kernel.scratch == kernel.copies == ()


@pytest.mark.parametrize("scope", ["row", "tensor"])
def test_a_wide_scale_takes_two_sweeps(scope: str, tmp_path: Path) -> None:
    kernel = planned(f"{{codebook: dynamic_exponent, bits: 8, block: {scope}}}", "{use: int8, block: 128}", tmp_path)
    first, last = kernel.sweeps
    assert [buffer.name for buffer in first.buffers if buffer.read] == ["grad", "m_codes", "m_scale_blocks"]
    assert [buffer.name for buffer in first.buffers if buffer.written] == ["m_largest_parts", "m_smallest_parts"]
    assert [(r.op, r.parts) for r in first.reductions] == [("max", "m_largest_parts"), ("min", "m_smallest_parts")]
    assert {r.result for r in first.reductions} <= {buffer.name for buffer in last.buffers if buffer.read}
    assert first.columns == ("beta1", "one_minus_beta1")
    assert kernel.copies == (("m_scale_blocks_new", "m_scale_blocks"),)
    for sweep in kernel.sweeps:
        assert not any(isinstance(s.value, Op) and s.value.op in WIDE_REDUCTIONS for s in sweep.body)
    for buffer in last.buffers:  # what one tile writes and another still reads
        assert not (buffer.layout in (Layout.ROW, Layout.TENSOR) and buffer.read and buffer.written), buffer.name
    alone = planned("{use: int8, block: 128}", "{use: int8, block: 128}", tmp_path)
    saved = 2 * 4 / 128  # no scales of m
    again = 2 + 1 + 2 * (2 * 4 / 128)  # gradient and codes of m once more, two parts written and read
    assert kernel_bytes(kernel, param=2, grad=2) == kernel_bytes(alone, param=2, grad=2) - saved + again


def test_names_of_scratch_buffers_are_free(tmp_path: Path) -> None:
    path = tmp_path / "named.yaml"
    path.write_text(
        "name: Named\nsummary: x\nhyper: {lr: {default: 0.1}, m_largest_parts: {default: 0.5}}\n"
        "state: {m: {like: p, storage: {codebook: e4m3, block: tensor}}, m_scale_new: {like: p}}\n"
        "update: |\n  m = ema(m, g, m_largest_parts)\n  m_scale_new = m\n  p = p - lr*m_scale_new\n",
        encoding="utf-8",
    )
    kernel = build(str(path)).plan.kernels[-1]
    names = [buffer.name for buffer in (*kernel.buffers, *kernel.scratch)]
    assert len(names) == len(set(names))
    assert not set(names) & {"m_largest_parts", "m_scale_new"}


def test_reductions_one_after_the_other() -> None:
    """What no codebook needs yet: the mean deviation from the largest takes a sweep more."""

    def ref(op: str, *names: str) -> Op:
        return Op(op, tuple(Ref(name) for name in names))

    state = State("m", "m", storage=Storage("linear", 8, 128, scope="tensor"))
    names = ("p", "g", "x", "top", "away", "far")
    symbols = {name: Symbol(name, Role.LOCAL, Kind.REAL, Domain.ELEMENT) for name in names}
    program = Program("Two", symbols, {}, (), (state,), ())
    buffers = [Buffer(name, Layout.ELEMENT, "param", None, None, True, name == "param", "") for name in ("param", "grad")]
    body = [
        Assign("p", ref("load", "param")),
        Assign("g", ref("load", "grad")),
        Assign("x", Op("blocks", (Ref("g"), Const(0)))),
        Assign("top", ref("tensor_max", "x")),
        Assign("away", ref("sub", "top", "x")),
        Assign("far", ref("row_max", "away")),
        Store("param", ref("sub", "p", "far")),
    ]
    split = split_sweeps("k", buffers, (), body, program, {Domain.ELEMENT: 256})
    assert [sweep.name for sweep in split.sweeps] == ["k_1", "k_2", "k"]
    reads = [[buffer.name for buffer in sweep.buffers if buffer.read] for sweep in split.sweeps]
    assert reads == [["grad"], ["grad", "top_whole"], ["param", "far_rows"]]
    assert [[r.result for r in sweep.reductions] for sweep in split.sweeps] == [["top_whole"], ["far_rows"], []]


def test_a_reduction_inside_a_formula_gets_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgen.storage.linear.absmax", lambda *_: "scale = max(block_max(abs(x)), -block_min(x))")
    monkeypatch.setattr("optgen.plan.lower_storage.codec_of", codec_of.__wrapped__)  # not the one that is kept
    kernel = planned("{codebook: linear, bits: 4, block: tensor}", "float32", tmp_path)
    assert [(r.op, r.parts) for r in kernel.sweeps[0].reductions] == [
        ("max", "m_tensor_max_parts"),
        ("min", "m_tensor_min_parts"),
    ]


def test_every_store_happens_once(tmp_path: Path) -> None:
    kernel = planned("{codebook: linear, bits: 4, block: row}", "{codebook: e4m3, block: tensor}", tmp_path)
    stores = [statement.buffer for sweep in kernel.sweeps for statement in sweep.body if isinstance(statement, Store)]
    assert len(stores) == len(set(stores))
    whole = {statement.buffer for statement in kernel.body if isinstance(statement, Store)}
    parts = {r.parts for sweep in kernel.sweeps for r in sweep.reductions}
    news = dict(kernel.copies)
    assert {news.get(buffer, buffer) for buffer in set(stores) - parts} == whole


RULES = {  # what makes a choice: reductions that wait for each other, old values, cheap and dear ways to a value
    "three stages": """
        m = ema(m, g, 0.9)
        u = m/(rms(m) + 1e-8)
        d = u - mean(u)
        p = p - lr*d/(l2(d) + 1e-8)
        """,
    "clipped": """
        m = ema(m, g/max(1, l2(g)), 0.9)
        v = ema(v, g**2, 0.99)
        p = p - lr*max(1e-3, rms(p))*m/(sqrt(v) + 1e-8)
        """,
    "old value": """
        old = m
        m = ema(m, g, 0.9)
        p = p - lr*(m - old)/(rms(m) + rms(old) + 1e-8)
        """,
    "early and late": """
        v = ema(v, g**2, 0.99)
        m = ema(m, g/(rms(v) + 1e-8), 0.9)
        p = p - lr*m/(l1(m) + 1e-8)
        """,
    "parameter alone": "p = p*(1 - lr/max(1, l2(p)))",
    "rows and columns": """
        r = ema(r, mean(g**2 + 1e-30, over=cols), 0.9)
        c = ema(c, mean(g**2 + 1e-30, over=rows), 0.9)
        u = g*rsqrt(r/mean(r, over=rows))*rsqrt(c)
        u = u/max(1, rms(u))
        p = p - lr*max(1e-3, rms(p))*u
        """,
    "columns of a state": """
        m = ema(m, g, 0.9)
        c = max(c, max(abs(m), over=rows))
        w = m/(c + 1e-8)
        p = p - lr*(w - mean(w, over=(rows, cols)))/(l2(w, over=cols) + 1e-8)
        """,
    "old rows": """
        old = r
        r = ema(r, max(g, over=cols), 0.9)
        p = p - lr*(g - old)*mean(g*r)
        """,
}
STATES = {"m": "like: p", "v": "like: p", "r": "shape: [..., rows, 1]", "c": "shape: [..., 1, cols]"}


@pytest.mark.parametrize("name", RULES)
def test_no_choice_of_sweeps_moves_fewer_bytes(name: str, tmp_path: Path) -> None:
    update = textwrap.indent(textwrap.dedent(RULES[name]).strip(), "  ")
    states = ", ".join(f"{state}: {{{shape}}}" for state, shape in STATES.items() if f"{state} = " in update)
    head = f"name: Rule\nsummary: x\nhyper: {{lr: {{default: 0.1}}}}\nstate: {{{states}}}\n"
    (tmp_path / "rule.yaml").write_text(f"{head}update: |\n{update}\n", encoding="utf-8")
    (kernel,) = build(str(tmp_path / "rule.yaml")).plan.kernels
    assert planned_bytes(kernel) == pytest.approx(fewest_bytes(kernel), abs=1e-9)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_no_choice_of_sweeps_moves_fewer_bytes_for_a_shipped_spec(path: Path) -> None:
    kernel = build(str(path)).plan.kernels[0]  # without codes
    assert kernel.variant.stored == ()
    defaults = {flag: on for flag, on in default_flags(kernel.program).items() if not flag.startswith("given_")}
    for flags in ({}, defaults, *({flag: True} for flag in kernel.flags)):
        assert planned_bytes(kernel, flags) == pytest.approx(fewest_bytes(kernel, flags), abs=1e-9), flags
