"""Confusion matrices as pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

MARGIN = 6
ABSENT = (232, 232, 232)
WHITE, RED, GREEN = np.array([255.0] * 3), np.array([178.0, 24.0, 43.0]), np.array([0.0, 90.0, 50.0])


def confusion_picture(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> Image.Image:
    """A confusion matrix (true, predicted) with one more column for no prediction, each row as shares of its own pixels, in percent.

    Shares are green where the names of row and column are the same, else red; colours grow with the square root, so that rare confusions
    are seen. Rows without a pixel are grey.
    """
    cell = 34 if len(columns) <= 30 else 22
    names, shares = [*columns, "(none)"], _shares(matrix)
    fonts = {"name": ImageFont.load_default(size=13), "cell": ImageFont.load_default(size=12 if cell == 34 else 10)}
    pixels = matrix.sum(axis=1)
    labels = [f"{name}  {_percent(count / max(1, pixels.sum()))}" for name, count in zip(rows, pixels, strict=True)]
    left = 2 * MARGIN + max(_length(text, fonts["name"]) for text in [*labels, "share of pixels"])
    top = 34 + MARGIN + max(_length(text, fonts["name"]) for text in names)
    width = left + cell * len(names) + MARGIN
    sheet = Image.new("RGB", (max(width, _length(title, fonts["name"]) + 2 * MARGIN), top + cell * len(rows) + MARGIN), "white")
    sheet.paste(Image.fromarray(_coloured(shares, rows, names, cell)), (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill="black", font=fonts["name"])
    draw.text((MARGIN, top - 20), "share of pixels", fill="grey", font=fonts["name"])
    for number, text in enumerate(labels):
        draw.text((left - MARGIN, top + cell * number + cell // 2), text, fill="black", font=fonts["name"], anchor="rm")
    for number, text in enumerate(names):
        _upright(sheet, text, (left + cell * number + cell // 2, top - MARGIN), fonts["name"])
    for row, column in np.argwhere(np.nan_to_num(shares) >= 0.005):
        place = (left + cell * column + cell // 2, top + cell * row + cell // 2)
        colour = "white" if shares[row, column] > 0.35 else "black"
        draw.text(place, f"{100 * shares[row, column]:.0f}", fill=colour, font=fonts["cell"], anchor="mm")
    return sheet


def _shares(matrix: np.ndarray) -> np.ndarray:
    """Of each row; NaN for one without a pixel."""
    true = matrix.sum(axis=1, keepdims=True).astype(float)
    return np.divide(matrix, true, out=np.full(matrix.shape, np.nan), where=true > 0)


def _coloured(shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], cell: int) -> np.ndarray:
    """Cells with thin lines between them, (H, W, 3) uint8."""
    same = np.array([[row == column for column in columns] for row in rows])[..., None]
    strength = np.sqrt(np.nan_to_num(shares))[..., None]
    colours = (1 - strength) * WHITE + strength * np.where(same, GREEN, RED)
    colours[np.isnan(shares)] = ABSENT
    picture = colours.round().astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    picture[::cell] = 200
    picture[:, ::cell] = 200
    return picture


def _upright(sheet: Image.Image, text: str, foot: tuple[int, int], font: Font) -> None:
    """Write `text` upwards from the middle of its foot."""
    length = _length(text, font)
    strip = Image.new("RGB", (length + 2, 18), "white")
    ImageDraw.Draw(strip).text((0, 9), text, fill="black", font=font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    sheet.paste(turned, (foot[0] - 9, foot[1] - turned.height))


def _length(text: str, font: Font) -> int:
    return int(font.getlength(text)) + 1


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
