"""Errors as one line on stderr and an exit code; only a bug shows a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer
from rich.console import Console
from rich.text import Text

from dllm.errors import ConfigError, DllmError, RequestError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: something failed · the command cannot be carried out as given · Ctrl-C."""


def print_message(text: str | Text, style: str = "") -> None:
    """Print one line on stderr."""
    Console(stderr=True).print(Text(text, style) if isinstance(text, str) else text, soft_wrap=True)


def print_error(message: object) -> None:
    """Print an error as one line on stderr."""
    print_message(Text.assemble(("error: ", "bold red"), " ".join(str(message).split())))


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn errors that are no bugs into one line and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except (ConfigError, RequestError) as error:
        print_error(error)
        raise typer.Exit(MISUSED) from None
    except DllmError as error:
        print_error(error)
        raise typer.Exit(FAILED) from None
    except BrokenPipeError:
        _silence_stdout()
        raise typer.Exit(FAILED) from None
    except OSError as error:
        print_error(describe_os_error(error))
        _silence_stdout()
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        print_error("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print_error("out of memory: lower --batch-size or --max-new-tokens, or choose a smaller --dtype")
        raise typer.Exit(FAILED) from None


def describe_os_error(error: OSError) -> str:
    """Name the file of an OSError, and what is wrong with it."""
    return f"{error.filename or 'standard output'}: {error.strerror or error}"


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, for which torch raises a plain RuntimeError on a CPU."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in ("out of memory", "allocate memory"))


def _silence_stdout() -> None:
    """Keep the interpreter from writing to a stdout that is gone or full when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
