"""`taxomix export`: a run's model as one file for other runtimes, compared with the model before it is there."""

import hashlib
import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.config import to_plain
from data.errors import FieldError, InputError
from data.files import atomic_write
from data.images import read_image
from data.labels import LabelSpace, View
from data.shards import ShardSplit
from data.sources import IMAGE_SUFFIXES, is_image
from data.transforms import CropConfig
from models.deploy import INPUT, DeployedModel, Shown
from models.formats import SUFFIXES, FormatName, Run, check_installed, draft, open_file
from models.model import SegmentationModel
from trainers.agreement import TOLERANCE, Agreement, check_same, compare, equal_to_predict, make_batches
from trainers.checkpoint import weights_of
from trainers.config import JobConfig
from trainers.evaluation import read_samples
from trainers.finished import RunChoice

FORMAT_VERSION = 1
NUM_PICTURES = 4
"""Pictures that are compared whole, besides parts of the first and the last."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(RunChoice):
    """The keys of `taxomix export`."""

    format: FormatName
    out: Path | None
    datasets: tuple[str, ...] | None
    scores: bool
    size: tuple[int, int] | None
    images: Path | None
    opset: int | None

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 32:
            raise FieldError("size", f"{list(self.size)} found, expected [height, width] of at least 32 pixels; raise it")
        if self.opset is not None and (self.format != "onnx" or self.opset < 18):
            raise FieldError("opset", f"{self.opset} found with format={self.format}, expected 18 or more, and of ONNX alone; remove it")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how it compares."""

    path: Path
    bytes: int
    agreement: Agreement
    equal_to_predict: float
    """Share of pixels that `taxomix predict` gives the same label."""
    milliseconds: float
    """For the first picture, in the runtime that the format is for, on this CPU."""
    torch_milliseconds: float


def export_run(config: ExportConfig) -> Exported:
    """Raises InputError where something is missing, or the file would not do what the model does; nothing is written then."""
    check_installed(config.format)
    model, job, state = config.open(torch.device("cpu"))
    path = config.out or config.run / "export" / f"{job.run.name}{SUFFIXES[config.format]}"
    if path.is_dir():
        raise InputError(f"out={path}: a folder found, expected the name of a file to write; give one")
    names = _chosen(config.datasets, list(model.outputs.views))
    spaces = {name: LabelSpace.from_dict(state["label_spaces"][name], origin="checkpoint") for name in names}
    crops = {name: job.data.crops[name] for name in names}
    shown = {name: shown_like(crop, job.model.input_scale) for name, crop in crops.items()}
    batches = make_batches(_pictures(config, job, names), config.size)
    deployed = DeployedModel(model, shown, {name: space.void_id for name, space in spaces.items()}, scores=config.scores)
    drafted = draft(config.format, deployed, size=config.size, opset=config.opset)
    agreement = compare(drafted.run, model, deployed, batches)
    metadata = {
        **_about_run(config, job, state),
        "input": _about_input(config, model, shown),
        "datasets": {name: _about_dataset(name, spaces[name], model.outputs.views[name], config) for name in names},
        "compared": {"tolerance": TOLERANCE, **asdict(agreement)},
    }
    content = drafted.finish(metadata)
    run, _ = open_file(config.format, content)
    check_same(drafted.run, run, batches)
    with atomic_write(path) as file:
        file.write(content)
    return Exported(
        path=path,
        bytes=len(content),
        agreement=agreement,
        equal_to_predict=equal_to_predict(run, model, deployed, crops, batches),
        milliseconds=_milliseconds(run, batches[0]),
        torch_milliseconds=_milliseconds(deployed, batches[0]),
    )


def _chosen(datasets: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    for name in datasets or ():
        if name not in known:
            raise InputError(f"datasets: {name} is not of this run, expected some of {', '.join(known)}; mend the name")
    return list(dict.fromkeys(datasets)) if datasets else list(known)


def shown_like(crop: CropConfig, input_scale: float) -> Shown:
    """How whole pictures of a dataset that was trained with `crop` are brought to the network."""
    if crop.resize is None and input_scale == 1:
        return Shown()  # no pixel is interpolated, so all such datasets are alike
    return Shown(resize=crop.resize, scale=input_scale, interpolation=crop.interpolation)


def _pictures(config: ExportConfig, job: JobConfig, names: Sequence[str]) -> list[np.ndarray]:
    if config.images is not None:
        paths = sorted(path for path in config.images.rglob("*") if is_image(path))
        if not paths:
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise InputError(f"images={config.images}: no picture found, expected files ending in {suffixes}; check the path")
        return [read_image(paths[number]) for number in _spread(len(paths), NUM_PICTURES)]
    found: list[np.ndarray] = []
    reasons = []
    for name in names:
        try:
            found += _val_pictures(job, name, max(1, NUM_PICTURES // len(names)))
        except (InputError, OSError) as error:
            reasons.append(str(error))
    if not found:
        why = reasons[0] if reasons else f"split {job.data.val_split} is empty"
        raise InputError(f"images: missing, and no picture of the run's validation splits can be read ({why}); give images=DIR")
    return found[:NUM_PICTURES]


def _val_pictures(job: JobConfig, name: str, number: int) -> Iterator[np.ndarray]:
    split = ShardSplit(job.data.location(name), job.data.val_split, cache=job.data.cache)
    return (image for _, image, _ in read_samples(split, _spread(len(split), number)))


def _spread(length: int, number: int) -> list[int]:
    """Up to `number` of the numbers below `length`, far from each other."""
    return sorted({(2 * i + 1) * length // (2 * number) for i in range(number)}) if length else []


def _about_run(config: ExportConfig, job: JobConfig, state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": f"taxomix run {job.run.name}, {config.checkpoint} checkpoint, step {state['step']}",
        "format_version": FORMAT_VERSION,
        "taxomix_version": importlib.metadata.version("taxomix"),
        "torch_version": torch.__version__,
        "run": job.run.name,
        "checkpoint": config.checkpoint,
        "averaged": "ema" in state,
        "teacher": config.teacher,
        "step": state["step"],
        "weights_sha256": fingerprint(weights_of(state)),
        "network": to_plain(job.model),
        "outputs": to_plain(job.outputs),
    }


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values of a checkpoint's weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _about_input(config: ExportConfig, model: SegmentationModel, shown: Mapping[str, Shown]) -> dict[str, Any]:
    height, width = config.size or ("height", "width")
    return {
        "name": INPUT,
        "shape": ["batch", 3, height, width],
        "type": "uint8",
        "channels": "RGB, 0..255; the file normalises",
        "padded_inside_to_multiples_of": model.network.divisor,
        "resized_inside": {name: to_plain(way) for name, way in shown.items() if not way.is_identity},
    }


def _about_dataset(name: str, space: LabelSpace, view: View, config: ExportConfig) -> dict[str, Any]:
    classes = zip(view.native_ids, view.names, view.colors, strict=True)
    return {
        "labels": f"labels_{name}",
        "scores": f"scores_{name}" if config.scores else None,
        "label_space": space.name,
        "view": view.name,
        "supervision": space.supervision,
        "void_id": space.void_id,
        "classes": [{"id": i, "name": label, "color": list(color)} for i, label, color in classes],
    }


def _milliseconds(run: Run | DeployedModel, images: Tensor) -> float:
    """The shortest of three, after a first one that nobody waits for."""
    seconds = []
    with torch.no_grad():
        for _ in range(4):
            begin = time.perf_counter()
            run(images)
            seconds.append(time.perf_counter() - begin)
    return 1000 * min(seconds[1:])
