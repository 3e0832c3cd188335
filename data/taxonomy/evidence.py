"""What relations between label spaces are found from: how a model of one dataset answers on the images of another, in counts of pixels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError

VERSION = 1
"""Of confusions.json."""

Pair = tuple[str, str]
"""Dataset that the model was trained on, dataset of the images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Confusion matrices between datasets.

    Labels of all datasets are numbered through, dataset after dataset; their full names are DATASET/LABEL. Raises InputError for
    matrices that do not fit the labels, are negative, of unknown datasets, or all empty.
    """

    labels: Mapping[str, tuple[str, ...]]
    """Dataset -> names of its labels, as the view that was evaluated names them."""
    counts: Mapping[Pair, np.ndarray]
    """(model's dataset, images' dataset) -> (true labels of the images' dataset, predicted labels of the model's) int64, in pixels.
    Ignored pixels are in none. A pair that was not evaluated may be absent: what it would say is unknown then."""
    pixels: Mapping[Pair, int]
    """Pixels that were evaluated for each matrix: those in it, and those for which nothing was predicted."""
    own: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Dataset -> (true, predicted) int64, what its model says of its own images. Where it is absent, its mistakes are unknown."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise InputError(f"labels: {', '.join(self.labels) or 'no dataset'} found, expected two datasets or more; add one")
        for dataset, names in self.labels.items():
            _check_names(dataset, names)
        if not self.counts:
            raise InputError(f"counts: no matrix found, expected some between {', '.join(self.labels)}; evaluate the models")
        for pair in self.counts:
            self._check_matrix(pair)
        for dataset, matrix in self.own.items():
            size = len(self.labels.get(dataset, ()))
            if matrix.shape != (size, size) or matrix.dtype != np.int64 or np.any(matrix < 0):
                found = f"{matrix.dtype} {' x '.join(map(str, matrix.shape))}"
                raise InputError(
                    f"own.{dataset}: {found} found, expected int64 counts of pixels, 0 or more, of its {size} labels; evaluate again"
                )
        if unknown := [pair for pair in self.pixels if pair not in self.counts]:
            raise InputError(f"pixels: {_shown(unknown[0])} found, of which there is no matrix; remove it")
        if not any(matrix.any() for matrix in self.counts.values()):
            raise InputError("counts: no pixel in any matrix found, expected predictions on labelled images; evaluate the models")

    def _check_matrix(self, pair: Pair) -> None:
        what, (model, images) = f"counts: {_shown(pair)}", pair
        if model == images or not {model, images} <= set(self.labels):
            raise InputError(f"{what} found, expected two different datasets out of {', '.join(self.labels)}; mend the names")
        matrix = self.counts[pair]
        rows, columns = self.labels[images], self.labels[model]
        if matrix.shape != (len(rows), len(columns)):
            raise InputError(
                f"{what}: {' x '.join(map(str, matrix.shape))} found, expected {len(rows)} true labels of {images} ({_listed(rows)}) "
                f"x {len(columns)} predicted labels of {model} ({_listed(columns)}); evaluate again with these labels"
            )
        if matrix.dtype != np.int64:
            raise InputError(f"{what}: {matrix.dtype} found, expected int64 counts of pixels; convert them")
        if (matrix < 0).any():
            row, column = np.argwhere(matrix < 0)[0]
            raise InputError(
                f"{what}: {matrix[row, column]} pixels of {images}/{rows[row]} predicted as {model}/{columns[column]} found, "
                "expected 0 or more; evaluate again"
            )
        if pair not in self.pixels or self.pixels[pair] < matrix.sum():
            raise InputError(
                f"pixels: {self.pixels.get(pair, 'nothing')} for {_shown(pair)} found, expected at least the {matrix.sum()} of its matrix"
            )

    def only(self, datasets: Sequence[str]) -> "Evidence":
        """What there is between some of the datasets."""
        return Evidence(
            labels={name: self.labels[name] for name in datasets},
            counts={pair: matrix for pair, matrix in self.counts.items() if set(pair) <= set(datasets)},
            pixels={pair: number for pair, number in self.pixels.items() if set(pair) <= set(datasets)},
            own={name: matrix for name, matrix in self.own.items() if name in datasets},
        )

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Full names of all labels, in the order of their numbers."""
        return tuple(f"{dataset}/{name}" for dataset, names in self.labels.items() for name in names)

    @cached_property
    def spaces(self) -> np.ndarray:
        """(labels,) int64: the number of each label's dataset."""
        return np.repeat(np.arange(len(self.labels)), [len(names) for names in self.labels.values()])

    @cached_property
    def places(self) -> dict[str, slice]:
        """Dataset -> numbers of its labels."""
        ends = np.cumsum([len(names) for names in self.labels.values()]).tolist()
        return {name: slice(end - len(self.labels[name]), end) for name, end in zip(self.labels, ends, strict=True)}


def read_evidence(path: Path) -> Evidence:
    """That of a confusions.json, which `taxomix evaluate cross=true` and `taxomix taxonomy` write. Raises InputError, which names the
    file."""
    try:
        return evidence_of(json.loads(path.read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}, expected a file of confusion matrices; check the path") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: no file of confusion matrices ({' '.join(str(error).split())}); collect them again") from None


def evidence_of(content: Mapping[str, Any]) -> Evidence:
    """That in the content of a confusions.json."""
    if content["version"] != VERSION:
        raise InputError(f"version: {content['version']} found, expected {VERSION}; collect the matrices again")
    labels: dict[str, tuple[str, ...]] = {}
    counts, pixels, own = dict[Pair, np.ndarray](), dict[Pair, int](), dict[str, np.ndarray]()
    for entry in content["pairs"]:
        pair = entry["predictions_of"], entry["labels_of"]
        for dataset, names in zip(pair, (entry["predictions"], entry["labels"]), strict=True):
            if labels.setdefault(dataset, tuple(names)) != tuple(names):
                raise InputError(f"pairs: {_shown(pair)}: other labels of {dataset} than before found; collect them again, in one view")
        if pair[0] == pair[1]:
            own[pair[0]] = np.array(entry["counts"])
        else:
            counts[pair] = np.array(entry["counts"])
            pixels[pair] = int(counts[pair].sum()) + sum(entry["no_prediction"])
    return Evidence(labels=labels, counts=counts, pixels=pixels, own={name: of for name, of in own.items() if name in labels})


def _check_names(dataset: str, names: Sequence[str]) -> None:
    if "/" in dataset or not dataset.strip():
        raise InputError(f"labels: dataset {dataset!r} found, expected a name without '/'; rename it")
    if not names:
        raise InputError(f"labels.{dataset}: no label found, expected at least one; add it or leave the dataset out")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not all(name.strip() for name in names):
        raise InputError(f"labels.{dataset}: {twice[0] if twice else 'an empty name'!r} found, expected each label once; rename it")


def _shown(pair: Pair) -> str:
    return f"model of {pair[0]} on images of {pair[1]}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])}, ... {names[-1]}"
