"""ClassMix and DACS against a slow step written from the paper; the teacher; several ranks."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spaces import SPACES, VIEWS
from spaces import UNIVERSE as UNIVERSE_OF_SPACES
from test_distributed import CPU, on_ranks
from test_masks import slow_class_mask
from test_supervision import batch_of, small_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.labels import IGNORE_INDEX
from data.order import step_number
from data.photometric import PHOTOMETRIC, augment
from data.types import Batch
from models.batchnorm import synchronise_batchnorm
from models.outputs import UniversalConfig
from models.outputs.base import LossTerm
from trainers.mixing.config import ClassMixConfig, DacsConfig
from trainers.mixing.exchange import Group
from trainers.mixing.masks import blend, priorities
from trainers.mixing.trainer import MixTrainer
from trainers.optim import SgdConfig, build_optimizer
from trainers.ranks import Ranks
from trainers.step import train_step
from trainers.teacher import Teacher, TeacherConfig
from trainers.update import Update

ROLES = {"classmix": ("labelled", "unlabelled"), "dacs": ("source", "target")}


def mix_batch(kind: str, *, other: str = "fine", num_others: int = 3, seed: int = 0, rank: int = 0, world_size: int = 1) -> Batch:
    """Two labelled pictures of `coarse` and one of `signs`, and of `other` some without labels; what a rank has of them."""
    known, hidden = ROLES[kind]
    whole = batch_of({"coarse": 2, "signs": 1, other: num_others}, VIEWS, seed=seed)
    slots = (("coarse", known), ("coarse", known), ("signs", known), *[(other, hidden)] * num_others)
    mine = list(range(rank, len(slots), world_size))
    datasets = [slots[slot][0] for slot in mine]
    return replace(
        whole,
        images=whole.images[mine],
        labels=whole.labels[mine],
        rows={name: torch.tensor([i for i, found in enumerate(datasets) if found == name], dtype=torch.int64) for name in VIEWS},
        streams=whole.streams[mine],
        seeds=100 + whole.seeds[mine] + 10 * seed,
        sample_ids=tuple(whole.sample_ids[slot] for slot in mine),
        step=seed,
        slots=slots,
        rank=rank,
        world_size=world_size,
    )


def trainer_of(kind: str, space: str = "universal", **keys: Any) -> MixTrainer:
    config: ClassMixConfig | DacsConfig
    config = ClassMixConfig(name="classmix", **keys) if kind == "classmix" else DacsConfig(name="dacs", **keys)
    trainer = MixTrainer(small_model(SPACES[space], VIEWS), config).double()
    other = small_model(SPACES[space], VIEWS, seed=1)  # a teacher that says other things than the student
    if trainer.teacher is None:
        return trainer
    with torch.no_grad():
        for mine, theirs in zip(trainer.teacher.model.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)
    return trainer


def slow_losses(trainer: MixTrainer, kind: str, batch: Batch, *, is_inter: bool) -> dict[str, float]:
    """The loss of mixed pictures, picture by picture and pixel by pixel, over a whole global batch."""
    config, outputs = trainer.config, trainer.model.outputs
    known = [slot for slot, (_, role) in enumerate(batch.slots) if role == ROLES[kind][0]]
    others = [slot for slot, (_, role) in enumerate(batch.slots) if role == ROLES[kind][1]]
    size = (batch.images.shape[2], batch.images.shape[3])

    shown = list(others)
    rows = {name: torch.tensor([i for i, slot in enumerate(shown) if batch.slots[slot][0] == name], dtype=torch.int64) for name in VIEWS}
    trainer.teacher.set_mode()
    with torch.no_grad():
        logits = trainer.teacher.model(batch.images[shown], rows)
    answers = {}
    for name, index in rows.items():
        for place, number in enumerate(index.tolist()):
            classes, sure_of = trainer.teacher.model.outputs.pseudo_labels(logits[name][place : place + 1], name)
            answers[shown[number]] = (classes[0].numpy(), sure_of[0].numpy())
    pairs = [
        (known[number % len(known)] if is_inter else slot, slot if is_inter else others[(number + 1) % len(others)])
        for number, slot in enumerate(others)
    ]
    masks, sure = [], []
    for (pasted, base), slot in zip(pairs, others, strict=True):
        labels = batch.labels[pasted].numpy() if is_inter else answers[pasted][0]
        priority = priorities([int(batch.seeds[slot])])[0].numpy()
        mask = slow_class_mask(labels, priority, config.rounding, config.paste_ignored)
        masks.append(mask)
        sure.append(answers[base][1] if is_inter else np.where(mask, answers[pasted][1], answers[base][1]))
    share = np.mean([values >= config.threshold for values in sure])
    totals: dict[str, float] = {}
    images = [torch.where(torch.from_numpy(mask), batch.images[a], batch.images[b]) for (a, b), mask in zip(pairs, masks, strict=True)]
    datasets = [{batch.slots[slot][0] for slot in pair} for pair in pairs]
    places = {name: [i for i, pair in enumerate(datasets) if name in pair] for name in VIEWS}
    with torch.no_grad():
        said = trainer.model(torch.stack(images), {name: torch.tensor(index, dtype=torch.int64) for name, index in places.items()})
    for number, ((pasted, base), mask, confidence) in enumerate(zip(pairs, masks, sure, strict=True)):
        weight = {
            "share": np.full(size, share),
            "sample": np.full(size, np.mean(confidence >= config.threshold)),
            "pixel": (confidence >= config.threshold).astype(float),
            "constant": np.ones(size),
        }[config.weight]
        if is_inter:
            weight = np.where(mask, 1.0, weight)
        for slot, where in ((pasted, mask), (base, ~mask)):
            dataset = batch.slots[slot][0]
            given = is_inter and slot == pasted
            labels = torch.from_numpy(batch.labels[slot].numpy().astype(np.int64) if given else answers[slot][0].astype(np.int64))
            own = said[dataset][places[dataset].index(number)][None]
            for i, j in product(*map(range, size)):
                if where[i, j] and int(labels[i, j]) != IGNORE_INDEX:
                    terms = outputs.losses({dataset: own[:, :, i : i + 1, j : j + 1]}, {dataset: labels[i, j].view(1, 1, 1)})
                    for name, term in terms.items():
                        totals[name] = totals.get(name, 0.0) + weight[i, j] * float(term.total)
    pixels = len(others) * size[0] * size[1]
    return {name: total / pixels for name, total in totals.items()}


def value(term: LossTerm) -> float:
    return float((term.total / term.count).detach())


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "space", "keys"),
    [
        ("classmix", "universal", {}),
        ("classmix", "shared", {"weight": "sample"}),
        ("classmix", "joint", {"weight": "pixel", "rounding": "up"}),
        ("dacs", "universal", {"strong": "none", "rounding": "up"}),
        ("dacs", "concat", {"strong": "none", "weight": "constant", "paste_ignored": True}),
        ("dacs", "joint", {"strong": "none", "mix": "intra", "weight": "sample"}),
    ],
)
def test_the_loss_of_mixed_pictures_is_that_of_the_paper(kind: str, space: str, keys: dict[str, Any]) -> None:
    trainer = trainer_of(kind, space, threshold=0.6, **keys)
    batch = mix_batch(kind)
    found = {name.removeprefix("mixed/"): term for name, term in trainer.losses(batch).items() if name.startswith("mixed/")}
    expected = slow_losses(trainer, kind, batch, is_inter=kind == "dacs" and keys.get("mix") != "intra")
    assert expected
    others = {"fine"} if kind == "classmix" or keys.get("mix") == "intra" else set(VIEWS)
    for name, term in found.items():
        pixels = 0 if name in set(VIEWS) - others else 3 * batch.images.shape[2] * batch.images.shape[3]
        assert int(term.count) == pixels
        assert float(term.total.detach()) / max(1, pixels) == pytest.approx(expected.get(name, 0.0), rel=1e-5, abs=1e-9), name


def test_labelled_pictures_are_learnt_as_by_the_flat_trainer() -> None:
    trainer, batch = trainer_of("classmix"), mix_batch("classmix")
    known = [0, 1, 2]
    rows = {"coarse": torch.tensor([0, 1]), "signs": torch.tensor([2]), "fine": torch.zeros(0, dtype=torch.int64)}
    logits = trainer.model(batch.images[known], rows)
    expected = trainer.model.outputs.losses(logits, {name: batch.labels[index].long() for name, index in rows.items()})
    for name, term in expected.items():
        assert float(trainer.losses(batch)[name].total.detach()) == pytest.approx(float(term.total.detach()))


@pytest.mark.parametrize("target", ["soft", "squared"])
def test_probabilities_as_targets(target: str) -> None:
    """Of two pictures of one dataset: the mean over all pixels of the distance to the teacher's probabilities, mixed."""
    trainer = trainer_of("classmix", target=target, weight="constant", mask="box")
    batch = mix_batch("classmix", num_others=2)
    term = trainer.losses(batch)["mixed/fine"]
    outputs, rows = trainer.model.outputs, {"fine": torch.arange(2)}
    with torch.no_grad():
        said = outputs.class_log_probabilities(trainer.teacher.model(batch.images[3:], rows)["fine"], "fine").exp()
        mask = trainer._mask(torch.zeros(2, *batch.images.shape[2:]), batch.seeds[3:].tolist())[:, None]
        wanted, images = torch.where(mask, said, said.flip(0)), torch.where(mask, batch.images[3:], batch.images[3:].flip(0))
        log_p = outputs.class_log_probabilities(trainer.model(images, rows)["fine"], "fine")
    loss = -(wanted * log_p).sum(dim=1) if target == "soft" else (wanted - log_p.exp()).square().mean(dim=1)
    total = float(loss.mean())
    assert value(term) == pytest.approx(total)


def test_the_ramp_goes_by_the_steps_taken() -> None:
    trainer, batch = trainer_of("classmix", weight="ramp", ramp_steps=10), mix_batch("classmix")
    full = value(trainer_of("classmix", weight="constant").losses(batch)["mixed/fine"])
    for taken, share in ((0, np.exp(-5)), (5, np.exp(-1.25)), (10, 1.0), (99, 1.0)):
        trainer.steps_taken.fill_(taken)
        assert value(trainer.losses(batch)["mixed/fine"]) == pytest.approx(share * full, rel=1e-5)


@pytest.mark.parametrize("limit", [None, 1.2])
def test_alignment_multiplies_by_the_shares_that_are_wanted_over_those_that_were(limit: float | None) -> None:
    shares = {"road": 0.1, "grass": 0.2, "car": 0.3, "sign": 0.4}
    trainer, batch = trainer_of("classmix", align={"fine": shares}, align_limit=limit), mix_batch("classmix")
    number = list(VIEWS).index("fine")
    running = trainer.get_buffer(f"running_{number}")
    running.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    trainer.teacher.set_mode()
    with torch.no_grad():
        logits = trainer.teacher.model(batch.images[3:], {"fine": torch.arange(3)})["fine"]
    p = trainer.model.outputs.class_log_probabilities(logits, "fine").exp()
    raw = p.argmax(dim=1)
    factors = torch.tensor([min(wanted / was, limit or 100) for wanted, was in zip(shares.values(), [0.4, 0.3, 0.2, 0.1], strict=True)])
    aligned = p * factors.view(1, -1, 1, 1)
    aligned = aligned / aligned.sum(dim=1, keepdim=True)
    with torch.no_grad():
        group = trainer_group(batch)
        answers = trainer._taught(trainer.teacher, trainer._part(batch, group), group)
    assert torch.equal(answers.labels.long(), aligned.argmax(dim=1))
    torch.testing.assert_close(answers.confidence.double(), aligned.amax(dim=1), rtol=1e-5, atol=1e-6)
    counts = torch.bincount(raw.flatten(), minlength=4).double()
    torch.testing.assert_close(running, 0.99 * torch.tensor([0.4, 0.3, 0.2, 0.1]).double() + 0.01 * counts / counts.sum())


def trainer_group(batch: Batch) -> Group:
    return Group.of(batch, "unlabelled")


def test_the_teacher_has_no_gradient_and_is_not_trained() -> None:
    trainer, batch = trainer_of("classmix"), mix_batch("classmix")
    before = {name: tensor.clone() for name, tensor in trainer.teacher.state_dict().items()}
    optimizer = build_optimizer(trainer, SgdConfig(name="sgd", lr=0.1))
    student = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    train_step(trainer, [batch], Update(trainer, optimizer), Ranks())
    assert all(parameter.grad is None for parameter in trainer.teacher.parameters())
    assert not any(torch.equal(*pair) for pair in zip(student, trainer.model.parameters(), strict=True))
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer.teacher.named_parameters())


def test_the_baseline_has_no_teacher() -> None:
    trainer = trainer_of("classmix", mask="none")
    trainer.start()
    assert set(trainer.losses(mix_batch("classmix"))) == set(VIEWS)
    trainer.after_step(0)
    assert not trainer.companions
    assert not any("teacher" in name for name in trainer.state_dict())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("target", ["labels", "soft"])
def test_the_terms_are_those_of_the_config(space: str, target: Any) -> None:
    for kind in ("classmix", "dacs"):
        trainer = trainer_of(kind, space, target=target, weights={})
        assert set(trainer.losses(mix_batch(kind))) == set(trainer.config.terms(SPACES[space], VIEWS))
        plain = trainer_of(kind, space, mask="none")
        assert set(plain.losses(mix_batch(kind))) == set(SPACES[space].terms(VIEWS))
        assert plain.companions == {}


def test_every_picture_of_the_source_is_pasted_in_turn() -> None:
    """Two of coarse and one of signs, onto two pictures in each batch."""
    trainer, pasted = trainer_of("dacs", strong="none"), []
    for step in range(3):
        trainer.losses(mix_batch("dacs", num_others=2, seed=step))
        assert trainer._last is not None
        pasted.append(trainer._last.pasted_datasets)
    assert pasted == [("coarse", "coarse"), ("signs", "coarse"), ("coarse", "signs")]


def test_labels_that_teach_nothing_are_never_pasted() -> None:
    """Nothing is known of what `sky` is: whatever half of the classes is chosen, its pixels stay what they were."""
    labels = {**UNIVERSE_OF_SPACES.labels, "coarse": {**UNIVERSE_OF_SPACES.labels["coarse"], "sky": ()}}
    space = UniversalConfig(name="universal", universe=replace(UNIVERSE_OF_SPACES, labels=labels))
    trainer = MixTrainer(small_model(space, VIEWS), DacsConfig(name="dacs", strong="none")).double()
    sky = VIEWS["coarse"].names.index("sky")
    num_pasted = 0
    for seed in range(5):
        batch = mix_batch("dacs", num_others=2, seed=seed)
        batch = replace(batch, step=0)  # both of coarse are pasted
        trainer.losses(batch)
        assert trainer._last is not None
        is_sky = batch.labels[:2] == sky
        assert not (trainer._last.mask & is_sky).any()
        num_pasted += int(trainer._last.mask.sum())
    assert num_pasted > 0


def test_strong_changes_are_not_those_that_the_picture_had() -> None:
    trainer, batch = trainer_of("classmix", strong="torchvision", mask="box"), mix_batch("classmix")
    trainer.losses(batch)
    mixed = trainer._last
    assert mixed is not None
    before = blend(mixed.mask, mixed.pasted.images, mixed.base.images)
    again = augment(before, batch.seeds[3:], [PHOTOMETRIC["torchvision"]] * 3, step_number(0, 0, "photometric"))
    assert not torch.equal(mixed.images, before)
    assert not torch.equal(mixed.images, again)


@pytest.mark.parametrize("batchnorm", ["batch", "averaged"])
def test_the_teacher_is_the_average_of_the_paper(batchnorm: Any) -> None:
    student = small_model(SPACES["shared"], VIEWS)
    student.network.norm = nn.BatchNorm2d(4).double()
    teacher = Teacher(student, TeacherConfig(decay=0.9, batchnorm=batchnorm))
    weights = [torch.full_like(student.network.layer.weight, float(step)) for step in range(30)]  # type: ignore[union-attr, arg-type]
    expected = torch.zeros_like(weights[0])
    for step, weight in enumerate(weights):
        with torch.no_grad():
            student.network.layer.weight.copy_(weight)  # type: ignore[union-attr, operator]
            student.network.norm.running_mean.fill_(float(step))  # type: ignore[union-attr]
            student.network.norm.num_batches_tracked.fill_(step)  # type: ignore[union-attr]
        teacher.follow(student, step)
        alpha = min(1 - 1 / (step + 1), 0.9)
        expected = alpha * expected + (1 - alpha) * weight
    torch.testing.assert_close(teacher.model.network.layer.weight, expected)
    norm = teacher.model.network.norm
    assert isinstance(norm, nn.BatchNorm2d)
    if batchnorm == "averaged":
        torch.testing.assert_close(norm.running_mean, expected[0, 0, 0, 0].expand(4))
        assert int(norm.num_batches_tracked or 0) == 29
    else:
        assert (norm.running_mean == 0).all()
    teacher.set_mode()
    assert norm.training == (batchnorm == "batch")
    assert not teacher.model.training


def run_unequal(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """One picture of each role, so that each of two ranks lacks one; then a batch without any of the source, and one without target."""
    for kind in ("classmix", "dacs"):
        trainer = trainer_of(kind, "shared" if kind == "classmix" else "universal", strong="none")
        losses: nn.Module = trainer
        if world_size > 1:
            losses = DistributedDataParallel(synchronise_batchnorm(trainer, CPU))
        update = Update(trainer, torch.optim.SGD(trainer.model.parameters(), lr=0.05))
        known, hidden = ROLES[kind]
        for step, slots in enumerate(([("coarse", known), ("fine", hidden)], [("fine", hidden)] * 2, [("coarse", known)] * 2)):
            if world_size == 1 and step == 2:
                continue  # nothing to mix is nothing to give to networks whose normalisation needs something
            whole = batch_of({name: sum(of == name for of, _ in slots) for name in VIEWS}, VIEWS, seed=step)
            mine = list(range(rank, len(slots), world_size))
            rows = {name: torch.tensor([i for i, slot in enumerate(mine) if slots[slot][0] == name], dtype=torch.int64) for name in VIEWS}
            batch = replace(whole, images=whole.images[mine], labels=whole.labels[mine], rows=rows, seeds=whole.seeds[mine])
            batch = replace(batch, step=step, slots=tuple(slots), rank=rank, world_size=world_size, streams=whole.streams[mine])
            if world_size > 1:
                result = train_step(losses, [batch], update, Ranks(rank=rank, world_size=world_size))
                out[f"{kind} {step}"] = torch.tensor(list(result.losses.values()), dtype=torch.float64)


@pytest.mark.timeout(120)
def test_ranks_without_a_picture_of_some_role_take_part(tmp_path: Path) -> None:
    first, second = on_ranks(run_unequal, tmp_path)
    assert first.keys() == second.keys()
    assert len(first) == 6
    for name, tensor in first.items():
        assert tensor.isfinite().all()
        torch.testing.assert_close(second[name], tensor)


def run_mixing(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    for kind, space, keys in (
        ("classmix", "universal", {"weight": "share"}),
        ("classmix", "shared", {"target": "soft", "weight": "sample", "mask": "cow"}),
        ("dacs", "universal", {"weight": "pixel"}),
        ("dacs", "joint", {"align": {"fine": {"road": 0.1, "grass": 0.2, "car": 0.3, "sign": 0.4}}}),
    ):
        trainer = trainer_of(kind, space, threshold=0.6, **keys)
        losses: nn.Module = trainer
        if world_size > 1:
            losses = DistributedDataParallel(synchronise_batchnorm(trainer, CPU))
        update = Update(trainer, torch.optim.SGD(trainer.model.parameters(), lr=0.05))
        for seed in range(3):
            batch = mix_batch(kind, seed=seed, rank=rank, world_size=world_size)
            result = train_step(losses, [batch], update, Ranks(rank=rank, world_size=world_size))
            trainer.after_step(seed)
            out[f"{kind} {space} {seed}"] = torch.tensor(list(result.losses.values()), dtype=torch.float64)
            last, group = trainer._last, Group.of(batch, ROLES[kind][1])
            assert last is not None
            mixed = {"labels": blend(last.mask, last.pasted.labels, last.base.labels), "weights": last.weights, "images": last.images}
            out |= {f"{kind} {space} {seed} {name}": group.gather(values.contiguous()) for name, values in mixed.items()}
        out |= {f"{kind} {space} {name}": tensor.detach().clone() for name, tensor in trainer.state_dict().items()}


@pytest.mark.timeout(120)
def test_two_ranks_mix_and_learn_what_one_does(tmp_path: Path) -> None:
    """Six samples, so that each rank has one labelled picture of coarse, and pictures are pasted from one rank to the other."""
    single: dict[str, Tensor] = {}
    run_mixing(0, 1, single)
    for rank in on_ranks(run_mixing, tmp_path):
        assert rank.keys() == single.keys()
        for name, tensor in single.items():
            torch.testing.assert_close(rank[name], tensor, rtol=1e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
