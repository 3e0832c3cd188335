"""Regression test of each relation of a taxonomy (paper 000, 4.3.3): what it changes in the scores of a concatenation that predicts by it.

Needed is only which label the concatenation finds most probable at each pixel, counted image by image. So thousands of taxonomies can
be scored without the model; and how much images differ says how sure a change is.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import InputError
from data.files import atomic_write
from data.taxonomy.connections import Kind
from data.taxonomy.taxonomy import Taxonomy

VERSION = 1
"""Of winners.parquet."""

Among = Literal["own", "all"]

RIVAL, NO_PART = -1, -2
"""What a label of another dataset is in place of a part of one: nothing to do with any, or something that one is a part of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Winners:
    """What a concatenation says of the pixels of one dataset's images. Each entry counts the pixels of one image that are alike."""

    dataset: str
    labels: tuple[str, ...]
    """Of the dataset."""
    leaves: tuple[str, ...]
    """All labels of the concatenation, DATASET/LABEL."""
    images: tuple[str, ...]
    """Keys."""
    image: np.ndarray
    """(entries,) int32, as the next three: number of the image,"""
    truth: np.ndarray
    """of the true label,"""
    winner: np.ndarray
    """of the most probable label of all, out of `leaves`,"""
    own: np.ndarray
    """of the most probable label of the dataset, out of `labels`."""
    pixels: np.ndarray
    """(entries,) int64."""


def write_winners(path: Path, winners: Sequence[Winners]) -> None:
    """Write a Parquet file, atomically: a row for each entry, names in place of numbers."""
    datasets = {of.dataset: {"labels": of.labels, "images": of.images} for of in winners}
    about = {"version": VERSION, "leaves": winners[0].leaves, "datasets": datasets}
    tables = []
    for of in winners:
        names = {"image": of.images, "truth": of.labels, "winner": of.leaves, "own": of.labels}
        numbers = {"image": of.image, "truth": of.truth, "winner": of.winner, "own": of.own}
        columns: dict[str, Any] = {"dataset": pa.array([of.dataset] * len(of.pixels), pa.string())}
        columns |= {key: pa.array(np.array(names[key], object)[numbers[key]], pa.string()) for key in names}
        tables.append(pa.table({**columns, "pixels": of.pixels}))
    table = pa.concat_tables(tables).replace_schema_metadata({"taxomix": json.dumps(about)})
    with atomic_write(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_winners(path: Path) -> tuple[Winners, ...]:
    """Raises InputError, which names the file."""
    if not path.is_file():
        raise InputError(f"test={path}: no such file, expected a run or a winners.parquet; check the path")
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"taxomix"])
        if about["version"] != VERSION:
            raise InputError(f"{path}: version {about['version']} found, expected {VERSION}; collect them again: test=RUN")
        return tuple(_of_dataset(table, about, name) for name in about["datasets"])
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path") from None
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: no file of winners ({' '.join(str(error).split())}); collect them again: test=RUN") from None


def _of_dataset(table: pa.Table, about: Mapping[str, Any], dataset: str) -> Winners:
    rows = table.filter(pc.equal(table["dataset"], dataset))
    labels, images = (tuple(about["datasets"][dataset][key]) for key in ("labels", "images"))
    leaves = tuple(about["leaves"])

    def numbers(key: str, names: Sequence[str]) -> np.ndarray:
        number = {name: i for i, name in enumerate(names)}
        return np.array([number[name] for name in rows[key].to_pylist()], np.int32)

    return Winners(
        dataset=dataset,
        labels=labels,
        leaves=leaves,
        images=images,
        image=numbers("image", images),
        truth=numbers("truth", labels),
        winner=numbers("winner", leaves),
        own=numbers("own", labels),
        pixels=np.array(rows["pixels"].to_pylist(), np.int64),
    )


Parts = Mapping[str, frozenset[str]]
"""DATASET/LABEL -> the labels that are a part of it, itself included; one that is not there has no other part."""


def parts_of(taxonomy: Taxonomy) -> dict[str, frozenset[str]]:
    return {name: frozenset(taxonomy.parts(name)) for name in taxonomy.nodes}


def labels_of(leaves: Sequence[str], sets: Iterable[Iterable[str]], wholes: Collection[str]) -> list[int]:
    """For each leaf the number of the set that it is in, NO_PART for one that is only in `wholes`, RIVAL for the others."""
    label = {leaf: number for number, parts in enumerate(sets) for leaf in parts}
    return [label.get(leaf, NO_PART if leaf in wholes else RIVAL) for leaf in leaves]


def predictions(winners: Winners, parts: Parts, among: Among) -> np.ndarray:
    """(entries,): the label of the dataset that is predicted by `merge=winner` of a concatenation (models/outputs/concat.py); with
    all, the number of labels where that is a miss."""
    names = [f"{winners.dataset}/{label}" for label in winners.labels]
    wholes = {leaf for leaf in winners.leaves if any(name in parts.get(leaf, ()) for name in names)}
    sets = [parts.get(name, frozenset()) | {name} for name in names]
    label = np.array(labels_of(winners.leaves, sets, wholes))[winners.winner]
    miss = len(winners.labels) if among == "all" else winners.own
    return np.where(label == RIVAL, miss, np.where(label == NO_PART, winners.own, label))


def matrices(winners: Winners, parts: Parts, among: Among) -> np.ndarray:
    """(images, labels, labels + 1) float64: pixels of each image by true and predicted label, misses last."""
    size = len(winners.labels)
    place = (winners.image.astype(np.int64) * size + winners.truth) * (size + 1) + predictions(winners, parts, among)
    counts = np.bincount(place, weights=winners.pixels, minlength=len(winners.images) * size * (size + 1))
    return counts.reshape(-1, size, size + 1)


def mean_iou(matrix: np.ndarray) -> np.ndarray:
    """Of (..., labels, labels + 1) counts, over the labels with a true or a predicted pixel; NaN where there is none."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(axis=-1) + matrix.sum(axis=-2)[..., :-1] - hits
    iou = np.divide(hits, union, out=np.zeros(hits.shape), where=union > 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(iou.sum(axis=-1) / (union > 0).sum(axis=-1))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one relation changes on the images of one dataset, all others being there."""

    a: str
    kind: Kind
    b: str
    dataset: str
    miou: float
    """In 0..1, with the whole taxonomy."""
    change: float
    """Of it, by the relation: miou, less what it is without."""
    low: float
    high: float
    """Between these lie 95 % of the changes on images drawn anew out of the same ones."""

    @property
    def verdict(self) -> Literal["helps", "hurts", "open"]:
        return "helps" if self.low > 0 else "hurts" if self.high < 0 else "open"


def effects(taxonomy: Taxonomy, winners: Sequence[Winners], *, among: Among = "all", draws: int = 1000, seed: int = 0) -> Iterator[Effect]:
    """Of each relation on the images of each of its two datasets. Raises InputError where taxonomy and winners have other labels.

    Only the relation itself is taken away: what follows from it and another is in the taxonomy by itself, and is tested by itself.
    """
    known, whole = {of.dataset: of for of in winners if of.pixels.any()}, parts_of(taxonomy)
    if not set(known) & set(taxonomy.labels):
        raise InputError(
            f"test: pixels of {', '.join(known) or 'no dataset'} found, expected some of {', '.join(taxonomy.labels)}; name another run"
        )
    for of in winners:
        _check(taxonomy, of)
    weights = {name: _draws(of, draws, seed) for name, of in known.items()}
    base = {name: matrices(of, whole, among) for name, of in known.items()}
    for relation in taxonomy.relations:
        less = dict(whole)
        less[relation.b] = whole[relation.b] - {relation.a}
        if relation.kind == "equal":
            less[relation.a] = whole[relation.a] - {relation.b}
        for name in (relation.a, relation.b):
            dataset = name.split("/", 1)[0]
            if dataset not in known:
                continue
            of, before = known[dataset], base[dataset]
            if among == "own" and relation.kind == "subset" and dataset == relation.a.split("/", 1)[0]:
                continue  # among a dataset's own labels, what one of them is a part of is never asked
            after = matrices(of, less, among)
            miou, without = (float(mean_iou(matrix.sum(axis=0))) for matrix in (before, after))
            spread = _scores(before, weights[dataset]) - _scores(after, weights[dataset]) if (before != after).any() else np.zeros(1)
            low, high = np.nanpercentile(spread, [2.5, 97.5]).tolist()
            change = miou - without
            yield Effect(a=relation.a, kind=relation.kind, b=relation.b, dataset=dataset, miou=miou, change=change, low=low, high=high)


def score(winners: Sequence[Winners], parts: Parts, among: Among) -> dict[str, float]:
    """The mIoU of each dataset, in 0..1, where predictions go by `parts`."""
    return {of.dataset: float(mean_iou(matrices(of, parts, among).sum(axis=0))) for of in winners}


def _draws(winners: Winners, draws: int, seed: int) -> np.ndarray:
    """(draws, images): how often each image is drawn."""
    number = len(winners.images)
    return np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=draws).astype(float)


def _scores(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
    drawn = weights @ matrix.reshape(len(matrix), -1)
    return mean_iou(drawn.reshape(-1, *matrix.shape[1:]))


def _check(taxonomy: Taxonomy, winners: Winners) -> None:
    labels = taxonomy.labels.get(winners.dataset)
    if labels is not None and set(labels) != set(winners.labels):
        odd = sorted(set(labels) ^ set(winners.labels))[0]
        raise InputError(
            f"test: {winners.dataset}/{odd} found in one of taxonomy and concatenation only, expected the same labels in both; "
            "find the taxonomy anew, or name another run"
        )
