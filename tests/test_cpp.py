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
from optgen.reference.cases import dtype_cases, hyper_cases, late_cases, shape_cases
from optgen.reference.compare import compare
from optgen.runtime import cpp_compile
from optgen.runtime.cpp_compile import CompilerError, cache_folder, find_compiler, library
from optgen.verify import Outcome, imported
from tests.conftest import ROOT, SHIPPED
from tests.test_backends import check, verify

SETS = ("AVX512", "AVX2")
BOTH = ("adamw", "adamw_bf16", "adamw_8bit", "adamw_flash", "solo", "solo_3bit")  # each way to keep a state


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_cpp_equals_the_reference(name: str) -> None:
    """Every shape, dtype and flag; the ways to keep small changes of 16-bit parameters are the same for all rules."""
    built = build(str(SHIPPED[name]))
    dtypes = [case for case in dtype_cases(built.program, 8) if "," not in case.name or name == "solo"]
    cases = [*shape_cases(built.program, 8), *dtypes, *hyper_cases(built.program, 8), *late_cases(built.program, 8)]
    with imported(built) as optimizer_class:
        for case in cases:
            difference = compare(optimizer_class, built.program, case, backend="cpp")
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
    shapes = [(1,), (15,), (16,), (17,), (2047,), (2049,), (16, 128), (17, 128), (64, 64), (33, 127), (40, 135), (16, 4, 100)]
    together = steps("cpp", shapes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = steps("cpp", shapes)
    finally:
        torch.set_num_threads(threads)
    for left, right in zip(together, alone, strict=True):
        assert torch.equal(left, right)


def test_strides_and_unaligned_storage_give_the_same_numbers() -> None:
    base = torch.randn(64, 129)
    results = []
    for view in (base[:, 1:].clone(), base[:, 1:], base[:, 1:].t().contiguous().t()):
        p = torch.nn.Parameter(view.clone(memory_format=torch.preserve_format) if view.is_contiguous() else view)
        p.grad = torch.ones(64, 128) * torch.arange(128)
        Solo([p], lr=1e-2, backend="cpp").step()
        results.append(p.detach().clone().contiguous())
    assert torch.equal(results[1], results[2])


def test_a_compiled_step_runs_in_torch() -> None:
    p, q = (torch.nn.Parameter(torch.ones(40, 128)) for _ in range(2))
    p.grad = torch.randn(40, 128)
    q.grad = p.grad.clone()
    eager = Solo([q], lr=1e-2, backend="cpp")
    compiled = Solo([p], lr=torch.tensor(1e-2), backend="cpp")
    step = torch.compile(compiled.step, backend="eager", fullgraph=True)
    for _ in range(3):
        step()
        eager.step()
    assert torch.allclose(p, q, rtol=1e-6)


def test_nan_and_infinity_stay_where_they_are() -> None:
    p = torch.nn.Parameter(torch.ones(64, 128))
    p.grad = torch.ones(64, 128)
    p.grad[0, 0], p.grad[1, 1] = float("nan"), float("inf")
    Solo([p], lr=1e-2, backend="cpp").step()
    assert torch.isnan(p[0, 0])
    assert int((~torch.isfinite(p)).sum()) == int((~torch.isfinite(reference_of_nan())).sum())


def reference_of_nan() -> torch.Tensor:
    p = torch.nn.Parameter(torch.ones(64, 128))
    p.grad = torch.ones(64, 128)
    p.grad[0, 0], p.grad[1, 1] = float("nan"), float("inf")
    Solo([p], lr=1e-2, backend="torch").step()
    return p.detach()


SOURCE = 'extern "C" int answer() { return 42; }\n'
PROCESS = f"""
import sys
from optgen.runtime.cpp_compile import library
print(library({SOURCE!r} + "// " + sys.argv[1], ()).answer())
"""


def compiling(folder: Path, salt: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OPTGEN_CACHE_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, salt],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_and_concurrent_compilations_leave_a_whole_cache(tmp_path: Path) -> None:
    """Some of many processes that compile the same at once are killed at various moments; the others and a late one succeed."""
    processes = [compiling(tmp_path, "same") for _ in range(6)]
    for delay, process in enumerate(processes[:3]):
        time.sleep(0.4 + 0.5 * delay)
        process.send_signal(signal.SIGKILL)
    for process in processes[3:]:
        out, err = process.communicate(timeout=120)
        assert out.strip() == "42", err
    for process in processes[:3]:
        process.communicate(timeout=120)
    late = compiling(tmp_path, "same")
    assert late.communicate(timeout=120)[0].strip() == "42"
    assert len(list(tmp_path.glob("*.so"))) == 1


def test_a_broken_library_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTGEN_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    (made,) = (compile_once(), *tmp_path.glob("*.so"))[1:]
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


def test_both_instruction_sets_have_options() -> None:
    assert set(cpp_compile.LEVELS) == set(SETS)
