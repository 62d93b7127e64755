"""Calls that a server refuses: unreadable bodies, calls beyond its limits, callers without a key."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import openai
import pytest

from dllm.errors import ConfigError
from dllm.integrations.server.api import ServerSettings
from dllm.integrations.server.engine import ServerEngine
from dllm.integrations.server.limits import ServerLimits
from dllm.models import AutoregressiveModel
from tests.integrations.server.conftest import QUESTIONS, Site, site
from tests.waiting import until

JSON = {"content-type": "application/json"}
PATH = "/v1/completions"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON: EOF"),
        (b"{", "not JSON: EOF"),
        (b'{"prompt": NaN}', "prompt: Input should be a valid string"),
        (b"[" * 5000, "not JSON: recursion"),
        (b'{"prompt": "\xff\xfe"}', "not JSON: invalid unicode"),
        (b'{"prompt": "\\ud800"}', "not JSON: .*surrogate|not JSON: .*escape"),
        (b'"text"', "the body: Input should be an object"),
        (b"{}", "prompt: Field required"),
        (b'{"prompt": 7}', "prompt: "),
        (b'{"prompt": []}', "prompt is empty"),
        (b'{"prompt": [[]]}', "prompt is empty"),
        (b'{"prompt": [[1], "a"]}', "prompt"),
        (b'{"prompt": [99999]}', "prompt id 99999 is outside the vocabulary of 478"),
        (b'{"prompt": [-1]}', "prompt id -1 is outside"),
        (b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", "not JSON: number out of range"),
        (b'{"prompt": "a", "suffix": "b"}', "suffix='b' is not supported"),
    ],
)
def test_malformed_bodies(here: Site, body: bytes, message: str) -> None:
    with here.http() as http:
        found = http.post(PATH, content=body, headers=JSON)
    assert found.status_code == 400
    error = found.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert re.search(message, error["message"]), error["message"]


def test_other_paths_and_ways(here: Site) -> None:
    with here.http() as http:
        assert http.get("/v1/embeddings").json()["error"]["message"] == "GET /v1/embeddings: Not Found"
        assert http.get(PATH).status_code == 405
        found = http.post(PATH, content=b"prompt=a", headers={"content-type": "application/x-www-form-urlencoded"})
        assert (found.status_code, found.json()["error"]["type"]) == (415, "invalid_request_error")
        assert "application/json" in found.json()["error"]["message"]


def test_a_page_of_the_web_cannot_call_a_local_server(embedded: Any) -> None:
    with site(embedded, hosts=("localhost", "127.0.0.1", "[::1]")) as found, found.http() as http:
        assert http.get("/v1/models", headers={"host": "evil.example:8000"}).status_code == 421
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
            assert http.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.fixture(scope="module")
def tight(embedded: Any) -> Iterator[Site]:
    """Run a server that accepts only small bodies that arrive soon, with a key."""
    with site(embedded, body=2000, patience=0.3, columns=100, key="sesame") as found:
        yield found


def test_long_bodies(tight: Site) -> None:
    with tight.http(headers={"Authorization": "Bearer sesame"} | JSON) as http:
        found = http.post(PATH, content=b'{"prompt": "' + b"a" * 3000 + b'"}')
        assert (found.status_code, found.json()["error"]["code"]) == (413, "request_too_large")
        parts = (b"a" * 1000 for _ in range(50))
        assert http.post(PATH, content=parts).status_code == 413, "without a content-length too"


def test_late_bodies(tight: Site) -> None:
    where = httpx.URL(tight.url)
    with socket.create_connection((where.host, where.port)) as line:
        head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sesame\r\n"
        line.sendall((head + "content-type: application/json\r\ncontent-length: 50\r\n\r\n{").encode())
        line.settimeout(10)
        assert b" 408 " in line.recv(1000).partition(b"\r\n")[0]


def test_long_prompts(tight: Site) -> None:
    client = tight.client(api_key="sesame")
    with pytest.raises(openai.BadRequestError, match="201, but at most 100 fit") as caught:
        client.completions.create(model="tiny", prompt=[5] * 200, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    assert client.completions.create(model="tiny", prompt=[5] * 90, max_tokens=10).usage


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer sesam", "Basic sesame", "Bearer sésame"])
def test_keys(tight: Site, given: str) -> None:
    headers = {"Authorization": given.encode()} if given else {}
    with tight.http(headers=headers) as http:  # type: ignore[arg-type]
        for path in ("/v1/models", "/metrics", "/nowhere"):
            found = http.get(path)
            assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")
            assert found.json()["error"]["code"] == "invalid_api_key"
        assert http.post(PATH, content=b"{", headers=JSON).status_code == 401, "before the body is read"
        assert http.get("/health").json() == {"status": "ok"}


def test_a_key_opens(tight: Site) -> None:
    with pytest.raises(openai.AuthenticationError, match="wrong API key"):
        tight.client().models.list()
    assert list(tight.client(api_key="sesame").models.list())


def test_too_many_at_once(small: Site) -> None:
    """Send eight calls to two rows and three places in the queue: three get status 429, the others are served."""
    engine = small.engine

    def call() -> tuple[int, str | None]:
        found = http.post(PATH, json={"prompt": QUESTIONS[0], "max_tokens": 64})
        return found.status_code, found.headers.get("retry-after")

    with small.http() as http:
        with ThreadPoolExecutor(5) as pool, engine.model.gate.held():
            served = [pool.submit(call) for _ in range(5)]
            until(lambda: engine.active_count + len(engine.waiting) == 5)
            assert [call() for _ in range(3)] == [(429, "1")] * 3
        assert [found.result() for found in served] == [(200, None)] * 5
        found = http.post(PATH, json={"prompt": QUESTIONS[0], "n": 6})
        assert (found.status_code, found.json()["error"]["code"]) == (429, "queue_full")
        assert found.json()["error"]["type"] == "rate_limit_error"
    small.settle()


def test_settings_that_cannot_work(embedded: Any) -> None:
    with pytest.raises(ConfigError, match="Limits\\(body=0\\): must be a positive number"):
        ServerLimits(body=0)
    with pytest.raises(ConfigError, match="Engine\\(rows=0\\)"):
        ServerEngine(embedded, rows=0)
    with pytest.raises(ConfigError, match="gpt2 is a plain causal language model"):
        ServerEngine(AutoregressiveModel(Mock(config=SimpleNamespace(vocab_size=4)), name="gpt2"))
    assert ServerSettings("a").limits.new_tokens == 128
