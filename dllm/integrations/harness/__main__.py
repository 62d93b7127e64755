"""lm-eval's own command, with `--model dllm` and the tasks of this package registered."""

from __future__ import annotations

import sys

from dllm.errors import DllmError
from dllm.integrations.harness import model  # registers it

__all__ = ["model"]


def _run_lm_eval_command() -> None:
    """Run lm-eval's command line; an error of ours ends it with one line."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except DllmError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _run_lm_eval_command()
