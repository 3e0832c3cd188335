"""The manifest of a split: its label space and its shards. Written last by `prepare`, read first by everything else."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data.cache import StoreError
from data.errors import InputError, NoSuchSplitError
from data.files import write_text
from data.labels import LabelSpace
from data.store import Store

T = TypeVar("T")

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One tar of a split: its name beside the manifest (or below the manifest's `location`), bytes and number of samples."""

    name: str
    bytes: int
    samples: int

    def __post_init__(self) -> None:
        if not all(part not in ("", ".", "..") for part in self.name.split("/")) or "\\" in self.name or not self.name.isprintable():
            raise ValueError(f"name {self.name!r} of a shard is not that of a file below its folder")
        if self.bytes < 0 or self.samples < 0:
            raise ValueError(f"shard {self.name} of {self.bytes} bytes and {self.samples} samples")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one split is: written last by `prepare`, read first by everything else."""

    dataset: str
    split: str
    label_space: LabelSpace
    shards: tuple[ShardInfo, ...]
    source_fingerprint: str
    """Tells whether the source files changed since; see `prepare`."""
    location: str | None = None
    """Folder or URL of the shards where they do not lie beside the manifest: tars made by others."""

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def write(self, folder: Path) -> None:
        content = {
            "format_version": FORMAT_VERSION,
            "dataset": self.dataset,
            "split": self.split,
            "label_space": self.label_space.to_dict(),
            "num_samples": self.num_samples,
            "shards": [{"name": shard.name, "bytes": shard.bytes, "samples": shard.samples} for shard in self.shards],
            "source_fingerprint": self.source_fingerprint,
            "location": self.location,
        }
        write_text(folder / f"{self.split}.json", json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, store: Store, split: str) -> "Manifest":
        """Raises InputError where the split is not there or its manifest is not one of ours."""
        path = f"{store.location}/{split}.json"
        try:
            content = json.loads(store.read(f"{split}.json"))
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise InputError(
                    f"{path}: format version {version} found, expected {FORMAT_VERSION}; run `taxomix prepare ... overwrite=true`"
                )
            if len(content["label_space"]["classes"]) > 256:
                raise ValueError("more classes than ids")
            return cls(
                dataset=_typed(content["dataset"], str),
                split=_typed(content["split"], str),
                label_space=LabelSpace.from_dict(content["label_space"], origin=path),
                shards=tuple(
                    ShardInfo(name=_typed(shard["name"], str), bytes=_typed(shard["bytes"], int), samples=_typed(shard["samples"], int))
                    for shard in content["shards"]
                ),
                source_fingerprint=_typed(content["source_fingerprint"], str),
                location=None if content["location"] is None else _typed(content["location"], str),
            )
        except FileNotFoundError:
            try:
                there = [name.removesuffix(".json") for name in store.list(".json")]
                found = f"splits {', '.join(there)} found" if there else "no split found"
            except FileNotFoundError:
                found = "no such folder"
            raise NoSuchSplitError(
                f"{store.location}: {found}, expected the shards of split {split!r}; write them with `taxomix prepare`"
            ) from None
        except InputError:
            raise
        except StoreError as error:
            raise InputError(f"{error}; expected a store that answers; check the address and the rights") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path}: {type(error).__name__} {error}; not a manifest of shards, run `taxomix prepare` again") from None


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"{value!r} found, expected {kind.__name__}")
    return value
