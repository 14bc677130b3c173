"""The base class of every generated optimizer: torch.optim's contract, states, and one step over all parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # as torch.compiler.disable, but imports the compiler when it is called
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from optgen.runtime import checkpoint, cpp_op, keys, masters, sharding, shared
from optgen.runtime.backends import launch, pick_backend, traced_backend
from optgen.runtime.batches import NO_KEY, NO_SCALAR, Batch, Collected, Part, Scalars, divide, hyper_values, make_batches
from optgen.runtime.cuts import as_seen
from optgen.runtime.description import Description
from optgen.runtime.explain import explain
from optgen.runtime.given import GIVEN
from optgen.runtime.host import Scalar
from optgen.runtime.inputs import Inputs, by_given, check_values
from optgen.runtime.known import Known
from optgen.runtime.low_precision import (
    CORRECTION,
    correction_dtype,
    is_random,
    warn_of_nearest,
)
from optgen.runtime.refuse import check_grad, check_param, fit_state
from optgen.runtime.rules import Parameter, check_tags, kernels_of
from optgen.runtime.states import state_tensors

__all__ = ["GeneratedOptimizer"]


class GeneratedOptimizer(Optimizer):
    """What all generated optimizers share. Subclasses add `description`, `flags`, `scalars` and the backends."""

    description: ClassVar[Description]
    torch_updates: ClassVar[tuple[Callable[..., None], ...]]  # of the torch backend, one for each kernel
    torch_phases: ClassVar[Mapping[int, tuple[Callable[..., tuple[Tensor, ...]], ...]]] = {}  # before it, of some kernels

    @staticmethod
    def flags(group: Mapping[str, Any]) -> dict[str, bool]:
        """The compile-time flags of a parameter group; it may say what a step was given (`GIVEN`)."""
        raise NotImplementedError

    @staticmethod
    def launch_triton(batches: list[Batch]) -> None:
        """Update batches by Triton's kernels."""
        raise NotImplementedError

    @staticmethod
    def launch_cpp(batches: list[Batch]) -> None:
        """Update batches by C++ kernels."""
        raise NotImplementedError

    scalars: ClassVar[Callable[..., tuple[tuple[Scalar, ...], tuple[Scalar, ...]]]]

    @staticmethod
    def rule(p: Parameter) -> str | None:
        """The name of the rule that updates a parameter, of a class that has several; None if none does."""
        raise NotImplementedError

    @classmethod
    def rule_scalars(cls) -> list[Scalars]:
        """The function `scalars` of each rule."""
        return [getattr(cls, f"scalars_{rule.name}" if rule.name else "scalars") for rule in cls.description.rules]

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        backend: str,
        compile: bool,  # noqa: A002
        seed: int = 0,
        tags: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Check the hyperparameters and register the parameters.

        Args:
            params: parameters, `named_parameters()` or groups, as torch.optim takes them.
            defaults: hyperparameters of groups that do not set their own.
            backend: "auto" (triton on a GPU, cpp on a CPU, torch where these are missing), "torch", "triton" or "cpp".
            compile: compile the update function of the torch backend with torch.compile.
            seed: of stochastic rounding.
            tags: for the conditions of rules, names of parameters as patterns by the tag that they get.

        Raises:
            ValueError: for a hyperparameter outside its range, a backend that does not exist, or a parameter without a rule.
            RuntimeError: for a backend that is not available here.
            TypeError: for parameters that are not real floating-point tensors.
        """
        self._options: dict[str, Any] = {"backend": backend, "compile": compile, "seed": seed}
        self._tags = dict(tags or {})
        self._known = Known(self.description)
        self._inputs = Inputs()
        pick_backend(backend, None)
        self.description.check(defaults)
        super().__init__(params, {**defaults, **self.description.origin})
        check_tags(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch.optim does; its hyperparameters are checked before anything changes."""
        if isinstance(param_group, dict):
            known = {**self.defaults, **param_group}
            self.description.check(known)
            param_group["storage"] = self.description.storage(known["storage"])
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for p, kernel in zip(group["params"], kernels_of(self, group), strict=True):
                check_param(self, p, kernel, group)
        except (TypeError, RuntimeError, ValueError):
            self.param_groups.pop()
            raise
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
        corrected = masters.load(self, self.description.name, tensors)
        chosen = {p: k for group in self.param_groups for p, k in zip(group["params"], kernels_of(self, group), strict=True)}
        for p, group, correction in corrected:
            self._init_state(p, self.state[p], chosen[p], group, type(self).flags(group))
            sharding.local(self.state[p][CORRECTION]).copy_(correction)

    def give(self, **inputs: Iterable[Tensor | None] | Mapping[Tensor, Tensor | None]) -> None:
        """Give the next step inputs of its rule, such as an estimate of the Hessian, that come every few steps only.

        A tensor has its parameter's shape and device, any floating-point dtype, and is kept as it is until that step, not
        copied. The step forgets it, whether or not its parameter has a gradient. Giving an input again before the step
        replaces all that was given of it. No state dict holds it, and loading one drops it.

        Args:
            inputs: by the name that the spec has for it, a list with a tensor for each parameter, in the order in which the
                optimizer got them, or a mapping from parameters to tensors. None, and what the mapping lacks, is not given;
                a tensor for a parameter whose rule has no such input is not used.

        Raises:
            TypeError, ValueError, RuntimeError: for a tensor that its parameter cannot take; nothing is given then.
        """
        self._inputs.take({name: check_values(self, name, values) for name, values in inputs.items()})

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
        if torch.compiler.is_compiling() and self._inputs.waiting:
            self._update_with_inputs_not_compiled()
        else:
            self._update()
        return loss

    @_disable_dynamo
    def _update_with_inputs_not_compiled(self) -> None:
        """What torch.compile leaves as it is, or refuses to: it would take the tensors of this step for those of all."""
        self._update()

    def _update(self) -> None:
        if self.description.shared:
            shared.check_same(self.description, self.param_groups)
        groups = [(group, type(self).flags(group)) for group in self.param_groups]
        values = [hyper_values(self.description, group) for group in self.param_groups]
        sharded: list[Tensor] = []
        given = self._inputs.waiting
        known = None if given or torch.compiler.is_compiling() else self._known.recall(groups, self.state)
        if known is None:
            known, sharded = self._look(groups, values), self._sharded()
        batches: list[Batch] = []
        scalars = self.rule_scalars()
        every = enumerate(zip(groups, known, values, strict=True))
        for place, ((group, flags), parts, numbers) in every:  # nothing is refused from here on
            for names, alike in by_given(parts).items():
                own = type(self).flags({**group, GIVEN: names}) if names else flags
                batches += make_batches(self.description, own, scalars, group["low_precision"], alike, numbers, place)
        if given:
            self._inputs.drop()
        self._run(batches)
        if self.description.shared:
            shared.spread(self, batches)
        if sharded:  # tell autograd, for kernels have only seen their shards
            torch.autograd.graph.increment_version(sharded)

    def _look(
        self, groups: list[tuple[dict[str, Any], dict[str, bool]]], values: list[list[float | Tensor]]
    ) -> list[list[Part]]:
        """What is to be updated of each group, checked; while torch.compile traces, what the op of the cpp backend has left."""
        eager = not torch.compiler.is_compiling()
        if eager:
            self._check_step()
            if self.description.shared:
                shared.unify(self.description, shared.members(self), self.state)
        collected = []
        for group, _ in groups:
            found = Collected([], [], [], [], [], [], [], [])
            self._init_group(group, *found)
            collected.append(as_seen(self, found, group))
        if eager:
            if not self._inputs.waiting:
                self._known.remember([(*group, found) for group, found in zip(groups, collected, strict=True)], self.state)
            return [divide(self.description, found) for found in collected]
        parts = []
        for (group, flags), found, numbers in zip(groups, collected, values, strict=True):
            left = self._step_by_op(flags, group["low_precision"], found, numbers)
            parts.append(divide(self.description, left))
        return parts

    def _check_step(self) -> None:
        """Refuse what cannot be updated before anything changes."""
        self._inputs.check(self)
        devices: set[torch.device] = set()
        for group in self.param_groups:
            for p, kernel in zip(group["params"], kernels_of(self, group), strict=True):
                if p.grad is not None:
                    check_grad(self, p, p.grad)
                    devices.add(p.device)
                    if state := self.state.get(p):
                        fit_state(self, p, state, kernel, group)
        backends = {self._backend(device) for device in devices}
        if len(backends) > 1 and self.description.joint:
            raise RuntimeError(
                f"{self.description.name} reduces over several parameters, and these are updated by different backends, "
                f"{' and '.join(sorted(backends))}: move them to devices of one kind, or take backend='torch'"
            )

    def _sharded(self) -> list[Tensor]:
        """The sharded parameters that are updated."""
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None and sharding.is_sharded(p)]

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
        shards: list[int],
    ) -> None:
        """Collect the parameters that have gradients, and create states that are missing.

        torch.compile runs this method, by its name, while it traces: state creation never enters the graph. A parameter
        that is listed twice, of which torch warns, is updated once: kernels of one launch must not share a parameter.
        """
        flags, mode, chosen = type(self).flags(group), group["low_precision"], kernels_of(self, group)
        random = any(self._is_random(p, index, mode) for p, index in zip(group["params"], chosen, strict=True))
        seen: set[Tensor] = set()
        for p, index in zip(group["params"], chosen, strict=True):
            if p.grad is None or p in seen:
                continue
            seen.add(p)
            state = self.state[p]
            if state:
                fit_state(self, p, state, index, group)
            self._init_state(p, state, index, group, flags)
            rule = self.description.rule_of(index)
            part = sharding.local(p)
            params.append(part)
            grads.append(sharding.local(p.grad))
            steps.append(state["step"])
            kernels.append(index)
            if random:
                rounding_keys.append(state.get("rounding_key", NO_KEY))
            scalar_states += [state.get(s.key, NO_SCALAR) for s in rule.scalars]
            # the parameter stands in for states that do not exist
            taken = self.description.kernels[index].keys
            kept = self._inputs.beside(p, state)
            tensors += [sharding.local(kept[key]) if key in kept else part for _, key in taken]
            shards += sharding.place(p)

    def _is_random(self, p: Tensor, kernel: int, mode: str) -> bool:
        """Whether a parameter or one of its states is rounded stochastically."""
        return self.description.rule_of(kernel).random or is_random(p.dtype, mode)

    def _init_state(
        self, p: Tensor, state: dict[str, Tensor], kernel: int, group: dict[str, Any], flags: dict[str, bool]
    ) -> None:
        """Create what is missing of a parameter's state; every state starts as zeros."""
        mode = group["low_precision"]
        if "step" not in state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
        if "rounding_key" not in state and self._is_random(p, kernel, mode):
            state["rounding_key"] = keys.draw_key(self._options["seed"], self._name_of(p))
        stored, rule = self.description.kernels[kernel].stored, self.description.rule_of(kernel)
        seen = rule.seen(p.shape, group)
        for declared in rule.states:
            if declared.scope:
                if declared.key not in state:
                    state[declared.key] = shared.begin(self, p, self.description.owners[kernel], declared, group)
            elif declared.exists(flags):
                for key, kept in state_tensors(declared, declared.name in stored, p.shape, p.dtype, seen).items():
                    if key not in state:
                        state[key] = kept.zeros(p)
        kind = correction_dtype(p.dtype, mode)
        if kind is not None and (CORRECTION not in state or state[CORRECTION].dtype != kind):
            state[CORRECTION] = torch.zeros_like(p, dtype=kind, memory_format=torch.preserve_format)

    def _owner(self, p: Tensor) -> str:
        """A parameter as errors name it."""
        return f"{self.description.name}: parameter '{self._name_of(p)}'"

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

    def _step_by_op(self, flags: dict[str, bool], mode: str, found: Collected, numbers: list[float | Tensor]) -> Collected:
        """Update by one op, while torch.compile traces, what C++ kernels update; returns what is left to other backends."""
        devices = {p.device for p in found.params}
        by_cpp = [device for device in devices if self._backend(device) == "cpp"]
        if not by_cpp:
            return found
        taken, left = cpp_op.divided(self.description, found, [p.device in by_cpp for p in found.params])
        cpp_op.step_by_op(type(self), flags, mode, taken, numbers, auto=self._options["backend"] == "auto")
        return left

    def _run(self, batches: list[Batch]) -> None:
        """Hand the batches to the backends."""
        launches: dict[str, list[Batch]] = {}
        for batch in batches:
            launches.setdefault(self._backend(batch.columns[0][0].device), []).append(batch)
        auto = self._options["backend"] == "auto"
        compiled = self._options["compile"] and not torch.compiler.is_compiling()  # else it is compiled with the step
        for backend, taken in launches.items():
            launch(type(self), backend, taken, auto=auto, compiled=compiled)

    def _backend(self, device: torch.device) -> str:
        if not torch.compiler.is_compiling():
            return pick_backend(self._options["backend"], device, compiled=self._options["compile"])
        picked = traced_backend(self._options["backend"], device, compiled=self._options["compile"])
        return "torch" if picked == "cpp" and self.description.joint else picked  # an op is the whole step of one group

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class, or of the torch.optim class with the same rule.

        Every tensor keeps the dtype that its state is declared with, whatever the parameter's.

        Raises:
            ValueError: if groups, sizes, names or shapes do not fit; the optimizer is then unchanged.
        """
        checkpoint.load(self, self.description, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy keep."""
        return {**super().__getstate__(), "_options": self._options, "_tags": self._tags}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, and give groups of older state dicts the hyperparameters they lack."""
        super().__setstate__(state)
        self._known = Known(self.description)
        self._inputs = Inputs()
        self.defaults.pop("differentiable", None)  # torch adds it here; no step reads it, and state dicts should not grow
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def explain(self) -> str:
        """A table of all parameters: shape, dtype, the rule and kernel that update each, how its states are stored, and why."""
        return explain(self)
