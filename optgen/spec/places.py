"""Where specs are: the suffixes that they have, and the folder of those that come with optgen."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SHIPPED", "SUFFIXES", "TRANSFORMS", "spec_files", "spec_names", "suffixes_in", "without_suffix"]

SHIPPED = Path(__file__).resolve().parent.parent / "specs"
TRANSFORMS = SHIPPED / "transforms"
SUFFIXES = (".yaml", ".py")


def suffixes_in(folder: Path) -> tuple[str, ...]:
    """Which files of a folder are specs without being named: programs only where there are specs and nothing else."""
    return SUFFIXES if folder.resolve().name == "specs" else SUFFIXES[:1]


def spec_files(folder: Path) -> list[Path]:
    """The specs of a folder by name; of Python files those that do not begin with an underscore."""
    found = [path for suffix in suffixes_in(folder) for path in folder.glob(f"*{suffix}") if not path.name.startswith("_")]
    return sorted(found, key=lambda path: (path.stem, path.suffix != ".yaml"))


def spec_names(*folders: Path) -> set[str]:
    """What the specs of these folders are called."""
    return {path.stem for folder in folders for path in spec_files(folder)}


def without_suffix(name: str) -> str:
    """The name of a spec, from what a user calls it."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
