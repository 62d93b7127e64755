"""One call from its tickets to its last byte, whole or as a stream; who hangs up gives the rows back."""

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
    """The answer of one call: tickets at the engine from now on, until it is told or left."""

    def __init__(self, engine: ServerEngine, metrics: ServerMetrics, reply: ReplyBuilder) -> None:
        self.engine, self.metrics, self.reply = engine, metrics, reply
        self.mailbox = Mailbox()
        self.tickets = reply.call.tickets(self.mailbox)
        self.results: dict[int, Result] = {}
        self.begun: set[int] = set()
        self.failed: set[int] = set()
        self.came = time.perf_counter()
        try:
            engine.submit(self.tickets)
        except QueueFullError:
            said = "too many calls wait already: try again later"
            raise ApiError(429, said, code="queue_full", headers=RETRY) from None
        except DrainingError:
            raise ApiError(503, "the server is shutting down: it finishes what it has", code="draining") from None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.came

    async def news(self) -> AsyncIterator[tuple[int, AnswerUpdate]]:
        """All news, to the last. Raises ApiError where an answer fails."""
        while len(self.results) < len(self.tickets):
            for index, news in await self.mailbox.fetch():
                self.metrics.note(self.tickets[index], news, index not in self.begun)
                self.begun |= {index} if news.text or news.last else set()
                if news.error is not None:
                    self.failed.add(index)
                    raise _convert_to_api_error(news.error)
                if news.result is not None:
                    self.results[index] = news.result
                yield index, news

    def leave(self) -> None:
        """Give back the rows of what is not finished."""
        open_ones = [t for i, t in enumerate(self.tickets) if i not in self.results and i not in self.failed]
        if open_ones:
            self.engine.leave(open_ones)
            self.metrics.left(len(open_ones))

    async def whole(self, receive: Receive) -> Response:
        async def finish() -> None:
            async for _ in self.news():
                pass

        try:
            await run_while_connected(receive, finish())
        except ClientDisconnectedError:
            return Response(status_code=499)
        finally:
            self.leave()
        return JSONResponse(self.reply.whole(self.results, self.seconds))


class EventStreamResponse(Response):
    """An answer as server-sent events."""

    def __init__(self, answer: CallAnswer, usage: bool) -> None:
        self.answer, self.usage = answer, usage
        self.status_code, self.background = 200, None
        self.raw_headers = STREAM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await run_while_connected(receive, self.pour(send))
        except ClientDisconnectedError:
            pass
        finally:
            self.answer.leave()

    async def pour(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self.events():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def events(self) -> AsyncIterator[bytes]:
        reply = self.answer.reply
        if reply.form.chat:
            for index in range(len(self.answer.tickets)):
                yield encode_event(reply.opening(index))
        try:
            async for index, news in self.answer.news():
                if news.text or news.result is not None:
                    yield encode_event(self.nulled(reply.chunk(index, news.text, news.result)))
                if news.draft is not None and news.result is None:
                    yield encode_event(reply.draft(index, news.draft), "draft")
        except ApiError as error:
            yield encode_event(error.body, "error")
            return
        if self.usage:
            yield encode_event(reply.totals(self.answer.results, self.answer.seconds))
        yield DONE

    def nulled(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Who asks for the usage finds it null in all chunks but one."""
        return chunk | {"usage": None} if self.usage else chunk


def _convert_to_api_error(error: Exception) -> ApiError:
    """What a caller is told of an answer that failed on the way."""
    if isinstance(error, DrainingError):
        return ApiError(503, "the server was stopped before this answer was whole", code="stopped")
    if isinstance(error, DllmError):
        return ApiError.of(error, 500)
    return ApiError(500, f"decoding failed ({type(error).__name__}); the server's log says how")
