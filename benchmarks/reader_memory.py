"""Memory of a reader at 10 and at 10,000 shards of 128 samples, index, order of samples and open shards included.

    python -m benchmarks.reader_memory

The shards are hard links to one tar; the index has a row for every sample. Each row of the table is a process of its own.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa

from benchmarks.drawn import PictureSet, draw_picture, folder_for, write_meta
from benchmarks.process import Memory, forget_peak, peak
from data.index import read_index, write_index
from data.loader import BatchLoader, StreamSource
from data.manifest import Manifest
from data.shards import ShardSplit, shard_name
from data.store import open_store
from data.streams import RareClassConfig, StreamConfig, build_mixture
from data.transforms import CropConfig
from taxomix import main as taxomix

SHARD = 128
"""Samples in each shard."""
BATCH = 8
STREAMS = {
    "plain": StreamConfig(samples=BATCH),
    "subset": StreamConfig(samples=BATCH, subset="1/2"),
    "rare_classes": StreamConfig(samples=BATCH, rare_classes=RareClassConfig(min_pixels=100)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reader_memory", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--shards", nargs="+", type=int, default=[10, 10_000])
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--samples", type=int, default=8000, help="that are read")
    options = parser.parse_args(arguments)
    columns = ["shards", "samples", "stream", "MB of index", "seconds to open", "MB more after opening: own, of files"]
    columns += ["at most until then", "after reading: own, of files"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    with folder_for(None) as folder:
        shard = write_one_shard(folder)
        for num_shards in options.shards:
            split = link_shards(shard, folder / str(num_shards), num_shards)
            for stream in options.streams:
                with get_context("spawn").Pool(1) as pool:
                    print(pool.apply(read, (split, num_shards, stream, options.samples)), flush=True)


def write_one_shard(folder: Path) -> Path:
    """The folder of a split of one shard."""
    pictures = PictureSet(name="small", height=64, width=128, quality=90, crop=64, grey_labels=False)
    source = folder / "source"
    write_meta(source, pictures.name)
    for number in range(SHARD):
        draw_picture(pictures, source, number)
    words = ["dataset=folder", f"source={source}", f"out={folder / 'one'}", f"samples_per_shard={SHARD}"]
    if taxomix(["prepare", *words]):
        raise SystemExit("the shard could not be prepared")
    return folder / "one" / pictures.name


def link_shards(one: Path, folder: Path, num_shards: int) -> Path:
    """A split of `num_shards` shards that are all the same tar; gives its folder."""
    folder.mkdir()
    manifest = Manifest.read(open_store(one), "train")
    for number in range(num_shards):
        os.link(one / shard_name("train", 0), folder / shard_name("train", number))
    with (one / "train.arrow").open("rb") as file:
        rows = read_index(file.fileno(), origin="train.arrow")
    many = pa.concat_tables([rows] * num_shards)
    shards = pa.array([number for number in range(num_shards) for _ in range(SHARD)], pa.int32())
    keys = pa.array([f"{number:05d}_{key}" for number in range(num_shards) for key in rows["key"].to_pylist()])
    for name, values in (("shard", shards), ("key", keys)):
        many = many.set_column(many.schema.get_field_index(name), name, values)
    write_index(folder / "train.arrow", [many])
    replace(manifest, shards=tuple(replace(manifest.shards[0], name=shard_name("train", number)) for number in range(num_shards))).write(
        folder
    )
    return folder


def read(folder: Path, num_shards: int, stream: str, num_samples: int) -> str:
    """Open a stream of the split, draw and read samples of it; one row of the table."""
    forget_peak()
    before, begin = Memory.now(), time.perf_counter()
    split = ShardSplit(folder, "train")
    mixture = build_mixture({"many": STREAMS[stream]}, {"many": split}, {"many": split.label_space.view()}, seed=0)
    seconds, most, opened = time.perf_counter() - begin, peak(), Memory.now()
    loader = BatchLoader(mixture, [StreamSource(dataset="many", split=split, crop=CropConfig(size=(64, 64)))], num_threads=2)
    for batch in loader.batches(0, num_samples // BATCH):
        del batch
    after = Memory.now()
    cells = [f"{num_shards:,}", f"{len(split):,}", stream, f"{(folder / 'train.arrow').stat().st_size / 1e6:.1f}", f"{seconds:.2f}"]
    cells += [opened.more_than(before), f"{(most - before.total) / 1e6:.1f}", after.more_than(before)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
