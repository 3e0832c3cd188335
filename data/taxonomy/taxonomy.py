"""A taxonomy: the relations between the labels of several datasets, with the evidence of each, and the file that holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from data.config import to_plain
from data.errors import FieldError, InputError
from data.files import write_text
from data.taxonomy.connections import THESIS as THESIS_RULES
from data.taxonomy.connections import Kind, Rules
from data.taxonomy.forest import Forest, LeavesConfig
from data.taxonomy.order import Order, close
from data.taxonomy.overrides import Overrides, resolve, why_broken
from data.universe import Color, Universe, read_file


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How the best set of relations is looked for."""

    method: Literal["exact", "greedy", "restarts"] = "exact"
    """exact: with a proof; greedy: best first; restarts: random orders, for two datasets (paper 000)."""
    seconds: float = 60.0
    """Of exact: after which it gives the best it has, with a bound."""
    num: int = 5000
    """Of restarts."""
    seed: int = 0
    """Of restarts."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise FieldError("seconds", f"{self.seconds:g} found, expected more than 0; mend it")
        if self.num < 1:
            raise FieldError("num", f"{self.num} found, expected 1 or more; mend it")


@dataclass(frozen=True, kw_only=True)
class TaxonomyConfig:
    """All that a taxonomy depends on besides the evidence and the overrides."""

    rules: Rules = field(default_factory=Rules)
    search: SearchConfig = field(default_factory=SearchConfig)
    leaves: LeavesConfig = field(default_factory=LeavesConfig)


THESIS = TaxonomyConfig(rules=THESIS_RULES, search=SearchConfig(method="restarts"), leaves=LeavesConfig(singletons=False))
"""As in paper 000, by its words."""

Mode = Literal["default", "thesis", "custom"]

MODES: dict[Mode, TaxonomyConfig] = {"default": TaxonomyConfig(), "thesis": THESIS}


def mode_of(config: TaxonomyConfig) -> Mode:
    """What a file calls it; custom: none of `MODES`."""
    return next((mode for mode, of in MODES.items() if of == config), "custom")


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Label `a` is `kind` of label `b`, both DATASET/LABEL."""

    a: str
    kind: Kind
    b: str
    score: float
    """What it is worth by the rules; negative: it follows from others, against the evidence."""
    share_a: float | None
    """Of the pixels predicted as a on images of b's dataset, the part that is truly b; null: not evaluated, or too few pixels."""
    share_b: float | None
    """The same with a and b in each other's place."""
    pixels_a: int
    """Pixels predicted as a that are truly b."""
    pixels_b: int


@dataclass(frozen=True, kw_only=True)
class Chosen(Relation):
    """A relation of the taxonomy."""

    origin: Literal["evidence", "implied", "forced"]
    """Why it is there. implied: the evidence alone would not give it, or gives another kind, but it follows from others."""


@dataclass(frozen=True, kw_only=True)
class Rejected(Relation):
    """A relation that the evidence speaks for, and that is not in the taxonomy."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the search can say of its result."""

    status: Literal["optimal", "time limit", "heuristic"]
    worth: float
    """Sum of the scores of all relations."""
    bound: float | None
    """No set of relations is worth more; null: not known."""
    gap: float | None
    """bound - worth."""


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """The content of a taxonomy file. All relations are listed, those that follow from others included."""

    version: Literal[1]
    mode: Mode
    config: TaxonomyConfig
    outcome: Outcome
    labels: dict[str, tuple[str, ...]]
    """Dataset -> its labels."""
    relations: tuple[Chosen, ...]
    rejected: tuple[Rejected, ...]
    overrides: Overrides

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise InputError(f"labels: {', '.join(self.labels) or 'no dataset'} found, expected two datasets or more")
        if len(set(self.nodes)) < len(self.nodes):
            raise InputError("labels: a label found twice, expected each once in its dataset; mend the names")
        for key, relations in (("relations", self.relations), ("rejected", self.rejected)):
            for relation in relations:
                for name in (relation.a, relation.b):
                    if name not in self.nodes:
                        raise InputError(f"{key}: label {name!r} found, expected DATASET/LABEL of `labels`; mend the name")
        order, direct = self.order, self._direct
        broken = order.broken()
        if broken is not None:
            raise InputError(f"relations: {why_broken(broken, self.nodes)}; change relations by overrides, and build the file anew")
        missing = np.argwhere(order.below & ~direct)
        if len(missing):
            a, b = (self.nodes[number] for number in missing[0].tolist())
            raise InputError(f"relations: {a} in {b} follows from others but is not listed; change relations by overrides, and build anew")
        both = [f"{r.a} < {r.b}" for r in self.relations if r.kind == "subset" and direct[self._numbers[r.b], self._numbers[r.a]]]
        if both:
            raise InputError(f"relations: {both[0]} found, in a circle; change relations by overrides, and build the file anew")
        resolve(self.overrides, self.nodes, self._spaces)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        return tuple(f"{dataset}/{name}" for dataset, names in self.labels.items() for name in names)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.nodes)}

    @cached_property
    def _spaces(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.labels)), [len(names) for names in self.labels.values()])

    @cached_property
    def _direct(self) -> np.ndarray:
        """(labels, labels) bool: below, as the relations say it one by one."""
        below = np.eye(len(self.nodes), dtype=bool)
        for relation in self.relations:
            a, b = self._numbers[relation.a], self._numbers[relation.b]
            below[a, b] = True
            below[b, a] |= relation.kind == "equal"
        return below

    @cached_property
    def order(self) -> Order:
        return Order(below=close(self._direct), spaces=self._spaces)

    def parts(self, name: str) -> tuple[str, ...]:
        """The labels DATASET/LABEL that are a part of one, or equal to it; itself first."""
        return self._related(name, self.order.below[:, self._numbers[name]])

    def wholes(self, name: str) -> tuple[str, ...]:
        """The labels that one is a part of, or equal to; itself first."""
        return self._related(name, self.order.below[self._numbers[name]])

    def _related(self, name: str, which: np.ndarray) -> tuple[str, ...]:
        return (name, *(self.nodes[number] for number in which.nonzero()[0].tolist() if self.nodes[number] != name))

    @cached_property
    def forest(self) -> Forest:
        return Forest(order=self.order, nodes=self.nodes)

    def universe(self, *, colors: Mapping[str, Color] | None = None) -> Universe:
        """The universal classes with each label's leaves, which `outputs=universal` reads; see `Forest.universe`."""
        return self.forest.universe(self.config.leaves, colors=colors)


def write_taxonomy(path: Path, taxonomy: Taxonomy) -> None:
    """Write a YAML file, atomically."""
    write_text(path, _yaml(to_plain(taxonomy)))


def read_taxonomy(path: Path) -> Taxonomy:
    """Raises InputError, which names the file."""
    return read_file(path, Taxonomy)


def write_universe(path: Path, universe: Universe) -> None:
    """Write a YAML file, atomically, as `outputs.universe=FILE` reads it."""
    content = to_plain(universe)
    for leaf in content["leaves"]:
        if leaf["color"] is None:
            del leaf["color"]
    write_text(path, _yaml(content))


def _yaml(content: object) -> str:
    return yaml.dump(content, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True, width=140, default_flow_style=None)
