"""Runs the torch backend: one call for a parameter, or one for each phase of its kernel."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optgen.runtime import keys
from optgen.runtime.joint import Part, join, last_phase
from optgen.runtime.shared import own_copies, write_back

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["compiled_update", "run_torch"]


def run_torch(optimizer: type[Any], batches: Sequence[Batch], *, compiled: bool) -> None:
    """Update batches by the functions of a generated class, which torch compiles first if `compiled` says so."""
    description = optimizer.description
    if description.shared:
        copies = own_copies(description, batches)
        _run(optimizer, copies, compiled=compiled)
        write_back(description, batches, copies)
    else:
        _run(optimizer, batches, compiled=compiled)


def _run(optimizer: type[Any], batches: Sequence[Batch], *, compiled: bool) -> None:
    """Call the functions of each phase for all parameters, and join what they leave before the next one."""
    waiting = last_phase(optimizer.description.kernels[batch.kernel].joint for batch in batches)
    known: list[list[tuple[Tensor, ...]]] = [[()] * len(batch.shards) for batch in batches]  # results of each parameter
    for phase in range(1, waiting + 1):
        left: list[Part] = []
        for batch, results in zip(batches, known, strict=True):
            early = optimizer.torch_phases.get(batch.kernel, ())
            if phase <= len(early):
                joint = [each for each in optimizer.description.kernels[batch.kernel].joint if each.phase == phase]
                for i, call in _calls(optimizer, batch, early[phase - 1], results, compiled=compiled):
                    numbers = call()
                    shape = batch.columns[0][i].shape
                    pairs = zip(joint, numbers, strict=True)
                    left += [each.part(batch.group, number, shape) for each, number in pairs if each.takes(batch.flags)]
                    results[i] += numbers
        join(left)
    for batch, results in zip(batches, known, strict=True):
        update = optimizer.torch_updates[batch.kernel]
        for _, call in _calls(optimizer, batch, update, results, compiled=compiled):
            call()


def _calls(
    optimizer: type[Any],
    batch: Batch,
    function: Callable[..., Any],
    known: Sequence[tuple[Tensor, ...]],
    *,
    compiled: bool,
) -> Iterator[tuple[int, Callable[[], Any]]]:
    """The calls of a function for the parameters of a batch that have elements, by place; each knows what was reduced before."""
    kernel = optimizer.description.kernels[batch.kernel]
    flatten = compiled and not kernel.stored and not kernel.grid
    if compiled:
        function = compiled_update(function)
    device = batch.columns[0][0].device
    words, table = None if batch.words is None else batch.words.to(device), batch.table.to(device)
    for i, row in enumerate(zip(*batch.columns, strict=True)):
        if row[0].numel() == 0:
            continue
        key = keys.Key(keys.NO_WORDS if words is None else words[i], batch.shards[i])
        tensors = [*row]
        if flatten and all(tensor.is_contiguous() for tensor in tensors):
            tensors = [tensor.view(-1) for tensor in tensors]  # one number of dimensions: fewer compilations
        elif compiled or torch.compiler.is_compiling():  # Inductor writes nothing into a float64 tensor of shape ()
            tensors = [tensor if tensor.ndim else tensor.view(1) for tensor in tensors]
        yield i, functools.partial(function, *tensors, table[i], key, *known[i], **batch.flags)


@functools.cache
def compiled_update(update: Callable[..., None]) -> Callable[..., Any]:
    """An update function compiled for all sizes; each mix of dtypes, flags and numbers of dimensions compiles anew.

    torch counts these against a limit meant for mistakes. Beyond it functions run as they are, with a warning of torch's;
    with fullgraph=True they would raise.
    """
    takes_limit = "recompile_limit" in inspect.signature(torch.compile).parameters
    options: dict[str, Any] = {"recompile_limit": 128} if takes_limit else {}
    return torch.compile(update, dynamic=True, **options)
