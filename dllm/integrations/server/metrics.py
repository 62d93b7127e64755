"""Counters of a server, for Prometheus."""

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
    """Counters of one server, in a registry of its own. Words and units are those of `dllm.metrics`.

    Attributes:
        content_type: Content type of `text()`.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: ServerEngine) -> None:
        # The global registry of prometheus_client refuses a second server in one process.
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
        for name, meaning, read_value in (
            ("dllm_waiting", "answers that wait for a row", lambda: len(engine.waiting)),
            ("dllm_rows", "rows that are taken", lambda: engine.active_count),
            ("dllm_runs", "strategies that are decoded", lambda: len(engine.runs)),
            ("dllm_steps", "steps of all runs so far", lambda: engine.steps),
        ):
            Gauge(name, meaning, registry=own).set_function(read_value)

    def record_update(self, ticket: Ticket, update: AnswerUpdate, first: bool) -> None:
        """Count an update of an answer.

        Args:
            ticket: The answer's ticket.
            update: The update.
            first: Whether the answer had no text and no end before it.
        """
        seconds = time.perf_counter() - ticket.submitted_at
        if first and (update.text or update.result):
            self.first.observe(seconds)
        if update.error is not None:
            self.answers.labels("error").inc()
        if update.result is not None:
            self._record_result(update.result, seconds)

    def _record_result(self, result: Result, seconds: float) -> None:
        """Count an answer that was whole after so many seconds."""
        self.answers.labels("stop" if result.stopped else "length").inc()
        self.whole.observe(seconds)
        self.prompt.inc(len(result.prompt_ids))
        self.tokens.inc(len(result.output_ids))
        self.forwards.inc(result.nfe)
        self.queries.inc(result.queries)
        self.parallel.inc(result.parallel)
        self.certified.inc(result.certified)
        self.tpf.observe(result.tokens_per_forward)

    def record_abandoned(self, tickets: int) -> None:
        """Count answers whose caller did not wait for their end."""
        self.answers.labels("left").inc(tickets)

    def text(self) -> bytes:
        """Return all counters in Prometheus's text format."""
        return generate_latest(self.registry)
