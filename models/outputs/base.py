"""Output spaces: what a network's logits mean, and the only place that knows how datasets share them.

An output space turns features into logits for each dataset, gives the losses of those logits against the datasets' labels, and says what
they predict. Trainers speak to this interface alone. All five are one idea: the logits are distributions over leaves, and a label is a set
of leaves. So each can be asked about the labels of any dataset, once it is said which leaves these are (`table`, `predict_through`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.labels import IGNORE_INDEX, View
from models.networks.base import Features, Network
from models.outputs.set_loss import bands


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss on one rank: `total` summed over `count` pixels (scalars on the device), and its weight.

    The step divides by the count of all ranks, so that the gradient does not depend on how samples were dealt. With L the quotient and
    s the `log_variance`, a parameter, the term adds weight * (exp(-s) * L + s) to what is minimised (Kendall et al. 2018), and nothing
    where no rank has a pixel; without s, weight * L.
    """

    total: Tensor
    count: Tensor
    weight: float = 1.0
    log_variance: Tensor | None = None

    @property
    def weighted(self) -> Tensor:
        """The total times all that it is multiplied by."""
        return self.total * self.weight if self.log_variance is None else self.total * (self.weight * torch.exp(-self.log_variance))

    def offset(self, global_count: Tensor) -> Tensor:
        """What is added besides, the same on every rank: the more a term is discounted, the more, so that none is discounted to nothing."""
        if self.log_variance is None:
            return torch.zeros_like(self.total)
        return self.weight * self.log_variance * (global_count > 0)


Where = Mapping[str, Mapping[str, Tensor]]
"""Dataset -> term of the loss -> (N_d, H, W) bool: the labelled pixels that count in the term; all where none is given."""

NO_LIMIT: Where = {}

Weights = Mapping[str, Tensor]
"""Dataset -> (N_d, H, W) float: what the loss of each labelled pixel is multiplied by; 1 where none is given. Counts do not know it."""

EQUAL: Weights = {}

LevelRule = Literal["parent", "path"]


@dataclass(frozen=True, kw_only=True)
class OutputsConfigBase(ABC):
    """What the configs of all output spaces answer."""

    shares_labels: ClassVar[bool] = False
    """Whether labels of one dataset teach what those of another are, so that a dataset without labels can be predicted."""

    has_levels: ClassVar[bool] = False
    """Whether some terms of the loss are about parts of what others decide, so that `OutputSpace.decided` has something to say."""

    def terms(self, views: Mapping[str, View]) -> tuple[str, ...]:
        """The names of the terms that `losses` will have. Raises InputError where the output space does not know a class of a view."""
        return tuple(views)

    @abstractmethod
    def classifiers(self, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
        """What each classifier is called and decides between, in their order: those of two jobs are the same where both are."""

    def silent(self, dataset: str, view: View) -> tuple[str, ...]:
        """The classes of a dataset's view that teach nothing. Raises InputError where the output space does not know one of the view."""
        return ()

    def notes(self, views: Mapping[str, View]) -> Iterator[str]:
        """What is worth knowing before training with these views, though it can be done."""
        yield from ()


class OutputSpace(nn.Module, ABC):
    """The interface. `views` says which classes each dataset of the job has."""

    def __init__(self, views: Mapping[str, View], terms: Sequence[str] | None = None) -> None:
        super().__init__()
        self.views = dict(views)
        self.terms = tuple(views if terms is None else terms)
        """The names of the terms that `losses` gives for all datasets."""
        self.averages_logits = False
        """Whether several looks at an image have to be averaged as logits, since predictions are not those of the probabilities."""

    def forward(self, features: Features, rows: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """The encoder's features of N images and, per dataset, the rows (N_d,) of its samples, to its logits (N_d, K, *size).

        Every dataset of `rows` is in the result, N_d = 0 included: its parameters then get zero gradients, so that a rank
        without a sample of some dataset takes part in every collective.
        """
        return self.logits_of(self.decode(features), rows, size)

    @abstractmethod
    def decode(self, features: Features) -> Features:
        """The encoder's features of N images to what all datasets share: the first half of `forward`."""

    @abstractmethod
    def logits_of(self, decoded: Features, rows: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """The second half of `forward`."""

    @torch.no_grad()
    def foreign_logits(self, decoded: Features, index: Tensor, size: tuple[int, int], dataset: str, own: Tensor) -> Tensor:
        """Logits (N_d, K, *size) that `answer` understands for `dataset`, of images `index` (N_d,) of another dataset whose own are `own`.

        Parts of `dataset` are asked as in evaluation: they learn nothing of these images, keep no statistic of them and wait for no rank.
        """
        with evaluating(self):
            return self.logits_of(decoded, {dataset: index}, size)[dataset]

    @abstractmethod
    def losses(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], where: Where = NO_LIMIT, weights: Weights = EQUAL
    ) -> dict[str, LossTerm]:
        """Logits (N_d, K, H, W) and class indices of its view (N_d, H, W) int64, IGNORE_INDEX where unknown, of each dataset,
        to the terms of the loss by name, the same on every rank that gives the same datasets; no pixel to learn from gives (0, 0)."""

    def mixed_losses(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: Weights = EQUAL) -> dict[str, LossTerm]:
        """`losses` of pictures that are put together from those of several datasets, so that no pixel has labels of two."""
        return self.losses(logits, labels, weights=weights)

    def taught(self, labels: Tensor, dataset: str) -> dict[str, Tensor]:
        """Class indices (N_d, H, W) of a dataset to the pixels, bool, that they teach each term with, where `where` limits none."""
        return {dataset: labels != IGNORE_INDEX}

    def decided(self, logits: Tensor, dataset: str, rule: LevelRule) -> dict[str, Tensor]:
        """For each term which that dataset teaches and which is about parts of something: where (N_d, H, W) bool the logits say that
        a pixel is that very thing. parent: by the decision one level up alone; path: by all decisions from the root on.

        None where terms are about everything.
        """
        return {}

    @abstractmethod
    def leaves(self, dataset: str) -> tuple[str, ...]:
        """What the logits of a dataset are distributions over."""

    def label_leaves(self, dataset: str) -> tuple[tuple[str, ...], ...]:
        """The leaves of each class of a dataset's view; by default each class is the leaf DATASET/CLASS."""
        return tuple((f"{dataset}/{name}",) for name in self.views[dataset].names)

    def leaves_named(self, name: str) -> tuple[str, ...]:
        """The leaves that the name of a leaf stands for: itself, or all that are known to be a part of it."""
        return (name,)

    @abstractmethod
    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        """Logits (N_d, K, H, W) to log-probabilities (N_d, L, H, W), at least float32, of `leaves(dataset)`."""

    def as_logits(self, log_p: Tensor, dataset: str) -> Tensor:
        """Log-probabilities (N_d, L, H, W) of `leaves(dataset)` to logits (N_d, K, H, W) that say the same: those of several views of an
        image are averaged as probabilities, and all that is asked of logits can be asked of the mean."""
        return log_p

    @abstractmethod
    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        """Logits (N_d, K, H, W) to log-probabilities of the classes of the dataset's view, at least float32; in all they may be less
        than 1, where there is something else to be."""

    def classify(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        """`pseudo_labels` of a band of rows, with log-probabilities (N_d, H, W)."""
        log_probability, classes = self.class_log_probabilities(logits, dataset).max(dim=1)
        return classes, log_probability

    def predict_band(self, logits: Tensor, dataset: str) -> Tensor:
        """`predict` of a band of rows, where no probability is asked for."""
        return self.classify(logits, dataset)[0]

    def predict(self, logits: Tensor, dataset: str) -> Tensor:
        """Logits (N_d, K, H, W) to class indices of the dataset's view, (N_d, H, W) int64; IGNORE_INDEX where none of them is
        predicted, which evaluation counts as a miss."""
        return by_bands(lambda band: self.predict_band(band, dataset), logits)

    def predict_by_own_labels(self, logits: Tensor, dataset: str) -> Tensor:
        """`predict`, for evidence of how labels are related: what only the dataset's own labels say, whatever is known of relations."""
        return self.predict(logits, dataset)

    def answer(self, logits: Tensor, dataset: str) -> Tensor:
        """`predict`, for a decision about training: what only other datasets have a label for never takes part."""
        return self.predict(logits, dataset)

    def pseudo_labels(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        """Logits (N_d, K, H, W) to the predicted classes (N_d, H, W) int64 and their probabilities (N_d, H, W) float32."""
        classes, confidence = [], []
        for rows in bands(logits):
            predicted, log_probability = self.classify(logits[:, :, rows], dataset)
            classes.append(predicted)
            confidence.append(log_probability.exp())
        return torch.cat(classes, dim=1), torch.cat(confidence, dim=1)

    def table(self, dataset: str, sets: Sequence[Sequence[str]]) -> "LeafTable":
        """What labels of any label space are in the logits of `dataset`: `sets[i]` names the leaves of label i. Raises InputError for
        a leaf that is none."""
        return LeafTable(self.leaves(dataset), sets).to(next(self.parameters()).device)

    def predict_through(self, logits: Tensor, dataset: str, table: "LeafTable", *, foreign: bool = False) -> Tensor:
        """Logits (N_d, K, H, W) of `dataset` to labels of `table` (N_d, H, W) int64: to the one that is most probable.

        With `foreign`, leaves of none of the labels take part, each by itself; where one is the most probable, the answer is
        IGNORE_INDEX.
        """

        def answer(band: Tensor) -> Tensor:
            log_p = self.leaf_log_probabilities(band, dataset)
            best, label = table(log_p).max(dim=1)
            if foreign and len(table.others):
                label = label.masked_fill(log_p[:, table.others].amax(dim=1) > best, IGNORE_INDEX)
            return label

        return by_bands(answer, logits)


class LeafTable(nn.Module):
    """Labels as sets of leaves: log-probabilities of leaves to those of labels."""

    matrix: Tensor
    columns: Tensor
    others: Tensor
    single: Tensor | None
    """(K,): the leaf of each label, where each has one of its own."""

    def __init__(self, leaves: Sequence[str], sets: Sequence[Sequence[str]]) -> None:
        super().__init__()
        number = {leaf: i for i, leaf in enumerate(leaves)}
        unknown = [leaf for names in sets for leaf in names if leaf not in number]
        if unknown:
            raise InputError(f"leaf {unknown[0]!r} found, expected one of {', '.join(leaves)}; mend the table")
        matrix = torch.zeros(len(sets), len(leaves))
        for label, names in enumerate(sets):
            matrix[label, [number[leaf] for leaf in names]] = 1
        columns = matrix.any(dim=0)
        self.register_buffer("columns", columns.nonzero()[:, 0], persistent=False)
        self.register_buffer("others", (~columns).nonzero()[:, 0], persistent=False)
        self.register_buffer("matrix", matrix[:, columns], persistent=False)
        each_has_one = all(len(set(names)) == 1 for names in sets)
        self.register_buffer("single", matrix.argmax(dim=1) if each_has_one else None, persistent=False)
        self.keeps_all = each_has_one and [names[0] for names in sets] == list(leaves)
        """Whether labels are the leaves themselves."""

    def forward(self, log_p: Tensor) -> Tensor:
        """(N, L, H, W) to (N, K, H, W); -inf for a label without leaves."""
        if self.single is not None:
            return log_p if self.keeps_all else log_p.index_select(1, self.single)
        if not len(self.columns):
            return log_p.new_full((log_p.shape[0], len(self.matrix), *log_p.shape[2:]), -torch.inf)
        return summed(log_p.index_select(1, self.columns), self.matrix)


def summed(log_p: Tensor, matrix: Tensor) -> Tensor:
    """Log-probabilities (N, L, H, W) to those of sums of them (N, K, H, W): `matrix` (K, L) has a 1 for each that is in one."""
    largest = log_p.amax(dim=1, keepdim=True)
    shares = (log_p - largest).exp()
    with torch.autocast(log_p.device.type, enabled=False):
        sums = torch.matmul(matrix.to(shares.dtype), shares.flatten(2)).view(log_p.shape[0], len(matrix), *log_p.shape[2:])
    return sums.log() + largest


class SharedDecoder(OutputSpace):
    """An output space whose logits are the same for all datasets: one decoder, and on it one classifier or several in a row."""

    def __init__(self, views: Mapping[str, View], network: Network, num_outputs: Sequence[int], terms: Sequence[str] | None = None) -> None:
        super().__init__(views, terms)
        self.decoder = network.make_decoder(max(num_outputs))
        self.classifiers = nn.ModuleList(network.make_classifier(self.decoder, number) for number in num_outputs)
        self._upsample = network.upsample

    def decode(self, features: Features) -> Features:
        decoded: Features = self.decoder(features)
        return decoded

    def logits_of(self, decoded: Features, rows: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        logits = torch.cat([classifier(decoded) for classifier in self.classifiers], dim=1)
        shown: dict[int, Tensor] = {}  # datasets of the very same rows, as in pictures mixed of two, share what is enlarged
        for index in rows.values():
            if id(index) not in shown:
                shown[id(index)] = self._upsample(logits[index], select(decoded, index), size)
        return {name: shown[id(index)] for name, index in rows.items()}

    def foreign_logits(self, decoded: Features, index: Tensor, size: tuple[int, int], dataset: str, own: Tensor) -> Tensor:
        return own.detach()


def every_label(views: Mapping[str, View]) -> tuple[str, ...]:
    """DATASET/LABEL, dataset after dataset."""
    return tuple(f"{name}/{label}" for name, view in views.items() for label in view.names)


def channels_of(views: Mapping[str, View]) -> dict[str, slice]:
    """Where the labels of each dataset lie among `every_label`."""
    ends = accumulate((view.num_classes for view in views.values()), initial=0)
    return {name: slice(*bounds) for name, bounds in zip(views, pairwise(ends), strict=True)}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and afterwards for each part the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def never_predicted(view: View, leaves: Sequence[Sequence[str]]) -> Iterator[str]:
    """Labels that are never the most probable, each as a text: all their leaves are those of another label of the view, too."""
    sets = [frozenset(names) for names in leaves]
    for i, mine in enumerate(sets):
        larger = [j for j, other in enumerate(sets) if mine < other or (mine == other and j < i)]
        if mine and larger:
            yield f"{view.names[i]} is never predicted: all its leaves are of {view.names[larger[0]]} too"


def by_bands(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """What `function` makes of logits (N, K, H, W), some rows at a time: (N, H, W)."""
    return torch.cat([function(logits[:, :, rows]) for rows in bands(logits)], dim=1)


def select(features: Features, index: Tensor) -> Features:
    """The rows `index` (N_d,) of each map."""
    return tuple(feature[index] for feature in features)


def limited(labels: Tensor, where: Where, dataset: str, term: str) -> Tensor:
    """Class indices (N_d, H, W) of a dataset, IGNORE_INDEX where they do not count in a term."""
    mask = where.get(dataset, {}).get(term)
    return labels if mask is None else labels.masked_fill(~mask, IGNORE_INDEX)


def at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def cross_entropy_term(logits: Tensor, labels: Tensor, first: int = 0, weights: Tensor | None = None) -> LossTerm:
    """Of logits (N, K, H, W) against class indices (N, H, W) int64, whose class 0 is channel `first`; with weights (N, H, W)."""
    reduction = "sum" if weights is None else "none"
    loss = nn.functional.cross_entropy(at_least_float32(logits), labels + first, ignore_index=IGNORE_INDEX + first, reduction=reduction)
    return LossTerm(loss if weights is None else (loss * weights).sum(), (labels != IGNORE_INDEX).sum())
