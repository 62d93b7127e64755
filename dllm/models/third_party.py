"""Third-party readers: turn their exceptions into `CheckpointError`, and their output off."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dllm.errors import CheckpointError, ConfigError, DllmError


def one_line(error: BaseException) -> str:
    """Put an exception into one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def as_checkpoint_error(culprit: str, cure: str = "") -> Iterator[None]:
    """Raise every foreign exception again as CheckpointError `culprit (reason)cure`, without its traceback.

    Our own errors and running out of memory pass.

    Args:
        culprit: Beginning of the message: the file, and what is wrong with it.
        cure: End of the message: what to do about it.

    Raises:
        CheckpointError: The code inside raised an exception that is not ours.
        ConfigError: A package is missing.
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
    """Turn progress bars, reports and warnings of `transformers` off: our errors report what goes wrong, once."""
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
