"""What a stream of text is made of."""

from __future__ import annotations

from dataclasses import dataclass

from dllm.engine.results import Result


@dataclass(frozen=True)
class Delta:
    """What became final of one request.

    request  its place among the requests
    text     text that is final now and was not before; all of them together are `Result.text`. "" without a tokenizer
    ids      tokens likewise; all of them together are `Result.output_ids`. What they say may come later than they,
             and what a stop string cuts off never does
    done     this is the request's last delta
    result   the whole result, in the last delta
    draft    if asked for: the text behind all that is final, as it stands now, with "░" for each pending token
    pending  likewise the tokens behind `ids`, None for each that is pending
    """

    request: int
    text: str
    ids: tuple[int, ...] = ()
    done: bool = False
    result: Result | None = None
    draft: str | None = None
    pending: tuple[int | None, ...] | None = None

    @classmethod
    def last(cls, place: int, result: Result, text: str, ids: int, drafts: bool) -> Delta:
        """What is left of a finished request, of which a text and so many tokens were told."""
        nothing = ("", ()) if drafts else (None, None)
        return cls(place, (result.text or "")[len(text) :], result.output_ids[ids:], True, result, *nothing)
