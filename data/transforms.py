"""Geometry of training crops: scale, crop and flip, drawn first, so that only the needed part of an image is resized.

All of it is integer arithmetic on a source box: the label of an output pixel is the label of the source pixel under its
centre, and boxes follow the same map.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data.errors import InputError

# Threads belong to the loader: OpenCV's own pool would oversubscribe the cores.
cv2.setNumThreads(0)


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Random scale, crop and horizontal flip (paper 000, section 3.2)."""

    size: tuple[int, int]
    """Height and width of the crops, in pixels."""
    scale: tuple[float, float] = (0.7, 1.3)
    """Range of the factor by which an image is enlarged before a crop of `size` is cut, drawn uniformly."""
    flip: float = 0.5
    """Probability of a horizontal flip."""

    def __post_init__(self) -> None:
        if min(self.size) < 32:
            raise InputError(f"data.crop.size: {list(self.size)} found, expected [height, width] of at least 32 pixels; raise it")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"data.crop.scale: {list(self.scale)} found, expected [low, high] with 0 < low <= high; mend the range")
        if not 0 <= self.flip <= 1:
            raise InputError(f"data.crop.flip: {self.flip} found, expected a probability in 0..1; mend it")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One drawn crop: the source box `top, left, height, width` (pixels, inside the image) fills the upper left
    `out_height` x `out_width` of the output; what is left of the output is padding. Flipped after that, padding included."""

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int
    flip: bool


def draw_crop(config: CropConfig, height: int, width: int, generator: np.random.Generator) -> Crop:
    """Draw scale, place and flip of one crop from an image of `height` x `width` pixels.

    An image that is smaller than the crop at the drawn scale lies in its upper left corner and the rest is padding, as in
    SwiftNet's code; each side is treated by itself.
    """
    scale = generator.uniform(*config.scale)
    top_draw, left_draw, flip_draw = generator.random(3)
    top, box_height, out_height = _place(height, config.size[0], scale, top_draw)
    left, box_width, out_width = _place(width, config.size[1], scale, left_draw)
    return Crop(
        top=top,
        left=left,
        height=box_height,
        width=box_width,
        out_height=out_height,
        out_width=out_width,
        flip=flip_draw < config.flip,
    )


def _place(length: int, out_length: int, scale: float, draw: float) -> tuple[int, int, int]:
    """Start and length of the source interval, and how much of `out_length` it fills."""
    box = max(1, round(out_length / scale))
    if box > length:
        return 0, length, max(1, round(length * out_length / box))
    return int(draw * (length - box + 1)), box, out_length


def crop_image(image: np.ndarray, crop: Crop, out: np.ndarray) -> None:
    """Resize the source box of `image` (H, W, 3) uint8 bilinearly into `out` (h, w, 3) uint8; padding becomes mid grey."""
    source = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if source.shape[:2] != (crop.out_height, crop.out_width):
        source = cv2.resize(source, (crop.out_width, crop.out_height), interpolation=cv2.INTER_LINEAR)
    _put(source, crop, out, PAD_VALUE)


def resize_image(image: np.ndarray, scale: float) -> np.ndarray:
    """A whole image (H, W, 3) uint8 at `scale` of its size, bilinear as crops are; contiguous."""
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.ascontiguousarray(image) if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


PAD_VALUE = 127


def crop_label(label: np.ndarray, crop: Crop, out: np.ndarray, *, pad: int) -> None:
    """Take the source box of `label` (H, W) uint8 into `out` (h, w) uint8, nearest pixel; padding becomes `pad`."""
    rows = crop.top + _centres(crop.height, crop.out_height)
    columns = crop.left + _centres(crop.width, crop.out_width)
    _put(label.take(rows, axis=0).take(columns, axis=1), crop, out, pad)


def _centres(length: int, out_length: int) -> np.ndarray:
    """For each output pixel the source pixel under its centre: floor((i + 1/2) * length / out_length)."""
    return (2 * np.arange(out_length) + 1) * length // (2 * out_length)


def _put(source: np.ndarray, crop: Crop, out: np.ndarray, pad: int) -> None:
    out[crop.out_height :] = pad
    out[: crop.out_height, crop.out_width :] = pad
    out[: crop.out_height, : crop.out_width] = source
    if crop.flip:
        out[:] = out[:, ::-1].copy()


def crop_boxes(boxes: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 5) of the image to those of the crop: float32 x1, y1, x2, y2 (half-open, pixels of the crop) and id.

    Boxes are cut at the border of the crop; those that lie outside are dropped.
    """
    corners = boxes[:, :4].astype(np.float32)
    corners[:, 2:] += 1  # inclusive corners to half-open intervals
    x_scale, y_scale = crop.out_width / crop.width, crop.out_height / crop.height
    x = np.clip((corners[:, 0::2] - crop.left) * x_scale, 0, crop.out_width)
    y = np.clip((corners[:, 1::2] - crop.top) * y_scale, 0, crop.out_height)
    if crop.flip:
        x = (size[1] - x)[:, ::-1]
    inside = (x[:, 1] > x[:, 0]) & (y[:, 1] > y[:, 0])
    return np.column_stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1], boxes[:, 4]]).astype(np.float32)[inside]


def rasterise_boxes(boxes: np.ndarray, out: np.ndarray, *, background: int) -> None:
    """Paint boxes (N, 5: x1, y1, x2, y2 half-open, id) into `out` (h, w) uint8: a pixel belongs to a box that holds its
    centre, the smallest box lies on top, `background` is everywhere else."""
    out[:] = background
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for x1, y1, x2, y2, native_id in boxes[np.argsort(-areas, kind="stable")]:
        top, bottom = np.ceil([y1 - 0.5, y2 - 0.5]).astype(int)
        left, right = np.ceil([x1 - 0.5, x2 - 0.5]).astype(int)
        out[top:bottom, left:right] = native_id
