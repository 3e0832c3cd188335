"""One softmax over the labels of all datasets side by side (paper 000)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.labels import IGNORE_INDEX, View
from data.taxonomy import Taxonomy, read_taxonomy
from models.networks.base import Network
from models.outputs.base import (
    EQUAL,
    NO_LIMIT,
    LeafTable,
    LossTerm,
    OutputsConfigBase,
    SharedDecoder,
    Weights,
    Where,
    at_least_float32,
    cross_entropy_term,
    limited,
)

Merge = Literal["probabilities", "logits", "winner"]


@dataclass(frozen=True, kw_only=True)
class ConcatConfig(OutputsConfigBase):
    """One softmax over every (dataset, label) (paper 000): the network learns the label and whose label it is."""

    name: Literal["concat"]
    predict: Literal["own", "all"] = "own"
    """For an image of a dataset, own: the most probable of its labels; all: as paper 000 scores, the most probable label of any
    dataset, and one of another dataset is a miss."""
    taxonomy: str | Taxonomy | None = None
    """A file of relations between the labels (`taxomix taxonomy`): what other datasets call a part of a label counts for that label when it
    is predicted. Losses do not know it. A run keeps its content."""
    merge: Merge = "probabilities"
    """How it counts. probabilities: they are added; logits: these are, as paper 000 has it, though what comes out depends on where the
    logits of other labels lie; winner: where the most probable label of all is a part of a label, that one is predicted."""

    def __post_init__(self) -> None:
        if isinstance(self.taxonomy, str):  # read where the job is started: its workers may not see the file
            object.__setattr__(self, "taxonomy", read_taxonomy(Path(self.taxonomy).expanduser()))

    def classifiers(self, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
        return {"all labels": tuple(f"{name}/{label}" for name, view in views.items() for label in view.names)}

    def terms(self, views: Mapping[str, View]) -> tuple[str, ...]:
        for name, view in views.items():
            self.parts(name, view, views)
        return super().terms(views)

    def parts(self, dataset: str, view: View, views: Mapping[str, View]) -> tuple[tuple[str, ...], ...]:
        """Of each class of a dataset's view the labels DATASET/LABEL of `views` that are a part of it, itself first where it is one of
        them. Raises InputError where the taxonomy has other labels of the dataset."""
        (every,) = self.classifiers(views).values()
        own = [(f"{dataset}/{label}",) for label in view.names]
        if not isinstance(self.taxonomy, Taxonomy) or dataset not in self.taxonomy.labels:
            return tuple(own)
        for label in view.names:
            if label not in self.taxonomy.labels[dataset]:
                known = ", ".join(self.taxonomy.labels[dataset])
                raise InputError(
                    f"taxonomy: labels.{dataset} without {label!r} found ({known}), expected those of view {view.name}; find the taxonomy "
                    "anew, of these labels"
                )
        return tuple(tuple(part for part in self.taxonomy.parts(name) if part in every) for (name,) in own)


class Concat(SharedDecoder):
    """One softmax over all labels. A leaf is DATASET/LABEL, whichever dataset the image is of.

    With a taxonomy a label of the image's dataset has all leaves that are a part of it. Other datasets' leaves that it is a part of say
    nothing against it, and do not compete with it.
    """

    def __init__(self, config: ConcatConfig, views: Mapping[str, View], network: Network) -> None:
        (self._leaves,) = config.classifiers(views).values()
        super().__init__(views, network, [len(self._leaves)])
        self._takes_all, self._merge = config.predict == "all", config.merge
        self._channels: dict[str, slice] = {}
        end = 0
        for name, view in views.items():
            self._channels[name] = slice(end, end + view.num_classes)
            end += view.num_classes
        self._label_leaves = {name: config.parts(name, view, views) for name, view in views.items()}
        taxonomy = config.taxonomy if isinstance(config.taxonomy, Taxonomy) else None
        self._parts = {} if taxonomy is None else {leaf: taxonomy.parts(leaf) for leaf in self._leaves if leaf in taxonomy.nodes}
        self._number = {name: number for number, name in enumerate(views)}
        self.merged = nn.ModuleList(_Merged(self._leaves, leaves, taxonomy) for leaves in self._label_leaves.values() if taxonomy)
        """By dataset; none without a taxonomy."""

    def losses(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], where: Where = NO_LIMIT, weights: Weights = EQUAL
    ) -> dict[str, LossTerm]:
        first = {name: channels.start for name, channels in self._channels.items()}
        wanted = {name: limited(labels[name], where, name, name) for name in logits}
        return {name: cross_entropy_term(logits[name], wanted[name], first[name], weights.get(name)) for name in logits}

    def leaves(self, dataset: str) -> tuple[str, ...]:
        return self._leaves

    def label_leaves(self, dataset: str) -> tuple[tuple[str, ...], ...]:
        return self._label_leaves[dataset]

    def leaves_named(self, name: str) -> tuple[str, ...]:
        return tuple(leaf for leaf in self._parts.get(name, (name,)) if leaf in self._leaves)

    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        return torch.log_softmax(at_least_float32(logits), dim=1)

    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        """`own`: the probability is that among the dataset's own labels, since it is known whose image it is."""
        return self._log_p(*self._scores(at_least_float32(logits), dataset))

    def _log_p(self, scores: Tensor, rivals: Tensor) -> Tensor:
        if not self._takes_all:
            return torch.log_softmax(scores, dim=1)
        return scores - torch.cat([scores, rivals], dim=1).logsumexp(dim=1, keepdim=True)

    def answer(self, logits: Tensor, dataset: str) -> Tensor:
        return self._scores(logits, dataset)[0].argmax(dim=1)

    def classify(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        scores, rivals = self._scores(at_least_float32(logits), dataset)
        log_p = self._log_p(scores, rivals)
        if self._merge == "winner" and self.merged:
            label = self._merged(dataset).label_of[logits.argmax(dim=1)]
            best = logits[:, self._channels[dataset]].argmax(dim=1)
            label = torch.where(label == NO_PART, best, label)
            if not self._takes_all:
                label = torch.where(label == RIVAL, best, label)
            is_own = label != RIVAL
            label = label.clamp(min=0)
            log_probability = log_p.gather(1, label[:, None])[:, 0]
        else:
            log_probability, label = log_p.max(dim=1)
            if not self._takes_all or not rivals.shape[1]:
                return label, log_probability
            is_own = scores.amax(dim=1) >= rivals.amax(dim=1)
        return label.masked_fill(~is_own, IGNORE_INDEX), log_probability.masked_fill(~is_own, -torch.inf)

    def _scores(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        """Logits (N, K, H, W) to those of the dataset's labels (N, K_d, H, W), and of the leaves that compete with all of them."""
        own = self._channels[dataset]
        if not self.merged:
            return logits[:, own], torch.cat([logits[:, : own.start], logits[:, own.stop :]], dim=1)
        merged = self._merged(dataset)
        rivals = logits.index_select(1, merged.rivals)
        if self._merge == "logits":
            return torch.einsum("kl,nlhw->nkhw", merged.matrix.to(logits.dtype), logits), rivals
        scores: Tensor = merged.table(logits)
        return scores, rivals

    def _merged(self, dataset: str) -> "_Merged":
        merged = self.merged[self._number[dataset]]
        assert isinstance(merged, _Merged)
        return merged


RIVAL, NO_PART = -1, -2
"""What a leaf is in place of a part of a label: one that speaks for none of them, or one that some label is a part of."""


class _Merged(nn.Module):
    """What the labels of one dataset consist of."""

    label_of: Tensor
    rivals: Tensor
    matrix: Tensor

    def __init__(self, leaves: tuple[str, ...], sets: tuple[tuple[str, ...], ...], taxonomy: Taxonomy) -> None:
        super().__init__()
        self.table = LeafTable(leaves, sets)
        whole = {name for parts in sets if parts[0] in taxonomy.nodes for name in taxonomy.wholes(parts[0])}
        label = {leaf: number for number, parts in enumerate(sets) for leaf in parts}
        label_of = [label.get(leaf, NO_PART if leaf in whole else RIVAL) for leaf in leaves]
        self.register_buffer("label_of", torch.tensor(label_of), persistent=False)
        self.register_buffer("rivals", (self.label_of == RIVAL).nonzero()[:, 0], persistent=False)
        matrix = torch.stack([self.label_of == number for number in range(len(sets))]).float()
        self.register_buffer("matrix", matrix, persistent=False)
