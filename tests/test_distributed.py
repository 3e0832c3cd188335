"""What holds over several processes: gloo, two ranks, hard time limits."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import TINY_JOB, damage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import conf
from data.config import build
from data.labels import Label, LabelSpace
from data.shards import ShardSplit
from data.types import Batch
from models.batchnorm import GlobalBatchNorm2d, synchronise_batchnorm
from models.model import build_model
from models.networks.swiftnet import SwiftNetConfig
from models.outputs.multihead import MultiHeadConfig
from trainers.config import JobConfig
from trainers.flat import FlatConfig, FlatTrainer
from trainers.loop import train
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder
from trainers.step import train_step
from trainers.update import Update

CPU = torch.device("cpu")


def on_ranks(function: Callable[..., None], folder: Path, world_size: int = 2) -> list[dict[str, Tensor]]:
    """Run function(rank, world_size, out) in gloo processes; gives what each left in its dictionary `out`."""
    context = mp.spawn(_entry, args=(world_size, function, folder), nprocs=world_size, join=False)
    deadline = time.monotonic() + 60
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the ranks did not finish in 60 s")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _entry(rank: int, world_size: int, function: Callable[..., None], folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=30))
    out: dict[str, Tensor] = {}
    function(rank, world_size, out)
    torch.save(out, folder / f"{rank}.pt")
    dist.destroy_process_group()


def batchnorm_case() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    bn = nn.BatchNorm2d(5, momentum=0.3, dtype=torch.float64)
    with torch.no_grad():
        bn.weight.copy_(torch.rand(5, generator=generator))
        bn.bias.copy_(torch.randn(5, generator=generator))
    # Means far from zero: a difference of squares would lose them.
    x = torch.randn(4, 5, 6, 7, generator=generator, dtype=torch.float64) * 2 + torch.arange(5).view(1, 5, 1, 1) * 100
    x = x.contiguous(memory_format=torch.channels_last)  # as in training
    return nn.Sequential(bn), x, torch.randn(4, 5, 6, 7, generator=generator, dtype=torch.float64)


def run_batchnorm(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    module, x, upstream = batchnorm_case()
    synchronise_batchnorm(module, CPU)
    assert type(module[0]) is GlobalBatchNorm2d
    # Uneven shares: rank 0 has three samples, rank 1 one; in a second call rank 1 has none.
    for call, bounds in enumerate(([0, 3, 4], [0, 4, 4])):
        share = slice(bounds[rank], bounds[rank + 1])
        local = x[share].clone().requires_grad_()
        y = module(local)
        (y * upstream[share]).sum().backward()
        assert local.grad is not None
        out[f"y{call}"], out[f"grad{call}"] = y.detach(), local.grad
    out["weight_grad"], out["bias_grad"] = module[0].weight.grad, module[0].bias.grad
    out["mean"], out["var"] = module[0].running_mean, module[0].running_var
    out["tracked"] = module[0].num_batches_tracked
    out["eval"] = module.eval()(x)


@pytest.mark.timeout(90)
def test_batchnorm_over_two_ranks_equals_one_batch(tmp_path: Path) -> None:
    ranks = on_ranks(run_batchnorm, tmp_path)
    module, x, upstream = batchnorm_case()
    for call in range(2):
        whole = x.clone().requires_grad_()
        y = module(whole)
        (y * upstream).sum().backward()
        torch.testing.assert_close(torch.cat([rank[f"y{call}"] for rank in ranks]), y.detach())
        torch.testing.assert_close(torch.cat([rank[f"grad{call}"] for rank in ranks]), whole.grad)
    torch.testing.assert_close(ranks[0]["weight_grad"] + ranks[1]["weight_grad"], module[0].weight.grad)
    torch.testing.assert_close(ranks[0]["bias_grad"] + ranks[1]["bias_grad"], module[0].bias.grad)
    for rank in ranks:
        torch.testing.assert_close(rank["mean"], module[0].running_mean)
        torch.testing.assert_close(rank["var"], module[0].running_var)
        assert rank["tracked"] == 2
    torch.testing.assert_close(ranks[1]["eval"], module.eval()(x))


def run_collectives(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    ranks = Ranks(rank=rank, world_size=world_size)
    out["sum"] = ranks.sum(torch.tensor([rank + 1, 10 * rank]))
    assert ranks.agree(7, "step") == 7
    try:
        ranks.agree(100 * rank, "last checkpoint")
    except RuntimeError as error:
        out["said"] = torch.tensor("last checkpoint: 0 on one worker and 100 on another" in str(error))


@pytest.mark.timeout(90)
def test_sums_and_agreement(tmp_path: Path) -> None:
    for out in on_ranks(run_collectives, tmp_path):
        assert out["sum"].tolist() == [3, 10]
        assert out["said"]


NUM_STEPS = 5


def run_steps(rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """Some steps with Adam in float64, so that rounding stays far below what an error would show."""
    torch.manual_seed(0)
    space = LabelSpace(name="some", labels=tuple(Label(id=i, name=str(i), color=(i, i, i)) for i in range(4)))
    views = {"a": space.view(), "b": space.view()}
    model = build_model(SwiftNetConfig(name="swiftnet"), MultiHeadConfig(name="multihead"), views)
    trainer: nn.Module = FlatTrainer(model, FlatConfig(name="flat", weights={"b": 0.3})).double()
    trainer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    losses = trainer
    if world_size > 1:
        losses = DistributedDataParallel(synchronise_batchnorm(trainer, CPU))
    update = Update(trainer, torch.optim.Adam(model.parameters(), lr=1e-3))
    curve = []
    for step in range(NUM_STEPS):
        batch = global_batch(step)
        result = train_step(losses, [share(batch, rank, world_size)], update, Ranks(rank=rank, world_size=world_size))
        curve.append(torch.tensor(list(result.losses.values()), dtype=torch.float64))
    out["curve"] = torch.stack(curve)
    out |= {name: value.detach() for name, value in trainer.state_dict().items()}


def global_batch(step: int) -> Batch:
    """Four samples: three of dataset a, the last of b, so that of two ranks only one holds b; a fifth of the pixels unknown."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    labels = torch.randint(0, 5, (4, 64, 64), dtype=torch.uint8, generator=generator)
    labels[0, : 10 * step] = 255
    rows = {"a": torch.tensor([0, 1, 2]), "b": torch.tensor([3])}
    return Batch(
        images=images,
        labels=labels,
        rows=rows,
        roles={},
        seeds=torch.arange(len(images)),
        sample_ids=("w", "x", "y", "z"),
        streams=torch.tensor([0, 0, 0, 1]),
        step=step,
    )


def share(batch: Batch, rank: int, world_size: int) -> Batch:
    mine = list(range(rank, 4, world_size))
    rows = {
        name: torch.tensor([mine.index(i) for i in index.tolist() if i in mine], dtype=torch.int64) for name, index in batch.rows.items()
    }
    ids = tuple(batch.sample_ids[i] for i in mine)
    return replace(
        batch,
        images=batch.images[mine],
        labels=batch.labels[mine],
        rows=rows,
        streams=batch.streams[mine],
        seeds=batch.seeds[mine],
        sample_ids=ids,
    )


@pytest.mark.timeout(120)
def test_one_and_two_ranks_take_the_same_steps(tmp_path: Path) -> None:
    single: dict[str, Tensor] = {}
    run_steps(0, 1, single)
    for rank in on_ranks(run_steps, tmp_path):
        for name, value in single.items():
            torch.testing.assert_close(rank[name], value, rtol=1e-7, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


def run_job(words: list[str], rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """A whole job; leaves what was reported of its evaluations."""

    def report(scores: dict[str, float]) -> None:
        out.update({name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()})

    train(build(JobConfig, conf.compose("train", words)), Ranks(rank=rank, world_size=world_size), report)


@pytest.mark.timeout(120)
def test_ranks_agree_on_what_an_evaluation_left_out(shards: Path, tmp_path: Path) -> None:
    """Of four images rank 1 cannot read two and rank 0 none: all are told of two, and there is no best checkpoint."""
    shutil.copytree(shards / "disks", tmp_path / "disks")
    split = ShardSplit(tmp_path / "disks", "val")
    damage(split, 1, 3)
    words = [*TINY_JOB, "data.mix={disks: 2}", "loop.steps=1", f"data.root={tmp_path}", f"run.dir={tmp_path}", "run.name=some"]
    first, second = on_ranks(partial(run_job, words), tmp_path)
    assert first == second
    assert first["left_out"] == 2
    folder = RunFolder(tmp_path / "some")
    content = json.loads(folder.evaluation.read_text())
    assert (content["images"], content["left_out"]) == ({"disks": 2}, {"disks": 2})
    assert content["left_out_keys"] == {"disks": [split.key(1), split.key(3)]}
    assert sum(map(sum, content["datasets"]["disks"]["confusion_matrix"])) == 2 * 70 * 96  # two rows of each are ignored
    assert sorted(path.name for path in folder.checkpoints.folder.iterdir()) == ["step-00000001.pt"]
