"""Programs that a model wrote: what passes, and what cannot be done in the meantime."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from dllm.integrations.harness.sandbox import PASSED, SandboxLimits, run_program, run_programs
from tests.waiting import until

SMALL = SandboxLimits(seconds=30, memory=512 * 2**20, size=2**16)


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("assert 1 + 1 == 2", PASSED),
        ("print('x' * 10)", PASSED),
        ("assert 1 + 1 == 3", "failed: AssertionError"),
        ("def f(:", "failed: SyntaxError: invalid syntax"),
        ("import sys; sys.exit(0)", "ended before its tests"),
        ("import os; os._exit(0)", "ended before its tests"),
        ("x = bytearray(2**31)", "failed: MemoryError"),
        ("open('a', 'wb').write(bytes(2**20))", "failed: OSError: [Errno 27] File too large"),
        ("import sys; sys.stderr.write('x' * 2**20)", "failed: "),
        ("import os; assert 'HOME' not in os.environ; assert os.getcwd().startswith('/tmp')", PASSED),
    ],
)
def test_verdicts(program: str, verdict: str) -> None:
    found = run_program(program, SMALL)
    assert found.startswith(verdict) or (verdict == "failed: " and found.startswith(("failed", "killed")))


def test_time_ends_it_with_all_that_it_started() -> None:
    pid = Path("/tmp") / f"dllm-pid-{time.monotonic_ns()}"
    started = f"import subprocess; p = subprocess.Popen(['sleep', '600']); open({str(pid)!r}, 'w').write(str(p.pid))"
    for seconds in (1, 4, 16, 64):  # until it comes as far as that on a machine with much to do
        assert run_program(f"{started}\nwhile True: pass", SandboxLimits(seconds=seconds)) == "timed out"
        if pid.exists() and pid.read_text():
            break
    child = Path("/proc") / pid.read_text() / "stat"
    pid.unlink()
    until(lambda: not child.exists() or child.read_text().split()[2] == "Z")


def test_no_network_where_the_system_lets_us_cut_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        separate = (
            run_program("import os; assert os.listdir('/sys/class/net') is not None\n" + NAMESPACE, SMALL) == PASSED
        )
        if not separate:
            pytest.skip("this system does not give a user a network name space")
        assert run_program(connect, SMALL) != PASSED


NAMESPACE = "import socket; assert [name for _, name in socket.if_nameindex()] == ['lo']"


def test_many_keep_their_order() -> None:
    assert run_programs(["pass", "assert False", "pass"], SMALL, workers=2) == [
        PASSED,
        "failed: AssertionError",
        PASSED,
    ]
