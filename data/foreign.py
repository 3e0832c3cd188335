"""Tars made by others, in the plain webdataset layout, used where they lie: one scan writes an index of them.

    DIR/train-000000.tar or DIR/train/000000.tar     members key.jpg (or .png), key.seg.png (or .png), key.json
    DIR/meta.yaml                                     the label space, as data/adapters/folder.py describes it

A key is all before the first dot of a member's name, folders included, and the members of a sample lie side by side.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.images import decode_image, decode_label
from data.index import INDEX_SCHEMA, count_labels, index_row
from data.labels import LabelSpace, read_space
from data.progress import Advance
from data.shards import MAX_MEMBER_BYTES, NO_BOXES, parse_boxes
from data.sources import check_boxes, check_ids, check_name
from data.tars import Member, TarError, members
from data.tasks import Piece

MAX_PROBLEMS_PER_TAR = 20

MAX_KEY_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class WebdatasetConfig:
    """Tars made by others."""

    name: Literal["webdataset"]
    labels: Path | None = None
    """The file of the label space; null: meta.yaml beside the tars."""
    image: tuple[str, ...] = ("jpg", "jpeg", "png")
    """What the names of images end in; the first that a sample has is taken."""
    label: tuple[str, ...] = ("seg.png", "label.png", "png")
    """What the names of label images end in; the first that a sample has, and that is not its image, is taken."""
    split: str = "train"
    """The split of tars whose names are numbers only."""
    damaged: Literal["error", "keep"] = "error"
    """What is done with a tar that is cut short or damaged; keep: its samples before the damage are used, but for the last."""

    def __post_init__(self) -> None:
        for key, suffixes in (("image", self.image), ("label", self.label)):
            wrong = [suffix for suffix in suffixes if not re.fullmatch(r"\w+(\.\w+)*", suffix)]
            if wrong or not suffixes:
                raise InputError(f"dataset.{key}: {list(suffixes)} found, expected ends of names such as jpg or seg.png")
        if not re.fullmatch(r"\w[\w.-]*", self.split):
            raise InputError(f"dataset.split: {self.split!r} found, expected letters, digits, '.', '_' and '-'; mend it")


class ForeignTars:
    """The tars below `source` and their label space."""

    def __init__(self, source: Path | None, config: WebdatasetConfig) -> None:
        if source is None:
            raise InputError("source: missing, expected the folder of the tars; give source=DIR")
        if not source.is_dir():
            raise InputError(f"source={source}: no such folder, expected one with tars; check the path")
        self.root, self.config = source.absolute(), config

    @cached_property
    def label_space(self) -> LabelSpace:
        path = self.config.labels or self.root / "meta.yaml"
        if not path.is_file():
            raise InputError(f"{path}: not found, expected the label space of the tars; add it or give dataset.labels=FILE")
        return read_space(path)

    @cached_property
    def tars(self) -> dict[str, list[Path]]:
        """Split -> its tars, sorted by name."""
        splits: dict[str, list[Path]] = {}
        for path in sorted(self.root.glob("*.tar")):
            # train-000012.tar and train-000012-of-000100.tar are of split train
            name = re.sub(r"(^|[-_.])\d+(-of-\d+)?$", "", path.stem) or self.config.split
            splits.setdefault(name, []).append(path)
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            splits.setdefault(folder.name, []).extend(sorted(folder.glob("*.tar")))
        splits = {split: paths for split, paths in splits.items() if paths}
        if not splits:
            raise InputError(f"{self.root}: no tar found, expected SPLIT-000000.tar or SPLIT/000000.tar; unpack .tar.gz with gunzip")
        for split, paths in splits.items():
            for path in paths:
                check_name(path)
            if not re.fullmatch(r"\w[\w.-]*", split):
                raise InputError(f"{paths[0]}: split {split!r} found, expected letters, digits, '.', '_' and '-'; rename it")
        return splits

    def fingerprint(self, paths: Sequence[Path], *more: object) -> str:
        """A text that changes with these tars and with the options; `more` is what else it is to depend on."""
        config = {"image": self.config.image, "label": self.config.label, "damaged": self.config.damaged}
        options = [self.label_space.to_dict(), str(self.root), config, *more]
        digest = hashlib.blake2b(json.dumps(options).encode(), digest_size=16)
        for path in paths:
            stat = path.stat()
            digest.update(f"{path.relative_to(self.root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def scans(self) -> dict[str, list["ScanTask"]]:
        return {
            split: [
                ScanTask(
                    number=number,
                    path=path,
                    name=path.relative_to(self.root).as_posix(),
                    num_bytes=path.stat().st_size,
                    label_space=self.label_space,
                    config=self.config,
                    fingerprint=self.fingerprint([path], number),
                )
                for number, path in enumerate(paths)
            ]
            for split, paths in self.tars.items()
        }


@dataclass(frozen=True, kw_only=True)
class ScanTask:
    """The scan of one tar: every image and label is decoded once, so that what cannot be used is known before training."""

    number: int
    path: Path
    name: str
    num_bytes: int
    label_space: LabelSpace
    config: WebdatasetConfig
    fingerprint: str

    unit: ClassVar[str] = "MB of tars"

    @property
    def amount(self) -> int:
        return 1 + self.num_bytes // 10**6

    def run(self, advance: Advance) -> Piece:
        rows: list[dict[str, Any]] = []
        problems: list[str] = []
        warnings: Counter[str] = Counter()
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            shown = 0
            for key, parts in self._samples(descriptor, warnings):
                try:
                    places = self._places(parts)
                    if isinstance(places, str):
                        warnings[f"left out, {places}"] += 1
                    else:
                        rows.append(self._row(descriptor, key, places))
                except InputError as error:
                    problems.append(str(error))
                    if len(problems) >= MAX_PROBLEMS_PER_TAR:
                        break
                done = max(part.offset for part in parts.values()) // 10**6
                advance(done - shown)
                shown = done
        except InputError as error:
            problems.append(str(error))
        finally:
            os.close(descriptor)
        return Piece(table=pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), problems=tuple(problems), warnings=warnings)

    def _samples(self, descriptor: int, warnings: Counter[str]) -> Iterator[tuple[str, dict[str, Member]]]:
        """Key and members by suffix of each sample."""
        parts: dict[str, Member] = {}
        raw, key, seen = "", "", set[str]()
        try:
            for member in members(descriptor):
                stem, suffix = _split_name(member.name)
                if not stem:
                    continue  # such as .DS_Store
                if stem != raw:
                    if parts:
                        yield key, parts
                    raw, key, parts = stem, _safe_key(stem), {}
                    if key in seen:
                        raise InputError(
                            f"{self.path}: key {key} found again at byte {member.offset}, expected the members of a sample side by side "
                            "and each key once; write the tar anew, with `tar --sort=name`"
                        )
                    seen.add(key)
                    warnings[RENAMED] += key != re.sub(r"^(\./)+", "", raw)  # tar cf x.tar . writes ./ before each name
                if suffix in parts:
                    raise InputError(f"{self.path}: {key}.{suffix} found twice, expected each member once; write the tar anew")
                parts[suffix] = member
        except TarError as error:
            if self.config.damaged == "error":
                raise InputError(
                    f"{self.path}: {error}; fetch it again, or give dataset.damaged=keep to use what lies before the damage"
                ) from None
            warnings[f"left out, the last before the damage of {self.name}"] += 1
            return  # of the last sample some members may be missing
        if parts:
            yield key, parts

    def _places(self, parts: Mapping[str, Member]) -> dict[str, Member] | str:
        """The members of a sample by what they are, or why it cannot be used."""
        image = _first(self.config.image, parts)
        if image is None:
            return f"no image ({', '.join(self.config.image)})"
        places = {"image": parts[image]}
        if self.label_space.supervision == "pixels":
            label = _first([suffix for suffix in self.config.label if suffix != image], parts)
            if label is None:
                return f"no label ({', '.join(self.config.label)})"
            places["label"] = parts[label]
        if self.label_space.supervision == "boxes":
            if "json" not in parts:
                return "no boxes (json)"
            places["json"] = parts["json"]
        return places

    def _row(self, descriptor: int, key: str, places: Mapping[str, Member]) -> dict[str, Any]:
        """The row of one sample. Raises InputError where it is damaged or not as the label space says."""
        image = self._decode(descriptor, places["image"], decode_image)
        height, width = image.shape[:2]
        label, boxes = None, NO_BOXES
        if "label" in places:
            label = self._decode(descriptor, places["label"], decode_label)
            path = self._path(places["label"])
            if label.shape != (height, width):
                raise InputError(
                    f"{path}: size {label.shape[1]}x{label.shape[0]} found, expected that of its image, {width}x{height}; "
                    "write the label at the size of the image"
                )
            check_ids(label, self.label_space, path)
        if "json" in places:
            boxes = self._decode(descriptor, places["json"], parse_boxes)
            check_boxes(boxes.tolist(), self.label_space, self._path(places["json"]), height=height, width=width)
        offsets = {what: (member.offset, member.size) for what, member in places.items()}
        counts = count_labels(label, boxes)
        return index_row(key, self.number, offsets, height=height, width=width, num_boxes=len(boxes), counts=counts)

    def _decode(self, descriptor: int, member: Member, decoder: Callable[[bytes], np.ndarray]) -> np.ndarray:
        if not 0 < member.size <= MAX_MEMBER_BYTES:
            raise InputError(f"{self._path(member)}: {member.size} bytes found, expected 1 to {MAX_MEMBER_BYTES}; mend the tar")
        content = os.pread(descriptor, member.size, member.offset)
        try:
            return decoder(content)
        except (ValueError, OSError, SyntaxError) as error:
            raise InputError(f"{self._path(member)}: does not decode ({' '.join(str(error).split())}); mend the tar") from None

    def _path(self, member: Member) -> Path:
        """Of a member, for errors: nothing of this name is ever opened."""
        return self.path / _safe_key(member.name)


def distinct_keys(tables: list[pa.Table], names: Sequence[str]) -> list[pa.Table]:
    """The rows of tars with these names, so that each key is there once in the split: `tables` themselves where that is so, else
    every key behind the name of its tar without .tar."""
    keys = pa.chunked_array([chunk for table in tables for chunk in table["key"].chunks], pa.string())
    if pc.count_distinct(keys).as_py() == len(keys):
        return tables
    column = INDEX_SCHEMA.get_field_index("key")
    prefixes = [name.removesuffix(".tar") for name in names]
    return [
        table.set_column(column, INDEX_SCHEMA.field("key"), pc.binary_join_element_wise(prefix, table["key"], "/"))
        for prefix, table in zip(prefixes, tables, strict=True)
    ]


RENAMED = "renamed, their names are absolute, hold '..' or signs that are no text"


def _split_name(name: str) -> tuple[str, str]:
    """Key and suffix, as the webdataset library splits them; no key where the name begins with its suffix."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return (folder + slash + stem if stem else ""), suffix.lower()


def _safe_key(key: str) -> str:
    """`key` as a relative path without `..`, in letters that can be shown."""
    parts = [part for part in key.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    text = "/".join(parts)[:MAX_KEY_LENGTH]
    return "".join(letter if letter.isprintable() and letter != "\N{REPLACEMENT CHARACTER}" else "_" for letter in text) or "_"


def _first(suffixes: Sequence[str], parts: Mapping[str, Member]) -> str | None:
    return next((suffix for suffix in suffixes if suffix in parts), None)
