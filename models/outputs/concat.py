"""One softmax over the labels of all datasets side by side (paper 000)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import FieldError, InputError
from data.labels import IGNORE_INDEX, View
from data.taxonomy import Taxonomy, read_taxonomy
from data.taxonomy.hypotheses import NO_PART, RIVAL, Among, labels_of
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
    by_bands,
    channels_of,
    cross_entropy_term,
    every_label,
    limited,
)

Merge = Literal["probabilities", "logits", "winner"]


@dataclass(frozen=True, kw_only=True)
class ConcatConfig(OutputsConfigBase):
    """One softmax over every (dataset, label) (paper 000): the network learns the label and whose label it is."""

    name: Literal["concat"]
    predict: Among = "own"
    """For an image of a dataset, own: the most probable of its labels; all: as paper 000 scores, the most probable label of any
    dataset, and one of another dataset is a miss."""
    taxonomy: str | Taxonomy | None = None
    """A file of relations between the labels (`taxomix taxonomy`): what other datasets call a part of a label counts for that label when it
    is predicted. Losses against labels do not know it, the answers of a teacher do. A run keeps its content."""
    merge: Merge = "probabilities"
    """How it counts. probabilities: they are added; logits: these are, as paper 000 has it, though what comes out depends on where the
    logits of other labels lie; winner: where the most probable label of all is a part of a label, that one is predicted."""

    def __post_init__(self) -> None:
        if isinstance(self.taxonomy, str):  # read where the job is started: its workers may not see the file
            object.__setattr__(self, "taxonomy", read_taxonomy(Path(self.taxonomy).expanduser()))
        if self.merge != "probabilities" and self.taxonomy is None:
            raise FieldError("merge", f"{self.merge} found without a taxonomy, expected one; give taxonomy=FILE, or remove merge=")

    def classifiers(self, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
        return {"all labels": every_label(views)}

    def terms(self, views: Mapping[str, View]) -> tuple[str, ...]:
        self.all_parts(views)
        return super().terms(views)

    def all_parts(self, views: Mapping[str, View]) -> dict[str, tuple[tuple[str, ...], ...]]:
        """`parts` of each dataset. Raises InputError where the taxonomy has none of them."""
        if isinstance(self.taxonomy, Taxonomy) and not set(self.taxonomy.labels) & set(views):
            found, known = ", ".join(self.taxonomy.labels), ", ".join(views)
            raise InputError(f"taxonomy: labels of {found} found, expected some of {known}; find one for these datasets, or remove it")
        return {name: self.parts(name, view, views) for name, view in views.items()}

    def parts(self, dataset: str, view: View, views: Mapping[str, View]) -> tuple[tuple[str, ...], ...]:
        """Of each class of a dataset's view the labels DATASET/LABEL of `views` that are a part of it, itself first where it is one of
        them. Raises InputError where the taxonomy has other labels of the dataset."""
        every = every_label(views)
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
        self._leaves = every_label(views)
        super().__init__(views, network, [len(self._leaves)])
        self._takes_all, self._merge = config.predict == "all", config.merge
        self.averages_logits = config.merge == "logits"
        self._channels = channels_of(views)
        self._taxonomy = config.taxonomy if isinstance(config.taxonomy, Taxonomy) else None
        self._label_leaves = config.all_parts(views)
        self._number = {name: number for number, name in enumerate(views)}
        merged = [self.table(name, leaves) for name, leaves in self._label_leaves.items()] if self._taxonomy else []
        self.merged = nn.ModuleList(merged)
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
        known = self._taxonomy is not None and name in self._taxonomy.nodes
        return tuple(leaf for leaf in self._taxonomy.parts(name) if leaf in self._leaves) if self._taxonomy and known else (name,)

    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        return torch.log_softmax(at_least_float32(logits), dim=1)

    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        """`own`: the probability is that among the dataset's own labels, since it is known whose image it is."""
        return _log_p(*self._scores(at_least_float32(logits), dataset), self._takes_all)

    def predict_by_own_labels(self, logits: Tensor, dataset: str) -> Tensor:
        return logits[:, self._channels[dataset]].argmax(dim=1)

    def answer(self, logits: Tensor, dataset: str) -> Tensor:
        return self._scores(logits, dataset)[0].argmax(dim=1)

    def classify(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        logits = at_least_float32(logits)
        scores, rivals = self._scores(logits, dataset)
        merged = self._merged(dataset)
        best = logits[:, self._channels[dataset]].argmax(dim=1) if merged and self._merge == "winner" else None
        return _decide(logits, scores, rivals, merged, best, self._takes_all)

    def table(self, dataset: str, sets: Sequence[Sequence[str]]) -> LeafTable:
        if self._taxonomy is None:
            return super().table(dataset, sets)
        return Merged(self._leaves, sets, self._taxonomy).to(next(self.parameters()).device)

    def predict_through(self, logits: Tensor, dataset: str, table: LeafTable, *, foreign: bool = False) -> Tensor:
        """With a taxonomy labels are merged as those of the run are; `winner`: into the label with the most probable part."""
        if not isinstance(table, Merged):
            return super().predict_through(logits, dataset, table, foreign=foreign)

        def answer(band: Tensor) -> Tensor:
            band = at_least_float32(band)
            best = table.best(band) if self._merge == "winner" else None
            return _decide(band, *table.scores(band, self._merge), table, best, foreign)[0]

        return by_bands(answer, logits)

    def _scores(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        """Logits (N, K, H, W) to those of the dataset's labels (N, K_d, H, W), and of the leaves that compete with all of them."""
        merged, own = self._merged(dataset), self._channels[dataset]
        if merged is None:
            return logits[:, own], torch.cat([logits[:, : own.start], logits[:, own.stop :]], dim=1)
        return merged.scores(logits, self._merge)

    def _merged(self, dataset: str) -> "Merged | None":
        if not self.merged:
            return None
        merged = self.merged[self._number[dataset]]
        assert isinstance(merged, Merged)
        return merged


def _log_p(scores: Tensor, rivals: Tensor, takes_all: bool) -> Tensor:
    if not takes_all:
        return torch.log_softmax(scores, dim=1)
    return scores - torch.cat([scores, rivals], dim=1).logsumexp(dim=1, keepdim=True)


def _decide(
    logits: Tensor, scores: Tensor, rivals: Tensor, merged: "Merged | None", best: Tensor | None, takes_all: bool
) -> tuple[Tensor, Tensor]:
    """The labels (N, H, W) and their log-probabilities. With `best`, what is predicted where nothing that wins is a part of a label, by the
    winner; with `takes_all`, IGNORE_INDEX where a rival is better."""
    log_p = _log_p(scores, rivals, takes_all)
    if merged is not None and best is not None:
        label = merged.label_of[logits.argmax(dim=1)]
        label = torch.where((label == NO_PART) | ((label == RIVAL) & (not takes_all)), best, label)
        is_own = label != RIVAL
        label = label.clamp(min=0)
        log_probability = log_p.gather(1, label[:, None])[:, 0]
    else:
        log_probability, label = log_p.max(dim=1)
        if not takes_all or not rivals.shape[1]:
            return label, log_probability
        is_own = scores.amax(dim=1) >= rivals.amax(dim=1)
    return label.masked_fill(~is_own, IGNORE_INDEX), log_probability.masked_fill(~is_own, -torch.inf)


class Merged(LeafTable):
    """Labels as sets of the leaves of a concatenation, by a taxonomy."""

    label_of: Tensor
    """(L,) int64: the label that a leaf is a part of, NO_PART for one that some label is a part of, RIVAL for the others."""
    rivals: Tensor

    def __init__(self, leaves: Sequence[str], sets: Sequence[Sequence[str]], taxonomy: Taxonomy) -> None:
        super().__init__(leaves, sets)
        wholes = {whole for parts in sets for leaf in parts if leaf in taxonomy.nodes for whole in taxonomy.wholes(leaf)}
        self.register_buffer("label_of", torch.tensor(labels_of(leaves, sets, wholes)), persistent=False)
        self.register_buffer("rivals", (self.label_of == RIVAL).nonzero()[:, 0], persistent=False)

    def scores(self, logits: Tensor, merge: Merge) -> tuple[Tensor, Tensor]:
        """Logits (N, L, H, W) to those of the labels (N, K, H, W), -inf for one without leaves, and of the rivals."""
        rivals = logits.index_select(1, self.rivals)
        if merge != "logits" or not len(self.columns):
            return self(logits), rivals
        used = logits.index_select(1, self.columns)
        with torch.autocast(logits.device.type, enabled=False):
            sums = torch.einsum("kl,nlhw->nkhw", self.matrix.to(used.dtype), used)
        return sums.masked_fill(~self.matrix.any(dim=1)[None, :, None, None], -torch.inf), rivals

    def best(self, logits: Tensor) -> Tensor:
        """The label (N, H, W) with the most probable part."""
        return self.label_of[logits.masked_fill((self.label_of < 0)[None, :, None, None], -torch.inf).argmax(dim=1)].clamp(min=0)
