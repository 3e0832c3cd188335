"""Writing files so that a reader sees the old content or the new one, never a part."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_UMASK = os.umask(0o077)  # the only way to read it is to set it
os.umask(_UMASK)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` for writing; on success it becomes `path`, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp's 0600 would hide a shared folder's files from other users
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_write(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: without it a power cut may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class OpenFile:
    """A descriptor that is closed with its last user: one thread may still read what another has just dropped."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.bytes = os.fstat(descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """`size` > 0 bytes from `offset` on. Raises ValueError where they do not all lie in the file."""
        if not (offset >= 0 and size > 0 and offset + size <= self.bytes):
            raise ValueError(f"bytes {offset} to {offset + size} are not in this file of {self.bytes} bytes")
        content = os.pread(self.descriptor, size, offset)
        if len(content) != size:
            raise ValueError(f"{len(content)} of {size} bytes read at {offset}")
        return content

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)
