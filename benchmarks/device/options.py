"""The options that both scripts have, and the checks before they begin. Only the standard library is imported here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.device import preflight


def parser(script: str, budget: float) -> argparse.ArgumentParser:
    """The options of a script.

    Args:
        script: Its name, which the file of results has too.
        budget: Seconds that it takes at most unless told otherwise.
    """
    where = Path(os.environ.get("OUT", "build/device")) / f"{script}.jsonl"
    made = argparse.ArgumentParser(f"python -m benchmarks.device.{script}")
    made.add_argument("--device", default="cuda", help="cuda or cpu (%(default)s)")
    made.add_argument("--budget", type=_positive, default=budget, metavar="SECONDS", help="at most (%(default)s)")
    made.add_argument("--output", type=Path, default=where, metavar="FILE", help="JSON lines (%(default)s)")
    made.add_argument("--tiny", action="store_true", help="a rehearsal: shapes that take no time on a CPU")
    made.add_argument("--no-compile", dest="compile", action="store_false", help="leave out compiled forwards")
    return made


def checked(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a call, once the machine is known to have what they need."""
    options = made.parse_args(sys.argv[1:] if arguments is None else arguments)
    preflight.demand(options.compile)
    preflight.demand_device(options.device)
    return options


def device(options: argparse.Namespace) -> Any:
    """The torch device of a call. What stays on the CPU is small, and many times faster on one thread."""
    import torch

    torch.set_num_threads(1)
    return torch.device(options.device)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: give a number of seconds above 0")
    return value
