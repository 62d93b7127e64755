"""The command as a process: asked to end in mid-stream, it finishes the calls that it has and refuses new ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from click.testing import Result
from typer.testing import CliRunner

import dllm
from tests.integrations.server.conftest import QUESTIONS, FailingModel, site
from tests.waiting import until


def run(*args: str, **env: str) -> Result:
    """Invoke `dllm serve` in this process."""
    from dllm.cli.main import app

    return CliRunner(env={"COLUMNS": "200"} | env).invoke(app, ["serve", *args])


def test_weights_are_packed_where_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[dict[str, Any]] = []
    monkeypatch.setattr("dllm.cli.serve.run_server", lambda model, loading, *rest: received.append(loading))
    assert run().exit_code == 0
    assert [loading["pack"] for loading in received] == [None]


@pytest.mark.parametrize(
    ("args", "env", "message"),
    [
        (("--batch-size", "0", "--port", "0"), {}, "rows=0"),
        (("--max-body", "-1"), {}, "body=-1"),
        (("--log-level", "loud"), {}, "choose from critical"),
        (("--host", "192.0.2.1", "--port", "0"), {}, "--host 192.0.2.1 --port 0"),
        (("--recipe", "nothing", "--port", "0"), {}, "unknown recipe 'nothing'"),
        ((), {"DLLM_API_KEY": " "}, "--api-key (or DLLM_API_KEY) is empty"),
    ],
)
def test_misuse_is_explained(args: tuple[str, ...], env: dict[str, str], message: str) -> None:
    found = run(*args, **env)
    assert found.exit_code == 2
    assert message in found.stderr
    assert "Traceback" not in found.output


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dllm.integrations.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    found = run("--port", "0")
    assert (found.exit_code, "pip install 'dllm[serve]'" in found.stderr) == (2, True)


def test_a_port_that_is_taken() -> None:
    from dllm.integrations.server.serving import bind_socket

    with bind_socket("127.0.0.1", 0) as taken:
        taken.listen()
        found = run("--port", str(taken.getsockname()[1]))
    assert found.exit_code == 2
    assert "in use" in found.stderr


def test_asked_to_end_it_finishes_what_it_has(embedded: Any) -> None:
    (alone,) = dllm.decode(embedded, QUESTIONS[1], max_new_tokens=64)
    env = os.environ | {"OMP_NUM_THREADS": "1", "DLLM_API_KEY": "sesame"}
    command = [
        sys.executable,
        "-c",
        "from dllm.cli.main import run; run()",
        "serve",
        "--port",
        "0",
        "--batch-size",
        "2",
    ]
    child = subprocess.Popen([*command, "--log-level", "warning"], stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert child.stderr is not None
        url = next(found[0] for line in child.stderr if (found := re.search("http://[^ ]*/v1", line)))
        client = openai.OpenAI(base_url=url, api_key="sesame", max_retries=8)
        streams: list[Any] = [
            client.chat.completions.create(
                model="embedded", messages=[{"role": "user", "content": QUESTIONS[1]}], max_tokens=64, stream=True
            )
            for _ in range(5)
        ]
        next(iter(streams[0]))
        child.send_signal(signal.SIGTERM)
        for stream in streams:
            pieces = [chunk.choices[0] for chunk in stream]
            text = "".join(piece.delta.content or "" for piece in pieces)
            assert (text, pieces[-1].finish_reason) == (alone.text, "stop")
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()


def test_while_it_ends_it_refuses(embedded: Any) -> None:
    model = FailingModel(embedded)
    with site(model, rows=1) as found, found.http() as http:
        body = {"prompt": QUESTIONS[0], "max_tokens": 30, "policy": "top-k", "k": 1}
        with ThreadPoolExecutor(1) as pool, model.gate.held():
            served = pool.submit(http.post, "/v1/completions", json=body)
            until(lambda: found.engine.active_count == 1)
            found.server.stop()
            refused = http.post("/v1/completions", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert http.get("/health").status_code == 503
        assert served.result().status_code == 200
        until(lambda: not found.thread.is_alive())
