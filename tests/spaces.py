"""Small output spaces of every kind for tests: three datasets whose labels overlap, a network that does nothing, random logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.hierarchy import Classifier, Hierarchy
from data.labels import IGNORE_INDEX, Label, LabelSpace, View
from data.universe import Leaf, Universe
from models.networks.base import Features, FirstMap, Network
from models.outputs import (
    ConcatConfig,
    HierarchyConfig,
    LearnedConfig,
    MultiHeadConfig,
    OutputsConfig,
    UniversalConfig,
    build_outputs,
)
from models.outputs.base import OutputSpace


def view(names: Sequence[str]) -> View:
    return LabelSpace(name="some", labels=tuple(Label(id=i, name=name, color=(i, i, i)) for i, name in enumerate(names))).view()


VIEWS = {"coarse": view(["ground", "thing", "sky"]), "fine": view(["road", "grass", "car", "sign"]), "signs": view(["stop", "yield"])}

UNIVERSE = Universe(
    version=1,
    leaves=tuple(Leaf(name=name) for name in ("road", "grass", "car", "stop", "yield", "sky")),
    labels={
        "coarse": {"ground": ("road", "grass"), "thing": ("car", "stop", "yield"), "sky": ("sky",)},
        "fine": {"road": ("road",), "grass": ("grass",), "car": ("car",), "sign": ("stop", "yield")},
        "signs": {"stop": ("stop",), "yield": ("yield",)},
    },
)

TREE = Hierarchy(
    version=1,
    classifiers={
        "top": Classifier(classes=("ground", "car", "sign", "sky"), datasets=("coarse", "fine")),
        "ground": Classifier(of="ground", classes=("road", "grass"), weight=0.5, void=True),
        "sign": Classifier(of="sign", classes=("stop", "yield"), weight=0.1, void=True),
    },
    labels={
        "coarse": {"ground": "ground", "thing": ("car", "sign"), "sky": "sky"},
        "fine": {"road": "road", "grass": "grass", "car": "car", "sign": "sign"},
        "signs": {"stop": "stop", "yield": "yield"},
    },
)

SPACES: dict[str, OutputsConfig] = {
    "shared": MultiHeadConfig(name="multihead"),
    "repeated": MultiHeadConfig(name="multihead", decoder="repeated"),
    "concat": ConcatConfig(name="concat"),
    "all": ConcatConfig(name="concat", predict="all"),
    "universal": UniversalConfig(name="universal", universe=UNIVERSE),
    "joint": HierarchyConfig(name="hierarchy", tree=TREE),
    "greedy": HierarchyConfig(name="hierarchy", tree=TREE, rule="greedy"),
    "learned": LearnedConfig(name="learned"),
}


class Plain(Network):
    """Its features are the images, of four channels; decoder and classifier have a batch normalisation each."""

    def forward(self, images: Tensor) -> Features:
        return (images,)

    def make_decoder(self, num_classes: int) -> nn.Module:
        return Normalised()

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, num_classes, 1)))


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, features: Features) -> Features:
        return (self.layers(features[0]),)


def space(name: str, views: dict[str, View] | None = None) -> OutputSpace:
    torch.manual_seed(0)
    return build_outputs(SPACES[name], views or VIEWS, Plain()).double()


def outputs_of(name: str, *, batch: int = 2, size: tuple[int, int] = (4, 5), scale: float = 3.0) -> tuple[OutputSpace, dict[str, Tensor]]:
    """A space, and random logits (2, K, 4, 5) float64 for each dataset, of the widths that it gives."""
    made = space(name)
    rows = {dataset: torch.arange(batch) for dataset in VIEWS}
    logits = made((torch.randn(batch, 4, *size, dtype=torch.float64),), rows, size)
    return made, {dataset: torch.randn_like(values) * scale for dataset, values in logits.items()}


def random_labels(seed: int, shape: tuple[int, ...] = (2, 4, 5)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = {name: torch.randint(0, view.num_classes + 1, shape, generator=generator) for name, view in VIEWS.items()}
    return {name: values.masked_fill(values == VIEWS[name].num_classes, IGNORE_INDEX) for name, values in labels.items()}


def slow_set_loss(logits: Tensor, labels: Tensor, sets: Sequence[frozenset[int]]) -> tuple[float, int]:
    """-log of the summed probability, pixel by pixel, in float64."""
    total, count = 0.0, 0
    x = logits.detach().double()
    for n in range(len(labels)):
        for i in range(labels.shape[1]):
            for j in range(labels.shape[2]):
                label = int(labels[n, i, j])
                if label != IGNORE_INDEX and sets[label]:
                    chosen = x[n, sorted(sets[label]), i, j]
                    total += float(x[n, :, i, j].logsumexp(0) - chosen.logsumexp(0))
                    count += 1
    return total, count
