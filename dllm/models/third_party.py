"""Manners for third-party readers: they stay quiet, and whatever they raise becomes one of our errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dllm.errors import CheckpointError, ConfigError, DllmError


def one_line(error: BaseException) -> str:
    """An exception in one line of reasonable length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def as_checkpoint_error(culprit: str, cure: str = "") -> Iterator[None]:
    """Inside, every foreign exception is raised again as CheckpointError `culprit (reason)cure`, without its traceback.

    Our own errors and running out of memory pass; a missing package is a ConfigError.
    """
    import torch

    try:
        yield
    except (DllmError, MemoryError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        raise ConfigError(f"{culprit}: a package is missing ({one_line(error)})") from None
    except Exception as error:  # readers of foreign files raise nearly anything, from KeyError to classes of their own
        raise CheckpointError(f"{culprit} ({one_line(error)}){cure}") from None


@contextmanager
def silence_transformers() -> Iterator[None]:
    """No progress bars, reports and warnings from readers: what goes wrong is said once, by our errors."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
