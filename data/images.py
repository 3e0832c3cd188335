"""Encoded images and label maps: what goes into shards and how it is read back."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from data.errors import InputError


def jpeg_for_shard(path: Path, *, quality: int) -> tuple[bytes, int, int]:
    """The image file as baseline JPEG bytes, with its height and width.

    A baseline RGB or grey JPEG keeps its bytes; everything else (PNG, progressive, CMYK) is encoded anew at
    `quality` without chroma subsampling. Every image is decoded once, so that a damaged file is found here.
    """
    with _reading(path), path.open("rb") as file, Image.open(file) as image:
        if image.format == "JPEG" and not image.info.get("progressive") and image.mode in ("RGB", "L"):
            content = path.read_bytes()
            height, width = decode_jpeg(content).shape[:2]
            return content, height, width
        pixels = _to_rgb(image, path)
    return encode_jpeg(pixels, quality=quality), pixels.shape[0], pixels.shape[1]


def read_image(path: Path) -> np.ndarray:
    """Any 8-bit picture to (H, W, 3) uint8 RGB; transparency is dropped. Raises InputError where it does not decode."""
    with _reading(path), Image.open(path) as image:
        return _to_rgb(image, path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: the image does not decode ({error}); restore the file, or remove it with its label") from None


def _to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
        raise InputError(f"{path}: an image of mode {image.mode} found, expected 8 bits per channel; convert it")
    return np.array(image.convert("RGB"))


def encode_jpeg(pixels: np.ndarray, *, quality: int) -> bytes:
    """(H, W, 3) uint8 RGB to baseline JPEG bytes, 4:4:4."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling="444")


def decode_jpeg(content: bytes) -> np.ndarray:
    """JPEG bytes to (H, W, 3) uint8 RGB. Raises ValueError where the bytes are damaged or cut."""
    return simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)


def read_label_image(path: Path) -> np.ndarray:
    """An 8-bit label image (grey or palette) to (H, W) uint8 ids; of a palette image the indices, not its colours."""
    with _reading(path), Image.open(path) as image:
        if image.mode not in ("L", "P"):
            raise InputError(f"{path}: mode {image.mode} found, expected an 8-bit image of ids (mode L or P); write ids, not colours")
        return np.array(image, np.uint8)


def encode_label(label: np.ndarray, palette: np.ndarray) -> bytes:
    """(H, W) uint8 ids to a palette PNG whose colours are `palette` (256, 3) uint8.

    Pillow writes mode P with filter 0, which decodes three times as fast as an adaptively filtered PNG.
    """
    image = Image.fromarray(label, mode="P")
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def decode_label(content: bytes) -> np.ndarray:
    """Label PNG bytes to (H, W) uint8 ids."""
    with Image.open(io.BytesIO(content)) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(f"label PNG of mode {image.mode}, expected L or P")
        return np.array(image, np.uint8)
