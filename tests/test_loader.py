from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.loader import BatchLoader
from data.mixture import Mixture, Stream
from data.shards import ShardSplit
from data.transforms import CropConfig
from data.types import Batch

NAMES = ("disks", "tones", "boxed")
QUOTAS = (1, 2, 1)


def loader(shards: Path, *, rank: int = 0, world_size: int = 1, num_threads: int = 2) -> BatchLoader:
    splits = [ShardSplit(shards / name, "train") for name in NAMES]
    streams = [Stream(name=name, num_samples=len(split), quota=quota) for name, split, quota in zip(NAMES, splits, QUOTAS, strict=True)]
    crop = CropConfig(size=(48, 64))
    return BatchLoader(Mixture(streams, seed=5), splits, NAMES, crop, rank=rank, world_size=world_size, num_threads=num_threads)


def same(first: Batch, second: Batch) -> bool:
    return (
        first.sample_ids == second.sample_ids
        and first.step == second.step
        and torch.equal(first.images, second.images)
        and torch.equal(first.labels, second.labels)
    )


@pytest.mark.parametrize("num_threads", [1, 4])
def test_batches_do_not_depend_on_threads_or_where_one_starts(shards: Path, num_threads: int) -> None:
    batches = list(loader(shards).batches(0, 8))
    assert [batch.step for batch in batches] == list(range(8))
    again = list(loader(shards, num_threads=num_threads).batches(3, 8))
    assert all(same(first, second) for first, second in zip(batches[3:], again, strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_hold_the_samples_of_the_global_batch(shards: Path, world_size: int) -> None:
    whole = list(loader(shards).batches(0, 6))
    shares = [list(loader(shards, rank=rank, world_size=world_size).batches(0, 6)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        pixels = {name: batch.images[row] for row, name in enumerate(batch.sample_ids)}
        seen = [name for share in shares for name in share[step].sample_ids]
        assert sorted(seen) == sorted(batch.sample_ids)
        for share in shares:
            for row, name in enumerate(share[step].sample_ids):
                assert torch.equal(share[step].images[row], pixels[name])


def test_batches_are_uint8_channels_last_and_know_their_datasets(shards: Path) -> None:
    batch = next(loader(shards).batches(0, 1))
    assert batch.images.shape == (4, 3, 48, 64)
    assert batch.images.dtype == batch.labels.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert {name: rows.tolist() for name, rows in batch.rows.items()} == {"disks": [0], "tones": [1, 2], "boxed": [3]}
    assert set(np.unique(batch.labels[batch.rows["tones"]])) <= {3, 7, 9, 255}
    assert set(np.unique(batch.labels[batch.rows["boxed"]])) <= {0, 5, 255}


def test_every_dataset_is_a_key_on_every_rank(shards: Path) -> None:
    batches = [next(loader(shards, rank=rank, world_size=4).batches(0, 1)) for rank in range(4)]
    assert all(set(batch.rows) == set(NAMES) for batch in batches)
    assert [len(batch.rows["disks"]) for batch in batches] == [1, 0, 0, 0]


def test_a_sample_that_does_not_decode_is_named(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content: bytes) -> np.ndarray:
        raise ValueError("cut short")

    monkeypatch.setattr("data.loader.decode_jpeg", broken)
    with pytest.raises(InputError, match=r"disks.train-0000\d\.tar: sample train_\d\d: does not decode: cut short"):
        list(loader(shards).batches(0, 3))
