"""Shards: WebDataset tars with one index and one manifest per split.

    DATASET/train-00000.tar   key.jpg, key.png (native ids; absent without pixel labels), key.json (boxes, size, source)
    DATASET/train.parquet     index: where each member lies, image size, labels present and their pixel counts
    DATASET/train.json        manifest: label space and shards; written last, so a split without it is not there

The tars are written with the webdataset library and any reader of that library reads them. Our reader goes by the
index instead: any sample is one `pread` away, in any order.
"""

import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import InputError
from data.files import atomic_write, write_text
from data.images import encode_label
from data.labels import LabelSpace

FORMAT_VERSION = 1

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        *((f"{member}_{what}", pa.int64()) for member in ("jpg", "png", "json") for what in ("offset", "bytes")),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("num_boxes", pa.int32()),
        ("label_ids", pa.list_(pa.uint8())),
        ("label_pixels", pa.list_(pa.int64())),
    ]
)
"""`label_ids` are the native ids that occur (ignored ones too), `label_pixels` how many pixels each has; of a box-labelled
sample the ids of its boxes and the box areas. A member that a sample lacks has 0 bytes."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its annotation, encoded, on the way into a shard.

    `label` is (H, W) uint8 native ids or None, `boxes` (N, 5) int32 of x1, y1, x2, y2 (pixels, inclusive) and native id.
    """

    key: str
    jpeg: bytes
    height: int
    width: int
    label: np.ndarray | None
    boxes: np.ndarray
    source: str


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """One sample as it lies in a shard: bytes of its members, `label` None where there is no label image."""

    key: str
    jpeg: bytes
    label: bytes | None
    boxes: np.ndarray


def shard_name(split: str, shard: int) -> str:
    return f"{split}-{shard:05d}.tar"


def write_shard(path: Path, samples: Iterable[Sample], *, shard: int, palette: np.ndarray) -> pa.Table:
    """Write one tar atomically and return its rows of the index."""
    # Imported here: webdataset brings torch along, which a reader of one tar does not need.
    from webdataset.writer import TarWriter

    kept: list[Sample] = []
    with atomic_write(path) as file:
        # A fixed time, owner and mode make the bytes a function of the samples alone.
        options = {"encoder": False, "mtime": 0, "user": "taxomix", "group": "taxomix", "mode": 0o644, "compress": False}
        with TarWriter(file, **options) as writer:
            for sample in samples:
                members: dict[str, Any] = {"__key__": sample.key, "jpg": sample.jpeg}
                if sample.label is not None:
                    members["png"] = encode_label(sample.label, palette)
                members["json"] = _describe(sample)
                writer.write(members)
                kept.append(sample)
    with path.open("rb") as file:
        return _index_rows(file, kept, shard)


def _describe(sample: Sample) -> bytes:
    content = {"source": sample.source, "height": sample.height, "width": sample.width, "boxes": sample.boxes.tolist()}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _index_rows(file: IO[bytes], samples: Sequence[Sample], shard: int) -> pa.Table:
    places: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for entry in tar:
            places[entry.name] = (entry.offset_data, entry.size)
    rows = []
    for sample in samples:
        row: dict[str, Any] = {"key": sample.key, "shard": shard, "height": sample.height, "width": sample.width}
        for member in ("jpg", "png", "json"):
            row[f"{member}_offset"], row[f"{member}_bytes"] = places.get(f"{sample.key}.{member}", (0, 0))
        counts = count_labels(sample)
        row["num_boxes"] = len(sample.boxes)
        row["label_ids"] = np.flatnonzero(counts).astype(np.uint8)
        row["label_pixels"] = counts[counts > 0]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def count_labels(sample: Sample) -> np.ndarray:
    """(256,) int64 pixels per native id; for a sample with boxes only, the areas of its boxes."""
    if sample.label is not None:
        return np.bincount(sample.label.ravel(), minlength=256)
    counts = np.zeros(256, np.int64)
    for x1, y1, x2, y2, native_id in sample.boxes:
        counts[native_id] += (x2 - x1 + 1) * (y2 - y1 + 1)
    return counts


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one split is: written last by `prepare`, read first by everything else."""

    dataset: str
    split: str
    label_space: LabelSpace
    num_samples: int
    shards: tuple[str, ...]
    shard_bytes: tuple[int, ...]
    source_fingerprint: str
    """Tells whether the source files changed since; see `prepare`."""

    def write(self, folder: Path) -> None:
        content = {
            "format_version": FORMAT_VERSION,
            "dataset": self.dataset,
            "split": self.split,
            "label_space": self.label_space.to_dict(),
            "num_samples": self.num_samples,
            "shards": [{"name": name, "bytes": size} for name, size in zip(self.shards, self.shard_bytes, strict=True)],
            "source_fingerprint": self.source_fingerprint,
        }
        write_text(folder / f"{self.split}.json", json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path, split: str) -> "Manifest":
        """Raises InputError where the split is not there or its manifest is not one of ours."""
        path = folder / f"{split}.json"
        if not path.is_file():
            there = sorted(p.stem for p in folder.glob("*.json")) if folder.is_dir() else []
            found = f"splits {', '.join(there)} found" if there else ("no split found" if folder.is_dir() else "no such folder")
            raise InputError(f"{folder}: {found}, expected the shards of split {split!r}; write them with `taxomix prepare`")
        try:
            content = json.loads(path.read_text())
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise InputError(f"{path}: format version {version} found, expected {FORMAT_VERSION}; run `taxomix prepare` again")
            return cls(
                dataset=content["dataset"],
                split=content["split"],
                label_space=LabelSpace.from_dict(content["label_space"], origin=str(path)),
                num_samples=content["num_samples"],
                shards=tuple(shard["name"] for shard in content["shards"]),
                shard_bytes=tuple(shard["bytes"] for shard in content["shards"]),
                source_fingerprint=content["source_fingerprint"],
            )
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path}: {type(error).__name__} {error}; not a manifest of shards, run `taxomix prepare` again") from None


def write_index(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write the index of a split: the rows of all its shards, in their order."""
    with atomic_write(path) as file:
        pq.write_table(pa.concat_tables(tables), file, compression="zstd")


class ShardSplit:
    """One split of one prepared dataset, for reading: `len(split)` samples, `split.read(i)` any of them.

    Threads may share one object. Raises InputError when a shard is missing or has not the size the manifest says.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder, split)
        for shard, size in zip(self.manifest.shards, self.manifest.shard_bytes, strict=True):
            path = folder / shard
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                what = "no such file" if found is None else f"{found} bytes found"
                raise InputError(f"{path}: {what}, expected {size} bytes; run `taxomix prepare ... overwrite=true`")
        index_path = folder / f"{split}.parquet"
        if not index_path.is_file():
            raise InputError(f"{index_path}: no such file, expected the index of the split; run `taxomix prepare ... overwrite=true`")
        try:
            self.index = pq.read_table(index_path, schema=INDEX_SCHEMA)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{index_path}: not a readable index ({reason}); run `taxomix prepare ... overwrite=true`") from None
        if len(self.index) != self.manifest.num_samples:
            raise InputError(
                f"{index_path}: {len(self.index)} rows, expected {self.manifest.num_samples}; run `taxomix prepare ... overwrite=true`"
            )
        self._places = {name: self.index[name].to_numpy() for name in self.index.column_names if name.endswith(("_offset", "_bytes"))}
        self._shard = self.index["shard"].to_numpy()
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return self.manifest.num_samples

    @property
    def label_space(self) -> LabelSpace:
        return self.manifest.label_space

    @cached_property
    def keys(self) -> list[str]:
        return self.index["key"].to_pylist()

    def size(self, sample: int) -> tuple[int, int]:
        """Height and width of one image, in pixels."""
        return self.index["height"][sample].as_py(), self.index["width"][sample].as_py()

    def read(self, sample: int) -> EncodedSample:
        """The encoded members of one sample, 0 <= sample < len(self)."""
        label = self._member(sample, "png") if self._places["png_bytes"][sample] else None
        boxes = json.loads(self._member(sample, "json"))["boxes"]
        return EncodedSample(
            key=self.keys[sample], jpeg=self._member(sample, "jpg"), label=label, boxes=np.array(boxes, np.int32).reshape(-1, 5)
        )

    def _member(self, sample: int, member: str) -> bytes:
        offset, size = self._places[f"{member}_offset"][sample], self._places[f"{member}_bytes"][sample]
        content = os.pread(self._descriptor(int(self._shard[sample])), int(size), int(offset))
        if len(content) != size:
            name = self.manifest.shards[self._shard[sample]]
            raise InputError(
                f"{self.folder / name}: {len(content)} of {size} bytes of {self.keys[sample]}.{member} found; prepare the split again"
            )
        return content

    def _descriptor(self, shard: int) -> int:
        descriptor = self._files.get(shard)
        if descriptor is None:
            opened = os.open(self.folder / self.manifest.shards[shard], os.O_RDONLY)
            # Two threads may open the same shard at once: the first to enter it wins, the other closes its own.
            descriptor = self._files.setdefault(shard, opened)
            if descriptor != opened:
                os.close(opened)
        return descriptor
