"""Training from an S3 server that fails: the same samples as from a local folder, or a clear error."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from s3 import FaultyServer, faulty_s3, needs_s3
from tiny import read_metrics

from data.cache import CacheConfig
from data.errors import InputError
from data.loader import BATCHES_AHEAD, BatchLoader, StreamSource
from data.prefetch import Shard
from data.shards import ShardSplit
from data.store import RemoteStore
from data.streams import StreamConfig, build_mixture
from data.transforms import CropConfig
from taxomix import main

pytestmark = [needs_s3(), pytest.mark.timeout(100)]

NAMES = ("disks", "tones", "boxed")


@pytest.fixture
def server(shards: Path) -> FaultyServer:
    """A server that holds the prepared datasets below `set`; their shards have 4 samples, so each train split has 3."""
    with faulty_s3() as running:
        for name in NAMES:
            for path in (shards / name).iterdir():
                running.put(f"set/{name}/{path.name}", path.read_bytes())
        yield running


def loader(
    root: str | Path, cache: CacheConfig | None = None, *, samples: int = 2, max_skipped: int = 0, world_size: int = 1, rank: int = 0
) -> BatchLoader:
    splits = {name: ShardSplit(f"{root}/{name}", "train", cache=cache) for name in NAMES}
    views = {name: split.label_space.view() for name, split in splits.items()}
    mixture = build_mixture({name: StreamConfig(samples=samples) for name in NAMES}, splits, views, seed=1, window=4)
    sources = [StreamSource(dataset=name, split=split, crop=CropConfig(size=(32, 48))) for name, split in splits.items()]
    return BatchLoader(mixture, sources, max_skipped=max_skipped, rank=rank, world_size=world_size)


def digest(loader: BatchLoader, first: int = 0, last: int = 12) -> list[tuple[tuple[str, ...], int]]:
    return [(batch.sample_ids, int((batch.images.long() * torch.arange(48)).sum())) for batch in loader.batches(first, last)]


def test_a_server_with_faults_gives_what_the_folder_gives(server: FaultyServer, shards: Path, tmp_path: Path) -> None:
    """Errors, cut transfers and stalls, through a cache that cannot hold all shards."""
    faults = server.faults
    faults.status("disks/train-00000.tar", 503, times=3)
    faults.truncate("tones/train-00001.tar", 5000, times=2)
    faults.stall("boxed/train-00002.tar", 700)
    faults.status("disks/train.arrow", 500, times=1)
    faults.status("tones/train.json", 503, times=1)
    size = sum(path.stat().st_size for name in NAMES for path in (shards / name).glob("train-*.tar"))
    cache = CacheConfig(folder=tmp_path / "cache", max_gb=size * 0.8 / 1e9, stall_seconds=1.0, retry_seconds=20)
    remote = loader(server.url("set"), cache)
    assert digest(remote) == digest(loader(shards))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) <= size * 0.8
    # Going on elsewhere needs nothing of the past.
    assert digest(loader(server.url("set"), cache), 9, 12) == digest(loader(shards), 9, 12)


def test_a_vanished_shard_is_passed_over_up_to_the_set_count(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CacheConfig(folder=tmp_path / "cache", retry_seconds=1)
    server.delete("set/tones/train-00001.tar")
    batches = digest(loader(server.url("set"), cache, max_skipped=4))
    assert len(batches) == 12
    lost = {f"train_{number:02}" for number in range(4, 8)}
    assert not {name.split("/")[-1] for ids, _ in batches for name in ids if name.startswith("tones/")} & lost
    assert any("tones/train-00001.tar: sample train_0" in record.message for record in caplog.records)
    told = (
        r"data\.mix\.tones: 3 of 10 samples of epoch \d cannot be read, data\.max_skipped=2 "
        r".*tones/train-00001\.tar"
    )
    with pytest.raises(InputError, match=told):
        digest(loader(server.url("set"), cache, max_skipped=2))


@pytest.mark.parametrize("fault", ["errors", "silence"])
def test_one_who_stops_does_not_wait_for_a_dead_server(server: FaultyServer, tmp_path: Path, fault: str) -> None:
    cache = CacheConfig(folder=tmp_path / "cache", retry_seconds=60, stall_seconds=60)
    batches = loader(server.url("set"), cache).batches(0, 12)
    if fault == "errors":
        server.faults.status(".tar", 503, times=1000)
    else:
        server.faults.stall(".tar", times=1000)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background is started to ignore it
    begin = time.monotonic()
    timer = threading.Timer(1.0, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(batches)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 15
    server.faults.clear()


def test_a_job_trains_from_a_server_as_from_a_folder(server: FaultyServer, tiny_job: list[str], tmp_path: Path) -> None:
    assert main([*tiny_job, "run.name=local"]) == 0
    server.faults.status("train-00001.tar", 503, times=4)
    server.faults.truncate("val-00000.tar", 100, times=1)
    remote = [word for word in tiny_job if not word.startswith("data.root=")]
    words = [f"data.root={server.url('set')}", f"data.cache.folder={tmp_path / 'cache'}", "data.cache.stall_seconds=5", "run.name=remote"]
    assert main([*remote, *words]) == 0
    for name in ("loss/disks", "loss/tones", "loss/boxed", "miou/tones"):
        assert read_metrics(tmp_path / "runs" / "remote", name) == read_metrics(tmp_path / "runs" / "local", name)
    assert main(["evaluate", f"run={tmp_path / 'runs' / 'remote'}", f"cache.folder={tmp_path / 'cache'}"]) == 0


def test_a_store_that_cannot_be_used_is_one_line(
    server: FaultyServer, tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in tiny_job if not word.startswith("data.root=")] + [f"data.cache.folder={tmp_path / 'cache'}", "run.name=x"]
    assert main([*words, f"data.root={server.url('nothing')}"]) == 2
    assert "expected the shards of split 'train'" in capsys.readouterr().err
    assert main([*words, "data.root=s4://bucket/x"]) == 2
    assert "s4" in capsys.readouterr().err
    server.faults.status("disks/train.json", 403, times=99)
    assert main([*words, f"data.root={server.url('set')}", "data.cache.retry_seconds=1"]) == 2
    assert "disks/train.json" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def bad_keys(server: FaultyServer, shards: Path) -> set[str]:
    """Keys of three samples of tones that the server has overwritten in part: two neighbours of one shard, and the label of another."""
    split = ShardSplit(shards / "tones", "train")
    tars = {info.name: bytearray((shards / "tones" / info.name).read_bytes()) for info in split.manifest.shards}
    keys = set()
    for sample, member in ((2, "image"), (3, "image"), (7, "label")):
        row = split.index.slice(sample, 1).to_pylist()[0]
        begin = row[f"{member}_offset"]
        tars[split.manifest.shards[row["shard"]].name][begin : begin + 64] = bytes(range(64))
        keys.add(row["key"])
    for name, content in tars.items():
        server.put(f"set/tones/{name}", bytes(content))
    return keys


def test_what_a_server_has_damaged_is_replaced_alike_on_1_2_and_4_ranks(server: FaultyServer, bad_keys: set[str], tmp_path: Path) -> None:
    """Every rank on a host of its own, as it were: with a cache of its own."""

    def rank_of(world_size: int, rank: int) -> BatchLoader:
        cache = CacheConfig(folder=tmp_path / f"{rank} of {world_size}")
        return loader(server.url("set"), cache, samples=4, max_skipped=3, world_size=world_size, rank=rank)

    expected = substituted(rank_of(1, 0), bad_keys, last=10)
    for world_size in (1, 2, 4):
        seen = []
        for batches in zip(*[rank_of(world_size, rank).batches(0, 10) for rank in range(world_size)], strict=True):
            ids = [""] * 12
            for rank, batch in enumerate(batches):
                ids[rank::world_size] = batch.sample_ids
            seen.append(ids)
        assert seen == expected


def substituted(loader: BatchLoader, bad_keys: set[str], *, last: int) -> list[list[str]]:
    """What is to be in each global batch: for a draw of a bad sample that of the next draw of its stream that is good."""
    batches, num_substitutes = [], 0
    for step in range(last):
        ids = []
        for draw in loader.mixture.draws(step):
            name, split = loader.mixture.streams[draw.stream].name, loader.sources[draw.stream].split
            while name == "tones" and split.key(draw.sample) in bad_keys:
                draw = loader.mixture.draw(draw.stream, draw.number + 1)
                num_substitutes += 1
            ids.append(f"{name}/{draw.epoch}/{split.key(draw.sample)}")
        batches.append(ids)
    assert num_substitutes >= 12  # three in each of four epochs
    return batches


def test_shards_are_here_before_they_are_read(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody takes a batch, what fetches ahead brings the shards of all steps, not of those that are being read alone."""
    remote = loader(server.url("set"), CacheConfig(folder=tmp_path / "cache"), samples=1)
    being_read = shards_of(remote, 0, 1 + BATCHES_AHEAD)
    later = shards_of(remote, 0, 10) - being_read
    assert later
    opened: list[tuple[str, bool]] = []
    real_open = RemoteStore.open

    def spying_open(store: RemoteStore, name: str, **options: Any) -> int:
        opened.append((store.url(name), store.touch(name, size=options["size"])))
        return real_open(store, name, **options)

    monkeypatch.setattr(RemoteStore, "open", spying_open)
    batches = remote.batches(0, 10)
    next(batches)
    deadline = time.monotonic() + 20
    while not all(shard.store.touch(shard.name, size=shard.size) for shard in later):
        assert time.monotonic() < deadline, "nothing fetches ahead"
        time.sleep(0.02)
    names = {shard.store.url(shard.name) for shard in later}
    assert not names & {url for url, _ in opened}  # no thread that reads has asked for one of them
    assert len(list(batches)) == 9
    assert {url for url, is_here in opened if url in names and is_here} == names
    assert not {url for url, is_here in opened if url in names and not is_here}
    assert all(server.faults.gets[f"set/{url.split('/set/')[1]}"] == 1 for url in names)  # and each was brought once


def shards_of(loader: BatchLoader, first: int, last: int) -> set[Shard]:
    """The shards of the samples that are drawn in these steps."""
    draws = [draw for step in range(first, last) for draw in loader.mixture.draws(step)]
    return {loader.sources[draw.stream].split.shard(draw.sample) for draw in draws}
