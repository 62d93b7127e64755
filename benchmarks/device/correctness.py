"""Does the library do on a CUDA device what it does on a CPU?

Question: are recorded runs of the published systems reproduced on the device, and does a sample of the laws hold there,
          in float32 and bfloat16, eager and compiled?
Method:   recordings (`recordings.py`), token for token and forward for forward; laws over a sample of policies,
          schedulers, caches and geometries on tiny random models (`laws.py`), each beside the same work on the CPU,
          step by step. Each kind has a share of the budget, and takes as many of its cases as fit.
Read:     float32 must be "equal"; a "close call" wrote something else where both devices' probabilities agree to
          rounding, and should be rare. In bfloat16 tokens may differ (share given), and laws must hold all the same.
          "broken", "error", and in float32 "differs", are faults: the exit code is then 1.
Run:      benchmarks/device/correctness.sh            (CUDA; at most --budget seconds; see README.md)
          benchmarks/device/correctness.sh --tiny --device cpu
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.device.budget import Budget
from benchmarks.device.options import checked, device, parser
from benchmarks.device.session import Measurement, Row, facts, failures, leave, run

SHARES = {
    ("float32", False): {"recordings": 0.10, "laws": 0.12},
    ("bfloat16", False): {"recordings": 0.04, "laws": 0.08},
    ("float32", True): {"recordings": 0.20, "laws": 0.20},
    ("bfloat16", True): {"laws": 0.14, "recordings": 0.08},
}
"""Part of the budget for each check, by precision and whether it is compiled, in the order of the checks. Most of a
compiled check is the compiler's time."""

STARTS = {False: 2.0, True: 12.0}
"""Seconds that the first case of a kind may take, eager and compiled."""


LIMITS: dict[bool, dict[bool, tuple[int | None, int | None, int]]] = {
    False: {False: (None, None, 2000), True: (None, 4, 2000)},
    True: {False: (4, 4, 16), True: (1, 1, 1)},
}
"""Groups of recordings, cases of a group and cells of laws at most, in earnest and in a rehearsal, eager and compiled.
"""


def is_fault(row: Row) -> bool:
    """Tell whether a row reports that the device computes something else than it should."""
    outcome = row.get("outcome")
    return outcome in ("broken", "error") or (outcome == "differs" and row["dtype"] == "float32")


def measurements(options: Namespace, place: Any, faults: Counter[str]) -> list[Measurement]:
    """Every check; the faults that they find are counted by name."""
    import torch

    from benchmarks.device.laws import LawCheck
    from benchmarks.device.recordings import Replay

    made = []
    for (precision, compiled), shares in SHARES.items():
        if compiled and not options.compile:
            continue
        dtype = getattr(torch, precision)
        groups, cases, cells = LIMITS[options.tiny][compiled]
        checks = {
            "recordings": Replay(options.recordings, place, dtype, compiled, groups, cases).rows,
            "laws": LawCheck(place, dtype, compiled, cells).rows,
        }
        for what, share in shares.items():
            name = f"{what}, {precision}, {'compiled' if compiled else 'eager'}"
            rows = _counted(name, checks[what], faults)
            made.append(Measurement(name, STARTS[compiled], rows, None if options.tiny else share))
    return made


def _counted(
    name: str, rows: Callable[[Budget], Iterator[Row]], faults: Counter[str]
) -> Callable[[Budget], Iterator[Row]]:
    """The rows, each fault among them counted."""

    def counted(budget: Budget) -> Iterator[Row]:
        for row in rows(budget):
            faults[name] += is_fault(row)
            yield row

    return counted


def main(arguments: Sequence[str] | None = None) -> None:
    """Check what fits into the budget; results go into a file of JSON lines, progress to stderr."""
    made = parser("correctness", budget=180)
    made.add_argument("--recordings", type=Path, default=None, metavar="DIR", help="default: shared/goldens, or ours")
    options = checked(made, arguments)
    place = device(options)
    from benchmarks.device.recordings import found

    options.recordings = options.recordings or found()
    about = facts("correctness", place, tiny=options.tiny, recordings=str(options.recordings), seed=0)
    faults: Counter[str] = Counter()
    outcomes = run(about, measurements(options, place, faults), Budget(options.budget), options.output)
    leave([f"{name}: {count} faults" for name, count in faults.items() if count] + failures(outcomes))


if __name__ == "__main__":
    main()
