"""The names that files of weights give to tensors, and where these go in a model.

Names of a model are those of its state dict: `network.encoder....`, and what the output space holds: decoders as `outputs.decoder....` or
`outputs.decoders.N....`, classifiers as `outputs.classifier....` or `outputs.classifiers.N....`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from models.networks import NetworkConfig
from models.networks.deeplab import DeepLabV2Config, official_deeplab_key
from models.networks.dilated_resnet import DilatedResNet50Config
from models.networks.erfnet import ERFNetConfig, official_erfnet_key
from models.networks.espnet import ESPNetConfig, official_espnet_key
from models.networks.igumnet import IGUMNetConfig
from models.networks.swiftnet import SwiftNetConfig, official_swiftnet_key

NO_PLACE = "this model has no such part"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor of a file goes: names of the model, some of which it may not have; or why to none."""

    names: tuple[str, ...] = ()
    reason: str = NO_PLACE


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to name tensors."""

    name: str
    """Whose names they are, for the report."""
    place: Callable[[str], Place]
    normalise: tuple[str, ...] = ()
    """Values of model.normalise that weights of this form were trained with; empty where that is not known."""


Rename = Callable[[str], str | None]
"""An official name to `encoder....` of a network, `decoder....` of a decoder, `classifier....` of a classifier; or None."""


def official_names(config: NetworkConfig) -> tuple[str, Rename, tuple[str, ...]] | None:
    """Whose code a network has official names from, those names, and the model.normalise that goes with them."""
    match config:
        case SwiftNetConfig():
            return "orsic/swiftnet", official_swiftnet_key, ("cityscapes",)
        case DeepLabV2Config():
            return "ClassMix, DACS and AdaptSegNet", official_deeplab_key, ("caffe",)
        case ESPNetConfig():
            return "sacmehta/ESPNet", official_espnet_key, ("cityscapes", "camvid")
        case ERFNetConfig() | IGUMNetConfig():  # of the same encoder, trained with `imagenet` where it is alone
            return "Eromera/erfnet_pytorch", official_erfnet_key, ("unit", "imagenet")
        case _:
            return None


def torchvision_encoder(config: NetworkConfig) -> str | None:
    """torchvision's name of a network's encoder; None where torchvision has none like it."""
    match config:
        case SwiftNetConfig():
            return config.encoder
        case DeepLabV2Config():
            return "resnet101"
        case DilatedResNet50Config():
            return "resnet50"
        case _:
            return None


def encoder_form(config: NetworkConfig) -> Form:
    """The names of the encoder alone, which are torchvision's where it has the same."""
    encoder = torchvision_encoder(config)
    return Form(
        name=f"torchvision's {encoder}" if encoder else "the encoder alone",
        place=lambda key: Place(names=(f"network.encoder.{key}",)),
        normalise=("imagenet",) if encoder else (),
    )


def forms(config: NetworkConfig, names: Iterable[str]) -> Iterator[Form]:
    """The ways in which a file without a header may name its tensors; `names` are those of the model."""
    yield Form(name="taxomix", place=lambda key: Place(names=(key.removeprefix("model."),)))
    yield encoder_form(config)
    official = official_names(config)
    if official is not None:
        name, rename, normalise = official
        parts = _parts(names)
        yield Form(name=name, place=lambda key: _official_place(rename(key), parts), normalise=normalise)
        yield Form(name=f"the encoder of {name}", place=lambda key: _official_place(rename(f"encoder.{key}"), parts), normalise=normalise)


def _parts(names: Iterable[str]) -> dict[str, list[str]]:
    """Part of an official network -> the beginnings of the names of all parts of the model that are such a one."""
    found: dict[str, dict[str, None]] = {"encoder": {"network.encoder": None}, "decoder": {}, "classifier": {}}
    for name in names:
        if part := re.match(r"outputs\.(?:(decoder|classifier)|(decoder|classifier)s\.\d+)(?=\.)", name):
            found[part[1] or part[2]][part[0]] = None
    return {kind: list(beginnings) for kind, beginnings in found.items()}


def _official_place(key: str | None, parts: Mapping[str, Sequence[str]]) -> Place:
    if key is None:
        return Place()
    kind, _, rest = key.partition(".")
    return Place(names=tuple(f"{part}.{rest}" for part in parts[kind]))


@dataclass(frozen=True, kw_only=True)
class JobHead:
    """What decides whether the classifiers of one job are those of another."""

    outputs: str
    """Name of the output space."""
    classifiers: Mapping[str, tuple[str, ...]]
    """What each classifier is called and decides between, in their order."""
    normalise: str
    """How its network normalises images."""


def run_form(file: JobHead, job: JobHead) -> Form:
    """The names of a run's checkpoint. A classifier goes to the one of the same name that decides between the same, with the decoder
    that is its own; a decoder that all share is always taken."""

    def place(key: str) -> Place:
        key = key.removeprefix("model.")
        if key.startswith("outputs.leanings.") and file.classifiers != job.classifiers:
            return Place(reason="to which labels classes belong, which was learnt of other classes")
        numbered = re.fullmatch(r"outputs\.(decoders|classifiers)\.(\d+)\.(.+)", key)
        if numbered is None:
            return Place(names=(key,))
        if file.outputs != job.outputs:
            return Place(reason=f"of outputs={file.outputs}, this job has {job.outputs}")
        name = list(file.classifiers)[int(numbered[2])]
        if name not in job.classifiers:
            return Place(reason=f"the classifier of {name}, which is not in this job")
        if file.classifiers[name] != job.classifiers[name]:
            return Place(reason=f"the classifier of {name}, which had other classes")
        return Place(names=(f"outputs.{numbered[1]}.{list(job.classifiers).index(name)}.{numbered[3]}",))

    return Form(name="taxomix", place=place, normalise=(file.normalise,))
