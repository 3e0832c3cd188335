"""What can be chosen about learning from mixed pictures."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar, Literal

from data.errors import FieldError
from data.labels import View
from data.mixture import Role
from data.photometric import PhotometricConfig, named_photometric
from models.outputs import OutputsConfig
from trainers.base import TrainerConfigBase
from trainers.mixing.masks import Rounding
from trainers.teacher import TeacherConfig

MIXED = "mixed/"
"""Before the names of the terms of mixed pictures."""


@dataclass(frozen=True, kw_only=True)
class MixConfigBase(TrainerConfigBase):
    """The keys of the trainers that mix pictures."""

    mask: Literal["classes", "box", "cow", "none"] = "classes"
    """What is pasted: half of the classes that are seen (ClassMix), all but a box (CutMix), or fields of noise (CowMix). none: nothing is
    mixed and nobody taught, the baseline that learns the labelled pictures alone."""
    rounding: Rounding = "down"
    """Of half of an odd number of classes."""
    paste_ignored: bool = False
    """Whether pixels without a label are a class that may be pasted, as in the code of DACS."""
    target: Literal["labels", "soft", "squared"] = "labels"
    """What the teacher's answer is to the student: labels, with cross entropy; probabilities, with cross entropy; or probabilities with
    the squared error, a mean over classes."""
    weight: Literal["share", "sample", "pixel", "ramp", "constant"] = "share"
    """What the loss of a pixel that the teacher labelled is multiplied by. share: the share of confident pixels in the global batch;
    sample: in its own picture; pixel: 1 where it is confident itself, else 0; ramp: exp(-5 (1 - t)^2), t from 0 to 1 in `ramp_steps`;
    constant: 1."""
    threshold: float = 0.968
    """The probability from which on the teacher is confident."""
    ramp_steps: int = 10_000
    consistency: float = 1.0
    """What the loss of mixed pictures is multiplied by besides."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    strong: str | PhotometricConfig = "none"
    """What is done to colours and sharpness of mixed pictures, or the name of a preset (data/photometric.py)."""
    align: dict[str, dict[str, float] | Literal["labels"]] = field(default_factory=dict)
    """Distribution alignment (paper 004, section 2.5.6): dataset -> share of each class, or `labels` for those of its train labels,
    which is what the paper takes and nobody has who needs it. The teacher's probabilities are multiplied by these over the running
    shares of its labels."""
    align_limit: float | None = None
    """The most that alignment multiplies a class by, such as 10. Without one, as in the paper, that of a class which is never seen, be it
    that nothing teaches it, grows by 1 % a step, up to a million times its wanted share."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise FieldError("threshold", f"{self.threshold:g} found, expected a probability in 0..1; mend it")
        if self.ramp_steps < 1:
            raise FieldError("ramp_steps", f"{self.ramp_steps} found, expected at least 1; raise it")
        if not 0 <= self.consistency < inf:
            raise FieldError("consistency", f"{self.consistency:g} found, expected 0 or more; mend it")
        if isinstance(self.strong, str):
            named_photometric(self.strong)
        if self.align_limit is not None and not 1 <= self.align_limit < inf:
            raise FieldError("align_limit", f"{self.align_limit:g} found, expected at least 1, or null for none; mend it")
        for dataset, shares in self.align.items():
            if isinstance(shares, dict) and not (shares and all(share > 0 for share in shares.values())):
                raise FieldError(f"align.{dataset}", "shares of 0 or none found, expected one above 0 for each class; mend them")

    @property
    def photometric(self) -> PhotometricConfig:
        return named_photometric(self.strong) if isinstance(self.strong, str) else self.strong

    def terms(self, outputs: OutputsConfig, views: Mapping[str, View]) -> tuple[str, ...]:
        own = outputs.terms(views)
        # Probabilities are those of a dataset's classes, whatever classifiers they come from.
        mixed = own if self.target == "labels" else tuple(views)
        return (*own, *(f"{MIXED}{name}" for name in mixed))

    def problems(self, outputs: OutputsConfig, views: Mapping[str, View], hidden: Collection[str] = ()) -> Iterator[str]:
        yield from super().problems(outputs, views, hidden)
        for dataset, shares in self.align.items():
            if dataset not in views:
                yield f"trainer.align.{dataset}: no such dataset in data.mix, expected one of {', '.join(views)}; mend the name"
            elif isinstance(shares, dict) and set(shares) != set(views[dataset].names):
                yield f"trainer.align.{dataset}: {', '.join(shares)} found, expected {', '.join(views[dataset].names)}; give all of them"
            elif dataset not in hidden:
                yield f"trainer.align.{dataset}: no stream of it without labels found, expected one, which the teacher labels; remove it"
            elif shares == "labels" and views[dataset].supervision == "none":
                yield f"trainer.align.{dataset}: labels found, but the dataset has none, expected shares of its classes; give them"


@dataclass(frozen=True, kw_only=True)
class ClassMixConfig(MixConfigBase):
    """Semi-supervised (paper 004, chapter 3.1): pictures without labels are mixed with one another."""

    roles: ClassVar[tuple[Role, ...]] = ("labelled", "unlabelled")

    name: Literal["classmix"]


@dataclass(frozen=True, kw_only=True)
class DacsConfig(MixConfigBase):
    """Domain adaptation (paper 004, chapter 3.2)."""

    roles: ClassVar[tuple[Role, ...]] = ("source", "target")

    name: Literal["dacs"]
    mix: Literal["inter", "intra"] = "inter"
    """inter: pictures of the source are pasted onto those of the target; intra: those of the target onto one another."""
