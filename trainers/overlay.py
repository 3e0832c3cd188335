"""Pictures for the eye: label maps in their colours over the image, with a legend."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.drawing import blend, legend_strip, write_picture
from data.labels import IGNORE_INDEX, View
from data.shards import ShardSplit
from data.transforms import CropConfig
from models.model import SegmentationModel
from trainers.evaluation import predict_image, read_samples

GAP = 4


def panel(image: np.ndarray, maps: Sequence[np.ndarray], titles: Sequence[str], view: View) -> Image.Image:
    """The image beside its overlays, each under its title, and below them a legend of the classes that occur."""
    pictures = [image, *(blend(image, classes, view) for classes in maps)]
    height, width = image.shape[:2]
    font = ImageFont.load_default(size=13)
    occurring = sorted({int(c) for classes in maps for c in np.unique(classes)} - {IGNORE_INDEX})
    legend = legend_strip([(view.names[c], view.colors[c]) for c in occurring], len(pictures) * (width + GAP), font)
    sheet = Image.new("RGB", (len(pictures) * (width + GAP), 20 + height + GAP + legend.height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, title) in enumerate(zip(pictures, ("image", *titles), strict=True)):
        draw.text((number * (width + GAP) + 2, 2), title, fill="black", font=font)
        sheet.paste(Image.fromarray(picture), (number * (width + GAP), 20))
    sheet.paste(legend, (0, 20 + height + GAP))
    return sheet


def write_panels(
    model: SegmentationModel, splits: Mapping[str, ShardSplit], crops: Mapping[str, CropConfig], folder: Path, number: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Write `number` pictures of each split, spread over it, as PNG into `folder`: image, prediction and truth. `crops` are what
    training cut, by dataset.

    Yields the name of each and its pixels (H, W, 3) uint8.
    """
    was_training = model.training
    model.eval()
    for dataset, split in splits.items():
        view = model.outputs.views[dataset]
        chosen = sorted({(2 * i + 1) * len(split) // (2 * number) for i in range(number)}) if number else []
        with closing(read_samples(split, chosen)) as read:
            for sample, image, label in read:
                prediction, truth = predict_image(model, image, {dataset: crops[dataset]})[dataset].cpu().numpy(), view.table[label]
                title = "prediction"
                if split.label_space.supervision == "boxes":  # outside of them nothing was learnt, and nothing is scored
                    prediction, title = np.where(truth == IGNORE_INDEX, truth, prediction), "prediction inside the boxes"
                sheet = panel(image, [prediction, truth], [title, "truth"], view)
                name = f"{dataset}-{split.key(sample).replace('/', '_')}"
                write_picture(folder / f"{name}.png", sheet)
                yield name, np.asarray(sheet)
    model.train(was_training)
