"""Execution of programs that a model wrote, each in a process of its own with limits.

This guards against accidents, not against malice: a program has little time, memory and room for files, no network
where the system lets a user cut it off, an empty environment and a folder of its own, but it is not kept from reading
files. Only `dllm eval --allow-code` (lm-eval: --confirm_run_unsafe_code) leads here.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PASSED = "passed"
LAUNCHER = """
import ctypes, os, resource, sys
seconds, memory, size, program = *map(int, sys.argv[1:4]), sys.argv[4]
for what, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size),
                   (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(what, (most, most))
try:
    ctypes.CDLL(None).unshare(0x50000000)
except Exception:
    pass
os.execv(sys.executable, [sys.executable, "-I", program])
"""
"""Code with which the process begins: limits, a network name space with nothing in it, and the program in its place.

The name spaces are those of user and network (CLONE_NEWUSER | CLONE_NEWNET); a system may refuse them to a user.
"""


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of a program.

    Attributes:
        seconds: Wall and processor time.
        memory: Bytes of address space.
        size: Bytes of any file it writes, including what it prints.
    """

    seconds: int = 10
    memory: int = 4 * 2**30
    size: int = 2**22


def run_programs(
    programs: Sequence[str], limits: SandboxLimits = SandboxLimits(), workers: int | None = None
) -> list[str]:
    """Run programs side by side.

    Returns:
        For each program "passed", or the reason why not.
    """
    with ThreadPoolExecutor(workers or max(1, (os.cpu_count() or 2) // 2)) as pool:
        return list(pool.map(lambda program: run_program(program, limits), programs))


def run_program(program: str, limits: SandboxLimits = SandboxLimits()) -> str:
    """Run one program.

    Returns:
        "passed" if it ran to its last line, else the reason why not; a program that exits earlier has not passed.
    """
    with tempfile.TemporaryDirectory(prefix="dllm-") as name:
        folder, token = Path(name), secrets.token_hex(16)
        # A line behind the program writes a random token, which shows that the program ran to its end.
        marker, errors, file = folder / "reached", folder / "stderr", folder / "program.py"
        file.write_text(f"{program}\nopen({str(marker)!r}, 'w').write({token!r})\n", encoding="utf-8", errors="replace")
        arguments = map(str, (limits.seconds, limits.memory, limits.size, file))
        with errors.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", LAUNCHER, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                cwd=name,
                env={"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
            try:
                code = process.wait(limits.seconds)
            except subprocess.TimeoutExpired:
                code = -signal.SIGXCPU
            finally:
                with suppress(ProcessLookupError):  # the program's own children may outlive it
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if marker.is_file() and marker.read_text() == token:
            return PASSED
        return _explain_failure(code, errors.read_bytes()[-4096:].decode("utf-8", "replace"))


def _explain_failure(code: int, stderr: str) -> str:
    """Explain in a few words why a program did not pass."""
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return "timed out"
    if code < 0:
        return f"killed by signal {-code}"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return f"failed: {lines[-1][:200]}" if lines else "ended before its tests"
