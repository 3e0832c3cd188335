"""What a fresh training starts from: `model.weights`, found before anything is started, read by one rank for all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.config import build, to_plain
from data.errors import InputError
from data.files import write_text
from data.labels import LabelSpace, View
from models.model import SegmentationModel, build_model
from models.networks.base import names_imagenet
from models.outputs import OutputsConfig
from models.weight_files import fetch_imagenet, read_weights
from models.weight_names import JobHead, encoder_form, forms, run_form, torchvision_encoder
from models.weights import Fit, LoadReport, fit_weights
from trainers.checkpoint import BEST, weights_of
from trainers.config import JobConfig
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder


def check_weights(job: JobConfig, views: Mapping[str, View]) -> LoadReport | None:
    """What `job` would load; None where it loads nothing, as when it goes on from a checkpoint of its own.

    Raises InputError where the weights cannot be had, which may mean downloaded, or do not fit.
    """
    if job.model.weights is None or RunFolder(job.run.folder).checkpoints.steps():
        return None
    return _find(job, build_model(job.model, job.outputs, views)).report


def start_from_weights(job: JobConfig, model: SegmentationModel, ranks: Ranks) -> None:
    """Load `model.weights` into a model that has just been initialised, the same on all ranks. The main rank alone reads the file, and
    prints the report and leaves it in the run's folder; InputError is raised on every rank."""
    fit, problem = None, ""
    if ranks.is_main:
        try:
            fit = _find(job, model)
            fit.load_into(model)
        except InputError as error:
            problem = str(error)
    problem = ranks.text_of_main(problem)
    if problem:
        raise InputError(problem)
    for tensor in model.state_dict().values():
        ranks.copy_from_main(tensor)
    if fit is not None:
        print(fit.report.text, flush=True)
        write_text(RunFolder(job.run.folder).weights, fit.report.text + "\n")


def _find(job: JobConfig, model: SegmentationModel) -> Fit:
    weights, normalise = job.model.weights, to_plain(job.model).get("normalise")
    assert weights is not None
    if names_imagenet(weights):
        encoder = torchvision_encoder(job.model)
        if encoder is None:
            raise InputError(
                f"model.weights: {weights} found, but torchvision has no weights of an encoder like that of {job.model.name}, expected "
                "swiftnet, deeplabv2 or dilated_resnet50; give a file, the folder of a run, or null"
            )
        path = fetch_imagenet(weights, encoder)
        return fit_weights(model, [encoder_form(job.model)], read_weights(path), str(path), normalise)
    path = Path(weights)
    if not path.exists():
        raise InputError(f"model.weights={path}: no such file or folder, expected imagenet, a file or the folder of a run; check the path")
    if path.is_dir():
        path = _checkpoint_of(path)
    content = read_weights(path)
    if _is_checkpoint(content):
        form = run_form(_head_of_checkpoint(content, path), _head_of_job(job, model))
        source = f"{path} (its averaged weights)" if "ema" in content else str(path)
        return fit_weights(model, [form], {"model": weights_of(content)}, source, normalise)
    return fit_weights(model, list(forms(job.model, model.state_dict())), content, str(path), normalise)


def _checkpoint_of(run: Path) -> Path:
    """The best checkpoint of a run, else the last one."""
    checkpoints = RunFolder(run).checkpoints
    if (checkpoints.folder / BEST).is_file():
        return checkpoints.folder / BEST
    if not checkpoints.steps():
        raise InputError(f"model.weights={run}: no checkpoint found, expected the folder of a trained run; check the path")
    return checkpoints.path(checkpoints.steps()[-1])


def _is_checkpoint(content: Any) -> bool:
    return isinstance(content, dict) and {"step", "model", "job", "label_spaces"} <= content.keys()


def _head_of_checkpoint(content: Mapping[str, Any], path: Path) -> JobHead:
    job = content["job"]
    spaces = {name: LabelSpace.from_dict(entry, origin=str(path)) for name, entry in content["label_spaces"].items()}
    views = {name: space.view(job["data"]["views"].get(name)) for name, space in spaces.items()}
    try:
        outputs = build(_Outputs, {"outputs": job["outputs"]}).outputs
    except InputError as error:  # of another version of this package
        raise InputError(f"{path}: {error}") from None
    return _head(outputs, views, job["model"]["normalise"])


def _head_of_job(job: JobConfig, model: SegmentationModel) -> JobHead:
    return _head(job.outputs, model.outputs.views, to_plain(job)["model"]["normalise"])


def _head(outputs: OutputsConfig, views: Mapping[str, View], normalise: str) -> JobHead:
    return JobHead(outputs=outputs.name, classifiers=outputs.classifiers(views), normalise=normalise)


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    outputs: OutputsConfig
