"""The base class of every generated optimizer: torch.optim's contract, states, and one step over all parameters."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from optgen.runtime import checkpoint, keys, masters
from optgen.runtime.backends import compiled_update, pick_backend
from optgen.runtime.description import FORMAT, Description, KernelInfo, State
from optgen.runtime.low_precision import (
    CORRECTION,
    correction_dtype,
    effective_mode,
    is_random,
    warn_of_nearest,
)
from optgen.runtime.states import fit_states, float_dtype, real_dtype, state_tensors

__all__ = ["Batch", "GeneratedOptimizer"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

NO_KEY = torch.zeros((), dtype=torch.int64, device="cpu")  # of a parameter that nothing random happens to
NO_WORDS = torch.zeros(2, dtype=torch.int32, device="cpu")


class Batch(NamedTuple):
    """Parameters of one group that the same kernel updates with the same flags.

    `tensors` holds each parameter's state tensors in the order of the kernel's arguments; `table` is (n, columns) in the
    dtype of the arithmetic; `words` is int32 (n, 2), or None where nothing in the group is random.
    """

    kernel: int
    flags: dict[str, bool | str]
    params: list[Tensor]
    grads: list[Tensor]
    tensors: list[list[Tensor]]
    table: Tensor
    words: Tensor | None


class GeneratedOptimizer(Optimizer):
    """What all generated optimizers share. Subclasses add `description`, `flags` and `scalars`."""

    description: ClassVar[Description]
    package: ClassVar[str]  # the generated package, which holds the backends' modules
    torch_updates: ClassVar[tuple[Callable[..., None], ...]]  # of the torch backend, one for each kernel

    @staticmethod
    def flags(group: Mapping[str, Any]) -> dict[str, bool]:
        """The compile-time flags of a parameter group."""
        raise NotImplementedError

    scalars: ClassVar[Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]]

    def __init__(self, params: ParamsT, defaults: dict[str, Any], *, backend: str, compile: bool, seed: int = 0) -> None:  # noqa: A002
        """Check the hyperparameters and register the parameters.

        Args:
            params: parameters, `named_parameters()` or groups, as torch.optim takes them.
            defaults: hyperparameters of groups that do not set their own.
            backend: "auto", "torch" or "triton".
            compile: compile the update function of the torch backend with torch.compile.
            seed: of stochastic rounding.

        Raises:
            ValueError: for a hyperparameter outside its range, or a backend that does not exist.
            RuntimeError: for a backend that is not available here.
            TypeError: for parameters that are not real floating-point tensors.
        """
        self._options: dict[str, Any] = {"backend": backend, "compile": compile, "seed": seed}
        pick_backend(backend, None)
        self.description.check(defaults)
        super().__init__(params, {**defaults, "optgen": f"{self.description.name}/{FORMAT}"})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch.optim does; its hyperparameters are checked before anything changes."""
        if isinstance(param_group, dict):
            known = {**self.defaults, **param_group}
            self.description.check(known)
        super().add_param_group(param_group)
        try:
            for p in self.param_groups[-1]["params"]:
                self._check_param(p)
        except (TypeError, RuntimeError):
            self.param_groups.pop()
            raise
        group = self.param_groups[-1]
        warn_of_nearest(self.description.name, {p.dtype for p in group["params"]}, group["low_precision"])

    def master_parameters(self) -> list[Tensor]:
        """Every parameter with its correction, as new float32 tensors (float64 for float64 parameters), in order.

        What a checkpoint in full precision should hold; without corrections these are copies of the parameters.
        """
        return masters.export(self)

    def load_master_parameters(self, tensors: Iterable[Tensor]) -> None:
        """Set every parameter, and its correction if its group keeps one, from tensors like `master_parameters()`.

        Raises:
            ValueError: if there are more or fewer tensors than parameters, or a shape differs; nothing is changed then.
        """
        for p, group, correction in masters.load(self, self.description.name, tensors):
            kernel = self.description.kernels[self.description.kernel_index(p.shape)]
            self._init_state(p, self.state[p], kernel, type(self).flags(group), group["low_precision"])
            self.state[p][CORRECTION].copy_(correction)

    def _check_param(self, p: Tensor) -> None:
        name = self.description.name
        if p.dtype not in DTYPES:
            raise TypeError(f"{name} updates float32, bfloat16, float16 and float64 parameters, got {p.dtype}")
        if p.layout != torch.strided:
            raise TypeError(f"{name} updates dense parameters, got layout {p.layout}")
        if torch._debug_has_internal_overlap(p) == 1:
            raise RuntimeError(
                f"{name} cannot update a parameter of shape {tuple(p.shape)} and strides {p.stride()}: "
                "several of its elements share memory; pass a contiguous copy"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss; called once, with gradients enabled.

        Returns:
            What `closure` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not torch.compiler.is_compiling():
            self._check_step()
        batches: list[Batch] = []
        for group in self.param_groups:
            batches += self._batches(group)
        self._run(batches)
        return loss

    def _check_step(self) -> None:
        """Refuse what cannot be updated before anything changes."""
        devices: set[torch.device] = set()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._check_grad(p, p.grad)
                    devices.add(p.device)
        for device in devices:
            pick_backend(self._options["backend"], device)

    def _check_grad(self, p: Tensor, grad: Tensor) -> None:
        if grad.layout != torch.strided:
            raise RuntimeError(f"{self.description.name} takes dense gradients, got layout {grad.layout}")
        if grad.is_complex() or p.is_complex():
            raise RuntimeError(f"{self.description.name} takes real parameters and gradients, got {grad.dtype}")

    def _batches(self, group: dict[str, Any]) -> list[Batch]:
        """Advance the step counters of a group and compute its scalars."""
        params: list[Tensor] = []
        grads: list[Tensor] = []
        steps: list[Tensor] = []
        rounding_keys: list[Tensor] = []
        scalar_states: list[Tensor] = []
        tensors: list[Tensor] = []
        kernels: list[int] = []
        self._init_group(group, params, grads, steps, rounding_keys, scalar_states, tensors, kernels)
        if not params:
            return []
        flags = type(self).flags(group)
        torch._foreach_add_(steps, 1)
        t = torch.stack(steps).to(torch.float64)
        words = keys.step_words(torch.stack(rounding_keys), t) if rounding_keys else None
        starts = self._starts(kernels)
        batches = []
        for index in range(len(self.description.kernels)):
            # parameters of one kernel, dtype and device share a table
            for dtype, device in _places(params, kernels, index):
                at = [i for i, p in enumerate(params) if kernels[i] == index and _place(p) == (dtype, device)]
                table = self._table(group, flags, index, t, scalar_states, at).to(dtype=real_dtype(dtype), device=device)
                mine = None if words is None else words[at].to(device)
                states = [tensors[starts[i] : starts[i + 1]] for i in at]
                taken: dict[str, bool | str] = {flag: flags[flag] for flag in self.description.kernels[index].flags}
                taken["low_precision"] = effective_mode(dtype, group["low_precision"])
                batches.append(Batch(index, taken, [params[i] for i in at], [grads[i] for i in at], states, table, mine))
        return batches

    def _starts(self, kernels: list[int]) -> list[int]:
        """Where each parameter's state tensors begin in the flat list."""
        starts = [0]
        for index in kernels:
            starts.append(starts[-1] + len(self.description.kernels[index].keys))
        return starts

    def _table(
        self, group: dict[str, Any], flags: dict[str, bool], kernel: int, t: Tensor, scalar_states: list[Tensor], at: list[int]
    ) -> Tensor:
        """The host scalars of the parameters `at`, (n, columns) float64; scalar states take their new values."""
        t = t[at]
        ones = torch.ones_like(t)
        values: list[Tensor] = []
        for hyper in self.description.hypers:
            if hyper.flag or hyper.choices:
                continue
            given = group[hyper.name]
            values += [ones * _number(value) for value in (given if hyper.names else (given,))]
        values += [ones * fact for fact in self.description.kernels[kernel].facts]
        names = [state.name for state in self.description.states if state.scalar]
        olds = [[scalar_states[i * len(names) + j] for i in at] for j in range(len(names))]
        values += [torch.stack(old) for old in olds]
        columns, outputs = type(self).scalars(t, *values, **flags)
        for name, new in zip(self.description.outputs, outputs, strict=True):
            torch._foreach_copy_(olds[names.index(name)], list(new.unbind()))
        if not columns:
            return torch.zeros(len(at), 0, dtype=torch.float64, device="cpu")
        return torch.stack([column + 0.0 for column in columns], dim=1)

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        steps: list[Tensor],
        rounding_keys: list[Tensor],
        scalar_states: list[Tensor],
        tensors: list[Tensor],
        kernels: list[int],
    ) -> None:
        """Collect the parameters that have gradients, and create states that are missing.

        torch.compile runs this method, by its name, while it traces: state creation never enters the graph. A parameter
        that is listed twice, of which torch warns, is updated once: kernels of one launch must not share a parameter.
        """
        flags, mode = type(self).flags(group), group["low_precision"]
        random = any(self._is_random(p, mode) for p in group["params"])
        seen: set[Tensor] = set()
        for p in group["params"]:
            if p.grad is None or p in seen:
                continue
            seen.add(p)
            index = self.description.kernel_index(p.shape)
            kernel = self.description.kernels[index]
            state = self.state[p]
            if state:
                self._fit_state(p, state, kernel)
            self._init_state(p, state, kernel, flags, mode)
            params.append(p)
            grads.append(p.grad)
            steps.append(state["step"])
            kernels.append(index)
            if random:
                rounding_keys.append(state.get("rounding_key", NO_KEY))
            scalar_states += [state[s.key] for s in self.description.states if s.scalar]
            tensors += [state.get(key, p) for _, key in kernel.keys]  # p stands in for states that do not exist

    def _is_random(self, p: Tensor, mode: str) -> bool:
        """Whether a parameter or one of its states is rounded stochastically."""
        return self.description.random or is_random(p.dtype, mode)

    def _init_state(self, p: Tensor, state: dict[str, Tensor], kernel: KernelInfo, flags: dict[str, bool], mode: str) -> None:
        """Create what is missing of a parameter's state; every state starts as zeros."""
        if "step" not in state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
        if "rounding_key" not in state and self._is_random(p, mode):
            state["rounding_key"] = keys.draw_key(self._options["seed"], self._name_of(p))
        for declared in self.description.states:
            if declared.exists(flags):
                for key, make in state_tensors(declared, declared.name in kernel.stored).items():
                    if key not in state:
                        state[key] = make(p)
        kind = correction_dtype(p.dtype, mode)
        if kind is not None and (CORRECTION not in state or state[CORRECTION].dtype != kind):
            state[CORRECTION] = torch.zeros_like(p, dtype=kind, memory_format=torch.preserve_format)

    def _fit_state(self, p: Tensor, state: dict[str, Tensor], kernel: KernelInfo) -> None:
        """Let states follow a parameter to another dtype or device; refuse a parameter of another shape than theirs."""
        if not fit_states(self.description.states, kernel.stored, p, state):
            raise RuntimeError(
                f"{self.description.name}: parameter '{self._name_of(p)}' has shape {tuple(p.shape)}, but its state was made "
                "for another one; after a change of shape, clear the state: optimizer.state.pop(parameter)"
            )

    def _name_of(self, p: Tensor) -> str:
        """The parameter's name where names were given, else its place among all parameters."""
        place = 0
        for group in self.param_groups:
            for i, other in enumerate(group["params"]):
                if other is p:
                    names = group.get("param_names")
                    return names[i] if names else str(place)
                place += 1
        return str(place)

    def _run(self, batches: list[Batch]) -> None:
        """Hand the batches to the backends."""
        launches: list[Batch] = []
        for batch in batches:
            if pick_backend(self._options["backend"], batch.params[0].device) == "triton":
                launches.append(batch)
            else:
                self._run_torch(batch)
        if launches:
            importlib.import_module(f"{self.package}.triton_backend").launch(launches)

    def _run_torch(self, batch: Batch) -> None:
        update = self.torch_updates[batch.kernel]
        flatten = self._options["compile"] and not self.description.kernels[batch.kernel].stored
        if self._options["compile"]:
            update = compiled_update(update)
        for i, p in enumerate(batch.params):
            key = NO_WORDS if batch.words is None else batch.words[i]
            tensors = [p, batch.grads[i], *batch.tensors[i]]
            if flatten and all(tensor.is_contiguous() for tensor in tensors):
                tensors = [tensor.view(-1) for tensor in tensors]  # one number of dimensions: fewer compilations
            update(*tensors, batch.table[i], key, **batch.flags)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class, or of the torch.optim class with the same rule.

        Every tensor keeps the dtype that its state is declared with, whatever the parameter's.

        Raises:
            ValueError: if groups, sizes, names or shapes do not fit; the optimizer is then unchanged.
        """
        checkpoint.load(self, self.description, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy keep."""
        return {**super().__getstate__(), "_options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, and give groups of older state dicts the hyperparameters they lack."""
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it here; no step reads it, and state dicts should not grow
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def explain(self) -> str:
        """One line per parameter: its name, shape, kernel, how each state is stored, and why."""
        lines = []
        for group in self.param_groups:
            names = group.get("param_names") or [""] * len(group["params"])
            for name, p in zip(names, group["params"], strict=True):
                kernel = self.description.kernels[self.description.kernel_index(p.shape)]
                states = [_explain_state(s, p, kernel) for s in self.description.states if s.exists(type(self).flags(group))]
                lines.append(f"{name or self._name_of(p)} {tuple(p.shape)} {kernel.name}: " + "; ".join(states))
        return "\n".join(lines)


def _number(value: float | Tensor) -> float | Tensor:
    """A hyperparameter as torch multiplies it into a float64 tensor."""
    return value.to("cpu", torch.float64) if isinstance(value, Tensor) else value


def _place(p: Tensor) -> tuple[torch.dtype, torch.device]:
    return p.dtype, p.device


def _places(params: list[Tensor], kernels: list[int], index: int) -> list[tuple[torch.dtype, torch.device]]:
    """The dtypes and devices of the parameters that one kernel updates, each once."""
    places: list[tuple[torch.dtype, torch.device]] = []
    for i, p in enumerate(params):
        if kernels[i] == index and _place(p) not in places:
            places.append(_place(p))
    return places


def _explain_state(state: State, p: Tensor, kernel: KernelInfo) -> str:
    if state.scalar:
        return f"{state.name} one number"
    if state.name in kernel.stored and state.codes is not None:
        return f"{state.name} {state.codes.bits} bits in blocks of {state.codes.block} ({state.codes.reason(p.shape)})"
    why = "" if state.codes is None else f" ({state.codes.reason(p.shape)})"
    return f"{state.name} {str(float_dtype(state, p.dtype)).removeprefix('torch.')}{why}"
