"""The average of the weights."""

import pytest
import torch
from torch import nn

from data.errors import InputError
from trainers.ema import Average, EmaConfig


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def train(network: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    network(torch.randn(4, 2, 5, 5, generator=generator))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


def test_decays_warm_up_as_in_paper_001() -> None:
    config = EmaConfig(decay=0.9)
    assert [config.at(step) for step in (0, 1, 10)] == pytest.approx([1 / 10, 2 / 11, 11 / 20])
    assert config.at(1000) == 0.9
    assert EmaConfig(decay=0.9, warmup=False).at(0) == 0.9


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_none_is_told(decay: float) -> None:
    with pytest.raises(InputError, match=r"decay: .* found"):
        EmaConfig(decay=decay)


def test_the_average_is_that_of_the_formula_statistics_included() -> None:
    network, config = module(), EmaConfig(decay=0.9)
    average = Average(network)
    expected = {name: value.double() for name, value in network.state_dict().items()}
    for step in range(20):
        train(network, step)
        average.update(config.at(step))
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double() if value.is_floating_point() else value.double()
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert value.dtype == network.state_dict()[name].dtype
    assert average.state_dict()["1.num_batches_tracked"] == 20


def test_a_module_has_the_average_inside_and_its_own_again_afterwards_whatever_happens() -> None:
    network = module()
    average = Average(network)
    train(network, 0)
    average.update(0.5)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), average.in_place():  # noqa: PT012
        assert all(torch.equal(value, average.state_dict()[name]) for name, value in network.state_dict().items())
        raise KeyboardInterrupt
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())


def test_a_state_goes_on_where_it_was() -> None:
    network, other = module(), module()
    average, again = Average(network), Average(other)
    train(network, 0)
    average.update(0.5)
    again.load_state_dict(average.state_dict())
    assert all(torch.equal(value, average.state_dict()[name]) for name, value in again.state_dict().items())
    again.reset()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in again.state_dict().items())


def test_what_is_an_average_already_is_copied() -> None:
    network = nn.ModuleDict({"model": module(), "teacher": module()})
    average = Average(network, ("teacher.",))
    for name in network:
        train(network[name], 0)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    average.update(0.5)
    for name, value in network.state_dict().items():
        assert torch.equal(average.state_dict()[name], value) == (name.startswith("teacher.") or name.endswith("num_batches_tracked")), name
    moved = average.state_dict()["model.0.weight"]
    torch.testing.assert_close(moved, (before["model.0.weight"] + network.state_dict()["model.0.weight"]) / 2)
