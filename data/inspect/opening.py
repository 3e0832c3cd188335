"""What is inspected: prepared shards, or a dataset as it is downloaded. Whatever is wrong with a sample becomes a flaw of it."""

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.adapters import DatasetConfig, open_sources
from data.adapters.folder import FolderSource
from data.errors import InputError
from data.images import MAX_PIXELS, decode_image, decode_jpeg, decode_label, read_image
from data.inspect.findings import Finding, Flaw
from data.inspect.observe import RawSample
from data.labels import LabelSpace
from data.shards import NO_BOXES, EncodedSample, ShardSplit
from data.sources import FileEntry, FileSource, Source, is_image
from data.store import open_store


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """The keys of `taxomix inspect`."""

    shards: str | None = None
    """Folder or URL of one prepared dataset, or a folder of several."""
    dataset: DatasetConfig | None = None
    """Instead of `shards`: how the download at `source` is read."""
    source: Path | None = None
    out: Path = Path("inspect")
    """Reports go to out/NAME."""
    splits: tuple[str, ...] | None = None
    pictures: int = 12
    """On the contact sheet."""
    examples: int = 5
    """Named per finding."""
    workers: int | None = None
    """Threads; null: one per core. What is found does not depend on it."""
    seed: int = 0
    """Of the choice of pictures."""

    def __post_init__(self) -> None:
        if (self.shards is None) == (self.dataset is None):
            found = "neither" if self.shards is None else "both"
            raise InputError(f"shards, dataset: {found} given, expected one; give shards=DIR, or dataset=NAME source=DIR")
        for name, value, least in (("pictures", self.pictures, 0), ("examples", self.examples, 1), ("workers", self.workers, 1)):
            if value is not None and value < least:
                raise InputError(f"{name}: {value} found, expected at least {least}; raise it")


class Readable(Protocol):
    """One dataset as `inspect` reads it, in any thread."""

    name: str
    label_space: LabelSpace
    sizes: dict[str, int]
    """Split -> number of samples."""
    findings: tuple[Finding, ...]
    """What was wrong before any sample was read."""

    def read(self, split: str, number: int) -> RawSample: ...


def open_datasets(config: InspectConfig) -> Iterator[Readable]:
    """The datasets to inspect, one after the other. Raises InputError where there is none."""
    if config.shards is None:
        assert config.dataset is not None
        for name, source in open_sources(config.dataset, config.source).items():
            yield Download(name, source, config.splits)
        return
    shards = config.shards if "://" in config.shards else str(Path(config.shards).expanduser())
    folders = [shards]
    if not _manifests(shards):  # a root
        below = sorted(path.parent for path in Path(shards).glob("*/*.json")) if "://" not in shards else []
        folders = [str(folder) for folder in dict.fromkeys(below)]
        if not folders:
            raise InputError(f"shards={shards}: no shards found, expected a folder that `taxomix prepare` wrote; check the path")
    for folder in folders:
        yield Prepared(folder, config.splits)


def _manifests(location: str) -> Sequence[str]:
    try:
        return open_store(location).list(".json")
    except FileNotFoundError:
        return ()


def _chosen(there: Sequence[str], splits: Sequence[str] | None, *, name: str) -> list[str]:
    for split in splits or ():
        if split not in there:
            raise InputError(f"splits: {split} is not in {name}, expected some of {', '.join(there)}; mend the name")
    return [split for split in in_order(there) if splits is None or split in splits]


def in_order(splits: Sequence[str]) -> list[str]:
    """train first: the others are held against it."""
    return sorted(splits, key=lambda split: (split != "train", split))


class Prepared:
    """The splits of one prepared dataset."""

    def __init__(self, folder: str, splits: Sequence[str] | None) -> None:
        there = [name.removesuffix(".json") for name in _manifests(folder)]
        self.splits: dict[str, ShardSplit] = {}
        findings = []
        for split in _chosen(there, splits, name=folder):
            try:
                self.splits[split] = ShardSplit(folder, split)
            except InputError as error:
                findings.append(Finding(kind="unlistable", split=split, count=1, detail=str(error)))
        if not self.splits:
            raise InputError(findings[0].detail)
        first = next(iter(self.splits.values()))
        self.name, self.label_space = first.manifest.dataset, first.label_space
        others = [split for split, samples in self.splits.items() if samples.label_space.to_dict() != self.label_space.to_dict()]
        if others:
            findings.append(Finding(kind="spaces-differ", split=None, count=len(others), examples=tuple(others)))
        self.sizes = {split: len(samples) for split, samples in self.splits.items()}
        self.findings = tuple(findings)

    def read(self, split: str, number: int) -> RawSample:
        samples = self.splits[split]
        key, shard = samples.key(number), samples.shard(number)
        where = shard.name if shard else split
        try:
            sample = samples.read(number)
        except InputError as error:
            return RawSample(key=key, where=where, boxes=NO_BOXES, flaws=(Flaw("picture-unreadable", one_line(error)),))
        return decode_sample(sample, where)


def decode_sample(sample: EncodedSample, where: str) -> RawSample:
    """Decode what decodes of one sample."""
    flaws: list[Flaw] = []
    image = label = None
    try:
        image = decode_image(sample.image)
    except Exception as error:  # whatever damaged bytes make a decoder raise is what is looked for here
        flaws.append(Flaw("picture-unreadable", one_line(error)))
    if image is not None and image.shape[:2] != sample.size:
        flaws.append(Flaw("index-differs", f"{image.shape[1]}x{image.shape[0]}, index {sample.size[1]}x{sample.size[0]}"))
        image = None
    if sample.label is not None:
        label, flaw = decode_ids(sample.label, sample.size)
        flaws += [flaw] if flaw else []
    return RawSample(key=sample.key, where=where, image=image, label=label, boxes=sample.boxes, flaws=tuple(flaws))


def decode_ids(content: bytes, size: tuple[int, int] | None) -> tuple[np.ndarray | None, Flaw | None]:
    """A label image's ids, (H, W) uint8, or None and why; `size` is that of its picture where it is known."""
    try:
        with closing(Image.open(io.BytesIO(content))) as image:
            if size is not None and image.size != size[::-1]:
                return None, Flaw("size-differs", f"{image.size[0]}x{image.size[1]}, picture {size[1]}x{size[0]}")
            if image.size[0] * image.size[1] > MAX_PIXELS:
                return None, Flaw("label-unreadable", f"{image.size[0]}x{image.size[1]} is more than is decoded")
            if image.mode not in ("1", "L", "P"):
                return None, Flaw("label-colours", _describe_colours(image))
            # Pillow scales the values of a grey PNG of less than 8 bits.
            return np.ascontiguousarray(decode_label(content)) if image.format == "PNG" else np.array(image, np.uint8), None
    except Exception as error:  # as above
        return None, Flaw("label-unreadable", one_line(error))


def _describe_colours(image: Image.Image) -> str:
    if image.mode not in ("RGB", "RGBA"):
        return f"mode {image.mode}"
    red, green, blue = np.moveaxis(np.array(image.convert("RGB")), 2, 0)
    if (red == green).all() and (red == blue).all():
        return f"mode {image.mode}, its three channels are the same: keep one"
    if not green.any() and not blue.any():
        return f"mode {image.mode}, all but its red channel is zero: keep that one"
    number = len(np.unique(red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue))
    return f"mode {image.mode}, {number} colours: look each up in the palette of the dataset"


class Download:
    """A dataset as it is downloaded, read by its adapter; files also where the adapter refuses a sample."""

    def __init__(self, name: str, source: Source, splits: Sequence[str] | None) -> None:
        self.name, self.source, self.label_space = name, source, source.label_space
        self.findings: tuple[Finding, ...] = ()
        try:
            entries = source.entries()
        except InputError as error:
            self.findings = (Finding(kind="unlistable", split=None, count=1, detail=str(error)),)
            entries = entries_of_folder(source) if isinstance(source, FolderSource) else {}
        self.entries = {split: entries[split] for split in _chosen(list(entries), splits, name=name)} if entries else {}
        self.sizes = {split: len(samples) for split, samples in self.entries.items()}

    def read(self, split: str, number: int) -> RawSample:
        entry = self.entries[split][number]
        try:
            sample = self.source.load(entry, jpeg_quality=100)
            image = decode_jpeg(sample.jpeg)
        except Exception as error:  # whatever damaged files make a decoder raise is what is looked for here
            return self._read_refused(entry, error)
        return RawSample(key=sample.key, where=sample.source, image=image, label=sample.label, boxes=sample.boxes)

    def _read_refused(self, entry: Any, error: Exception) -> RawSample:
        """The adapter names the first thing that is wrong; of files all is found."""
        if isinstance(entry, FileEntry) and isinstance(self.source, FileSource):
            raw = read_files(entry, self.source)
            if raw.flaws or raw.image is not None:
                return raw
        key = getattr(entry, "key", str(entry))
        return RawSample(key=key, where=self.name, boxes=NO_BOXES, flaws=(Flaw("refused", one_line(error)),))


def entries_of_folder(source: FolderSource) -> dict[str, list[FileEntry]]:
    """Pictures and the places of their labels where the adapter found the folder incomplete; nothing where there are boxes."""
    entries: dict[str, list[FileEntry]] = {}
    if source.label_space.supervision == "pixels":
        for folder in sorted(path for path in (source.root / "images").iterdir() if path.is_dir()):
            for image in sorted(path for path in folder.iterdir() if is_image(path)):
                label = source.root / "labels" / folder.name / f"{image.stem}.png"
                entries.setdefault(folder.name, []).append(FileEntry(key=image.stem, image=image, label=label))
    return entries


def read_files(entry: FileEntry, source: FileSource) -> RawSample:
    """Read what can be read of an image file, its label file and its boxes."""
    flaws: list[Flaw] = []
    image = label = None
    try:
        image = read_image(entry.image)
    except Exception as error:  # as above
        flaws.append(Flaw("picture-unreadable", one_line(error).removeprefix(f"{entry.image}: ").split(";")[0]))
    if entry.label is not None:
        label, flaw = _read_label_file(entry.label, source, None if image is None else image.shape[:2])
        flaws += [flaw] if flaw else []
    boxes = np.array(entry.boxes, np.int64).reshape(-1, 5)
    where = (entry.label or entry.image).relative_to(source.root).as_posix()
    return RawSample(key=entry.key, where=where, image=image, label=label, boxes=boxes, flaws=tuple(flaws))


def _read_label_file(path: Path, source: FileSource, size: tuple[int, int] | None) -> tuple[np.ndarray | None, Flaw | None]:
    try:
        if type(source).read_label is FileSource.read_label:  # plain ids
            return decode_ids(path.read_bytes(), size)
        if size is None:
            return None, None  # the picture's flaw is enough
        label = source.read_label(path, height=size[0], width=size[1])
    except Exception as error:  # as above
        return None, Flaw("label-unreadable", one_line(error))
    if label.shape != size:
        return None, Flaw("size-differs", f"{label.shape[1]}x{label.shape[0]}, picture {size[1]}x{size[0]}")
    return label, None


def one_line(error: Exception) -> str:
    """The reason alone: the sample and what to do are said elsewhere."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
