"""Drawing that training and inspection share: label maps over pictures, legends, PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.files import atomic_write
from data.labels import IGNORE_INDEX, View


def blend(image: np.ndarray, classes: np.ndarray, view: View, *, alpha: float = 0.6) -> np.ndarray:
    """(H, W, 3) uint8 image under the colours of (H, W) uint8 class indices; ignored pixels show the image darkened."""
    return tint(image, view.palette[classes], alpha=alpha)


def tint(image: np.ndarray, colours: np.ndarray, *, alpha: float = 0.6) -> np.ndarray:
    """(H, W, 3) uint8 image under (H, W, 3) uint8 colours that cover it to `alpha`."""
    mixed = (1 - alpha) * image.astype(np.float32) + alpha * colours.astype(np.float32)
    return mixed.round().astype(np.uint8)


def legend_strip(
    entries: Sequence[tuple[str, tuple[int, int, int]]], width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> Image.Image:
    """A swatch and a name for each entry, in lines of `width` pixels."""
    places, x, y = [], 2, 2
    for name, color in entries:
        length = 20 + int(font.getlength(name)) + 12
        if x + length > width and x > 2:
            x, y = 2, y + 18
        places.append((x, y, name, color))
        x += length
    legend = Image.new("RGB", (width, y + 20), "white")
    draw = ImageDraw.Draw(legend)
    for x, y, name, color in places:
        draw.rectangle((x, y, x + 14, y + 14), fill=color, outline="black")
        draw.text((x + 20, y), name, fill="black", font=font)
    return legend


def side_by_side(
    pictures: Sequence[tuple[str, np.ndarray]], entries: Sequence[tuple[str, tuple[int, int, int]]], *, gap: int = 4
) -> Image.Image:
    """Pictures (H, W, 3) uint8 of one size, each under its title, and below them a legend of `entries`."""
    font = ImageFont.load_default(size=13)
    height, width = pictures[0][1].shape[:2]
    width = max(width, *(int(font.getlength(title)) + 5 for title, _ in pictures)) + gap
    legend = legend_strip(entries, len(pictures) * width, font)
    sheet = Image.new("RGB", (len(pictures) * width, 20 + height + gap + legend.height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(pictures):
        draw.text((number * width + 2, 2), title, fill="black", font=font)
        sheet.paste(Image.fromarray(picture), (number * width, 20))
    sheet.paste(legend, (0, 20 + height + gap))
    return sheet


def legend_of(view: View, classes: np.ndarray) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes of `view` that occur in (..., H, W) uint8 class indices."""
    return [(view.names[c], view.colors[c]) for c in np.unique(classes).tolist() if c != IGNORE_INDEX]


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG, atomically."""
    with atomic_write(path) as file:
        picture.save(file, format="PNG")
