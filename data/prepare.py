"""`taxomix prepare`: from a dataset as it is downloaded to shards, or from tars made by others to an index of them.

Shards are written into a staging folder and moved to their place once those of all splits are done (those for a URL are
uploaded one by one). A killed run, and one that bad files ended, goes on with the shards that are missing or whose files
have changed since. The bytes do not depend on the number of processes, nor on where they run.
"""

import errno
import hashlib
import json
import logging
import re
import shlex
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from data.adapters import DatasetConfig, open_sources
from data.errors import InputError
from data.foreign import ForeignTars, ScanTask, WebdatasetConfig, distinct_keys
from data.index import write_index
from data.labels import LabelSpace
from data.manifest import Manifest, ShardInfo
from data.progress import Advance, progress, track
from data.publish import LocalTarget, RemoteTarget, Target, open_target
from data.shards import Sample, shard_name, write_shard
from data.sources import FileSource, Source
from data.staging import Note, Plan, Staging
from data.store import open_store
from data.tasks import Piece, RunTasks, run_locally

log = logging.getLogger(__name__)

MAX_PROBLEMS = 20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

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


def prepare(config: PrepareConfig, run_tasks: RunTasks[Piece] | None = None) -> list[tuple[str, Manifest, bool]]:
    """Write every split of the dataset(s); gives the place and the manifest of each, and whether it was there already.

    `run_tasks` says where the work is done: by default in processes of this machine.
    """
    # All splits are listed, and so checked, before the first shard is written.
    jobs = _split_jobs(config)
    with ExitStack() as held:
        there = [_manifest_or_hold(job, config, held) for job in jobs]
        missing = [job for job, manifest in zip(jobs, there, strict=True) if manifest is None]
        for job in missing:
            if config.ray and isinstance(job.target, RemoteTarget) and not job.uploads_early:
                raise InputError(f"{job.target.location}/{job.split}.json: found, and with ray= it cannot be replaced; remove it first")
        try:
            _run(missing, run_tasks or partial(run_locally, workers=config.workers), inspect=_inspect_words(config))
            manifests = [manifest or job.publish() for job, manifest in zip(jobs, there, strict=True)]
        except InputError:
            for job in missing:
                job.staging.discard_if_empty()
            raise
        except OSError as error:
            if error.errno in DISK_FULL and missing:  # its own text names no file
                raise OSError(error.errno, error.strerror, str(missing[0].staging.folder.parent)) from error
            raise
    return [(job.target.location, manifest, before is not None) for job, manifest, before in zip(jobs, manifests, there, strict=True)]


def _manifest_or_hold(job: "SplitJob", config: PrepareConfig, held: ExitStack) -> Manifest | None:
    """The manifest of a split that is done; else the split is this process's until `held` ends."""
    manifest = None if config.overwrite else job.manifest_if_done()
    if manifest is None:
        held.enter_context(job.target.hold(job.split))
        manifest = None if config.overwrite else job.manifest_if_done()  # another process may just have ended
    return manifest


def _inspect_words(config: PrepareConfig) -> str | None:
    """The command that lists all that is wrong with the source; None where `inspect` does not read such a one."""
    if isinstance(config.dataset, WebdatasetConfig):
        return None
    words = [f"dataset={config.dataset.name}", f"source={config.source}"]
    for field in fields(config.dataset):
        value = getattr(config.dataset, field.name)
        if field.name != "name" and value != field.default:
            words.append(f"dataset.{field.name}={value}")
    return shlex.join(["taxomix", "inspect", *words])


def _split_jobs(config: PrepareConfig) -> list["SplitJob"]:
    if isinstance(config.dataset, WebdatasetConfig):
        tars = ForeignTars(config.source, config.dataset)
        target = open_target(config.out, tars.label_space.name)
        _check_out(target, config)
        return [
            SplitJob(target, split, tars.label_space, tars.fingerprint(tars.tars[split]), tasks, location=str(tars.root))
            for split, tasks in tars.scans().items()
        ]
    jobs = []
    for name, source in open_sources(config.dataset, config.source).items():
        target = open_target(config.out, name)
        _check_out(target, config)
        for split, entries in source.entries().items():
            looked_at = track(entries, total=len(entries), what=f"prepare: looking at the files of {split}")
            prints = [source.fingerprint(entry) for entry in looked_at]
            tasks = _shard_tasks(source, split, entries, prints, target, config)
            whole = fingerprint([source.label_space.to_dict(), config.samples_per_shard, config.jpeg_quality], prints)
            jobs.append(SplitJob(target, split, source.label_space, whole, tasks))
    return jobs


def _check_out(target: Target, config: PrepareConfig) -> None:
    """Raise InputError where shards would be written into the source, of which nothing is changed."""
    if config.source is None or not isinstance(target, LocalTarget):
        return
    folder, source = target.folder.resolve(), config.source.resolve()
    if source in (folder, *folder.parents):
        raise InputError(f"out={config.out}: {folder} is the source or lies in it, expected a folder outside; give one such as out=shards")


def _shard_tasks(
    source: Source, split: str, entries: Sequence[Any], prints: Sequence[str], target: Target, config: PrepareConfig
) -> list["ShardTask"]:
    options = [source.label_space.to_dict(), config.jpeg_quality]
    tasks = []
    for number, start in enumerate(range(0, len(entries), config.samples_per_shard)):
        chosen = slice(start, start + config.samples_per_shard)
        tasks.append(
            ShardTask(
                source=source,
                entries=entries[chosen],
                number=number,
                path=target.staging(split) / shard_name(split, number),
                jpeg_quality=config.jpeg_quality,
                fingerprint=fingerprint([*options, number], prints[chosen]),
            )
        )
    return tasks


def fingerprint(options: Sequence[Any], prints: Sequence[str]) -> str:
    """A text that differs where the options or what is known of the files does."""
    digest = hashlib.blake2b(json.dumps(options).encode(), digest_size=16)
    for text in prints:
        digest.update(text.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def _run(jobs: Sequence["SplitJob"], run_tasks: RunTasks[Piece], *, inspect: str | None) -> None:
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
    _raise_problems(problems, inspect)
    for job in jobs:
        job.check()


def _raise_problems(problems: list[str], inspect: str | None) -> None:
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        listed = "".join(f"\n  {problem}" for problem in sorted(problems)[:MAX_PROBLEMS])
        more = "at least " if len(problems) >= MAX_PROBLEMS else ""
        hint = f" (`{inspect}` lists all)" if inspect else ""
        raise InputError(f"{more}{len(problems)} bad files found before the rest was looked at; mend or remove them{hint}:{listed}")


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
        self.staging, self.plan = Staging(target.staging(split), split), Plan()
        self.written = {f"{split}.arrow", *(task.name for task in tasks if isinstance(task, ShardTask))}
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
        if self.staging.folder.is_dir():  # killed after the manifest, before this; or another process is at it
            with suppress(InputError), self.target.hold(self.split):
                self.plan = self.staging.plan() or Plan()
                self._clean()
        return manifest

    def missing_tasks(self) -> list["ShardTask | ScanTask"]:
        """The tasks that an earlier run has not done, or on files that have changed since."""
        before = self.staging.plan()
        if before is None:
            self.staging.remove()
        plan, there = before or Plan(), self.target.sizes()
        listed = _files_of(self.target, self.split) if f"{self.split}.json" in there else frozenset()
        self._check_others(there, plan.ours | listed, begun=before is not None or f"{self.split}.json" in there)
        publishing = plan.publishing if plan.publishing == self.fingerprint else None
        early = self.written if self.uploads_early else set()
        self.plan = Plan(publishing=publishing, ours=plan.ours | listed | early)
        missing = [task for task in self.tasks if not self._is_done(task, there)]
        self.staging.write_plan(self.plan)
        for task in missing:
            self.staging.forget(task.number)
        return [replace(task, upload_to=self.target) if self.uploads_early and isinstance(task, ShardTask) else task for task in missing]

    def _check_others(self, there: Mapping[str, int], ours: Collection[str], *, begun: bool) -> None:
        """Raise InputError where files would be replaced that no run of ours is known to have written."""
        pattern = re.escape(self.split) + r"(-\d{5}\.tar|\.arrow)"
        others = {name for name in there if re.fullmatch(pattern, name)} - set(ours)
        if begun or self.location is not None:
            others &= self.written
        if others:
            raise InputError(
                f"{self.target.location}/{min(others)}: found, and no {self.split}.json names it, expected no file that is not of "
                "`prepare`; move it away or give another out="
            )

    def _is_done(self, task: "ShardTask | ScanTask", there: Mapping[str, int]) -> bool:
        note = self.staging.note(task.number)
        if note is None or note.fingerprint != task.fingerprint:
            return False
        if isinstance(task, ScanTask):
            return True
        if task.path.is_file():
            return task.path.stat().st_size == note.bytes
        return (note.uploaded or self.plan.publishing is not None) and there.get(task.name) == note.bytes

    def keep(self, task: "ShardTask | ScanTask", piece: Piece) -> None:
        """Note that a task is done, and its shard whole."""
        assert piece.table is not None
        uploaded = isinstance(task, ShardTask) and task.upload_to is not None
        note = Note(fingerprint=task.fingerprint, bytes=piece.num_bytes, uploaded=uploaded, warnings=piece.warnings)
        self.staging.keep(task.number, piece.table, note)

    def check(self) -> None:
        """Once all tasks are done: tell what was noted of samples. Raises InputError where none can be used."""
        warnings: Counter[str] = Counter()
        for note in self._notes():
            warnings.update(note.warnings)
        for what, number in sorted(warnings.items()):
            if number:
                log.warning("%s %s: %d samples %s", self.label_space.name, self.split, number, what)
        if not any(len(self.staging.table(task.number)) for task in self.tasks):
            self.staging.remove()
            raise InputError(
                f"split {self.split} of {self.label_space.name}: no sample with image and label found; "
                "see dataset.image and dataset.label, or remove the split"
            )

    def _notes(self) -> Iterator[Note]:
        for task in self.tasks:
            note = self.staging.note(task.number)
            assert note is not None
            yield note

    def publish(self) -> Manifest:
        """Move the shards to their place, then index and manifest: the split is there once its manifest is.

        Killed in between, it is done again from where it was, which the plan says.
        """
        self.plan = Plan(publishing=self.fingerprint, ours=self.plan.ours | self.written)
        self.staging.write_plan(self.plan)
        self.target.remove(f"{self.split}.json")
        self.target.put([task.path for task in self.tasks if isinstance(task, ShardTask) and task.path.is_file()])
        tables = self._tables()
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
        write_index(self.staging.folder / f"{self.split}.arrow", tables)
        manifest.write(self.staging.folder)
        for suffix in ("arrow", "json"):
            self.target.put([self.staging.folder / f"{self.split}.{suffix}"])
        self._clean()
        return manifest

    def _tables(self) -> list[pa.Table]:
        tables = [self.staging.table(task.number) for task in self.tasks]
        if self.location is None:
            return tables
        distinct = distinct_keys(tables, [task.name for task in self.tasks])
        if distinct is not tables:
            log.warning("%s %s: keys found in several tars, so each begins with its tar's name", self.label_space.name, self.split)
        return distinct

    def _shard_sizes(self) -> list[int]:
        there = self.target.sizes()
        sizes = []
        for task, note in zip(self.tasks, self._notes(), strict=True):
            if isinstance(task, ShardTask) and there.get(task.name) != note.bytes:
                found = f"{there[task.name]} bytes" if task.name in there else "nothing"
                raise InputError(
                    f"{self.target.location}/{task.name}: {found} found, expected {note.bytes} bytes; run the same command again"
                )
            sizes.append(task.num_bytes if isinstance(task, ScanTask) else note.bytes)
        return sizes

    def _clean(self) -> None:
        """Remove what an earlier version of the split had more of, then the staging folder."""
        for name in self.target.sizes().keys() & self.plan.ours - self.written:
            self.target.remove(name)
        self.staging.remove()


def _files_of(target: Target, split: str) -> frozenset[str]:
    """What the manifest that is there names beside itself, even where it is of another version."""
    names = {f"{split}.arrow"}
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        content = json.loads(open_store(target.location).read(f"{split}.json"))
        names |= {str(shard["name"]) for shard in content["shards"] if content.get("location") is None}
    pattern = re.escape(split) + r"(-\d{5}\.tar|\.arrow)"
    return frozenset(name for name in names if re.fullmatch(pattern, name))


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The writing of one shard."""

    source: Source
    entries: Sequence[Any]
    number: int
    path: Path
    """Where it is written."""
    jpeg_quality: int
    fingerprint: str
    """Of its files and of all that its bytes depend on."""
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
        counted = self.source.warnings if isinstance(self.source, FileSource) else Counter[str]()
        before = Counter(counted)
        try:
            samples = self._load(entries, advance)
            table = write_shard(self.path, samples, shard=self.number, palette=self.source.label_space.palette)
        except InputError as error:
            return Piece(problems=(str(error), *self._other_problems(entries, advance)))
        num_bytes = self.path.stat().st_size
        if self.upload_to is not None:
            self.upload_to.put([self.path])
        return Piece(table=table, warnings=counted - before, num_bytes=num_bytes)

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
