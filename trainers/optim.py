"""Optimizers and learning-rate schedules. A schedule is a pure function of the step, so that resuming needs no state of it."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam with L2 in the gradient, as SwiftNet's code trains (papers 000 and 002); not AdamW."""

    name: Literal["adam"]
    lr: float
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.weight_decay)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"optim.betas: {list(self.betas)} found, expected two numbers of at least 0 and below 1; mend them")


@dataclass(frozen=True, kw_only=True)
class SgdConfig:
    """SGD with momentum (papers 001 and 004)."""

    name: Literal["sgd"]
    lr: float
    weight_decay: float = 5e-4
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise InputError(f"optim.momentum: {self.momentum} found, expected at least 0 and below 1; mend it")


OptimConfig = AdamConfig | SgdConfig


@dataclass(frozen=True, kw_only=True)
class CosineConfig:
    """Half a cosine from the base rate to `min_lr` over the whole run, after a linear warm-up."""

    name: Literal["cosine"]
    min_lr: float = 1e-6
    warmup_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class PolyConfig:
    """(1 - step / steps) ** power (paper 004)."""

    name: Literal["poly"]
    power: float = 0.9


@dataclass(frozen=True, kw_only=True)
class ConstantConfig:
    name: Literal["constant"]


ScheduleConfig = CosineConfig | PolyConfig | ConstantConfig


def _check_rates(lr: float, weight_decay: float) -> None:
    if not lr > 0:
        raise InputError(f"optim.lr: {lr} found, expected a number above 0; raise it")
    if not weight_decay >= 0:
        raise InputError(f"optim.weight_decay: {weight_decay} found, expected 0 or more; raise it")


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters of `model`; biases and BatchNorm's are decayed too, as in the reference codes."""
    arguments: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if isinstance(config, AdamConfig):
        return torch.optim.Adam(model.parameters(), betas=config.betas, **arguments)
    return torch.optim.SGD(model.parameters(), momentum=config.momentum, **arguments)


def learning_rate(base: float, config: ScheduleConfig, step: int, steps: int) -> float:
    """The learning rate of global step `step`, 0 <= step < steps."""
    match config:
        case CosineConfig():
            if step < config.warmup_steps:
                return base * (step + 1) / config.warmup_steps
            progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
            return config.min_lr + (base - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2
        case PolyConfig():
            return float(base * (1 - step / steps) ** config.power)
        case ConstantConfig():
            return base


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
