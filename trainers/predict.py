"""`taxomix predict`: label images and overlays for a folder of pictures."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from data.drawing import blend, write_picture
from data.errors import InputError
from data.files import atomic_write
from data.images import encode_label, read_image
from data.labels import IGNORE_INDEX, View
from data.progress import track
from data.sources import IMAGE_SUFFIXES, is_image
from data.transforms import CropConfig
from models.model import SegmentationModel
from trainers.evaluation import predict_image
from trainers.finished import open_run


def predict_run(run: Path, images: Path, out: Path, *, checkpoint: str, datasets: Sequence[str] | None) -> int:
    """`predict_folder` with the model of a run, for all of its datasets or those that are named."""
    model, job, _ = open_run(run, checkpoint)
    known = list(model.outputs.views)
    for name in datasets or ():
        if name not in known:
            raise InputError(f"datasets: {name} is not of this run, expected some of {', '.join(known)}; mend the name")
    return predict_folder(model, images, out, {name: job.data.crops[name] for name in datasets or known})


def predict_folder(model: SegmentationModel, images: Path, out: Path, crops: Mapping[str, CropConfig]) -> int:
    """For every picture below `images` and each dataset of `crops`: out/DATASET/labels/NAME.png (native ids of that dataset) and
    out/DATASET/overlays/NAME.png. `crops` are what training cut. Returns the number of pictures. Raises InputError where there is
    none or one does not decode.
    """
    if not images.is_dir():
        raise InputError(f"images={images}: no such folder, expected one with pictures; check the path")
    paths = sorted(path for path in images.rglob("*") if is_image(path) and out.absolute() not in path.absolute().parents)
    if not paths:
        raise InputError(f"images={images}: no picture found, expected files ending in {', '.join(IMAGE_SUFFIXES)}; check the path")
    for first, second in pairwise(paths):
        if first.with_suffix("") == second.with_suffix(""):
            raise InputError(f"{second}: same name as {first.name} but for the suffix, expected names that differ; rename one")
    for path in track(paths, total=len(paths), what="predict"):
        image = read_image(path)
        for dataset, classes in predict_image(model, image, crops).items():
            name = path.relative_to(images).with_suffix(".png")
            _write(out / dataset, name, image, classes.cpu().numpy(), model.outputs.views[dataset])
    return len(paths)


def _write(folder: Path, name: Path, image: np.ndarray, classes: np.ndarray, view: View) -> None:
    native = np.full(256, np.flatnonzero(view.table == IGNORE_INDEX).max(initial=0), np.uint8)  # where no class is predicted
    native[: view.num_classes] = view.native_ids
    palette = np.zeros((256, 3), np.uint8)
    palette[list(view.native_ids)] = view.colors
    with atomic_write(folder / "labels" / name) as file:
        file.write(encode_label(native[classes], palette))
    write_picture(folder / "overlays" / name, Image.fromarray(blend(image, classes, view)))
