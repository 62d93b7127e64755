"""Clients that disconnect and readers that are slow: rows are given back, and other callers are not affected."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from dllm.integrations.server.answer_buffer import Mailbox
from dllm.integrations.server.pending_answers import AnswerUpdate, Ticket
from dllm.requests import Request
from tests.integrations.server.conftest import QUESTIONS, Site
from tests.waiting import until

PATH = "/v1/completions"
LONG = {"prompt": QUESTIONS[1], "max_tokens": 400, "policy": "top-k", "k": 1, "stop_ids": [477]}
"""A call of four hundred forwards, since no end token ends it."""


def count_abandoned(site: Site) -> float:
    """Return how many answers were abandoned by their caller so far."""
    with site.http() as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith('dllm_answers_total{end="left"}'))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_gives_back_the_row(small: Site, stream: bool) -> None:
    where, engine = httpx.URL(small.url), small.engine
    body = json.dumps(LONG | {"stream": stream}).encode()
    with engine.model.gate.held():
        with socket.create_connection((where.host, where.port), timeout=60) as line:
            head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            line.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: engine.active_count == 1)
            if stream:
                assert line.recv(1000).startswith(b"HTTP/1.1 200")
        (ticket,) = next(iter(engine.runs.values())).active.values()
        until(lambda: ticket.abandoned)
        before = engine.steps
    small.settle()
    assert engine.steps - before <= 1, "the row is free at the next step"


def test_a_client_that_waits_may_disconnect_too(small: Site) -> None:
    engine, before = small.engine, count_abandoned(small)
    with small.http() as http, engine.model.gate.held():
        with http.stream("POST", PATH, json=LONG | {"n": 2, "stream": True}):
            until(lambda: engine.active_count == 2)
            with http.stream("POST", PATH, json=LONG | {"n": 3, "stream": True}):
                until(lambda: len(engine.waiting) == 3)
            until(lambda: not engine.waiting)
            assert count_abandoned(small) - before == 3
            assert engine.active_count == 2
        until(lambda: count_abandoned(small) - before == 5)
    small.settle()


def test_other_clients_do_not_notice(small: Site) -> None:
    """Disconnect one of two clients that share a batch, in the middle of its answer."""
    engine, body = small.engine, LONG | {"max_tokens": 64}

    def ask() -> str:
        return str(http.post(PATH, json=body | {"prompt": QUESTIONS[0]}).json()["choices"][0]["text"])

    with small.http() as http, ThreadPoolExecutor(1) as pool:
        alone = ask()
        with engine.model.gate.held():
            with http.stream("POST", PATH, json=body | {"stream": True}):
                until(lambda: engine.active_count == 1)
                answer = pool.submit(ask)
                until(lambda: len(engine.waiting) == 1)
                until(lambda: engine.model.gate.allow(1) or engine.active_count == 2)
                (ticket, _) = next(iter(engine.runs.values())).active.values()
            until(lambda: ticket.abandoned)
        assert answer.result() == alone
    small.settle()


def test_a_slow_reader_gets_everything(here: Site) -> None:
    body = {"prompt": QUESTIONS[1], "max_tokens": 48, "n": 4, "temperature": 1.0, "seed": 3}
    with here.http() as http:
        whole = [choice["text"] for choice in http.post(PATH, json=body).json()["choices"]]
        with http.stream("POST", PATH, json=body | {"stream": True, "drafts": True}) as found:
            here.settle()
            time.sleep(0.1)
            lines = [line[6:] for line in found.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    texts = [""] * 4
    for line in lines:
        for choice in json.loads(line)["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == whole


async def fetch_twice() -> tuple[list[tuple[int, AnswerUpdate]], list[tuple[int, AnswerUpdate]]]:
    box = Mailbox()
    for index, text in ((1, "a"), (0, "x"), (1, "b")):
        box.put(index, AnswerUpdate(text, draft=text.upper()))
    first = await box.fetch()
    box.make_callback(1)(AnswerUpdate("c", error=ValueError("bad")))
    return first, await box.fetch()


def test_what_was_not_fetched_is_one_piece() -> None:
    import asyncio

    first, second = asyncio.run(fetch_twice())
    assert first == [(0, AnswerUpdate("x", "X")), (1, AnswerUpdate("ab", "B"))]
    assert [(i, update.text, str(update.error)) for i, update in second] == [(1, "c", "bad")]


def test_text_that_was_delivered_is_not_delivered_again() -> None:
    texts: list[str] = []
    ticket = Ticket(Request((1,)), None, 128, lambda update: texts.append(update.text))  # type: ignore[arg-type]
    ticket.deliver(AnswerUpdate("one "))
    ticket.deliver(AnswerUpdate("two "))
    ticket.restart()
    ticket.deliver(AnswerUpdate("one t"))
    ticket.deliver(AnswerUpdate("wo three"))
    assert texts == ["one ", "two ", "three"]
    ticket.restart()
    with pytest.raises(ArithmeticError, match="differently"):
        ticket.deliver(AnswerUpdate("one two four"))
