"""The trainers ClassMix and DACS (paper 004): a loss of labelled pictures, and one of mixed pictures that a teacher labelled.

In a step the student sees the labelled pictures, the teacher the others as they are, and the student these once more, mixed. Pictures are
paired along the global batch, so nothing depends on how that was dealt to ranks; a mixed picture is made by the rank that has the picture
pasted onto it (inter), or pasted from (intra).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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
from trainers.mixing.exchange import Group
from trainers.mixing.masks import blend, box_masks, class_masks, cow_masks, priorities, sent
from trainers.mixing.mixed import Answers, Mixed
from trainers.mixing.panels import mixed_panel
from trainers.ranks import sum_over_ranks
from trainers.teacher import Teacher


class MixTrainer(Trainer):
    """`losses` gives the terms of the output space for labelled pictures, and for mixed ones the same with `mixed/` before their names."""

    averages = ("teacher.",)
    steps_taken: Tensor
    teacher: Teacher | None
    """None where nobody is taught."""

    def __init__(self, model: SegmentationModel, config: ClassMixConfig | DacsConfig) -> None:
        super().__init__(model, config)
        self.config: MixConfigBase = config
        self.is_inter = isinstance(config, DacsConfig) and config.mix == "inter"
        self.labelled_role, self.other_role = config.roles
        self.teacher = None if config.mask == "none" else Teacher(model, config.teacher)
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))
        self._numbers = {name: number for number, name in enumerate(model.outputs.views)}
        for name, view in model.outputs.views.items():
            if name in config.align:
                shares = config.align[name]  # "labels": all the same until `prepare` knows them
                wanted = [shares.get(label, 0.0) if isinstance(shares, dict) else 1.0 for label in view.names]
                for kind in ("wanted", "running"):
                    self.register_buffer(f"{kind}_{self._numbers[name]}", _shares(torch.tensor(wanted, dtype=torch.float64)))
        for name, number in self._numbers.items():
            given = self.table(name).clone()
            for label, leaves in enumerate(model.outputs.label_leaves(name)):
                if not leaves:
                    given[given == label] = IGNORE_INDEX
            self.register_buffer(f"given_{number}", given.byte(), persistent=False)
        self._indices: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self._last: Mixed | None = None
        """Of the last step, for panels: it is held until the next."""

    def losses(self, batch: Batch) -> dict[str, LossTerm]:
        labelled, others = Group.of(batch, self.labelled_role), Group.of(batch, self.other_role)
        known = self._part(batch, labelled)
        terms = super().losses(known)
        if self.teacher is None:
            return terms
        with torch.no_grad():
            taught = self._taught(self.teacher, self._part(batch, others), others)
            given = self._given(known, labelled) if self.is_inter and len(labelled) else None
            self._last = mixed = self._mix(batch, taught, given)
        return terms | self._consistency(mixed)

    forward = losses

    def _part(self, batch: Batch, group: Group) -> Batch:
        """The samples of a group that are on this rank, as a batch of their own."""
        device = batch.images.device
        index, rows = self._index(group.local, device), self._rows([group.datasets[number] for number in group.own], device)
        return replace(batch, images=batch.images[index], labels=batch.labels[index], rows=rows, roles={})

    def _rows(self, datasets: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """Which of pictures of these datasets are of each dataset of the job."""
        places = {name: tuple(i for i, of in enumerate(datasets) if of == name) for name in self.model.outputs.views}
        return {name: self._index(numbers, device) for name, numbers in places.items()}

    def _index(self, numbers: tuple[int, ...], device: torch.device) -> Tensor:
        """`numbers` on the device; kept, since most batches are alike and a copy would be waited for."""
        if (numbers, device) not in self._indices:
            if len(self._indices) > 1000:
                self._indices.clear()
            self._indices[numbers, device] = torch.tensor(numbers, dtype=torch.int64, device=device)
        return self._indices[numbers, device]

    # The teacher's answers.

    def _given(self, part: Batch, group: Group) -> Answers:
        """Pictures with their labels; one that is no leaf's teaches nothing, and is as good as none."""
        labels = torch.full_like(part.labels, IGNORE_INDEX)
        for name, index in part.rows.items():
            labels[index] = self.get_buffer(f"given_{self._numbers[name]}")[part.labels[index].long()]
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

    def _taught(self, teacher: Teacher, part: Batch, group: Group) -> Answers:
        """Pictures with what the teacher sees in them, as they are."""
        teacher.set_mode()
        logits = teacher.model(part.images, part.rows)
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
        outputs = self.model.outputs  # the teacher's has the same
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
        limit = self.config.align_limit
        factors = (wanted / running.clamp(min=1e-6)).clamp(max=torch.inf if limit is None else limit)
        p = torch.softmax(log_p + factors.log().to(log_p.dtype).view(1, -1, 1, 1), dim=1)
        counts = sum_over_ranks(counts)
        shares = counts / counts.sum().clamp(min=1)
        running.lerp_(torch.where(counts.sum() > 0, shares, running), 1 - RUNNING)
        sure, classes = p.max(dim=1)
        return classes, sure, None if self.config.target == "labels" else p

    # Mixing.

    def _mix(self, batch: Batch, taught: Answers, given: Answers | None) -> Mixed:
        """Pictures with labels, where there are `given` ones, onto those that the teacher labelled; else these onto one another."""
        others, device = taught.group, batch.images.device
        here = tuple(others.datasets[number] for number in others.own)
        if given is not None:
            # The source goes on where the step before left it, so that each of its pictures is pasted, however few the others are.
            first, source = batch.step * len(others), given.group
            numbers = tuple((first + number) % len(source) for number in others.own)
            pasted, base = given.of(self._index(numbers, device)), taught
            pasted_datasets, base_datasets = tuple(source.datasets[number] for number in numbers), here
        else:
            numbers = tuple((number + 1) % len(others) for number in others.own)
            pasted, base = taught, taught.of(self._index(numbers, device))
            pasted_datasets, base_datasets = here, tuple(others.datasets[number] for number in numbers)
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
            all_datasets=frozenset((*others.datasets, *(() if given is None else given.group.datasets))),
        )

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
                total = sum_over_ranks(confident.sum(dtype=torch.float64))
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
            terms = self.model.outputs.mixed_losses(logits, labels, weights=weights)
        else:
            terms = {name: self._soft_term(mixed, name, logits[name], index, labels[name], weights[name]) for name, index in rows.items()}
        found = {}
        for name, term in terms.items():
            # A mean over all pixels of all pictures; over none where no picture is of what the term is about.
            pixels = mixed.mask.numel() if name not in rows or name in mixed.all_datasets else 0
            weight = term.weight * self.config.consistency * self.weights.get(f"{MIXED}{name}", 1.0)
            found[f"{MIXED}{name}"] = replace(term, count=torch.full((), pixels, dtype=torch.int64, device=device), weight=weight)
        return found

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
                pixels = torch.from_numpy(class_pixels(dataset).astype(np.float64))
                for kind in ("wanted", "running"):
                    self.get_buffer(f"{kind}_{self._numbers[dataset]}").copy_(_shares(pixels))

    def start(self) -> None:
        if self.teacher is not None:
            self.teacher.start(self.model)

    def after_step(self, step: int) -> None:
        if self.teacher is not None:
            self.teacher.follow(self.model, step)
        self.steps_taken.fill_(step + 1)

    @property
    def companions(self) -> dict[str, SegmentationModel]:
        return {} if self.teacher is None else {"teacher": self.teacher.model}

    # Panels.

    def panels(self) -> dict[str, Image.Image]:
        """The first mixed picture of the last step."""
        if self._last is None or not len(self._last.images):
            return {}
        return {"mixed": mixed_panel(self._last, self.model.outputs.views)}


RUNNING = 0.99
"""Share of the running shares of the teacher's labels that a step leaves (paper 004, section 5.2.2)."""


def _shares(parts: Tensor) -> Tensor:
    """Parts (K,) float64 as shares of their sum; none is so little that it could not be asked for."""
    parts = parts.clamp(min=1e-9 * float(parts.sum()))
    return parts / parts.sum()


def _format_of(images: Tensor) -> torch.memory_format:
    return torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
