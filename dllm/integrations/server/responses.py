"""The response to one call, whole or as a stream; when the client disconnects, the rows are given back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dllm.engine.results import Result
from dllm.errors import DllmError
from dllm.integrations.server.answer_buffer import ClientDisconnectedError, Mailbox, run_while_connected
from dllm.integrations.server.engine import DrainingError, QueueFullError, ServerEngine
from dllm.integrations.server.error_responses import ApiError
from dllm.integrations.server.metrics import ServerMetrics
from dllm.integrations.server.pending_answers import AnswerUpdate
from dllm.integrations.server.reply_format import DONE, ReplyBuilder, encode_event

RETRY = {"Retry-After": "1"}
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class CallAnswer:
    """The answers of one call, whose tickets are submitted to the engine when it is made.

    Attributes:
        results: Results so far, by the place of the answer.
        begun: Answers of which text or the end has come.
        failed: Answers that ended with an error.

    Raises:
        ApiError: The engine takes no more tickets.
    """

    def __init__(self, engine: ServerEngine, metrics: ServerMetrics, reply: ReplyBuilder) -> None:
        self.engine, self.metrics, self.reply = engine, metrics, reply
        self.mailbox = Mailbox()
        self.tickets = reply.call.make_tickets(self.mailbox)
        self.results: dict[int, Result] = {}
        self.begun: set[int] = set()
        self.failed: set[int] = set()
        self.submitted_at = time.perf_counter()
        try:
            engine.submit(self.tickets)
        except QueueFullError:
            message = "too many calls wait already: try again later"
            raise ApiError(429, message, code="queue_full", headers=RETRY) from None
        except DrainingError:
            raise ApiError(503, "the server is shutting down: it finishes what it has", code="draining") from None

    @property
    def seconds(self) -> float:
        """Seconds since the call was submitted."""
        return time.perf_counter() - self.submitted_at

    async def updates(self) -> AsyncIterator[tuple[int, AnswerUpdate]]:
        """Yield all updates with the place of their answer, until every answer has its result.

        Raises:
            ApiError: An answer failed.
        """
        while len(self.results) < len(self.tickets):
            for index, update in await self.mailbox.fetch():
                self.metrics.record_update(self.tickets[index], update, index not in self.begun)
                self.begun |= {index} if update.text or update.last else set()
                if update.error is not None:
                    self.failed.add(index)
                    raise _convert_to_api_error(update.error)
                if update.result is not None:
                    self.results[index] = update.result
                yield index, update

    def abandon_unfinished(self) -> None:
        """Give back the rows of answers that are not finished; none are after a regular end."""
        unfinished = [t for i, t in enumerate(self.tickets) if i not in self.results and i not in self.failed]
        if unfinished:
            self.engine.abandon(unfinished)
            self.metrics.record_abandoned(len(unfinished))

    async def respond_whole(self, receive: Receive) -> Response:
        """Wait for all answers and return them as one response.

        Raises:
            ApiError: An answer failed.
        """

        async def wait_for_all() -> None:
            async for _ in self.updates():
                pass

        try:
            await run_while_connected(receive, wait_for_all())
        except ClientDisconnectedError:
            return Response(status_code=499)  # for the access log; there is no client to read it
        finally:
            self.abandon_unfinished()
        return JSONResponse(self.reply.build_whole(self.results, self.seconds))


class EventStreamResponse(Response):
    """Answers as server-sent events.

    Args:
        answer: The answers.
        usage: Whether the caller asked for a last chunk with the usage.
    """

    def __init__(self, answer: CallAnswer, usage: bool) -> None:
        # `Response.__init__` would render a body and its length, which a stream has not.
        self.answer, self.usage = answer, usage
        self.status_code, self.background = 200, None
        self.raw_headers = STREAM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await run_while_connected(receive, self._send_events(send))
        except ClientDisconnectedError:
            pass
        finally:
            self.answer.abandon_unfinished()

    async def _send_events(self, send: Send) -> None:
        """Send the head of the response, every event as it comes, and the end."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self._encode_events():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _encode_events(self) -> AsyncIterator[bytes]:
        """Yield the events of the stream."""
        reply = self.answer.reply
        if reply.form.chat:
            for index in range(len(self.answer.tickets)):
                yield encode_event(reply.build_opening(index))
        try:
            async for index, update in self.answer.updates():
                if update.text or update.result is not None:
                    yield encode_event(self._add_null_usage(reply.build_chunk(index, update.text, update.result)))
                if update.draft is not None and update.result is None:
                    yield encode_event(reply.build_draft(index, update.draft), "draft")
        except ApiError as error:
            # The status 200 is sent already, so the error is an event and the stream ends without [DONE].
            yield encode_event(error.body, "error")
            return
        if self.usage:
            yield encode_event(reply.build_totals(self.answer.results, self.answer.seconds))
        yield DONE

    def _add_null_usage(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return a chunk as the API has it where the usage is asked for: null in all chunks but the last."""
        return chunk | {"usage": None} if self.usage else chunk


def _convert_to_api_error(error: Exception) -> ApiError:
    """Return the error that a caller gets for an answer that failed while it was decoded."""
    if isinstance(error, DrainingError):
        return ApiError(503, "the server was stopped before this answer was whole", code="stopped")
    if isinstance(error, DllmError):
        return ApiError.of(error, 500)
    return ApiError(500, f"decoding failed ({type(error).__name__}); the server's log says how")
