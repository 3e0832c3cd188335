"""Pictures for the eye: label maps in their colours over the image, with a legend."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from data.drawing import blend, legend_of, side_by_side, write_picture
from data.labels import IGNORE_INDEX, View
from data.shards import ShardSplit
from data.transforms import CropConfig
from models.model import SegmentationModel
from models.outputs.base import evaluating
from trainers.evaluation.passes import ONE_PASS, PassesConfig
from trainers.evaluation.pictures import confusion_picture
from trainers.evaluation.results import worst_images
from trainers.evaluation.samples import read_samples
from trainers.evaluation.sizes import PLAIN, SizeConfig
from trainers.evaluation.tally import MAIN, PER_IMAGE, Tally, Task, answers, own_task

LARGEST = 1024
"""Pixels of the longer side above which a picture is shown smaller: a panel of a large one would take a hundred megabytes."""


def panel(image: np.ndarray, maps: Sequence[np.ndarray], titles: Sequence[str], view: View) -> Image.Image:
    """The image beside its overlays, each under its title, and below them a legend of the classes that occur; large ones smaller."""
    factor = -(-max(image.shape[:2]) // LARGEST)
    if factor > 1:
        image = np.asarray(Image.fromarray(image).reduce(factor))
        maps = [classes[::factor, ::factor] for classes in maps]
    blended = [(title, blend(image, classes, view)) for title, classes in zip(titles, maps, strict=True)]
    return side_by_side([("image", image), *blended], legend_of(view, np.stack(maps)))


def write_panels(
    model: SegmentationModel, splits: Mapping[str, ShardSplit], crops: Mapping[str, CropConfig], folder: Path, number: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Write `number` pictures of each split, spread over it, as PNG into `folder`: image, prediction and truth. `crops` are what
    training cut, by dataset.

    Yields the name of each and its pixels (H, W, 3) uint8.
    """
    tasks = {name: own_task(model, name, split, crops[name]) for name, split in splits.items()}
    yield from write_task_panels(model, tasks, folder, number)


def write_task_panels(
    model: SegmentationModel,
    tasks: Mapping[str, Task],
    folder: Path,
    number: int,
    *,
    passes: PassesConfig = ONE_PASS,
    size: SizeConfig = PLAIN,
) -> Iterator[tuple[str, np.ndarray]]:
    """`write_panels` of any tasks, as they are evaluated."""
    for dataset, task in tasks.items():
        split = task.split
        chosen = sorted({(2 * i + 1) * len(split) // (2 * number) for i in range(number)}) if number else []
        for sample, image, truth, prediction in _predicted(model, task, chosen, passes=passes, size=size):
            title = "prediction inside the boxes" if _is_of_boxes(task) else "prediction"
            sheet = panel(image, [prediction, truth], [title, "truth"], task.readings[MAIN].view)
            name = f"{dataset}-{_file_name(split, sample)}"
            write_picture(folder / f"{name}.png", sheet)
            yield name, np.asarray(sheet)


def write_worst(
    model: SegmentationModel,
    tasks: Mapping[str, Task],
    tallies: Mapping[str, Tally],
    folder: Path,
    number: int,
    *,
    passes: PassesConfig = ONE_PASS,
    size: SizeConfig = PLAIN,
) -> None:
    """Write the `number` images of each task with the lowest mIoU into `folder`: image, truth and prediction, with the scores of the
    image."""
    for dataset, task in tasks.items():
        chosen = worst_images(tallies[dataset], number)
        samples = _predicted(model, task, chosen, passes=passes, size=size)
        for place, (sample, image, truth, prediction) in enumerate(samples, 1):
            miou = tallies[dataset].per_image[sample, PER_IMAGE.index("miou")]
            title = f"prediction: mIoU {100 * miou:.1f}"
            sheet = panel(image, [truth, prediction], ["truth", title], task.readings[MAIN].view)
            write_picture(folder / f"{dataset}-{place:02}-{_file_name(task.split, sample)}.png", sheet)


def write_confusions(tallies: Mapping[str, Tally], folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Write the confusion matrices of all readings as PNG into `folder`: DATASET.png, and DATASET-READING.png for more.

    Yields each dataset and the pixels (H, W, 3) uint8 of its own one.
    """
    for dataset, tally in tallies.items():
        picture = _confusion(tally, f"{dataset}: % of each class's pixels that are taken for which")
        write_picture(folder / f"{dataset}.png", picture)
        yield dataset, np.asarray(picture)
        for name, more in tally.more.items():
            title = f"{dataset}, {name.replace('/', ' ')}: % of each row"
            write_picture(folder / f"{dataset}-{name.replace('/', '-').replace(' ', '_')}.png", _confusion(more, title))


def _confusion(tally: Tally, title: str) -> Image.Image:
    return confusion_picture(tally.matrix, tally.names, tally.columns, title)


def _predicted(
    model: SegmentationModel, task: Task, samples: Sequence[int], *, passes: PassesConfig, size: SizeConfig
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Number, image (H, W, 3), true and predicted classes (H, W) of each of `samples` that can be read, as they are scored."""
    reading = task.readings[MAIN]
    alone = Task(split=task.split, readings={MAIN: reading}, crop=task.crop)
    with evaluating(model), closing(read_samples(task.split, samples)) as read:
        for sample, image, label in read:
            shown, ids, predicted = answers(model, alone, image, label, passes=passes, size=size)
            truth, prediction = reading.view.table[ids], predicted[MAIN].cpu().numpy()
            if _is_of_boxes(task):  # outside of them nothing was learnt, and nothing is scored
                prediction = np.where(truth == IGNORE_INDEX, truth, prediction)
            yield sample, shown, truth, prediction


def _is_of_boxes(task: Task) -> bool:
    return task.split.label_space.supervision == "boxes"


def _file_name(split: ShardSplit, sample: int) -> str:
    return split.key(sample).replace("/", "_")
