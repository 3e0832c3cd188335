"""Label spaces over common leaves: for each label of each dataset, which leaves its pixels may be of.

A taxonomy found from data is written in this form, and the output space `universal` reads it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from data.config import build
from data.errors import InputError
from data.labels import LabelSpace, View

T = TypeVar("T")

Color = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Leaf:
    name: str
    color: Color | None = None
    """RGB; without it the leaf gets a colour of its own."""


@dataclass(frozen=True, kw_only=True)
class Universe:
    """The content of such a file."""

    version: Literal[1]
    leaves: tuple[Leaf, ...]
    """What pixels are told apart by, at the finest."""
    labels: dict[str, dict[str, tuple[str, ...]]]
    """Dataset -> label, as the view that is trained names it -> names of its leaves. A label without leaves says nothing about a
    pixel and is never predicted; one with all of them says nothing either. Labels of one dataset may share leaves."""

    def __post_init__(self) -> None:
        names = [leaf.name for leaf in self.leaves]
        if len(names) < 2:
            raise InputError(f"leaves: {len(names)} found, expected at least two; add them")
        check_unique(names, "leaves")
        check_colors({leaf.name: leaf.color for leaf in self.leaves if leaf.color is not None}, "leaves")
        for dataset, labels in self.labels.items():
            for label, leaves in labels.items():
                check_unique(leaves, f"labels.{dataset}.{label}")
                check_known(leaves, names, f"labels.{dataset}.{label}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(leaf.name for leaf in self.leaves)

    def leaves_of(self, dataset: str, view: View) -> tuple[tuple[str, ...], ...]:
        """The leaves of each class of a dataset's view. Raises InputError where the file lacks the dataset or one of the classes."""
        return tuple(tuple(leaves) for leaves in labels_of(self.labels, dataset, view))

    def view(self) -> View:
        """The leaves themselves as classes, for predictions and pictures that are of no dataset."""
        return leaf_view(self.names, [leaf.color for leaf in self.leaves])


FOLDER = Path(__file__).with_name("universes")


def read_universe(name: str) -> Universe:
    """The universe of that name that comes with the package, or of a YAML file. Raises InputError, which names the file."""
    return read_named(name, FOLDER, Universe)


def labels_of(labels: Mapping[str, Mapping[str, T]], dataset: str, view: View) -> list[T]:
    """What `labels` (dataset -> label -> something) has for each class of a view."""
    if dataset not in labels:
        raise InputError(
            f"outputs: no labels of {dataset} found, expected one of {', '.join(labels)}; add it to the file, or give for example "
            f"outputs.aliases={{{dataset}: {next(iter(labels), 'NAME')}}}"
        )
    missing = [name for name in view.names if name not in labels[dataset]]
    if missing:
        raise InputError(f"outputs: labels.{dataset} without {missing[0]!r} found, expected all of view {view.name}; add it to the file")
    return [labels[dataset][name] for name in view.names]


def check_aliases(aliases: Mapping[str, str], datasets: Iterable[str], labels: Mapping[str, object]) -> None:
    """Raise InputError for an alias of a dataset that is not in the job, or to one that is not in the file."""
    for name, other in aliases.items():
        if name not in datasets:
            raise InputError(f"outputs.aliases.{name}: no such dataset in data.mix, expected one of {', '.join(datasets)}; remove it")
        if other not in labels:
            raise InputError(f"outputs.aliases.{name}: {other} found, expected one of {', '.join(labels)}; mend the name")


def leaf_view(names: Sequence[str], colors: Sequence[Color | None]) -> View:
    classes = [{"id": i, "name": name, "color": color} for i, (name, color) in enumerate(zip(names, colors, strict=True))]
    return LabelSpace.from_dict({"name": "leaves", "classes": classes}, origin="leaves").view()


def check_unique(names: Sequence[str], key: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{key}: {twice[0]} found more than once, expected each name once; remove or rename one")


def check_known(names: Sequence[str], known: Sequence[str], key: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"{key}: {unknown[0]} found, which is defined nowhere in the file; mend the name")


def check_colors(colors: Mapping[str, Color], key: str) -> None:
    for name, color in colors.items():
        if not all(0 <= value <= 255 for value in color):
            raise InputError(f"{key}.{name}: colour {list(color)} found, expected three numbers in 0..255; mend it")


def read_named(name: str, folder: Path, cls: type[T]) -> T:
    """A `cls` of NAME.yaml in `folder`, or of the YAML file `name`. Raises InputError, which names the file, for whatever of it cannot
    be used."""
    shipped = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in shipped and not name.endswith((".yaml", ".yml")):
        raise InputError(f"outputs: {name!r} found, expected a .yaml file or one of {', '.join(shipped)}; mend the name")
    return read_file(folder / f"{name}.yaml" if name in shipped else Path(name).expanduser(), cls)


def read_file(path: Path, cls: type[T]) -> T:
    """A `cls` of a YAML file. Raises InputError, which names the file, for whatever of it cannot be used."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}, expected a YAML file; check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())}); mend the file") from None
    try:
        return build(cls, content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


class _StrictLoader(yaml.SafeLoader):
    """Tells of a key that is given twice: the second would silently replace the first. What a merge key (<<) brings may be replaced."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)
