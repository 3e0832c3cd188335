"""Label spaces whose true relations are known, and what models with faults would say of them."""

from dataclasses import dataclass

import numpy as np

from data.taxonomy.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Planted:
    evidence: Evidence
    below: np.ndarray
    """(labels, labels) bool: whether all things of label x are of label y; labels of one dataset only with themselves."""


def plant(
    seed: int,
    sizes: tuple[int, ...],
    *,
    confusion: float = 0.0,
    missing: float = 0.0,
    swapped: float = 0.0,
    left_out: float = 0.0,
    pixels: int = 10**8,
) -> Planted:
    """`sizes` labels for each dataset, each space a cut through one random tree of things whose sizes spread over three decades.

    confusion: the part of the predictions of each label, on average, that is wrong: half of that is truly of two labels, the rest of all
    as they are frequent. missing: the part of each dataset's labels whose things do not occur on its images; they are predicted there
    by mistake alone, and rarely. swapped: the part of the things that a dataset gives to another label than the tree does, so that
    labels overlap in part. left_out: the part of the labels that a dataset does not have: their things are ignored on its images, and
    never predicted by its model, so that labels of others have no counterpart.
    """
    generator = np.random.default_rng(seed)
    parents = _tree(generator, max(sizes) * 2)
    atoms = np.flatnonzero(~np.isin(np.arange(len(parents)), parents))
    mass = 10 ** generator.uniform(-3, 0, len(atoms))
    members = [_space(generator, parents, atoms, size, swapped) for size in sizes]
    names = [tuple(f"l{number}" for number in range(len(space))) for space in members]
    labels = {f"d{number}": of for number, of in enumerate(names)}
    counts, evaluated = {}, {}
    for m, model in enumerate(members):
        for d, images in enumerate(members):
            if m != d:
                matrix = _matrix(generator, model, images, mass, confusion, missing, pixels)
                counts[f"d{m}", f"d{d}"] = matrix
                evaluated[f"d{m}", f"d{d}"] = int(matrix.sum())
    kept = [np.sort(generator.permutation(size)[: max(1, round(size * (1 - left_out)))]) for size in sizes]
    places = dict(zip(labels, kept, strict=True))
    evidence = Evidence(
        labels={dataset: tuple(names[place] for place in places[dataset].tolist()) for dataset, names in labels.items()},
        counts={(m, d): matrix[places[d]][:, places[m]] for (m, d), matrix in counts.items()},
        pixels=evaluated,
    )
    every = np.concatenate([space[keep] for space, keep in zip(members, kept, strict=True)])
    below = ~(every[:, None] & ~every[None]).any(axis=-1)
    return Planted(evidence=evidence, below=below & ((evidence.spaces[:, None] != evidence.spaces) | np.eye(len(every), dtype=bool)))


def _tree(generator: np.random.Generator, leaves: int) -> np.ndarray:
    """The parent of each node, its own number for the root."""
    parents, open_nodes = [0], [0]
    while len(open_nodes) < leaves:
        node = open_nodes.pop(int(generator.integers(len(open_nodes))))
        for _ in range(int(generator.integers(2, 5))):
            open_nodes.append(len(parents))
            parents.append(node)
    return np.array(parents)


def _space(generator: np.random.Generator, parents: np.ndarray, atoms: np.ndarray, size: int, swapped: float) -> np.ndarray:
    """(size, atoms) bool: what each label consists of. Nodes are split from the root on until there are `size` of them."""
    under = np.zeros((len(parents), len(atoms)), bool)
    under[atoms, np.arange(len(atoms))] = True
    for node in range(len(parents) - 1, 0, -1):
        under[parents[node]] |= under[node]
    cut = [0]
    while len(cut) < size:
        inner = [node for node in cut if node not in atoms]
        node = inner[int(generator.integers(len(inner)))]
        children = np.flatnonzero((parents == node) & (np.arange(len(parents)) != node)).tolist()
        cut.remove(node)
        keep = min(len(children), size - len(cut))
        cut += children[:keep]
        for extra in children[keep:]:  # the last split may give too many: they stay together
            under[children[keep - 1]] |= under[extra]
    space = under[cut]
    for atom in np.flatnonzero(generator.random(len(atoms)) < swapped):
        if space[space[:, atom].argmax()].sum() > 1:  # no label loses its last thing
            space[:, atom] = np.arange(size) == generator.integers(size)
    return space


def _matrix(
    generator: np.random.Generator,
    model: np.ndarray,
    images: np.ndarray,
    mass: np.ndarray,
    confusion: float,
    missing: float,
    pixels: int,
) -> np.ndarray:
    """(labels of the images, labels of the model) int64."""
    shown = mass * ~images[generator.random(len(images)) < missing].any(axis=0)
    right = (images * shown) @ model.T.astype(float)  # true, predicted
    right /= right.sum()
    predicted = right.sum(axis=0)
    absent = predicted == 0
    predicted[absent] = 10 ** generator.uniform(-7, -4, absent.sum())
    part = np.where(absent, 1.0, np.minimum(confusion * generator.uniform(0, 2, len(model)), 1.0)) if confusion else np.zeros(len(model))
    wrong = 0.5 * np.repeat(right.sum(axis=1)[:, None], len(model), axis=1)
    for _ in range(2):
        wrong[generator.integers(len(images), size=len(model)), np.arange(len(model))] += 0.25
    mixed = (1 - part) * right / np.where(absent, 1.0, right.sum(axis=0)) + part * wrong
    return np.round(mixed * predicted * pixels).astype(np.int64)
