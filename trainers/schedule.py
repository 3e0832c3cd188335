"""Learning-rate schedules. A schedule is a pure function of the step, so that resuming needs no state of it."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ScheduleBase:
    """The keys that every schedule has."""

    warmup_steps: int = 0
    """Steps in which the rate rises linearly to where the schedule begins."""
    hold: int = 1
    """The rate changes every so many steps only; the steps of an epoch for recipes that set it once per epoch."""

    def __post_init__(self) -> None:
        for name, least in (("warmup_steps", 0), ("hold", 1)):
            if getattr(self, name) < least:
                raise InputError(f"schedule.{name}: {getattr(self, name)} found, expected at least {least}; raise it")


@dataclass(frozen=True, kw_only=True)
class CosineConfig(ScheduleBase):
    """Half a cosine from the base rate to `min_lr`, which is the same for all parameter groups; lower rates stay as they are."""

    name: Literal["cosine"]
    min_lr: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_lr < math.inf:
            raise InputError(f"schedule.min_lr: {self.min_lr} found, expected 0 or more; mend it")


@dataclass(frozen=True, kw_only=True)
class PolyConfig(ScheduleBase):
    """A power of the progress t: (1 - t) ** power (`outer`, paper 004), or 1 - t ** power (`inner`, as paper 002 prints it)."""

    name: Literal["poly"]
    power: float = 0.9
    form: Literal["outer", "inner"] = "outer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.power < math.inf:
            raise InputError(f"schedule.power: {self.power} found, expected a number above 0; mend it")


@dataclass(frozen=True, kw_only=True)
class StepsConfig(ScheduleBase):
    """Times `factor` at every one of `milestones`, which are steps from the start of the run (paper 001 halves twice)."""

    name: Literal["steps"]
    milestones: tuple[int, ...]
    factor: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.milestones or self.milestones[0] < 1 or any(first >= second for first, second in pairwise(self.milestones)):
            raise InputError(f"schedule.milestones: {list(self.milestones)} found, expected steps that rise, from 1 on; mend them")
        if not 0 < self.factor < math.inf:
            raise InputError(f"schedule.factor: {self.factor} found, expected a number above 0; mend it")


@dataclass(frozen=True, kw_only=True)
class ConstantConfig(ScheduleBase):
    name: Literal["constant"]


ScheduleConfig = CosineConfig | PolyConfig | StepsConfig | ConstantConfig


def learning_rate(base: float, config: ScheduleConfig, step: int, steps: int) -> float:
    """The learning rate of step `step`, 0 <= step < steps, of parameters whose base rate is `base`."""
    if step < config.warmup_steps:
        return base * (step + 1) / config.warmup_steps
    held = step - step % config.hold
    progress = max(0, held - config.warmup_steps) / max(1, steps - config.warmup_steps)
    match config:
        case CosineConfig():
            floor = min(config.min_lr, base)
            return floor + (base - floor) * (1 + math.cos(math.pi * progress)) / 2
        case PolyConfig(form="inner"):
            return float(base * (1 - progress**config.power))
        case PolyConfig():
            return float(base * (1 - progress) ** config.power)
        case StepsConfig():
            return float(base * config.factor ** bisect_right(config.milestones, held))
        case ConstantConfig():
            return base


def schedule_problems(config: ScheduleConfig, steps: int) -> Iterator[str]:
    """What of a schedule cannot be in a run of `steps`."""
    if config.warmup_steps >= steps:
        yield f"schedule.warmup_steps: {config.warmup_steps} found, expected fewer than loop.steps={steps}; lower it, or train longer"


def schedule_notes(config: ScheduleConfig, steps: int) -> Iterator[str]:
    """What of a schedule has no effect in a run of `steps`, as where a recipe is cut short."""
    if config.hold > 1 and config.hold >= steps and not isinstance(config, ConstantConfig):
        yield f"schedule.hold: {config.hold} is no less than loop.steps={steps}, so that the rate never changes"
    late = [milestone for milestone in config.milestones if milestone >= steps] if isinstance(config, StepsConfig) else []
    if late:
        yield f"schedule.milestones: {', '.join(map(str, late))} never come in loop.steps={steps}"
