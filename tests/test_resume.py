"""What a training sees when it is stopped and goes on with another number of workers: each sample in its place, once."""

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from test_distributed import on_ranks
from tiny import TINY_JOB
from torch import Tensor

import conf
from data.config import build
from data.loader import BatchLoader
from data.types import Batch
from trainers.config import JobConfig
from trainers.job import build_loader, open_data
from trainers.loop import train
from trainers.ranks import Ranks

STEPS = 6


class StoppedHereError(Exception):
    """As if the worker had been stopped."""


def job_of(shards: Path, runs: Path) -> JobConfig:
    """Six steps of four samples, a checkpoint after every second."""
    words = [word for word in TINY_JOB if not word.startswith("data.mix=")]
    words += ["data.mix={disks: 2, tones: 1, boxed: 1}", f"data.root={shards}", f"run.dir={runs}", "run.name=moved", f"loop.steps={STEPS}"]
    return build(JobConfig, conf.compose("train", words))


def run_part(shards: Path, runs: Path, stop: int, rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """Train from the last checkpoint until the batch of step `stop` is asked for; leaves the ids of the batches that were taken."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        seen = spy_on_batches(patch, stop)
        with suppress(StoppedHereError):
            train(job_of(shards, runs), Ranks(rank=rank, world_size=world_size))
    out["seen"] = torch.tensor(list(json.dumps(seen).encode()), dtype=torch.uint8)


def spy_on_batches(patch: pytest.MonkeyPatch, stop: int) -> list[tuple[int, tuple[str, ...]]]:
    """Has every loader note step and ids of each batch that is taken from it, and stop whoever asks for that of `stop`."""
    seen: list[tuple[int, tuple[str, ...]]] = []
    batches = BatchLoader.batches

    def spying(self: BatchLoader, first_step: int, last_step: int) -> Iterator[Batch]:
        with closing(batches(self, first_step, last_step)) as real:
            for batch in real:
                if batch.step == stop:
                    raise StoppedHereError
                seen.append((batch.step, batch.sample_ids))
                yield batch

    patch.setattr(BatchLoader, "batches", spying)
    return seen


@pytest.mark.timeout(120)
def test_a_training_that_is_moved_sees_what_one_that_was_left_alone_sees(shards: Path, tmp_path: Path) -> None:
    """Two workers, stopped before step 3, then one, which goes on from the checkpoint of step 2."""
    job = job_of(shards, tmp_path / "runs")
    expected = [list(batch.sample_ids) for batch in build_loader(job, open_data(job), Ranks()).batches(0, STEPS)]
    for world_size, first, stop in ((2, 0, 3), (1, 2, STEPS)):
        part, folder = partial(run_part, shards, tmp_path / "runs", stop), tmp_path / f"{world_size} workers"
        folder.mkdir()
        outs: list[dict[str, Tensor]] = [{}]
        if world_size == 1:
            part(0, 1, outs[0])
        else:
            outs = on_ranks(part, folder, world_size)
        ranks = [json.loads(bytes(out["seen"].tolist())) for out in outs]
        for seen in ranks:
            assert [step for step, _ in seen] == list(range(first, stop))
        for step, shares in zip(range(first, stop), zip(*ranks, strict=True), strict=True):
            ids = [""] * 4
            for rank, (_, share) in enumerate(shares):
                ids[rank::world_size] = share
            assert ids == expected[step]
