"""Conversations and documents become token ids and, for each, whether it is learnt: responses are, prompts are not."""

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
    """One text: its token ids, which of them are learnt, and a digest that tells texts apart whatever their order."""

    tokens: list[int]
    learnt: list[bool]
    digest: str


@dataclass
class DataReport:
    """What became of the rows of the data files.

    rows      rows read
    samples   texts that are trained on or held out
    pieces    of which parts of documents that were longer than the context
    skipped   rows that are not used, by kind
    first     the first of each kind: file:line and what is wrong
    notes     rows that are used, but not wholly, by what was left out
    """

    rows: int = 0
    samples: int = 0
    pieces: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, problem: DataProblem) -> None:
        self.skipped[problem.kind] += 1
        self.first.setdefault(problem.kind, f"{problem.place}: {problem.message}")

    def lines(self) -> list[str]:
        """The report in words, a line a kind of problem."""
        used = f"{self.rows:,} rows, {self.samples:,} samples"
        lines = [used + (f", {self.pieces:,} of them parts of long documents" if self.pieces else "")]
        lines += [f"skipped {count:,}: {kind} (first: {self.first[kind]})" for kind, count in self.skipped.items()]
        return lines + [f"{count:,}: {note}" for note, count in self.notes.items()]


def encode_records(
    found: Iterable[DataRecord | DataProblem], tokenizer: Any, *, longest: int | None, end: int, strict: bool = False
) -> tuple[list[TrainingSample], DataReport]:
    """Samples of all usable rows, and a report of the others.

    longest  most tokens of a sample: a longer document is cut into several, a longer conversation skipped; None: any
    end      id that ends a document
    strict   raise ConfigError for the first row that cannot be used instead of skipping it

    Raises ConfigError where conversations meet a tokenizer without chat template, or where no row can be used.
    """
    report, samples = DataReport(), []
    for row in found:
        report.rows += 1
        if isinstance(row, DataRecord):
            made = (
                _encode_conversation(row, tokenizer, report)
                if row.messages
                else _encode_document(row, tokenizer, longest, end)
            )
            long = row.messages and longest is not None and len(made[0].tokens) > longest
            if not long:
                report.pieces += len(made) if len(made) > 1 else 0
                samples += made
                continue
            row = DataProblem(
                row.place, "over-long sample", f"{len(made[0].tokens)} tokens; {longest} fit a row (context)"
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
    tokens = [*tokenizer(record.text, add_special_tokens=False).input_ids, end]
    size = longest or len(tokens)
    parts = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [_make_sample(part, [True] * len(part)) for part in parts]


def _encode_conversation(record: DataRecord, tokenizer: Any, report: DataReport) -> list[TrainingSample]:
    """Prompts and responses in turn, each tokenized alone, so that a prompt has the ids that decoding gives it."""
    if not getattr(tokenizer, "chat_template", None):
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
    """(text, is a response) of a rendered conversation, in order."""
    messages = list(record.messages)
    whole = _render_messages(record, tokenizer, messages)
    parts: list[tuple[str, bool]] = []
    done = 0
    for number in (i for i, message in enumerate(messages) if message["role"] == "assistant"):
        before = _render_messages(record, tokenizer, messages[:number], add_generation_prompt=True)
        after = _render_messages(record, tokenizer, messages[: number + 1])
        last = number == len(messages) - 1
        if last and not whole.startswith(before):
            before = _find_common_prefix(before, whole)
        if not (whole.startswith(before) and whole.startswith(after) and done <= len(before) < len(after)):
            report.notes[REWRITES] += 1
            continue
        parts += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
        done = len(after)
    return [(text, response) for text, response in parts if text]


def _find_common_prefix(one: str, two: str) -> str:
    size = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    return one[:size]


def _render_messages(record: DataRecord, tokenizer: Any, messages: list[Message], **options: Any) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except (TemplateError, TypeError, ValueError) as error:
        raise ConfigError(f"{record.place}: the chat template refuses it ({error})") from None
