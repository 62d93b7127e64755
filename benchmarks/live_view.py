"""The cost of watching.

Method: the embedded model decodes the same prompts, one after the other, by turns without and with the live view of
`dllm decode`, on a terminal that takes all that is drawn (a pseudo-terminal of 100 x 30, read by a thread). Tokens are
counted over the whole time of a turn, drawing included; the first turn of each is thrown away. Greedy, factor 1.0.

How to read it: `with / without` is the share of the speed that is left; the spread over the turns shows how much of it
is noise. The view draws at most fifteen times a second, and spends at most a sixteenth of the time on it.

    python -m benchmarks.live_view --turns 9 --threads 1
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import torch
from rich.console import Console

import dllm
from dllm.cli.live_display import LiveDisplay
from dllm.prompts import make_requests

PROMPTS = [
    "Mia has 8 stamps. Lena has three times as many. How many stamps do they have in all?",
    "Tom has 3 apples and buys 4 more. How many has he?",
    "Compute 8 + 6.",
    "How much is 2 * 2 + 6?",
]


def _open_terminal() -> Console:
    """A console on a pseudo-terminal whose other end reads whatever comes."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    threading.Thread(target=_read_to_end, args=(ours,), daemon=True).start()
    return Console(file=os.fdopen(theirs, "w"), force_terminal=True)


def _read_to_end(end: int) -> None:
    """Read until the other end is closed, which Linux tells as an error."""
    with suppress(OSError):
        while os.read(end, 65536):
            pass


def _measure_throughput(model: Any, strategy: dllm.Strategy, length: int, console: Console | None) -> float:
    """Tokens a second over all prompts."""
    tokens, start = 0, time.perf_counter()
    for prompt in PROMPTS:
        requests = make_requests(model, prompt, length)
        collector = dllm.Collector(model, requests, strategy)
        with LiveDisplay(console, model.tokenizer) as screen:
            for step in dllm.steps(model, requests, strategy):
                screen.show(step)
                collector.add(step)
        tokens += sum(len(result.output_ids) for result in collector.results())
    return tokens / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, console = dllm.load("embedded"), _open_terminal()
    strategies = {
        "factor 1.0, text ends itself": dllm.Strategy(dllm.Factor(1.0), dllm.Blocks(), dllm.PrefixCache()),
        "one token a step, 128 tokens": dllm.Strategy(
            dllm.TopK(k=1), dllm.Blocks(), dllm.PrefixCache(), stopping=dllm.Stopping(ids=())
        ),
    }
    for name, strategy in strategies.items():
        found = [
            (_measure_throughput(model, strategy, 128, None), _measure_throughput(model, strategy, 128, console))
            for _ in range(given.turns + 1)
        ]
        plain, shown = zip(*found[1:], strict=True)
        ratios = [b / a for a, b in found[1:]]
        row = {
            "strategy": name,
            "without": round(statistics.median(plain), 1),
            "with": round(statistics.median(shown), 1),
            "with / without": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        }
        print(json.dumps(row))
        print(
            f"{name}: {row['without']} tokens/s without, {row['with']} with, ratio {row['with / without']}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
