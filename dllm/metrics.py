"""The one definition of what is counted. Every table, file and screen takes its numbers from here.

forward          one call of the model in which the row took part, up to the one that decided its last token; one that
                 only runs the prompt, or only stores a finished block, counts as well
NFE              number of forwards of a row, until its stop condition holds
generated token  a token after the prompt, up to and with the first end token; the prompt, padding and what is cut off
                 do not count
query token      a column run through the model for a row, whether it is predicted or only read: the work of a forward
second           wall time of a row from when it took its place in the batch to the step that decided its last token; of
                 several rows, wall time of all together
prefill          the part of a row's seconds until its first step was done, whose forward ran the prompt
tokens/s         generated tokens per second, prefill included; without prefill: the tokens that later steps decided,
                 per second of those steps
TPF              generated tokens per forward
certified share  of the generated tokens committed two or more at once, the part whose parallel commit was provably
                 what greedy joint decoding would have done, given the marginals the model showed (`theory.certified`).
                 Only predictions for which nothing stale was read can certify: a stale cache lowers the share
agreement        share of rows whose tokens are all those of the reference, sequential greedy decoding: one token a
                 step, the most confident, without a cache
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dllm.version import VERSION


def tokens_per_forward(tokens: int, forwards: int) -> float:
    """TPF; 0 where there was no forward."""
    return tokens / forwards if forwards else 0.0


def tokens_per_second(tokens: int, seconds: float) -> float:
    """Throughput; 0 where no time was measured."""
    return tokens / seconds if seconds else 0.0


def certified_share(certified: int, parallel: int) -> float | None:
    """Share of parallel tokens that are certified; None where nothing was committed in parallel."""
    return certified / parallel if parallel else None


def agreement_share(outputs: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> float | None:
    """Share of outputs that equal those of the same rows in the reference, token for token; None without rows."""
    same = [list(ours) == list(theirs) for ours, theirs in zip(outputs, reference, strict=True)]
    return sum(same) / len(same) if same else None


@dataclass(frozen=True)
class Totals:
    """What some rows add up to; its properties are the figures of a table.

    seconds             wall time of all rows together
    prefilled, prefill  tokens that the rows' first steps decided, and the part of the rows' own seconds, added up, that
                        these steps took; the same part of `seconds` counts as prefill. None: not measured
    """

    rows: int
    tokens: int
    nfe: int
    queries: int
    parallel: int
    certified: int
    seconds: float
    prefilled: int = 0
    prefill: float | None = None

    @classmethod
    def of(cls, results: Sequence[Any], seconds: float) -> Totals:
        """The sum of `Result`s, or of lines that `record` made of them, that took `seconds` together."""
        rows = [r if isinstance(r, Mapping) else result_to_record(r, None) for r in results]
        own = sum(r["seconds"] for r in rows)
        known = own and all(r["prefill_seconds"] is not None for r in rows)
        return cls(
            rows=len(rows),
            tokens=sum(r["tokens"] for r in rows),
            nfe=sum(r["nfe"] for r in rows),
            queries=sum(r["queries"] for r in rows),
            parallel=sum(r["parallel"] for r in rows),
            certified=sum(round(r["parallel"] * (r["certified"] or 0)) for r in rows),
            seconds=seconds,
            prefilled=sum(r["prefill_tokens"] for r in rows),
            prefill=sum(r["prefill_seconds"] for r in rows) / own if known else None,
        )

    @property
    def tokens_per_forward(self) -> float:
        return tokens_per_forward(self.tokens, self.nfe)

    @property
    def tokens_per_second(self) -> float:
        return tokens_per_second(self.tokens, self.seconds)

    @property
    def tokens_per_second_without_prefill(self) -> float | None:
        if self.prefill is None:
            return None
        return tokens_per_second(self.tokens - self.prefilled, self.seconds * (1 - self.prefill))

    @property
    def certified_share(self) -> float | None:
        return certified_share(self.certified, self.parallel)

    def row(self) -> dict[str, Any]:
        """Counts and figures as one object of JSON."""
        named = ("tokens_per_forward", "tokens_per_second", "tokens_per_second_without_prefill", "certified_share")
        counts = {name: value for name, value in asdict(self).items() if name != "prefilled"}
        return counts | {name: getattr(self, name) for name in named}


@dataclass(frozen=True)
class Provenance:
    """What results were made on.

    model     where the checkpoint came from
    device    of the weights, and its name: "cuda:0 (NVIDIA H100)"
    dtype     of the weights
    versions  of what computes
    """

    model: str
    device: str
    dtype: str | None
    versions: dict[str, str]

    @classmethod
    def of(cls, model: Any) -> Provenance:
        """The provenance of what a model decodes, here and now."""
        weights = getattr(model, "network", None)
        precision = None if weights is None else str(weights.get_input_embeddings().weight.dtype)
        name = getattr(model, "name", "") or getattr(model, "family", type(model).__name__)
        return cls(
            str(name),
            _describe_device(model.device),
            precision and precision.removeprefix("torch."),
            package_versions(),
        )


@cache
def package_versions() -> dict[str, str]:
    """Version of this package, Python and the packages that compute; those not installed are left out."""
    found = {"dllm": VERSION, "python": platform.python_version()}
    for package in ("torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _describe_device(device: Any) -> str:
    """A torch device and what it is called."""
    if device.type == "cuda":
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()})"


def result_to_record(
    result: Any, strategy: Any, provenance: Provenance | None = None, name: Any = None, seed: int | None = None
) -> dict[str, Any]:
    """The line that every file has for one sample: a `Result` as one object of JSON.

    strategy    all parts of what decoded it; its repr is written
    provenance  None: not known
    name        what the sample is called; written as `id`
    seed        of the row's own random numbers
    """
    return {
        "id": name,
        "prompt_ids": list(result.prompt_ids),
        "output_ids": list(result.output_ids),
        "text": result.text,
        "stopped": result.stopped,
        "tokens": len(result.output_ids),
        "nfe": result.nfe,
        "tokens_per_forward": result.tokens_per_forward,
        "queries": result.queries,
        "parallel": result.parallel,
        "certified": result.certified_share,
        "seconds": result.seconds,
        "prefill_seconds": result.prefill,
        "prefill_tokens": result.prefilled,
        "tokens_per_second": result.tokens_per_second,
        "tokens_per_second_without_prefill": result.tokens_per_second_without_prefill,
        "strategy": repr(strategy),
        "seed": seed,
    } | ({} if provenance is None else asdict(provenance))
