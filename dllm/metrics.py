"""The one definition of everything that is counted; every table, file and screen takes its numbers from here.

Forward:
    One call of the model in which the row took part, up to the one that decided its last token. One that only runs the
    prompt, or only stores a finished block, counts as well.
NFE:
    Number of forwards of a row, until its stop condition holds.
Generated token:
    A token after the prompt, up to the first end token and including it. The prompt, padding and what is cut off do not
    count.
Query token:
    A column run through the model for a row, whether it is predicted or only read: the unit of work of a forward.
Second:
    Wall time of a row from when it took its place in the batch to the step that decided its last token; of several
    rows, wall time of all together.
Prefill:
    The part of a row's seconds until its first step was done, whose forward ran the prompt.
Tokens per second:
    Generated tokens per second, prefill included. Without prefill: the tokens that later steps decided, per second of
    those steps.
TPF:
    Generated tokens per forward.
Certified share:
    Of the generated tokens committed two or more at once, the part whose parallel commit provably equals greedy joint
    decoding, given the marginals that the model showed (`theory.is_certified`). Only predictions that depend on nothing
    stale can certify: a stale cache lowers the share.
Agreement:
    Share of rows whose tokens are all those of the reference, sequential greedy decoding: one token a step, the most
    confident, without a cache.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, runtime_checkable

from dllm.version import VERSION


def tokens_per_forward(tokens: int, forwards: int) -> float:
    """Compute TPF; 0 where there was no forward."""
    return tokens / forwards if forwards else 0.0


def tokens_per_second(tokens: int, seconds: float) -> float:
    """Compute the throughput; 0 where no time was measured."""
    return tokens / seconds if seconds else 0.0


def certified_share(certified: int, parallel: int) -> float | None:
    """Compute the share of parallel tokens that are certified; None where nothing was committed in parallel."""
    return certified / parallel if parallel else None


def agreement_share(outputs: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> float | None:
    """Compute the share of outputs that equal those of the same rows in the reference, token for token.

    Args:
        outputs: Output ids of each row.
        reference: Output ids of the same rows in the reference.

    Returns:
        The share; None without rows.

    Raises:
        ValueError: The numbers of rows differ.
    """
    same = [list(ours) == list(theirs) for ours, theirs in zip(outputs, reference, strict=True)]
    return sum(same) / len(same) if same else None


@dataclass(frozen=True)
class Totals:
    """Sums over some rows; its properties are the figures of a table.

    Attributes:
        rows: Number of rows.
        tokens: Generated tokens.
        nfe: Forwards, each row's counted apart.
        queries: Query tokens.
        parallel: Generated tokens that were committed two or more at once.
        certified: Those of them whose commit is certified.
        seconds: Wall time of all rows together.
        prefilled: Tokens that the rows' first steps decided.
        prefill: Share that these steps took of the rows' own seconds, added up; the same share of `seconds` counts as
            prefill. None: not measured.
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
        """Add up results.

        Args:
            results: Values of `Result`, or lines that `result_to_record` made of them.
            seconds: Wall time of all together.
        """
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
        """Generated tokens per forward; 0 where there was none."""
        return tokens_per_forward(self.tokens, self.nfe)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, prefill included; 0 where no time was measured."""
        return tokens_per_second(self.tokens, self.seconds)

    @property
    def tokens_per_second_without_prefill(self) -> float | None:
        """Tokens that all steps but the first decided, per second of those steps; None if prefill was not measured."""
        if self.prefill is None:
            return None
        return tokens_per_second(self.tokens - self.prefilled, self.seconds * (1 - self.prefill))

    @property
    def certified_share(self) -> float | None:
        """Certified share; None where nothing was committed in parallel."""
        return certified_share(self.certified, self.parallel)

    def row(self) -> dict[str, Any]:
        """Collect counts and figures in one object of JSON."""
        counts = {name: value for name, value in asdict(self).items() if name != "prefilled"}
        return counts | {
            "tokens_per_forward": self.tokens_per_forward,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_second_without_prefill": self.tokens_per_second_without_prefill,
            "certified_share": self.certified_share,
        }


@runtime_checkable
class _NetworkModel(Protocol):
    """A model that runs a network of `transformers`."""

    @property
    def network(self) -> Any:
        """The network."""
        ...


@dataclass(frozen=True)
class Provenance:
    """The model, device and software that results were made with.

    Attributes:
        model: Where the checkpoint came from.
        device: Device of the weights, and its name: "cuda:0 (NVIDIA H100)".
        dtype: Precision of the weights. None where the model has no network.
        versions: Versions of the packages that compute.
    """

    model: str
    device: str
    dtype: str | None
    versions: dict[str, str]

    @classmethod
    def of(cls, model: Any) -> Provenance:
        """Collect the provenance of results that a model decodes here and now.

        Args:
            model: A diffusion model or a causal one, with a name, a family and a device.
        """
        dtype = None
        if isinstance(model, _NetworkModel):
            dtype = str(model.network.get_input_embeddings().weight.dtype).removeprefix("torch.")
        name = model.name or model.family or type(model).__name__
        return cls(name, _describe_device(model.device), dtype, package_versions())


@cache
def package_versions() -> dict[str, str]:
    """List the versions of this package, Python and the packages that compute; those not installed are left out."""
    found = {"dllm": VERSION, "python": platform.python_version()}
    for package in ("torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _describe_device(device: Any) -> str:
    """Describe a torch device: its name in torch, and that of the hardware."""
    if device.type == "cuda":
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()})"


def result_to_record(
    result: Any, strategy: Any, provenance: Provenance | None = None, name: Any = None, seed: int | None = None
) -> dict[str, Any]:
    """Turn a `Result` into the line that every file has for one sample: one object of JSON.

    Args:
        result: The result.
        strategy: All parts of the decoder; its repr is written.
        provenance: What it was made with. None: not known.
        name: Name of the sample, written as `id`.
        seed: Seed of the row's own random numbers.
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
