"""What trainers do with labels: boxes that count where the model sees their thing, weights of loss terms, the trainers' state."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from spaces import SPACES, TREE, VIEWS, Plain
from test_distributed import CPU, on_ranks, share
from tiny import read_metrics
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import conf
from data.adapters.common import read_table
from data.config import build
from data.labels import IGNORE_INDEX, View
from data.types import Batch
from models.batchnorm import synchronise_batchnorm
from models.model import SegmentationModel
from models.networks.base import Features
from models.outputs import HierarchyConfig, OutputsConfig, build_outputs
from models.outputs.base import LossTerm
from models.outputs.hierarchy import HierarchySpace
from taxomix import main
from trainers.base import KEPT, Trainer
from trainers.config import JobConfig
from trainers.flat import FlatConfig, FlatTrainer
from trainers.hierarchical import HierarchicalConfig, HierarchicalTrainer
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder
from trainers.step import train_step
from trainers.update import Update

BOXED = {**VIEWS, "signs": replace(VIEWS["signs"], supervision="boxes")}
SIGN = {"signs": "fine/sign"}
ONE = Ranks()


class Small(Plain):
    """Four channels at half the size of the picture, which has to be a multiple of four."""

    divisor = 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Features:
        return (self.layer(images),)


def small_model(outputs: OutputsConfig, views: dict[str, View], seed: int = 0) -> SegmentationModel:
    torch.manual_seed(seed)
    network = Small()
    model = SegmentationModel(network, build_outputs(outputs, views, network)).double()
    with torch.no_grad():  # so that every class is predicted somewhere
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def flat(space: str, boxes: dict[str, Any] = SIGN, **keys: Any) -> FlatTrainer:
    return FlatTrainer(small_model(SPACES[space], BOXED), FlatConfig(name="flat", boxes=boxes, **keys)).double()


def hierarchical(refine: Any = "parent", **keys: Any) -> HierarchicalTrainer:
    config = HierarchicalConfig(name="hierarchical", refine=refine, **keys)
    return HierarchicalTrainer(small_model(SPACES["joint"], BOXED), config).double()


def batch_of(samples: dict[str, int], views: dict[str, View], *, size: tuple[int, int] = (13, 18), seed: int = 0) -> Batch:
    """Random pictures, in the order of `samples` (dataset -> number), with random labels of which a fifth is unknown."""
    generator = torch.Generator().manual_seed(seed)
    order = [name for name, number in samples.items() for _ in range(number)]
    labels = [torch.randint(0, views[name].num_classes, size, generator=generator) for name in order]
    unknown = torch.rand(len(order), *size, generator=generator) < 0.2
    return Batch(
        images=torch.randint(0, 256, (len(order), 3, *size), dtype=torch.uint8, generator=generator),
        labels=torch.stack(labels).masked_fill(unknown, IGNORE_INDEX).to(torch.uint8),
        rows={name: torch.tensor([i for i, other in enumerate(order) if other == name], dtype=torch.int64) for name in views},
        roles={},
        streams=torch.zeros(len(order), dtype=torch.int64),
        seeds=torch.arange(len(order)),
        sample_ids=tuple(map(str, range(len(order)))),
        step=0,
    )


BATCH = batch_of({"coarse": 1, "fine": 2, "signs": 2}, BOXED)


def labels_of(batch: Batch, dataset: str) -> Tensor:
    return batch.labels[batch.rows[dataset]].long()


def grads(trainer: Trainer, terms: dict[str, LossTerm]) -> dict[str, Tensor]:
    trainer.zero_grad()
    torch.stack([term.weighted for term in terms.values()]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in trainer.named_parameters() if parameter.grad is not None}


# Flat: boxes against the classes of another dataset.


def slow_answer(trainer: Trainer, batch: Batch, space: str) -> Tensor:
    """What each box picture shows in the view of `fine`, of a copy of the model, after the definitions of the spaces."""
    model = copy.deepcopy(trainer.model)
    rows, images = batch.rows["signs"], batch.images
    if space in ("shared", "repeated"):  # a head of its own, as it would be evaluated; what lies before it, as it is trained
        height, width = images.shape[2:]
        x = F.pad(model.normalise(images), (0, -width % 4, 0, -height % 4))
        outputs: Any = model.outputs
        features = model.network(x)
        decoded = features if space == "repeated" else outputs.decoder(features)
        part: Features = tuple(feature[rows] for feature in decoded)
        if space == "repeated":
            part = outputs.decoders[1].eval()(part)
        logits = model.network.upsample(outputs.classifiers[1].eval()(part), part, (x.shape[2], x.shape[3]))[:, :, :height, :width]
        return logits.argmax(1)
    logits = model(images, batch.rows)["signs"]
    if space in ("concat", "all"):
        return logits[:, 3:7].argmax(1)
    return model.outputs.predict(logits, "fine")


@pytest.mark.parametrize("space", SPACES)
def test_a_pixel_of_a_box_counts_where_the_other_dataset_predicts_its_thing(space: str) -> None:
    trainer = flat(space)
    terms = trainer.losses(BATCH)
    mask = slow_answer(trainer, BATCH, space) == VIEWS["fine"].names.index("sign")
    logits = trainer.model(BATCH.images, BATCH.rows)
    labels = {name: labels_of(BATCH, name) for name in VIEWS}
    labelled = labels["signs"] != IGNORE_INDEX
    assert 0 < (mask & labelled).sum() < labelled.sum()
    expected = trainer.model.outputs.losses(logits, {**labels, "signs": labels["signs"].masked_fill(~mask, IGNORE_INDEX)})
    for name, term in expected.items():
        assert terms[name].count == term.count
        torch.testing.assert_close(terms[name].total, term.total)
    share_of = trainer.scalars()["box_share/signs"]
    torch.testing.assert_close(share_of, (mask & labelled).sum() / labelled.sum().double())


@pytest.mark.parametrize("space", SPACES)
def test_nothing_is_learnt_through_the_decision(space: str) -> None:
    """The gradient is that with the mask as a constant, and no part keeps a trace of having been asked."""
    trainer, other = flat(space), flat(space, boxes={})
    other.load_state_dict({name: value for name, value in trainer.state_dict().items() if name != "box_pixels"})
    found = grads(trainer, trainer.losses(BATCH))
    state = {name: value.clone() for name, value in trainer.state_dict().items() if name != "box_pixels"}
    mask = slow_answer(trainer, BATCH, space) == 3
    logits = other.model(BATCH.images, BATCH.rows)
    labels = {name: labels_of(BATCH, name) for name in VIEWS}
    where = {"signs": dict.fromkeys(other.model.outputs.terms, mask)}
    expected = grads(other, other.model.outputs.losses(logits, labels, where))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(state, other.state_dict())
    assert all(module.training for module in trainer.modules())


def test_a_compiled_model_gives_the_same() -> None:
    for make in (partial(flat, "repeated"), hierarchical):
        plain, compiled = make(), make()
        calls: list[int] = []

        def backend(graph: Any, inputs: Any, calls: list[int] = calls) -> Any:
            calls.append(len(inputs))
            return graph.forward

        compiled.model.compile(backend=backend)
        found = grads(compiled, compiled.losses(BATCH))
        torch.testing.assert_close(found, grads(plain, plain.losses(BATCH)))
        assert calls


def test_several_classes_and_datasets_may_be_given() -> None:
    trainer = flat("universal", {"signs": ("fine/sign", "fine/car", "coarse/sky")})
    trainer.losses(BATCH)
    logits = trainer.model(BATCH.images, BATCH.rows)["signs"]
    fine, coarse = (trainer.model.outputs.predict(logits, name) for name in ("fine", "coarse"))
    labelled = labels_of(BATCH, "signs") != IGNORE_INDEX
    mask = (fine == 3) | (fine == 2) | (coarse == 2)
    torch.testing.assert_close(trainer.scalars()["box_share/signs"], (mask & labelled).sum() / labelled.sum().double())


def test_boxes_count_whole_unless_told_otherwise() -> None:
    trainer = flat("shared", {})
    assert int(trainer.losses(BATCH)["signs"].count) == int((labels_of(BATCH, "signs") != IGNORE_INDEX).sum())
    assert trainer.scalars() == {}
    assert set(trainer.state_dict()) == {f"model.{name}" for name in trainer.model.state_dict()}


@pytest.mark.parametrize("name", [*SPACES, "hierarchical"])
@pytest.mark.parametrize("samples", [{"coarse": 1, "signs": 2}, {"coarse": 1}])
def test_no_pixel_of_a_box_left_is_no_loss(name: str, samples: dict[str, int]) -> None:
    """The thing is seen nowhere, or there is no picture with boxes."""
    trainer: Trainer = hierarchical() if name == "hierarchical" else flat(name, {"signs": "coarse/sky"})
    with torch.no_grad():
        for key, parameter in trainer.model.outputs.named_parameters():
            if "classifiers" in key:
                parameter.zero_()  # of equal logits the first output is the largest, which is neither sign nor sky
    terms = trainer.losses(batch_of(samples, BOXED))
    term = terms["sign" if "sign" in terms else "signs"]
    assert (float(term.total.detach()), int(term.count)) == (0, 0)
    assert all(value.isfinite().all() for value in grads(trainer, terms).values())
    assert float(trainer.scalars()["box_share/signs"]) == (0 if "signs" in samples else 1)


def test_the_share_of_boxes_is_that_of_the_last_steps() -> None:
    trainer = hierarchical()
    counts = []
    for seed in range(3):
        batch = batch_of({"fine": 1, "signs": 2}, BOXED, seed=seed)
        trainer.losses(batch)
        logits = trainer.model(batch.images, batch.rows)["signs"]
        labelled = labels_of(batch, "signs") != IGNORE_INDEX
        counts.append((float(((logits[:, :4].argmax(1) == 2) & labelled).sum()), float(labelled.sum())))
    counted, labelled_pixels = (sum(KEPT ** (2 - step) * count[i] for step, count in enumerate(counts)) for i in (0, 1))
    assert float(trainer.scalars()["box_share/signs"]) == pytest.approx(counted / labelled_pixels)


# Hierarchical: boxes against the level above.


def paper001() -> tuple[HierarchicalTrainer, dict[str, View]]:
    views = {
        "cityscapes": read_table("cityscapes").view("27"),
        "vistas": read_table("vistas").view("65"),
        "gtsdb": read_table("gtsdb").view(),
    }
    model = small_model(HierarchyConfig(name="hierarchy", tree="paper001"), views)
    return HierarchicalTrainer(model, HierarchicalConfig(name="hierarchical")).double(), views


DRIVEABLE = ["Bike Lane", "Crosswalk - Plain", "Parking", "Road", "Service Lane", "Lane Marking - Crosswalk", "Lane Marking - General"]
DRIVEABLE += ["Catch Basin", "Manhole", "Pothole"]
RIDER = ["Bicyclist", "Motorcyclist", "Other Rider"]
SIGNS = ["Traffic Sign (Back)", "Traffic Sign (Front)"]
CITYSCAPES = {"road": "Driveable", "parking": "Driveable", "train": "On Rails"}
FIRST = {"L1": 0, "L2_driveable": 54, "L2_rider": 54 + 11, "L2_traffic_sign": 54 + 11 + 4, "L3_front": 54 + 11 + 4 + 3}


def target(dataset: str, label: str, outputs: dict[str, tuple[str, ...]], is_front: bool) -> dict[str, int]:
    """What a pixel teaches, after the text of paper 001 and its code: classifier -> output."""
    if dataset == "cityscapes":  # its road has no parts, and parking alone would make all driveable things parking
        found = {"L1": CITYSCAPES.get(label, label.title())}
        if label == "traffic sign":
            found["L2_traffic_sign"] = "Traffic Sign (Front)"
    elif dataset == "vistas":
        found = {"L1": label}
        parts = (("L2_driveable", "Driveable", DRIVEABLE), ("L2_rider", "Rider", RIDER), ("L2_traffic_sign", "Traffic Sign", SIGNS))
        for classifier, parent, children in parts:
            if label in children:
                found = {"L1": parent, classifier: label}
    else:  # whatever L1 says
        found = {"L3_front": label} if is_front else {}
    return {classifier: outputs[classifier].index(node) for classifier, node in found.items()}


def test_the_supervision_of_paper_001() -> None:
    """A batch of 1 Cityscapes, 2 Vistas and 1 GTSDB against a reference that goes pixel by pixel."""
    trainer, views = paper001()
    outputs = trainer.model.outputs
    assert isinstance(outputs, HierarchySpace)
    assert views["gtsdb"].supervision == "boxes"
    batch = batch_of({"cityscapes": 1, "vistas": 2, "gtsdb": 1}, views, size=(24, 40))
    native = {name: torch.tensor([*view.native_ids, *[255] * (256 - view.num_classes)]) for name, view in views.items()}
    for name, index in batch.rows.items():  # native ids are not the numbers of the classes
        batch.labels[index] = native[name][batch.labels[index].long()].to(torch.uint8)
    terms = trainer.losses(batch)
    logits = trainer.model(batch.images, batch.rows)
    losses: dict[str, list[Tensor]] = {name: [] for name in FIRST}
    for dataset, index in batch.rows.items():
        for number, row in enumerate(index.tolist()):
            log_p = {
                name: torch.log_softmax(logits[dataset][number, first : first + len(outputs.tree.outputs[name])], 0)
                for name, first in FIRST.items()
            }
            for y in range(24):
                for x in range(40):
                    found = int(views[dataset].table[int(batch.labels[row, y, x])])
                    if found != IGNORE_INDEX:
                        is_front = int(log_p["L2_traffic_sign"][:, y, x].argmax()) == 1
                        for name, output in target(dataset, views[dataset].names[found], outputs.tree.outputs, is_front).items():
                            losses[name].append(-log_p[name][output, y, x])
    assert list(terms) == list(FIRST)
    for name, found_losses in losses.items():
        assert int(terms[name].count) == len(found_losses) > 0
        torch.testing.assert_close(terms[name].total / terms[name].count, torch.stack(found_losses).mean())
    assert [term.weight for term in terms.values()] == [1.0, 0.1, 0.1, 0.1, 0.1]
    boxes = (batch.labels[3] != 255).sum()
    assert int(terms["L3_front"].count) < boxes
    assert float(trainer.scalars()["box_share/gtsdb"]) == pytest.approx(int(terms["L3_front"].count) / int(boxes))


DEEP = replace(
    TREE,
    classifiers={
        **TREE.classifiers,
        "stop": replace(TREE.classifiers["sign"], of="stop", classes=("stop here", "stop there"), void=False),
    },
    labels={**TREE.labels, "signs": {"stop": "stop here", "yield": "yield"}},
)


@pytest.mark.parametrize("refine", ["parent", "path", "none"])
def test_what_decides_that_boxes_count(refine: Any) -> None:
    """Of the tree top / sign / stop: boxes teach the two below the root, `yield` only the upper one."""
    model = small_model(HierarchyConfig(name="hierarchy", tree=DEEP), BOXED)
    trainer = HierarchicalTrainer(model, HierarchicalConfig(name="hierarchical", refine=refine)).double()
    terms = trainer.losses(BATCH)
    logits, labels = model(BATCH.images, BATCH.rows)["signs"], labels_of(BATCH, "signs")
    is_sign, is_stop = logits[:, :4].argmax(1) == 2, logits[:, 7:10].argmax(1) == 0
    known = labels != IGNORE_INDEX
    masks = {"sign": is_sign, "stop": is_stop & is_sign if refine == "path" else is_stop}
    taught = {"sign": known, "stop": labels == 0}
    for name, mask in masks.items():
        assert int(terms[name].count) == int((taught[name] & (mask if refine != "none" else True)).sum())
    shares = [float((taught[name] & mask).sum() / taught[name].sum()) for name, mask in masks.items()]
    if refine == "none":
        assert trainer.scalars() == {}
    else:
        assert float(trainer.scalars()["box_share/signs"]) == pytest.approx(min(shares))


def test_boxes_count_whole_in_the_root() -> None:
    """And datasets of pixels in every classifier."""
    tree = replace(TREE, classifiers={**TREE.classifiers, "top": replace(TREE.classifiers["top"], datasets=None)})
    trainer = HierarchicalTrainer(
        small_model(HierarchyConfig(name="hierarchy", tree=tree), BOXED), HierarchicalConfig(name="hierarchical")
    ).double()
    terms = trainer.losses(BATCH)
    known = {name: int((labels_of(BATCH, name) != IGNORE_INDEX).sum()) for name in VIEWS}
    assert int(terms["top"].count) == sum(known.values())
    assert 0 < int(terms["sign"].count) < known["signs"]
    assert int(terms["ground"].count) == int((labels_of(BATCH, "fine") < 2).sum())


def test_nothing_is_learnt_through_the_decision_of_the_level_above() -> None:
    trainer = hierarchical()
    found = grads(trainer, trainer.losses(BATCH))
    logits = trainer.model(BATCH.images, BATCH.rows)
    where = {"signs": {"sign": (logits["signs"][:, :4].argmax(1) == 2).detach()}}
    expected = grads(trainer, trainer.model.outputs.losses(logits, {name: labels_of(BATCH, name) for name in VIEWS}, where))
    torch.testing.assert_close(found, expected)
    only_boxes = batch_of({"signs": 2}, BOXED)
    after = grads(trainer, trainer.losses(only_boxes))
    assert not after["model.outputs.classifiers.0.module.1.weight"].any()  # of `top`, which boxes ask and do not teach
    assert after["model.outputs.classifiers.2.module.1.weight"].any()


# Weights of the terms.


def step(losses: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, ranks: Ranks = ONE) -> dict[str, Tensor]:
    trainer = losses.module if isinstance(losses, DistributedDataParallel) else losses
    found = train_step(losses, [batch], Update(trainer, optimizer), ranks)
    assert not found.spoiled
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.losses.items()}


def one_step(trainer: Trainer, batch: Batch = BATCH) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values of the terms and gradients, of a step that changes nothing."""
    values = step(trainer, batch, torch.optim.SGD(trainer.parameters(), lr=0.0))
    return values, {name: parameter.grad for name, parameter in trainer.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("make", [partial(flat, "repeated"), hierarchical])
def test_learned_weights_are_those_of_the_formula(make: Any) -> None:
    """weight * (exp(-s) * L + s) of every term that has a pixel."""
    plain = make()
    names = plain.model.outputs.terms
    weights = {names[1]: 0.5}
    trainer = make(weights=weights, weighting="learned")
    assert trainer.log_variances.tolist() == [0, 0, 0]
    with torch.no_grad():
        trainer.log_variances.copy_(torch.tensor([0.3, -0.7, 1.1]))
    batch = batch_of({"coarse": 2, "fine": 0 if "fine" in names else 1, "signs": 1}, BOXED)
    s = trainer.log_variances.detach().clone().requires_grad_()
    parts = []
    for number, (name, term) in enumerate(plain.losses(batch).items()):
        if term.count:
            parts.append(term.weight * weights.get(name, 1.0) * (torch.exp(-s[number]) * term.total / term.count + s[number]))
    torch.stack(parts).sum().backward()
    values, found = one_step(trainer, batch)
    assert s.grad is not None
    torch.testing.assert_close(found.pop("log_variances"), s.grad)
    expected = {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in plain.named_parameters()}
    torch.testing.assert_close(found, expected)
    assert values == one_step(make(), batch)[0]  # what is logged has no weight in it
    if "fine" in names:
        assert s.grad[1] == 0  # of a term without a pixel
    shown = trainer.scalars()
    assert [float(shown[f"weight/{name}"]) for name in names] == pytest.approx(torch.exp(-s).tolist())


@given(st.floats(1e-3, 1e3), st.floats(0.1, 10), st.integers(1, 1000))
def test_a_learned_weight_settles_at_one_over_the_loss(loss: float, weight: float, count: int) -> None:
    s = torch.tensor(loss, dtype=torch.float64).log().requires_grad_()
    term = LossTerm(torch.tensor(loss * count, dtype=torch.float64), torch.tensor(count), weight, s)
    (term.weighted / count + term.offset(term.count)).backward()
    assert s.grad is not None
    assert abs(float(s.grad)) < 1e-9 * weight
    assert term.offset(torch.tensor(0)).detach() == 0


def test_a_trainer_comes_back_from_its_state() -> None:
    first = hierarchical(weighting="learned")
    optimizer = torch.optim.Adam(first.parameters(), lr=0.01)
    for seed in range(3):
        step(first, batch_of({"coarse": 1, "fine": 2, "signs": 2}, BOXED, seed=seed), optimizer)
    assert first.log_variances is not None
    assert first.log_variances.abs().min() > 0.005
    second = hierarchical(weighting="learned")
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.scalars(), first.scalars(), rtol=0, atol=0)
    torch.testing.assert_close(one_step(second), one_step(first), rtol=0, atol=0)


# Several ranks.


def trainers_for_ranks() -> dict[str, Trainer]:
    return {
        "hierarchical": hierarchical(weighting="learned"),
        **{space: flat(space, weighting="learned", weights={"fine": 0.5}) for space in ("shared", "repeated", "universal")},
    }


def run_trainers(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """Steps of four samples, of which the last one is of boxes, so that rank 0 has none; then one without boxes at all."""
    for kind, trainer in trainers_for_ranks().items():
        losses: nn.Module = trainer
        if world_size > 1:
            losses = DistributedDataParallel(synchronise_batchnorm(trainer, CPU))
        optimizer = torch.optim.SGD(trainer.parameters(), lr=0.05)
        for seed, boxes in enumerate((1, 1, 0)):
            batch = batch_of({"coarse": 1, "fine": 3 - boxes, "signs": boxes}, BOXED, seed=seed)
            if world_size > 1:
                batch = share(batch, rank, world_size)
            values = step(losses, batch, optimizer, Ranks(rank=rank, world_size=world_size))
            out[f"{kind} losses {seed}"] = torch.stack(list(values.values()))
            out |= {f"{kind} {name} {seed}": value.clone() for name, value in trainer.scalars().items()}
        out |= {f"{kind} {name}": value.detach().clone() for name, value in trainer.state_dict().items()}


@pytest.mark.timeout(120)
def test_boxes_and_learned_weights_are_the_same_on_one_and_two_ranks(tmp_path: Path) -> None:
    single: dict[str, Tensor] = {}
    run_trainers(0, 1, single)
    for rank in on_ranks(run_trainers, tmp_path):
        assert rank.keys() == single.keys()
        for name, value in single.items():
            torch.testing.assert_close(rank[name], value, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
    for kind in ("hierarchical", "shared", "repeated", "universal"):
        assert 0 < float(single[f"{kind} box_share/signs 0"]) < 1
        assert (single[f"{kind} log_variances"] != 0).all()


# Configs.


def problems(trainer: dict[str, Any], outputs: str = "shared", views: dict[str, View] = BOXED) -> list[str]:
    keys = {"trainer": trainer}
    config = build(JobConfig, {**conf.compose("train", []), **keys}).trainer
    return list(config.problems(SPACES[outputs], views))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({"cats": "fine/sign"}, "trainer.boxes.cats: no such dataset in data.mix, expected one of coarse, fine, signs"),
        ({"fine": "coarse/thing"}, "trainer.boxes.fine: a dataset with pixels found, expected one with boxes"),
        ({"signs": "fine"}, "trainer.boxes.signs: fine/ found, expected a class of view all of fine (road, grass, car, sign)"),
        ({"signs": ["fine/sign", "cats/sign"]}, "cats/sign found, expected DATASET/CLASS with another dataset of data.mix (coarse, fine)"),
        ({"signs": "signs/stop"}, "signs/stop found, expected DATASET/CLASS with another dataset"),
        ({"signs": "fine/signs"}, "fine/signs found, expected a class of view all of fine"),
        ({"signs": []}, "trainer.boxes.signs: nothing found"),
    ],
)
def test_boxes_that_cannot_be_are_told(boxes: dict[str, Any], message: str) -> None:
    (found,) = problems({"name": "flat", "boxes": boxes})
    assert message in found


def test_the_hierarchical_trainer_needs_a_tree() -> None:
    assert problems({"name": "hierarchical"}, "joint") == []
    (found,) = problems({"name": "hierarchical"}, "concat")
    assert found.startswith("trainer=hierarchical: outputs=concat found")
    assert "expected outputs=hierarchy" in found
    (found,) = problems({"name": "hierarchical", "weights": {"signs": 2.0}}, "joint")
    assert found.startswith("trainer.weights.signs: no such term of the loss, expected one of ground, sign, top")


def names_of(trainers: Sequence[Trainer]) -> list[str]:
    return [type(trainer).__name__ for trainer in trainers]


# Whole jobs.


@pytest.mark.parametrize(
    "words",
    [
        ["trainer=hierarchical", "outputs=hierarchy", "outputs.tree=FOLDER/tree.yaml", "outputs.rule=greedy"],
        ["trainer=flat", "outputs.decoder=repeated", "trainer.boxes={boxed: [disks/red, disks/blue]}"],
    ],
)
def test_a_job_with_boxes_and_learned_weights_trains_resumes_and_evaluates(tiny_job: list[str], tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "tree.yaml").write_text(JOB_TREE)
    words = [*tiny_job, *(word.replace("FOLDER", str(tmp_path)) for word in words), "trainer.weighting=learned", "run.name=boxes"]
    assert main([*words, "loop.steps=4"]) == 0
    run = RunFolder(tmp_path / "runs" / "boxes")
    state = run.checkpoints.load("last")["model"]
    terms = ("root", "things") if "trainer=hierarchical" in words else ("disks", "tones", "boxed")
    assert state["log_variances"].shape == (len(terms),)
    counted, labelled = state["box_pixels"].sum(dim=(0, 1)).tolist()
    assert 0 <= counted <= labelled
    assert labelled > 0
    for name in (*[f"weight/{term}" for term in terms], "box_share/boxed"):
        values = read_metrics(run.path, name)
        assert len(values) == 4
        assert (values[0] != 1 and len(set(values)) == 4) if name.startswith("weight") else 0 <= min(values) <= max(values) <= 1
    before = json.loads(run.evaluation.read_text())
    for path in (run.checkpoints.path(4), run.checkpoints.folder / "best.pt"):
        path.unlink()
    assert main([*words, "loop.steps=4"]) == 0  # from step 2
    assert json.loads(run.evaluation.read_text()) == before
    again = run.checkpoints.load("last")["model"]
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    (tmp_path / "tree.yaml").unlink()
    assert main(["evaluate", f"run={run.path}"]) == 0
    assert json.loads(run.evaluation.read_text()) == {**before, "checkpoint": "best"}
    # Another job may start from its weights; what belongs to the trainer is not for it.
    assert main([*tiny_job, f"model.weights={run.path}", "run.name=other", "loop.steps=1"]) == 0


JOB_TREE = """
version: 1
classifiers:
  root: {classes: [ground, thing], datasets: [disks, tones]}
  things: {of: thing, classes: [red, blue], void: true, weight: 0.5}
labels:
  disks: {ground: ground, red: red, blue: blue}
  tones: {dark: ground, colourful: thing}
  boxed: {red thing: red, blue thing: blue}
"""
