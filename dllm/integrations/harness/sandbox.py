"""Runs programs that a model wrote, each in a process of its own with limits; says what became of it.

A guard against accidents, not against malice: a program has little time, memory and room for files, no network where
the system lets a user cut it off, an empty environment and a folder of its own, but it is not kept from reading.
Only `dllm eval --allow-code` (lm-eval: --confirm_run_unsafe_code) leads here.
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
BEFORE = """
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
"""What the process does first: limits, a network name space with nothing in it (user and network: CLONE_NEWUSER |
CLONE_NEWNET), and then the program in its place."""


@dataclass(frozen=True)
class SandboxLimits:
    """What a program may use.

    seconds  of wall and processor time
    memory   bytes of address space
    size     bytes of any file it writes, what it prints included
    """

    seconds: int = 10
    memory: int = 4 * 2**30
    size: int = 2**22


def run_programs(
    programs: Sequence[str], limits: SandboxLimits = SandboxLimits(), workers: int | None = None
) -> list[str]:
    """What became of each program: "passed", or why not."""
    with ThreadPoolExecutor(workers or max(1, (os.cpu_count() or 2) // 2)) as pool:
        return list(pool.map(lambda program: run_program(program, limits), programs))


def run_program(program: str, limits: SandboxLimits = SandboxLimits()) -> str:
    """What became of one program. Only one that ran to its last line has passed, not one that left before."""
    with tempfile.TemporaryDirectory(prefix="dllm-") as name:
        folder, token = Path(name), secrets.token_hex(16)
        mark, said, file = folder / "reached", folder / "said", folder / "program.py"
        file.write_text(f"{program}\nopen({str(mark)!r}, 'w').write({token!r})\n", encoding="utf-8", errors="replace")
        arguments = map(str, (limits.seconds, limits.memory, limits.size, file))
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", BEFORE, *arguments],
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
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if mark.is_file() and mark.read_text() == token:
            return PASSED
        return _explain_failure(code, said.read_bytes()[-4096:].decode("utf-8", "replace"))


def _explain_failure(code: int, said: str) -> str:
    """Why a program did not pass, in a few words."""
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return "timed out"
    if code < 0:
        return f"killed by signal {-code}"
    lines = [line for line in said.splitlines() if line.strip()]
    return f"failed: {lines[-1][:200]}" if lines else "ended before its tests"
