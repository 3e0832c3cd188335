"""Atoms, label spaces and the true relations between them.

An atom is the finest kind of thing that is drawn. A label is a set of atoms, so that two labels of different label
spaces relate exactly as their sets do. Taxonomies found from data are scored against `true_relations`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from data.errors import InputError
from data.labels import Label, LabelSpace
from data.streets.look import LOOKS, Look

RelationKind = Literal["equal", "subset", "superset", "overlap", "disjoint"]
"""What label_a is to label_b: "subset" says that every pixel of label_a is one of label_b, and label_b has others."""


@dataclass(frozen=True, kw_only=True)
class Atom:
    """The finest kind of thing that is drawn: `id` in a scene's atom map, `name`, RGB `color` for pictures."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class StreetSpace:
    """A label space together with what its labels mean.

    atoms: label name -> the ids of its atoms; no two labels share an atom.
    ignored: ids of atoms that label images give the ignored id; with boxes, atoms of no label are background instead.
    look: what its pictures look like.
    """

    label_space: LabelSpace
    atoms: Mapping[str, frozenset[int]]
    ignored: frozenset[int]
    look: Look

    def native_ids(self) -> np.ndarray:
        """(256,) uint8: atom id -> native id; the ignored id for ignored atoms, `void_id` for the background of boxes."""
        ignore_ids = self.label_space.ignore_ids
        table = np.full(256, ignore_ids[0] if ignore_ids else self.label_space.void_id, np.uint8)
        for label in self.label_space.classes:
            table[list(self.atoms[label.name])] = label.id
        return table


@dataclass(frozen=True)
class Relation:
    """`label_a` of one label space is `kind` of `label_b` of another."""

    label_a: str
    kind: RelationKind
    label_b: str


def label_space(space: str) -> LabelSpace:
    """The native labels of `space`, a key of `STREET_SPACES`."""
    return street_space(space).label_space


def street_space(space: str) -> StreetSpace:
    """Raises InputError for a name that is no key of `STREET_SPACES`."""
    if space not in STREET_SPACES:
        raise InputError(f"label space {space!r} of the drawn streets: not found, expected one of {', '.join(STREET_SPACES)}")
    return STREET_SPACES[space]


def native_ids(space: str) -> np.ndarray:
    """(256,) uint8: atom id -> native id of `space`. `native_ids(space)[scene.atoms]` is the label image."""
    return street_space(space).native_ids()


def atoms_of(space: str, label: str) -> frozenset[int]:
    """The ids of the atoms that `label` of `space` consists of."""
    atoms = street_space(space).atoms
    if label not in atoms:
        raise InputError(f"label {label!r} of {space}: not found, expected one of {', '.join(atoms)}")
    return atoms[label]


def relation(space_a: str, label_a: str, space_b: str, label_b: str) -> RelationKind:
    """What `label_a` of `space_a` is to `label_b` of `space_b`, from their sets of atoms alone.

    Atoms that one space ignores count as any other: a label is judged by all that it may cover in any picture.
    """
    a, b = atoms_of(space_a, label_a), atoms_of(space_b, label_b)
    if not a & b:
        return "disjoint"
    if a == b:
        return "equal"
    if a < b:
        return "subset"
    return "superset" if a > b else "overlap"


def true_relations(space_a: str, space_b: str) -> tuple[Relation, ...]:
    """All pairs of labels that are not disjoint, by the native ids of `space_a` and then of `space_b`."""
    pairs = [(a.name, b.name) for a in label_space(space_a).classes for b in label_space(space_b).classes]
    relations = (Relation(a, relation(space_a, a, space_b, b), b) for a, b in pairs)
    return tuple(found for found in relations if found.kind != "disjoint")


def _read_space(name: str, entry: Mapping[str, Any], atom_ids: Mapping[str, int]) -> StreetSpace:
    labels = tuple(Label(id=e["id"], name=e["name"], color=tuple(e["color"])) for e in entry["labels"])
    atoms = {e["name"]: frozenset(atom_ids[atom] for atom in e["atoms"]) for e in entry["labels"]}
    ignored = frozenset(atom_ids[atom] for atom in entry.get("ignored", ()))
    used = [atom for group in (*atoms.values(), ignored) for atom in group]
    if len(used) != len(set(used)):
        raise ValueError(f"labels.yaml: {name}: an atom is in several labels; a label space is a function of the atoms")
    if entry["supervision"] == "pixels" and set(used) != set(atom_ids.values()):
        raise ValueError(f"labels.yaml: {name}: an atom is in no label and not ignored")
    ignore_ids = (entry["ignore_id"],) if "ignore_id" in entry else ()
    space = LabelSpace(name=name, labels=labels, ignore_ids=ignore_ids, supervision=entry["supervision"])
    return StreetSpace(label_space=space, atoms=atoms, ignored=ignored, look=LOOKS[entry.get("look", "real")])


@cache
def _read() -> tuple[tuple[Atom, ...], dict[str, StreetSpace]]:
    entries = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text(encoding="utf-8"))
    atoms = tuple(Atom(id=i, name=e["name"], color=tuple(e["color"])) for i, e in enumerate(entries["atoms"]))
    atom_ids = {atom.name: atom.id for atom in atoms}
    return atoms, {name: _read_space(name, entry, atom_ids) for name, entry in entries["label_spaces"].items()}


ATOMS, STREET_SPACES = _read()
ATOM_IDS: dict[str, int] = {atom.name: atom.id for atom in ATOMS}
SIGN_FRONTS: tuple[str, ...] = tuple(ATOMS[i].name for i in sorted(set().union(*STREET_SPACES["streets_signs"].atoms.values())))
"""Names of the atoms that get boxes."""


def atom_palette() -> np.ndarray:
    """(256, 3) uint8 colours of atom ids, for pictures."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(ATOMS)] = [atom.color for atom in ATOMS]
    return palette
