"""Geometry of training crops: resize, scale, crop and flip, drawn first, so that only the needed part of an image is resized.

All steps together are one axis-aligned map from a box of source pixels to a part of the output: the label of an output
pixel is the label of the source pixel under its centre, and boxes follow the same map. `data.crop_presets` has the papers'.

Cutting before resizing differs from the papers' resizing before cutting in two small ways: a crop starts at a whole pixel
of the source, not of the resized image; and at the border of the source box the interpolation sees no pixel beyond it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from data.chance import Uniform
from data.errors import FieldError

# Threads belong to the loader: OpenCV's own pool would oversubscribe the cores.
cv2.setNumThreads(0)

PAD_VALUE = 127
"""The mid grey of padding, unless a crop says otherwise."""

Interpolation = Literal["linear", "cubic", "area", "pil_linear", "pil_cubic"]
_OF_OPENCV = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
_OF_PILLOW = {"pil_linear": Image.Resampling.BILINEAR, "pil_cubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, kw_only=True)
class ResizeConfig:
    """What whole images are resized to before anything is drawn."""

    size: tuple[int, int]
    """Height and width, in pixels."""
    mode: Literal["exact", "fit", "cover"] = "exact"
    """exact: to `size`, whatever the image's proportions; fit: to the largest that lies inside `size`, cover: to the smallest that
    covers it, both with the proportions kept."""

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise FieldError("size", f"{list(self.size)} found, expected [height, width] in pixels; mend it")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that an image of `height` x `width` pixels gets."""
        if self.mode == "exact":
            return self.size
        choose = min if self.mode == "fit" else max
        factor = choose(self.size[0] / height, self.size[1] / width)
        return max(1, round(height * factor)), max(1, round(width * factor))


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Resize, random scale, random crop and horizontal flip. Where an image is smaller than the crop, it lies in its upper
    left corner and the rest is padding, in the label void."""

    size: tuple[int, int]
    """Height and width of the crops, in pixels."""
    resize: ResizeConfig | None = None
    """What whole images are resized to before they are scaled; null: they stay as they are."""
    scale: tuple[float, float] = (0.7, 1.3)
    """Range of the factor by which an image is enlarged before a crop of `size` is cut, drawn uniformly."""
    scale_step: float | None = None
    """Draw one of low, low + step, ..., high of `scale`, not any number between them."""
    scale_of: Literal["image", "box"] = "image"
    """box: the factor enlarges the part that is cut out and then resized to `size`, so that 2 zooms out."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    flip_first: bool = False
    """Flip before the crop is cut, so that padding stays on the right; otherwise it is flipped along."""
    interpolation: Interpolation = "linear"
    """How images are resized; labels take the nearest pixel. linear and cubic look at 2 and 4 pixels a side however much an image
    shrinks, so that fine texture flickers; area averages where images shrink and is linear where they grow; pil_linear and pil_cubic
    are Pillow's filters, which widen where images shrink: 8 to 18 ms a crop, where the others take 0.3 to 6."""
    pad: tuple[int, int, int] | Literal["grey", "mean"] = "grey"
    """Colour of the padding: mid grey, the mean colour of the image, or [red, green, blue]."""

    def __post_init__(self) -> None:
        if min(self.size) < 32:
            raise FieldError("size", f"{list(self.size)} found, expected [height, width] of at least 32 pixels; raise it")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise FieldError("scale", f"{list(self.scale)} found, expected [low, high] with 0 < low <= high; mend the range")
        if self.scale_step is not None and not (self.scale_step > 0 and _is_whole((self.scale[1] - self.scale[0]) / self.scale_step)):
            raise FieldError(
                "scale_step",
                f"{self.scale_step} found, expected a step that divides the range of scale, {list(self.scale)}; mend either",
            )
        if not 0 <= self.flip <= 1:
            raise FieldError("flip", f"{self.flip} found, expected a probability in 0..1; mend it")
        if not isinstance(self.pad, str) and not all(0 <= value <= 255 for value in self.pad):
            raise FieldError("pad", f"{list(self.pad)} found, expected grey, mean or [red, green, blue] in 0..255; mend it")

    def scaled_by(self, factor: float) -> "CropConfig":
        """These crops of images that are enlarged by `factor` more; `size` stays, so that a crop shows less of its image."""
        if self.scale_of == "box":
            factor = 1 / factor
        step = None if self.scale_step is None else self.scale_step * factor
        return replace(self, scale=(self.scale[0] * factor, self.scale[1] * factor), scale_step=step)


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-6


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One drawn crop: the source box `top, left, height, width` (pixels, inside the image) fills `out_height` x `out_width`
    of the output, mirrored if `flip`; what is left of the output is padding, below, and to the right or the left."""

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int
    flip: bool
    pad_left: bool = False
    interpolation: Interpolation = "linear"
    pad: tuple[int, int, int] | None = (PAD_VALUE, PAD_VALUE, PAD_VALUE)
    """Colour of the padding; None: the mean colour of the image."""

    def columns(self, width: int) -> slice:
        """The columns of an output of `width` pixels that are no padding."""
        start = width - self.out_width if self.pad_left else 0
        return slice(start, start + self.out_width)


def draw_crop(config: CropConfig, height: int, width: int, generator: Uniform) -> Crop:
    """Draw scale, place and flip of one crop from an image of `height` x `width` pixels.

    Each side is treated by itself: where the image is smaller than the crop, it is taken whole.
    """
    scale = _draw_scale(config, generator)
    top_draw, left_draw, flip_draw = generator.random(), generator.random(), generator.random()
    resized = (height, width) if config.resize is None else config.resize.resized(height, width)
    top, box_height, out_height = _place(height, config.size[0], scale * (resized[0] / height), top_draw)
    left, box_width, out_width = _place(width, config.size[1], scale * (resized[1] / width), left_draw)
    flip = bool(flip_draw < config.flip)
    return Crop(
        top=top,
        left=left,
        height=box_height,
        width=box_width,
        out_height=out_height,
        out_width=out_width,
        flip=flip,
        pad_left=flip and not config.flip_first,
        interpolation=config.interpolation,
        pad=_pad_color(config.pad),
    )


def _draw_scale(config: CropConfig, generator: Uniform) -> float:
    """The factor by which the image, after `config.resize`, is enlarged."""
    low, high = config.scale
    if config.scale_step is None:
        scale = low + (high - low) * generator.random()
    else:
        scale = low + config.scale_step * int(generator.random() * (round((high - low) / config.scale_step) + 1))
    return 1 / scale if config.scale_of == "box" else scale


def _place(length: int, out_length: int, scale: float, draw: float) -> tuple[int, int, int]:
    """Start and length of the source interval, and how much of `out_length` it fills."""
    box = max(1, round(out_length / scale))
    if box > length:
        return 0, length, max(1, round(length * out_length / box))
    return int(draw * (length - box + 1)), box, out_length


def _pad_color(pad: str | tuple[int, int, int]) -> tuple[int, int, int] | None:
    if isinstance(pad, str):
        return (PAD_VALUE, PAD_VALUE, PAD_VALUE) if pad == "grey" else None
    return pad


def crop_image(image: np.ndarray, crop: Crop, out: np.ndarray) -> None:
    """Resize the source box of `image` (H, W, 3) uint8 into its part of `out` (h, w, 3) uint8 and pad the rest."""
    columns = crop.columns(out.shape[1])
    if (crop.out_height, crop.out_width) != out.shape[:2]:
        _fill_padding(out, crop, crop.pad if crop.pad is not None else np.rint(cv2.mean(image)[:3]).astype(np.uint8))
    source = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    target = out[: crop.out_height, columns]
    resized = source if source.shape == target.shape else resize_image(source, target.shape[:2], crop.interpolation)
    if crop.flip:
        cv2.flip(resized, 1, dst=target)
    else:
        target[:] = resized


def _fill_padding(out: np.ndarray, crop: Crop, value: int | tuple[int, int, int] | np.ndarray) -> None:
    columns = crop.columns(out.shape[1])
    # Whole rows are copied many times as fast as a colour is repeated.
    row = np.empty(out.shape[1:], np.uint8)
    row[:] = value
    out[crop.out_height :] = row
    out[: crop.out_height, : columns.start] = row[: columns.start]
    out[: crop.out_height, columns.stop :] = row[columns.stop :]


def resize_image(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """An image (H, W, 3) uint8 at `size`, height and width."""
    if interpolation in _OF_PILLOW:
        return np.array(Image.fromarray(image).resize(size[::-1], _OF_PILLOW[interpolation]))
    # OpenCV's area method does not interpolate where an image grows.
    grows = size[0] > image.shape[0] or size[1] > image.shape[1]
    code = cv2.INTER_LINEAR if interpolation == "area" and grows else _OF_OPENCV[interpolation]
    return cv2.resize(image, size[::-1], interpolation=code)


def whole_size(crop: CropConfig, height: int, width: int, *, input_scale: float) -> tuple[int, int]:
    """The height and width that a whole image of `height` x `width` pixels is brought to so that a network which learnt from `crop`
    and `input_scale` sees things as large as it did then, at the scale of 1."""
    height, width = (height, width) if crop.resize is None else crop.resize.resized(height, width)
    return max(1, round(height * input_scale)), max(1, round(width * input_scale))


def crop_label(label: np.ndarray, crop: Crop, out: np.ndarray, *, pad: int) -> None:
    """Take the source box of `label` (H, W) uint8 into its part of `out` (h, w) uint8, nearest pixel; padding becomes `pad`."""
    source = label[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    rows, columns = nearest_pixels(crop.height, crop.out_height), nearest_pixels(crop.width, crop.out_width)
    target = out[: crop.out_height, crop.columns(out.shape[1])]
    if target.shape != out.shape:
        _fill_padding(out, crop, pad)
    # Whole rows are copied, of the label on its side and then upright: five times as fast as picking pixels.
    on_side = cv2.transpose(source).take(columns[::-1] if crop.flip else columns, axis=0, mode="clip")
    cv2.transpose(on_side).take(rows, axis=0, out=target, mode="clip")


def nearest_pixels(length: int, out_length: int) -> np.ndarray:
    """For each output pixel the source pixel under its centre: floor((i + 1/2) * length / out_length)."""
    return (2 * np.arange(out_length) + 1) * length // (2 * out_length)


def crop_boxes(boxes: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 5) of the image to those of the crop (M, 6): float32 x1, y1, x2, y2 (half-open, pixels of the crop), id, and the
    area of the whole box in pixels of the image.

    Boxes are cut at the border of the crop; those that lie outside are dropped.
    """
    corners = boxes[:, :4].astype(np.float32)
    corners[:, 2:] += 1  # inclusive corners to half-open intervals
    x_scale, y_scale = crop.out_width / crop.width, crop.out_height / crop.height
    x = np.clip((corners[:, 0::2] - crop.left) * x_scale, 0, crop.out_width)
    y = np.clip((corners[:, 1::2] - crop.top) * y_scale, 0, crop.out_height)
    columns = crop.columns(size[1])
    x = (columns.stop - x)[:, ::-1] if crop.flip else x + columns.start
    inside = (x[:, 1] > x[:, 0]) & (y[:, 1] > y[:, 0])
    return np.column_stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1], boxes[:, 4], _areas(corners)]).astype(np.float32)[inside]


def rasterise_boxes(boxes: np.ndarray, out: np.ndarray, *, background: int) -> None:
    """Paint boxes (N, 5: x1, y1, x2, y2 half-open, id) into `out` (h, w) uint8: a pixel belongs to a box that holds its
    centre, the smallest box lies on top, `background` is everywhere else.

    Where the boxes were cut, a sixth column has their areas from before: what lies on top must not depend on the crop.
    """
    out[:] = background
    areas = boxes[:, 5] if boxes.shape[1] > 5 else _areas(boxes)
    for x1, y1, x2, y2, native_id in boxes[np.argsort(-areas, kind="stable"), :5]:
        top, bottom = np.ceil([y1 - 0.5, y2 - 0.5]).astype(int)
        left, right = np.ceil([x1 - 0.5, x2 - 0.5]).astype(int)
        out[top:bottom, left:right] = native_id


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
