"""The kinds of finding: how grave each is, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """What is found (`what` goes before a number) and what to do about it."""

    level: Level
    what: str
    remedy: str


KINDS: dict[str, Kind] = {
    # Nothing sensible can be trained on these, or the score on val says nothing.
    "unlistable": Kind("error", "splits that cannot be listed", "mend what is named and inspect again"),
    "spaces-differ": Kind("error", "splits of another label space than the first", "run `taxomix prepare ... overwrite=true`"),
    "picture-unreadable": Kind("error", "pictures that do not read or decode", "restore the files, or remove them with their labels"),
    "label-unreadable": Kind("error", "label images that do not read or decode", "restore the files, or remove them with their pictures"),
    "label-colours": Kind("error", "label images of colours, not ids", "write 8-bit PNG of ids"),
    "size-differs": Kind("error", "label images of another size than their picture", "write each label at the size of its picture"),
    "index-differs": Kind("error", "pictures of another size than the index says", "run `taxomix prepare ... overwrite=true`"),
    "unknown-id": Kind(
        "error", "label images with ids that the label space does not know", "mend the labels, or add the ids to classes or ignore_ids"
    ),
    "refused": Kind("error", "samples that `taxomix prepare` refuses", "mend or remove the samples"),
    "box-outside": Kind("error", "boxes that reach out of their picture", "clip or remove them"),
    "box-no-area": Kind("error", "boxes of no area", "order the corners (x1 <= x2, y1 <= y2, inclusive) or remove them"),
    "box-unknown-class": Kind("error", "boxes of a class that the label space does not know", "mend the class ids"),
    "same-picture-in-splits": Kind(
        "error", "pictures that are in another split as well", "remove them from one: val would score what was learnt"
    ),
    # Most likely a mistake, though one may train with it.
    "near-picture-in-splits": Kind(
        "warning", "pictures that look almost the same as one of another split", "split by scene or drive, not by frame; or remove them"
    ),
    "same-picture": Kind("warning", "pictures that are in this split already", "remove the copies"),
    "same-picture-other-label": Kind("warning", "pictures that are there again with another label", "keep the label that is right"),
    "same-label": Kind(
        "warning",
        "label images that are (nearly) those of a picture which looks different",
        "look at both: labels were swapped or copied by mistake",
    ),
    "off-by-one": Kind("warning", "ids that look shifted by one", "compare ids and names on the contact sheet"),
    "upside-down": Kind("warning", "pairs of classes that lie the wrong way up", "compare ids and names on the contact sheet"),
    "class-never": Kind("warning", "classes that never occur, in any split", "check ids and names, or expect no result for them"),
    "class-not-in-train": Kind(
        "warning", "classes that occur in another split and never in train", "move samples, or leave them out of scores"
    ),
    "all-ignored": Kind("warning", "label images without a labelled pixel", "remove them, or check ignore_ids"),
    "constant-picture": Kind("warning", "pictures of one single colour", "remove them with their labels"),
    "size-outlier": Kind("warning", "pictures of another size than the rest of the split", "look whether they belong there"),
    "box-twice": Kind("warning", "boxes that are there twice, in the same place with the same class", "remove the copies"),
    # Nothing wrong, but worth to know when a crop size, a mix or a metric is chosen.
    "class-not-in-split": Kind("note", "classes of train that never occur", "their score is undefined there"),
    "drift": Kind("note", "classes whose share of the pixels is ten times that in train, or a tenth", "mind them when scores differ"),
    "near-picture": Kind(
        "note", "pictures that look almost the same as another of this split", "as frames of a video; they count for less"
    ),
    "one-class": Kind("note", "label images of one class only", "look whether the rest was left out"),
    "little-labelled": Kind("note", "label images of which less than a twentieth is labelled", "look whether ignore_ids holds too much"),
    "no-box": Kind("note", "pictures without a box", "fine where they hold no object"),
    "box-tiny": Kind("note", "boxes less than 6 pixels high or wide", "they vanish when pictures are scaled down"),
    "sizes-vary": Kind("note", "sizes of picture", "choose a crop size that suits all"),
    "tiny-picture": Kind("note", "pictures less than 64 pixels high or wide", "crops of them are mostly padding"),
    "long-picture": Kind("note", "pictures over 4 times as long as wide", "look whether they are panoramas or strips"),
    "grey-picture": Kind("note", "grey pictures among coloured ones", "look whether their colour was lost"),
}


@dataclass(frozen=True)
class Flaw:
    """Something wrong with one sample: a kind and, where there is more to say, what exactly."""

    kind: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report: `count` of `total` (None: no total worth saying) things of one kind in one split (None: in all)."""

    kind: str
    split: str | None
    count: int
    total: int | None = None
    detail: str = ""
    examples: tuple[str, ...] = ()
    """Samples or classes, at most as many as were asked for."""

    @property
    def level(self) -> Level:
        return KINDS[self.kind].level

    @property
    def text(self) -> str:
        """What was found, where, how often, and what to do: one line."""
        kind = KINDS[self.kind]
        number = f"{self.count}" if self.total is None else f"{self.count} of {self.total}"
        where = f"{self.split}: " if self.split else ""
        detail = f" ({self.detail})" if self.detail else ""
        more = f" and {self.count - len(self.examples)} more" if self.count > len(self.examples) > 0 else ""
        examples = f": {', '.join(self.examples)}{more}" if self.examples else ""
        return f"{where}{kind.what}: {number}{detail}{examples}; {kind.remedy}"


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The gravest first; within a level by kind in the order of KINDS, then by split."""
    order = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(findings, key=lambda finding: (LEVELS.index(finding.level), order[finding.kind], finding.split or ""))
