"""Memory of a reader at 10 and at 10,000 shards of 128 samples, index, order of samples and open shards included.

    python -m benchmarks.reader_memory

The shards are hard links to one tar; the index has a row for every sample. Each count is read in a process of its own.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa

from benchmarks.drawn import PictureSet, draw_picture, folder_for, write_meta
from data.index import read_index, write_index
from data.loader import BatchLoader, StreamSource
from data.manifest import Manifest
from data.shards import ShardSplit, shard_name
from data.store import open_store
from data.streams import StreamConfig, build_mixture
from data.transforms import CropConfig
from taxomix import main as taxomix

SHARD = 128
"""Samples in each shard."""
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident bytes of a process."""

    anonymous: int
    """Its own: what it would need swap for."""
    file: int
    """Pages of files (libraries, the mapped index) that the system may drop and read again."""

    @classmethod
    def now(cls) -> "Memory":
        fields = {}
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            fields[name] = int(value.split()[0]) * 1024
        return cls(anonymous=fields["Anonymous"], file=fields["Rss"] - fields["Anonymous"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reader_memory", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--shards", nargs="+", type=int, default=[10, 10_000])
    parser.add_argument("--samples", type=int, default=8000, help="that are read")
    options = parser.parse_args(arguments)
    print("| shards | samples | MB of index | seconds to open | MB more after opening: own, of files | after reading: own, of files |")
    print("| --- | --- | --- | --- | --- | --- |")
    with folder_for(None) as folder:
        shard = write_one_shard(folder)
        for num_shards in options.shards:
            split = link_shards(shard, folder / str(num_shards), num_shards)
            context = get_context("spawn")
            with context.Pool(1) as pool:
                print(pool.apply(read, (split, num_shards, options.samples)))


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


def read(folder: Path, num_shards: int, num_samples: int) -> str:
    """Open the split, draw and read samples of it; one row of the table."""
    before, begin = Memory.now(), time.perf_counter()
    split = ShardSplit(folder, "train")
    seconds, opened = time.perf_counter() - begin, Memory.now()
    mixture = build_mixture({"many": StreamConfig(samples=BATCH)}, {"many": split}, {"many": split.label_space.view()}, seed=0)
    loader = BatchLoader(mixture, [StreamSource(dataset="many", split=split, crop=CropConfig(size=(64, 64)))], num_threads=2)
    for batch in loader.batches(0, num_samples // BATCH):
        del batch
    after = Memory.now()
    cells = [f"{num_shards:,}", f"{len(split):,}", f"{(folder / 'train.arrow').stat().st_size / 1e6:.1f}", f"{seconds:.2f}"]
    cells += [f"{(now.anonymous - before.anonymous) / 1e6:.1f}, {(now.file - before.file) / 1e6:.1f}" for now in (opened, after)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
