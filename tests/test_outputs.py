"""Output spaces: losses against slow references, what they have in common, predictions, trees and tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_distributed import on_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.adapters.cityscapes import extended_space
from data.adapters.common import read_table
from data.config import build, to_plain
from data.errors import InputError
from data.hierarchy import Classifier, Hierarchy, read_hierarchy
from data.labels import IGNORE_INDEX, Label, LabelSpace, View
from data.streets.labels import ATOMS, STREET_SPACES
from data.universe import Leaf, Universe, read_universe
from models.batchnorm import EmptiableBatchNorm2d, GlobalBatchNorm2d, synchronise_batchnorm
from models.networks import NetworkConfig, build_network
from models.networks.base import Features, FirstMap, Network
from models.outputs import (
    ConcatConfig,
    HierarchyConfig,
    MultiHeadConfig,
    OutputsConfig,
    UniversalConfig,
    build_outputs,
    set_loss,
)
from models.outputs.base import LossTerm, OutputSpace
from models.outputs.hierarchy import HierarchySpace
from models.outputs.multihead import MultiHead
from models.outputs.set_loss import SetLoss, Softmax
from trainers.predict import _write

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


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


# The loss of labels that are sets.


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


@st.composite
def set_cases(draw: st.DrawFn) -> tuple[int, tuple[frozenset[int], ...], int]:
    num_outputs = draw(st.integers(2, 7))
    sets = draw(st.lists(st.frozensets(st.integers(0, num_outputs - 1)), min_size=1, max_size=6))
    return num_outputs, tuple(sets), draw(st.integers(0, 2**31))


@given(set_cases(), st.sampled_from([torch.contiguous_format, torch.channels_last]), st.sampled_from([1.0, 300.0]))
def test_the_loss_of_sets_equals_the_slow_reference(
    case: tuple[int, tuple[frozenset[int], ...], int], layout: torch.memory_format, scale: float
) -> None:
    num_outputs, sets, seed = case
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(2, num_outputs, 3, 4, generator=generator) * scale).to(memory_format=layout).requires_grad_()
    labels = torch.randint(0, len(sets) + 1, (2, 3, 4), generator=generator)
    labels[labels == len(sets)] = IGNORE_INDEX
    totals, counts = SetLoss([Softmax(channels=slice(0, num_outputs), sets=sets)])(logits, labels)
    expected, count = slow_set_loss(logits, labels, sets)
    assert totals.dtype == torch.float32
    assert int(counts[0]) == count
    assert float(totals[0].detach()) == pytest.approx(expected, rel=1e-5, abs=1e-4)
    totals.sum().backward()
    torch.testing.assert_close(logits.grad, slow_gradient(logits, labels, sets), rtol=1e-4, atol=1e-5)


def slow_gradient(logits: Tensor, labels: Tensor, sets: Sequence[frozenset[int]]) -> Tensor:
    x = logits.detach().double().requires_grad_()
    total = x.sum() * 0
    for index in (labels != IGNORE_INDEX).nonzero().tolist():
        n, i, j = index
        chosen = sorted(sets[int(labels[n, i, j])])
        if chosen:
            total = total + x[n, :, i, j].logsumexp(0) - x[n, chosen, i, j].logsumexp(0)
    total.backward()
    assert x.grad is not None
    return x.grad.float()


@pytest.mark.parametrize("sets", [({0}, {1, 2}, {3, 4}), ({0, 1}, {1, 2}, {4}), ({0}, {1}, {4}), ({0, 1, 2, 3, 4}, {2}, set())])
def test_the_gradient_of_sets_is_that_of_the_loss(sets: Sequence[set[int]]) -> None:
    torch.manual_seed(0)
    loss = SetLoss(
        [
            Softmax(channels=slice(0, 5), sets=tuple(frozenset(one) for one in sets)),
            Softmax(channels=slice(6, 8), sets=(frozenset([0]), frozenset(), frozenset([1]))),
        ]
    )
    labels = torch.tensor([[[0, 1, 2], [IGNORE_INDEX, 2, 1]]])
    logits = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels)[0], logits)


def test_a_set_far_below_the_rest_still_teaches() -> None:
    """Its probability is no float32: the loss is a difference of logits, and the gradient is not lost."""
    logits = torch.tensor([1e4, 0.0, 0.0, -1e4]).view(1, 4, 1, 1).requires_grad_()
    loss = SetLoss([Softmax(channels=slice(0, 4), sets=(frozenset([1, 2]),))])
    totals, _ = loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64))
    assert float(totals[0].detach()) == pytest.approx(1e4 - np.log(2), rel=1e-6)
    totals.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([1.0, -0.5, -0.5, 0.0]))


@pytest.mark.parametrize("value", [0, IGNORE_INDEX])
@pytest.mark.parametrize("is_gpu", [False, True])
def test_all_leaves_teach_exactly_nothing(value: int, is_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label 0 is all leaves: it counts, and loss and gradient are exact zeros. Ignored pixels do not count."""
    if is_gpu:
        monkeypatch.setattr(set_loss, "_fill_quickly", as_on_a_gpu)
    loss = SetLoss([Softmax(channels=slice(0, 6), sets=(frozenset(range(6)), frozenset([1, 2])))])
    logits = (torch.randn(2, 6, 4, 4) * 20).requires_grad_()
    totals, counts = loss(logits, torch.full((2, 4, 4), value))
    assert counts.tolist() == [32 if value == 0 else 0]
    assert float(totals[0].detach()) == 0
    totals.sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def as_on_a_gpu(x: Tensor, is_open: Tensor, taught: Tensor, out: Tensor | None, dim: int) -> Tensor:
    return set_loss._fill_exactly(x, is_open, out, dim)


def test_both_ways_of_the_set_loss_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = SetLoss([Softmax(channels=slice(0, 6), sets=(frozenset([0, 3]), frozenset([1, 2, 4]), frozenset([0, 1, 2, 3, 4, 5])))])
    labels = torch.randint(0, 3, (2, 7, 5))
    found = []
    for way in (set_loss._fill_quickly, as_on_a_gpu):
        monkeypatch.setattr(set_loss, "_fill_quickly", way)
        torch.manual_seed(1)
        logits = torch.randn(2, 6, 7, 5, requires_grad=True)
        totals, _ = loss(logits, labels)
        totals.sum().backward()
        assert logits.grad is not None
        found.append((totals.detach(), logits.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("sets", [({0}, {1}), ({0, 2}, {1})])
def test_the_loss_is_float32_at_least(sets: Sequence[set[int]]) -> None:
    loss = SetLoss([Softmax(channels=slice(0, 3), sets=tuple(frozenset(one) for one in sets))])
    logits = (torch.randn(1, 3, 4, 4) * 5).bfloat16().requires_grad_()
    labels = torch.randint(0, 2, (1, 4, 4))
    totals, _ = loss(logits, labels)
    exact, _ = slow_set_loss(logits, labels, [frozenset(one) for one in sets])
    assert totals.dtype == torch.float32
    assert float(totals[0].detach()) == pytest.approx(exact, rel=1e-5)
    totals.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_bands_cover_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss does not depend on how many rows are dealt with at once."""
    loss = SetLoss([Softmax(channels=slice(0, 4), sets=(frozenset([0, 1]), frozenset([2, 3])))])
    logits, labels = torch.randn(2, 4, 9, 3), torch.randint(0, 2, (2, 9, 3))
    whole, _ = loss(logits, labels)
    monkeypatch.setattr(set_loss, "bands", lambda logits: (slice(i, min(9, i + 4)) for i in range(0, 9, 4)))
    torch.testing.assert_close(loss(logits, labels)[0], whole)


# Losses of the spaces.


def slow_losses(name: str, logits: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, tuple[float, int]]:
    """By the definitions, pixel by pixel."""
    if name in ("shared", "repeated"):
        return {d: slow_set_loss(logits[d], labels[d], [frozenset([i]) for i in range(len(VIEWS[d].names))]) for d in VIEWS}
    if name in ("concat", "all"):
        first = {"coarse": 0, "fine": 3, "signs": 7}
        return {d: slow_set_loss(logits[d], labels[d], [frozenset([first[d] + i]) for i in range(len(VIEWS[d].names))]) for d in VIEWS}
    if name == "universal":
        number = {leaf.name: i for i, leaf in enumerate(UNIVERSE.leaves)}
        sets = {d: [frozenset(number[leaf] for leaf in UNIVERSE.labels[d][label]) for label in VIEWS[d].names] for d in VIEWS}
        return {d: slow_set_loss(logits[d], labels[d], sets[d]) for d in VIEWS}
    # Of the tree, by hand: channels 0:4 top, 4:7 ground with void, 7:10 sign with void.
    no = frozenset[int]()
    top = {"coarse": [{0}, {1, 2}, {3}], "fine": [{0}, {0}, {1}, {2}]}
    parts = {
        "top": [slow_set_loss(logits[d][:, :4], labels[d], [frozenset(s) for s in top[d]]) for d in ("coarse", "fine")],
        "ground": [slow_set_loss(logits["fine"][:, 4:7], labels["fine"], [frozenset([0]), frozenset([1]), no, no])],
        "sign": [slow_set_loss(logits["signs"][:, 7:10], labels["signs"], [frozenset([0]), frozenset([1])])],
    }
    return {term: (sum(total for total, _ in found), sum(count for _, count in found)) for term, found in parts.items()}


@pytest.mark.parametrize("name", SPACES)
def test_losses_are_sums_with_counts(name: str) -> None:
    made, logits = outputs_of(name)
    labels = random_labels(1)
    terms = made.losses(logits, labels)
    expected = slow_losses(name, logits, labels)
    assert tuple(terms) == tuple(expected) == SPACES[name].terms(VIEWS)
    for term, (total, count) in expected.items():
        assert int(terms[term].count) == count
        assert float(terms[term].total) == pytest.approx(total, rel=1e-9)
    if name in ("joint", "greedy"):
        assert {term: found.weight for term, found in terms.items()} == {"top": 1.0, "ground": 0.5, "sign": 0.1}


@pytest.mark.parametrize("name", SPACES)
def test_the_gradient_is_that_of_the_losses(name: str) -> None:
    made, logits = outputs_of(name, size=(2, 2))
    labels = random_labels(3, (2, 2, 2))
    inputs = [values.requires_grad_() for values in logits.values()]

    def weighted(*values: Tensor) -> Tensor:
        terms = made.losses(dict(zip(logits, values, strict=True)), labels)
        return torch.stack([number * term.total for number, term in enumerate(terms.values(), start=1)]).sum()

    assert torch.autograd.gradcheck(weighted, inputs)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("batch", [2, 0])
def test_nothing_to_learn_is_zero_loss_and_zero_gradient(name: str, batch: int) -> None:
    made, logits = outputs_of(name)
    logits = {dataset: values[:batch].detach().requires_grad_() for dataset, values in logits.items()}
    terms = made.losses(logits, {dataset: torch.full((batch, 4, 5), IGNORE_INDEX) for dataset in logits})
    assert all(float(term.total.detach()) == 0 and int(term.count) == 0 for term in terms.values())
    torch.stack([term.total for term in terms.values()]).sum().backward()
    for values in logits.values():
        assert values.grad is not None
        assert not values.grad.any()


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(2, 6))
def test_single_leaves_are_one_cross_entropy(seed: int, num_classes: int) -> None:
    """universal with a leaf for each label, a tree of one classifier, concat of one dataset and a head are the same thing."""
    names = [f"c{i}" for i in range(num_classes)]
    views = {"a": view(names)}
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_classes, generator=generator).tolist()
    one = {name: (name,) for name in names}
    configs: list[OutputsConfig] = [
        MultiHeadConfig(name="multihead"),
        ConcatConfig(name="concat"),
        ConcatConfig(name="concat", predict="all"),
        UniversalConfig(name="universal", universe=Universe(version=1, leaves=tuple(Leaf(name=n) for n in names), labels={"a": one})),
        HierarchyConfig(name="hierarchy", tree=flat_tree(names)),
        HierarchyConfig(name="hierarchy", tree=flat_tree(names), rule="greedy"),
    ]
    shuffled = [names[i] for i in order]
    leaves = tuple(Leaf(name=name) for name in shuffled)
    permuted: list[OutputsConfig] = [
        UniversalConfig(name="universal", universe=Universe(version=1, leaves=leaves, labels={"a": one})),
        HierarchyConfig(name="hierarchy", tree=flat_tree(shuffled)),
    ]
    logits = torch.randn(2, num_classes, 3, 4, generator=generator) * 4
    labels = torch.randint(0, num_classes, (2, 3, 4), generator=generator)
    labels[0, 0] = IGNORE_INDEX
    reference = build_outputs(configs[0], views, Plain())
    (expected,) = reference.losses({"a": logits}, {"a": labels}).values()
    predicted, confidence = reference.pseudo_labels(logits, "a")
    for config in (*configs, *permuted):
        made = build_outputs(config, views, Plain())
        given_logits = logits[:, order] if config in permuted else logits
        (term,) = made.losses({"a": given_logits}, {"a": labels}).values()
        torch.testing.assert_close(term.total, expected.total)
        assert term.count == expected.count
        assert torch.equal(made.predict(given_logits, "a"), predicted)
        torch.testing.assert_close(made.pseudo_labels(given_logits, "a"), (predicted, confidence))


def flat_tree(names: Sequence[str]) -> Hierarchy:
    return Hierarchy(version=1, classifiers={"all": Classifier(classes=tuple(names))}, labels={"a": {name: name for name in names}})


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_leaves_are_a_distribution_and_universal_equals_a_tree_of_joint_probabilities(seed: int) -> None:
    torch.manual_seed(seed)
    for name in SPACES:
        made, logits = outputs_of(name)
        for dataset, values in logits.items():
            log_p = made.leaf_log_probabilities(values, dataset)
            assert log_p.shape[1] == len(made.leaves(dataset))
            torch.testing.assert_close(log_p.exp().sum(1), torch.ones_like(log_p[:, 0]))
    # A tree's loss at the root for a set of its children is that of the summed joint probabilities of all leaves below.
    made, logits = outputs_of("joint")
    log_p = made.leaf_log_probabilities(logits["coarse"], "coarse")
    labels = random_labels(seed)["coarse"].masked_fill(torch.rand(2, 4, 5) < 0.3, IGNORE_INDEX)
    sets = [frozenset(made.leaves("coarse").index(leaf) for leaf in leaves) for leaves in TREE.leaves_of("coarse", VIEWS["coarse"])]
    no_labels = {name: torch.full((2, 4, 5), IGNORE_INDEX) for name in VIEWS} | {"coarse": labels}
    assert float(made.losses(logits, no_labels)["top"].total) == pytest.approx(slow_set_loss(log_p, labels, sets)[0], rel=1e-9)


# Predictions.


@pytest.mark.parametrize("name", SPACES)
def test_pseudo_labels_are_predictions_with_their_probability(name: str) -> None:
    made, logits = outputs_of(name)
    for dataset, values in logits.items():
        classes, confidence = made.pseudo_labels(values.float(), dataset)
        assert confidence.dtype == torch.float32
        assert torch.equal(classes, made.predict(values.float(), dataset))
        expected = slow_probabilities(name, made, values, dataset)
        index = classes.clamp(max=expected.shape[1] - 1)
        found = expected.gather(1, index[:, None])[:, 0]
        is_class = classes != IGNORE_INDEX
        torch.testing.assert_close(confidence[is_class].double(), found[is_class], rtol=1e-4, atol=1e-6)
        assert not confidence[~is_class].any()  # nothing is confidently no label
        if name not in ("all", "greedy"):
            assert bool(is_class.all())
            assert torch.equal(classes, expected.argmax(1))


def slow_probabilities(name: str, made: OutputSpace, logits: Tensor, dataset: str) -> Tensor:
    """(N, K, H, W): the probability of each class of the view, by the definitions."""
    if name in ("shared", "repeated"):
        return torch.softmax(logits, 1)
    if name in ("concat", "all"):
        first = {"coarse": 0, "fine": 3, "signs": 7}[dataset]
        own = slice(first, first + len(VIEWS[dataset].names))
        return torch.softmax(logits[:, own], 1) if name == "concat" else torch.softmax(logits, 1)[:, own]
    if name == "universal":
        p = torch.softmax(logits, 1)
        number = {leaf.name: i for i, leaf in enumerate(UNIVERSE.leaves)}
        return torch.stack([sum(p[:, number[leaf]] for leaf in UNIVERSE.labels[dataset][label]) for label in VIEWS[dataset].names], 1)
    top, ground, sign = torch.softmax(logits[:, :4], 1), torch.softmax(logits[:, 4:7], 1), torch.softmax(logits[:, 7:], 1)
    return {
        "coarse": torch.stack([top[:, 0], top[:, 1] + top[:, 2], top[:, 3]], 1),
        "fine": torch.stack([top[:, 0] * ground[:, 0], top[:, 0] * ground[:, 1], top[:, 1], top[:, 2]], 1),
        "signs": torch.stack([top[:, 2] * sign[:, 0], top[:, 2] * sign[:, 1]], 1),
    }[dataset]


def test_concat_over_all_counts_foreign_winners_as_none() -> None:
    made, logits = outputs_of("all")
    best = logits["fine"].argmax(1)
    expected = torch.where((best >= 3) & (best < 7), best - 3, IGNORE_INDEX)
    assert torch.equal(made.predict(logits["fine"], "fine"), expected)
    assert (expected == IGNORE_INDEX).any()


def test_the_greedy_rule_goes_down_the_tree() -> None:
    """top: 0 ground, 1 car, 2 sign, 3 sky; ground: road, grass, void; sign: stop, yield, void."""
    made = space("greedy")
    pixels = {
        "ground, then road": ([5, 0, 0, 0], [2, 1, 0], [0, 0, 0]),
        "ground, then void": ([5, 0, 0, 0], [2, 1, 3], [0, 0, 0]),
        "sign, then yield": ([0, 0, 5, 0], [0, 0, 0], [0, 4, 0]),
        "sign, then void": ([0, 0, 5, 0], [0, 0, 0], [0, 4, 5]),
        "sky": ([0, 0, 0, 9], [0, 0, 0], [0, 0, 0]),
    }
    logits = torch.tensor([top + ground + sign for top, ground, sign in pixels.values()]).t().reshape(1, 10, 1, -1).float()
    none = IGNORE_INDEX
    # Where all that is below is one label, it is not asked further: `ground` and `sign` of coarse, `sign` of fine.
    assert made.predict(logits, "coarse").flatten().tolist() == [0, 0, 1, 1, 2]
    assert made.predict(logits, "fine").flatten().tolist() == [0, none, 3, 3, none]
    assert made.predict(logits, "signs").flatten().tolist() == [none, none, 1, none, none]
    assert made.pseudo_labels(logits, "signs")[1][0, 0, 0] == 0


def test_a_classifier_that_is_passed_over_is_not_asked() -> None:
    tree = read_hierarchy("paper001")
    gtsdb, vistas = read_table("gtsdb").view(), read_table("vistas").view()
    config = HierarchyConfig(name="hierarchy", tree=tree, rule="greedy")
    made = build_outputs(config, {"gtsdb": gtsdb, "vistas": vistas}, Plain())
    logits = torch.zeros(1, 116, 1, 1)
    logits[0, tree.outputs["L1"].index("Traffic Sign")] = 3
    logits[0, 54 + 11 + 4 + tree.outputs["L2_traffic_sign"].index("Traffic Sign (Back)")] = 3
    logits[0, 54 + 11 + 4 + 3 + 14] = 3
    assert gtsdb.names[int(made.predict(logits, "gtsdb"))] == "stop"
    assert vistas.names[int(made.predict(logits, "vistas"))] == "Traffic Sign (Back)"


def test_any_dataset_can_be_asked_about() -> None:
    """A dataset that was not trained on: labels as sets of leaves, the same of every image."""
    leaves = {
        "shared": (["fine/road", "fine/grass"], ["fine/car"]),
        "concat": (["coarse/ground", "fine/road", "fine/grass"], ["fine/car"]),
        "universal": (["road", "grass"], ["car"]),
        "joint": (["ground"], ["car"]),
    }
    for name, sets in leaves.items():
        made, logits = outputs_of(name)
        values = logits["fine"]
        p = made.leaf_log_probabilities(values, "fine").exp()
        table = made.table("fine", sets)
        number = {leaf: i for i, leaf in enumerate(made.leaves("fine"))}
        nodes = [["road", "grass", "ground/void"], ["car"]] if name == "joint" else sets
        sums = torch.stack([p[:, [number[leaf] for leaf in labels]].sum(1) for labels in nodes], 1)
        assert torch.equal(made.predict_through(values, "fine", table), sums.argmax(1))
        others = p[:, [i for leaf, i in number.items() if leaf not in [*nodes[0], *nodes[1]]]].amax(1)
        expected = torch.where(others > sums.amax(1), IGNORE_INDEX, sums.argmax(1))
        assert torch.equal(made.predict_through(values, "fine", table, foreign=True), expected)
    with pytest.raises(InputError, match="leaf 'coarse/sky' found"):
        space("shared").table("fine", [["coarse/sky"]])


def test_labels_without_leaves_are_never_predicted_and_never_learnt() -> None:
    universe = replace(UNIVERSE, labels={"coarse": {"ground": ("road",), "thing": (), "sky": ("sky",)}})
    views = {"coarse": VIEWS["coarse"]}
    made = build_outputs(UniversalConfig(name="universal", universe=universe), views, Plain())
    logits = torch.randn(1, 6, 20, 20)
    assert made.predict(logits, "coarse").unique().tolist() == [0, 2]
    assert int(made.losses({"coarse": logits}, {"coarse": torch.ones(1, 20, 20, dtype=torch.int64)})["coarse"].count) == 0
    nothing = replace(UNIVERSE, labels={"coarse": {"ground": (), "thing": (), "sky": ()}})
    made = build_outputs(UniversalConfig(name="universal", universe=nothing), views, Plain())
    assert made.pseudo_labels(logits, "coarse")[1].sum() == 0


def test_where_no_class_is_predicted_label_images_have_an_id_that_is_none(tmp_path: Path) -> None:
    labels = (Label(id=3, name="a", color=(9, 9, 9)), Label(id=255, name="b", color=(1, 2, 3)))
    made = LabelSpace(name="some", labels=labels)
    classes = np.array([[0, 1, IGNORE_INDEX]], np.uint8)
    _write(tmp_path, Path("x.png"), np.zeros((1, 3, 3), np.uint8), classes, made.view())
    written = np.asarray(Image.open(tmp_path / "labels" / "x.png"))
    assert written.tolist() == [[3, 255, made.void_id]]


# Decoders and classifiers, and datasets without a sample.


@pytest.mark.parametrize("config", get_args(NetworkConfig) or [NetworkConfig])
@pytest.mark.parametrize("name", ["shared", "repeated", "concat", "universal", "joint"])
def test_every_network_with_every_space(config: Any, name: str) -> None:
    """One dataset has no sample: every parameter of the space has a gradient, that of its own parts zero, and no statistic moves."""
    torch.manual_seed(0)
    network = build_network(config(name=get_args(config.__annotations__["name"])[0]))
    made = build_outputs(SPACES[name], VIEWS, network)
    size = (64, 64)
    rows = {"coarse": torch.tensor([0]), "fine": torch.tensor([1]), "signs": torch.tensor([], dtype=torch.int64)}
    logits = made(network(torch.randn(2, 3, *size)), rows, size)
    assert {dataset: tuple(values.shape[2:]) for dataset, values in logits.items()} == dict.fromkeys(VIEWS, size)
    labels = {dataset: torch.randint(0, 2, (len(index), *size)) for dataset, index in rows.items()}
    torch.stack([term.total for term in made.losses(logits, labels).values()]).sum().backward()
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    if name == "repeated":
        assert isinstance(made, MultiHead)
        assert not any(parameter.grad.any() for parameter in made.decoders[2].parameters() if parameter.grad is not None)
        present = list(made.decoders[1].parameters())
        assert not present or any(parameter.grad.any() for parameter in present if parameter.grad is not None)
        assert all(int(bn.num_batches_tracked or 0) == 0 for bn in made.decoders[2].modules() if isinstance(bn, nn.BatchNorm2d))
    made.eval()
    assert {dataset: len(values) for dataset, values in made(network.eval()(torch.randn(2, 3, *size)), rows, size).items()}["signs"] == 0


def test_an_empty_batch_moves_nothing() -> None:
    bn = EmptiableBatchNorm2d(3)
    before = {name: value.clone() for name, value in bn.state_dict().items()}
    out = bn(torch.zeros(0, 3, 4, 4))
    out.sum().backward()
    assert out.shape == (0, 3, 4, 4)
    assert all(torch.equal(value, before[name]) for name, value in bn.state_dict().items())
    assert bn.weight.grad is not None
    assert not bn.weight.grad.any()


def run_repeated(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """Two steps: of dataset `fine` one rank has a sample, then none has; `signs` has never any."""
    torch.manual_seed(0)
    made = space("repeated")
    wrapped: nn.Module = made
    if world_size > 1:
        wrapped = DistributedDataParallel(synchronise_batchnorm(Stepped(made), CPU))
        assert all(type(bn) is GlobalBatchNorm2d for bn in wrapped.modules() if isinstance(bn, nn.BatchNorm2d))
    else:
        wrapped = Stepped(made)
    generator = torch.Generator().manual_seed(5)
    for step, fine in enumerate(([3], [])):
        images = torch.randn(4, 4, 6, 6, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 3, (4, 6, 6), generator=generator)
        mine = list(range(rank, 4, world_size))
        shares = {"coarse": [i for i in range(4) if i not in fine], "fine": fine, "signs": []}
        rows = {d: torch.tensor([mine.index(i) for i in index if i in mine], dtype=torch.int64) for d, index in shares.items()}
        wrapped.zero_grad()
        wrapped(images[mine], labels[mine], rows).backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None, name
            out[f"{step} {name}"] = parameter.grad * world_size
        out |= {f"{step} {name}": value.clone() for name, value in made.named_buffers() if "running" in name or "tracked" in name}


class Stepped(nn.Module):
    """The sum of all losses, as a module that can be wrapped."""

    def __init__(self, outputs: OutputSpace) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor, labels: Tensor, rows: dict[str, Tensor]) -> Tensor:
        logits = self.outputs((images,), rows, (6, 6))
        terms: list[LossTerm] = list(self.outputs.losses(logits, {d: labels[index] for d, index in rows.items()}).values())
        return torch.stack([term.total for term in terms]).sum()


@pytest.mark.timeout(90)
def test_a_dataset_missing_on_a_rank_or_on_all(tmp_path: Path) -> None:
    single: dict[str, Tensor] = {}
    run_repeated(0, 1, single)
    for rank in on_ranks(run_repeated, tmp_path):
        assert rank.keys() == single.keys()
        for name, value in single.items():
            assert torch.isfinite(rank[name]).all()
            torch.testing.assert_close(rank[name], value, msg=lambda text, name=name: f"{name}: {text}")
    assert single["1 decoders.1.layers.1.num_batches_tracked"] == 1
    assert single["1 decoders.2.layers.1.num_batches_tracked"] == 0
    assert single["0 decoders.1.layers.0.weight"].any()
    assert not single["1 decoders.1.layers.0.weight"].any()


# Trees and universes.


def test_the_tree_of_paper_001() -> None:
    tree = read_hierarchy("paper001")
    sizes = {name: len(classifier.classes) for name, classifier in tree.classifiers.items()}
    assert sizes == {"L1": 53, "L2_driveable": 10, "L2_rider": 3, "L2_traffic_sign": 2, "L3_front": 43}
    assert all(classifier.void for classifier in tree.classifiers.values())
    assert [classifier.weight for classifier in tree.classifiers.values()] == [1.0, 0.1, 0.1, 0.1, 0.1]
    split = {classifier.of for classifier in tree.classifiers.values() if classifier.of not in (None, "Traffic Sign (Front)")}
    assert sum(sizes.values()) - len(split) == 108
    cityscapes, vistas, gtsdb = read_table("cityscapes"), read_table("vistas"), read_table("gtsdb")
    extended = extended_space(cityscapes)
    for name, made in (("cityscapes", cityscapes), ("vistas", vistas), ("gtsdb", gtsdb), ("cityscapes_extended", extended)):
        assert tree.labels[name].keys() == {label.name for label in made.classes}
    # Which classifiers each dataset teaches: facts of the code, not of the text.
    views = {"cityscapes": cityscapes.view("27"), "vistas": vistas.view(), "gtsdb": gtsdb.view()}
    taught = {name: set(tree.targets(name, view)) for name, view in views.items()}
    assert taught["cityscapes"] == {"L1", "L2_traffic_sign"}
    assert taught["vistas"] == {"L1", "L2_driveable", "L2_rider", "L2_traffic_sign"}
    assert taught["gtsdb"] == {"L3_front"}
    assert not any(label is None for label in tree.labels["vistas"].values())
    assert all(len(one) == 1 for one in tree.targets("cityscapes", views["cityscapes"])["L1"])
    signs = tree.targets("cityscapes", views["cityscapes"])["L2_traffic_sign"]
    assert [name for name, one in zip(views["cityscapes"].names, signs, strict=True) if one] == ["traffic sign"]
    assert {one for one in signs if one} == {frozenset([1])}
    used = {leaf for name, view in views.items() for leaves in tree.leaves_of(name, view) for leaf in leaves}
    assert {leaf for leaf in tree.leaves if leaf not in used} == {"void", "Driveable/void", "Traffic Sign/void"}


def test_the_universe_of_the_streets_is_what_is_drawn() -> None:
    universe = read_universe("streets")
    assert set(universe.names) == {atom.name for atom in ATOMS} - {"ego_vehicle"}
    for name, made in STREET_SPACES.items():
        expected = {label: {ATOMS[i].name for i in atoms} for label, atoms in made.atoms.items()}
        assert {label: set(leaves) for label, leaves in universe.labels[name].items()} == expected
    assert universe.view().colors[universe.names.index("sky")] == (70, 130, 180)


def test_the_tree_of_the_streets_agrees_with_what_is_drawn() -> None:
    """Every label covers the leaves of what it is drawn of, and no two labels of a dataset share one."""
    tree = read_hierarchy("streets")
    views = {name: made.label_space.view() for name, made in STREET_SPACES.items()}
    of_atom = {atom: leaf for name, labels in universe_pairs(tree).items() for atom, leaf in labels.items()}
    assert set(of_atom.values()) == set(tree.leaves)
    for name, made in STREET_SPACES.items():
        for label, leaves in zip(views[name].names, tree.leaves_of(name, views[name]), strict=True):
            assert set(leaves) == {of_atom[ATOMS[i].name] for i in made.atoms[label]}
    assert set(tree.targets("streets_signs", views["streets_signs"])) == {"sign"}
    assert tree.targets("streets_fine", views["streets_fine"])["scene"][18] == {10, 11}  # two_wheeler: motorcycle or bicycle
    assert HierarchyConfig(name="hierarchy", tree="streets").terms(views) == tuple(tree.classifiers)


def universe_pairs(tree: Hierarchy) -> dict[str, dict[str, str]]:
    """Atom -> leaf: by name, but for signs, curbs and what streets_fine calls otherwise."""
    signs = {f"sign_{name}": name for name in ("speed_limit", "danger", "give_way", "mandatory", "no_entry", "stop")}
    same = {atom.name: atom.name for atom in ATOMS if atom.name in tree.leaves}
    return {"same": same, "signs": {**signs, "sign_priority": "priority_road"}, "other": {"curb": "sidewalk"}}


def test_the_tree_of_camvid_and_gtsdb() -> None:
    tree = read_hierarchy("camvid11_gtsdb")
    assert [classifier.num_outputs for classifier in tree.classifiers.values()] == [11, 44]
    assert tree.labels["gtsdb"].keys() == set(read_table("gtsdb").view().names)
    assert len(tree.labels["camvid11"]) == 11
    assert set(tree.targets("gtsdb", read_table("gtsdb").view())) == {"sign"}
    assert set(tree.targets("camvid11", view(list(tree.labels["camvid11"])))) == {"scene"}


DEEP = Hierarchy(
    version=1,
    classifiers={
        "a": Classifier(classes=("b", "leaf1")),
        "b": Classifier(of="b", classes=("c", "leaf2")),
        "c": Classifier(of="c", classes=("d", "leaf3"), void=True),
        "d": Classifier(of="d", classes=("leaf4", "leaf5")),
    },
    labels={"x": {"deep": "leaf5", "middle": "c", "pair": ("d", "leaf2"), "void": None, "all": ("b", "leaf1")}},
)


def test_a_label_teaches_the_way_from_the_root_and_none_below() -> None:
    targets = DEEP.targets("x", view(["deep", "middle", "pair", "void", "all"]))
    no = frozenset[int]()
    assert targets["a"] == ({0}, {0}, {0}, no, no)
    assert targets["b"] == ({0}, {0}, {0, 1}, no, no)
    assert targets["c"] == ({0}, no, no, no, no)
    assert targets["d"] == ({1}, no, no, no, no)


def test_trees_and_universes_go_through_configs_and_files(tmp_path: Path) -> None:
    for config in SPACES.values():
        assert build(type(config), to_plain(config)) == config
    path = tmp_path / "tree.yaml"
    path.write_text(yaml.safe_dump(to_plain(TREE), sort_keys=False))
    assert HierarchyConfig(name="hierarchy", tree=str(path)).content == TREE
    path.write_text(yaml.safe_dump(to_plain(UNIVERSE), sort_keys=False))
    assert UniversalConfig(name="universal", universe=str(path)).content == UNIVERSE


def changed(content: Any, key: str, value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(content)
    *parents, last = key.split(".")
    place = plain
    for parent in parents:
        place = place[parent]
    place[last] = value
    return plain


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version: 2 found, expected one of 1"),
        ("classifiers.sign.of", "signs", "classifiers.sign.of: signs found, expected a class of a classifier before it"),
        ("classifiers.sign.of", None, "classifiers.sign.of: None found, expected the node it splits"),
        ("classifiers.top.of", "sky", "classifiers.top.of: sky found"),
        ("classifiers.sign.of", "ground", "classifiers: of: ground found more than once"),
        ("classifiers.sign.classes", ["stop", "sky"], "classifiers.sign.classes: sky found more than once"),
        ("classifiers.sign.classes", [], "classes: none found, expected two outputs or more"),
        ("classifiers.sign.weight", -1, "weight: -1 found, expected a number of 0 or more"),
        ("classifiers.sign.datasets", ["sign"], "classifiers.sign.datasets: sign found, which is defined nowhere"),
        ("classifiers.top.passed_over", ["fine"], "classifiers.top.passed_over: fine found, whose labels lie below ground, car, sign"),
        ("labels.signs.stop", "stopp", "labels.signs.stop: stopp found, which is defined nowhere"),
        ("labels.fine.sign", ["sign", "stop"], "labels.fine.sign: sign, stop found, expected nodes of which none is below another"),
        ("colors.stopp", [1, 2, 3], "colors: stopp found, which is defined nowhere"),
        ("classifiers", {}, "classifiers: none found"),
    ],
)
def test_what_is_wrong_with_a_tree_is_told(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(yaml.safe_dump(changed(TREE, key, value), sort_keys=False))
    with pytest.raises(InputError) as caught:
        read_hierarchy(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("leaves", [{"name": "road"}], "leaves: 1 found, expected at least two"),
        ("leaves", [{"name": "road"}, {"name": "road"}], "leaves: road found more than once"),
        ("leaves", [{"name": "road", "colour": [1, 2, 3]}], "leaves[0].colour: unknown key (did you mean color?)"),
        ("labels.fine.car", ["bus"], "labels.fine.car: bus found, which is defined nowhere"),
        ("labels.fine.car", ["car", "car"], "labels.fine.car: car found more than once"),
        ("labels.fine.car", "car", "labels.fine.car: 'car' found, expected a list"),
    ],
)
def test_what_is_wrong_with_a_universe_is_told(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "universe.yml"
    path.write_text(yaml.safe_dump(changed(UNIVERSE, key, value), sort_keys=False))
    with pytest.raises(InputError) as caught:
        read_universe(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_what_is_wrong_with_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "universe.yaml"
    for content, message in (
        ("version: 1\nversion: 2\n", "not YAML (version is given twice"),
        ("a: [", "not YAML"),
        ("- 1", "[1] found, expected keys and values"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=f"{path.name}: ") as caught:
            read_universe(str(path))
        assert message in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        read_universe(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match=r"'street' found, expected a \.yaml file or one of streets"):
        UniversalConfig(name="universal", universe="street")


def test_datasets_and_classes_that_the_file_does_not_know_are_told() -> None:
    views = {"coarse": VIEWS["coarse"], "mine": VIEWS["fine"]}
    for config in (SPACES["universal"], SPACES["joint"]):
        with pytest.raises(InputError, match=r"outputs: no labels of mine found, .* outputs.aliases=\{mine: coarse\}"):
            config.terms(views)
        assert isinstance(config, UniversalConfig | HierarchyConfig)
        assert replace(config, aliases={"mine": "fine"}).terms(views)
        for aliases, told in (({"none": "fine"}, "aliases.none: no such dataset"), ({"mine": "none"}, "aliases.mine: none found")):
            with pytest.raises(InputError, match=told):
                replace(config, aliases=aliases).terms(views)
        other = {"fine": view(["road", "bus"])}
        with pytest.raises(InputError, match=r"labels.fine without 'bus' found, expected all of view all"):
            build_outputs(config, other, Plain())
    silent = replace(TREE, classifiers={**TREE.classifiers, "sign": replace(TREE.classifiers["sign"], datasets=("coarse",))})
    with pytest.raises(InputError, match=r"outputs.tree: no classifier taught by signs found"):
        HierarchyConfig(name="hierarchy", tree=silent).terms({"signs": VIEWS["signs"]})


def test_what_one_classifier_says_can_be_asked_for() -> None:
    made, logits = outputs_of("joint")
    assert isinstance(made, HierarchySpace)
    assert torch.equal(made.decide(logits["signs"], "ground"), logits["signs"][:, 4:7].argmax(1))


def test_a_void_and_a_class_may_not_share_a_name() -> None:
    root = {"classes": ["void", "a"], "void": True}
    with pytest.raises(InputError, match=r"classifiers \(a void is named NODE/void\): void found more than once"):
        build(Hierarchy, {"version": 1, "classifiers": {"root": root}, "labels": {}})


def test_a_dataset_may_teach_no_classifier_and_be_predicted_all_the_same() -> None:
    tree = build(
        Hierarchy,
        {
            "version": 1,
            "classifiers": {"root": {"classes": ["ground", "car"], "datasets": ["fine"]}},
            "labels": {"coarse": {"ground": "ground", "thing": "car", "sky": None}, "fine": dict.fromkeys(VIEWS["fine"].names, "ground")},
        },
    )
    made = build_outputs(HierarchyConfig(name="hierarchy", tree=tree), {name: VIEWS[name] for name in ("coarse", "fine")}, Plain())
    logits = {name: torch.randn(1, 2, 3, 3, requires_grad=True) for name in ("coarse", "fine")}
    terms = made.losses(logits, {name: torch.zeros(1, 3, 3, dtype=torch.int64) for name in logits})
    assert list(terms) == ["root"]
    terms["root"].total.backward()
    assert logits["fine"].grad is not None
    assert logits["coarse"].grad is None
    assert made.predict(logits["coarse"], "coarse").shape == (1, 3, 3)
