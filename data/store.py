"""Where shards lie."""

import os
from pathlib import Path


class LocalStore:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = str(folder)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def open(self, name: str, *, size: int | None = None) -> int:
        return os.open(self.folder / name, os.O_RDONLY)

    def list(self, suffix: str) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*" + suffix)) if self.folder.is_dir() else []


Store = LocalStore


def open_store(location: str | Path) -> LocalStore:
    return LocalStore(Path(location))
