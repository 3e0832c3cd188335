"""Shards: WebDataset tars with one index and one manifest per split.

    DATASET/train-00000.tar   key.jpg, key.png (native ids; absent without pixel labels), key.json (boxes, size, source)
    DATASET/train.arrow       index: where each member lies, image size, labels present and their pixel counts
    DATASET/train.json        manifest: label space and shards; written last, so a split without it is not there

The tars are byte for byte what the webdataset library writes, and that library reads them. Our reader goes by the
index instead: any sample is one `pread` away, in any order. The index is an Arrow file (Feather), uncompressed, so that
any value is one `pread` away too: what a reader holds in memory does not grow with the samples.
"""

import io
import json
import mmap
import os
import struct
import tarfile
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

import numpy as np
import pyarrow as pa

from data.cache import CacheConfig, CacheFullError, StoreError
from data.errors import InputError, NoSuchSplitError, UnreadableError
from data.files import atomic_write, write_text
from data.images import encode_label
from data.labels import LabelSpace, count_ids
from data.prefetch import Shard
from data.store import LocalStore, Store, open_store

T = TypeVar("T")

FORMAT_VERSION = 2

MEMBERS = ("image", "label", "json")

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        *((f"{member}_{what}", pa.int64()) for member in MEMBERS for what in ("offset", "bytes")),
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
    """One sample as it lies in a shard: bytes of its members, `label` None where there is no label image; `size` is the height
    and width that the index gives."""

    key: str
    image: bytes
    label: bytes | None
    boxes: np.ndarray
    size: tuple[int, int]


def shard_name(split: str, shard: int) -> str:
    return f"{split}-{shard:05d}.tar"


def write_shard(path: Path, samples: Iterable[Sample], *, shard: int, palette: np.ndarray) -> pa.Table:
    """Write one tar atomically and return its rows of the index."""
    rows = []
    # Mode, format and order of the members are those of webdataset's TarWriter, and so are the bytes. That class itself would
    # bring torch into every process of `prepare`: seconds and 200 MB each.
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            places = {
                "image": _add_member(tar, f"{sample.key}.jpg", sample.jpeg),
                "json": _add_member(tar, f"{sample.key}.json", _describe(sample)),
            }
            if sample.label is not None:
                places["label"] = _add_member(tar, f"{sample.key}.png", encode_label(sample.label, palette))
            counts = count_labels(sample.label, sample.boxes)
            rows.append(
                index_row(sample.key, shard, places, height=sample.height, width=sample.width, num_boxes=len(sample.boxes), counts=counts)
            )
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> tuple[int, int]:
    """Append a member; gives where its content begins, and its size."""
    # A fixed time, owner and mode make the bytes a function of the samples alone.
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode, entry.uname, entry.gname = len(content), 0, 0o644, "taxomix", "taxomix"
    tar.addfile(entry, io.BytesIO(content))
    blocks = -(-len(content) // tarfile.BLOCKSIZE)
    return tar.offset - blocks * tarfile.BLOCKSIZE, len(content)


def _describe(sample: Sample) -> bytes:
    content = {"source": sample.source, "height": sample.height, "width": sample.width, "boxes": sample.boxes.tolist()}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def index_row(
    key: str, shard: int, places: Mapping[str, tuple[int, int]], *, height: int, width: int, num_boxes: int, counts: np.ndarray
) -> dict[str, Any]:
    """One row of an index: `places` gives offset and size of each of MEMBERS that is there, `counts` (256,) the pixels of each id."""
    row: dict[str, Any] = {"key": key, "shard": shard, "height": height, "width": width, "num_boxes": num_boxes}
    for member in MEMBERS:
        row[f"{member}_offset"], row[f"{member}_bytes"] = places.get(member, (0, 0))
    row["label_ids"] = np.flatnonzero(counts).astype(np.uint8)
    row["label_pixels"] = counts[counts > 0]
    return row


def count_labels(label: np.ndarray | None, boxes: np.ndarray) -> np.ndarray:
    """(256,) int64 pixels per native id; of a sample with boxes only, the areas of its boxes."""
    if label is not None:
        return count_ids(label)
    counts = np.zeros(256, np.int64)
    for x1, y1, x2, y2, native_id in boxes:
        counts[native_id] += (x2 - x1 + 1) * (y2 - y1 + 1)
    return counts


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


def write_index(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write an index: the rows of `tables` in their order, as one batch, so that a column is one piece of the file."""
    table = pa.concat_tables(tables).combine_chunks()
    with atomic_write(path) as file, pa.ipc.new_file(file, INDEX_SCHEMA) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table)))


def read_index(descriptor: int, *, origin: str) -> pa.Table:
    """The index behind `descriptor`, mapped and not loaded; the descriptor may be closed. Raises InputError that names `origin`."""
    return _map_index(descriptor, origin)[0]


def _map_index(descriptor: int, origin: str) -> tuple[pa.Table, int]:
    """An index and the address that its file is mapped to."""
    try:
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        if not mapped[:8] == ARROW_MAGIC + b"\0\0" or mapped[-6:] != ARROW_MAGIC:
            raise ValueError("no whole Arrow file")
        content = pa.py_buffer(mapped)
        return pa.Table.from_batches(_read_batches(content.slice(8)), INDEX_SCHEMA), content.address
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{origin}: not a readable index ({reason}); run `taxomix prepare ... overwrite=true`") from None


ARROW_MAGIC = b"ARROW1"


def _read_batches(content: pa.Buffer) -> list[pa.RecordBatch]:
    """The one batch of an index, none where that has no rows. Message by message, so that nothing compressed is inflated."""
    messages = pa.ipc.MessageReader.open_stream(content)
    if pa.ipc.read_schema(messages.read_next_message()) != INDEX_SCHEMA:
        raise ValueError("columns are not those of an index")
    batches: list[pa.RecordBatch] = []
    with suppress(StopIteration):
        while len(batches) < 2:
            message = messages.read_next_message()
            if _is_compressed(message.metadata.to_pybytes()):
                raise ValueError("compressed")
            batches.append(pa.ipc.read_record_batch(message, INDEX_SCHEMA))
    for batch in batches:
        batch.validate()
        if any(column.null_count for column in batch.columns):
            raise ValueError("values are missing")
    if len(batches) > 1:
        raise ValueError("several batches")
    return batches


def _is_compressed(metadata: bytes) -> bool:
    """Whether the description of a batch, a FlatBuffer, has the entry for compression: it is number 3 of that table."""

    def entry(table: int, number: int) -> int:
        """Where the entry of a table lies; 0 where the table has none."""
        listed = table - struct.unpack_from("<i", metadata, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", metadata, listed)[0]:
            return 0
        offset: int = struct.unpack_from("<H", metadata, listed + 4 + 2 * number)[0]
        return table + offset if offset else 0

    try:
        header = entry(struct.unpack_from("<I", metadata, 0)[0], 2)
        return bool(entry(header + struct.unpack_from("<I", metadata, header)[0], 3))
    except struct.error:
        raise ValueError("damaged") from None


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """Native ids by sample: those of sample i are `ids[starts[i] : starts[i + 1]]` (uint8), with `pixels` (int64) each."""

    starts: np.ndarray
    ids: np.ndarray
    pixels: np.ndarray

    @cached_property
    def samples(self) -> np.ndarray:
        """(len(ids),) int64: the sample that each entry belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def total(self, samples: np.ndarray | None = None) -> np.ndarray:
        """(256,) int64 pixels per native id, over all samples or those that `samples` numbers."""
        weights = np.ones(len(self.starts) - 1, np.int64) if samples is None else np.bincount(samples, minlength=len(self.starts) - 1)
        totals = np.zeros(256, np.int64)
        np.add.at(totals, self.ids, self.pixels * weights[self.samples])
        return totals


class ShardSplit:
    """One split of one prepared dataset, for reading: `len(split)` samples, `split.read(i)` any of them.

    `location` is a folder or any fsspec URL. Threads may share one object. Shards are opened when they are needed and only
    so many stay open, so a damaged or vanished one is met when one of its samples is read.
    """

    MAX_OPEN = 64
    """Shards that stay open: as many as one window of the order holds (data/order.py)."""

    def __init__(self, location: str | Path, split: str, *, cache: CacheConfig | None = None) -> None:
        self.store = open_store(location, cache)
        self.manifest = Manifest.read(self.store, split)
        self.location = self.store.location
        self.store = self.store.versioned(self.manifest.source_fingerprint)
        self._shard_store = self.store
        if self.manifest.location is not None:
            self._shard_store = open_store(self.manifest.location, cache).versioned(self.manifest.source_fingerprint)
        self._index_name = f"{split}.arrow"
        self._index_file = self._open_index()
        index, address = _map_index(self._index_file.descriptor, self._index_path)
        if not 0 < len(index) == self.manifest.num_samples:
            raise InputError(
                f"{self._index_path}: {len(index)} rows, expected {self.manifest.num_samples}; run `taxomix prepare ... overwrite=true`"
            )
        place = partial(_buffer, index, address)
        columns = [field for field in INDEX_SCHEMA if pa.types.is_integer(field.type)]
        self._columns = {field.name: _Column(self._index_file, place(field.name, 1), field.type.bit_width // 8) for field in columns}
        self._key_starts = _Column(self._index_file, place("key", 1), 4)
        self._key_texts = place("key", 2)
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = Lock()
        if self.is_remote:
            _REMOTE_SPLITS.add(self)

    def _open_index(self) -> "_OpenFile":
        try:
            return _OpenFile(self.store.open(self._index_name, size=None))
        except FileNotFoundError:
            raise InputError(
                f"{self._index_path}: no such file, expected the index of the split; run `taxomix prepare ... overwrite=true`"
            ) from None

    @property
    def _index_path(self) -> str:
        return f"{self.location}/{self._index_name}"

    @property
    def index(self) -> pa.Table:
        """The whole index, mapped anew for each use: what is looked at counts as memory for as long as the table is held."""
        return read_index(self._index_file.descriptor, origin=self._index_path)

    def __len__(self) -> int:
        return self.manifest.num_samples

    @property
    def label_space(self) -> LabelSpace:
        return self.manifest.label_space

    @property
    def is_remote(self) -> bool:
        """Whether shards are copied to this host before they are read."""
        return not isinstance(self._shard_store, LocalStore)

    def shard(self, sample: int) -> Shard:
        """The shard that a sample lies in, to be fetched ahead of need."""
        info = self.manifest.shards[self._columns["shard"][sample]]
        return Shard(self._shard_store, info.name, info.bytes)

    def key(self, sample: int) -> str:
        start, end = self._key_starts[sample], self._key_starts[sample + 1]
        if not 0 <= start <= end <= self._key_texts.size:
            return ""
        return os.pread(self._index_file.descriptor, end - start, self._key_texts.offset + start).decode(errors="replace")

    @property
    def keys(self) -> list[str]:
        """All keys, in the order of the index."""
        keys = self.index["key"]
        try:
            keys.validate(full=True)
        except pa.ArrowException as error:
            raise self._damaged(error) from None
        return keys.to_pylist()

    def _damaged(self, reason: object) -> InputError:
        return InputError(f"{self.location}: the index is damaged ({reason}); run `taxomix prepare ... overwrite=true`")

    def labels(self) -> "LabelCounts":
        """Which native ids each sample holds, and how much of them; reads all of these columns."""
        index = self.index
        ids, pixels = index["label_ids"].chunk(0), index["label_pixels"].chunk(0)
        try:
            ids.validate(full=True)
            pixels.validate(full=True)
            if not ids.offsets.equals(pixels.offsets):
                raise ValueError("label_ids and label_pixels differ in length")
            if ids.flatten().null_count or pixels.flatten().null_count:
                raise ValueError("values are missing")
        except (pa.ArrowException, ValueError) as error:
            raise self._damaged(error) from None
        starts = ids.offsets.to_numpy()
        return LabelCounts(starts=starts - starts[0], ids=ids.flatten().to_numpy(), pixels=pixels.flatten().to_numpy())

    def size(self, sample: int) -> tuple[int, int]:
        """Height and width of one image, in pixels."""
        return self._columns["height"][sample], self._columns["width"][sample]

    def read(self, sample: int) -> EncodedSample:
        """The encoded members of one sample, 0 <= sample < len(self). Raises UnreadableError where they are not to be had."""
        try:
            label = self._member(sample, "label") if self._columns["label_bytes"][sample] else None
            boxes = parse_boxes(self._member(sample, "json")) if self._columns["num_boxes"][sample] else NO_BOXES
            image = self._member(sample, "image")
        except InputError:  # the cache cannot be used: no fault of the sample
            raise
        except CacheFullError as error:
            raise InputError(f"{error}; raise data.cache.max_gb, or lower data.window") from error
        except (OSError, ValueError) as error:
            raise self.unreadable(sample, error) from error
        return EncodedSample(key=self.key(sample), image=image, label=label, boxes=boxes, size=self.size(sample))

    def unreadable(self, sample: int, reason: object) -> UnreadableError:
        """The error for a sample that does not read or decode: names shard and key."""
        shard = self._columns["shard"][sample]
        name = self.manifest.shards[shard].name if 0 <= shard < len(self.manifest.shards) else f"shard {shard}"
        return UnreadableError(f"{self._shard_store.location}/{name}: sample {self.key(sample)}: {' '.join(str(reason).split())}")

    def count_lost(self) -> dict[str, int]:
        """Shard name -> samples of it that lie in a file that is gone or beyond the end of one that was cut short.

        Looks at the sizes of local files alone; of remote shards nothing is known before they are read.
        """
        if not isinstance(self._shard_store, LocalStore):
            return {}
        columns = {name: self.index[name].to_numpy() for name in self._columns}
        ends = np.max([columns[f"{member}_offset"] + columns[f"{member}_bytes"] for member in MEMBERS], axis=0)
        lost = {}
        for number, shard in enumerate(self.manifest.shards):
            path = self._shard_store.folder / shard.name
            found = path.stat().st_size if path.is_file() else 0
            if found < shard.bytes:
                lost[shard.name] = int(np.count_nonzero(ends[columns["shard"] == number] > found))
        return lost

    def _member(self, sample: int, member: str) -> bytes:
        offset, size = self._columns[f"{member}_offset"][sample], self._columns[f"{member}_bytes"][sample]
        return self._shard(self._columns["shard"][sample]).read(offset, size)

    def _shard(self, number: int) -> "_OpenFile":
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        if not 0 <= number < len(self.manifest.shards):
            raise ValueError(f"shard {number} of {len(self.manifest.shards)}")
        # Outside the lock: it may mean a download. Two threads may open the same shard at once, which does no harm.
        opened = _OpenFile(self._open_copy(self.manifest.shards[number]))
        with self._lock:
            self._open[number] = opened
            while len(self._open) > self.MAX_OPEN:
                self._open.popitem(last=False)
        return opened

    def _open_copy(self, info: ShardInfo) -> int:
        """A descriptor of a shard. Where the cache is full of what is open, all splits of this process close theirs and it tries again."""
        for seconds in (0.0, 0.1, 0.5, 2.0):
            try:
                return self._shard_store.open(info.name, size=info.bytes)
            except CacheFullError:
                for split in list(_REMOTE_SPLITS):
                    with split._lock:
                        split._open.clear()
                time.sleep(seconds)
        return self._shard_store.open(info.name, size=info.bytes)


_REMOTE_SPLITS: "WeakSet[ShardSplit]" = WeakSet()
"""The splits of this process whose open shards keep files in a cache."""


class _OpenFile:
    """A descriptor that is closed with its last user: one thread may still read what another has just dropped."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.bytes = os.fstat(descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        if size > MAX_MEMBER_BYTES:
            raise ValueError(f"a member of {size} bytes, at most {MAX_MEMBER_BYTES} are read")
        if not (offset >= 0 and size > 0 and offset + size <= self.bytes):
            raise ValueError(f"a member at bytes {offset} to {offset + size} is not in this shard of {self.bytes} bytes")
        content = os.pread(self.descriptor, size, offset)
        if len(content) != size:
            raise ValueError(f"{len(content)} of {size} bytes read at {offset}")
        return content

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)


class _Buffer(NamedTuple):
    """Where a piece of a column lies in the file of an index, in bytes."""

    offset: int
    size: int


def _buffer(index: pa.Table, address: int, column: str, number: int) -> _Buffer:
    """Buffer `number` of a column of an index that is mapped to `address`: 1 holds values, or the places of texts, 2 the texts."""
    found = index[column].chunk(0).buffers()[number]
    if found is None:  # all texts are empty
        return _Buffer(0, 0)
    return _Buffer(found.address - address, found.size)


class _Column:
    """Whole numbers of an index, read one by one from its file: mapped pages that were looked at would count as memory."""

    def __init__(self, file: _OpenFile, place: _Buffer, width: int) -> None:
        self._file, self._place, self._width = file, place, width

    def __getitem__(self, row: int) -> int:
        content = os.pread(self._file.descriptor, self._width, self._place.offset + self._width * row)
        return int.from_bytes(content, "little", signed=True)


NO_BOXES = np.zeros((0, 5), np.int32)

MAX_JSON_BYTES = 2**22

MAX_MEMBER_BYTES = 2**28


def parse_boxes(content: bytes) -> np.ndarray:
    """The boxes (N, 5) int32 of a sample's JSON. Raises ValueError for anything else than a list of five whole numbers each."""
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"{len(content)} bytes of JSON, at most {MAX_JSON_BYTES} are read")
    try:
        boxes = json.loads(content)["boxes"]
        if not all(len(box) == 5 and all(type(value) is int for value in box) for box in boxes):
            raise TypeError("not five whole numbers each")
        return np.array(boxes, np.int32).reshape(-1, 5)
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"boxes do not read: {type(error).__name__} {error}") from error
