"""Learning rates as functions of the step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from data.config import build
from data.errors import InputError
from trainers.schedule import (
    ConstantConfig,
    CosineConfig,
    PolyConfig,
    ScheduleConfig,
    StepsConfig,
    learning_rate,
    schedule_notes,
    schedule_problems,
)

STEPS = 100

SCHEDULES: dict[str, ScheduleConfig] = {
    "cosine": CosineConfig(name="cosine", warmup_steps=7, hold=3),
    "outer": PolyConfig(name="poly", warmup_steps=7, hold=3),
    "inner": PolyConfig(name="poly", form="inner", warmup_steps=7, hold=3),
    "steps": StepsConfig(name="steps", milestones=(30, 60), warmup_steps=7, hold=3),
    "constant": ConstantConfig(name="constant", warmup_steps=7, hold=3),
}


def test_cosine_goes_from_the_base_to_the_floor() -> None:
    config = CosineConfig(name="cosine", min_lr=1e-6)
    assert learning_rate(4e-4, config, 0, STEPS) == pytest.approx(4e-4)
    assert learning_rate(4e-4, config, 50, STEPS) == pytest.approx((4e-4 + 1e-6) / 2)
    rates = [learning_rate(4e-4, config, step, STEPS) for step in range(STEPS)]
    assert rates == sorted(rates, reverse=True)
    assert 1e-6 < rates[-1] < 2e-6


def test_the_floor_of_cosine_is_the_same_for_all_groups_and_raises_none() -> None:
    config = CosineConfig(name="cosine", min_lr=1e-6)
    assert learning_rate(4e-4, config, STEPS, STEPS) == pytest.approx(1e-6)
    assert learning_rate(1e-4, config, STEPS, STEPS) == pytest.approx(1e-6)
    assert learning_rate(0.0, config, 50, STEPS) == 0  # of a group that is not to be trained


def test_cosine_equals_torchs_after_the_warmup() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 10, eta_min=1e-3)
    config = CosineConfig(name="cosine", min_lr=1e-3, warmup_steps=10)
    assert [learning_rate(0.1, config, step, STEPS) for step in range(10)] == pytest.approx([0.01 * (i + 1) for i in range(10)])
    for step in range(10, STEPS):
        assert learning_rate(0.1, config, step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_both_forms_of_poly_and_constant() -> None:
    poly, inner = PolyConfig(name="poly", power=0.9), PolyConfig(name="poly", power=0.9, form="inner")
    assert learning_rate(1.0, poly, 0, STEPS) == learning_rate(1.0, inner, 0, STEPS) == 1
    assert learning_rate(1.0, poly, 50, STEPS) == pytest.approx(0.536, abs=5e-4)
    assert learning_rate(1.0, inner, 50, STEPS) == pytest.approx(0.464, abs=5e-4)
    assert learning_rate(0.3, ConstantConfig(name="constant"), 77, STEPS) == 0.3


def test_steps_halve_at_their_milestones() -> None:
    """Paper 001: 0.01, 0.005 and 0.0025, changed after 8 and 15 of 17 epochs."""
    config = StepsConfig(name="steps", milestones=(8, 15))
    rates = [learning_rate(0.01, config, step, 17) for step in range(17)]
    assert rates == pytest.approx([0.01] * 8 + [0.005] * 7 + [0.0025] * 2)


def test_held_rates_are_those_of_the_first_step_of_an_epoch() -> None:
    """SwiftNet's code: a cosine of the epochs."""
    config, by_epoch = CosineConfig(name="cosine", hold=4), CosineConfig(name="cosine")
    for step in range(STEPS):
        assert learning_rate(4e-4, config, step, STEPS) == pytest.approx(learning_rate(4e-4, by_epoch, step // 4, STEPS // 4))


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(0, STEPS - 1))
def test_every_schedule_warms_up_holds_and_scales_with_its_base(name: str, step: int) -> None:
    config = SCHEDULES[name]
    rate = learning_rate(1.0, config, step, STEPS)
    assert 0 < rate <= 1
    if step < 7:
        assert rate == pytest.approx((step + 1) / 7)
    else:
        assert rate == learning_rate(1.0, config, max(7, step - step % 3), STEPS)
    if name != "cosine":
        assert learning_rate(0.25, config, step, STEPS) == pytest.approx(rate / 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "cosine", "warmup_steps": -1}, "schedule.warmup_steps: -1 found"),
        ({"name": "cosine", "min_lr": -1.0}, "schedule.min_lr: -1.0 found"),
        ({"name": "poly", "hold": 0}, "schedule.hold: 0 found"),
        ({"name": "poly", "power": 0.0}, "schedule.power: 0.0 found"),
        ({"name": "poly", "form": "upside"}, "form: 'upside' found"),
        ({"name": "steps", "milestones": [5, 5]}, "schedule.milestones: [5, 5] found, expected steps that rise"),
        ({"name": "steps", "milestones": []}, "schedule.milestones: [] found"),
        ({"name": "steps", "milestones": [5], "factor": 0.0}, "schedule.factor: 0.0 found"),
    ],
)
def test_values_that_make_no_schedule_are_told(values: dict[str, object], message: str) -> None:
    classes = {"cosine": CosineConfig, "poly": PolyConfig, "steps": StepsConfig}
    with pytest.raises(InputError) as caught:
        build(classes[str(values["name"])], values)
    assert message in str(caught.value)


def test_what_a_schedule_cannot_do_in_so_few_steps_is_told() -> None:
    assert list(schedule_problems(CosineConfig(name="cosine", warmup_steps=99), 100)) == []
    (problem,) = schedule_problems(CosineConfig(name="cosine", warmup_steps=100), 100)
    assert problem == "schedule.warmup_steps: 100 found, expected fewer than loop.steps=100; lower it, or train longer"
    steps = StepsConfig(name="steps", milestones=(50, 100, 150))
    assert list(schedule_notes(steps, 100)) == ["schedule.milestones: 100, 150 never come in loop.steps=100"]
    assert list(schedule_notes(steps, 151)) == []
    (note,) = schedule_notes(PolyConfig(name="poly", hold=495), 400)
    assert note.startswith("schedule.hold: 495 is no less than loop.steps=400")
    assert list(schedule_notes(PolyConfig(name="poly"), 1)) == []
