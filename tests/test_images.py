"""Decoding images and label PNGs: right for every kind that is accepted, ValueError and no large allocation for all else."""

import io
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import data.png
from data.errors import InputError
from data.images import MAX_PIXELS, decode_jpeg, decode_label, encode_jpeg, encode_label, read_label_image
from data.png import PNG_SIGNATURE, read_png

PALETTE_COLORS = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
INFLATERS = ["libdeflate", "zlib"]


@pytest.fixture(params=INFLATERS)
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with libdeflate and again as if it were not there."""
    if request.param == "zlib":
        monkeypatch.setattr(data.png, "deflate", None)
    elif data.png.deflate is None:
        pytest.skip("deflate is not installed")
    return request.param


def chunk(name: bytes, content: bytes, *, length: int | None = None) -> bytes:
    return struct.pack(">I", len(content) if length is None else length) + name + content + struct.pack(">I", zlib.crc32(name + content))


def make_png(
    width: int,
    height: int,
    packed: bytes,
    *,
    depth: int = 8,
    color: int = 0,
    interlace: int = 0,
    other: bytes = b"",
    num_parts: int = 1,
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    step = max(1, -(-len(packed) // num_parts))
    parts = b"".join(chunk(b"IDAT", packed[start : start + step]) for start in range(0, len(packed), step))
    return PNG_SIGNATURE + chunk(b"IHDR", header) + other + parts + chunk(b"IEND", b"")


def filtered(label: np.ndarray, filters: np.ndarray, depth: int) -> bytes:
    """The rows of a PNG, each with its filter, by the formulas of the specification."""
    bits = np.unpackbits(label[..., None], axis=2)[:, :, 8 - depth :].reshape(len(label), -1)
    rows = np.packbits(bits, axis=1).astype(int)
    out = bytearray()
    above = np.zeros(rows.shape[1], int)
    for row, kind in zip(rows, filters, strict=True):
        left, upper_left = np.concatenate([[0], row[:-1]]), np.concatenate([[0], above[:-1]])
        near = left + above - upper_left
        distances = np.abs(near - np.stack([left, above, upper_left]))
        paeth = np.choose(distances.argmin(0), [left, above, upper_left])
        guess = [np.zeros_like(row), left, above, (left + above) // 2, paeth][kind]
        out += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        above = row
    return bytes(out)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    depth=st.sampled_from([1, 2, 4, 8]),
    color=st.sampled_from([0, 3]),
    kinds=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    num_parts=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", INFLATERS)
def test_any_depth_and_filter_decodes_to_its_values(
    name: str, size: tuple[int, int], depth: int, color: int, kinds: list[int], num_parts: int, seed: int
) -> None:
    label = np.random.default_rng(seed).integers(0, 2**depth, size).astype(np.uint8)
    packed = zlib.compress(filtered(label, np.resize(kinds, size[0]), depth))
    palette = chunk(b"PLTE", PALETTE_COLORS[: 2**depth].tobytes()) + chunk(b"tRNS", b"\0\x80")
    content = make_png(size[1], size[0], packed, depth=depth, color=color, other=palette if color == 3 else b"", num_parts=num_parts)
    with pytest.MonkeyPatch.context() as patch:
        if name == "zlib":
            patch.setattr(data.png, "deflate", None)
        decoded = decode_label(content, size=size)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, label)


def test_interlaced_label_decodes(inflater: str) -> None:
    label = np.random.default_rng(1).integers(0, 256, (13, 21)).astype(np.uint8)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row for top, left, down, right in passes for row in label[top::down, left::right] if len(row)]
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    np.testing.assert_array_equal(decode_label(make_png(21, 13, packed, interlace=1), size=(13, 21)), label)


def test_what_we_and_others_encode(inflater: str, tmp_path: Path) -> None:
    label = (np.arange(90 * 70).reshape(90, 70) // 400).astype(np.uint8)
    ours = encode_label(label, PALETTE_COLORS)
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, format="PNG", optimize=True)  # adaptive filters
    for content in (ours, buffer.getvalue()):
        np.testing.assert_array_equal(decode_label(content), label)
        (tmp_path / "label.png").write_bytes(content)
        np.testing.assert_array_equal(read_label_image(tmp_path / "label.png"), label)
    assert read_png(ours).packed == ours[ours.index(b"IDAT") + 4 : -16]
    with Image.open(io.BytesIO(ours)) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), label)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), PALETTE_COLORS[label])
    colors = cv2.imdecode(np.frombuffer(ours, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(np.asarray(colors), PALETTE_COLORS[label])


def test_label_files_of_few_bits_keep_their_ids(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 16, (20, 30)).astype(np.uint8)
    content = make_png(30, 20, zlib.compress(filtered(label, np.zeros(20, int), 4)), depth=4)
    (tmp_path / "label.png").write_bytes(content)
    found = read_label_image(tmp_path / "label.png")
    np.testing.assert_array_equal(found, label)
    assert found.flags.c_contiguous
    (tmp_path / "cut.png").write_bytes(content[:-30])
    with pytest.raises(InputError, match=r"cut\.png: the image does not decode"):
        read_label_image(tmp_path / "cut.png")


GOOD = make_png(40, 30, zlib.compress(filtered(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 20, np.zeros(30, int), 8)))
ADAPTIVE = make_png(40, 30, zlib.compress(filtered(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 20, np.arange(30) % 5, 8)))
JPEG = encode_jpeg(np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8), quality=90)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no PNG"),
        (JPEG, "no PNG"),
        (PNG_SIGNATURE, "cut short"),
        (PNG_SIGNATURE + chunk(b"IEND", b""), "no header"),
        (PNG_SIGNATURE + chunk(b"IHDR", b"\0\0\0\1" * 3) + chunk(b"IEND", b""), "no header"),
        (make_png(4, 4, zlib.compress(bytes(100)), color=2), "colour type 2 of 8 bits"),
        (make_png(4, 4, zlib.compress(bytes(100)), depth=16), "colour type 0 of 16 bits"),
        (make_png(4, 0, zlib.compress(bytes(100))), "header damaged"),
        (make_png(2**31, 1, zlib.compress(bytes(100))), "header damaged"),
        (make_png(4, 4, b""), "too few"),
        (make_png(4, 4, zlib.compress(bytes(19))), "found, expected 20|cut short"),
        (make_png(4, 4, zlib.compress(bytes(21))), "."),
        (make_png(4, 4, zlib.compress(bytes(20))[:-1]), "."),
        (make_png(4, 4, zlib.compress(bytes(20))[:-4] + b"abcd"), "."),
        (make_png(4, 4, zlib.compress(b"\5\0\0\0\0" * 4)), "PNG"),
        (make_png(4, 4, b"no stream of zlib"), "."),
        (make_png(9, 9, b"no stream of zlib", depth=4), "PNG"),
        (make_png(9, 9, zlib.compress(bytes(9)), interlace=1), "PNG"),
        (GOOD[:-12] + chunk(b"tEXt", b"abc", length=2**31 - 1), "cut short"),
        (GOOD[:-12] + chunk(b"tEXt", b"abc", length=2), "checksum"),
        (GOOD[:-1], "cut short"),
        (GOOD.replace(b"IDAT", b"IDAX"), "checksum"),
    ],
)
def test_bad_labels_are_value_errors(inflater: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_label(content)


def test_sizes_are_checked_before_memory_is_taken(inflater: str) -> None:
    bomb = zlib.compress(bytes(2**27), 9)  # 134 MB of zeros in 130 KB
    contents = {
        "expected at most": make_png(10_000, 10_000, bomb),
        "too few for 100000x100000": make_png(100_000, 100_000, bomb),
        "too few for 8192x8192": make_png(8192, 8192, zlib.compress(bytes(100))),
        "expected 40x30": make_png(8000, 8000, bomb),
    }
    for message, content in contents.items():
        peak = peak_of_failing(content, message, size=(30, 40) if "40x30" in message else None)
        assert peak < len(content) * 3 + 100_000
    # The header says 40x30, the stream holds far more: no more is inflated than the header allows.
    for content in (make_png(40, 30, bomb), make_png(40, 30, bomb, other=chunk(b"zTXt", b"a\0\0" + bomb))):
        assert peak_of_failing(content, ".", size=(30, 40)) < 2_000_000


def peak_of_failing(content: bytes, message: str, *, size: tuple[int, int] | None) -> int:
    """Bytes that decode_label takes at most before it fails."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            decode_label(content, size=size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


damage = st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=4)


@given(content=st.sampled_from([GOOD, ADAPTIVE]), flips=damage, end=st.integers(0, 2000), mend=st.booleans())
@pytest.mark.parametrize("name", INFLATERS)
def test_damaged_labels_decode_whole_or_raise_value_error(
    name: str, content: bytes, flips: list[tuple[int, int]], end: int, mend: bool
) -> None:
    broken = bytearray(content[:end])
    for place, change in flips:
        if broken:
            broken[place % len(broken)] ^= change
    damaged = mend_checksums(bytes(broken)) if mend else bytes(broken)
    with pytest.MonkeyPatch.context() as patch:
        if name == "zlib":
            patch.setattr(data.png, "deflate", None)
        try:
            label = decode_label(damaged, size=(30, 40))
        except ValueError:
            return
    assert label.shape == (30, 40)


def mend_checksums(content: bytes) -> bytes:
    """Each chunk with the checksum of what it now holds, so that damage gets past it."""
    out, start = content[:8], 8
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        end = min(start + 8 + length, len(content) - 4)
        out += content[start:end] + struct.pack(">I", zlib.crc32(content[start + 4 : end]))
        start = end + 4
    return out + content[start:]


@given(flips=damage, end=st.integers(0, 4000))
def test_damaged_jpegs_decode_whole_or_raise_value_error(flips: list[tuple[int, int]], end: int) -> None:
    broken = bytearray(JPEG[:end])
    for place, change in flips:
        if broken:
            broken[place % len(broken)] ^= change
    try:
        image = decode_jpeg(bytes(broken), size=(30, 40))
    except ValueError:
        return
    assert image.shape == (30, 40, 3)


def test_jpeg_sizes_are_checked_in_the_header() -> None:
    assert decode_jpeg(JPEG, size=(30, 40)).shape == (30, 40, 3)
    with pytest.raises(ValueError, match="40x30 pixels found, expected 30x40"):
        decode_jpeg(JPEG, size=(40, 30))
    place = JPEG.index(b"\xff\xc0") + 5
    huge = JPEG[:place] + struct.pack(">HH", 65_000, 65_000) + JPEG[place + 4 :]
    assert MAX_PIXELS < 65_000**2
    with pytest.raises(ValueError, match="65000x65000 pixels found, expected at most"):
        decode_jpeg(huge)
    with pytest.raises(ValueError, match=r"."):
        decode_jpeg(JPEG[:-20])


def test_reused_buffer_belongs_to_the_thread() -> None:
    generator = np.random.default_rng(2)
    contents = [encode_jpeg(generator.integers(0, 256, (h, w, 3)).astype(np.uint8), quality=90) for h, w in ((30, 40), (50, 60), (20, 30))]
    fresh = [decode_jpeg(content) for content in contents]
    for content, expected in zip(contents, fresh, strict=True):
        np.testing.assert_array_equal(decode_jpeg(content, reuse=True), expected)
    first = decode_jpeg(contents[1], reuse=True)
    assert np.shares_memory(first, decode_jpeg(contents[2], reuse=True))
    assert not np.shares_memory(first, decode_jpeg(contents[1]))
    first = decode_jpeg(contents[1], reuse=True)
    other = threading.Thread(target=lambda: decode_jpeg(contents[0], reuse=True))
    other.start()
    other.join()
    np.testing.assert_array_equal(first, fresh[1])
