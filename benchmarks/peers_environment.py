"""The environment of benchmarks/peers.py: the packages of others, and processes with a limit of time that use them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from optgen.output import write_bytes

__all__ = ["ROOT", "Environment"]

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "peers-cpu.txt"
CONSTRAINTS = ROOT / "constraints.txt"
PROCESS = ROOT / "benchmarks" / "peer_process.py"
LIMIT = 1800  # seconds for a package
CACHES = ("OPTGEN_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")


class Environment:
    """A virtual environment in the folder .peers, and the caches of compiled code in it, one for each optimizer."""

    folder = ROOT / ".peers"

    def install(self) -> None:
        """Make it, unless it is there and has what the requirements say. A package that cannot be installed is left out."""
        wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + CONSTRAINTS.read_bytes()).hexdigest()
        if self._record().get("wanted") == wanted:
            return
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        self._pip("setuptools", "wheel", "ninja", "torch", "-e", f"{ROOT}[triton,plot]", check=True)
        failures = {}
        for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                done = self._pip(line, check=False)
                if done.returncode:
                    failures[line.split("==")[0]] = _reason(done.stderr, "cannot be installed")
        write_bytes(self.folder / "installed.json", json.dumps({"wanted": wanted, "failures": failures}).encode())

    def forget(self, optimizer: str) -> None:
        """Empty an optimizer's caches of compiled code."""
        shutil.rmtree(self._cache(optimizer), ignore_errors=True)

    def answers(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the process of a job answers, one for each of its shapes; of the first that it fails on, the reason, and no more."""
        failure = self._record().get("failures", {}).get(str(job.get("optimizer")).split(" ", 1)[0])
        if failure:
            yield {"reason": failure}
            return
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
            process = subprocess.Popen(
                [self._python(), str(PROCESS), json.dumps(job)],
                env=self._variables(job),
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,
            )
            assert process.stdout is not None
            lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
            reader.start()
            answered, reason = 0, ""
            try:
                while (line := lines.get(timeout=job["limit"] + job.get("patience", 0))) is not None:
                    answered += 1
                    yield json.loads(line)
            except queue.Empty:
                reason = f"takes longer than {job['limit']} s"
            finally:
                _end(process)
            if answered < len(job["shapes"]):
                said.seek(0)
                yield {"reason": reason or _reason(said.read(), f"its process ended with {process.wait()}")}

    def _record(self) -> dict[str, Any]:
        file = self.folder / "installed.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    def _python(self) -> str:
        return str(self.folder / "bin" / "python")

    def _cache(self, optimizer: str) -> Path:
        return self.folder / "cache" / re.sub(r"\W+", "-", optimizer)

    def _variables(self, job: dict[str, Any]) -> dict[str, str]:
        cache = self._cache(str(job.get("optimizer")))
        found = {**os.environ, "PYTHONPATH": str(ROOT), **{name: str(cache / name.lower()) for name in CACHES}}
        found["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{found['PATH']}"
        found["MALLOC_MMAP_THRESHOLD_"] = "65536" if job["kind"] == "alone" else "33554432"
        found["OMP_NUM_THREADS"] = str(job.get("threads", 1))
        return found

    def _pip(self, *what: str, check: bool) -> subprocess.CompletedProcess[str]:
        command = [self._python(), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), *what]
        return subprocess.run(command, check=check, capture_output=not check, text=True, timeout=LIMIT)


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and what it started."""
    if process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # of one that has answered all
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(said: str, otherwise: str) -> str:
    """The last line of a traceback or of a log of errors, without the folders of this machine."""
    lines = [line.strip() for line in said.splitlines() if re.match(r"\s*[\w.]*(Error|Exception|ERROR|Killed)\b", line)]
    text = lines[-1] if lines else otherwise
    return re.sub(r"(?:/[\w.@+-]+)+/", "", text)[:200]
