"""Datasets that a run was not trained on: which of its leaves their labels are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import FieldError, InputError
from data.labels import View
from data.taxonomy import Taxonomy
from data.universe import read_named
from models.outputs import OutputsConfig
from models.outputs.base import OutputSpace
from models.outputs.concat import ConcatConfig
from models.outputs.hierarchy import HierarchyConfig, HierarchySpace
from models.outputs.universal import UniversalConfig
from trainers.evaluation.readings import Sets


@dataclass(frozen=True, kw_only=True)
class Through:
    """The content of a table: labels of datasets as leaves of a run. A universe or a tree has the same section."""

    version: int
    labels: dict[str, dict[str, tuple[str, ...] | str | None]] = field(default_factory=dict)
    """Dataset -> label, as its view names it -> leaves of the run, nodes of its tree, or labels of the run's dataset that answers; null
    or none: its pixels are ignored."""

    def __post_init__(self) -> None:
        if self.version != 1:
            raise FieldError("version", f"{self.version} found, expected 1; mend the file")


def read_through(path: Path) -> Through:
    """Raises InputError, which names the file."""
    return read_named(str(path), Path(__file__).parent, Through)


def sets_of(
    outputs: OutputSpace, config: OutputsConfig, through: Through | None, dataset: str, view: View, head: str
) -> tuple[Sets, str | None]:
    """The leaves, in the logits of `head`, of each class of a dataset's view: by the table where it has the dataset; by the universe or
    tree of the run; else labels are those of `head` that have the same names. And the dataset of the tree whose labels they are, None
    where they are those of none.

    Raises InputError where they are not known.
    """
    if through is not None and dataset in through.labels:
        table = through.labels[dataset]
        _check_labels(table, dataset, view)
        return [_known(outputs, head, _as_tuple(table[name])) for name in view.names], None
    if isinstance(config, UniversalConfig | HierarchyConfig) and dataset in config.content.labels:
        return config.content.leaves_of(dataset, view), dataset
    if isinstance(config, ConcatConfig) and by_relations(config, through, dataset):
        return config.parts(dataset, view, outputs.views), None
    of_head = outputs.views[head].names
    if set(view.names) <= set(of_head):
        of_tree = outputs.of_tree[head] if isinstance(outputs, HierarchySpace) else None
        return [outputs.label_leaves(head)[of_head.index(name)] for name in view.names], of_tree
    unknown = next(name for name in view.names if name not in of_head)
    raise InputError(
        f"datasets.{dataset}: label {unknown!r} found, which is none of {head} ({', '.join(of_head)}); give through=FILE.yaml with what "
        "each label is"
    )


def by_relations(config: OutputsConfig, through: Through | None, dataset: str) -> bool:
    """Whether `sets_of` goes by the taxonomy of a concatenation."""
    in_table = through is not None and dataset in through.labels
    return not in_table and isinstance(config, ConcatConfig) and isinstance(config.taxonomy, Taxonomy) and dataset in config.taxonomy.labels


def _check_labels(table: Mapping[str, object], dataset: str, view: View) -> None:
    """Raise InputError unless the table has all labels of the view."""
    missing = [name for name in view.names if name not in table]
    if missing:
        others = [name for name in table if name not in view.names]
        found = f"{', '.join(map(repr, others))} found" if others else "nothing found"
        raise InputError(
            f"through: labels.{dataset}: {found}, expected {', '.join(map(repr, missing))} of view {view.name}, too; add them (null: they "
            "are ignored), or give views="
        )


def _known(outputs: OutputSpace, head: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Leaves or nodes as they are; for the name of a label of `head`, its leaves."""
    leaves = set(outputs.leaves(head)) | (set(outputs.tree.leaves_below) if isinstance(outputs, HierarchySpace) else set())
    found: list[str] = []
    for name in names:
        if name in leaves:
            found.extend(outputs.leaves_named(name))
        elif name in outputs.views[head].names:
            found.extend(outputs.label_leaves(head)[outputs.views[head].names.index(name)])
        else:
            raise InputError(f"through: {name!r} found, expected some of {', '.join(sorted(leaves))}; mend the table")
    return tuple(dict.fromkeys(found))


def _as_tuple(names: tuple[str, ...] | str | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names or ()
