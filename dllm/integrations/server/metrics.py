"""What a server counts, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dllm.engine.results import Result
from dllm.integrations.server.engine import ServerEngine
from dllm.integrations.server.pending_answers import AnswerUpdate, Ticket

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TPF = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class ServerMetrics:
    """Counters of one server, in a registry of its own. Words and units as in `dllm.metrics`."""

    kind = CONTENT_TYPE_LATEST

    def __init__(self, engine: ServerEngine) -> None:
        own = self.registry = CollectorRegistry()
        self.calls = Counter("dllm_calls", "calls answered", ["path", "status"], registry=own)
        self.answers = Counter("dllm_answers", "answers by how they ended", ["end"], registry=own)
        self.prompt = Counter("dllm_prompt_tokens", "tokens of prompts, once per answer", registry=own)
        self.tokens = Counter("dllm_generated_tokens", "generated tokens", registry=own)
        self.forwards = Counter("dllm_forwards", "forwards of all rows (NFE)", registry=own)
        self.queries = Counter("dllm_query_tokens", "columns run through the model", registry=own)
        self.parallel = Counter("dllm_parallel_tokens", "tokens committed two or more at once", registry=own)
        self.certified = Counter("dllm_certified_tokens", "those of them that are certified", registry=own)
        self.first = Histogram("dllm_first_text_seconds", "until the first final text", buckets=SECONDS, registry=own)
        self.whole = Histogram("dllm_answer_seconds", "until an answer was whole", buckets=SECONDS, registry=own)
        self.tpf = Histogram("dllm_tokens_per_forward", "TPF of an answer", buckets=TPF, registry=own)
        for name, said, read in (
            ("dllm_waiting", "answers that wait for a row", lambda: len(engine.waiting)),
            ("dllm_rows", "rows that are taken", lambda: engine.seated),
            ("dllm_runs", "strategies that are decoded", lambda: len(engine.runs)),
            ("dllm_steps", "steps of all runs so far", lambda: engine.steps),
        ):
            Gauge(name, said, registry=own).set_function(read)

    def note(self, ticket: Ticket, news: AnswerUpdate, first: bool) -> None:
        """What an answer's news add; `first`: none came before."""
        waited = time.perf_counter() - ticket.came
        if first and (news.text or news.result):
            self.first.observe(waited)
        if news.error is not None:
            self.answers.labels("error").inc()
        if news.result is not None:
            self.count(news.result, waited)

    def count(self, result: Result, waited: float) -> None:
        self.answers.labels("stop" if result.stopped else "length").inc()
        self.whole.observe(waited)
        self.prompt.inc(len(result.prompt_ids))
        self.tokens.inc(len(result.output_ids))
        self.forwards.inc(result.nfe)
        self.queries.inc(result.queries)
        self.parallel.inc(result.parallel)
        self.certified.inc(result.certified)
        self.tpf.observe(result.tokens_per_forward)

    def left(self, tickets: int) -> None:
        """Answers that nobody waited for to the end."""
        self.answers.labels("left").inc(tickets)

    def text(self) -> bytes:
        return generate_latest(self.registry)
