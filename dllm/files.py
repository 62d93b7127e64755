"""Files that survive interruptions: replaced as a whole, or grown line by line; and YAML files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file takes the place of `path` when the block ends without an exception.

    A reader of `path` therefore sees the old content or the new one, never a part of it. After an exception the
    temporary file is removed and `path` is as it was.

    Args:
        path: File to be written. The temporary file lies in the same folder, because only a move within one file
            system is atomic.

    Raises:
        OSError: The file cannot be put in its place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class AppendOnlyFile:
    """A file to which one process at a time appends lines; it is created if it does not exist.

    Args:
        path: The file. It may also be a device or a pipe, such as /dev/stdout.
        writer: Name of the kind of program that writes to it, for the message of a conflict: "job".
        cure: What a user can do about a conflict, for the same message.

    Attributes:
        path: The file.
        is_regular: False for a device or a pipe, which is neither locked nor forced to the disk.

    Raises:
        ConfigError: Another process is writing to the file.
        OSError: The file cannot be opened for writing.
    """

    def __init__(self, path: Path, writer: str, cure: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self.is_regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        try:
            if self.is_regular and not _lock_descriptor(self._descriptor):
                raise ConfigError(f"{path}: another {writer} is writing to it; wait for that, or {cure}")
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> None:
        """Append a line; when this returns, the line is on the disk.

        Raises:
            OSError: The line cannot be written as a whole. Then no part of it is kept.
        """
        size = self.size
        try:
            unwritten = memoryview(line)
            while unwritten:  # the system may write less than it is given, for instance when the disk fills up
                unwritten = unwritten[os.write(self._descriptor, unwritten) :]
            if self.is_regular:
                os.fsync(self._descriptor)
        except OSError as error:
            if self.is_regular:
                with contextlib.suppress(OSError):  # the first error is the one to report
                    self.truncate(size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Close the file, which also releases its lock."""
        os.close(self._descriptor)


def _lock_descriptor(descriptor: int) -> bool:
    """Lock an open file for this process; return False if another process holds the lock.

    Where the operating system or the file system has no such locks, this returns True: then it is up to the user that
    only one process writes to the file.
    """
    try:
        import fcntl  # does not exist on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # OSError: a file system without locks, such as some network file systems
        return True
    return True


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: The file cannot be read, or it is not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: broken YAML ({' '.join(str(error).split())})") from None
