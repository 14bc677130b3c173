"""C++ source -> a loaded library: compiled when it is first used and kept by content, compiler and instruction set."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

__all__ = ["CompilerError", "cache_folder", "find_compiler", "instruction_set", "library"]

HEADERS = Path(__file__).with_name("cpp")
OPTIONS = (
    *("-std=c++20", "-O3", "-shared", "-fPIC", "-fopenmp"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv"),  # as IEEE 754 and two's complement say
    *("-fno-exceptions", "-fno-rtti", "-Wno-psabi"),
)
LEVELS = {
    "AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "AVX2": ("-march=x86-64-v3",),
}
PATIENCE = 300  # seconds; a compilation takes one or two
ABANDONED = 3600  # seconds


class CompilerError(RuntimeError):
    """There is no C++ compiler, or it failed; the message says what is missing."""


def cache_folder() -> Path:
    """Where compiled libraries are kept: $OPTGEN_CACHE_DIR, or `optgen` in the user's cache folder."""
    given = os.environ.get("OPTGEN_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optgen"


def instruction_set() -> str:
    """The vectors to compile for, as torch sees the CPU ("AVX512", "AVX2" or another); ATEN_CPU_CAPABILITY lowers it."""
    return torch.backends.cpu.get_cpu_capability()


@functools.cache
def find_compiler() -> tuple[str, str]:
    """The path of GCC's C++ compiler, $CXX or g++, and what it says of its version.

    Raises:
        CompilerError: if it cannot be run.
    """
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    if path is None:
        raise CompilerError(f"the C++ compiler {name!r} was not found: install g++, or set CXX to one of GCC's")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        raise CompilerError(f"the C++ compiler {path!r} cannot be run: {error}") from error
    return path, done.stdout.split("\n", 1)[0]


@functools.cache
def library(source: str, definitions: tuple[tuple[str, str], ...]) -> ctypes.CDLL:
    """The library of a C++ source with these macros, compiled unless the cache holds it.

    Raises:
        CompilerError: if the compiler is missing or fails, or the cache cannot be written.
    """
    command = _command(dict(definitions))
    digest = hashlib.sha256("\0".join([*command, find_compiler()[1], _headers(), source]).encode()).hexdigest()[:32]
    place = cache_folder() / f"{digest}.so"
    try:
        return ctypes.CDLL(str(place))
    except OSError:  # not there, or not whole
        _compile(command, source, place)
    return ctypes.CDLL(str(place))


def _command(definitions: Mapping[str, str]) -> list[str]:
    level = LEVELS.get(instruction_set(), ("-march=native",))
    macros = [f"-D{name}={value}" for name, value in sorted(definitions.items())]
    return [find_compiler()[0], *OPTIONS, *level, *macros, f"-I{HEADERS}"]


@functools.cache
def _headers() -> str:
    return "\0".join(path.read_text(encoding="utf-8") for path in sorted(HEADERS.glob("*.hpp")))


def _compile(command: list[str], source: str, place: Path) -> None:
    """Compile to a file of this process's own, which then takes its place at once: no one sees a part of it."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place.parent)
        with tempfile.TemporaryDirectory(prefix=".compiling-", dir=place.parent, ignore_cleanup_errors=True) as folder:
            text, made = Path(folder) / "source.cpp", Path(folder) / "made.so"
            text.write_text(source, encoding="utf-8")
            done = subprocess.run(
                [*command, "-o", str(made), str(text), *_openmp()],
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
            if done.returncode != 0:
                raise CompilerError(f"{command[0]} failed:\n{done.stderr.strip()[:2000]}")
            made.replace(place)
    except (OSError, subprocess.SubprocessError) as error:
        raise CompilerError(f"{place} cannot be made: {error}") from error


def _sweep(folder: Path) -> None:
    """Remove what compilations left that were killed; none takes an hour."""
    for left in folder.glob(".compiling-*"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _openmp() -> list[str]:
    """The OpenMP library that torch has loaded, so that both share their threads; GCC's own where torch brings none."""
    return [str(path) for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))[:1]]
