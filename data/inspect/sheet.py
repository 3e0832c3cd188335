"""The contact sheet: pictures that show every class, each beside its annotation, and a legend."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.drawing import legend_strip, tint, write_picture
from data.inspect.collect import SplitFacts
from data.inspect.observe import RawSample, sampled
from data.inspect.opening import Readable
from data.labels import LabelSpace

PANEL = 300
"""Width of a panel, in pixels; a tile is two panels, the picture and its annotation."""
TILES_ACROSS = 3
CAPTION, GAP = 18, 8
VISIBLE = 1e-3
"""Part of a picture that a class has to cover for the picture to show it."""
BACKGROUND = (228, 228, 228)
UNKNOWN = (255, 0, 255)
"""Of ids that the label space does not know."""


def choose(facts: Mapping[str, SplitFacts], num_classes_at: np.ndarray, *, number: int, seed: int) -> list[tuple[str, int]]:
    """Up to `number` samples (split, number) that together show as many classes as can be, rare ones first.

    `num_classes_at` (256,) bool: ids that are classes. Splits take turns; once all classes have been shown, it begins anew.
    """
    splits = [split for split, of in facts.items() if any(value is not None for value in of.image_hashes)]
    shows = {split: _shown_classes(facts[split]) & num_classes_at for split in splits}
    images = sum((of.images for of in facts.values()), np.zeros(256, np.int64))
    weights = np.where(images > 0, 1.0 / np.maximum(images, 1), 0.0)
    generator = np.random.default_rng(seed)
    # What is equal in gain is taken in a random order; what cannot be shown is never taken.
    luck = {split: generator.random(len(shows[split])) * 1e-9 for split in splits}
    left = {split: np.array([value is not None for value in facts[split].image_hashes]) for split in splits}
    chosen: list[tuple[str, int]] = []
    covered = np.zeros(256, bool)
    while len(chosen) < number and any(left[split].any() for split in splits):
        split = splits[len(chosen) % len(splits)]
        if not left[split].any():
            splits = [name for name in splits if left[name].any()]
            continue
        gain = shows[split] @ np.where(covered, 0.0, weights)
        if gain[left[split]].max() == 0:
            covered[:] = False
            gain = shows[split] @ weights
        best = int(np.argmax(np.where(left[split], gain + luck[split], -1.0)))
        left[split][best] = False
        covered |= shows[split][best]
        chosen.append((split, best))
    return chosen


def _shown_classes(of: SplitFacts) -> np.ndarray:
    """(N, 256) bool: which ids cover enough of a picture to be seen; of a sample where none does, those that occur."""
    shown = np.zeros((len(of), 256), bool)
    for sample, (ids, shares) in enumerate(zip(of.ids, of.shares, strict=True)):
        seen = ids[shares >= VISIBLE]
        shown[sample, seen if len(seen) else ids] = True
    return shown


def write_sheet(path: Path, dataset: Readable, facts: Mapping[str, SplitFacts], *, number: int, seed: int) -> int:
    """Choose pictures, read them again and write the sheet; gives how many are on it."""
    is_class = np.zeros(256, bool)
    is_class[[label.id for label in dataset.label_space.classes]] = True
    chosen = choose(facts, is_class, number=number, seed=seed)
    samples = [(split, dataset.read(split, sample)) for split, sample in chosen]
    frequency = sum((of.images for of in facts.values()), np.zeros(256, np.int64))
    write_picture(path, draw_sheet(samples, dataset.label_space, frequency))
    return len(chosen)


def draw_sheet(samples: Sequence[tuple[str, RawSample]], space: LabelSpace, frequency: np.ndarray) -> Image.Image:
    """The sheet of samples (split, sample); `frequency` (256,) says which of several boxes is the rarest and is shown large."""
    font = ImageFont.load_default(size=13)
    shown = [(split, raw, raw.image) for split, raw in samples if raw.image is not None]
    box = PANEL, _panel_height([image.shape[:2] for _, _, image in shown])
    across = max(1, min(TILES_ACROSS, len(shown)))
    tile_width, tile_height = 2 * PANEL + 2 + GAP, CAPTION + box[1] + GAP
    width = max(across * tile_width + GAP, 2 * tile_width)
    legend = legend_strip(_legend_entries(shown, space), width - 2 * GAP, font)
    rows = -(-len(shown) // across)
    sheet = Image.new("RGB", (width, GAP + rows * tile_height + legend.height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (split, raw, image) in enumerate(shown):
        left, top = GAP + place % across * tile_width, GAP + place // across * tile_height
        draw.text((left, top), _fitting(f"{split}: {raw.key}", font, 2 * PANEL), fill="black", font=font)
        for side, panel in enumerate(_panels(raw, image, space, frequency, box)):
            sheet.paste(_centred(panel, box), (left + side * (PANEL + 2), top + CAPTION))
    sheet.paste(legend, (GAP, GAP + rows * tile_height))
    return sheet


def _panel_height(sizes: Sequence[tuple[int, int]]) -> int:
    """As high as the median picture is at the panel's width, and higher where some are portraits."""
    ratios = [height / width for height, width in sizes] or [0.75]
    least = 0.9 if max(ratios) > 1 else 0.4
    return round(PANEL * float(np.clip(np.median(ratios), least, 1.2)))


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    while len(text) > 4 and font.getlength(text) > width:
        text = text[:-4] + "..."
    return text


def _legend_entries(shown: Sequence[tuple[str, RawSample, np.ndarray]], space: LabelSpace) -> list[tuple[str, tuple[int, int, int]]]:
    """Every class by id; 'ignored' and 'unknown' where they are to be seen."""
    entries = [(f"{label.id} {label.name}", label.color) for label in space.classes]
    values = np.unique(np.concatenate([np.unique(raw.label) for _, raw, _ in shown if raw.label is not None] or [np.zeros(0, np.uint8)]))
    if np.isin(values, space.ignore_ids).any():
        entries.append(("ignored", (0, 0, 0)))
    if (~space.known_ids[values.astype(int)]).any():
        entries.append(("unknown id", UNKNOWN))
    return entries


def _panels(raw: RawSample, image: np.ndarray, space: LabelSpace, frequency: np.ndarray, box: tuple[int, int]) -> list[Image.Image]:
    """The picture and its annotation, each no larger than `box` (width, height)."""
    small = fit(image, box)
    if raw.label is not None:
        return [Image.fromarray(small), Image.fromarray(overlay(small, raw.label, space))]
    if space.supervision == "boxes":
        boxes = [row for row in raw.boxes.tolist() if row[4] in space.ids]
        whole = draw_boxes(small, boxes, space, (0, 0), small.shape[1] / image.shape[1], names=False)
        return [whole, _close_up(image, boxes, space, frequency, box) if boxes else _message("no box", box)]
    return [Image.fromarray(small)]


def fit(image: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """The picture scaled so that it just fits into `box` (width, height)."""
    scale = min(box[0] / image.shape[1], box[1] / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def overlay(small: np.ndarray, label: np.ndarray, space: LabelSpace) -> np.ndarray:
    """The colours of a label image over its scaled picture, with dark lines where they meet; what is ignored shows darkened."""
    ids = sampled(label, small.shape[:2])
    palette = space.palette.copy()
    palette[list(space.ignore_ids)] = 0
    palette[~space.known_ids] = UNKNOWN
    mixed = tint(small, palette[ids])
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    mixed[edge] = 20
    return mixed


def draw_boxes(
    pixels: np.ndarray, boxes: Sequence[Sequence[int]], space: LabelSpace, origin: tuple[float, float], scale: float, *, names: bool
) -> Image.Image:
    """Boxes (x1, y1, x2, y2, id) in their colours, and their ids or names, on the part of a picture that begins at `origin` (x, y)."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    labels = {label.id: label for label in space.labels}
    places: list[tuple[float, float, float, float, int]] = []
    for x1, y1, x2, y2, native_id in boxes:
        left, right = ((x - origin[0]) * scale for x in sorted((x1, x2 + 1)))
        top, bottom = ((y - origin[1]) * scale for y in sorted((y1, y2 + 1)))
        if right >= 0 and bottom >= 0 and left <= picture.width and top <= picture.height:
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=4)
            draw.rectangle((left, top, right, bottom), outline=labels[native_id].color, width=2)
            places.append((left, top, right, bottom, native_id))
    taken: list[tuple[float, float, float]] = []
    for left, top, right, bottom, native_id in sorted(places, key=lambda place: place[1]):
        text = f"{native_id} {labels[native_id].name}" if names else str(native_id)
        wide = font.getlength(text)
        # Beside the box: signs and people often stand one above the other.
        x = right + 4 if right + wide + 8 < picture.width else max(0.0, left - wide - 8)
        y = min(max(0.0, (top + bottom) / 2 - 8), picture.height - 16)
        while any(abs(y - other) < 16 and x < end and begin < x + wide + 3 for begin, end, other in taken):
            y += 4
        taken.append((x, x + wide + 3, y))
        draw.rectangle((x, y, x + wide + 3, y + 15), fill=(255, 255, 255))
        draw.text((x + 2, y + 1), text, fill="black", font=font)
    return picture


def _close_up(
    image: np.ndarray, boxes: Sequence[Sequence[int]], space: LabelSpace, frequency: np.ndarray, box: tuple[int, int]
) -> Image.Image:
    """The box of the rarest class with what is around it, large."""
    x1, y1, x2, y2, _ = min(boxes, key=lambda row: (frequency[row[4]], row))
    height, width = image.shape[:2]
    # Three times the box, in the shape of the panel, and moved so that it lies inside the picture.
    part_width = min(width, max(3 * (abs(x2 - x1) + 1), 3 * (abs(y2 - y1) + 1) * box[0] / box[1], 32.0))
    part_height = min(height, part_width * box[1] / box[0])
    left = int(np.clip((x1 + x2 + 1 - part_width) / 2, 0, width - part_width))
    top = int(np.clip((y1 + y2 + 1 - part_height) / 2, 0, height - part_height))
    part = image[top : top + max(1, int(part_height)), left : left + max(1, int(part_width))]
    pixels = fit(part, box)
    return draw_boxes(pixels, boxes, space, (left, top), pixels.shape[1] / part.shape[1], names=True)


def _message(text: str, box: tuple[int, int]) -> Image.Image:
    panel = Image.new("RGB", box, BACKGROUND)
    ImageDraw.Draw(panel).text((box[0] // 2, box[1] // 2), text, fill="black", font=ImageFont.load_default(size=14), anchor="mm")
    return panel


def _centred(panel: Image.Image, box: tuple[int, int]) -> Image.Image:
    sheet = Image.new("RGB", box, BACKGROUND)
    sheet.paste(panel, ((box[0] - panel.width) // 2, (box[1] - panel.height) // 2))
    return sheet
