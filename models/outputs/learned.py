"""One softmax over universal classes; to which label of each dataset each of them belongs is learnt with the network.

The outlook of paper 000 (section 8): universal logits with a head for each dataset, of weights that are binary in the forward pass and
floating point, within the unit interval, in the backward pass; no universal logit is in several labels of one dataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.labels import View
from data.universe import Leaf, Universe
from models.networks.base import Network
from models.outputs.base import (
    EQUAL,
    NO_LIMIT,
    LossTerm,
    OutputsConfigBase,
    SharedDecoder,
    Weights,
    Where,
    at_least_float32,
    channels_of,
    every_label,
    limited,
    summed,
)
from models.outputs.set_loss import NO_LABEL, SetLoss, Softmax, bands

HALF = 0.5
"""The weight above which a class belongs to a label: nearest to 1."""

PACE = 20.0
"""What leanings are multiplied by; gradients go straight through that, too. Adam moves a parameter by its learning rate at the most: at
1e-3 no class changes its label without evidence of 25 steps, so that those in which the network knows nothing yet decide nothing."""


@dataclass(frozen=True, kw_only=True)
class LearnedConfig(OutputsConfigBase):
    """One softmax over universal classes, one for each label of each dataset; to which labels of other datasets they belong is learnt."""

    name: Literal["learned"]
    share: float = 0.5
    """A class belongs to a label of another dataset where, of what it is taken for on that dataset's images among the labels of its own,
    more than this share lies in the label's pixels."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"outputs.share: {self.share:g} found, expected more than 0 and less than 1; mend it")

    def classifiers(self, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
        return {"universal classes": every_label(views)}


class Learned(SharedDecoder):
    """One softmax over universal classes, whichever dataset the image is of. The loss of a pixel is -log of the summed probability of the
    classes that belong to its label, and of a dataset's labels the one is predicted whose classes are most probable together.

    There is a class for each label of each dataset, DATASET/LABEL. It belongs to that label for good, and at first to none of any other
    dataset, which is `outputs=concat`. For each dataset each class has a leaning to each label, 0..1 and 0 at first. It belongs to the
    label of the largest, if that is above a half, and so never to two of a dataset.

    Leanings are trained as if they were not rounded, to make the decision among the labels of a class's own dataset, put into those of
    the image's dataset, right as often as can be. With A the leanings and q what is decided, on a pixel of label y it is right by

        R = A(q, y) + share * (1 - sum over labels k of A(q, k)),

    where to belong to none is right in a part `share` of cases. So A(q, y) rises with 1 - share, and all other A(q, k) fall with share,
    whether q belongs to any of them now or not: a leaning rises where, of what q is decided for on a dataset's images, more than `share`
    lies in a label's pixels. Paper 000 takes that share from the confusion matrices of trained models (4.3.2). Boxes teach no leanings:
    nothing outside of them is labelled, so that whatever is seen inside would seem to be a part of the label.

    R is not the likelihood that the network is trained by. The gradient of that, p(q) / P(y) on pixels of y with P(y) what the label's
    classes have in all, makes pixels count the more, the more wrong the network is about them; p(q) is next to nothing wherever the
    network sees whose image it is; and nothing speaks for a class to be in no label.
    """

    def __init__(self, config: LearnedConfig, views: Mapping[str, View], network: Network) -> None:
        self._leaves = every_label(views)
        super().__init__(views, network, [len(self._leaves)])
        self._share = config.share
        self._number = {name: number for number, name in enumerate(views)}
        self._channels = channels_of(views)
        self.leanings = nn.ParameterList(self._first_leanings(name) for name in views)
        """By dataset (Q, K_d), divided by `PACE`."""
        self.set_losses = nn.ModuleList(self._set_loss(name) for name in views)

    def _first_leanings(self, dataset: str) -> nn.Parameter:
        own = self._channels[dataset]
        leanings = torch.zeros(len(self._leaves), own.stop - own.start)
        leanings[own].fill_diagonal_(1 / PACE)
        return nn.Parameter(leanings)

    def _set_loss(self, dataset: str) -> SetLoss:
        own = self._channels[dataset]
        sets = tuple(frozenset([number]) for number in range(own.start, own.stop))
        return SetLoss([Softmax(channels=slice(0, len(self._leaves)), sets=sets, is_fixed=False)])

    def assignment(self, dataset: str) -> Tensor:
        """(Q,) int64: the label of the dataset that each class belongs to, NO_LABEL where to none."""
        leaning, label = (self.leanings[self._number[dataset]].detach() * PACE).max(dim=1)
        return label.masked_fill(leaning <= HALF, NO_LABEL)

    def losses(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], where: Where = NO_LIMIT, weights: Weights = EQUAL
    ) -> dict[str, LossTerm]:
        wanted = {name: limited(labels[name], where, name, name) for name in logits}
        terms = self.mixed_losses(logits, wanted, weights)
        for name, term in terms.items():
            straight_through = self._straight_through(logits[name], wanted[name], name, weights.get(name))
            terms[name] = replace(term, total=term.total + straight_through.to(term.total.dtype))
        return terms

    def mixed_losses(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: Weights = EQUAL) -> dict[str, LossTerm]:
        """Without what teaches the leanings: labels of mixed pictures may be predictions, which would confirm them."""
        terms = {}
        for name, values in logits.items():
            set_loss = self.set_losses[self._number[name]]
            assert isinstance(set_loss, SetLoss)
            set_loss.assign(self.assignment(name))
            totals, counts = set_loss(values, labels[name], weights.get(name))
            terms[name] = LossTerm(totals[0], counts[0])
        return terms

    def _straight_through(self, logits: Tensor, labels: Tensor, dataset: str, weights: Tensor | None) -> Tensor:
        """Zero, with the gradient that the sum of -R over the pixels has with respect to the leanings."""
        leanings = self.leanings[self._number[dataset]]
        with torch.no_grad():
            leanings.clamp_(0, 1 / PACE)  # before a step and not after it, so that no trainer has to know
            evidence = leanings.new_zeros(leanings.shape)
            for rows in bands(logits) if self.views[dataset].supervision == "pixels" else ():
                evidence += self._evidence(logits[:, :, rows], labels[:, rows], dataset, None if weights is None else weights[:, rows])
            evidence -= self._share * evidence.sum(dim=1, keepdim=True)
            evidence[self._channels[dataset]] = 0
        return -((leanings - leanings.detach()) * evidence).sum()

    def _evidence(self, logits: Tensor, labels: Tensor, dataset: str, weights: Tensor | None) -> Tensor:
        """(Q, K_d): in how many pixels of each label of `dataset` each class is the most probable one of its own dataset."""
        predicted = torch.cat([_one_hot(logits[:, own].argmax(dim=1), own.stop - own.start) for own in self._channels.values()], dim=1)
        labelled = _one_hot(labels, self.views[dataset].num_classes)
        if weights is not None:
            labelled = labelled * weights.unsqueeze(1)
        with torch.autocast(logits.device.type, enabled=False):
            return _by_pixel(predicted).to(labelled.dtype) @ _by_pixel(labelled).t()

    def leaves(self, dataset: str) -> tuple[str, ...]:
        return self._leaves

    def label_leaves(self, dataset: str) -> tuple[tuple[str, ...], ...]:
        """As it is now: training changes it, but for the class that is a label's own."""
        labels = self.assignment(dataset).tolist()
        return tuple(
            tuple(leaf for leaf, of in zip(self._leaves, labels, strict=True) if of == label)
            for label in range(self.views[dataset].num_classes)
        )

    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        return torch.log_softmax(at_least_float32(logits), dim=1)

    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        assignment = self.assignment(dataset)
        classes = torch.arange(self.views[dataset].num_classes, device=assignment.device)
        return summed(self.leaf_log_probabilities(logits, dataset), classes.unsqueeze(1) == assignment)

    def universe(self) -> Universe:
        """What was learnt, as `outputs=universal` reads it. Classes that belong to the same labels are one leaf: no label would tell them
        apart. One that belongs to its own label alone is kept beside what else is in that: what the parts that are known leave over."""
        columns = zip(*(self.assignment(name).tolist() for name in self.views), strict=True)
        members: dict[tuple[int, ...], list[str]] = {}
        for leaf, labels in zip(self._leaves, columns, strict=True):
            members.setdefault(labels, []).append(leaf)
        name_of = {leaf: "+".join(group) for group in members.values() for leaf in group}
        colors = dict(zip(self._leaves, chain.from_iterable(view.colors for view in self.views.values()), strict=True))
        return Universe(
            version=1,
            leaves=tuple(Leaf(name=name_of[group[0]], color=colors[group[0]]) for group in members.values()),
            labels={
                name: {
                    label: tuple(dict.fromkeys(name_of[leaf] for leaf in leaves))
                    for label, leaves in zip(view.names, self.label_leaves(name), strict=True)
                }
                for name, view in self.views.items()
            },
        )


def _one_hot(numbers: Tensor, num: int) -> Tensor:
    """(N, H, W) int64 to (N, num, H, W) float32; zero where a number is none of 0..num-1."""
    return (numbers.unsqueeze(1) == torch.arange(num, device=numbers.device).view(1, -1, 1, 1)).float()


def _by_pixel(values: Tensor) -> Tensor:
    """(N, C, H, W) to (C, N * H * W)."""
    return values.transpose(0, 1).flatten(1)
