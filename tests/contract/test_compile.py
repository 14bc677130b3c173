"""torch.compile of the whole step, and of the update functions alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode

from optgen.generated.nadam import NAdam
from optgen.generated.solo import Solo
from optgen.runtime import cpp_op
from optgen.runtime.batches import make_batches
from optgen.runtime.cpp_compile import CompilerError, find_compiler
from tests.contract.rows import BY_NAME, DTYPES, Row, distance, gradient, make_params, run, same, values


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    try:
        return bool(find_compiler())
    except CompilerError:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
CPU_BACKENDS = ["torch", pytest.param("cpp", marks=needs_compiler)]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def give_gradients(params: list[Any], step: int) -> None:
    for i, p in enumerate(params):
        p.grad = gradient(p, 100 * step + i)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # it looks at the step that is not compiled
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_compiled_step_is_one_graph_and_compiles_once_or_twice(row: Row, backend: str, tensor: bool) -> None:
    """From the first step, whose states do not exist yet, under a scheduler that changes lr 50 times.

    fullgraph=True refuses breaks. The graphs run in eager: how many there are does not depend on what runs them.
    """
    params, plain = make_params(((33, 128), (7,))), make_params(((33, 128), (7,)))
    lr = row.options["lr"]
    optimizer = row.make(params, lr=torch.tensor(lr, dtype=torch.float64) if tensor else lr, backend=backend)
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    other = row.make(plain)
    schedulers = [CosineAnnealingLR(each, T_max=60) for each in (optimizer, other)]
    for number in range(50):
        give_gradients(params, number % 5)
        give_gradients(plain, number % 5)
        step()
        other.step()
        for scheduler in schedulers:
            scheduler.step()
    assert counter.frame_count == (1 if tensor else 2)
    assert distance(params, plain) < 1e-6
    assert float(optimizer.state[params[0]]["step"]) == 50
    assert same(optimizer.state_dict()["state"][0].keys(), other.state_dict()["state"][0].keys())


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_gradient_that_pauses_under_compilation(backend: str) -> None:
    row = BY_NAME["adamw"]
    params, plain = make_params(), make_params()
    optimizer, other = row.make(params, lr=torch.tensor(1e-2), backend=backend), row.make(plain, lr=torch.tensor(1e-2))
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    for number in range(4):
        for each in (params, plain):
            give_gradients(each, number)
            if number in (1, 2):
                each[0].grad = None
        step()
        other.step()
    assert float(optimizer.state[params[0]]["step"]) == 2
    assert distance(params, plain) < 1e-6


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_compiled_step_takes_groups_dtypes_and_odd_shapes(backend: str) -> None:
    """With a group more, and a load, in the middle of it."""
    row = BY_NAME["sgd"]

    def make(compiled: bool) -> tuple[list[Any], Any, Any]:
        params = [p for dtype in DTYPES[:2] for p in make_params(((), (7,), (0, 5), (3, 5)), dtype=dtype)]
        optimizer = row.make([{"params": params[:5]}, {"params": params[5:], "lr": 1e-3, "maximize": True}], backend=backend)
        step = torch.compile(optimizer.step, backend="eager", fullgraph=True) if compiled else optimizer.step
        return params, optimizer, step

    params, optimizer, step = make(compiled=True)
    plain, other, plain_step = make(compiled=False)
    for number in range(4):
        if number == 2:
            for mine, each in ((params, optimizer), (plain, other)):
                mine.extend(make_params(((9,),)))
                each.add_param_group({"params": mine[-1:]})
                each.load_state_dict(each.state_dict())
        give_gradients(params, number)
        give_gradients(plain, number)
        step()
        plain_step()
    assert distance(params, plain) < 1e-6
    assert {float(state["step"]) for state in optimizer.state.values()} == {2, 4}


@pytest.mark.parametrize("options", [{"backend": "torch"}, {"compile": True}], ids=["torch", "compiled twice"])
def test_a_step_compiled_by_inductor(options: dict[str, Any]) -> None:
    """Real code, equal numbers; updates that are to be compiled are compiled with the step."""
    row = BY_NAME["sgd"]
    params, plain = make_params(), make_params()
    optimizer, other = row.make(params, lr=torch.tensor(1e-2), **options), row.make(plain, lr=torch.tensor(1e-2))
    step = torch.compile(optimizer.step, fullgraph=True)
    for number in range(3):
        give_gradients(params, number)
        give_gradients(plain, number)
        step()
        other.step()
    assert distance(params, plain) < 1e-6


@pytest.mark.parametrize("name", ["lion", "adamw8bit"])
def test_compiled_updates_equal_eager(name: str) -> None:
    """`compile=True` under a scheduler: lr never enters what is compiled."""
    row = BY_NAME[name]
    params, plain = make_params(), make_params()
    optimizer, other = row.make(params, compile=True), row.make(plain)
    schedulers = [LambdaLR(each, lambda epoch: 0.9**epoch) for each in (optimizer, other)]
    for number in range(4):
        run(optimizer, range(number, number + 1))
        run(other, range(number, number + 1))
        if number == 1:
            compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for scheduler in schedulers:
            scheduler.step()
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    assert distance(params, plain) < 1e-6


@pytest.mark.parametrize("whole", [True, False], ids=["step", "update"])
def test_a_float64_parameter_of_one_number_under_inductor(whole: bool) -> None:
    """Inductor reads tensors like that as numbers, and writes nothing into them."""
    (p,), (plain,) = make_params(((),), dtype=torch.float64), make_params(((),), dtype=torch.float64)
    row = BY_NAME["adamw"]
    optimizer, other = row.make([p], backend="torch", compile=not whole), row.make([plain], backend="torch")
    step = torch.compile(optimizer.step, fullgraph=True) if whole else optimizer.step
    for number in range(3):
        give_gradients([p], number)
        give_gradients([plain], number)
        step()
        other.step()
    assert distance([p], [plain]) < 1e-14
    assert distance([optimizer.state[p]["exp_avg"]], [other.state[plain]["exp_avg"]]) < 1e-14


def test_compiled_updates_take_any_mix_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dtype, number of dimensions and memory format in one optimizer: the compiler's limits must not stop a step."""
    from optgen.runtime.torch_launch import compiled_update

    shapes = ((), (1,), (7,), (0,), (3, 5), (1, 9), (2, 3, 4), (2, 3, 4, 5), (2, 2, 2, 2, 2))
    params = [p for dtype in DTYPES for p in make_params(shapes, dtype=dtype)]
    plain = [p for dtype in DTYPES for p in make_params(shapes, dtype=dtype)]
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiler(f, **{**options, "backend": "eager"}))
    compiled_update.cache_clear()
    row = BY_NAME["sgd"]
    run(row.make(params, compile=True), range(2))
    run(row.make(plain), range(2))
    compiled_update.cache_clear()
    assert same(values(params), values(plain))


CPP_ROWS = ("adamw", "adamw8bit", "solo")


@needs_compiler
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("name", CPP_ROWS)
def test_cpp_kernels_under_compilation_have_the_bits_of_an_eager_step(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups, 16-bit parameters too, one without a gradient at first, an lr that changes.

    The op runs once a step and group; every state and step counter is the same. A gradient that comes makes a second graph.
    """
    calls = []
    monkeypatch.setattr(cpp_op, "make_batches", lambda *args: calls.append(1) or make_batches(*args))
    row = BY_NAME[name]

    def made() -> tuple[list[Any], Any]:
        params = [*make_params(), *make_params(dtype=torch.bfloat16, seed=1)]
        groups = [{"params": params[:3]}, {"params": params[3:], "maximize": True}]
        return params, row.make(groups, lr=torch.tensor(1e-2), backend="cpp")

    (params, compiled), (plain, eager) = made(), made()
    counter = CompileCounterWithBackend(backend)
    step = torch.compile(compiled.step, backend=counter, fullgraph=True)
    for number in range(6):
        for each, optimizer in ((params, compiled), (plain, eager)):
            give_gradients(each, number)
            if number < 3:
                each[1].grad = None
            for group in optimizer.param_groups:
                group["lr"].fill_(1e-2 / (1 + number))
        step()
        eager.step()
        assert same(values(params), values(plain)), number
        assert same(compiled.state_dict()["state"], eager.state_dict()["state"]), number
        assert counter.frame_count == (1 if number < 3 else 2)
    assert len(calls) == 6 * 2


@needs_compiler
def test_the_op_says_what_it_changes() -> None:
    """Its schema marks parameters, states and step counters, and no more: else a compiler might reorder or copy them."""
    calls: list[tuple[Any, ...]] = []

    class Recording(TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            if op.namespace == cpp_op.NAMESPACE:
                calls.append((op, args))
            return op(*args, **(kwargs or {}))

    def recorded(graph: Any, _: Any) -> Any:
        def run(*args: Any) -> Any:
            with Recording():
                return graph(*args)

        return run

    params = make_params()
    give_gradients(params, 0)
    optimizer = BY_NAME["solo"].make(params, lr=torch.tensor(1e-2), backend="cpp")
    torch.compile(optimizer.step, backend=recorded, fullgraph=True)()
    ((op, args),) = calls
    torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
    changed = {argument.name for argument in op._schema.arguments if argument.alias_info and argument.alias_info.is_write}
    assert changed == {"params", "states", "steps"}


@needs_compiler
def test_a_step_compiled_around_cpp_kernels_copies_nothing() -> None:
    """Inductor calls the op with the parameters and states themselves: no allocation, whatever the graph's passes wrap it in."""
    row = BY_NAME["adamw"]
    params = make_params(((256, 256),))
    optimizer = row.make(params, lr=torch.tensor(1e-2, dtype=torch.float64), backend="cpp")
    step = torch.compile(optimizer.step, fullgraph=True)
    give_gradients(params, 0)
    step()
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    assert max(event.cpu_memory_usage for event in profile.events()) < 4 * 256 * 256


@needs_compiler
def test_auto_takes_cpp_kernels_under_compilation_too(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(cpp_op, "make_batches", lambda *args: calls.append(1) or make_batches(*args))
    params = make_params()
    optimizer = BY_NAME["lion"].make(params, lr=torch.tensor(1e-3))
    give_gradients(params, 0)
    torch.compile(optimizer.step, backend="eager", fullgraph=True)()
    assert calls == [1]


@needs_compiler
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("cls", [NAdam, Solo])
def test_cpp_kernels_under_compilation_take_strides_scalar_states_and_a_load(cls: Any, backend: str) -> None:
    """Transposed, channels-last and empty parameters and gradients; a state dict loaded between compiled steps."""

    def made() -> list[Any]:
        shapes = ((300, 40), (300, 40), (8, 16, 5, 5), (0,), (7,))
        plain, turned, image, *rest = (p.detach() for p in make_params(shapes))
        made = [plain, turned.t(), image.to(memory_format=torch.channels_last), *rest]
        return [torch.nn.Parameter(p) for p in made]

    def gradients(params: list[Any], number: int) -> None:
        give_gradients(params, number)
        params[0].grad = params[0].grad.t().contiguous().t()

    params, plain = made(), made()
    compiled, eager = (cls(each, lr=torch.tensor(1e-2), backend="cpp") for each in (params, plain))
    step = torch.compile(compiled.step, backend=backend, fullgraph=True)
    for number in range(4):
        gradients(params, number)
        gradients(plain, number)
        if number == 2:
            compiled.load_state_dict(copy.deepcopy(eager.state_dict()))
        step()
        eager.step()
        assert same(values(params), values(plain)), number
        assert same(compiled.state_dict()["state"], eager.state_dict()["state"]), number
        assert [p.stride() for p in params] == [p.stride() for p in plain]
