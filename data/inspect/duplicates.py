"""Which pictures are the same, to the pixel or nearly, without comparing each with each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

ALIKE = 0.1
"""Two pictures are nearly the same when their thumbnails differ by less than this part of their contrast: root mean square of the
difference, apart from brightness, over standard deviation. Measured on four sets: the same picture scaled to half and saved as a
poor JPEG 0.01 to 0.03 (at most 0.07), frames of a driving video 1/15 s apart mostly below 0.1, frames 1 s apart about 0.3,
pictures of one street in two splits 0.37 and more. A copy whose border is cut by more than 1 % is not found."""
LEAST_CONTRAST = 4.0
"""Pictures of less contrast (in grey levels) look like each other whatever they show."""
UNLIKE, QUITE_UNLIKE = 0.2, 1.0
"""The same measure, for pictures that cannot share a label image: to the pixel, or nearly."""
CANDIDATES = 512
"""With how many neighbours in the order of nearest_twins a sample is compared, at most."""
MEMBERS = 32
"""With how many of those that have the same label at some places."""
AGREE, AGREE_BY_CLASS, LARGE = 0.98, 0.9, 0.01
"""Label images are nearly the same when so many of their places agree, and so much of each class that covers LARGE of them."""
PLACES, DRAWS = 24, 8
"""Two label images that agree in 0.98 of the places are compared with a probability of 1 - (1 - 0.98**24)**8 = 0.9995."""


def same_groups(hashes: Sequence[bytes | None]) -> list[list[int]]:
    """Groups of two and more samples whose hash is the same; None is like no other."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for sample, value in enumerate(hashes):
        if value is not None:
            groups[value].append(sample)
    return [group for group in groups.values() if len(group) > 1]


def nearest_twins(thumbs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each of (N, T) thumbnails the most alike one of another group, -1 where none is alike: (N,) int64.

    Sorted by their first principal component, alike thumbnails are neighbours: their distance bounds how far they lie apart
    in that order. So each is held against some neighbours only, N log N in all.
    """
    count, width = thumbs.shape
    twins = np.full(count, -1, np.int64)
    values = thumbs - thumbs.mean(axis=1, keepdims=True, dtype=np.float32)
    contrast = values.std(axis=1)
    usable = np.flatnonzero(contrast >= LEAST_CONTRAST)
    if len(usable) < 2:
        return twins
    values -= values[usable].mean(axis=0)
    _, axes = np.linalg.eigh(values[usable].T @ values[usable])
    along = values @ axes[:, -1]
    order = usable[np.argsort(along[usable], kind="stable")]
    sorted_along = along[order]
    reach = ALIKE * contrast * np.sqrt(width)  # a root mean square over `width` places, as a length
    starts = np.searchsorted(sorted_along, along - reach, side="left")
    ends = np.searchsorted(sorted_along, along + reach, side="right")
    for place, sample in enumerate(order):
        near = order[max(starts[sample], place - CANDIDATES // 2) : min(ends[sample], place + CANDIDATES // 2)]
        near = near[groups[near] != groups[sample]]
        if len(near):
            difference = np.sqrt(np.mean((values[near] - values[sample]) ** 2, axis=1)) / np.minimum(contrast[near], contrast[sample])
            best = int(np.argmin(difference))
            if difference[best] < ALIKE:
                twins[sample] = near[best]
    return twins


def differences(thumbs: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How much each of (N, T) thumbnails differs from `other` (T,), apart from brightness, as a part of the lower contrast of the two.

    (N,) float32; 0: the same; above 1: they have nothing in common.
    """
    a, b = thumbs.astype(np.float32), other.astype(np.float32)
    return (a - b).std(axis=1) / np.maximum(np.minimum(a.std(axis=1), b.std()), LEAST_CONTRAST)


def same_labels(hashes: Sequence[bytes | None], pictures: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of samples with the same label image whose pictures, (N, T) thumbnails, are another."""
    return [
        (sample, int(other))
        for sample, near in _neighbours(same_groups(hashes))
        for other in near[differences(pictures[near], pictures[sample]) > UNLIKE]
    ]


def label_twins(labels: np.ndarray, pictures: np.ndarray, *, is_class: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of samples whose (N, P) label thumbnails agree, class by class, while their pictures have nothing in common.

    Only those are compared that are equal at some places drawn at random, which two that agree most likely are in one draw
    of several. The places are drawn where the labels of the dataset vary, or all streets would be held against all streets.
    `is_class` (256,) bool: ids that count.
    """
    count, width = labels.shape
    most = np.array([np.bincount(labels[:, place]).max() for place in range(width)])
    varying = 1.0 - most / count
    if np.count_nonzero(varying) < PLACES:
        return []
    generator = np.random.default_rng(0)
    pairs: set[tuple[int, int]] = set()
    for _ in range(DRAWS):
        places = generator.choice(width, PLACES, replace=False, p=varying / varying.sum())
        for sample, near in _neighbours(same_groups([row.tobytes() for row in labels[:, places]])):
            close = near[(labels[near] == labels[sample]).mean(axis=1) >= AGREE]
            close = close[differences(pictures[close], pictures[sample]) > QUITE_UNLIKE]
            pairs |= {(sample, int(other)) for other in close}
    return sorted(pair for pair in pairs if agreement(labels[pair[0]], labels[pair[1]], is_class=is_class) >= AGREE_BY_CLASS)


def _neighbours(groups: Sequence[Sequence[int]]) -> Iterator[tuple[int, np.ndarray]]:
    """Each sample with the next few of its group: one that does not belong to the others meets enough of them."""
    for group in groups:
        for place, sample in enumerate(group[:-1]):
            yield sample, np.array(group[place + 1 : place + 1 + MEMBERS])


def agreement(first: np.ndarray, second: np.ndarray, *, is_class: np.ndarray) -> float:
    """Mean intersection over union of the classes that are large in either; 0 where there are fewer than three: a small thing
    before one background lies in the same place by chance."""
    large = [i for i in np.union1d(first, second) if is_class[i] and max(np.mean(first == i), np.mean(second == i)) >= LARGE]
    if len(large) < 3:
        return 0.0
    return float(np.mean([np.sum((first == i) & (second == i)) / np.sum((first == i) | (second == i)) for i in large]))


def culprits_of(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of pairs that contradict, the fewest samples that are in all of them (greedily), each with one of its partners.

    One label in the wrong place contradicts all frames of the scene that it belongs to: it is named, and they are not.
    """
    partners: dict[int, set[int]] = defaultdict(set)
    for first, second in pairs:
        partners[first].add(second)
        partners[second].add(first)
    culprits = []
    for worst in sorted(partners, key=lambda sample: (len(partners[sample]), sample), reverse=True):
        left = partners.pop(worst)
        if left:
            culprits.append((worst, min(left)))
        for other in left:
            partners[other].discard(worst)
    return sorted(culprits)
