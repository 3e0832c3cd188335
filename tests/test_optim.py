import pytest
import torch
from torch import nn

from data.errors import InputError
from trainers.optim import (
    AdamConfig,
    ConstantConfig,
    CosineConfig,
    PolyConfig,
    SgdConfig,
    build_optimizer,
    learning_rate,
    set_learning_rate,
)

STEPS = 100


def test_cosine_goes_from_the_base_to_the_floor() -> None:
    config = CosineConfig(name="cosine", min_lr=1e-6)
    assert learning_rate(4e-4, config, 0, STEPS) == pytest.approx(4e-4)
    assert learning_rate(4e-4, config, 50, STEPS) == pytest.approx((4e-4 + 1e-6) / 2)
    rates = [learning_rate(4e-4, config, step, STEPS) for step in range(STEPS)]
    assert rates == sorted(rates, reverse=True)
    assert 1e-6 < rates[-1] < 2e-6


def test_cosine_equals_torchs_after_the_warmup() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 10, eta_min=1e-3)
    config = CosineConfig(name="cosine", min_lr=1e-3, warmup_steps=10)
    assert [learning_rate(0.1, config, step, STEPS) for step in range(10)] == pytest.approx([0.01 * (i + 1) for i in range(10)])
    for step in range(10, STEPS):
        assert learning_rate(0.1, config, step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_poly_and_constant() -> None:
    poly = PolyConfig(name="poly", power=0.9)
    assert learning_rate(1.0, poly, 0, STEPS) == 1
    assert learning_rate(1.0, poly, 50, STEPS) == pytest.approx(0.5**0.9)
    assert learning_rate(0.3, ConstantConfig(name="constant"), 77, STEPS) == 0.3


def test_optimizers_have_what_the_config_says() -> None:
    model = nn.Conv2d(2, 3, 1)
    adam = build_optimizer(model, AdamConfig(name="adam", lr=1e-3, weight_decay=0.1, betas=(0.8, 0.9)))
    assert isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["betas"] == (0.8, 0.9)
    assert adam.param_groups[0]["weight_decay"] == 0.1
    sgd = build_optimizer(model, SgdConfig(name="sgd", lr=1e-2, momentum=0.7))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.7
    set_learning_rate(sgd, 0.5)
    assert sgd.param_groups[0]["lr"] == 0.5
    assert len(sgd.param_groups[0]["params"]) == 2


def test_a_rate_of_zero_is_told() -> None:
    with pytest.raises(InputError, match=r"optim\.lr: 0\.0 found"):
        AdamConfig(name="adam", lr=0.0)
