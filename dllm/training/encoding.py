"""Conversations and documents as token ids, each marked as learnt or not: responses are learnt, prompts are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from dllm.errors import ConfigError
from dllm.training.data import DataProblem, DataRecord, Message

REWRITES = "earlier responses not learnt: the chat template writes them anew in each turn"


class TrainingSample(NamedTuple):
    """One tokenized text.

    Attributes:
        tokens: Token ids.
        learnt: True for each token that the loss covers.
        digest: SHA-256 of the ids, which identifies the text independently of the order of the data.
    """

    tokens: list[int]
    learnt: list[bool]
    digest: str


@dataclass
class DataReport:
    """Counts of what happened to the rows of the data files.

    Attributes:
        rows: Rows read.
        samples: Texts that are trained on or held out.
        pieces: Number of those that are parts of documents longer than the context.
        skipped: Unused rows by kind of problem.
        first: First problem of each kind, as file:line and description.
        notes: Rows that are used only in part, by what was left out.
    """

    rows: int = 0
    samples: int = 0
    pieces: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, problem: DataProblem) -> None:
        """Count an unusable row."""
        self.skipped[problem.kind] += 1
        self.first.setdefault(problem.kind, f"{problem.place}: {problem.message}")

    def lines(self) -> list[str]:
        """Format the report, one line for each kind of problem."""
        used = f"{self.rows:,} rows, {self.samples:,} samples"
        lines = [used + (f", {self.pieces:,} of them parts of long documents" if self.pieces else "")]
        lines += [f"skipped {count:,}: {kind} (first: {self.first[kind]})" for kind, count in self.skipped.items()]
        return lines + [f"{count:,}: {note}" for note, count in self.notes.items()]


def encode_records(
    found: Iterable[DataRecord | DataProblem], tokenizer: Any, *, longest: int | None, end: int, strict: bool = False
) -> tuple[list[TrainingSample], DataReport]:
    """Tokenize all usable rows and report the others.

    Args:
        found: Rows as `read_data_files` yields them.
        tokenizer: Tokenizer of the base.
        longest: Most tokens of a sample; a longer document is cut into several, a longer conversation skipped. None: no
            limit.
        end: Id that ends a document.
        strict: Raise an error for the first unusable row instead of skipping it.

    Returns:
        Samples in the order of the rows, and the report.

    Raises:
        ConfigError: If a conversation meets a tokenizer without chat template, if no row can be used, or, with
            `strict`, for the first row that cannot.
    """
    report, samples = DataReport(), []
    for row in found:
        report.rows += 1
        if isinstance(row, DataRecord):
            encoded = (
                _encode_conversation(row, tokenizer, report)
                if row.messages
                else _encode_document(row, tokenizer, longest, end)
            )
            too_long = row.messages and longest is not None and len(encoded[0].tokens) > longest
            if not too_long:
                report.pieces += len(encoded) if len(encoded) > 1 else 0
                samples += encoded
                continue
            row = DataProblem(
                row.place, "over-long sample", f"{len(encoded[0].tokens)} tokens; {longest} fit a row (context)"
            )
        if strict:
            raise ConfigError(f"{row.place}: {row.kind}: {row.message}")
        report.skip(row)
    report.samples = len(samples)
    if not samples:
        raise ConfigError("data / --data: no usable row; " + "; ".join(report.lines()))
    return samples, report


def _make_sample(tokens: list[int], learnt: list[bool]) -> TrainingSample:
    return TrainingSample(tokens, learnt, sha256(" ".join(map(str, tokens)).encode()).hexdigest())


def _encode_document(record: DataRecord, tokenizer: Any, longest: int | None, end: int) -> list[TrainingSample]:
    """Tokenize a document, end it, and cut it into parts of at most `longest` tokens."""
    tokens = [*tokenizer(record.text, add_special_tokens=False).input_ids, end]
    size = longest or len(tokens)
    parts = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [_make_sample(part, [True] * len(part)) for part in parts]


def _encode_conversation(record: DataRecord, tokenizer: Any, report: DataReport) -> list[TrainingSample]:
    """Tokenize prompts and responses separately, so that a prompt has the same ids as in decoding."""
    if not getattr(tokenizer, "chat_template", None):  # a class of transformers; not all of them have the attribute
        raise ConfigError(
            f"{record.place}: a conversation, but the tokenizer of the base has no chat template: "
            "give chat_template / --chat-template (chatml, or a file with a template), or plain text as data"
        )
    tokens: list[int] = []
    learnt: list[bool] = []
    for text, response in _split_turns(record, tokenizer, report):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        tokens += ids
        learnt += [response] * len(ids)
    return [_make_sample(tokens, learnt)]


def _split_turns(record: DataRecord, tokenizer: Any, report: DataReport) -> list[tuple[str, bool]]:
    """Split a rendered conversation into prompts and responses.

    A response is learnt only where the template writes it in the whole conversation exactly as it does when the
    conversation ends there. Templates that rewrite earlier turns (dropping their reasoning, for instance) fail this
    test, and those responses are counted in the report instead.

    Returns:
        Pairs (text, True for a response) in order; their texts join to the rendered conversation up to the last
            response.
    """
    messages = list(record.messages)
    whole = _render_messages(record, tokenizer, messages)
    parts: list[tuple[str, bool]] = []
    done = 0
    for number in (i for i, message in enumerate(messages) if message["role"] == "assistant"):
        before = _render_messages(record, tokenizer, messages[:number], add_generation_prompt=True)
        after = _render_messages(record, tokenizer, messages[: number + 1])
        last = number == len(messages) - 1
        # The generation prompt may hold more than the template writes before a given answer, such as an opened
        # reasoning block; the last response then begins where the two renderings part.
        if last and not whole.startswith(before):
            before = _find_common_prefix(before, whole)
        if not (whole.startswith(before) and whole.startswith(after) and done <= len(before) < len(after)):
            report.notes[REWRITES] += 1
            continue
        parts += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
        done = len(after)
    return [(text, response) for text, response in parts if text]


def _find_common_prefix(one: str, two: str) -> str:
    """Return the longest common beginning of two texts."""
    size = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    return one[:size]


def _render_messages(record: DataRecord, tokenizer: Any, messages: list[Message], **options: Any) -> str:
    """Apply the chat template; raise ConfigError naming the row if it refuses the messages."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except (TemplateError, TypeError, ValueError) as error:
        raise ConfigError(f"{record.place}: the chat template refuses it ({error})") from None
