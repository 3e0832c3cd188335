"""What the numbers of a whole dataset say: each function takes the facts of its splits and gives findings."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from data.inspect.collect import SplitFacts, sample_findings
from data.inspect.duplicates import culprits_of, label_twins, nearest_twins, same_groups, same_labels
from data.inspect.findings import Finding, sort_findings
from data.inspect.observe import GRID
from data.labels import LabelSpace

Facts = Mapping[str, SplitFacts]
T = TypeVar("T")

OUTLIERS = 0.02
"""Pictures of another size are outliers as long as no more than this part of the split has another size than most."""
DRIFT = 10.0
DRIFT_LEAST = 1e-4
"""Classes of less than this part of the pixels, in both splits, may differ by chance."""
MUCH_IGNORED = 0.02
ABOVE, BELOW = ("sky",), ("road", "sidewalk", "pavement", "ground", "terrain", "grass", "water")
"""Last words of class names: what lies above what in nearly every picture."""


def lint(space: LabelSpace, facts: Facts, *, examples: int) -> list[Finding]:
    """All findings about the samples that were observed, the gravest first."""
    found = [finding for split in facts.values() for finding in sample_findings(split, space)]
    for check in LINTS:
        found += check(space, facts, examples)
    return sort_findings(found)


def lint_classes(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    """Classes that never occur, at all or in one split only."""
    if space.supervision == "none":
        return
    names = {label.id: label.name for label in space.classes}
    occur = {split: {i for i in names if of.images[i]} for split, of in facts.items()}
    anywhere = set().union(*occur.values())

    def finding(kind: str, split: str | None, ids: set[int]) -> Iterator[Finding]:
        if ids:
            chosen = tuple(f"{i} {names[i]}" for i in sorted(ids))
            yield Finding(kind=kind, split=split, count=len(ids), total=len(names), examples=chosen[: max(examples, 12)])

    yield from finding("class-never", None, set(names) - anywhere)
    for split in facts:
        if split == "train":
            yield from finding("class-not-in-train", None, anywhere - occur[split])
        elif "train" in facts:
            yield from finding("class-not-in-split", split, occur["train"] - occur[split])


def lint_shift(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    """All ids are known, and yet they may be one too high: the first class never occurs, the ignored id after the last does."""
    classes = [label.id for label in space.classes]
    after = classes[-1] + 1
    pixels = sum((of.pixels for of in facts.values()), np.zeros(256, np.int64))
    if after in space.ignore_ids and after != 255 and not pixels[classes[0]] and pixels[after] > MUCH_IGNORED * pixels.sum():
        first, last = space.classes[0].name, space.classes[-1].name
        detail = f"id {classes[0]} {first} never occurs, ignored id {after} has {_percent(pixels[after] / pixels.sum())} of the pixels"
        yield Finding(kind="off-by-one", split=None, count=1, detail=f"{detail}: is that {last}, one too high?")


def lint_positions(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    """Classes whose names say what lies above what, and that lie the other way: ids and names do not belong together."""
    heights = {label.name: mean_row(facts, label.id) for label in space.classes}
    pairs = []
    for upper, upper_row in heights.items():
        for lower, lower_row in heights.items():
            is_pair = _is_called(upper, ABOVE) and _is_called(lower, BELOW)
            if is_pair and upper_row is not None and lower_row is not None and upper_row > lower_row:
                pairs.append(f"{upper} below {lower}")
    if pairs:
        yield Finding(kind="upside-down", split=None, count=len(pairs), examples=tuple(pairs[:examples]))


def mean_row(facts: Facts, native_id: int) -> float | None:
    """How far down the pixels of a class lie in the mean: 0 top, 1 bottom; None where it is seldom."""
    cells = sum((of.positions[native_id] for of in facts.values() if native_id in of.positions), np.zeros(GRID))
    weight = cells.sum()
    samples = sum(int(of.images[native_id]) for of in facts.values())
    return float(cells.sum(axis=1) @ (np.arange(GRID[0]) + 0.5) / GRID[0] / weight) if weight and samples >= 5 else None


def _is_called(name: str, words: tuple[str, ...]) -> bool:
    return re.split(r"[^a-z]+", name.lower())[-1] in words


def lint_drift(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    """Classes whose share of the labelled pixels differs much between train and another split."""
    classes = {label.id: label.name for label in space.classes}
    shares = {}
    for split, of in facts.items():
        labelled = of.pixels[list(classes)].sum()
        shares[split] = {i: of.pixels[i] / labelled for i in classes if of.pixels[i]} if labelled else {}
    for split in facts:
        if split == "train" or "train" not in facts:
            continue
        both = [i for i in shares["train"] if i in shares[split]]
        ratios = {i: shares[split][i] / shares["train"][i] for i in both if max(shares[split][i], shares["train"][i]) > DRIFT_LEAST}
        far = sorted((i for i, ratio in ratios.items() if not 1 / DRIFT < ratio < DRIFT), key=lambda i: -abs(np.log(ratios[i])))
        if far:
            named = tuple(f"{classes[i]} {_percent(shares['train'][i])} -> {_percent(shares[split][i])}" for i in far[:examples])
            yield Finding(kind="drift", split=split, count=len(far), total=len(classes), examples=named)


def lint_sizes(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    """Sizes that vary, and single pictures of another size than all others."""
    for split, of in facts.items():
        counts = of.size_counts()
        if len(counts) < 2:
            continue
        common, number = counts.most_common(1)[0]
        others = [i for i, size in enumerate(of.sizes) if size is not None and size != common]
        if len(others) <= max(1, OUTLIERS * len(of)) and number > 2:
            named = tuple(f"{of.name(i)} ({_size(of.sizes[i])})" for i in others[:examples])
            detail = f"{_size(common)} is the size of the rest"
            yield Finding(kind="size-outlier", split=split, count=len(others), total=len(of), detail=detail, examples=named)
        else:
            named = tuple(f"{_size(size)} {times} times" for size, times in counts.most_common(examples))
            yield Finding(kind="sizes-vary", split=split, count=len(counts), examples=named)


def lint_grey(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    for split, of in facts.items():
        grey = np.flatnonzero(of.grey)
        if 0 < len(grey) < len(of) / 2:
            named = tuple(of.name(i) for i in grey[:examples])
            yield Finding(kind="grey-picture", split=split, count=len(grey), total=len(of), examples=named)


def lint_same_pictures(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    """Pictures that are there more than once, pixel by pixel: in two splits, in one, or with two labels."""
    members = _Members(facts)
    across: dict[str, list[tuple[int, int]]] = {}
    within: dict[str, list[tuple[int, int]]] = {}
    relabelled: list[tuple[int, int]] = []
    for group in same_groups(members.gather(lambda of: of.image_hashes)):
        by_split = {split: [i for i in group if members.split(i) == split] for split in facts}
        present = [split for split in facts if by_split[split]]
        for split in present[1:]:
            across.setdefault(split, []).extend((i, by_split[present[0]][0]) for i in by_split[split])
        for split in present:
            within.setdefault(split, []).extend((i, by_split[split][0]) for i in by_split[split][1:])
        labels = {members.annotation(i) for i in group}
        relabelled += [(i, group[0]) for i in group[1:] if len(labels) > 1 and members.annotation(i) != members.annotation(group[0])]
    for kind, pairs_of in (("same-picture-in-splits", across), ("same-picture", within)):
        for split, pairs in pairs_of.items():
            if pairs:
                yield members.finding(kind, split, pairs, examples)
    if relabelled:
        yield members.finding("same-picture-other-label", None, relabelled, examples)


def lint_near_pictures(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    """Pictures that look alike without being the same: copies saved anew, and neighbouring frames of a video."""
    members = _Members(facts)
    if members.count < 2:
        return
    thumbs = np.stack(members.gather(lambda of: of.thumbs))
    hashes = members.gather(lambda of: of.image_hashes)
    splits = np.array([members.owner(i) for i in range(members.count)])
    twins = nearest_twins(thumbs, splits)
    across = {i for i in np.flatnonzero(twins >= 0).tolist() if hashes[i] != hashes[twins[i]]}
    for number, split in enumerate(facts):
        if number:  # each pair once, named where it does harm
            pairs = [(i, int(twins[i])) for i in sorted(across) if members.split(i) == split]
            if pairs:
                yield members.finding("near-picture-in-splits", split, pairs, examples)
        mine = np.flatnonzero(splits == number)
        inner = nearest_twins(thumbs[mine], np.arange(len(mine)))
        pairs = [(int(mine[i]), int(mine[inner[i]])) for i in np.flatnonzero(inner >= 0)]
        pairs = [(i, j) for i, j in pairs if hashes[i] != hashes[j]]
        if pairs:
            yield members.finding("near-picture", split, pairs, examples)


def lint_same_labels(space: LabelSpace, facts: Facts, examples: int) -> Iterator[Finding]:
    """Label images that agree while their pictures do not look alike at all: swapped, or copied."""
    members = _Members(facts)
    hashes = members.gather(lambda of: of.label_hashes)
    if not any(hashes):
        return
    pictures = np.stack(members.gather(lambda of: of.thumbs))
    labels = np.stack(members.gather(lambda of: of.label_thumbs))
    twins = label_twins(labels, pictures, is_class=space.known_ids)
    pairs = same_labels(hashes, pictures) + [(i, j) for i, j in twins if hashes[i] and hashes[j]]
    culprits = culprits_of(pairs)
    for split in facts:
        mine = [pair for pair in culprits if members.split(pair[0]) == split]
        if mine:
            yield members.finding("same-label", split, mine, examples)


class _Members:
    """All samples of all splits under one number each."""

    def __init__(self, facts: Facts) -> None:
        self.facts = list(facts.values())
        self.starts = np.cumsum([0, *(len(of) for of in self.facts)])
        self.count = int(self.starts[-1])

    def owner(self, sample: int) -> int:
        return int(np.searchsorted(self.starts, sample, side="right")) - 1

    def split(self, sample: int) -> str:
        return self.facts[self.owner(sample)].split

    def gather(self, column: Callable[[SplitFacts], Sequence[T]]) -> list[T]:
        """One of the per-sample lists of SplitFacts, of all splits."""
        return [value for of in self.facts for value in column(of)]

    def key(self, sample: int) -> str:
        owner = self.owner(sample)
        return self.facts[owner].keys[sample - int(self.starts[owner])]

    def annotation(self, sample: int) -> tuple[bytes | None, bytes]:
        owner = self.owner(sample)
        of, number = self.facts[owner], sample - int(self.starts[owner])
        return of.label_hashes[number], of.ids[number].tobytes() + of.shares[number].tobytes()

    def finding(self, kind: str, split: str | None, pairs: list[tuple[int, int]], examples: int) -> Finding:
        named: list[str] = []
        seen: set[tuple[int, ...]] = set()
        for sample, other in pairs:
            if len(named) < examples and tuple(sorted((sample, other))) not in seen:
                same_split = split is not None and self.split(other) == split
                named.append(f"{self.key(sample)} = {'' if same_split else self.split(other) + ' '}{self.key(other)}")
                seen.add(tuple(sorted((sample, other))))
        total = self.count if split is None else len(next(of for of in self.facts if of.split == split))
        return Finding(kind=kind, split=split, count=len(pairs), total=total, examples=tuple(named))


def _size(size: tuple[int, int] | None) -> str:
    return "?" if size is None else f"{size[1]}x{size[0]}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


LINTS: tuple[Callable[[LabelSpace, Facts, int], Iterator[Finding]], ...] = (
    lint_classes,
    lint_shift,
    lint_positions,
    lint_drift,
    lint_sizes,
    lint_grey,
    lint_same_pictures,
    lint_near_pictures,
    lint_same_labels,
)
