"""The examples, as a user runs them, with a few steps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.forks import python

EXAMPLES = ROOT / "examples"
SPECS = sorted(path.name for path in (EXAMPLES / "specs").glob("*.yaml"))
PNG = b"\x89PNG"


def run(*command: str, code: int = 0) -> str:
    done = python(*command, environment=os.environ)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_train_lm_draws_and_prints_a_table(tmp_path: Path) -> None:
    naive = str(EXAMPLES / "specs" / "naive_2bit.yaml")
    printed = run("examples/train_lm.py", "solo", "torch.optim.AdamW", naive, "--steps", "3", "--out", str(tmp_path))
    assert (tmp_path / "curves.png").read_bytes()[:4] == PNG
    rows = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in printed.splitlines() if line.startswith("│")}
    assert float(rows["torch AdamW"]) == 8.0
    assert 0.84 < float(rows["Solo"]) < 1.0
    assert float(rows["Naive2bit"]) < float(rows["Solo"])


@pytest.mark.parametrize("name", ["nonsense", "torch.optim.Nonsense", "torch.nn.Linear", "missing.yaml"])
def test_a_wrong_name_is_a_clear_error(name: str, tmp_path: Path) -> None:
    printed = run("examples/train_lm.py", name, "--out", str(tmp_path), code=2)
    assert "Traceback" not in printed
    assert name.rpartition(".")[2] in printed or "missing.yaml" in printed


def test_the_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = ("examples/study.py", "--steps", "2", "--eager", "--only", "torch.optim.AdamW", "--out", str(tmp_path))
    first = run(*command, "--seeds", "1")
    saved = json.loads((tmp_path / "torch_AdamW-0.002-0.json").read_text(encoding="utf-8"))
    assert len(saved["run"]["losses"]) == 2
    second = run(*command, "--seeds", "2")
    assert "seed 0" in first
    assert "seed 0" not in second
    assert "seed 1" in second
    assert (tmp_path / "curves.png").read_bytes()[:4] == PNG
    assert f"{saved['run']['validation']['2']:.4f}" in second
    assert "seed 0" in run(*command, "--seeds", "1", "--lr", "0.1"), "with other settings it runs again"


def test_families_searches_a_learning_rate_for_a_rule_and_its_storages(tmp_path: Path) -> None:
    printed = run(
        "examples/families.py",
        "--steps",
        "1",
        "--seeds",
        "1",
        "--eager",
        "--only",
        "lion",
        "--only",
        "lion_8bit",
        "--out",
        str(tmp_path),
    )
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| Lion")]
    assert [row[0] for row in rows] in (["| Lion", "| Lion8bit"], ["| Lion8bit", "| Lion"])
    losses = {}
    for path in tmp_path.glob("Lion-*-0.json"):
        saved = json.loads(path.read_text(encoding="utf-8"))
        losses[saved["settings"]["lr"]] = saved["run"]["validation"]["1"]
    best = min(losses, key=losses.__getitem__)
    assert {float(row[1]) for row in rows} == {best}
    assert {best / 2, best * 2} <= losses.keys() or len(losses) == 8, "a minimum, or the end of the search"
    assert (tmp_path / "families.png").read_bytes()[:4] == PNG


def test_swamping_shows_that_only_nearest_rounding_freezes(tmp_path: Path) -> None:
    printed = run("examples/swamping.py", "--steps", "1500", "--out", str(tmp_path))
    worst = {line.split(":")[0]: float(line.split()[-3]) for line in printed.splitlines() if " at most" in line}
    assert worst["32 bits"] == 1.0
    assert worst["SOLO, 2 bits"] < worst["naive 2 bits"]
    assert (tmp_path / "swamping.png").read_bytes()[:4] == PNG


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_of_the_examples_is_sound(name: str) -> None:
    run("-m", "optgen.cli.main", "check", f"examples/specs/{name}")


def test_sophia_trains_with_both_estimates() -> None:
    printed = run("examples/sophia.py", "--steps", "60")
    losses = {
        name: float(rest.split("->")[1]) for name, _, rest in (line.partition(":") for line in printed.splitlines()) if rest
    }
    assert losses.keys() == {"AdamW", "Sophia-G", "Sophia-H"}
    assert max(losses["Sophia-G"], losses["Sophia-H"]) < losses["AdamW"] < 2
