"""What goes wrong is answered in the form that clients of the API know: a status and one `error` object."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from dllm.errors import DllmError

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


class ApiError(Exception):
    """An answer that is an error.

    status   of HTTP
    param    the field at fault
    code     a word for programs
    headers  of the response
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
        """What the library complains of, with the command line's `--block-size` as the field `block_size`."""
        said = OPTION.sub(lambda found: found[1].replace("-", "_"), str(error))
        return cls(status, " ".join(said.split()))

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, headers=self.headers)


def install_error_handlers(app: FastAPI) -> None:
    """Make the app answer all errors in this form."""

    async def own(request: Request, error: Any) -> JSONResponse:
        return error.response()

    async def routing(request: Request, error: Any) -> JSONResponse:
        what = f"{request.method} {request.url.path}"
        return ApiError(error.status_code, f"{what}: {error.detail}", headers=error.headers).response()

    async def bug(request: Request, error: Exception) -> JSONResponse:  # which is raised on, and so logged
        return ApiError(500, "the server failed; its log says how").response()

    app.add_exception_handler(ApiError, own)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(Exception, bug)
