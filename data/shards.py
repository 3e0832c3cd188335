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
import tarfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from weakref import WeakSet

import numpy as np
import pyarrow as pa

from data.cache import CacheConfig, CacheFullError, StoppedError
from data.errors import InputError, UnreadableError
from data.files import OpenFile, atomic_write
from data.images import encode_label
from data.index import INDEX_SCHEMA, MEMBERS, Index, Labels, count_labels, index_row
from data.labels import LabelSpace
from data.manifest import Manifest, ShardInfo
from data.prefetch import Shard
from data.store import LocalStore, open_store


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


class ShardSplit:
    """One split of one prepared dataset, for reading: `len(split)` samples, `split.read(i)` any of them.

    `location` is a folder or any fsspec URL. Threads may share one object. Shards are opened when they are needed and only
    so many stay open, so a damaged or vanished one is met when one of its samples is read.
    """

    MAX_OPEN = 64
    """Shards that stay open; one that is dropped costs an `open` when it is needed again."""

    def __init__(self, location: str | Path, split: str, *, cache: CacheConfig | None = None) -> None:
        self.store = open_store(location, cache)
        self.manifest = Manifest.read(self.store, split)
        self.location = self.store.location
        self.store = self.store.versioned(self.manifest.source_fingerprint)
        self._shard_store = self.store
        if self.manifest.location is not None:
            self._shard_store = open_store(self.manifest.location, cache).versioned(self.manifest.source_fingerprint)
        self._index = self._open_index(f"{split}.arrow")
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._lock = Lock()
        if self.is_remote:
            _REMOTE_SPLITS.add(self)

    def _open_index(self, name: str) -> Index:
        path, remedy = f"{self.location}/{name}", "run `taxomix prepare ... overwrite=true`"
        try:
            index = Index(OpenFile(self.store.open(name, size=None)), origin=path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file, expected the index of the split; {remedy}") from None
        if len(index) != self.manifest.num_samples:
            raise InputError(f"{path}: {len(index)} rows, expected {self.manifest.num_samples}; {remedy}")
        return index

    @property
    def index(self) -> pa.Table:
        """The whole index, one row a sample, mapped anew for each use."""
        return self._index.table

    def __len__(self) -> int:
        return self.manifest.num_samples

    @property
    def label_space(self) -> LabelSpace:
        return self.manifest.label_space

    @property
    def is_remote(self) -> bool:
        """Whether shards are copied to this host before they are read."""
        return not isinstance(self._shard_store, LocalStore)

    def shard(self, sample: int) -> Shard | None:
        """The shard that a sample lies in, to be fetched ahead of need; None where a damaged index names none."""
        number = self._index.value("shard", sample)
        if not 0 <= number < len(self.manifest.shards):
            return None
        return Shard(self._shard_store, self.manifest.shards[number].name, self.manifest.shards[number].bytes)

    def key(self, sample: int) -> str:
        return self._index.key(sample)

    @property
    def keys(self) -> list[str]:
        """All keys, in the order of the index."""
        return self._index.keys()

    def key_order(self) -> np.ndarray:
        """(len(self),) int32: the samples in the order of their keys."""
        return self._index.key_order()

    def labels(self) -> Labels:
        """Which native ids each sample holds, and how much of them."""
        return self._index.labels()

    def size(self, sample: int) -> tuple[int, int]:
        """Height and width of one image, in pixels."""
        return self._index.value("height", sample), self._index.value("width", sample)

    def read(self, sample: int, *, stop: Event | None = None) -> EncodedSample:
        """The encoded members of one sample, 0 <= sample < len(self).

        Raises UnreadableError where they are not to be had, StoppedError once `stop` is set and its shard is still awaited.
        """
        try:
            shard = self._shard(self._index.value("shard", sample), stop)
            label = self._member(shard, sample, "label") if self._index.value("label_bytes", sample) else None
            boxes = parse_boxes(self._member(shard, sample, "json")) if self._index.value("num_boxes", sample) else NO_BOXES
            image = self._member(shard, sample, "image")
        except InputError:  # the cache cannot be used: no fault of the sample
            raise
        except CacheFullError as error:
            raise InputError(f"{error}; raise data.cache.max_gb, or lower data.window") from error
        except (OSError, ValueError) as error:
            raise self.unreadable(sample, error) from error
        return EncodedSample(key=self.key(sample), image=image, label=label, boxes=boxes, size=self.size(sample))

    def unreadable(self, sample: int, reason: object) -> UnreadableError:
        """The error for a sample that does not read or decode: names shard and key."""
        shard = self._index.value("shard", sample)
        name = self.manifest.shards[shard].name if 0 <= shard < len(self.manifest.shards) else f"shard {shard}"
        return UnreadableError(f"{self._shard_store.location}/{name}: sample {self.key(sample)}: {' '.join(str(reason).split())}")

    def count_lost(self) -> dict[str, int]:
        """Shard name -> samples of it that lie in a file that is gone or beyond the end of one that was cut short.

        Looks at the sizes of local files alone; of remote shards nothing is known before they are read.
        """
        if not isinstance(self._shard_store, LocalStore):
            return {}
        index = self.index
        ends = np.max([index[f"{member}_offset"].to_numpy() + index[f"{member}_bytes"].to_numpy() for member in MEMBERS], axis=0)
        lost = {}
        for number, shard in enumerate(self.manifest.shards):
            path = self._shard_store.folder / shard.name
            found = path.stat().st_size if path.is_file() else 0
            if found < shard.bytes:
                lost[shard.name] = int(np.count_nonzero(ends[index["shard"].to_numpy() == number] > found))
        return lost

    def _member(self, shard: OpenFile, sample: int, member: str) -> bytes:
        offset, size = self._index.value(f"{member}_offset", sample), self._index.value(f"{member}_bytes", sample)
        if size > MAX_MEMBER_BYTES:
            raise ValueError(f"a member of {size} bytes, at most {MAX_MEMBER_BYTES} are read")
        return shard.read(offset, size)

    def _shard(self, number: int, stop: Event | None) -> OpenFile:
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        if not 0 <= number < len(self.manifest.shards):
            raise ValueError(f"shard {number} of {len(self.manifest.shards)}")
        # Outside the lock: it may mean a download. Two threads may open the same shard at once, which does no harm.
        opened = OpenFile(self._open_copy(self.manifest.shards[number], stop))
        with self._lock:
            self._open[number] = opened
            while len(self._open) > self.MAX_OPEN:
                self._open.popitem(last=False)
        return opened

    def _open_copy(self, info: ShardInfo, stop: Event | None) -> int:
        """A descriptor of a shard. Where the cache is full of what is open, all splits of this process close theirs and it tries again."""
        for seconds in (0.0, 0.1, 0.5, 2.0):
            try:
                return self._shard_store.open(info.name, size=info.bytes, stop=stop)
            except CacheFullError:
                for split in list(_REMOTE_SPLITS):
                    with split._lock:
                        split._open.clear()
                if (stop or Event()).wait(seconds):
                    raise StoppedError from None
        return self._shard_store.open(info.name, size=info.bytes, stop=stop)


_REMOTE_SPLITS: "WeakSet[ShardSplit]" = WeakSet()
"""The splits of this process whose open shards keep files in a cache."""


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
