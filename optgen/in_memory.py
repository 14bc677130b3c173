"""A spec -> a class, without files of the user's: for notebooks, and to try another storage."""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optgen.build import Built, build
from optgen.output import write_package
from optgen.spec.define import Definition
from optgen.spec.find import find_spec
from optgen.spec.with_storage import with_storage

if TYPE_CHECKING:
    from optgen.runtime.optimizer import GeneratedOptimizer

__all__ = ["load_package", "optimizer_class", "package_of", "unload_package"]

HEADER_LINES = 2
LOCK = threading.RLock()


def optimizer_class(spec: str | Path | Definition, *, storage: Mapping[str, Any] | None = None) -> type[GeneratedOptimizer]:
    """Build a spec in memory and return its class; the same text gives the same class.

    The class can be used like one that `optgen build` wrote. It cannot be unpickled in another process, because its module
    is only in this one.

    Args:
        spec: a path, the bare name of a spec that `optgen list` shows, or what `optgen.define` returned.
        storage: for some states another storage than the spec's: a name such as "int4", or a dict as in a spec, in
            place of all that the spec says of it.

    Raises:
        SpecError: if the spec, or the storage, has errors; its text names each place.
    """
    found = spec if isinstance(spec, Definition) else find_spec(str(spec))
    with LOCK:  # the formatter's own imports are not safe in threads
        return _loaded(build(with_storage(found, storage, sys._getframe(1)) if storage else found))


def _loaded(built: Built) -> type[GeneratedOptimizer]:
    made: type[GeneratedOptimizer] = getattr(sys.modules[package_of(built)], built.spec.name)
    return made


def package_of(built: Built) -> str:
    """Import the package of a built spec and return its name, under which its modules can be imported."""
    bodies = [text.split("\n", HEADER_LINES)[-1] for text in built.files.values()]  # headers name the path of the spec
    digest = hashlib.sha256("\0".join(bodies).encode()).hexdigest()[:16]
    name = f"optgen_in_memory_{digest}"
    if name not in sys.modules:
        write_package(_folder(), name, built.files)
        load_package(_folder(), name)
    return name


@functools.cache
def _folder() -> Path:
    """Where packages lie while this process runs: Triton reads the source of its kernels from files."""
    folder = Path(tempfile.mkdtemp(prefix="optgen-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    """Clean up, not in the end of a forked child."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def load_package(folder: Path, name: str) -> Any:
    """Import the package `name` below `folder`, which need not be on the import path."""
    place = folder / name
    spec = importlib.util.spec_from_file_location(name, place / "__init__.py", submodule_search_locations=[str(place)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        unload_package(name)
        raise
    return module


def unload_package(name: str) -> None:
    """Forget a package and its modules."""
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]
