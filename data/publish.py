"""Where `prepare` puts a split: a folder of this machine, or a URL of any filesystem that fsspec knows.

A file gets its name there only once it is whole: by a rename in a folder, by the end of the upload in an object store.
"""

import fcntl
import hashlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import sync_folder
from data.manifest import Manifest
from data.remote import is_lasting, open_filesystem, reason
from data.store import open_store

log = logging.getLogger(__name__)

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})

WAITS_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)


def open_target(location: str, dataset: str) -> "Target":
    """The folder of `dataset` at `location`, which is that folder already where it has the dataset's name."""
    location = location.removeprefix("file://").rstrip("/") or "/"
    if "://" in location:
        return RemoteTarget(location if location.rsplit("/", 1)[1] == dataset else f"{location}/{dataset}")
    folder = Path(location).expanduser().absolute()
    return LocalTarget(folder if folder.name == dataset else folder / dataset)


@contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the file `path` for this process; it is removed afterwards. The lock goes with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{what} is being prepared by another process, expected one at a time; wait for it") from None
            if not _is_at(path, file.fileno()):
                continue  # its last holder removed it after it was opened here
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class Target(ABC):
    """The folder of a dataset, for writing. It can be sent to another process."""

    location: str

    @abstractmethod
    def staging(self, split: str) -> Path:
        """A folder of this machine, the same at each call, for what is not whole yet."""

    @abstractmethod
    def hold(self, split: str) -> AbstractContextManager[None]:
        """Keep other runs on this machine, or on this folder, from writing the split meanwhile. Raises InputError where one does."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """The files that are there: name -> bytes."""

    def manifest(self, split: str) -> Manifest:
        """The manifest of a split that is there."""
        return Manifest.read(open_store(self.location), split)

    @abstractmethod
    def put(self, paths: Sequence[Path]) -> None:
        """Move files of this machine here, in the place of what has their names."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


class LocalTarget(Target):
    """A folder of this machine; what is not whole yet lies in a hidden folder inside."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.location = folder, str(folder)

    def staging(self, split: str) -> Path:
        return self.folder / f".{split}.partial"

    @contextmanager
    def hold(self, split: str) -> Iterator[None]:
        created = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        try:
            with hold_lock(self.folder / f".{split}.lock", f"{self.location}: split {split}"):
                yield
        finally:
            with suppress(OSError):  # the first that holds something, and with it those above
                for folder in created:
                    folder.rmdir()

    def sizes(self) -> dict[str, int]:
        if not self.folder.is_dir():
            return {}
        return {entry.name: entry.stat().st_size for entry in os.scandir(self.folder) if entry.is_file()}

    def put(self, paths: Sequence[Path]) -> None:
        for path in paths:
            os.replace(path, self.folder / path.name)
        sync_folder(self.folder)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


class RemoteTarget(Target):
    """A folder behind a URL. What is not whole yet, and the notes on what is done, lie below XDG_CACHE_HOME (~/.cache).

    Options such as the endpoint come from fsspec's own configuration and from that of the store's client; see data/store.py.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._filesystem: tuple[Any, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteTarget, (self.location,)

    def staging(self, split: str) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        name = hashlib.blake2b(self.location.encode(), digest_size=8).hexdigest()
        return cache / "taxomix" / "prepare" / f"{name}-{split}.partial"

    def hold(self, split: str) -> AbstractContextManager[None]:
        return hold_lock(self.staging(split).with_suffix(".lock"), f"{self.location}: split {split}")

    def sizes(self) -> dict[str, int]:
        entries = self._ask("ls", "", detail=True, absent=[])
        return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: int(entry["size"]) for entry in entries if entry["type"] == "file"}

    def put(self, paths: Sequence[Path]) -> None:
        filesystem, root = self._connect()
        if not OBJECT_STORES.intersection([filesystem.protocol] if isinstance(filesystem.protocol, str) else filesystem.protocol):
            filesystem.makedirs(root, exist_ok=True)  # on an object store it might make a bucket whose name was mistyped
        for path in paths:
            size = path.stat().st_size
            self._ask("put_file", path.name, local=path)
            found = self._ask("size", path.name)
            if found != size:
                raise OSError(f"{self.location}/{path.name}: {found} bytes found after {size} were sent")
            path.unlink()

    def remove(self, name: str) -> None:
        self._ask("rm_file", name, absent=None)

    def _ask(self, method: str, name: str, *, local: Path | None = None, absent: Any = ..., **options: Any) -> Any:
        """A request about a file, made again with growing waits where it fails for a reason that may pass.

        `absent` is the answer where there is no such file; without it that is an error. Raises InputError where asking again is
        of no use.
        """
        filesystem, root = self._connect()
        filesystem.invalidate_cache()
        arguments = [f"{root}/{name}".rstrip("/")] if local is None else [str(local), f"{root}/{name}"]
        for seconds in (*WAITS_SECONDS, None):
            try:
                return getattr(filesystem, method)(*arguments, **options)
            except Exception as error:
                if isinstance(error, FileNotFoundError) and absent is not ...:
                    return absent
                if is_lasting(error):
                    where = f"out={self.location}: {name or method}"
                    raise InputError(f"{where}: {reason(error)}; expected a place to write to, check the address and the rights") from error
                if seconds is None:
                    raise OSError(f"{self.location}/{name}: {reason(error)}") from error
                log.warning("%s/%s: %s; again in %g s", self.location, name, reason(error), seconds)
                time.sleep(seconds)
        raise AssertionError

    def _connect(self) -> tuple[Any, str]:
        if self._filesystem is None:
            self._filesystem = open_filesystem(self.location)
        return self._filesystem
