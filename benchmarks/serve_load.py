"""Does the server keep its promises under load, and what does it gain over a loop of single requests?

Question: with many streaming clients at once, some of which vanish, read slowly or send rubbish, is every promised
          answer whole, and that of `dllm.decode`? How many tokens a second is that, against decoding one request at a
          time?
Method:   `dllm serve` in a process of its own, and clients on loopback. First all clients stream answers of one
          strategy (the throughput); then for `seconds` each call is one of four strategies, greedy or sampled with a
          seed, and one in ten calls hangs up in mid-stream, one in ten reads slowly, one in twenty is malformed and one
          in twenty too long; in the end the process gets SIGTERM while all are in mid-stream. Afterwards every distinct
          call is decoded alone, in this process with as many threads: what the answers are compared with, and the
          loop's speed.
Read:     "lost" (a stream that ended before its end) and "wrong" (another text than alone) must be 0, and "refused" are
          calls that came after SIGTERM. "ratio" is tokens per second of the server over those of the loop. Clients and
          server share the machine, so with few cores the ratio is a lower bound.
Run:      python -m benchmarks.serve_load --clients 64 --seconds 120
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import typer

import dllm
from dllm.compose.options import Options
from experiments import common

KINDS: list[dict[str, Any]] = [
    {},
    {"policy": "factor", "f": 1.0, "cache": "dual"},
    {"policy": "top-k", "k": 2},
    {"recipe": "fast_dllm", "tau": 0.7},
]
NEW = 64
PATH = "/v1/chat/completions"
HEADERS = {"content-type": "application/json"}
Task = tuple[int, int, bool]
"""Problem, kind, and whether sampled; the seed is the problem."""


@dataclass
class _CallLog:
    """Outcomes of the calls.

    Attributes:
        counts: Calls by outcome.
        texts: Texts of whole answers, by task.
    """

    counts: Counter[str] = field(default_factory=Counter)
    texts: dict[Task, list[str]] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0

    def note(self, task: Task, text: str, tokens: int, begun: float, first: float) -> None:
        self.counts["whole"] += 1
        self.texts.setdefault(task, []).append(text)
        self.first.append(first - begun)
        self.whole.append(time.perf_counter() - begun)
        self.tokens += tokens


@dataclass
class _Client:
    """One of the clients, which calls until it is told to stop."""

    http: httpx.AsyncClient
    book: _CallLog
    prompts: list[str]
    chance: random.Random
    rude: bool
    going: Callable[[], bool]
    promised: bool = False

    async def call_on(self) -> None:
        while self.going():
            kind = self.chance.randrange(len(KINDS)) if self.rude else 0
            task = (self.chance.randrange(len(self.prompts)), kind, self.rude and self.chance.random() < 0.5)
            fate = self.chance.random() if self.rude else 1.0
            self.promised = False
            try:
                if fate < 0.1:
                    await self.rubbish(fate)
                elif not await self.stream(task, leaves=fate < 0.2, pause=0.2 if fate < 0.3 else 0.0):
                    return
            except httpx.TransportError:
                self.book.counts["lost" if self.promised else "refused"] += 1
                return

    async def rubbish(self, fate: float) -> None:
        content = b'{"messages": [' if fate < 0.05 else b'{"x": "' + b"a" * (2 << 20) + b'"}'
        found = await self.http.post(PATH, content=content, headers=HEADERS)
        self.book.counts[f"rubbish {found.status_code}"] += 1

    async def stream(self, task: Task, leaves: bool, pause: float) -> bool:
        """Whether the server takes calls."""
        begun = time.perf_counter()
        text, first, tokens, ended = "", 0.0, 0, False
        body = _make_body(task, self.prompts) | {"stream": True, "stream_options": {"include_usage": True}}
        async with self.http.stream("POST", PATH, json=body) as found:
            if found.status_code != 200:
                self.book.counts["refused" if found.status_code == 503 else f"status {found.status_code}"] += 1
                return found.status_code != 503
            self.promised = True
            async for line in found.aiter_lines():
                if not line.startswith("data: "):
                    continue
                ended = line == "data: [DONE]"
                chunk = {} if ended else json.loads(line[6:])
                for choice in chunk.get("choices", ()):
                    text += choice["delta"].get("content", "")
                first = first or (time.perf_counter() if text else 0.0)
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
                if leaves and text:
                    self.book.counts["hung up"] += 1
                    return True
                await asyncio.sleep(pause)
        if ended:
            self.book.note(task, text, tokens, begun, first)
        else:
            self.book.counts["lost"] += 1
        return True


def _make_body(task: Task, prompts: list[str]) -> dict[str, Any]:
    """The body of a call."""
    problem, kind, sampled = task
    body = {"messages": [{"role": "user", "content": prompts[problem]}], "max_tokens": NEW, "seed": problem}
    return body | KINDS[kind] | ({"temperature": 0.8} if sampled else {})


def _start_server(model: str, batch_size: int, threads: int) -> tuple[subprocess.Popen[str], str]:
    """The server, and where it is."""
    command = [sys.executable, "-c", "from dllm.cli.main import run; run()", "serve", "--model", model, "--port", "0"]
    more = ["--batch-size", str(batch_size), "--log-level", "error"]
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    child = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True, env=env)
    assert child.stderr is not None
    url = next(found[0] for line in child.stderr if (found := re.search(r"http://[^ /]*", line)))
    return child, url


async def _run_phase(
    url: str, prompts: list[str], clients: int, rude: bool, seconds: float, end: Any = None
) -> _CallLog:
    """All clients calling for a while; in the end `end` is called, and who is in mid-stream goes on to its end."""
    book, stop = _CallLog(), time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)

    def going() -> bool:
        return end is not None or time.perf_counter() < stop

    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        callers = [_Client(http, book, prompts, random.Random(i), rude, going) for i in range(clients)]
        tasks = [asyncio.ensure_future(caller.call_on()) for caller in callers]
        if end is not None:
            await asyncio.sleep(seconds)
            end()
        await asyncio.gather(*tasks)
    return book


async def _read_server_state(url: str) -> dict[str, float]:
    """What the server still holds when all have gone, as it says itself."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        await asyncio.sleep(2)
        text = (await http.get("/metrics")).text
    return {name: float(re.search(rf"^{name} (.*)$", text, re.M)[1]) for name in ("dllm_rows", "dllm_waiting")}  # type: ignore[index]


def _decode_alone(model: Any, tasks: list[Task], prompts: list[str]) -> Iterator[tuple[Task, dllm.Result]]:
    """Each distinct call decoded by itself."""
    for task in tasks:
        problem, kind, sampled = task
        strategy = Options(**KINDS[kind], temperature=0.8 if sampled else None).strategy(model, NEW)
        yield task, dllm.decode(model, prompts[problem], strategy, max_new_tokens=NEW, seed=problem)[0]


def _summarize_phase(name: str, book: _CallLog, texts: dict[Task, str | None], seconds: float) -> dict[str, Any]:
    wrong = sum(text != texts[task] for task, found in book.texts.items() for text in found)
    return {
        "phase": name,
        **dict(sorted(book.counts.items())),
        "lost": book.counts["lost"],
        "wrong": wrong,
        "tokens_per_second": round(book.tokens / seconds, 1),
        "first_text_median": round(statistics.median(book.first), 3) if book.first else None,
        "whole_median": round(statistics.median(book.whole), 3) if book.whole else None,
        "whole_worst": round(max(book.whole), 3) if book.whole else None,
    }


def main(
    clients: Annotated[int, typer.Option(help="At once.")] = 64,
    seconds: Annotated[float, typer.Option(help="Of the mixed load; the throughput takes a quarter of it.")] = 120.0,
    problems: Annotated[int, typer.Option(help="Different prompts.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Rows of the server.")] = 16,
    model: common.ModelOption = "embedded",
    threads: common.ThreadsOption = 1,
) -> None:
    prompts = [problem.prompt for problem in common.draw_problems(problems)]
    child, url = _start_server(model, batch_size, threads)
    clocks, books = [], []
    try:
        for rude, length in ((False, seconds / 4), (True, seconds)):
            begun = time.perf_counter()
            books.append(asyncio.run(_run_phase(url, prompts, clients, rude, length)))
            clocks.append(time.perf_counter() - begun)
        left = asyncio.run(_read_server_state(url))
        begun = time.perf_counter()
        books.append(
            asyncio.run(_run_phase(url, prompts, clients, False, 3.0, lambda: child.send_signal(signal.SIGTERM)))
        )
        clocks.append(time.perf_counter() - begun)
        code = child.wait(60)
    finally:
        child.kill()
    loaded = common.load_model(model, threads)
    tasks = sorted({task for book in books for task in book.texts})
    plain = [task for task in tasks if task[1:] == (0, False)]
    list(_decode_alone(loaded, plain[:2], prompts))
    begun = time.perf_counter()
    texts, tokens = {}, 0
    for task, result in _decode_alone(loaded, plain, prompts):
        texts[task], tokens = result.text, tokens + len(result.output_ids)
    rate = tokens / (time.perf_counter() - begun)
    texts |= {
        task: result.text for task, result in _decode_alone(loaded, [t for t in tasks if t not in texts], prompts)
    }
    for name, book, clock in zip(("throughput", "load", "SIGTERM"), books, clocks, strict=True):
        typer.echo(json.dumps(_summarize_phase(name, book, texts, clock)))
    ratio = books[0].tokens / clocks[0] / rate
    rows = {"loop_tokens_per_second": round(rate, 1), "ratio": round(ratio, 2), "exit_code": code, **left}
    typer.echo(json.dumps({"phase": "all", "clients": clients, "distinct_calls": len(tasks), **rows}))


if __name__ == "__main__":
    typer.run(main)
