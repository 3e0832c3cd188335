"""Street scenes drawn procedurally, the embedded default data set, in label spaces that disagree as real ones do."""

from data.streets.labels import (
    ATOM_IDS,
    ATOMS,
    SIGN_FRONTS,
    STREET_SPACES,
    Relation,
    StreetSpace,
    atom_palette,
    atoms_of,
    label_space,
    native_ids,
    relation,
    true_relations,
)
from data.streets.look import DEFAULT_LOOK, Look
from data.streets.scene import Scene, render

__all__ = [
    "ATOMS",
    "ATOM_IDS",
    "DEFAULT_LOOK",
    "SIGN_FRONTS",
    "STREET_SPACES",
    "Look",
    "Relation",
    "Scene",
    "StreetSpace",
    "atom_palette",
    "atoms_of",
    "label_space",
    "native_ids",
    "relation",
    "render",
    "true_relations",
]
