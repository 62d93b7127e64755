"""From what a person gives to token ids: text, chat messages, text with holes, ids or requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dllm.errors import RequestError
from dllm.requests import Request
from dllm.types import CausalModel

HOLE = re.compile("_{2,}")


@dataclass(frozen=True)
class Infill:
    """A text with holes to be filled: every run of two or more underscores is one.

    Attributes:
        text: The text. What is given stays as it is, blanks next to a hole included: in "The ____ sat" the hole lies
            between two blanks, in "The____ sat" the model decides how the word begins.
        hole: Tokens of every hole. None: as many as it has underscores.
        max_new_tokens: Most tokens to write behind the text besides.

    Raises:
        RequestError: There is no hole, or holes have no token.
    """

    text: str
    hole: int | None = None
    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        if not HOLE.search(self.text):
            raise RequestError(f"{self.text[:60]!r} has no hole to fill: a hole is two or more underscores")
        if self.hole is not None and self.hole < 1:
            raise RequestError(f"hole={self.hole}: a hole has at least one token")


Message = Mapping[str, str]
Prompt = str | Sequence[int] | Sequence[Message] | Infill | Request


def encode_prompt(model: Any, prompt: str | Sequence[int] | Sequence[Message], chat: bool = True) -> tuple[int, ...]:
    """Turn a prompt into token ids.

    Args:
        model: The model whose tokenizer is used.
        prompt: A text, which becomes the user's message of a chat if the tokenizer has a chat template; messages, which
            need a template; or ids, which are taken as they are.
        chat: Whether to use the chat template for a text.

    Raises:
        RequestError: There is no tokenizer, no template for messages, or a message lacks a role or content.
    """
    if not isinstance(prompt, str) and all(isinstance(i, int) for i in prompt):
        return tuple(prompt)  # type: ignore[arg-type]
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise RequestError("this checkpoint has no tokenizer: give the prompt as token ids (prompt_ids)")
    templated = bool(getattr(tokenizer, "chat_template", None))
    if isinstance(prompt, str) and not (chat and templated):
        return tuple(tokenizer.encode(prompt))
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]  # type: ignore[arg-type]
    if not templated:
        raise RequestError("this checkpoint has no chat template: give a plain prompt instead of messages")
    if bad := [m for m in messages if not {"role", "content"} <= set(m)]:
        raise RequestError(f"message {bad[0]}: every message needs a role and a content")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return tuple(ids)


def make_infill_request(model: Any, infill: Infill) -> Request:
    """Make the request that fills a text's holes.

    The text is taken as it is, without a chat template. What lies between holes is turned into tokens piece by piece;
    special tokens that the tokenizer puts around a text come before the first and behind the last piece only.

    Raises:
        RequestError: There is no tokenizer, or nothing comes before the first hole.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise RequestError("this checkpoint has no tokenizer: give a Request with token ids and holes")
    before, behind = _find_surrounding_tokens(tokenizer)
    blank = 0 if isinstance(model, CausalModel) else model.mask_id or 0
    ids, end = list(before), 0
    holes: list[int] = []
    for found in HOLE.finditer(infill.text):
        ids += tokenizer.encode(infill.text[end : found.start()], add_special_tokens=False)
        size = infill.hole or found.end() - found.start()
        holes += range(len(ids), len(ids) + size)
        ids += [blank] * size
        end = found.end()
    ids += tokenizer.encode(infill.text[end:], add_special_tokens=False)
    if 0 in holes:
        raise RequestError(
            f"{infill.text[:60]!r} begins with a hole, and nothing comes before it: write something there"
        )
    return Request((*ids, *behind), infill.max_new_tokens, holes=tuple(holes))


def _find_surrounding_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Find the special tokens that a tokenizer puts before and behind a text: those around the ids of a sample."""
    plain, whole = (list(tokenizer.encode("a", add_special_tokens=special)) for special in (False, True))
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def make_requests(
    model: Any, prompts: Prompt | Sequence[Prompt], max_new_tokens: int = 128, seed: int = 0
) -> list[Request]:
    """Make requests of one prompt or a list of them, each with a seed: its own, or the job's plus its place.

    Args:
        model: The model whose tokenizer is used.
        prompts: One prompt, or several. A list of ids or of messages is one prompt.
        max_new_tokens: Most tokens to write after each, where the prompt is no request of its own.
        seed: Seed of the job.

    Raises:
        RequestError: A prompt cannot be turned into a request.
    """
    alone = isinstance(prompts, str | Infill | Request) or (prompts and isinstance(prompts[0], int | Mapping))
    given: Any = [prompts] if alone else prompts
    found = []
    for i, prompt in enumerate(given):
        if isinstance(prompt, Infill):
            request = make_infill_request(model, prompt)
        else:
            request = prompt if isinstance(prompt, Request) else Request(encode_prompt(model, prompt), max_new_tokens)
        found.append(request if request.seed is not None else replace(request, seed=seed + i))
    return found
