"""Python processes at the price of a fork: a process that has imported torch and Triton, and nothing of ours, forks for each.

Importing them takes some seconds, and the suite starts more than a hundred processes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = ("numpy", "torch", "torch._dynamo", "triton", "triton.language")
AT_IMPORT = ("TRITON_INTERPRET", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "PYTHONHASHSEED")  # what torch or Triton reads once


def python(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` does in the root of the repository: `-c CODE`, `-m MODULE` or a script, and what it is given."""
    (done,) = together(*arguments, environments=[environment])
    return done


def together(*arguments: str, environments: Sequence[Mapping[str, str]]) -> list[subprocess.CompletedProcess[str]]:
    """The same in several processes at once, one for each environment; in what torch reads once these are equal."""
    server = _server(tuple((name, environments[0].get(name, "")) for name in AT_IMPORT))
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory(prefix="optgen-fork-") as folder:
        places = [f"{folder}/{number}" for number in range(len(environments))]
        processes = [
            {"arguments": arguments, "environment": dict(environment), "place": place}
            for environment, place in zip(environments, places, strict=True)
        ]
        server.stdin.write(json.dumps(processes) + "\n")
        server.stdin.flush()
        statuses = json.loads(server.stdout.readline())
        texts = [[Path(f"{place}.{name}").read_text(encoding="utf-8") for name in ("out", "err")] for place in places]
    return [subprocess.CompletedProcess(arguments, status, *text) for status, text in zip(statuses, texts, strict=True)]


@functools.cache
def _server(settings: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    """The process that forks those of these settings; it ends when its input does, with this one."""
    environment = {**os.environ, **dict(settings)}
    for name in [name for name, value in settings if not value]:
        environment.pop(name, None)
    command, pipe = [sys.executable, str(Path(__file__))], subprocess.PIPE
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
    atexit.register(server.communicate)
    return server


def serve() -> None:
    """Fork as each line of the input says, one line after the other, and print how these processes ended."""
    answers = os.fdopen(os.dup(1), "w")
    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        children = [os.fork() or os._exit(_run(**process)) for process in json.loads(line)]
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], file=answers, flush=True)


def _run(arguments: list[str], environment: dict[str, str], place: str) -> int:
    """Be the process that is asked for, but for the seconds in which Python takes all modules apart; its exit status."""
    for number, file in ((0, os.devnull), (1, f"{place}.out"), (2, f"{place}.err")):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    status: object = None
    try:
        _main(*arguments)
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:  # noqa: BLE001 -- told as Python tells it
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else int(status is not None)


def _main(first: str, *rest: str) -> None:
    """The part of Python's own that reads arguments."""
    if first == "-m":
        sys.argv, sys.path[0] = list(rest), str(ROOT)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        main: Any = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    serve()
