"""Errors as clients of the API know them: a status and one `error` object."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dllm.errors import DllmError

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
"""Error types of the API by status; the others follow from the status's hundreds."""
OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
"""An option of the command line within a message."""


class ApiError(Exception):
    """An error that a call is answered with.

    Args:
        status: HTTP status.
        message: The reason, for people.
        param: The field at fault.
        code: The reason as a word for programs.
        headers: Headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    @classmethod
    def of(cls, error: DllmError, status: int = 400) -> ApiError:
        """Convert an error of the library; the command line's `--block-size` becomes the field `block_size`."""
        message = OPTION.sub(lambda option: option[1].replace("-", "_"), str(error))
        return cls(status, " ".join(message.split()))

    @property
    def body(self) -> dict[str, Any]:
        """The error object of the response."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the response."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def install_error_handlers(app: FastAPI) -> None:
    """Make an application answer all errors in the API's form."""

    async def answer_api_error(request: Request, error: Any) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def answer_http_error(request: Request, error: Any) -> Response:
        """Answer an unknown path or method, which the router refuses."""
        call = f"{request.method} {request.url.path}"
        return ApiError(error.status_code, f"{call}: {error.detail}", headers=error.headers).response()

    async def answer_bug(request: Request, error: Exception) -> Response:
        # Starlette sends this response and raises the error again, so that the server logs it with its traceback.
        return ApiError(500, "the server failed; its log says how").response()

    app.add_exception_handler(ApiError, answer_api_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(Exception, answer_bug)
