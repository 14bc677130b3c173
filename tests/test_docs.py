"""What the documentation shows works: every whole spec in it builds, every link and command of it exists."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import click
import pytest
import torch

from optgen.cli.main import main
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(yaml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPECS = {
    f"{page.name}-{number}": (kind, text)
    for page in PAGES
    for number, (kind, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
    if re.search(r"^name:|^define\(", text, re.MULTILINE)
}


@pytest.mark.parametrize(("kind", "text"), SPECS.values(), ids=SPECS)
def test_every_spec_builds_and_steps(kind: str, text: str, generate: Callable[..., ModuleType]) -> None:
    module = generate(text, suffix={"yaml": ".yaml", "python": ".py"}[kind])
    p = torch.nn.Parameter(torch.ones(64, 128))
    p.grad = torch.ones_like(p)
    p.grad[::2] = 3  # not alike, so that a rule can tell rows apart
    getattr(module, module.__all__[0])([("layers.0.weight", p)]).step()
    assert p.isfinite().all()
    smaller = p < 1
    assert smaller.any() if "kind: transform" in text else smaller.all()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists(page) -> None:
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"`optgen ([a-z]+)", text) + re.findall(r"^(?:\$ )?optgen ([a-z]+) [\w/]+\.yaml", text, re.MULTILINE)
    for name in shown:
        assert name in main.list_commands(click.Context(main)), name
