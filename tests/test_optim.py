"""Optimizers: parameter groups, and who computes the update."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from spaces import SPACES, VIEWS
from test_supervision import small_model
from torch import nn

from data.config import build
from data.errors import InputError
from trainers.flat import FlatConfig, FlatTrainer
from trainers.optim import (
    AdamConfig,
    AdamWConfig,
    GroupConfig,
    OptimConfig,
    SgdConfig,
    build_optimizer,
    load_optimizer,
    optimizer_problems,
    set_learning_rates,
)
from trainers.schedule import ConstantConfig, CosineConfig


class Trainer(nn.Module):
    """The names of a real trainer's parameters, and a learned loss weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Module()
        self.model.network = nn.Module()
        self.model.network.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.model.outputs = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(1, 4), nn.Conv2d(4, 2, 1))
        self.model.outputs[0].weight.requires_grad = False
        self.log_variance = nn.Parameter(torch.zeros(2))

    def loss(self) -> torch.Tensor:
        x = torch.linspace(-1, 1, 2 * 3 * 8 * 8, dtype=self.log_variance.dtype).view(2, 3, 8, 8)
        y: torch.Tensor = self.model.outputs(self.model.network.encoder(x))
        return (y.square().sum(dim=(0, 2, 3)) * torch.exp(-self.log_variance) + self.log_variance).sum()


def names_of(trainer: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, set[str]]:
    """Group -> names of its parameters."""
    names = {id(parameter): name for name, parameter in trainer.named_parameters()}
    return {group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups}


def steps(config: OptimConfig, number: int = 5) -> dict[str, torch.Tensor]:
    trainer = Trainer().double()
    optimizer = build_optimizer(trainer, config)
    for _ in range(number):
        optimizer.zero_grad()
        trainer.loss().backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in trainer.named_parameters()}


def test_optimizers_have_what_the_config_says() -> None:
    adam = build_optimizer(Trainer(), AdamConfig(name="adam", lr=1e-3, weight_decay=0.1, betas=(0.8, 0.9)))
    assert type(adam) is torch.optim.Adam
    assert {group["name"]: (group["betas"], group["weight_decay"]) for group in adam.param_groups}["rest"] == ((0.8, 0.9), 0.1)
    sgd = build_optimizer(Trainer(), SgdConfig(name="sgd", lr=1e-2, momentum=0.7))
    assert type(sgd) is torch.optim.SGD
    assert sgd.param_groups[0]["momentum"] == 0.7
    assert type(build_optimizer(Trainer(), AdamWConfig(name="adamw", lr=1e-3))) is torch.optim.AdamW


def test_all_that_is_trained_is_in_one_group_and_a_trainers_own_is_not_decayed() -> None:
    trainer = Trainer()
    optimizer = build_optimizer(trainer, SgdConfig(name="sgd", lr=1.0, weight_decay=0.5))
    names = names_of(trainer, optimizer)
    trained = {name for name, parameter in trainer.named_parameters() if parameter.requires_grad}
    assert names == {"rest": trained - {"log_variance"}, "own": {"log_variance"}}
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {"rest": 0.5, "own": 0}


def test_to_which_labels_classes_belong_is_not_decayed_either() -> None:
    """Nor has it the rate of the part of the model that it lies in."""
    config = AdamConfig(name="adam", lr=1e-3, weight_decay=0.5, groups={"outputs": GroupConfig(lr=10)})
    trainer = FlatTrainer(small_model(SPACES["learned"], VIEWS), FlatConfig(name="flat"))
    optimizer = build_optimizer(trainer, config)
    assert names_of(trainer, optimizer)["own"] == {f"model.outputs.leanings.{number}" for number in range(len(VIEWS))}
    (own,) = (group for group in optimizer.param_groups if group["name"] == "own")
    assert (own["lr"], own["weight_decay"]) == (1e-3, 0)


def test_a_parameter_in_several_groups_gets_the_product_of_their_factors() -> None:
    groups = {
        "encoder": GroupConfig(lr=0.25, weight_decay=0.5),
        "outputs": GroupConfig(lr=10),
        "norms": GroupConfig(lr=2, weight_decay=0),
        "biases": GroupConfig(weight_decay=0.1),
    }
    trainer = Trainer()
    optimizer = build_optimizer(trainer, SgdConfig(name="sgd", lr=0.01, weight_decay=0.5, groups=groups))
    assert names_of(trainer, optimizer) == {
        "encoder": {"model.network.encoder.0.weight"},
        "encoder+biases": {"model.network.encoder.0.bias"},
        "encoder+norms": {"model.network.encoder.1.weight", "model.network.encoder.1.bias"},
        "outputs": {"model.outputs.2.weight"},
        "outputs+biases": {"model.outputs.0.bias", "model.outputs.2.bias"},
        "outputs+norms": {"model.outputs.1.weight", "model.outputs.1.bias"},
        "own": {"log_variance"},
    }
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert found["encoder"] == pytest.approx((0.0025, 0.25))
    assert found["encoder+biases"] == pytest.approx((0.0025, 0.025))
    assert found["encoder+norms"] == pytest.approx((0.005, 0))
    assert found["outputs+norms"] == pytest.approx((0.2, 0))
    assert found["own"] == pytest.approx((0.01, 0))


def test_every_group_follows_the_schedule_from_its_own_base() -> None:
    """SwiftNet: a quarter for the encoder, and one floor for both."""
    config = AdamConfig(name="adam", lr=4e-4, groups={"encoder": GroupConfig(lr=0.25)})
    optimizer = build_optimizer(Trainer(), config)
    rates = set_learning_rates(optimizer, CosineConfig(name="cosine", min_lr=1e-6), 50, 100)
    assert rates == pytest.approx({"encoder": (1e-4 + 1e-6) / 2, "rest": (4e-4 + 1e-6) / 2, "own": (4e-4 + 1e-6) / 2})
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == rates


def test_a_factor_of_zero_leaves_weights_as_they_are() -> None:
    trained = steps(SgdConfig(name="sgd", lr=1e-3, groups={"encoder": GroupConfig(lr=0)}))
    before = Trainer().double().state_dict()
    for name, value in trained.items():
        assert torch.equal(value, before[name]) == (name.startswith("model.network.encoder") or name == "model.outputs.0.weight")


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("implementation", ["foreach", "fused"])
def test_implementations_take_the_same_steps(name: str, implementation: str) -> None:
    classes = {"sgd": SgdConfig, "adam": AdamConfig, "adamw": AdamWConfig}
    values = {"name": name, "lr": 1e-2, "weight_decay": 0.1, "groups": {"norms": {"weight_decay": 0.0}}}
    expected = steps(build(classes[name], values))
    for key, value in steps(build(classes[name], {**values, "implementation": implementation})).items():
        torch.testing.assert_close(value, expected[key])


def test_a_state_is_loaded_by_another_implementation() -> None:
    """A run of a GPU, where `auto` is fused, that goes on without one."""
    first, trainer = build_optimizer(Trainer(), AdamConfig(name="adam", lr=1.0, implementation="fused")), Trainer()
    for parameter in first.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    set_learning_rates(first, ConstantConfig(name="constant", warmup_steps=10), 0, 100)
    first.step()
    second = build_optimizer(trainer, AdamConfig(name="adam", lr=1.0))
    load_optimizer(second, first.state_dict())
    assert not second.param_groups[0]["fused"]
    assert second.param_groups[0]["lr"] == 1.0
    assert float(second.state[second.param_groups[0]["params"][0]]["step"]) == 1
    trainer.loss().backward()
    second.step()


class Recorded(torch.optim.SGD):
    """In place of apex's optimizers: they are classes of a CUDA extension."""

    options: dict[str, Any]

    def __init__(self, groups: Any, lr: float, **options: Any) -> None:
        super().__init__(groups, lr=lr)
        self.options = options


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> None:
    package, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    optimizers.FusedSGD = type("FusedSGD", (Recorded,), {})
    optimizers.FusedAdam = type("FusedAdam", (Recorded,), {})
    for name, module in (("apex", package), ("apex.optimizers", optimizers), ("amp_C", ModuleType("amp_C"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


@pytest.mark.usefixtures("apex")
def test_apex_gets_what_makes_its_optimizers_ours() -> None:
    for config, name, options in (
        (SgdConfig(name="sgd", lr=0.1, implementation="apex"), "FusedSGD", {"momentum": 0.9}),
        (AdamConfig(name="adam", lr=0.1, implementation="apex"), "FusedAdam", {"betas": (0.9, 0.99), "adam_w_mode": False}),
        (AdamWConfig(name="adamw", lr=0.1, implementation="apex"), "FusedAdam", {"betas": (0.9, 0.999), "adam_w_mode": True}),
    ):
        assert list(optimizer_problems(config)) == []
        optimizer = build_optimizer(Trainer(), config)
        assert type(optimizer).__name__ == name
        assert isinstance(optimizer, Recorded)
        assert optimizer.options == {"weight_decay": config.weight_decay, **options}
        assert [group["name"] for group in optimizer.param_groups] == ["own", "rest"]


@pytest.mark.usefixtures("apex")
@pytest.mark.parametrize("missing", ["amp_C", "apex.optimizers"])
def test_apex_that_is_not_there_or_not_built_is_told_with_the_way_to_build_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of that name on the registry has no optimizers; one that was built without its extension has no kernels."""
    monkeypatch.setitem(sys.modules, missing, None)
    config = SgdConfig(name="sgd", lr=0.1, implementation="apex")
    (problem,) = optimizer_problems(config)
    assert missing in problem
    assert "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install" in problem
    with pytest.raises(InputError, match=r"optim\.implementation: apex found, but not installed"):
        build_optimizer(Trainer(), config)


@pytest.mark.usefixtures("apex")
def test_apex_without_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (problem,) = optimizer_problems(SgdConfig(name="sgd", lr=0.1, implementation="apex"))
    assert "no GPU" in problem


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.0}, "optim.lr: 0.0 found"),
        ({"lr": float("inf")}, "optim.lr: inf found"),
        ({"lr": 1.0, "weight_decay": -1.0}, "optim.weight_decay: -1.0 found"),
        ({"lr": 1.0, "betas": [0.9, 1.0]}, "optim.betas: [0.9, 1.0] found"),
        (
            {"lr": 1.0, "groups": {"heads": {"lr": 10}}},
            "optim.groups.heads: no such group, expected one of encoder, outputs, norms, biases",
        ),
        ({"lr": 1.0, "groups": {"outputs": {"lr": -1}}}, "optim.groups.outputs.lr: -1 found, expected a factor of 0 or more"),
        ({"lr": 1.0, "groups": {"outputs": {"rate": 1}}}, "optim.groups.outputs.rate: unknown key"),
        ({"lr": 1.0, "implementation": "appex"}, "optim.implementation: 'appex' found (did you mean apex?)"),
    ],
)
def test_values_that_make_no_optimizer_are_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(AdamConfig, {"name": "adam", **values}, key="optim")
    assert message in str(caught.value)
