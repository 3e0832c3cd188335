"""Where shards lie: a local folder, or any URL that fsspec knows, whose files are read from whole local copies.

A remote filesystem takes its options (endpoint, anonymous access, credentials) from where fsspec and its own client
library look for them, never from a job's config:

    FSSPEC_S3_ENDPOINT_URL=https://minio.example:9000     or AWS_ENDPOINT_URL, or endpoint_url in ~/.aws/config
    FSSPEC_S3_ANON=true                                   public buckets
    ~/.config/fsspec/*.json, FSSPEC_S3='{"...": ...}'     any argument of the filesystem
    AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws/credentials    as for every AWS tool
"""

import hashlib
import logging
import os
import platform
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from data.cache import CacheConfig, CacheFullError, MissingFileError, ShardCache, StoppedError, StoreError
from data.errors import InputError
from data.remote import Watch, is_lasting, open_filesystem, reason

T = TypeVar("T")
log = logging.getLogger(__name__)

READ_LIMIT = 64 << 20
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 15.0
REMEMBER_SECONDS = 10.0


def open_store(location: str | Path, cache: CacheConfig | None = None) -> "Store":
    """The store at `location`: a URL such as s3://bucket/folder, or a local folder (file:// too). Touches neither."""
    text = str(location)
    if text.startswith(("file://", "local://")):
        return LocalStore(Path(text.split("://", 1)[1]))
    return RemoteStore(text, cache or CacheConfig()) if "://" in text else LocalStore(Path(text).expanduser())


class Store(ABC):
    """A folder of files, here or elsewhere. Threads may share one object, and it can be sent to another process.

    Names are relative to `location` and may hold slashes. What cannot be had raises StoreError; of these, a file that is
    not there raises MissingFileError, which is a FileNotFoundError too.
    """

    location: str
    """As the user gave it, without a password; for errors."""

    @abstractmethod
    def read(self, name: str, *, limit: int = READ_LIMIT) -> bytes:
        """The content of a small file as it is now. Raises InputError where it has more than `limit` bytes."""

    @abstractmethod
    def open(self, name: str, *, size: int | None, stop: threading.Event | None = None) -> int:
        """A descriptor of a local copy of the file, to be closed by the caller; until then the copy stays.

        A remote file is whole: of `size` bytes, or where that is None of as many as the server says. A local file is
        what it is. Raises CacheFullError where room can only be made by closing other descriptors, StoppedError once `stop` is
        set and the file is still awaited.
        """

    @abstractmethod
    def fetch(self, name: str, *, size: int | None, keep: Collection[Path] = frozenset(), stop: threading.Event | None = None) -> None:
        """Bring a remote file here ahead of need, removing nothing of `keep` for it. Raises StoppedError once `stop` is set."""

    @abstractmethod
    def touch(self, name: str, *, size: int | None) -> bool:
        """Whether `open` would give the file without asking a server; a copy is then the last to be removed."""

    @abstractmethod
    def copy_path(self, name: str) -> Path | None:
        """Where the copy of a remote file lies or will lie; None where none is made. For `keep`; use `open` to read."""

    @abstractmethod
    def list(self, suffix: str = "") -> Sequence[str]:
        """Names of the files directly in this folder that end in `suffix`, sorted."""

    def versioned(self, version: str) -> "Store":
        """The same store, its copies kept apart from those of other versions: what `version` says of the content, such as
        the fingerprint in a manifest. Without it, a file replaced by one of the same size is not seen to be another."""
        return self

    def url(self, name: str) -> str:
        """The file as a text, for errors."""
        return f"{self.location}/{name}"


class LocalStore(Store):
    """A folder of this machine; files are read where they lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = str(folder)

    def read(self, name: str, *, limit: int = READ_LIMIT) -> bytes:
        path = self._path(name)
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except OSError as error:
            raise self._failure(path, error) from error
        if len(content) > limit:
            raise InputError(f"{path}: more than {limit} bytes found, expected a small file; check that it is the right one")
        return content

    def open(self, name: str, *, size: int | None, stop: threading.Event | None = None) -> int:
        path = self._path(name)
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._failure(path, error) from error

    def fetch(self, name: str, *, size: int | None, keep: Collection[Path] = frozenset(), stop: threading.Event | None = None) -> None:
        """Nothing to do: it is here."""

    def touch(self, name: str, *, size: int | None) -> bool:
        return True

    def copy_path(self, name: str) -> Path | None:
        return None

    def list(self, suffix: str = "") -> Sequence[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(suffix) and entry.is_file())
        except OSError as error:
            raise self._failure(self.folder, error) from error

    def _path(self, name: str) -> Path:
        return self.folder / _checked(name, self.location)

    @staticmethod
    def _failure(path: Path, error: OSError) -> StoreError:
        if isinstance(error, FileNotFoundError):
            return MissingFileError(f"{path}: no such file")
        return StoreError(f"{path}: {error.strerror or error}")


class RemoteStore(Store):
    """A folder behind a URL; shards are read from copies in the cache.

    A request that fails for a reason that may pass is made again, with growing waits, for `cache.retry_seconds`. A file
    that failed so long is for some seconds not asked for at all, and then once each time, until it comes.
    """

    def __init__(self, location: str, cache: CacheConfig, version: str = "") -> None:
        self.location = re.sub(r"://[^/@]*@", "://", location).rstrip("/")
        self._location, self._cache_config, self._version = location.rstrip("/"), cache, version
        self._cache = ShardCache(cache)
        self._filesystem: tuple[Any, str] | None = None
        self._filesystem_lock = threading.Lock()
        self._failed: dict[str, tuple[float, StoreError]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStore, (self._location, self._cache_config, self._version)

    def versioned(self, version: str) -> Store:
        return RemoteStore(self._location, self._cache_config, version)

    def read(self, name: str, *, limit: int = READ_LIMIT) -> bytes:
        return self._retry(name, partial(self._read_whole, name, limit))

    def open(self, name: str, *, size: int | None, stop: threading.Event | None = None) -> int:
        return self._get(name, size, frozenset(), stop)

    def fetch(self, name: str, *, size: int | None, keep: Collection[Path] = frozenset(), stop: threading.Event | None = None) -> None:
        os.close(self._get(name, size, keep, stop))

    def touch(self, name: str, *, size: int | None) -> bool:
        return self._cache.touch(self.copy_path(name), size)

    def copy_path(self, name: str) -> Path:
        return self._cache.path(self._location, self._version, _checked(name, self.location))

    def list(self, suffix: str = "") -> Sequence[str]:
        entries = self._retry("", partial(self._request, "ls", "", detail=True))
        names = [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file"]
        return sorted(name for name in names if name.endswith(suffix))

    def _get(self, name: str, size: int | None, keep: Collection[Path], stop: threading.Event | None) -> int:
        path = self.copy_path(name)
        descriptor = self._cache.find(path, size) if size is not None else None
        if descriptor is not None:
            return descriptor
        known = self._failed.get(name)
        if known is not None and time.monotonic() - known[0] < REMEMBER_SECONDS:
            raise type(known[1])(str(known[1]))
        patience = self._cache_config.retry_seconds if known is None else 0
        try:
            size = self._retry(name, partial(self._size, name, stop), stop, patience) if size is None else size
            descriptor = self._get_in_turn(name, path, size, keep, stop, patience)
        except CacheFullError:
            raise
        except StoreError as error:
            self._failed[name] = (time.monotonic(), error)
            raise
        self._failed.pop(name, None)
        return descriptor

    def _get_in_turn(self, name: str, path: Path, size: int, keep: Collection[Path], stop: threading.Event | None, patience: float) -> int:
        start = time.time_ns()
        with self._cache.turn(path, stop) as turn:
            # Whoever had the turn before has brought it, or has failed to.
            descriptor = self._cache.find(path, size)
            if descriptor is not None:
                return descriptor
            turn.raise_failure_since(start)
            try:
                fill = partial(self._cache.fill, path, size, partial(self._transfer, name, size, stop), keep)
                return self._retry(name, fill, stop, patience)
            except StoreError as error:
                turn.fail(error)
                raise

    def _transfer(self, name: str, size: int, stop: threading.Event | None, local: Path) -> None:
        filesystem, root = self._connect()
        Watch(self._cache_config.stall_seconds, stop).download(filesystem, f"{root}/{name}", local, size)

    def _read_whole(self, name: str, limit: int) -> bytes:
        size = self._size(name)
        if size > limit:
            raise InputError(
                f"{self.url(name)}: {size} bytes found, expected a small file of at most {limit}; check that it is the right one"
            )
        content: bytes = self._request("cat_file", name)
        if len(content) != size:
            raise StoreError(f"{len(content)} bytes came, expected {size}")
        return content

    def _size(self, name: str, stop: threading.Event | None = None) -> int:
        found = self._request("info", name, stop=stop)
        if found["type"] != "file" or found.get("size") is None:
            raise FileNotFoundError(f"a {found['type']} found, expected a file of known size")
        return int(found["size"])

    def _request(self, method: str, name: str, *, stop: threading.Event | None = None, **kwargs: Any) -> Any:
        filesystem, root = self._connect()
        filesystem.invalidate_cache()  # its listings: they would show what was there when they were made
        path = f"{root}/{_checked(name, self.location)}" if name else root
        return Watch(self._cache_config.stall_seconds, stop).call(filesystem, method, path, **kwargs)

    def _connect(self) -> tuple[Any, str]:
        with self._filesystem_lock:
            if self._filesystem is None:
                self._filesystem = open_filesystem(self._location)
            return self._filesystem

    def _retry(self, name: str, attempt: Callable[[], T], stop: threading.Event | None = None, patience: float | None = None) -> T:
        """The result of `attempt`, made again after errors that may pass, for `patience` seconds."""
        deadline = time.monotonic() + (self._cache_config.retry_seconds if patience is None else patience)
        number = 0
        while True:
            try:
                return attempt()
            except (InputError, CacheFullError, StoppedError):
                raise  # no fault of the store
            except Exception as error:
                delay = self._delay(name, number)
                if is_lasting(error) or time.monotonic() + delay > deadline:
                    raise self._failure(name, error) from error
                log.warning("%s: %s; asking again in %.1f s", self.url(name), reason(error), delay)
                if (stop or threading.Event()).wait(delay):
                    raise StoppedError from error
                number += 1

    def _delay(self, name: str, number: int) -> float:
        """Doubled each time, and by up to a half shorter, each host and file by its own amount: they do not all come back at once."""
        digest = hashlib.blake2b(f"{platform.node()}/{self.url(name)}/{number}".encode(), digest_size=4).digest()
        longest = min(FIRST_DELAY_SECONDS * 2 ** min(number, 16), LONGEST_DELAY_SECONDS)
        return float(longest * (1 - int.from_bytes(digest) / 2**33))

    def _failure(self, name: str, error: Exception) -> StoreError:
        if isinstance(error, FileNotFoundError):
            return MissingFileError(f"{self.url(name)}: no such file")
        return StoreError(f"{self.url(name)}: {reason(error)}")


def _checked(name: str, location: str) -> str:
    """`name`, once it is known to lie below its store: it may come from a manifest that others wrote."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or str(path) != name:
        raise InputError(f"{location}: file name {name!r} found, expected a plain path below it; mend the manifest that names it")
    return name
