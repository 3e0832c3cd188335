"""One pass over all samples of a dataset. Pictures are dropped as soon as they are observed: what is kept grows by
about two kilobytes with each sample."""

import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from data.inspect.findings import KINDS, Finding
from data.inspect.observe import GRID, LABEL_THUMB, STEPS, THUMB, Observation, observe
from data.inspect.opening import Readable
from data.labels import LabelSpace
from data.progress import track


@dataclass(kw_only=True)
class Tally:
    """How many flaws of one kind there are, in how many samples, and the first few."""

    flaws: int = 0
    samples: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class SplitFacts:
    """What is known of one split once all of its samples have been observed.

    Lists have one entry for each sample. `pixels` and `images` (256,) int64: pixels with each id, and samples that hold it.
    """

    split: str
    keys: list[str] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    image_hashes: list[bytes | None] = field(default_factory=list)
    label_hashes: list[bytes | None] = field(default_factory=list)
    thumbs: list[np.ndarray] = field(default_factory=list)
    label_thumbs: list[np.ndarray] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    shares: list[np.ndarray] = field(default_factory=list)
    """float32 beside `ids`: part of the picture's pixels."""
    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    grey: list[bool] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    positions: dict[int, np.ndarray] = field(default_factory=dict)
    """Native id -> GRID float64: sum over the samples of the part of each cell that it covers."""
    tallies: dict[str, Tally] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, seen: Observation, *, examples: int) -> None:
        """Take up one sample."""
        self.keys.append(seen.key)
        self.wheres.append(seen.where)
        self.image_hashes.append(seen.image_hash)
        self.label_hashes.append(seen.label_hash if len(seen.ids) > 1 else None)
        self.thumbs.append(np.zeros(THUMB * THUMB, np.uint8) if seen.thumb is None else seen.thumb)
        self.label_thumbs.append(np.zeros(LABEL_THUMB**2, np.uint8) if seen.label_thumb is None else seen.label_thumb)
        self.ids.append(seen.ids)
        self.shares.append((seen.pixels / max(1, seen.pixels.sum())).astype(np.float32))
        self.sizes.append(seen.size)
        self.grey.append(seen.is_grey)
        self.pixels[seen.ids] += seen.pixels
        self.images[seen.ids] += 1
        for native_id, cells in zip(seen.ids.tolist(), seen.positions, strict=True):
            self.positions.setdefault(native_id, np.zeros(GRID))
            self.positions[native_id] += cells / STEPS**2
        for kind in dict.fromkeys(flaw.kind for flaw in seen.flaws):
            flaws = [flaw for flaw in seen.flaws if flaw.kind == kind]
            tally = self.tallies.setdefault(kind, Tally())
            tally.flaws += len(flaws)
            tally.samples += 1
            if len(tally.examples) < examples:
                tally.examples.append(self.name(len(self) - 1) + (f" ({flaws[0].detail})" if flaws[0].detail else ""))

    def name(self, sample: int) -> str:
        """A sample as findings name it: its key, and the shard or file that it lies in."""
        key, where = self.keys[sample], self.wheres[sample]
        return key if not where or key in where else f"{key} in {where}"

    def size_counts(self) -> Counter[tuple[int, int]]:
        """(height, width) -> pictures of that size."""
        return Counter(size for size in self.sizes if size is not None)


def collect(dataset: Readable, split: str, *, workers: int | None, examples: int) -> SplitFacts:
    """Observe all samples of a split, in its order."""
    facts = SplitFacts(split=split)
    what = f"inspect: {dataset.name} {split}"
    for seen in track(_observe_all(dataset, split, workers or os.cpu_count() or 1), total=dataset.sizes[split], what=what):
        facts.add(seen, examples=examples)
    return facts


def _observe_all(dataset: Readable, split: str, workers: int) -> Iterator[Observation]:
    """In order, with few samples under way at a time. Threads: decoding and hashing release the interpreter lock."""

    def look(number: int) -> Observation:
        return observe(dataset.read(split, number), dataset.label_space)

    with ThreadPoolExecutor(workers, thread_name_prefix="inspect") as pool:
        pending: deque[Future[Observation]] = deque()
        try:
            for number in range(dataset.sizes[split]):
                pending.append(pool.submit(look, number))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def sample_findings(facts: SplitFacts, space: LabelSpace) -> list[Finding]:
    """The flaws of single samples, counted: boxes as boxes, everything else as samples."""
    findings = []
    for kind, tally in facts.tallies.items():
        is_box = KINDS[kind].what.startswith("boxes")
        detail = diagnose_ids(facts.pixels, space) if kind == "unknown-id" else ""
        findings.append(
            Finding(
                kind=kind,
                split=facts.split,
                count=tally.flaws if is_box else tally.samples,
                total=None if is_box else len(facts),
                detail=detail,
                examples=tuple(tally.examples),
            )
        )
    return findings


def diagnose_ids(pixels: np.ndarray, space: LabelSpace) -> str:
    """What the ids of label images, `pixels` (256,) with each, may be where some of them are unknown; empty where nothing is known."""
    found = np.flatnonzero(pixels)
    unknown = found[~space.known_ids[found]]
    known = {label.id for label in space.labels}
    # An ignored id beyond the classes, such as 255, is not shifted along with them.
    shifted = {int(i) for i in found if i in known or i in unknown}
    for step, mistake in ((-1, "one too high"), (1, "one too low")):
        if len(unknown) and len(shifted) > 1 and all(i + step in known for i in shifted):
            return f"likely off by one: every id is {mistake}"
    if len(unknown) < 2:
        return ""
    colours = np.array([label.color for label in space.labels], np.float64)
    greys = np.rint(colours @ (0.299, 0.587, 0.114)).astype(int)
    for values, what in ((greys, "their grey levels"), (colours[:, 0].astype(int), "their red channel")):
        if np.isin(unknown, values).mean() >= 0.9:
            return f"likely a palette mistake: colours of the classes were written as {what}"
    return f"{len(unknown)} unknown ids in all: {', '.join(map(str, unknown[:8]))}{' ...' if len(unknown) > 8 else ''}"
