"""FSDP2 in two processes on the CPU: the same bits as in one process, checkpoints that any number of processes loads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.contract.rows import BY_NAME
from tests.forks import together
from tests.sharded_process import STEPS, Model, compare, load, train

NAMES = ("solo", "adamw8bit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes saved after they had compared all of it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    common = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "WORLD_SIZE": "2"}
    environments = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    for done in together("-m", "tests.sharded_process", str(folder), *NAMES, environments=environments):
        assert "equal on process" in done.stdout, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_saved_by_two_processes_and_loaded_by_one(folder: Path, name: str) -> None:
    row = BY_NAME[name]
    places = sorted(folder.glob(f"{name}-*"))
    assert len(places) == 4
    for place in places:
        _, dtype_name, mode, _ = place.name.split("-")
        dtype = getattr(torch, dtype_name.removeprefix("torch."))
        alone, again = Model().to(dtype), Model().to(dtype)
        reference = row.make(alone.named_parameters(), low_precision=mode)
        fresh = row.make(again.named_parameters(), low_precision=mode, lr=0.5)
        train(alone, reference, range(STEPS + 2))
        load(again, fresh, place)
        train(again, fresh, range(STEPS, STEPS + 2))
        compare(again, fresh, alone, reference)
