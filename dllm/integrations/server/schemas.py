"""The bodies of calls: the fields of OpenAI's API, and every decoding option under its own name."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dllm.compose.misplaced_fields import explain_misplaced_field
from dllm.compose.options import Options
from dllm.integrations.server.error_responses import ApiError
from dllm.registry import suggest_name

STANDARD = ("temperature", "top_p", "top_k", "stop", "stop_ids")
"""Decoding options that are fields of the API too."""

ALIASES = {
    "threshold": "tau",
    "factor": "f",
    "block_length": "block_size",
    "small_block_size": "sub_block_size",
    "sub_block_length": "sub_block_size",
    "stop_token_ids": "stop_ids",
}
"""Names that other systems have for our options."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Fields of the API that are not supported, with the values that are accepted because they change nothing."""

LABELS = ("user", "safety_identifier", "prompt_cache_key")
"""Fields that callers label their calls with; no answer depends on them."""

Seed = Annotated[int, Field(gt=-(2**62), lt=2**62)]


class _StrictModel(BaseModel):
    """An object without unknown fields, whose values are not converted from other types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class _StreamOptions(_StrictModel):
    """Options of a stream.

    Attributes:
        include_usage: Whether one more chunk comes at the end, with the figures of the whole call.
        include_obfuscation: Whether chunks are padded; that is not supported.
    """

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class _MessagePart(_StrictModel):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class _ChatMessage(_StrictModel):
    """A message of a conversation. The role `developer` is the newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_MessagePart]
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)


class _ResponseFormat(_StrictModel):
    """The form of an answer: `text`, or `json_schema` with a schema that the answer satisfies."""

    type: Literal["text", "json_schema"]
    json_schema: dict[str, Any] | None = None


class CallBody(_StrictModel):
    """The fields that both kinds of call have.

    Attributes:
        seed: Seed of the first answer; answer i draws from seed + i. None: a random one, which the reply contains.
        drafts: Whether a stream also has events of type `draft`, with the provisional text behind the final text.
    """

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stop_ids: tuple[int, ...] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    response_format: _ResponseFormat | None = None
    drafts: bool = False


def _make_optional_fields(names: tuple[str, ...], kind: Any) -> dict[str, Any]:
    """Return definitions of fields with one type that are None by default, as `create_model` takes them."""
    return {name: (kind, None) for name in names}


# The fields follow `Options`, so that a new decoding option can be used in calls at once.
OPTIONS = {f.name: get_type_hints(Options)[f.name] for f in fields(Options) if f.name not in STANDARD}
EXTRA: dict[str, Any] = {name: (hint | None, None) for name, hint in OPTIONS.items()}
EXTRA |= {name: (OPTIONS.get(own, tuple[int, ...]) | None, None) for name, own in ALIASES.items()}
EXTRA |= (
    _make_optional_fields(tuple(NEUTRAL), Any)
    | _make_optional_fields(LABELS, str | None)
    | {"strategy": (str | None, None)}
)
Base = create_model("Base", __base__=CallBody, **EXTRA)


class CompletionBody(Base):  # type: ignore[valid-type,misc]
    """The body of `/v1/completions`: one prompt or several, each as text or token ids."""

    prompt: str | list[str] | list[int] | list[list[int]]


class ChatCompletionBody(Base):  # type: ignore[valid-type,misc]
    """The body of `/v1/chat/completions`: a conversation to answer."""

    messages: list[_ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)


Body = TypeVar("Body", bound=CallBody)


def parse_body(kind: type[Body], raw: bytes) -> Body:
    """Parse the body of a call.

    Raises:
        ApiError: The body is malformed, or a field is unknown, of the wrong type or not supported.
    """
    try:
        body = kind.model_validate_json(raw)
    except ValidationError as error:
        raise _explain_validation_error(kind, error) from None
    values = dict(body)
    for name, neutral in NEUTRAL.items():
        value = values[name]
        if value not in neutral:
            shown = " or ".join(repr(x) for x in neutral if x is not None) or "null"
            raise ApiError(
                400, f"{name}={value!r:.80} is not supported: leave it out (or {shown})", name, "unsupported"
            )
    return body


def _explain_validation_error(kind: type[CallBody], error: ValidationError) -> ApiError:
    """Return the error for the first problem of a body."""
    problems = error.errors(include_url=False, include_context=False)
    # A misspelt field often causes other problems, such as a missing one; its name is the most useful to point out.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    # Pydantic puts the tried members of a union into the place, which are no names that the caller wrote.
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("list[", "str", "function-")))
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        if (message := explain_misplaced_field(place, first["input"], {}, prefix="")) is not None:
            return ApiError(400, message, place)
        names = sorted(set(kind.model_fields) - set(NEUTRAL))
        return ApiError(
            400, f"unknown field {place!r}{suggest_name(place, names)}: choose from {', '.join(names)}", place
        )
    got = "" if first["type"] == "missing" else f" (got {first['input']!r:.80})"
    return ApiError(400, f"{place or 'the body'}: {first['msg']}{got}", place or None)
