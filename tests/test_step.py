"""The step: precision, several batches, clipping, and steps that are skipped."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from test_distributed import CPU, NUM_STEPS, global_batch, on_ranks, share
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.types import Batch
from models.batchnorm import synchronise_batchnorm
from models.outputs.base import LossTerm
from trainers.ema import Average
from trainers.ranks import Ranks
from trainers.step import GRADIENT, StepResult, train_step
from trainers.update import Update


class Toy(nn.Module):
    """A convolution and BatchNorm with two terms of a loss; `spoil` may change their totals."""

    def __init__(self, spoil: Callable[[Batch, Tensor], Tensor] = lambda batch, total: total) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        self.spoil = spoil
        self.dtypes: set[torch.dtype] = set()

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        out = self.network(batch.images.to(self.network[2].weight.dtype) / 255)
        self.dtypes.add(out.dtype)
        totals = out.to(torch.promote_types(out.dtype, torch.float32)).square().sum(dim=(0, 2, 3))
        count = torch.tensor(out[:, 0].numel())
        return {"a": LossTerm(totals[0], count), "b": LossTerm(self.spoil(batch, totals[1]), count * 2, weight=0.5)}


def step(toy: Toy, batches: Sequence[Batch], **options: object) -> tuple[StepResult, Update]:
    update = Update(toy, torch.optim.SGD(toy.parameters(), lr=0.1, momentum=0.9), accumulate=len(batches), **options)  # type: ignore[arg-type]
    return train_step(toy, batches, update, Ranks()), update


def gradients(toy: Toy) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in toy.parameters() if parameter.grad is not None]


def test_several_batches_give_the_mean_of_their_gradients_and_losses() -> None:
    batches = [global_batch(number) for number in range(3)]
    single, losses = [], []
    for batch in batches:
        toy = Toy()
        losses.append(step(toy, [batch])[0].losses)
        single.append(gradients(toy))
    toy = Toy()
    result, _ = step(toy, batches)
    for found, parts in zip(gradients(toy), zip(*single, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(parts).mean(dim=0))
    assert result.losses == pytest.approx({name: sum(loss[name] for loss in losses) / 3 for name in ("a", "b")})


def test_the_loss_of_a_term_is_that_of_the_batches_that_have_a_pixel_of_it() -> None:
    class Sparse(Toy):
        """`b` has pixels in the batches 1 and 2 alone, `c` never."""

        def forward(self, batch: Batch) -> dict[str, LossTerm]:
            terms = super().forward(batch)
            if batch.step == 0:
                terms["b"] = LossTerm(terms["b"].total * 0, torch.tensor(0))
            return {**terms, "c": LossTerm(terms["a"].total * 0, torch.tensor(0))}

    batches = [global_batch(number) for number in range(3)]
    alone = [step(Sparse(), [batch])[0].losses for batch in batches]
    assert [list(losses) for losses in alone] == [["a"], ["a", "b"], ["a", "b"]]
    together, _ = step(Sparse(), batches)
    assert together.losses == pytest.approx({"a": sum(losses["a"] for losses in alone) / 3, "b": (alone[1]["b"] + alone[2]["b"]) / 2})


def test_a_step_is_that_of_the_arithmetic() -> None:
    toy, reference = Toy(), Toy()
    result, _ = step(toy, [global_batch(0)])
    terms = reference(global_batch(0))
    (terms["a"].total / terms["a"].count + 0.5 * terms["b"].total / terms["b"].count).backward()
    for found, expected in zip(toy.parameters(), reference.parameters(), strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(found, expected - 0.1 * expected.grad)
    assert result.losses == pytest.approx({name: float((term.total / term.count).detach()) for name, term in terms.items()})
    assert result.grad_norm is None
    assert not result.spoiled


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    free, clipped = Toy(), Toy()
    step(free, [global_batch(0)])
    norm = float(torch.cat([gradient.flatten() for gradient in gradients(free)]).norm())
    result, _ = step(clipped, [global_batch(0)], clip_norm=norm / 4)
    assert result.grad_norm == pytest.approx(norm)
    for found, expected in zip(gradients(clipped), gradients(free), strict=True):
        torch.testing.assert_close(found, expected / 4, rtol=1e-4, atol=1e-7)
    result, _ = step(clipped, [global_batch(0)], clip_norm=1e9)
    assert result.grad_norm is not None


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_networks_compute_in_the_precision_and_weights_stay_float32(precision: str, dtype: torch.dtype) -> None:
    toy, reference = Toy(), Toy()
    result, _ = step(toy, [global_batch(0)], precision=precision)
    expected, _ = step(reference, [global_batch(0)])
    assert toy.dtypes == {dtype}
    assert {value.dtype for value in (*toy.parameters(), *toy.buffers())} == {torch.float32, torch.int64}
    assert result.losses == pytest.approx(expected.losses, rel=2e-2)
    assert (result.grad_norm is not None) == (precision == "fp16")
    for found, value in zip(toy.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found, value, rtol=0.05, atol=0.01)


def state_of(toy: Toy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in toy.state_dict().items()}


def same(toy: Toy, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in toy.state_dict().items())


def spoiled_at(number: int, value: float = float("nan")) -> Callable[[Batch, Tensor], Tensor]:
    return lambda batch, total: total * value if batch.step == number else total


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_with_a_loss_that_is_not_finite_changes_nothing_and_names_batch_and_term(precision: str) -> None:
    for value in (float("nan"), float("inf")):
        toy = Toy(spoiled_at(1, value))
        update = Update(toy, torch.optim.Adam(toy.parameters(), lr=0.1), precision=precision, accumulate=2)  # type: ignore[arg-type]
        train_step(toy, [global_batch(2), global_batch(3)], update, Ranks())
        before, scale = state_of(toy), update.scaler.get_scale()
        result = train_step(toy, [global_batch(0), global_batch(1)], update, Ranks())
        assert result.spoiled == ((1, "b"),)
        assert same(toy, before)
        assert update.scaler.get_scale() == scale
        assert all(float(state["step"]) == 1 for state in update.optimizer.state.values())
        assert not train_step(toy, [global_batch(2), global_batch(3)], update, Ranks()).spoiled
        assert not same(toy, before)


def test_statistics_that_a_picture_spoiled_are_put_back() -> None:
    toy = Toy()
    before = state_of(toy)
    with torch.no_grad():
        toy.network[0].weight[1, 0, 0, 0] = float("inf")
    spoiled_weight = state_of(toy)
    result, _ = step(toy, [global_batch(0)])
    assert {name for _, name in result.spoiled} == {"a", "b"}
    assert same(toy, spoiled_weight)
    assert torch.equal(toy.network[1].running_mean, before["network.1.running_mean"])


def infinite_slope(batch: Batch, total: Tensor) -> Tensor:
    return total + torch.sqrt(total - total.detach())


def test_clipping_tells_of_gradients_that_are_not_finite_though_the_loss_is() -> None:
    toy = Toy(infinite_slope)
    before = state_of(toy)
    result, _ = step(toy, [global_batch(0)], clip_norm=1.0)
    assert result.spoiled == ((0, GRADIENT),)
    assert same(toy, before)


def test_an_overflow_of_fp16_lowers_the_scale_and_is_no_spoiled_batch() -> None:
    toy = Toy(lambda batch, total: total * 1e3)
    update = Update(toy, torch.optim.SGD(toy.parameters(), lr=1e-9), precision="fp16")
    before, scale = [value.clone() for value in toy.parameters()], update.scaler.get_scale()
    result = train_step(toy, [global_batch(0)], update, Ranks())
    assert not result.spoiled
    assert result.grad_norm is not None
    assert not torch.isfinite(torch.tensor(result.grad_norm))
    assert update.scaler.get_scale() == scale / 2
    assert all(torch.equal(now, value) for now, value in zip(toy.parameters(), before, strict=True))
    for _ in range(20):
        result = train_step(toy, [global_batch(0)], update, Ranks())
    assert result.grad_norm is not None
    assert torch.isfinite(torch.tensor(result.grad_norm))


def test_a_gradient_that_no_scale_makes_finite_counts_under_fp16_too() -> None:
    toy = Toy(infinite_slope)
    update = Update(toy, torch.optim.SGD(toy.parameters(), lr=0.1), precision="fp16")
    results = [train_step(toy, [global_batch(0)], update, Ranks()) for _ in range(20)]
    assert not results[0].spoiled
    assert results[-1].spoiled == ((0, GRADIENT),)


def run_updates(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """Steps of two batches in float64 with clipping and an average; in the third the loss of one picture is not finite."""
    trainer = Toy(lambda batch, total: total * torch.nan if batch.step == 5 and "z" in batch.sample_ids else total).double()
    average = Average(trainer)
    wrapped: nn.Module = trainer
    if world_size > 1:
        wrapped = DistributedDataParallel(synchronise_batchnorm(trainer, CPU), gradient_as_bucket_view=True)
    update = Update(trainer, torch.optim.Adam(trainer.parameters(), lr=1e-3), accumulate=2, clip_norm=0.5)
    curve, skipped = [], []
    for number in range(NUM_STEPS):
        batches = [share(global_batch(2 * number + part), rank, world_size) for part in range(2)]
        before = {name: value.clone() for name, value in trainer.state_dict().items()}
        result = train_step(wrapped, batches, update, Ranks(rank=rank, world_size=world_size))
        average.update(0.7)
        skipped.append(all(torch.equal(value, before[name]) for name, value in trainer.state_dict().items()))
        assert bool(result.spoiled) == skipped[-1] == (number == 2)
        if not result.spoiled:
            curve.append([*result.losses.values(), result.grad_norm])
    out["curve"] = torch.tensor(curve, dtype=torch.float64)
    out |= {name: value.detach() for name, value in trainer.state_dict().items()}
    out |= {f"average.{name}": value for name, value in average.state_dict().items()}


@pytest.mark.timeout(120)
def test_one_and_two_ranks_take_and_skip_the_same_steps(tmp_path: Path) -> None:
    single: dict[str, Tensor] = {}
    run_updates(0, 1, single)
    ranks = on_ranks(run_updates, tmp_path)
    for name, value in single.items():
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-6, atol=1e-7, msg=partial("{}: {}".format, name))
        assert torch.equal(ranks[0][name], ranks[1][name]), name


def run_mixed(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    for precision in ("bf16", "fp16"):
        trainer = Toy()
        wrapped: nn.Module = trainer
        if world_size > 1:
            wrapped = DistributedDataParallel(synchronise_batchnorm(trainer, CPU))
        update = Update(trainer, torch.optim.SGD(trainer.parameters(), lr=1e-3), precision=precision)  # type: ignore[arg-type]
        for number in range(3):
            batch = share(global_batch(number), rank, world_size)
            result = train_step(wrapped, [batch], update, Ranks(rank=rank, world_size=world_size))
            assert not result.spoiled
        out |= {f"{precision}.{name}": value.detach() for name, value in trainer.state_dict().items()}


@pytest.mark.timeout(120)
def test_mixed_precision_on_two_ranks_is_as_on_one(tmp_path: Path) -> None:
    single: dict[str, Tensor] = {}
    run_mixed(0, 1, single)
    for rank in on_ranks(run_mixed, tmp_path):
        for name, value in single.items():
            torch.testing.assert_close(rank[name], value, rtol=2e-2, atol=2e-3)
