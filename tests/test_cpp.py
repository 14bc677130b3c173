"""The C++ backend: equal to the reference with both instruction sets, safe to compile by many, and done without if need be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from optgen.backends.cpp.config import is_taken
from optgen.backends.cpp.printer import cpp_name
from optgen.build import build
from optgen.generated.solo import Solo
from optgen.in_memory import optimizer_class
from optgen.reference.cases import dtype_cases, hyper_cases, late_cases, shape_cases
from optgen.reference.compare import compare
from optgen.reference.disguise import fitted
from optgen.runtime.cpp_compile import CompilerError, cache_folder, find_compiler, library
from optgen.verify import Outcome, imported
from tests.conftest import ROOT, SHIPPED
from tests.forks import python
from tests.test_backends import check, verify

BOTH = ("adamw", "adamw_bf16", "adamw_8bit", "adamw_flash", "solo", "solo_3bit")  # each way to keep a state


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_cpp_equals_the_reference(name: str) -> None:
    """Every shape, dtype and flag; the ways to keep small changes of 16-bit parameters are the same for all rules."""
    built = build(str(SHIPPED[name]))
    for rule, program in zip(built.spec.parts, built.programs, strict=True):
        dtypes = [case for case in dtype_cases(program, 8) if "," not in case.name or name == "solo"]
        cases = [*shape_cases(program, 8), *dtypes, *hyper_cases(program, 8), *late_cases(program, 8)]
        with imported(built) as optimizer_class:
            for case in (fitted(case, built.spec, rule) for case in cases):
                assert case is not None
                difference = compare(optimizer_class, program, case, backend="cpp")
                assert Outcome("cpp", case, difference, 0.0).passed, (case, difference)


@pytest.mark.parametrize("name", ["solo", "adamw_8bit", "adamw_4bit", "adamw_flash", "solo_3bit"])
def test_codes_are_equal_bit_for_bit(name: str) -> None:
    rows = verify(str(SHIPPED[name]), "--backend", "cpp", "--quick")
    check(rows, {"cpp"})
    assert sum(row["case"].startswith("codes of") for row in rows) >= 1


@pytest.mark.parametrize("name", BOTH)
def test_the_other_instruction_set_equals_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch calls AVX2; where the machine has no more, this is the same code again."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    check(verify(str(SHIPPED[name]), "--backend", "cpp", "--quick"), {"cpp"})


def steps(backend: str, shapes: list[tuple[int, ...]], count: int = 4, **options: object) -> list[torch.Tensor]:
    """Parameters and states after some steps."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = Solo(params, lr=1e-2, backend=backend, **options)  # type: ignore[arg-type]
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [*(p.detach() for p in params), *(value for state in optimizer.state.values() for value in state.values())]


def test_parameters_of_a_bucket_do_not_touch_each_other() -> None:
    """Tensors of every size, on tiles' edges and beside them, with one thread and with two."""
    small = [(1,), (15,), (16,), (17,), (2047,), (2049,), (16, 128), (17, 128), (64, 64), (33, 127), (40, 135), (16, 4, 100)]
    shapes = [*small, (70_000,), (70, 1000)]  # enough for a second thread to take a share
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(steps("cpp", shapes))
    finally:
        torch.set_num_threads(before)
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)


def test_strides_and_unaligned_storage_give_the_same_numbers() -> None:
    values = torch.randn(64, 128)
    dense, shifted, turned = values.clone(), torch.empty(64, 129)[:, 1:], torch.empty(128, 64).t()
    results = []
    for place in (dense, shifted, turned):
        p = torch.nn.Parameter(place.copy_(values))
        p.grad = torch.ones(64, 128) * torch.arange(128)
        Solo([p], lr=1e-2, backend="cpp").step()
        results.append(p.detach().contiguous())
    assert not torch.equal(results[0], values)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


CONDITIONS = {  # of elements and of the step in one: lanes that are -1 or 0 meet true and false
    "equal": "c = (g > 0.1) == (t > 1)",
    "unequal": "c = (t > 1) != (g > 0.1)",
    "both": "c = g > 0.1 and t > 1",
    "chosen": "c = where(g > 0.1, t > 1, p > 0)",
    "under a flag": "c = g > 0.1; if flag: c = where(p > 0, c, t > 2)",
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_of_elements_and_of_the_step_mix(name: str, tmp_path: Path) -> None:
    lines = CONDITIONS[name].replace("; if flag: ", "\n  if flag:\n    ")
    path = tmp_path / "mixed.yaml"
    head = "name: Mixed\nsummary: x\nhyper: {flag: {default: true}}\n" if "flag" in lines else "name: Mixed\nsummary: x\n"
    path.write_text(f"{head}update: |\n  {lines}\n  p = p - where(c, g, 0.5*p)\n", encoding="utf-8")
    found = []
    for backend in ("torch", "cpp"):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 35).view(5, 7))
        optimizer = optimizer_class(path)([p], backend=backend)
        for step in range(3):
            p.grad = torch.randn(5, 7, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        found.append(p.detach())
    torch.testing.assert_close(*found)


def test_nan_and_infinity_stay_where_they_are() -> None:
    finite = []
    for backend in ("cpp", "torch"):
        p = torch.nn.Parameter(torch.ones(64, 128))
        p.grad = torch.ones(64, 128)
        p.grad[0, 0], p.grad[1, 1] = float("nan"), float("inf")
        Solo([p], lr=1e-2, backend=backend).step()
        finite.append(torch.isfinite(p))
    assert not finite[0][0, 0]
    assert torch.equal(finite[0], finite[1])


SOURCE = 'extern "C" int answer() { return 42; }\n'
PROCESS = f"from optgen.runtime.cpp_compile import library; print(library({SOURCE!r}, ()).answer())"
# Writes a part of what it is asked for and, where told to, waits before it goes on.
SLOW_COMPILER = """#!/bin/sh
case "$*" in *--version*) exec g++ --version ;; esac
for argument; do [ "$last" = -o ] && printf partial >"$argument"; last=$argument; done
sleep "$SECONDS_TO_WAIT"
exec g++ "$@"
"""


MANY = 25 if os.environ.get("OPTGEN_ALL") else 3


def compiling(folder: Path, seconds: int) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OPTGEN_CACHE_DIR": str(folder / "cache"),
        "CXX": str(folder / "compiler"),
        "SECONDS_TO_WAIT": str(seconds),
    }
    command = [sys.executable, "-c", PROCESS]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_killed_and_concurrent_compilations_leave_a_whole_cache(tmp_path: Path) -> None:
    """Processes are killed with a library half-written; others that compile the same at once, and a late one, succeed."""
    (tmp_path / "compiler").write_text(SLOW_COMPILER, encoding="utf-8")
    (tmp_path / "compiler").chmod(0o755)
    cache = tmp_path / "cache"
    killed = [compiling(tmp_path, 100) for _ in range(MANY)]
    deadline = time.monotonic() + 60 * MANY
    while len(list(cache.glob(".*/*.so"))) < len(killed):
        assert time.monotonic() < deadline, "no compilation has begun"
        time.sleep(0.05)
    assert not list(cache.glob("*.so")), "a part of a library stands where others look for it"
    for process in killed:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    for process in [compiling(tmp_path, 1) for _ in range(MANY)]:
        out, err = process.communicate(timeout=120 * MANY)
        assert out.strip() == "42", err
    assert compiling(tmp_path, 0).communicate(timeout=120)[0].strip() == "42"
    assert len(list(cache.glob("*.so"))) == 1


def test_a_broken_library_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTGEN_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    assert compile_once() == 42
    (made,) = tmp_path.glob("*.so")
    made.unlink()
    made.write_bytes(b"not a library")
    assert compile_once() == 42


def compile_once() -> int:
    library.cache_clear()
    return int(library(SOURCE, ()).answer())


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    find_compiler.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="'no-such-compiler' was not found: install g"):
            Solo([torch.nn.Parameter(torch.ones(3))], backend="cpp")
    finally:
        monkeypatch.undo()
        find_compiler.cache_clear()


def test_what_killed_compilations_left_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTGEN_CACHE_DIR", str(tmp_path))
    for name, age in (("old", 2 * 3600), ("new", 60)):
        (tmp_path / f".compiling-{name}").mkdir()
        (tmp_path / f".compiling-{name}" / "made.so").write_bytes(b"a part")
        os.utime(tmp_path / f".compiling-{name}", (time.time() - age, time.time() - age))
    assert compile_once() == 42
    assert [path.name for path in tmp_path.glob(".compiling-*")] == [".compiling-new"]


AUTO = """
import warnings

import torch
from optgen.generated.solo import Solo

p = torch.ones(64, 128).requires_grad_()
p.grad = torch.ones_like(p)
optimizer = Solo([p], lr=0.1)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(3):
        optimizer.step()
texts = [str(warning.message) for warning in told if "optgen" in str(warning.message)]
print(len(texts), round(p[0, 0].item(), 4), optimizer.state[p]["step"].item(), *texts)
"""


def test_auto_takes_cpp_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(Solo, "launch_cpp", staticmethod(lambda batches: taken.append(len(batches))))
    for options in ({}, {"compile": True}, {"backend": "torch"}):
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        Solo([p], **options).step()
    assert taken == [1]


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "broken"])
def test_auto_falls_back_to_torch_with_one_warning(compiler: str, tmp_path: Path) -> None:
    """Where there is no compiler, where it cannot say its version, and where it fails in the first step."""
    (tmp_path / "broken").write_text("#!/bin/sh\n[ $1 = --version ] || { echo it is broken >&2; exit 1; }\n", encoding="utf-8")
    (tmp_path / "broken").chmod(0o755)
    environment = {
        **os.environ,
        "OPTGEN_CACHE_DIR": str(tmp_path),
        "CXX": compiler,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    done = python("-c", AUTO, environment=environment)
    count, p, step, text = done.stdout.split(" ", 3)
    assert (count, float(p), float(step)) == ("1", pytest.approx(0.7, abs=0.01), 3.0), done.stderr
    assert compiler in text and "slower" in text and "backend='torch'" in text


def test_a_compiler_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTGEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(CompilerError, match="expected"):
        library("this is no C++", ())
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPTGEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(CompilerError, match="cannot be made"):
        library(SOURCE + "// elsewhere", ())


def test_names_that_mean_something_in_cpp_get_an_underscore() -> None:
    for name in ("new", "load", "spread", "tile", "low_precision", "double"):
        assert is_taken(name)
        assert cpp_name(name) == f"{name}_"
    assert cpp_name("momentum") == "momentum"
