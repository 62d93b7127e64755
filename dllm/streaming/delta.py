"""The elements of a stream of text."""

from __future__ import annotations

from dataclasses import dataclass

from dllm.engine.results import Result


@dataclass(frozen=True)
class Delta:
    """The part of one request that became final in one step.

    Attributes:
        request: Place of the request among all requests.
        text: Text that is final now and was not before; "" without a tokenizer. The texts of all deltas of a request
            together are `Result.text`.
        ids: Tokens that are final now and were not before. Those of all deltas together are `Result.output_ids`. The
            text of a token may come in a later delta, and the text behind a stop string never comes.
        done: Whether this is the request's last delta.
        result: The whole result, in the last delta; else None.
        draft: If drafts are requested, the text behind all that is final, as it stands now, with "░" for each pending
            token.
        pending: If drafts are requested, the tokens behind all final ones; None for each that is pending.
    """

    request: int
    text: str
    ids: tuple[int, ...] = ()
    done: bool = False
    result: Result | None = None
    draft: str | None = None
    pending: tuple[int | None, ...] | None = None

    @classmethod
    def of_result(cls, place: int, result: Result, sent_text: str, sent_ids: int, drafts: bool) -> Delta:
        """Make the last delta of a request.

        Args:
            place: Place of the request.
            result: Its result.
            sent_text: Text of the deltas before.
            sent_ids: Number of tokens of the deltas before.
            drafts: Whether drafts are requested.
        """
        text, ids = (result.text or "")[len(sent_text) :], result.output_ids[sent_ids:]
        return cls(place, text, ids, True, result, *empty_draft(drafts))


def empty_draft(drafts: bool) -> tuple[str, tuple[int, ...]] | tuple[None, None]:
    """Return `draft` and `pending` of a delta behind which nothing is pending, if drafts are requested."""
    return ("", ()) if drafts else (None, None)
