"""Encoded images and label maps: what goes into shards and how it is read back.

What is decoded may come from anywhere, so sizes are checked in the header, before memory is taken for the pixels.
"""

import io
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from data.errors import InputError
from data.png import PNG_SIGNATURE, read_png, write_png

MAX_PIXELS = 2**26
"""Larger images (67 megapixels, 200 MB as RGB) are refused. Pillow begins to warn at 89 megapixels."""


def jpeg_for_shard(path: Path, *, quality: int) -> tuple[bytes, int, int]:
    """The image file as baseline JPEG bytes, with its height and width.

    A baseline RGB or grey JPEG keeps its bytes; everything else (PNG, progressive, CMYK) is encoded anew at
    `quality` without chroma subsampling. Every image is decoded once, so that a damaged file is found here.
    """
    with _reading(path), path.open("rb") as file, Image.open(file) as image:
        _check_size(image.height, image.width, None)
        # MPO: a JPEG with further pictures behind it, as many phones write; what reads JPEG stops before those.
        if image.format in ("JPEG", "MPO") and not image.info.get("progressive") and image.mode in ("RGB", "L"):
            content = path.read_bytes()
            height, width = decode_jpeg(content).shape[:2]
            return content, height, width
        pixels = _to_rgb(image, path)
    return encode_jpeg(pixels, quality=quality), pixels.shape[0], pixels.shape[1]


def read_image(path: Path) -> np.ndarray:
    """Any 8-bit picture to (H, W, 3) uint8 RGB; transparency is dropped. Raises InputError where it does not decode."""
    with _reading(path), path.open("rb") as file, Image.open(file) as image:
        _check_size(image.height, image.width, None)
        return _to_rgb(image, path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path}: {error.strerror}, expected a file that can be read; mend it and run the command again") from None
    except OSError as error:
        if error.errno is not None:  # of the disk or the network, not of the file's content: Pillow's own have no number
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise _no_image(path, error) from None
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _no_image(path, error) from None


def _no_image(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: the image does not decode ({error}); restore the file, or remove it with its label")


def _to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
        raise InputError(f"{path}: an image of mode {image.mode} found, expected 8 bits per channel; convert it")
    return np.array(image.convert("RGB"))


def encode_jpeg(pixels: np.ndarray, *, quality: int) -> bytes:
    """(H, W, 3) uint8 RGB to baseline JPEG bytes, 4:4:4."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling="444")


def decode_jpeg(content: bytes, *, size: tuple[int, int] | None = None, reuse: bool = False) -> np.ndarray:
    """JPEG bytes to (H, W, 3) uint8 RGB.

    With `reuse` the array is the thread's own buffer: it is valid until the thread decodes its next image with `reuse`.
    Raises ValueError where the bytes are damaged or cut, and, before anything is decoded, where the image is not of
    `size` (height, width) or has more than MAX_PIXELS pixels.
    """
    height, width = simplejpeg.decode_jpeg_header(content)[:2]
    _check_size(height, width, size)
    buffer = _scratch.take(height * width * 3) if reuse else None
    return simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True, buffer=buffer)


def decode_image(content: bytes, *, size: tuple[int, int] | None = None, reuse: bool = False) -> np.ndarray:
    """JPEG bytes as `decode_jpeg` does, or PNG bytes, to (H, W, 3) uint8 RGB; of a PNG nothing is reused."""
    if not content.startswith(PNG_SIGNATURE):
        return decode_jpeg(content, size=size, reuse=reuse)
    if len(content) < 24:
        raise ValueError("a PNG without a header")
    width, height = struct.unpack(">II", content[16:24])
    _check_size(height, width, size)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
                raise ValueError(f"PNG of mode {image.mode}, expected 8 bits per channel")
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, struct.error) as error:
        raise ValueError(f"PNG: {error}") from None


class _Scratch(threading.local):
    """A thread's buffer, as large as the largest image so far: memory that is already mapped is not asked for again."""

    buffer = np.empty(0, np.uint8)

    def take(self, size: int) -> np.ndarray:
        if self.buffer.size < size:
            self.buffer = np.empty(size, np.uint8)
        return self.buffer[:size]


_scratch = _Scratch()


def _check_size(height: int, width: int, size: tuple[int, int] | None) -> None:
    if size is not None and (height, width) != tuple(size):
        raise ValueError(f"{width}x{height} pixels found, expected {size[1]}x{size[0]}")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels found, expected at most {MAX_PIXELS} in all")


def read_label_image(path: Path) -> np.ndarray:
    """A label image (grey or palette, up to 8 bits) to (H, W) uint8 ids; of a palette image the indices, not its colours."""
    with _reading(path), path.open("rb") as file, Image.open(file) as image:
        _check_size(image.height, image.width, None)
        if image.mode not in ("1", "L", "P"):
            raise InputError(f"{path}: mode {image.mode} found, expected an 8-bit image of ids (mode L or P); write ids, not colours")
        # Pillow scales the values of a grey PNG of 1, 2 or 4 bits to 0..255.
        return np.ascontiguousarray(decode_label(path.read_bytes())) if image.format == "PNG" else np.array(image, np.uint8)


def encode_label(label: np.ndarray, palette: np.ndarray) -> bytes:
    """(H, W) uint8 ids to a palette PNG whose colours are `palette` (256, 3) uint8, of the kind that decode_label is fast at."""
    return write_png(label, palette)


def decode_label(content: bytes, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Label PNG bytes to (H, W) uint8 ids: the values of a grey PNG, the indices of a palette PNG, of up to 8 bits.

    The rows of the array need not lie side by side in memory. Raises ValueError where the bytes are damaged or cut, and,
    before anything is inflated, where the image is not of `size` (height, width) or has more than MAX_PIXELS pixels.
    """
    png = read_png(content)
    _check_size(png.height, png.width, size)
    return png.decode()
