"""`dllm app` refuses options that cannot work before it listens, and ends at Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dllm.cli.main import app
from dllm.errors import ConfigError

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'dllm[web]'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--longest", "0"], "--longest 0: must be at least 1"),
        (["--model", "embedded", "--model", "embedded"], "names two models"),
        (["--model", "embedded=nothing"], "nothing"),
        (["--port", "99999"], "--port 99999"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    found = CliRunner().invoke(app, ["app", *options])
    assert found.exit_code == 2, found.output
    assert message in " ".join(found.output.split())


def test_weights_are_packed_where_that_helps(monkeypatch):
    def library(named, loading, longest):
        raise ConfigError(f"loading with pack={loading['pack']}")

    monkeypatch.setattr("dllm.integrations.web.model_library.ModelLibrary", library)
    assert "loading with pack=None" in " ".join(CliRunner().invoke(app, ["app"]).output.split())


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(app, ["app", "--port", port])
    assert found.exit_code == 2
    assert f"--port {port}" in found.output


def test_it_serves_on_loopback_and_ends_at_ctrl_c(tmp_path: Path):
    command = [sys.executable, "-c", "from dllm.cli.main import run; run()", "app", "--port", "0"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    try:
        assert started.stderr is not None
        line = next(line for line in started.stderr if "http" in line)
        home = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert home, line
        with urllib.request.urlopen(home[0], timeout=60) as page:
            html = page.read().decode()
            assert "connect-src 'self'" in page.headers["content-security-policy"]
        assert "fonts.googleapis" not in html and "cdnjs" not in html
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0
    finally:
        started.kill()
