"""Output spaces: losses against slow references, what they have in common, predictions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from spaces import SPACES, TREE, UNIVERSE, VIEWS, Plain, outputs_of, random_labels, slow_set_loss, space, view
from test_distributed import on_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.adapters.cityscapes import extended_space
from data.adapters.common import read_table
from data.errors import InputError
from data.hierarchy import Classifier, Hierarchy, read_hierarchy
from data.labels import IGNORE_INDEX, Label, LabelSpace
from data.universe import Leaf, Universe
from models.batchnorm import EmptiableBatchNorm2d, GlobalBatchNorm2d, synchronise_batchnorm
from models.deploy import native_ids
from models.networks import NetworkConfig, build_network
from models.outputs import (
    ConcatConfig,
    HierarchyConfig,
    MultiHeadConfig,
    OutputsConfig,
    UniversalConfig,
    build_outputs,
)
from models.outputs.base import LossTerm, OutputSpace
from models.outputs.hierarchy import HierarchySpace
from models.outputs.multihead import MultiHead
from trainers.predict import _write

CPU = torch.device("cpu")

# Losses of the spaces.


def slow_losses(name: str, logits: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, tuple[float, int]]:
    """By the definitions, pixel by pixel."""
    if name in ("shared", "repeated"):
        return {d: slow_set_loss(logits[d], labels[d], [frozenset([i]) for i in range(len(VIEWS[d].names))]) for d in VIEWS}
    if name in ("concat", "all", "learned"):  # before it has learnt anything
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
        assert float(terms[term].total.detach()) == pytest.approx(total, rel=1e-9)
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
def test_weights_multiply_the_losses_of_pixels(name: str) -> None:
    """The loss and its gradient are linear in the weights, and those of 0 and 1 are what `where` leaves; counts stay."""
    made, logits = outputs_of(name)
    inputs = {dataset: values.requires_grad_() for dataset, values in logits.items()}
    labels = random_labels(1)
    generator = torch.Generator().manual_seed(2)
    masks = {dataset: torch.rand(values.shape, generator=generator) < 0.5 for dataset, values in labels.items()}

    def found(**options: Any) -> tuple[dict[str, float], list[Tensor]]:
        terms = made.losses(inputs, labels, **options)
        total = torch.stack([number * term.total for number, term in enumerate(terms.values(), start=1)]).sum()
        return {term: float(one.total.detach()) for term, one in terms.items()}, list(torch.autograd.grad(total, list(inputs.values())))

    where = {dataset: dict.fromkeys(made.terms, mask) for dataset, mask in masks.items()}
    of_masks, of_where = found(weights={dataset: mask.double() for dataset, mask in masks.items()}), found(where=where)
    of_rest, of_both = (
        found(weights={dataset: at(mask) for dataset, mask in masks.items()})
        for at in (lambda mask: (~mask).double(), lambda mask: torch.where(mask, 3.0, 0.5).double())
    )
    assert of_masks[0] == pytest.approx(of_where[0])
    assert of_both[0] == pytest.approx({term: 3 * total + 0.5 * of_rest[0][term] for term, total in of_masks[0].items()})
    for one, other, rest, both in zip(of_masks[1], of_where[1], of_rest[1], of_both[1], strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(both, 3 * one + 0.5 * rest)
    counts = [
        {term: int(one.count) for term, one in made.losses(inputs, labels, **options).items()} for options in ({}, {"weights": masks})
    ]
    assert counts[0] == counts[1]


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
    if name in ("concat", "all", "learned"):
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


SIGN, BACK, FRONT = "Traffic Sign", "Traffic Sign (Back)", "Traffic Sign (Front)"


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        ((SIGN, BACK, "stop"), (None, BACK, "stop", "traffic sign", "stop")),
        ((SIGN, FRONT, "stop"), ("traffic sign", FRONT, "stop", "traffic sign", "stop")),
        ((SIGN, FRONT, f"{FRONT}/void"), ("traffic sign", FRONT, None, "traffic sign", None)),
        ((SIGN, f"{SIGN}/void", "stop"), (None, None, "stop", "traffic sign", "stop")),
        (("Driveable", "Manhole"), ("road", "Manhole", None, "road", None)),
        (("Driveable", "Parking"), ("parking", "Parking", None, None, None)),
        (("Driveable", "Driveable/void"), (None, None, None, None, None)),
        (("Rider", "Rider/void"), ("rider", None, None, "rider", None)),
        (("void",), (None, None, None, None, None)),
        (("Pole", "stop"), ("pole", "Pole", None, "pole", None)),
    ],
)
def test_every_dataset_of_paper_001_is_evaluated_by_its_own_rule(decisions: tuple[str, ...], expected: tuple[str | None, ...]) -> None:
    """Of Cityscapes, Vistas, GTSDB, and Cityscapes Extended by its 19 classes and its 43 signs. What is below driveable is road or
    parking for Cityscapes; whether a sign is seen from its front or back is not asked for GTSDB and Cityscapes Extended."""
    cityscapes = read_table("cityscapes")
    views = {"cityscapes": cityscapes.view("27"), "vistas": read_table("vistas").view(), "gtsdb": read_table("gtsdb").view()}
    config = HierarchyConfig(name="hierarchy", tree="paper001", rule="greedy")
    made = build_outputs(config, views, Plain())
    assert isinstance(made, HierarchySpace)
    nodes = [node for outputs in made.tree.outputs.values() for node in outputs]
    logits = torch.tensor([9.0 if node in decisions else 0.0 for node in nodes]).view(1, -1, 1, 1)
    found = [(shown, int(made.predict(logits, name))) for name, shown in views.items()]
    for shown in (extended_space(cityscapes).view(name) for name in ("19", "signs43")):
        sets = config.content.leaves_of("cityscapes_extended", shown)
        found.append((shown, int(made.predict_nodes(logits, "cityscapes", sets, "cityscapes_extended"))))
    assert tuple(None if number == IGNORE_INDEX else shown.names[number] for shown, number in found) == expected


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
    model = SimpleNamespace(outputs=SimpleNamespace(views={"some": made.view()}))
    native = native_ids(model, "some", made.void_id).numpy()  # type: ignore[arg-type]
    _write(tmp_path, Path("x.png"), np.zeros((1, 3, 3), np.uint8), classes, made.view(), native)
    written = np.asarray(Image.open(tmp_path / "labels" / "x.png"))
    assert written.tolist() == [[3, 255, made.void_id]]


# Decoders and classifiers, and datasets without a sample.


@pytest.mark.parametrize("config", get_args(NetworkConfig) or [NetworkConfig])
@pytest.mark.parametrize("name", ["shared", "repeated", "concat", "universal", "joint", "learned"])
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


def run_every_space(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """Two steps: of dataset `fine` one rank has a sample, then none has; `signs` has never any."""
    for name in SPACES:
        torch.manual_seed(0)
        run_space(space(name), rank, world_size, found := {})
        out |= {f"{name} {key}": value for key, value in found.items()}


def run_space(made: OutputSpace, rank: int, world_size: int, out: dict[str, Tensor]) -> None:
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
    run_every_space(0, 1, single)
    for rank in on_ranks(run_every_space, tmp_path):
        assert rank.keys() == single.keys()
        for name, value in single.items():
            assert torch.isfinite(rank[name]).all()
            torch.testing.assert_close(rank[name], value, msg=lambda text, name=name: f"{name}: {text}")
    assert single["repeated 1 decoders.1.layers.1.num_batches_tracked"] == 1
    assert single["repeated 1 decoders.2.layers.1.num_batches_tracked"] == 0
    assert single["repeated 0 decoders.1.layers.0.weight"].any()
    assert not single["repeated 1 decoders.1.layers.0.weight"].any()


def test_what_classifiers_decide_between() -> None:
    """Those of a tree and of a universe stay the same when a dataset is added, those of concat do not."""
    fewer = {name: VIEWS[name] for name in ("coarse", "signs")}
    assert SPACES["shared"].classifiers(fewer) == {name: view.names for name, view in fewer.items()}
    assert SPACES["concat"].classifiers(fewer) == {
        "all labels": ("coarse/ground", "coarse/thing", "coarse/sky", "signs/stop", "signs/yield")
    }
    assert SPACES["joint"].classifiers(fewer) == SPACES["joint"].classifiers(VIEWS) == TREE.outputs
    assert SPACES["universal"].classifiers(fewer) == SPACES["universal"].classifiers(VIEWS) == {"leaves": UNIVERSE.names}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_losses_of_mixed_pictures_are_those_of_each_dataset(space: str, layout: torch.memory_format) -> None:
    """Half of the pixels are of one dataset and half of another; a third has none. Each term has a factor of its own."""
    torch.manual_seed(0)
    network = Plain()
    outputs = build_outputs(SPACES[space], VIEWS, network)
    features = torch.randn(3, 4, 6, 8, dtype=torch.float64).contiguous(memory_format=layout)
    rows = {"coarse": torch.arange(3), "fine": torch.arange(0), "signs": torch.arange(3)}
    rows["signs"] = rows["coarse"]  # the very same: they share logits, where the space has one for all
    is_coarse = torch.rand(3, 6, 8) < 0.5
    labels = {}
    for name, where in {"coarse": is_coarse, "signs": ~is_coarse}.items():
        drawn = torch.randint(0, VIEWS[name].num_classes, is_coarse.shape)
        labels[name] = torch.where(where & (torch.rand(is_coarse.shape) < 0.8), drawn, IGNORE_INDEX)
    labels["fine"] = torch.zeros(0, 6, 8, dtype=torch.int64)
    shares = torch.rand(is_coarse.shape, dtype=torch.float64)
    weights = {"coarse": shares, "fine": shares[:0], "signs": shares}
    found = []
    for kind in ("losses", "mixed_losses"):
        x = features.clone().requires_grad_()
        logits = outputs.double().logits_of(outputs.decode((x,)), rows, (6, 8))
        assert space != "universal" or logits["coarse"] is logits["signs"]
        terms = getattr(outputs, kind)(logits, labels, weights=weights)
        torch.stack([factor * term.total for factor, term in zip((0.3, 1.0, 2.0, 5.0), terms.values(), strict=False)]).sum().backward()
        found.append((terms, x.grad))
    (plain, plain_grad), (mixed, mixed_grad) = found
    assert list(plain) == list(mixed)
    for name, term in plain.items():
        torch.testing.assert_close(mixed[name].total, term.total)
        assert int(mixed[name].count) == int(term.count)
    torch.testing.assert_close(mixed_grad, plain_grad)
    assert float(plain_grad.abs().max()) > 0
