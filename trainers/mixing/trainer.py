"""The trainers ClassMix and DACS (paper 004): a loss of labelled pictures, and one of mixed pictures that a teacher labelled.

In a step the student sees the labelled pictures, the teacher the others as they are, and the student these once more, mixed. Pictures are
paired along the global batch, so nothing depends on how that was dealt to ranks; a mixed picture is made by the rank that has the picture
pasted onto it (inter), or pasted from (intra).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.labels import IGNORE_INDEX
from data.order import step_number
from data.photometric import augment
from data.types import Batch
from models.model import SegmentationModel
from models.outputs.base import LossTerm
from trainers.base import Trainer
from trainers.mixing.config import MIXED, ClassMixConfig, DacsConfig, MixConfigBase
from trainers.mixing.exchange import Group, sum_over_ranks
from trainers.mixing.masks import blend, box_masks, class_masks, cow_masks, priorities, sent
from trainers.mixing.panels import Shown, mixed_panel
from trainers.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What is known of the pictures of a group, in its order: as labels in the view of each one's dataset, and how sure they are."""

    group: Group
    images: Tensor
    """(B, 3, H, W) uint8."""
    labels: Tensor
    """(B, H, W) uint8, IGNORE_INDEX where there is none."""
    confidence: Tensor
    """(B, H, W) float32; 1 for labels that are given."""
    probabilities: Mapping[str, Tensor]
    """Dataset -> (B, K, H, W) of its classes, where targets are probabilities; zeros for pictures of other datasets."""

    def of(self, numbers: Tensor) -> "Answers":
        """Those of the pictures `numbers` (n,)."""
        return replace(
            self,
            images=self.images[numbers],
            labels=self.labels[numbers],
            confidence=self.confidence[numbers],
            probabilities={name: values[numbers] for name, values in self.probabilities.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """The mixed pictures of this rank."""

    mask: Tensor
    """(n, H, W) bool: what is pasted."""
    pasted: Answers
    base: Answers
    pasted_datasets: tuple[str, ...]
    base_datasets: tuple[str, ...]
    images: Tensor
    """(n, 3, H, W) uint8, with the strong changes of colour."""
    weights: Tensor
    """(n, H, W) float32."""
    of_datasets: frozenset[str]
    """Whose pictures those of all ranks are made of."""


class MixTrainer(Trainer):
    """`losses` gives the terms of the output space for labelled pictures, and for mixed ones the same with `mixed/` before their names."""

    steps_taken: Tensor

    def __init__(self, model: SegmentationModel, config: ClassMixConfig | DacsConfig) -> None:
        super().__init__(model, config)
        self.config: MixConfigBase = config
        self.is_inter = isinstance(config, DacsConfig) and config.mix == "inter"
        self.labelled_role, self.other_role = config.roles
        self.teacher = Teacher(model, config.teacher)
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))
        for number, (name, view) in enumerate(model.outputs.views.items()):
            wanted, running = torch.full((2, view.num_classes), 1 / view.num_classes, dtype=torch.float64)
            shares = config.align.get(name)
            if isinstance(shares, dict):
                wanted = torch.tensor([shares[label] for label in view.names], dtype=torch.float64)
                wanted, running = wanted / wanted.sum(), (wanted / wanted.sum()).clone()
            if name in config.align:
                self.register_buffer(f"wanted_{number}", wanted)
                self.register_buffer(f"running_{number}", running)
        self._numbers = {name: number for number, name in enumerate(model.outputs.views)}
        self._indices: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self._world_size = 1
        self._last: Mixed | None = None
        """Of the last step, for panels: it is held until the next."""

    def losses(self, batch: Batch) -> dict[str, LossTerm]:
        self._world_size = batch.world_size
        labelled = Group.of(batch, self.labelled_role)
        terms = super().losses(self._part(batch, labelled))
        if self.config.mask == "none":
            return terms
        with torch.no_grad():
            mixed = self._mix(batch, labelled, Group.of(batch, self.other_role))
        self._last = mixed
        return terms | self._consistency(mixed)

    forward = losses

    def _part(self, batch: Batch, group: Group) -> Batch:
        """The samples of a group that are on this rank, as a batch of their own."""
        index = self._index(group.local, batch.images.device)
        return replace(batch, images=batch.images[index], labels=batch.labels[index], rows=self._rows(group, batch.images.device), roles={})

    def _rows(self, group: Group, device: torch.device) -> dict[str, Tensor]:
        datasets = [group.datasets[number] for number in group.own]
        return {name: self._places(datasets, name, device) for name in self.model.outputs.views}

    def _places(self, datasets: Sequence[str], name: str, device: torch.device) -> Tensor:
        return self._index(tuple(place for place, dataset in enumerate(datasets) if dataset == name), device)

    def _index(self, numbers: tuple[int, ...], device: torch.device) -> Tensor:
        """`numbers` on the device; kept, since most batches are alike and a copy would be waited for."""
        if (numbers, device) not in self._indices:
            if len(self._indices) > 1000:
                self._indices.clear()
            self._indices[numbers, device] = torch.tensor(numbers, dtype=torch.int64, device=device)
        return self._indices[numbers, device]

    # The teacher's answers.

    def _given(self, batch: Batch, group: Group) -> Answers:
        """Pictures with their labels."""
        part = self._part(batch, group)
        labels = torch.full_like(part.labels, IGNORE_INDEX)
        for name, index in part.rows.items():
            labels[index] = self.table(name)[part.labels[index].long()].byte()
        confidence = torch.ones(labels.shape, device=labels.device)
        return Answers(
            group=group, images=part.images, labels=labels, confidence=confidence, probabilities=self._one_hot(labels, part.rows)
        )

    def _one_hot(self, labels: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.config.target == "labels":
            return {}
        found = {}
        for name, index in rows.items():
            classes = torch.arange(self.model.outputs.views[name].num_classes, device=labels.device).view(1, -1, 1, 1)
            found[name] = torch.zeros(len(labels), classes.shape[1], *labels.shape[1:], device=labels.device)
            found[name][index] = (labels[index].unsqueeze(1) == classes).float()
        return found

    def _taught(self, batch: Batch, group: Group) -> Answers:
        """Pictures with what the teacher sees in them, as they are."""
        part = self._part(batch, group)
        self.teacher.set_mode()
        logits = self.teacher.model(part.images, part.rows)
        labels = torch.full_like(part.labels, IGNORE_INDEX)
        confidence = torch.zeros(labels.shape, device=labels.device)
        probabilities = {}
        for name, index in part.rows.items():
            classes, sure, p = self._answer(logits[name], name)
            labels[index], confidence[index] = classes.byte(), sure.float()
            if p is not None:
                probabilities[name] = p.new_zeros(len(labels), *p.shape[1:])
                probabilities[name][index] = p
        return Answers(group=group, images=part.images, labels=labels, confidence=confidence, probabilities=probabilities)

    def _answer(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Classes (N_d, H, W), their probabilities, and where targets are probabilities those of all classes (N_d, K, H, W)."""
        outputs = self.teacher.model.outputs
        if dataset in self.config.align:
            return self._aligned(outputs.class_log_probabilities(logits, dataset), dataset)
        classes, sure = outputs.pseudo_labels(logits, dataset)
        if self.config.target == "labels":
            return classes, sure, None
        return classes, sure, outputs.class_log_probabilities(logits, dataset).exp()

    def _aligned(self, log_p: Tensor, dataset: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Distribution alignment: probabilities times the shares that are wanted over those that were, made to sum to 1."""
        number = self._numbers[dataset]
        wanted, running = self.get_buffer(f"wanted_{number}"), self.get_buffer(f"running_{number}")
        seen = log_p.argmax(dim=1)
        counts = torch.zeros(len(wanted), dtype=torch.float64, device=log_p.device)
        counts.scatter_add_(0, seen.flatten(), torch.ones(1, dtype=torch.float64, device=log_p.device).expand(seen.numel()))
        p = torch.softmax(log_p + (wanted / running.clamp(min=1e-6)).log().to(log_p.dtype).view(1, -1, 1, 1), dim=1)
        counts = sum_over_ranks(counts, self._world_size)
        shares = counts / counts.sum().clamp(min=1)
        running.lerp_(torch.where(counts.sum() > 0, shares, running), 1 - RUNNING)
        sure, classes = p.max(dim=1)
        return classes, sure, None if self.config.target == "labels" else p

    # Mixing.

    def _mix(self, batch: Batch, labelled: Group, others: Group) -> Mixed:
        taught = self._taught(batch, others)
        own = others.own
        if self.is_inter and len(labelled):
            # The source goes on where the step before left it, so that each of its pictures is pasted, however few the others are.
            first = batch.step * len(others)
            numbers = tuple((first + number) % len(labelled) for number in own)
            pasted, base = self._everywhere(self._given(batch, labelled), numbers), taught
            pasted_datasets = tuple(labelled.datasets[number] for number in numbers)
            base_datasets = tuple(others.datasets[number] for number in own)
        else:
            numbers = tuple((number + 1) % len(others) for number in own)
            pasted, base = taught, self._everywhere(taught, numbers)
            pasted_datasets = tuple(others.datasets[number] for number in own)
            base_datasets = tuple(others.datasets[number] for number in numbers)
        all_seeds = batch.seeds.tolist()
        seeds = [all_seeds[place] for place in others.local]
        mask = self._mask(pasted.labels, seeds)
        images = blend(mask, pasted.images, base.images).contiguous(memory_format=_format_of(batch.images))
        strong = [step_number(self.seed, seed, "strong") for seed in seeds]  # not what the picture itself was changed by
        images = augment(images, strong, [self.config.photometric] * len(seeds), step_number(self.seed, batch.step, "strong"))
        return Mixed(
            mask=mask,
            pasted=pasted,
            base=base,
            pasted_datasets=pasted_datasets,
            base_datasets=base_datasets,
            images=images,
            weights=self._weights(mask, pasted.confidence, base.confidence, len(others)),
            of_datasets=frozenset((*others.datasets, *(labelled.datasets if self.is_inter else ()))),
        )

    def _everywhere(self, answers: Answers, numbers: tuple[int, ...]) -> Answers:
        """The answers about the pictures `numbers` of the whole group, wherever they are."""
        group = answers.group
        index = self._index(numbers, answers.images.device)
        whole = replace(
            answers,
            images=group.gather(answers.images),
            labels=group.gather(answers.labels),
            confidence=group.gather(answers.confidence),
            probabilities={name: group.gather(values) for name, values in answers.probabilities.items()},
        )
        return whole.of(index)

    def _mask(self, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        size = (labels.shape[1], labels.shape[2])
        if not seeds:
            return torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
        match self.config.mask:
            case "classes":
                priority = sent(priorities(seeds), labels.device)
                return class_masks(labels, priority, rounding=self.config.rounding, paste_ignored=self.config.paste_ignored)
            case "box":
                return box_masks(seeds, size, labels.device)
            case "cow":
                return cow_masks(seeds, size, labels.device)
        raise AssertionError(self.config.mask)

    def _weights(self, mask: Tensor, pasted: Tensor, base: Tensor, num_pictures: int) -> Tensor:
        """(n, H, W): what a pixel of a mixed picture counts for. Given labels count whole; the teacher's as far as it is sure."""
        config = self.config
        confident = ((base if self.is_inter else blend(mask, pasted, base)) >= config.threshold).float()
        match config.weight:
            case "pixel":
                weights = confident
            case "sample":
                weights = confident.mean(dim=(1, 2), keepdim=True).expand_as(confident)
            case "share":
                total = sum_over_ranks(confident.sum(dtype=torch.float64), self._world_size)
                weights = (total / (num_pictures * mask.shape[1] * mask.shape[2])).float().expand(confident.shape)
            case "ramp":
                t = (self.steps_taken / config.ramp_steps).clamp(max=1)
                weights = torch.exp(-5 * (1 - t) ** 2).float().expand(confident.shape)
            case "constant":
                weights = torch.ones_like(confident)
        return torch.where(mask, 1.0, weights) if self.is_inter else weights

    # The loss of mixed pictures.

    def _consistency(self, mixed: Mixed) -> dict[str, LossTerm]:
        device = mixed.images.device
        pairs = list(zip(mixed.pasted_datasets, mixed.base_datasets, strict=True))
        places = {name: tuple(i for i, pair in enumerate(pairs) if name in pair) for name in self.model.outputs.views}
        rows = {name: self._index(numbers, device) for name, numbers in places.items()}
        logits = self.model(mixed.images, rows)
        labels = {name: self._labels_of(mixed, name)[index].long() for name, index in rows.items()}
        weights = {name: mixed.weights[index] for name, index in rows.items()}
        if self.config.target == "labels":
            terms = self.model.outputs.losses(logits, labels, weights=weights)
        else:
            terms = {name: self._soft_term(mixed, name, logits[name], index, labels[name], weights[name]) for name, index in rows.items()}
        # A mean over all pixels, of all pictures; none where no picture is of what the term is about.
        pixels = {name: mixed.mask.numel() if name not in rows or name in mixed.of_datasets else 0 for name in terms}
        counts = {name: torch.full((), number, dtype=torch.int64, device=device) for name, number in pixels.items()}
        factor = self.config.consistency
        own = {f"{MIXED}{name}": replace(term, count=counts[name], weight=term.weight * factor) for name, term in terms.items()}
        return {name: replace(term, weight=term.weight * self.weights.get(name, 1.0)) for name, term in own.items()}

    def _labels_of(self, mixed: Mixed, name: str) -> Tensor:
        """(n, H, W) uint8: the labels of mixed pictures where these are of pictures of dataset `name`; elsewhere none."""
        parts = []
        for answers, datasets in ((mixed.pasted, mixed.pasted_datasets), (mixed.base, mixed.base_datasets)):
            others = self._index(tuple(i for i, dataset in enumerate(datasets) if dataset != name), mixed.images.device)
            parts.append(answers.labels if not len(others) else answers.labels.index_fill(0, others, IGNORE_INDEX))
        return blend(mixed.mask, *parts)

    def _soft_term(self, mixed: Mixed, name: str, logits: Tensor, index: Tensor, labels: Tensor, weights: Tensor) -> LossTerm:
        """The loss against probabilities of the classes of dataset `name`, where a label says that the pixel is one of its pictures."""
        wanted = blend(mixed.mask[index], mixed.pasted.probabilities[name][index], mixed.base.probabilities[name][index])
        log_p = self.model.outputs.class_log_probabilities(logits, name)
        is_soft = self.config.target == "soft"
        loss = -(wanted * log_p.clamp(min=-100)).sum(dim=1) if is_soft else (wanted - log_p.exp()).square().mean(dim=1)
        has_label = labels != IGNORE_INDEX
        return LossTerm((loss * weights * has_label).sum(), has_label.sum())

    # The state.

    def prepare(self, class_pixels: Callable[[str], np.ndarray]) -> None:
        for dataset, shares in self.config.align.items():
            if shares == "labels":
                pixels = torch.from_numpy(class_pixels(dataset).astype(np.float64)).clamp(min=1)
                for kind in ("wanted", "running"):
                    self.get_buffer(f"{kind}_{self._numbers[dataset]}").copy_(pixels / pixels.sum())

    def start(self) -> None:
        self.teacher.start(self.model)

    def after_step(self, step: int) -> None:
        self.teacher.follow(self.model, step)
        self.steps_taken.fill_(step + 1)

    @property
    def companions(self) -> dict[str, SegmentationModel]:
        return {} if self.config.mask == "none" else {"teacher": self.teacher.model}

    # Panels.

    def panels(self) -> dict[str, Image.Image]:
        """The first mixed picture of the last step."""
        mixed = self._last
        if mixed is None or not len(mixed.images):
            return {}
        shown = Shown(
            pasted=mixed.pasted.images[0],
            base=mixed.base.images[0],
            mixed=mixed.images[0],
            mask=mixed.mask[0],
            pasted_labels=mixed.pasted.labels[0],
            base_labels=mixed.base.labels[0],
            confidence=torch.where(mixed.mask[0], mixed.pasted.confidence[0], mixed.base.confidence[0]),
            weights=mixed.weights[0],
            datasets=(mixed.pasted_datasets[0], mixed.base_datasets[0]),
        )
        return {"mixed": mixed_panel(shown, self.model.outputs.views)}


RUNNING = 0.99
"""Share of the running shares of the teacher's labels that a step leaves (paper 004, section 5.2.2)."""


def _format_of(images: Tensor) -> torch.memory_format:
    return torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
