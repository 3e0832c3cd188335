"""Crafted and damaged files do no harm: each sample reads as an array of its size or is an InputError, in little memory."""

import gzip
import json
import resource
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_foreign import drawn, prepare, write_members, write_tar
from test_shards import files_below
from tiny import BOXES, write_folder

from data.errors import InputError
from data.images import decode_image
from data.index import read_index, write_index
from data.loader import decode
from data.shards import ShardSplit, parse_boxes
from data.tars import Member, TarError, members
from taxomix import main

LITTLE = 256 * 2**20


@contextmanager
def little_memory() -> Iterator[None]:
    """Within it, more than LITTLE bytes beyond what is in use are a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + LITTLE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_the_limit_on_memory_holds() -> None:
    with little_memory(), pytest.raises(MemoryError):
        bytearray(2 * LITTLE)


def read_all(folder: Path, split: str = "train") -> int:
    """Use all that a reader offers; returns how many samples read. Anything but an InputError is a failure of the test."""
    read = 0
    with suppress(InputError):
        opened = ShardSplit(folder, split)
        for number in range(len(opened)):
            with suppress(InputError):
                opened.key(number)
                sample, image, label = decode(opened, number)
                assert image.shape == (*opened.size(number), 3)
                assert label is None or label.shape == image.shape[:2]
                assert sample.boxes.shape[1:] == (5,)
                read += 1
        with suppress(InputError):
            assert len(opened.keys) == len(opened)
        with suppress(InputError):
            assert opened.labels().total().shape == (256,)
    return read


# Shards, index and manifest that lie or are damaged


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small prepared datasets, disks and boxed."""
    root = tmp_path_factory.mktemp("whole")
    for kind in ("disks", "boxed"):
        source = write_folder(kind, root / "source", train=4, val=1, seed=3)
        assert main(["prepare", "dataset=folder", f"source={source}", f"out={root}", "samples_per_shard=2", "workers=1"]) == 0
        assert read_all(root / kind) == 4
    return root


@pytest.fixture(scope="module")
def copy(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives a fresh copy of a dataset."""
    root = tmp_path_factory.mktemp("copy")

    def fresh(kind: str) -> Path:
        shutil.rmtree(root / kind, ignore_errors=True)
        return Path(shutil.copytree(whole / kind, root / kind))

    return fresh


@given(
    kind=st.sampled_from(["disks", "boxed"]),
    name=st.sampled_from(["train.arrow", "train.json", "train-00000.tar", "train-00001.tar"]),
    damages=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=300)
def test_damaged_bytes(kind: str, name: str, damages: list[tuple[float, int]], cut: float | None, copy: Callable[[str], Path]) -> None:
    folder = copy(kind)
    content = bytearray((folder / name).read_bytes())
    for place, value in damages:
        content[int(place * len(content))] = value
    (folder / name).write_bytes(content if cut is None else content[: int(cut * len(content))])
    with little_memory():
        # A damaged shard costs its own two samples at most.
        assert (2 if name.endswith(".tar") else 0) <= read_all(folder) <= 4


NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 511, 512, 2**20, 2**31 - 1]) | st.integers(-(2**31), 2**31 - 1)
LONG_NUMBERS = NUMBERS | st.sampled_from([-(2**63), 2**40, 2**62, 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
COLUMNS = {
    **dict.fromkeys(("shard", "height", "width", "num_boxes"), NUMBERS),
    **{f"{member}_{what}": LONG_NUMBERS for member in ("image", "label", "json") for what in ("offset", "bytes")},
    "key": st.sampled_from(["", "../../etc/passwd", "/etc/passwd", "\0", "a" * 10**6]),
    "label_ids": st.sampled_from([[], [0], [255] * 3, None]),
    "label_pixels": st.sampled_from([[], [-1], [2**63 - 1], None]),
}


@given(
    kind=st.sampled_from(["disks", "boxed"]),
    lies=st.lists(
        st.sampled_from(list(COLUMNS)).flatmap(lambda name: st.tuples(st.just(name), st.integers(0, 3), COLUMNS[name])), min_size=1
    ),
)
@settings(max_examples=150)
def test_an_index_that_lies(kind: str, lies: list[tuple[str, int, Any]], copy: Callable[[str], Path]) -> None:
    folder = copy(kind)
    with (folder / "train.arrow").open("rb") as file:
        table = read_index(file.fileno(), origin="test")
    rows = table.to_pylist()
    for name, row, value in lies:
        rows[row][name] = value
    write_index(folder / "train.arrow", [pa.Table.from_pylist(rows, schema=table.schema)])
    is_refused = any(value is None for _, _, value in lies)
    with little_memory():
        assert (0 if is_refused else 4 - len({row for _, row, _ in lies})) <= read_all(folder) <= 4


def test_an_index_of_several_batches_or_missing_values_is_told(copy: Callable[[str], Path]) -> None:
    folder = copy("disks")
    with (folder / "train.arrow").open("rb") as file:
        table = read_index(file.fileno(), origin="test")
    rows = [{**row, "height": None} for row in table.to_pylist()]
    table = pa.Table.from_pylist(table.to_pylist(), schema=table.schema)  # a copy: the file is written anew
    with pa.OSFile(str(folder / "train.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    with pytest.raises(InputError, match="several batches"):
        ShardSplit(folder, "train")
    write_index(folder / "train.arrow", [pa.Table.from_pylist(rows, schema=table.schema)])
    with pytest.raises(InputError, match="values are missing"):
        ShardSplit(folder, "train")


def test_a_compressed_index_is_no_bomb(copy: Callable[[str], Path]) -> None:
    """A hundred megabytes of zeros in some kilobytes."""
    folder = copy("disks")
    with (folder / "train.arrow").open("rb") as file:
        schema = read_index(file.fileno(), origin="test").schema
    number = 10**6
    columns = {
        "key": pa.array([""], pa.string()).take(pa.array(np.zeros(number, np.int32))),
        **{
            name: pa.array(np.zeros(number), schema.field(name).type)
            for name in schema.names
            if name not in ("key", "label_ids", "label_pixels")
        },
        **{
            name: pa.array([[]], schema.field(name).type).take(pa.array(np.zeros(number, np.int32)))
            for name in ("label_ids", "label_pixels")
        },
    }
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(folder / "train.arrow"), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        writer.write_table(pa.table(columns, schema=schema))
    del columns
    assert (folder / "train.arrow").stat().st_size < 10**6
    with pytest.raises(InputError, match="compressed"):
        ShardSplit(folder, "train")


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "../../../etc/passwd", "/etc/passwd", "s3://", "\0", "\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
PLACES: list[tuple[Any, ...]] = [
    *((name,) for name in ("format_version", "dataset", "split", "num_samples", "shards", "source_fingerprint", "location", "label_space")),
    *(("shards", 0, *rest) for rest in ((), ("name",), ("bytes",), ("samples",))),
    *(("label_space", name) for name in ("name", "classes", "ignore_ids", "supervision")),
    *(("label_space", "classes", 0, *rest) for rest in ((), ("id",), ("name",), ("color",))),
]


@given(place=st.sampled_from(PLACES), value=JUNK)
@example(place=("shards", 0, "name"), value="../boxed/train-00000.tar")
@settings(max_examples=200)
def test_a_manifest_that_lies(place: tuple[Any, ...], value: Any, copy: Callable[[str], Path]) -> None:
    folder = copy("disks")
    content = json.loads((folder / "train.json").read_text())
    owner = content
    for step in place[:-1]:
        owner = owner[step]
    owner[place[-1]] = value
    (folder / "train.json").write_text(json.dumps(content))
    with little_memory():
        assert read_all(folder) in (0, 2, 4)  # all, none, or what is not in the shard that it lies about


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "a/../../x.tar", "", ".", "a\0b", "a\\..\\b"])
def test_names_of_shards_stay_below_their_folder(name: str, copy: Callable[[str], Path]) -> None:
    folder = copy("disks")
    content = json.loads((folder / "train.json").read_text())
    content["shards"][0]["name"] = name
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="name"):
        ShardSplit(folder, "train")


BOMBS = {
    "nested": b"[" * 10**6,
    "nested boxes": b'{"boxes": ' + b"[" * 10**6,
    "nested objects": b'{"a":' * 10**6,
    "a number of many digits": b'{"boxes": [[' + b"9" * 10**6 + b"]]}",
    "more digits": b'{"boxes": [[' + b"9" * 10**8 + b"]]}",
    "exponent": b'{"boxes": [[1e999999999, 0, 0, 0, 0]]}',
    "not a number": b'{"boxes": [[NaN, 0, 0, 0, 0]]}',
    "fractions": b'{"boxes": [[0.5, 0, 1, 1, 0]]}',
    "texts": b'{"boxes": [["0", "0", "1", "1", "0"]]}',
    "truths": b'{"boxes": [[true, 0, 1, 1, 0]]}',
    "four": b'{"boxes": [[0, 0, 1, 1]]}',
    "five times four": b'{"boxes": [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]}',
    "flat": b'{"boxes": [0, 0, 1, 1, 0]}',
    "too large": b'{"boxes": [[0, 0, 2147483648, 1, 0]]}',
    "no object": b"3",
    "no boxes": b"{}",
    "null": b'{"boxes": null}',
    "no text": b"\xff\xfe\x00",
    "zeros": bytes(10**6),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bad_json_is_a_value_error(name: str) -> None:
    with little_memory(), pytest.raises(ValueError):  # noqa: PT011  the text differs
        parse_boxes(BOMBS[name])


def test_a_manifest_that_is_a_bomb(copy: Callable[[str], Path]) -> None:
    folder = copy("disks")
    for bomb in BOMBS.values():
        (folder / "train.json").write_bytes(bomb)
        with little_memory(), pytest.raises(InputError):
            ShardSplit(folder, "train")


# Pictures


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *, color: int = 0, pixels: bytes = bytes(1000), extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A picture whose header says another size."""
    content = drawn()["jpg"]
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


PICTURES = {
    "PNG": png(100_000, 100_000),
    "PNG of one row": png(2**31 - 1, 1),
    "PNG with a bomb of text": png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * LITTLE)))),
    "PNG with more pixels than it says": png(8, 8, pixels=bytes(2 * LITTLE))[:-20],
    "JPEG": jpeg(65_000, 65_000),
    "tall JPEG": jpeg(8, 65_500),
}


@pytest.mark.parametrize("name", PICTURES)
def test_image_bombs_in_a_shard(name: str, copy: Callable[[str], Path]) -> None:
    """The index has a sample's image and its label replaced by the bomb, appended to the shard."""
    folder = copy("disks")
    with (folder / "train.arrow").open("rb") as file:
        table = read_index(file.fileno(), origin="test")
    rows, shard = table.to_pylist(), folder / "train-00000.tar"
    rows[0] |= {"image_offset": shard.stat().st_size, "image_bytes": len(PICTURES[name])}
    rows[1] |= {"label_offset": shard.stat().st_size, "label_bytes": len(PICTURES[name])}
    shard.write_bytes(shard.read_bytes() + PICTURES[name])
    write_index(folder / "train.arrow", [pa.Table.from_pylist(rows, schema=table.schema)])
    with little_memory():
        assert read_all(folder) == 2
    with little_memory(), suppress(ValueError):
        decode_image(PICTURES[name])


# Tars made by others


def header(name: str = "a.jpg", *, size: int | None = None, type: bytes = b"0", raw_size: bytes | None = None) -> bytes:
    """One header block, its checksum right whatever it says."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size or 0, type
    block = bytearray(entry.tobuf(tarfile.GNU_FORMAT)[-512:])
    if raw_size is not None:
        block[124:136] = raw_size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)
HUGE = b"\x80" + (2**62).to_bytes(11, "big")
NEGATIVE = b"\xff" + (-5).to_bytes(11, "big", signed=True)


def pax(text: bytes) -> bytes:
    record = b"%d %s\n" % (len(text) + 5, text) if len(text) + 5 > 9 else b"9 %s\n" % text
    record = next(b"%d %s\n" % (n, text) for n in range(len(text), len(text) + 12) if len(b"%d %s\n" % (n, text)) == n)
    return header("pax", size=len(record), type=b"x") + record + bytes(-len(record) % 512)


BAD_TARS = {
    "a size beyond the file": (header(size=10**6) + END, "cut short"),
    "a huge size": (header(raw_size=HUGE) + END, "cut short"),
    "a negative size": (header(raw_size=NEGATIVE) + END, "damaged"),
    "a size that is no number": (header(raw_size=b"nonsense!!!!") + END, "damaged"),
    "a name of gigabytes": (header(size=2**33 - 1, type=b"L") + END, "a name of 8589934591 bytes"),
    "a name of 2^62 bytes": (header(raw_size=HUGE, type=b"L") + END, "a name of"),
    "an extended header of gigabytes": (header(size=2**33 - 1, type=b"x") + END, "a name of"),
    "a name that is cut": (header(size=5000, type=b"L") + b"a" * 1000, "cut short"),
    "an extended header that is none": (header(size=512, type=b"x") + b"a" * 512 + END, "does not read"),
    "an extended header of a false length": (header(size=20, type=b"x") + b"99 path=a".ljust(512, b"\0") + END, "does not read"),
    "an extended header of length 0": (header(size=20, type=b"x") + b"0 path=a".ljust(512, b"\0") + END, "does not read"),
    "an extended size beyond the file": (pax(b"size=99999999999") + header() + END, "cut short"),
    "an extended size of many digits": (pax(b"size=" + b"9" * 4000) + header() + END, "damaged"),
    "a negative extended size": (pax(b"size=-512") + header() + END, "damaged"),
    "a sparse file": (header(type=b"S") + END, "sparse"),
    "a sparse file of the other kind": (pax(b"GNU.sparse.major=1") + header(size=512) + b"9" * 512 + END, "sparse"),
    "no end": (header(), "without the mark of its end"),
    "nothing": (b"", "without the mark of its end"),
    "half a header": (header()[:300], "cut short"),
    "two tars joined": (header() + END + header() + END, "goes on after its end"),
    "compressed": (gzip.compress(header() + END), "compressed"),
    "a picture": (drawn()["jpg"], "damaged or cut short"),
    "damage between members": (header() + b"x" * 512 + header("b.jpg") + END, "no header of a member at byte 512"),
}


@pytest.mark.parametrize("name", BAD_TARS)
def test_bad_tars_are_one_line(name: str, tar_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = BAD_TARS[name]
    (tar_source / "0.tar").write_bytes(content)
    with little_memory():
        assert prepare(tar_source) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"taxomix prepare: {tar_source / '0.tar'}: ")
    assert message in error
    assert error.count("\n") == 1
    assert not files_below(tar_source.parent / "out")


def test_what_lies_before_the_damage_can_be_kept(tar_source: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_tar(tar_source / "0.tar", {key: drawn() for key in "abcd"})
    with path.open("rb") as file:
        offset = next(member.offset for member in members(file.fileno()) if member.name == "d.jpg")
    path.write_bytes(path.read_bytes()[: offset + 100])
    assert prepare(tar_source) == 2
    assert prepare(tar_source, "dataset.damaged=keep") == 0
    assert ShardSplit(tar_source.parent / "out" / "disks", "train").keys == ["a", "b"]
    assert "disks train: 1 samples left out, the last before the damage of 0.tar" in caplog.messages


def test_names_are_only_text_and_links_are_passed_over(tar_source: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["/abs/a", "../../b", "x/../../c", "d\n\x1b[31m", "e\\f"]
    path = write_members(tar_source / "0.tar", [(f"{name}.{suffix}", part) for name in names for suffix, part in drawn().items()])
    links = b"".join(header(f"l.{suffix}", type=kind) for kind in (b"1", b"2", b"3", b"4", b"5", b"6") for suffix in ("jpg", "png"))
    path.write_bytes(links + path.read_bytes())
    before = files_below(tar_source.parent)
    assert prepare(tar_source) == 0
    split = ShardSplit(tar_source.parent / "out" / "disks", "train")
    assert split.keys == ["abs/a", "b", "x/c", "d__[31m", "e/f"]
    assert read_all(tar_source.parent / "out" / "disks") == 5
    written = {name for name in files_below(tar_source.parent) if name not in before}
    assert written == {"out/disks/train.arrow", "out/disks/train.json"}
    assert "disks train: 5 samples renamed, their names are absolute, hold '..' or signs that are no text" in caplog.messages


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "a.png", "a.jpg"], "a.jpg found twice"),
        (["a.jpg", "a.png", "b.jpg", "b.png", "a.jpg", "a.png"], "key a found again at byte"),
        (["a.jpg", "b.jpg", "a.png", "b.png"], "key a found again at byte"),
        (["a.jpg", "a.png", "../a.jpg"], "key a found again at byte"),
    ],
)
def test_a_member_found_twice_is_told(names: list[str], message: str, tar_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = drawn()
    write_members(tar_source / "0.tar", [(name, members[name.rpartition(".")[2]]) for name in names])
    assert prepare(tar_source) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", BOMBS)
def test_json_bombs_in_a_tar(name: str, tar_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tar_source / "meta.yaml").write_text(yaml.safe_dump(BOXES))
    write_members(tar_source / "0.tar", [("a.jpg", drawn()["jpg"]), ("a.json", BOMBS[name])])
    with little_memory():
        assert prepare(tar_source) == 2
    assert capsys.readouterr().err.startswith(f"taxomix prepare: {tar_source}/0.tar/a.json: does not decode")


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("member", ["jpg", "png"])
def test_image_bombs_in_a_tar(name: str, member: str, tar_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tar_source / "0.tar", {"a": {**drawn(), member: PICTURES[name]}})
    with little_memory():
        assert prepare(tar_source) == 2
    assert capsys.readouterr().err.startswith(f"taxomix prepare: {tar_source}/0.tar/a.")


def walk(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return list(members(file.fileno()))


@given(
    damages=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=20)), max_size=4),
    cut=st.none() | st.floats(0, 1, exclude_max=True),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=300)
def test_damaged_tars(damages: list[tuple[float, bytes]], cut: float | None, format: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    names = [("long/" * 30 if key == "b" else "") + f"{key}.{suffix}" for key in "abc" for suffix in ("jpg", "png")]
    write_members(path, [(name, name.encode() * 50) for name in names], format=format)
    content = bytearray(path.read_bytes())
    for place, value in damages:
        start = int(place * len(content))
        content[start : start + len(value)] = value[: len(content) - start]
    path.write_bytes(content if cut is None else content[: int(cut * len(content))])
    with little_memory(), suppress(TarError):
        for member in walk(path):
            assert 0 < member.offset <= member.offset + member.size <= path.stat().st_size


@given(content=st.binary(max_size=3000))
def test_any_bytes_are_a_tar_or_an_error(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(content)
    with suppress(TarError):
        assert all(0 < member.offset <= member.offset + member.size <= len(content) for member in walk(path))


def aliases(place: str) -> str:
    """Nine of the level below in each of 12: without limits more text than memory holds."""
    levels = ["x0: &x0 [lol, lol]", *(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 13))]
    return "\n".join([*levels, place])


METAS = {
    "name": aliases("name: *x12\nclasses: [{id: 1, name: a}]"),
    "class": aliases("name: x\nclasses: [{id: 1, name: *x12}]"),
    "id": aliases("name: x\nclasses: [{id: *x12, name: a}]"),
    "color": aliases("name: x\nclasses: [{id: 1, name: a, color: *x12}]"),
    "colors": aliases("name: x\nclasses: [{id: 1, name: a, color: [*x12, *x12, *x12]}]"),
    "ignored": aliases("name: x\nclasses: [{id: 1, name: a}]\nignore_ids: *x12"),
    "supervision": aliases("name: x\nclasses: [{id: 1, name: a}]\nsupervision: *x12"),
    "task": aliases("name: x\nclasses: [{id: 1, name: a}]\ntask: *x12"),
    "view": aliases("name: x\nclasses: [{id: 1, name: a}]\nviews: {v: {a: *x12}}"),
    "default": aliases("name: x\nclasses: [{id: 1, name: a}]\ndefault_view: *x12"),
    "merges": "\n".join(["x0: &x0 {a: 1}", *(f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}" for n in range(1, 13))]),
    "nested": "[" * 10**5,
    "large": "#" * (2**20 + 1),
    "no date": "name: 2024-99-99",
}


@pytest.mark.parametrize("name", METAS)
def test_label_spaces_that_are_bombs(name: str, tar_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tar_source / "meta.yaml").write_text(METAS[name])
    write_tar(tar_source / "0.tar", {"a": drawn()})
    with little_memory():
        assert prepare(tar_source) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"taxomix prepare: {tar_source}/meta.yaml: ")
    assert len(error) < 1000
