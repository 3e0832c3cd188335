"""Optimizers: parameters in groups with rates and decays of their own, and who computes the update."""

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from data.errors import FieldError, InputError
from trainers.schedule import ScheduleConfig, learning_rate

Implementation = Literal["auto", "foreach", "fused", "apex"]

GROUPS = ("encoder", "outputs", "norms", "biases")
REST = "rest"
OWN = "own"
"""The group of parameters that are no weights of a network, such as a trainer's own: learned weights of the loss, which decay would draw
to a value that means something else."""

LEANINGS = "model.outputs.leanings."
"""Of `outputs=learned`: to which labels its classes belong."""

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

APEX_BUILD = (
    "build NVIDIA's: git clone https://github.com/NVIDIA/apex && cd apex && APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v "
    "--no-build-isolation . (apex on the registry is another package), or give optim.implementation=auto"
)


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """What the base rate and decay are multiplied by for the parameters of a group."""

    lr: float = 1.0
    weight_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise FieldError(name, f"{getattr(self, name):g} found, expected a factor of 0 or more; mend it")


@dataclass(frozen=True, kw_only=True)
class OptimBase:
    """The keys that every optimizer has."""

    lr: float
    weight_decay: float
    implementation: Implementation = "auto"
    """Who computes the update: torch's fused kernels (auto: on a GPU), its foreach kernels, or NVIDIA's apex."""
    groups: dict[str, GroupConfig] = field(default_factory=dict)
    """Group -> factors of lr and weight_decay; a parameter in several groups gets their product. `encoder` and `outputs` are parts
    of the model, `norms` the parameters of normalisation layers, `biases` the other biases."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise InputError(f"optim.lr: {self.lr} found, expected a number above 0; raise it")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"optim.weight_decay: {self.weight_decay} found, expected 0 or more; raise it")
        for name in self.groups:
            if name not in GROUPS:
                raise FieldError(f"groups.{name}", f"no such group, expected one of {', '.join(GROUPS)}; mend the name")

    def _check_betas(self, betas: tuple[float, float]) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"optim.betas: {list(betas)} found, expected two numbers of at least 0 and below 1; mend them")


@dataclass(frozen=True, kw_only=True)
class AdamConfig(OptimBase):
    """Adam with L2 in the gradient, as SwiftNet's code trains (papers 000 and 002); not AdamW."""

    name: Literal["adam"]
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_betas(self.betas)


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimBase):
    """Adam with decay apart from the gradient, as transformers are trained."""

    name: Literal["adamw"]
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_betas(self.betas)


@dataclass(frozen=True, kw_only=True)
class SgdConfig(OptimBase):
    """SGD with momentum (papers 001 and 004)."""

    name: Literal["sgd"]
    weight_decay: float = 5e-4
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise InputError(f"optim.momentum: {self.momentum} found, expected at least 0 and below 1; mend it")


OptimConfig = AdamConfig | AdamWConfig | SgdConfig


def optimizer_problems(config: OptimConfig) -> Iterator[str]:
    """What of `config` this machine cannot do."""
    if config.implementation != "apex":
        return
    try:
        for module in ("amp_C", "apex.optimizers"):  # without the extension apex imports, and fails at the first update
            importlib.import_module(module)
    except ImportError as error:
        yield f"optim.implementation: apex found, but not installed with its extensions ({error}), expected both; {APEX_BUILD}"
        return
    if not torch.cuda.is_available():
        yield "optim.implementation: apex found, but no GPU, expected one; give optim.implementation=auto"


def build_optimizer(trainer: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters of `trainer` that are trained. Without `config.groups` norms and biases are decayed too,
    as in the reference codes."""
    groups = parameter_groups(trainer, config)
    arguments: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if isinstance(config, SgdConfig):
        arguments["momentum"] = config.momentum
    else:
        arguments["betas"] = config.betas
    if config.implementation == "apex":
        return _apex_optimizer(groups, config, arguments)
    on_gpu = next(trainer.parameters()).is_cuda
    if config.implementation == "fused" or (config.implementation == "auto" and on_gpu):
        arguments["fused"] = True
    elif config.implementation == "foreach":
        arguments["foreach"] = True
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    return classes[config.name](groups, **arguments)


def _apex_optimizer(groups: list[dict[str, Any]], config: OptimConfig, arguments: dict[str, Any]) -> torch.optim.Optimizer:
    for problem in optimizer_problems(config):
        raise InputError(problem)
    apex = importlib.import_module("apex.optimizers")
    if isinstance(config, SgdConfig):
        return apex.FusedSGD(groups, **arguments)
    return apex.FusedAdam(groups, adam_w_mode=isinstance(config, AdamWConfig), **arguments)


def parameter_groups(trainer: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The parameters of `trainer`, each once, by the groups of `config` that it is in: `base_lr` is the rate before the schedule,
    `name` such as `encoder+norms`; those in none are `rest`, and those that are no weights of a network `own`."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in trainer.named_parameters():
        if parameter.requires_grad:
            found.setdefault(_group_of(trainer, name, config.groups), []).append(parameter)
    return [_group(name, parameters, config) for name, parameters in found.items()]


def _group(name: str, parameters: list[nn.Parameter], config: OptimConfig) -> dict[str, Any]:
    factors = [config.groups[part] for part in name.split("+") if part in config.groups]
    lr = config.lr * math.prod(factor.lr for factor in factors)
    decay = 0.0 if name == OWN else config.weight_decay * math.prod(factor.weight_decay for factor in factors)
    return {"params": parameters, "name": name, "lr": lr, "base_lr": lr, "weight_decay": decay}


def _group_of(trainer: nn.Module, name: str, groups: Mapping[str, GroupConfig]) -> str:
    if not name.startswith("model.") or name.startswith(LEANINGS):
        return OWN
    owner, _, last = name.rpartition(".")
    is_norm = isinstance(trainer.get_submodule(owner), NORMS)
    belongs = {
        "encoder": name.startswith("model.network.encoder."),
        "outputs": name.startswith("model.outputs."),
        "norms": is_norm,
        "biases": last == "bias" and not is_norm,
    }
    return "+".join(group for group in GROUPS if belongs[group] and group in groups) or REST


def set_learning_rates(optimizer: torch.optim.Optimizer, schedule: ScheduleConfig, step: int, steps: int) -> dict[str, float]:
    """Give every group the rate of step `step` of `steps`; returns the rates by the groups' names."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["base_lr"], schedule, step, steps)
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what `optimizer.state_dict()` gave. Options of the groups stay those of `optimizer`: where a run goes on, on a CPU after a
    GPU say, another implementation may be the one to take."""
    own = optimizer.state_dict()["param_groups"]
    groups = [{**saved, **group} for saved, group in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
