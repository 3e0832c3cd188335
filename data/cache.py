"""Local whole copies of remote files, in a folder whose size stays below a bound, shared by all processes of a host.

    FOLDER/taxomix-cache/lock                            held while room is made
    FOLDER/taxomix-cache/PLACE/NAME                      a whole file; locked shared by each that reads it
    FOLDER/taxomix-cache/PLACE/NAME+.lock                locked by the one that fetches NAME, there only meanwhile
    FOLDER/taxomix-cache/PLACE/NAME+BYTES+ID.partial     a file on its way, BYTES of room taken for it; locked while its writer lives

PLACE stands for a URL and a version, NAME is quoted and so holds no `+`. All locks are `flock`s: the kernel releases
them with the process that holds them, so that a killed one leaves nothing that another would wait for, and a partial
file that can be locked is a dead one's and is removed. A file gets its name after its last byte is on the disk. The
folder belongs on a disk of this host.
"""

import errno
import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from data.errors import InputError


class StoreError(OSError):
    """A file of a store cannot be had; the text names it and says why."""


class MissingFileError(StoreError, FileNotFoundError):
    """The store has no such file; asking again does not help."""


class CacheFullError(StoreError):
    """No room can be made in the cache, since all that lies there is in use. Close descriptors and ask again."""


class StoppedError(Exception):
    """The one who asked wants no answer any more."""


def default_folder() -> Path:
    """Where the cache lies unless said otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "taxomix"


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Local copies of remote shards."""

    folder: Path = field(default_factory=default_folder)
    """A folder of this host; all its processes may share it. Only files that the cache put there are ever removed."""
    max_gb: float = 50
    """Bound on all that lies there, files on their way included, in 10^9 bytes."""
    retry_seconds: float = 60
    """How long a request that fails is made again before the shard counts as lost."""
    stall_seconds: float = 30
    """A request that brings no byte for so long has failed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder.expanduser().absolute())  # workers run in folders of their own
        for name, low in (("max_gb", 0), ("retry_seconds", -1), ("stall_seconds", 0)):
            if not getattr(self, name) > low:
                found, expected = getattr(self, name), "more than 0" if low == 0 else "0 or more"
                raise InputError(f"data.cache.{name}: {found} found, expected {expected}; raise it")

    @property
    def max_bytes(self) -> int:
        return int(self.max_gb * 1e9)


class ShardCache:
    """The cache folder of one config. Threads and processes may each have their own object for the same folder.

    To get a file: `find` it; where that gives None, take its `turn`, `find` it again, and `fill` it.
    """

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self.root = config.folder / "taxomix-cache"

    def path(self, location: str, version: str, name: str) -> Path:
        """Where the copy of file `name` of `location` lies. Another `version` is another file."""
        digest = hashlib.blake2b(f"{location}\n{version}".encode(), digest_size=8).hexdigest()
        tail = quote(location.rstrip("/").rsplit("/", 1)[-1], safe="")
        return self.root / f"{tail[:60]}-{digest}" / quote(name, safe="")

    def find(self, path: Path, size: int) -> int | None:
        """A descriptor of the whole file at `path`, which stays until that is closed; None where it is not there."""
        with self._own_errors():
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            found = os.fstat(descriptor)
            # It may have been removed after it was opened and before it was locked: its room is then given to another.
            if found.st_nlink and found.st_size == size:
                _make_youngest(descriptor)
                descriptor, kept = -1, descriptor
                return kept
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def touch(self, path: Path, size: int | None) -> bool:
        """Whether the whole file is there; if so it is now the youngest, and the last to be removed."""
        try:
            if size is not None and os.stat(path).st_size != size:
                return False
            _make_youngest(path)
            return True
        except FileNotFoundError:
            return False

    @contextmanager
    def turn(self, path: Path, stop: threading.Event | None = None) -> Iterator["Turn"]:
        """Wait until no other thread or process fetches `path`. Raises StoppedError once `stop` is set."""
        lock = path.with_name(path.name + "+.lock")
        with self._own_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _lock_file(lock, stop)
        turn = Turn(descriptor)
        try:
            yield turn
        finally:
            if not turn.has_failed:
                lock.unlink(missing_ok=True)
            os.close(descriptor)

    def fill(self, path: Path, size: int, download: Callable[[Path], None], keep: Collection[Path] = ()) -> int:
        """Make the file of `size` bytes with `download(partial)` and give a descriptor as `find` does; only in its turn.

        What lies at `keep` is not removed to make room. Raises CacheFullError where there is none, StoreError where `download`
        gives another size.
        """
        with self._own_errors():
            descriptor, partial = self._reserve(path, size, keep)
        try:
            download(partial)
            with self._own_errors():
                self._publish(descriptor, partial, path, size)
            return descriptor
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._disk_full() from error
            raise
        finally:
            partial.unlink(missing_ok=True)

    def _publish(self, descriptor: int, partial: Path, path: Path, size: int) -> None:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise StoreError(f"{found} bytes came, expected {size}")
        os.fsync(descriptor)  # a name without its bytes would outlive a power cut
        _make_youngest(descriptor)
        # One who makes room meanwhile might see neither the old name nor the new one, or take the file between the two locks.
        lock = _lock_file(self.root / "lock")
        try:
            os.replace(partial, path)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def _reserve(self, path: Path, size: int, keep: Collection[Path]) -> tuple[int, Path]:
        """An empty locked partial file, for which `size` bytes are free below the bound."""
        if size > self.config.max_bytes:
            raise InputError(
                f"data.cache.max_gb: {self.config.max_gb:g} found, but {path.name} has {size / 1e9:.3g} GB; "
                "expected room for several shards; raise it"
            )
        lock = _lock_file(self.root / "lock")
        try:
            path.unlink(missing_ok=True)  # it is there and not whole, else it would have been found
            self._make_room(path, size, keep)
            partial = path.with_name(f"{path.name}+{size}+{uuid.uuid4().hex[:12]}.partial")
            descriptor = os.open(partial, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor, partial
        finally:
            os.close(lock)

    def _make_room(self, path: Path, size: int, keep: Collection[Path]) -> None:
        whole, used = self._scan()
        for _, bytes_there, there in sorted(whole):
            if used + size <= self.config.max_bytes:
                return
            if there not in keep and _remove_unused(there):
                used -= bytes_there
        if used + size > self.config.max_bytes:
            raise CacheFullError(
                f"{self.root}: {used / 1e9:.3g} GB in use, no room for {path.name} of {size / 1e9:.3g} GB "
                f"below data.cache.max_gb={self.config.max_gb:g}; raise it, or read from fewer shards at once"
            )

    def _scan(self) -> tuple[list[tuple[int, int, Path]], int]:
        """(time of last use, bytes, path) of each whole file, and the bytes taken by all; removes partial files of the dead."""
        whole, used = [], 0
        for place in os.scandir(self.root):
            for entry in os.scandir(place) if place.is_dir() else ():
                try:
                    found = entry.stat()
                except FileNotFoundError:
                    continue  # a partial file whose writer has just given up
                path = Path(entry.path)
                if entry.name.endswith(".partial") and "+" in entry.name:  # a shard may be called x.partial
                    if not _remove_unused(path):
                        used += max(found.st_size, int(entry.name.split("+")[1]))
                else:
                    used += found.st_size
                    if "+" not in entry.name:
                        whole.append((found.st_mtime_ns, found.st_size, path))
        return whole, used

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Errors of the folder itself are the user's to mend: no store is to blame, and asking again does not help."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._disk_full() from error
            raise InputError(
                f"data.cache.folder: {self.config.folder} cannot be used ({error.strerror or error}), expected a folder that can be "
                "written; give another"
            ) from error

    def _disk_full(self) -> InputError:
        return InputError(
            f"data.cache.folder: the disk of {self.config.folder} is full, expected room for data.cache.max_gb={self.config.max_gb:g} GB; "
            "free some, lower data.cache.max_gb, or give a folder on another disk"
        )


class Turn:
    """The right to fetch one file. One that fails tells those who wait, so that they need not all try as long."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.has_failed = False

    def raise_failure_since(self, time_ns: int) -> None:
        """Raise what the one before failed with, if that was after `time_ns` of `time.time_ns`."""
        try:
            content = json.loads(os.pread(self._descriptor, 1 << 16, 0))
            when, text, kind = content["time_ns"], content["text"], MissingFileError if content["missing"] else StoreError
        except (ValueError, KeyError, TypeError):  # empty, as it mostly is, or cut off by a kill
            return
        if when >= time_ns:
            self.has_failed = True  # the note stays for the next in line
            raise kind(text)

    def fail(self, error: StoreError) -> None:
        """Leave `error` for those who wait; that the cache is full is no concern of theirs."""
        if isinstance(error, CacheFullError):
            return
        self.has_failed = True
        content = {"time_ns": time.time_ns(), "text": str(error), "missing": isinstance(error, MissingFileError)}
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(content).encode(), 0)


POLL_SECONDS = 0.02


def _lock_file(path: Path, stop: threading.Event | None = None) -> int:
    """The descriptor of the locked file `path`, made if need be; waits for its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if stop is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                _poll_lock(descriptor, stop)
            # The one before may have removed the file: then the lock is on a file that nobody else will open.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    descriptor, locked = -1, descriptor
                    return locked
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _poll_lock(descriptor: int, stop: threading.Event) -> None:
    while not _try_lock(descriptor):
        if stop.wait(POLL_SECONDS):
            raise StoppedError


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(path: Path) -> bool:
    """Remove the file unless somebody holds a lock on it; whether its room is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not _try_lock(descriptor):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _make_youngest(file: int | Path) -> None:
    now = time.time_ns()  # the kernel's own "now" moves in steps of milliseconds
    with suppress(PermissionError):  # another user's file in a shared folder: it keeps its age
        os.utime(file, ns=(now, now))
