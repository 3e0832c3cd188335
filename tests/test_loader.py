import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.loader import BatchLoader, StreamSource
from data.mixture import Mixture, Role, Stream
from data.shards import ShardSplit
from data.streams import StreamConfig, build_mixture
from data.transforms import CropConfig
from data.types import Batch
from trainers.loop import count_labels

NAMES = ("disks", "tones", "boxed")
QUOTAS = (1, 2, 1)


def loader(
    shards: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int = 2,
    max_skipped: int = 0,
    roles: tuple[Role, ...] = ("labelled", "labelled", "labelled"),
    quotas: tuple[int, ...] = QUOTAS,
    size: tuple[int, int] = (48, 64),
) -> BatchLoader:
    splits = {name: ShardSplit(shards / name, "train") for name in NAMES}
    streams = {name: StreamConfig(samples=quota, role=role) for name, quota, role in zip(NAMES, quotas, roles, strict=True)}
    mixture = build_mixture(streams, splits, {name: split.label_space.view() for name, split in splits.items()}, seed=5)
    sources = [StreamSource(dataset=name, split=split, crop=CropConfig(size=size)) for name, split in splits.items()]
    return BatchLoader(mixture, sources, rank=rank, world_size=world_size, num_threads=num_threads, max_skipped=max_skipped)


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


def test_200_steps_give_the_same_samples_on_any_number_of_ranks_and_across_resumes(shards: Path) -> None:
    """Keys and pixels as they come out of the loaders: 1, 2 and 4 ranks, other numbers of threads, stops in between."""
    whole = [(batch.sample_ids, batch.seeds.tolist(), batch.images.sum().item()) for batch in loader(shards).batches(0, 200)]
    for pieces in ([(0, 200, 2)], [(0, 200, 4)], [(0, 61, 1), (61, 62, 4), (62, 150, 2), (150, 200, 4)]):
        seen = []
        for begin, end, world_size in pieces:
            ranks = [
                loader(shards, rank=rank, world_size=world_size, num_threads=1 + rank % 3).batches(begin, end) for rank in range(world_size)
            ]
            seen += [undealt(batches) for batches in zip(*ranks, strict=True)]
        assert seen == whole


def test_200_steps_give_the_same_samples_on_8_ranks_and_when_their_number_changes(shards: Path) -> None:
    """Batches of 8, so that of the smaller streams most ranks have nothing; small crops, since only who gets what is looked at."""
    small = {"quotas": (3, 4, 1), "size": (32, 32), "num_threads": 1}
    whole = [(batch.sample_ids, batch.seeds.tolist(), batch.images.sum().item()) for batch in loader(shards, **small).batches(0, 200)]
    for pieces in ([(0, 200, 8)], [(0, 40, 8), (40, 41, 1), (41, 120, 4), (120, 200, 8)]):
        seen = []
        for begin, end, world_size in pieces:
            ranks = [loader(shards, rank=rank, world_size=world_size, **small).batches(begin, end) for rank in range(world_size)]
            seen += [undealt(batches) for batches in zip(*ranks, strict=True)]
        assert seen == whole


def undealt(batches: tuple[Batch, ...]) -> tuple[tuple[str, ...], list[int], int]:
    """The global batch that `batches` are the ranks' shares of: sample ids, seeds, the sum of all pixels."""
    ids = [""] * sum(len(batch.sample_ids) for batch in batches)
    seeds = [0] * len(ids)
    for rank, batch in enumerate(batches):
        ids[rank :: len(batches)] = batch.sample_ids
        seeds[rank :: len(batches)] = batch.seeds.tolist()
    return tuple(ids), seeds, sum(batch.images.sum().item() for batch in batches)


def test_labels_of_unlabelled_and_target_streams_are_hidden(shards: Path) -> None:
    batch = next(loader(shards, roles=("labelled", "unlabelled", "target")).batches(0, 1))
    assert {role: rows.tolist() for role, rows in batch.roles.items()} == {"labelled": [0], "unlabelled": [1, 2], "target": [3]}
    assert set(np.unique(batch.labels[0])) > {0}
    assert (batch.labels[1:] == 255).all()
    plain = next(loader(shards).batches(0, 1))
    assert torch.equal(batch.images, plain.images)
    assert not torch.equal(batch.labels, plain.labels)


def test_pixels_of_each_label_are_counted_by_stream(shards: Path) -> None:
    counts = torch.zeros(3, 256, dtype=torch.int64)
    expected = torch.zeros_like(counts)
    for batch in loader(shards).batches(0, 3):
        count_labels(batch, counts)
        for stream, rows in enumerate(batch.rows.values()):
            expected[stream] += torch.bincount(batch.labels[rows].flatten().long(), minlength=256)
    assert torch.equal(counts, expected)


@pytest.fixture
def with_bad_samples(shards: Path, tmp_path: Path) -> tuple[Path, set[str]]:
    """The shards with two pictures of tones overwritten: one with nonsense, one whose label has become no PNG; and their keys."""
    for name in NAMES:
        shutil.copytree(shards / name, tmp_path / name)
    split = ShardSplit(tmp_path / "tones", "train")
    bad = set()
    for sample, member in ((2, "image"), (7, "label")):
        row = split.index.slice(sample, 1).to_pylist()[0]
        with (tmp_path / "tones" / split.manifest.shards[row["shard"]].name).open("r+b") as file:
            file.seek(row[f"{member}_offset"])
            file.write(bytes(range(64)))
        bad.add(row["key"])
    return tmp_path, bad


def test_what_cannot_be_read_is_replaced_by_the_next_of_its_stream_alike_on_every_rank(
    shards: Path, with_bad_samples: tuple[Path, set[str]], caplog: pytest.LogCaptureFixture
) -> None:
    folder, bad = with_bad_samples
    good = list(loader(shards).batches(0, 20))
    whole = list(loader(folder, max_skipped=2).batches(0, 20))
    stream = [sample for batch in good for sample in batch.sample_ids if sample.startswith("tones/")]
    for before, after in zip(good, whole, strict=True):
        for one, other in zip(before.sample_ids, after.sample_ids, strict=True):
            if one not in stream or one.split("/")[-1] not in bad:
                assert other == one
                continue
            following = [sample for sample in stream[stream.index(one) :] if sample.split("/")[-1] not in bad]
            assert not following or other == following[0]
    for world_size in (2, 4):
        ranks = [loader(folder, rank=rank, world_size=world_size, max_skipped=2).batches(0, 20) for rank in range(world_size)]
        for batches, batch in zip(zip(*ranks, strict=True), whole, strict=True):
            assert undealt(batches)[0] == batch.sample_ids
    lines = [record.message for record in caplog.records if "epoch 0" in record.message]
    assert any("stream tones, epoch 0: passed over (1 of at most 2)" in line and "tones/train-0000" in line for line in lines)
    assert all(any(f"sample {key}: " in line for line in lines) for key in bad)


def test_too_many_unreadable_samples_end_the_run(with_bad_samples: tuple[Path, set[str]]) -> None:
    told = (
        r"data\.mix\.tones: 2 of 10 samples of epoch \d cannot be read, data\.max_skipped=1 "
        r".*sample train_0\d: does not decode"
    )
    with pytest.raises(InputError, match=told):
        list(loader(with_bad_samples[0], max_skipped=1).batches(0, 20))


def test_a_sample_that_does_not_decode_is_named(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content: bytes, **options: object) -> np.ndarray:
        raise ValueError("cut short")

    monkeypatch.setattr("data.loader.decode_image", broken)
    with pytest.raises(InputError, match=r"disks.train-0000\d\.tar: sample train_\d\d: does not decode: cut short"):
        list(loader(shards, num_threads=1).batches(0, 3))  # one thread: which error comes first is no matter of chance


def test_a_stream_without_a_readable_sample_ends_the_run(shards: Path, tmp_path: Path) -> None:
    for name in NAMES:
        shutil.copytree(shards / name, tmp_path / name)
    for path in (tmp_path / "boxed").glob("train-*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(InputError, match=r"data\.mix\.boxed: 10 samples in a row cannot be read"):
        list(loader(tmp_path, max_skipped=1000).batches(0, 3))


def test_rare_classes_with_few_images_that_cannot_be_read_end_the_run(with_bad_samples: tuple[Path, set[str]]) -> None:
    """Only the two bad samples can be drawn: there is none to take their place, whatever the limit."""

    class OnlyBad:
        num_samples = 10

        def sample(self, epoch: int, offset: int) -> int:
            return (2, 7)[offset % 2]

    split = ShardSplit(with_bad_samples[0] / "tones", "train")
    mixture = Mixture([Stream(name="tones", order=OnlyBad(), share=2)], seed=0, batch_size=2)
    source = StreamSource(dataset="tones", split=split, crop=CropConfig(size=(48, 64)))
    with pytest.raises(InputError, match=r"data\.mix\.tones: 10 samples in a row cannot be read"):
        list(BatchLoader(mixture, [source], max_skipped=50).batches(0, 2))
