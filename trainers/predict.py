"""`taxomix predict`: label images and overlays for a folder of pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.drawing import blend, write_picture
from data.errors import InputError
from data.files import atomic_write
from data.images import encode_label, read_image
from data.labels import LabelSpace, View
from data.progress import track
from data.sources import IMAGE_SUFFIXES, is_image
from data.transforms import CropConfig
from models.deploy import native_ids
from models.model import SegmentationModel
from trainers.evaluation.passes import ONE_PASS, PassesConfig, predict_image
from trainers.finished import RunChoice


@dataclass(frozen=True, kw_only=True)
class PredictConfig(PassesConfig, RunChoice):
    """The keys of `taxomix predict`."""

    images: Path
    out: Path
    datasets: tuple[str, ...] | None = None


def predict_run(config: PredictConfig) -> int:
    """`predict_folder` with the model of a run, for all of its datasets or those that are named."""
    model, job, state = config.open()
    known = list(model.outputs.views)
    for name in config.datasets or ():
        if name not in known:
            raise InputError(f"datasets: {name} is not of this run, expected some of {', '.join(known)}; mend the name")
    crops = {name: job.data.crops[name] for name in config.datasets or known}
    void_ids = {name: LabelSpace.from_dict(state["label_spaces"][name], origin="checkpoint").void_id for name in crops}
    return predict_folder(model, config.images, config.out, crops, void_ids, config)


def predict_folder(
    model: SegmentationModel,
    images: Path,
    out: Path,
    crops: Mapping[str, CropConfig],
    void_ids: Mapping[str, int],
    passes: PassesConfig = ONE_PASS,
) -> int:
    """For every picture below `images` and each dataset of `crops`: out/DATASET/labels/NAME.png (native ids of that dataset, its one of
    `void_ids` where no class is predicted) and out/DATASET/overlays/NAME.png. `crops` are what training cut. Returns the number of
    pictures. Raises InputError where there is none or one does not decode.
    """
    paths = _pictures(images, out)
    native = {name: native_ids(model, name, void_ids[name]).cpu().numpy() for name in crops}
    for path in track(paths, total=len(paths), what="predict"):
        image = read_image(path)
        for dataset, classes in predict_image(model, image, crops, passes).items():
            name = path.relative_to(images).with_suffix(".png")
            _write(out / dataset, name, image, classes.cpu().numpy(), model.outputs.views[dataset], native[dataset])
    return len(paths)


def _pictures(images: Path, out: Path) -> list[Path]:
    if not images.is_dir():
        raise InputError(f"images={images}: no such folder, expected one with pictures; check the path")
    written = out.resolve()
    if written == images.resolve():
        raise InputError(f"out={out}: the folder of the pictures found, expected another; give one, which may be inside of it")
    paths = sorted(path for path in images.rglob("*") if is_image(path) and written not in path.resolve().parents)
    if not paths:
        raise InputError(f"images={images}: no picture found, expected files ending in {', '.join(IMAGE_SUFFIXES)}; check the path")
    by_name: dict[Path, Path] = {}
    for path in paths:
        first = by_name.setdefault(path.with_suffix(""), path)
        if first != path:
            raise InputError(f"{path}: same name as {first.name} but for the suffix, expected names that differ; rename one")
    return paths


def _write(folder: Path, name: Path, image: np.ndarray, classes: np.ndarray, view: View, native: np.ndarray) -> None:
    palette = np.zeros((256, 3), np.uint8)
    palette[list(view.native_ids)] = view.colors
    with atomic_write(folder / "labels" / name) as file:
        file.write(encode_label(native[classes], palette))
    write_picture(folder / "overlays" / name, Image.fromarray(blend(image, classes, view)))
