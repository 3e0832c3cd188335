"""`taxomix prepare`: from a dataset as it is downloaded to shards.

Shards are written into a hidden folder beside their place and moved there once those of all splits are done; a killed run
goes on with the shards that are missing, and bad input leaves nothing behind. The bytes do not depend on the number of processes.
"""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.adapters import DatasetConfig, open_sources
from data.errors import InputError
from data.files import sync_folder, write_text
from data.progress import track
from data.shards import Manifest, ShardInfo, read_index, shard_name, write_index, write_shard
from data.sources import Source
from data.store import open_store


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """The keys of `taxomix prepare`."""

    dataset: DatasetConfig
    out: Path
    source: Path | None = None
    samples_per_shard: int = 128
    jpeg_quality: int = 95
    workers: int | None = None
    """Processes; null: one per core."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise InputError(f"samples_per_shard: {self.samples_per_shard} found, expected at least 1; raise it")
        if not 1 <= self.jpeg_quality <= 100:
            raise InputError(f"jpeg_quality: {self.jpeg_quality} found, expected 1..100; mend it")
        if "://" in str(self.out):
            raise InputError(f"out: {self.out} found, expected a folder of this machine; prepare there and copy it to the store")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers: {self.workers} found, expected at least 1; raise it")


def prepare(config: PrepareConfig) -> list[tuple[Path, Manifest, bool]]:
    """Write every split of the dataset(s); gives the folder and the manifest of each, and whether it was there already."""
    jobs = []
    for name, source in open_sources(config.dataset, config.source).items():
        folder = config.out.absolute()
        folder = folder if folder.name == name else folder / name
        # All of a dataset's splits are listed, and so checked, before the first shard is written.
        jobs += [SplitJob(folder, name, split, source, entries, config) for split, entries in source.entries().items()]
    there = [job.manifest_if_done() for job in jobs]
    missing = [job for job, manifest in zip(jobs, there, strict=True) if manifest is None]
    try:
        tasks = [task for job in missing for task in job.missing_shards()]
        for _ in track(_run_tasks(tasks, config), total=len(tasks), what=f"prepare: shards of {config.samples_per_shard} samples"):
            pass
    except InputError:
        for job in missing:
            job.discard()
        raise
    return [(job.folder, manifest or job.publish(), manifest is not None) for job, manifest in zip(jobs, there, strict=True)]


class SplitJob:
    """The writing of one split of one dataset."""

    def __init__(self, folder: Path, dataset: str, split: str, source: Source, entries: Sequence[Any], config: PrepareConfig) -> None:
        self.folder, self.dataset, self.split, self.source, self.config = folder, dataset, split, source, config
        size = config.samples_per_shard
        self.shards = [entries[start : start + size] for start in range(0, len(entries), size)]
        self.staging = folder / f".{split}.partial"
        self.fingerprint = self._fingerprint(entries)

    def _fingerprint(self, entries: Sequence[Any]) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([self.source.label_space.to_dict(), self.config.samples_per_shard, self.config.jpeg_quality]).encode())
        for entry in entries:
            digest.update(self.source.fingerprint(entry).encode() + b"\n")
        return digest.hexdigest()

    def manifest_if_done(self) -> Manifest | None:
        """The manifest of an earlier run over the same source; None where the split is to be written."""
        if not (self.folder / f"{self.split}.json").is_file() or self.config.overwrite:
            return None
        manifest = Manifest.read(open_store(self.folder), self.split)
        if manifest.source_fingerprint != self.fingerprint:
            raise InputError(
                f"{self.folder / (self.split + '.json')}: prepared from another source or with other options than these; "
                "give overwrite=true to replace it, or another out="
            )
        shutil.rmtree(self.staging, ignore_errors=True)  # killed after the manifest, before this
        return manifest

    def discard(self) -> None:
        """Remove what has been written and not published."""
        shutil.rmtree(self.staging, ignore_errors=True)
        with suppress(OSError):
            self.folder.rmdir()  # only if nothing else is in it

    def missing_shards(self) -> list["ShardTask"]:
        """The shards that are not in the staging folder yet."""
        plan = self.staging / "plan"
        if self.staging.is_dir() and (not plan.is_file() or plan.read_text() != self.fingerprint):
            shutil.rmtree(self.staging)  # of another source
        write_text(plan, self.fingerprint)
        # The index of a shard is written after the shard, so where it is, the shard is whole, or was and has been published.
        return [
            ShardTask(self.source, entries, number, self.staging / shard_name(self.split, number), self._index_path(number))
            for number, entries in enumerate(self.shards)
            if not self._index_path(number).is_file()
        ]

    def _index_path(self, number: int) -> Path:
        return self.staging / f"{self.split}-{number:05d}.arrow"

    def publish(self) -> Manifest:
        """Move the shards to their place, then write index and manifest: the split is there once its manifest is.

        Killed in between, it is done again from where it was: a shard that is no longer in the staging folder has been moved.
        """
        names = [shard_name(self.split, number) for number in range(len(self.shards))]
        (self.folder / f"{self.split}.json").unlink(missing_ok=True)
        for name in names:
            if (self.staging / name).is_file():
                os.replace(self.staging / name, self.folder / name)
        sync_folder(self.folder)
        tables = [_read_table(self._index_path(number)) for number in range(len(names))]
        write_index(self.folder / f"{self.split}.arrow", tables)
        manifest = Manifest(
            dataset=self.dataset,
            split=self.split,
            label_space=self.source.label_space,
            shards=tuple(
                ShardInfo(name=name, bytes=(self.folder / name).stat().st_size, samples=len(table))
                for name, table in zip(names, tables, strict=True)
            ),
            source_fingerprint=self.fingerprint,
        )
        manifest.write(self.folder)
        for path in self.folder.iterdir():  # what an earlier version of the split had more of
            if re.fullmatch(re.escape(self.split) + r"-\d{5}\.tar", path.name) and path.name not in names:
                path.unlink()
        shutil.rmtree(self.staging)
        return manifest


@dataclass(frozen=True)
class ShardTask:
    """The writing of one shard: what a process of `prepare` is given."""

    source: Source
    entries: Sequence[Any]
    number: int
    shard: Path
    index: Path

    def run(self, jpeg_quality: int) -> None:
        samples = (self.source.load(entry, jpeg_quality=jpeg_quality) for entry in self.entries)
        table = write_shard(self.shard, samples, shard=self.number, palette=self.source.label_space.palette)
        write_index(self.index, [table])  # last: it says that the shard is whole


def _read_table(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return read_index(file.fileno(), origin=str(path))


def _run_tasks(tasks: Sequence[ShardTask], config: PrepareConfig) -> Iterator[None]:
    """Run `tasks` in as many processes as there is use for; yields once for each that is done."""
    workers = min(config.workers or os.cpu_count() or 1, len(tasks))
    if workers <= 1:
        for task in tasks:
            task.run(config.jpeg_quality)
            yield
        return
    # spawn: a forked process would inherit the locks of whatever threads run here.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(task.run, config.jpeg_quality) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
