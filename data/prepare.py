"""`taxomix prepare`: from a dataset as it is downloaded to shards, or from tars made by others to an index of them.

Shards are written into a staging folder and moved to their place once those of all splits are done (those for a URL are
uploaded one by one). A killed run goes on with the shards that are missing, and bad input leaves nothing behind. The bytes
do not depend on the number of processes, nor on where they run.
"""

import hashlib
import json
import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from data.adapters import DatasetConfig, open_sources
from data.errors import InputError
from data.files import write_text
from data.foreign import ForeignTars, ScanTask, WebdatasetConfig
from data.labels import LabelSpace
from data.progress import Advance, progress
from data.publish import RemoteTarget, Target, open_target
from data.shards import Manifest, Sample, ShardInfo, read_index, shard_name, write_index, write_shard
from data.sources import Source
from data.tasks import Piece, RunTasks, run_locally

log = logging.getLogger(__name__)

MAX_PROBLEMS = 20
SECONDS_AFTER_A_PROBLEM = 10.0
"""How long more bad files are looked for after the first: a second run should not stop at the next one."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """The keys of `taxomix prepare`."""

    dataset: DatasetConfig | WebdatasetConfig
    out: str
    """A folder, or the URL of one in a store that fsspec knows."""
    source: Path | None = None
    samples_per_shard: int = 128
    jpeg_quality: int = 95
    workers: int | None = None
    """Shards in work at a time, each on one core; null: as many as there are cores."""
    overwrite: bool = False
    ray: str | None = None
    """Address of the Ray cluster that does the work, whose nodes all see `source` and `out` under the same path, or auto: the one
    that this command runs in. null: processes of this machine."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise InputError(f"samples_per_shard: {self.samples_per_shard} found, expected at least 1; raise it")
        if not 1 <= self.jpeg_quality <= 100:
            raise InputError(f"jpeg_quality: {self.jpeg_quality} found, expected 1..100; mend it")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers: {self.workers} found, expected at least 1; raise it")


def prepare(config: PrepareConfig, run_tasks: RunTasks | None = None) -> list[tuple[str, Manifest, bool]]:
    """Write every split of the dataset(s); gives the place and the manifest of each, and whether it was there already.

    `run_tasks` says where the work is done: by default in processes of this machine.
    """
    # All splits are listed, and so checked, before the first shard is written.
    jobs = _split_jobs(config)
    there = [None if config.overwrite else job.manifest_if_done() for job in jobs]
    missing = [job for job, manifest in zip(jobs, there, strict=True) if manifest is None]
    for job in missing:
        if config.ray and isinstance(job.target, RemoteTarget) and not job.uploads_early:
            raise InputError(f"{job.target.location}/{job.split}.json: found, and with ray= it cannot be replaced; remove it first")
    try:
        _run(missing, run_tasks or partial(run_locally, workers=config.workers))
    except InputError:
        for job in missing:
            job.discard()
        raise
    return [(job.target.location, manifest or job.publish(), manifest is not None) for job, manifest in zip(jobs, there, strict=True)]


def _split_jobs(config: PrepareConfig) -> list["SplitJob"]:
    if isinstance(config.dataset, WebdatasetConfig):
        tars = ForeignTars(config.source, config.dataset)
        target = open_target(config.out, tars.label_space.name)
        if target.location == str(tars.root):
            raise InputError(f"out={config.out}: the folder of the tars found, expected another; give one such as out=shards")
        return [
            SplitJob(target, split, tars.label_space, tars.fingerprint(split), tasks, location=str(tars.root))
            for split, tasks in tars.scans().items()
        ]
    jobs = []
    for name, source in open_sources(config.dataset, config.source).items():
        target = open_target(config.out, name)
        for split, entries in source.entries().items():
            tasks = _shard_tasks(source, split, entries, target, config)
            jobs.append(SplitJob(target, split, source.label_space, _fingerprint(source, entries, config), tasks))
    return jobs


def _shard_tasks(source: Source, split: str, entries: Sequence[Any], target: Target, config: PrepareConfig) -> list["ShardTask"]:
    starts = range(0, len(entries), config.samples_per_shard)
    return [
        ShardTask(
            source=source,
            entries=entries[start : start + config.samples_per_shard],
            number=number,
            path=target.staging(split) / shard_name(split, number),
            jpeg_quality=config.jpeg_quality,
        )
        for number, start in enumerate(starts)
    ]


def _fingerprint(source: Source, entries: Sequence[Any], config: PrepareConfig) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([source.label_space.to_dict(), config.samples_per_shard, config.jpeg_quality]).encode())
    for entry in entries:
        digest.update(source.fingerprint(entry).encode() + b"\n")
    return digest.hexdigest()


def _run(jobs: Sequence["SplitJob"], run_tasks: RunTasks) -> None:
    """Do what is missing of `jobs`. Raises InputError that names the bad files where there are any."""
    work = [(job, task) for job in jobs for task in job.missing_tasks()]
    unit = work[0][1].unit if work else ""
    problems: list[str] = []
    with (
        progress(total=sum(task.amount for _, task in work), what=f"prepare: {unit}") as advance,
        closing(run_tasks([task for _, task in work], advance)) as results,
    ):
        for number, piece in results:
            job, task = work[number]
            if not piece.problems:
                job.keep(task, piece)
            elif not problems:
                end = time.monotonic() + SECONDS_AFTER_A_PROBLEM
            problems += piece.problems
            if problems and (len(problems) >= MAX_PROBLEMS or time.monotonic() > end):
                break
    _raise_problems(problems)
    for job in jobs:
        job.check()


def _raise_problems(problems: list[str]) -> None:
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        listed = "".join(f"\n  {problem}" for problem in sorted(problems)[:MAX_PROBLEMS])
        more = "at least " if len(problems) >= MAX_PROBLEMS else ""
        raise InputError(
            f"{more}{len(problems)} bad files found before the rest was looked at; mend or remove them "
            f"(`taxomix inspect` with the same dataset= and source= lists all):{listed}"
        )


class SplitJob:
    """The making of one split of one dataset: of its shards by `tasks`, of index and manifest at the end."""

    def __init__(
        self,
        target: Target,
        split: str,
        label_space: LabelSpace,
        fingerprint: str,
        tasks: Sequence["ShardTask | ScanTask"],
        *,
        location: str | None = None,
    ) -> None:
        self.target, self.split, self.label_space, self.fingerprint = target, split, label_space, fingerprint
        self.tasks, self.location = tasks, location
        self.staging = target.staging(split)
        self.warnings: Counter[str] = Counter()
        # Where an older version of the split is, it stays whole until all of the new one can take its place.
        self.uploads_early = isinstance(target, RemoteTarget) and location is None and not self._is_there()

    def _is_there(self) -> bool:
        return f"{self.split}.json" in self.target.sizes()

    def manifest_if_done(self) -> Manifest | None:
        """The manifest of an earlier run over the same source; None where there is none."""
        if not self._is_there():
            return None
        manifest = self.target.manifest(self.split)
        if manifest.source_fingerprint != self.fingerprint:
            raise InputError(
                f"{self.target.location}/{self.split}.json: prepared from another source or with other options than these; "
                "give overwrite=true to replace it, or another out="
            )
        shutil.rmtree(self.staging, ignore_errors=True)  # killed after the manifest, before this
        return manifest

    def missing_tasks(self) -> list["ShardTask | ScanTask"]:
        """The tasks whose pieces are not in the staging folder yet."""
        plan = self.staging / "plan"
        if self.staging.is_dir() and (not plan.is_file() or plan.read_text() != self.fingerprint):
            shutil.rmtree(self.staging)  # of another source
        write_text(plan, self.fingerprint)
        missing = [task for task in self.tasks if not self._piece(task).is_file()]
        return [replace(task, upload_to=self.target) if self.uploads_early and isinstance(task, ShardTask) else task for task in missing]

    def keep(self, task: "ShardTask | ScanTask", piece: Piece) -> None:
        """Note that a task is done. Where its piece of the index is, its shard is whole, or was and has been published."""
        assert piece.table is not None
        write_index(self._piece(task), [piece.table])
        self.warnings.update(piece.warnings)

    def _piece(self, task: "ShardTask | ScanTask") -> Path:
        return self.staging / f"{self.split}-{task.number:05d}.arrow"

    def check(self) -> None:
        """Once all tasks are done: tell what was noted of samples. Raises InputError where none can be used."""
        for what, number in sorted(self.warnings.items()):
            if number:
                log.warning("%s %s: %d samples %s", self.label_space.name, self.split, number, what)
        if not any(len(_read_piece(self._piece(task))) for task in self.tasks):
            raise InputError(
                f"split {self.split} of {self.label_space.name}: no sample with image and label found; "
                "see dataset.image and dataset.label, or remove the split"
            )

    def discard(self) -> None:
        """Remove what has been written and not published."""
        shutil.rmtree(self.staging, ignore_errors=True)
        if self.uploads_early:
            there = self.target.sizes()
            for task in self.tasks:
                if task.name in there:
                    self.target.remove(task.name)
        self.target.tidy()

    def publish(self) -> Manifest:
        """Move the shards to their place, then index and manifest: the split is there once its manifest is.

        Killed in between, it is done again from where it was: a shard that is no longer in the staging folder has been moved.
        """
        self.target.remove(f"{self.split}.json")
        self.target.put([task.path for task in self.tasks if isinstance(task, ShardTask) and task.path.is_file()])
        tables = [_read_piece(self._piece(task)) for task in self.tasks]
        manifest = Manifest(
            dataset=self.label_space.name,
            split=self.split,
            label_space=self.label_space,
            shards=tuple(
                ShardInfo(name=task.name, bytes=size, samples=len(table))
                for task, size, table in zip(self.tasks, self._shard_sizes(), tables, strict=True)
            ),
            source_fingerprint=self.fingerprint,
            location=self.location,
        )
        write_index(self.staging / f"{self.split}.arrow", tables)
        manifest.write(self.staging)
        for suffix in ("arrow", "json"):
            self.target.put([self.staging / f"{self.split}.{suffix}"])
        if self.location is None:
            self._remove_older()
        shutil.rmtree(self.staging)
        return manifest

    def _shard_sizes(self) -> list[int]:
        there = self.target.sizes()
        sizes = [task.num_bytes if isinstance(task, ScanTask) else there.get(task.name) for task in self.tasks]
        for task, size in zip(self.tasks, sizes, strict=True):
            if size is None:
                shutil.rmtree(self.staging)
                raise InputError(f"{self.target.location}/{task.name}: written, and now gone; run the same command again")
        return [size for size in sizes if size is not None]

    def _remove_older(self) -> None:
        """Remove what an earlier version of the split had more of."""
        names = {task.name for task in self.tasks}
        for name in self.target.sizes():
            if re.fullmatch(re.escape(self.split) + r"-\d{5}\.tar", name) and name not in names:
                self.target.remove(name)


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The writing of one shard."""

    source: Source
    entries: Sequence[Any]
    number: int
    path: Path
    """Where it is written."""
    jpeg_quality: int
    upload_to: Target | None = None
    """Where it is moved at once, if not with all the others."""

    unit: ClassVar[str] = "samples"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def amount(self) -> int:
        return len(self.entries)

    def run(self, advance: Advance) -> Piece:
        entries = iter(self.entries)
        try:
            samples = self._load(entries, advance)
            table = write_shard(self.path, samples, shard=self.number, palette=self.source.label_space.palette)
        except InputError as error:
            return Piece(problems=(str(error), *self._other_problems(entries, advance)))
        if self.upload_to is not None:
            self.upload_to.put([self.path])
        return Piece(table=table)

    def _load(self, entries: Iterator[Any], advance: Advance) -> Iterator[Sample]:
        for entry in entries:
            yield self.source.load(entry, jpeg_quality=self.jpeg_quality)
            advance(1)

    def _other_problems(self, entries: Iterator[Any], advance: Advance) -> Iterator[str]:
        """What is wrong with the entries after a bad one."""
        for entry in entries:
            try:
                self.source.load(entry, jpeg_quality=self.jpeg_quality)
            except InputError as error:
                yield str(error)
            advance(1)


def _read_piece(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return read_index(file.fileno(), origin=str(path))
