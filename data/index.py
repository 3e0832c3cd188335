"""The index of a split: where each member of each sample lies, image sizes, labels present and their pixel counts.

An Arrow file (Feather), uncompressed and of one batch, so that any value is one `pread` away.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.files import OpenFile, atomic_write
from data.labels import IGNORE_INDEX, count_ids

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
    """Native ids of successive samples: those of sample `first` + i are `ids[starts[i] : starts[i + 1]]` (uint8), with `pixels`
    (int64) each."""

    first: int = 0
    starts: np.ndarray
    ids: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def by_class(self, table: np.ndarray) -> np.ndarray:
        """(number of classes, len(self)) float64, exact below 2^53: pixels of each class in each sample, of ids that are not ignored.

        `table` is (256,) uint8 from native ids to classes. Several native ids of one sample may be one class.
        """
        classes = table[self.ids]
        known = classes != IGNORE_INDEX
        num_classes = int(table[table != IGNORE_INDEX].max(initial=0)) + 1
        places = classes[known] * np.int64(len(self)) + np.repeat(np.arange(len(self)), np.diff(self.starts))[known]
        return np.bincount(places, self.pixels[known], num_classes * len(self)).reshape(num_classes, len(self))


class Labels:
    """Which native ids each sample of a split holds, and how much of them: read anew, some samples at a time, whenever it is gone over.

    Raises InputError where the index turns out to be damaged.
    """

    CHUNK = 8192
    """Samples at a time."""

    def __init__(self, index: "Index") -> None:
        self._index = index

    def __iter__(self) -> Iterator[LabelCounts]:
        for first in range(0, len(self._index), self.CHUNK):
            yield self._index.label_counts(first, self.CHUNK)

    def total(self) -> np.ndarray:
        """(256,) int64 pixels per native id, over all samples."""
        totals = np.zeros(256, np.int64)
        for counts in self:
            totals += np.bincount(counts.ids, counts.pixels, 256).astype(np.int64)
        return totals


class Index:
    """The index of one split, read value by value from `file`: pages of a mapped index would count as memory of the reader.

    Raises InputError, which names `origin`, where the file is no index.
    """

    def __init__(self, file: OpenFile, *, origin: str) -> None:
        self._file, self._origin = file, origin
        table, address = _map_index(file.descriptor, origin)
        self._num_rows = len(table)
        if not self._num_rows:
            raise InputError(f"{origin}: 0 rows found, expected some; run `taxomix prepare ... overwrite=true`")
        place = partial(_buffer, table, address)
        columns = [field for field in INDEX_SCHEMA if pa.types.is_integer(field.type)]
        self._columns = {field.name: _Column(file, place(field.name, 1), field.type.bit_width // 8) for field in columns}
        self._key_starts, self._key_texts = _Column(file, place("key", 1), 4), place("key", 2)

    def __len__(self) -> int:
        return self._num_rows

    def value(self, column: str, row: int) -> int:
        """One whole number of the index."""
        return self._columns[column][row]

    def key(self, row: int) -> str:
        start, end = self._key_starts[row], self._key_starts[row + 1]
        if not 0 <= start < end <= self._key_texts.size:
            return ""
        return self._file.read(self._key_texts.offset + start, end - start).decode(errors="replace")

    @property
    def table(self) -> pa.Table:
        """The whole index, mapped anew for each use: what is looked at counts as memory for as long as the table is held."""
        return read_index(self._file.descriptor, origin=self._origin)

    def keys(self) -> list[str]:
        """All keys, in the order of the rows."""
        return self._whole_keys().to_pylist()

    def key_order(self) -> np.ndarray:
        """(number of rows,) int32: the rows in the order of their keys."""
        return sort_keys(self._whole_keys())

    def _whole_keys(self) -> pa.StringArray:
        keys = self.table["key"].chunk(0)
        try:
            keys.validate(full=True)
        except pa.ArrowException as error:
            raise self._damaged(error) from None
        return keys

    def labels(self) -> Labels:
        """Which native ids each sample holds, and how much of them."""
        return Labels(self)

    def label_counts(self, first: int, number: int) -> LabelCounts:
        """Native ids of up to `number` samples from `first` on."""
        table = self.table
        ids, pixels = (table[name].chunk(0).slice(first, number) for name in ("label_ids", "label_pixels"))
        try:
            ids.validate(full=True)
            pixels.validate(full=True)
            if not ids.offsets.equals(pixels.offsets):
                raise ValueError("label_ids and label_pixels differ in length")
            if ids.flatten().null_count or pixels.flatten().null_count:
                raise ValueError("values are missing")
        except (pa.ArrowException, ValueError) as error:
            raise self._damaged(error) from None
        starts = _numpy(ids.offsets)
        return LabelCounts(first=first, starts=starts - starts[0], ids=_numpy(ids.flatten()), pixels=_numpy(pixels.flatten()))

    def _damaged(self, reason: object) -> InputError:
        return InputError(f"{self._origin}: the index is damaged ({reason}); run `taxomix prepare ... overwrite=true`")


def sort_keys(keys: pa.StringArray) -> np.ndarray:
    """(len(keys),) int32: the places of `keys` in the order of their code points, which is that of their bytes; equal ones as they come.

    In the buffers of the array: a list of as many strings would be several times larger.
    """
    order = _numpy(pc.sort_indices(keys)).astype(np.int32)
    pa.default_memory_pool().release_unused()  # arrow would keep what the sorting took
    return order


def _numpy(values: pa.Array) -> np.ndarray:
    """Numbers, none of them missing, where they lie. pyarrow's own `to_numpy` imports pandas where that is there: 0.2 s and 30 MB."""
    return np.from_dlpack(values)


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

    def __init__(self, file: OpenFile, place: _Buffer, width: int) -> None:
        self._file, self._place, self._width = file, place, width

    def __getitem__(self, row: int) -> int:
        return int.from_bytes(self._file.read(self._place.offset + self._width * row, self._width), "little", signed=True)
