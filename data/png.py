"""PNGs of label maps: written with unfiltered rows, as such read fast, and any other kind read for its raw values.

A general image library is several times slower at it, expands palettes or scales small bit depths, and reads much that
a label has no need of. This one takes memory only for what the header announces and the content can hold.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

deflate: Any
try:
    import deflate  # libdeflate: inflates labels about ten times as fast as zlib, and compresses them three times as fast
except ImportError:  # no wheel for this machine
    deflate = None

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

HEADER = struct.Struct(">IIBBBBB")
"""Width, height, bit depth, colour type, compression, filter and interlace method."""

GREY, PALETTE = 0, 3

MAX_DEFLATE_RATIO = 1032
"""What deflate can reach: 258 bytes from two bits."""


@dataclass(frozen=True, kw_only=True)
class Png:
    """A PNG of one channel of up to 8 bits, still compressed."""

    height: int
    width: int
    depth: int
    """Bits per pixel: 1, 2, 4 or 8."""
    interlaced: bool
    packed: bytes
    """The zlib stream of the filtered rows."""

    def decode(self) -> np.ndarray:
        """(H, W) uint8, the values of the pixels. Raises ValueError where the stream is damaged."""
        if self.depth < 8 or self.interlaced:
            return self._decode_by_pillow()
        rows = _inflate(self.packed, self.height * (self.width + 1)).reshape(self.height, self.width + 1)
        # Each row begins with the number of its filter; 0 is none.
        return self._decode_by_pillow() if rows[:, 0].any() else rows[:, 1:]

    def _decode_by_pillow(self) -> np.ndarray:
        """Declared grey, so that Pillow has no palette to apply, and without chunks that it would act upon."""
        header = HEADER.pack(self.width, self.height, self.depth, GREY, 0, 0, self.interlaced)
        plain = PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", self.packed) + _chunk(b"IEND", b"")
        try:
            with Image.open(io.BytesIO(plain)) as image:
                values = np.array(image.convert("L"))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"PNG: {error}") from None
        return values // np.uint8(255 // (2**self.depth - 1))  # Pillow scales all depths to 0..255


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """(H, W) uint8 to a palette PNG whose colours are `palette` (256, 3) uint8. No row is filtered: labels compress well without."""
    height, width = indices.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = indices
    packed = deflate.zlib_compress(rows.tobytes(), 6) if deflate is not None else zlib.compress(rows.tobytes(), 6)
    header = HEADER.pack(width, height, 8, PALETTE, 0, 0, 0)
    chunks = (b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", bytes(packed)), (b"IEND", b"")
    return PNG_SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def read_png(content: bytes) -> Png:
    """The parts of a PNG. Raises ValueError where it is damaged, cut or of another kind; nothing is inflated."""
    chunks = _chunks(content)
    name, header = next(chunks, (b"", b""))
    if name != b"IHDR" or len(header) != HEADER.size:
        raise ValueError("PNG: no header found")
    width, height, depth, color, compression, filtering, interlace = HEADER.unpack(header)
    if not (0 < width < 2**31 and 0 < height < 2**31 and compression == filtering == 0 and interlace in (0, 1)):
        raise ValueError("PNG: header damaged")
    if color not in (GREY, PALETTE) or depth not in (1, 2, 4, 8):
        raise ValueError(f"PNG: colour type {color} of {depth} bits found, expected grey or palette of up to 8 bits")
    packed = b"".join(part for name, part in chunks if name == b"IDAT")
    if height * width * depth > 8 * MAX_DEFLATE_RATIO * len(packed):
        raise ValueError(f"PNG: {len(packed)} bytes found, too few for {width}x{height} pixels")
    return Png(height=height, width=width, depth=depth, interlaced=interlace == 1, packed=packed)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each chunk before IEND."""
    if not content.startswith(PNG_SIGNATURE):
        raise ValueError("no PNG found")
    start = len(PNG_SIGNATURE)
    while True:
        name = content[start + 4 : start + 8]
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if end + 4 > len(content):
            raise ValueError("PNG: cut short")
        if zlib.crc32(memoryview(content)[start + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"PNG: checksum of {name!r} does not match")
        if name == b"IEND":
            return
        yield name, content[start + 8 : end]
        start = end + 4


def _inflate(packed: bytes, size: int) -> np.ndarray:
    """(size,) uint8. Raises ValueError for a stream of another size; never writes more than `size` bytes, or one more."""
    if deflate is not None:
        try:
            content = deflate.zlib_decompress(packed, size)
        except deflate.DeflateError as error:
            raise ValueError(f"PNG: {error}") from None
    else:
        stream = zlib.decompressobj()
        try:
            content = stream.decompress(packed, size + 1)  # one more, or the end of the stream would not be read
        except zlib.error as error:
            raise ValueError(f"PNG: {error}") from None
        if not stream.eof:
            raise ValueError("PNG: pixels cut short or too many")
    if len(content) != size:
        raise ValueError(f"PNG: {len(content)} bytes of pixels found, expected {size}")
    return np.frombuffer(content, np.uint8)
