"""Tars made by others: found, indexed by one scan and read where they lie."""

import io
import json
import logging
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from PIL import Image
from test_shards import files_below
from tiny import BOXES, DISKS, draw_disks

from data.images import decode_image, decode_label
from data.loader import decode
from data.shards import ShardSplit
from taxomix import main

RNG = np.random.default_rng(0)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def drawn(image: str = "jpg", label: str | None = "png") -> dict[str, bytes]:
    """The members of a sample, by suffix."""
    pixels, ids, boxes = draw_disks(RNG)
    members = {image: encoded(pixels, "PNG" if image == "png" else "JPEG"), "json": json.dumps({"boxes": boxes}).encode()}
    return members if label is None else {**members, label: encoded(ids, "PNG")}


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False, **options) as writer:
        for key, members in samples.items():
            writer.write({"__key__": key, **members})
    return path


def write_members(path: Path, members: list[tuple[str, bytes]], *, format: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def prepare(tar_source: Path, *words: str) -> int:
    return main(["prepare", "dataset=webdataset", f"source={tar_source}", f"out={tar_source.parent / 'out'}", "workers=1", *words])


def opened(tar_source: Path, split: str = "train", name: str = "disks") -> ShardSplit:
    return ShardSplit(tar_source.parent / "out" / name, split)


@pytest.mark.parametrize("label", ["png", "seg.png", "label.png"])
def test_tars_are_read_where_they_lie(label: str, tar_source: Path) -> None:
    samples = {f"{tar}/{number:03}": drawn(label=label) for tar in range(3) for number in range(4)}
    for tar in range(3):
        write_tar(tar_source / f"train-{tar:06}.tar", {key: members for key, members in samples.items() if key.startswith(f"{tar}/")})
    write_tar(tar_source / "val" / "000.tar", {"a": drawn(label=label)})
    before = files_below(tar_source)
    assert prepare(tar_source) == 0
    assert files_below(tar_source) == before
    assert sorted(files_below(tar_source.parent / "out")) == [
        f"disks/{split}.{kind}" for split in ("train", "val") for kind in ("arrow", "json")
    ]
    split = opened(tar_source)
    assert split.keys == list(samples)
    assert [(info.name, info.samples) for info in split.manifest.shards] == [(f"train-{tar:06}.tar", 4) for tar in range(3)]
    for number, (key, members) in enumerate(samples.items()):
        sample, image, ids = decode(split, number)
        assert (sample.key, sample.image, sample.label) == (key, members["jpg"], members[label])
        assert image.shape[:2] == split.size(number)
        expected = np.array(Image.open(io.BytesIO(members[label])))
        np.testing.assert_array_equal(ids, expected)
        counts = dict(zip(split.index["label_ids"][number].as_py(), split.index["label_pixels"][number].as_py(), strict=True))
        assert counts == {int(i): int((expected == i).sum()) for i in np.unique(expected)}
    assert len(opened(tar_source, "val")) == 1


def test_the_index_does_not_depend_on_the_number_of_processes(tar_source: Path) -> None:
    for tar in range(3):
        write_tar(tar_source / f"{tar}.tar", {f"{tar}{number}": drawn() for number in range(2)})
    assert prepare(tar_source) == 0
    one = files_below(tar_source.parent / "out")
    assert prepare(tar_source, "workers=2", "overwrite=true") == 0
    assert files_below(tar_source.parent / "out") == one


def test_boxes_and_png_images(tar_source: Path) -> None:
    (tar_source / "meta.yaml").write_text(yaml.safe_dump(BOXES))
    members = drawn("png", None)
    write_tar(tar_source / "0.tar", {"a": members, "b": {"jpg": drawn()["jpg"]}})
    assert prepare(tar_source) == 0
    split = opened(tar_source, name="boxed")
    sample = split.read(0)
    assert sample.boxes.tolist() == json.loads(members["json"])["boxes"]
    assert split.keys == ["a"]
    np.testing.assert_array_equal(decode_image(sample.image), np.array(Image.open(io.BytesIO(members["png"]))))


def test_an_image_and_a_label_may_both_be_png(tar_source: Path) -> None:
    members = drawn("png", "seg.png")
    write_tar(tar_source / "0.tar", {"a": members})
    assert prepare(tar_source) == 0
    sample = opened(tar_source).read(0)
    assert (sample.image, sample.label) == (members["png"], members["seg.png"])


def test_suffixes_and_label_space_can_be_given(tar_source: Path) -> None:
    (tar_source / "meta.yaml").rename(tar_source.parent / "space.yaml")
    members = drawn("rgb", "ids")
    write_tar(tar_source / "0.tar", {"a": members})
    words = ["dataset.image=[rgb]", "dataset.label=[ids]", f"dataset.labels={tar_source.parent / 'space.yaml'}", "dataset.split=test"]
    assert prepare(tar_source, *words) == 0
    assert opened(tar_source, "test").read(0).image == members["rgb"]


def test_what_has_no_label_is_left_out_and_told(tar_source: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tar_source / "0.tar", {"a": drawn(), "b": drawn(label=None), "c": drawn("gif", "seg.png")})
    write_members(tar_source / "1.tar", [("d.jpg", drawn()["jpg"]), (".DS_Store", b"x"), ("e.jpg", drawn()["jpg"])])
    with caplog.at_level(logging.WARNING):
        assert prepare(tar_source) == 0
    assert opened(tar_source).keys == ["a"]
    assert "disks train: 3 samples left out, no label (seg.png, label.png, png)" in caplog.messages
    assert "disks train: 1 samples left out, no image (jpg, jpeg, png)" in caplog.messages


def test_a_killed_scan_goes_on(tar_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tar in range(3):
        write_tar(tar_source / f"{tar}.tar", {f"{tar}": drawn()})

    class Killed(BaseException):
        pass

    decoded = []

    def decode_or_die(content: bytes) -> np.ndarray:
        if len(decoded) == 2:
            raise Killed
        decoded.append(content)
        return decode_label(content)

    with monkeypatch.context() as patch:
        patch.setattr("data.foreign.decode_label", decode_or_die)
        with pytest.raises(Killed):
            prepare(tar_source)
        decoded.clear()
        assert prepare(tar_source) == 0
    assert len(decoded) == 1
    assert opened(tar_source).keys == ["0", "1", "2"]


def test_a_changed_tar_is_told(tar_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tar_source / "0.tar", {"a": drawn()})
    assert prepare(tar_source) == 0
    assert prepare(tar_source) == 0
    write_tar(tar_source / "0.tar", {"b": drawn()})
    assert prepare(tar_source) == 2
    assert "give overwrite=true" in capsys.readouterr().err
    assert prepare(tar_source, "overwrite=true") == 0
    assert opened(tar_source).keys == ["b"]


def lying_id() -> dict[str, bytes]:
    return {**drawn(), "png": encoded(np.full((72, 96), 77, np.uint8), "PNG")}


BAD_SAMPLES = {
    "0.tar/a.png: id 77 found in 6912 pixels": lambda: lying_id(),
    "0.tar/a.png: size 20x10 found": lambda: {**drawn(), "png": encoded(np.zeros((10, 20), np.uint8), "PNG")},
    "0.tar/a.jpg: does not decode": lambda: {**drawn(), "jpg": b"no picture"},
    "0.tar/a.png: does not decode": lambda: {**drawn(), "png": drawn()["png"][:-30]},
    "0.tar/a.jpg: 0 bytes found": lambda: {**drawn(), "jpg": b""},
}


@pytest.mark.parametrize("message", BAD_SAMPLES)
def test_a_bad_sample_is_one_line(message: str, tar_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tar_source / "0.tar", {"a": BAD_SAMPLES[message](), "b": drawn()})
    assert prepare(tar_source) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"taxomix prepare: {tar_source}/{message}")
    assert error.count("\n") == 1
    assert not (tar_source.parent / "out").exists()


def test_no_tar_no_space_and_the_same_folder_are_told(tar_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tar_source) == 2
    assert f"{tar_source}: no tar found" in capsys.readouterr().err
    write_tar(tar_source / "0.tar", {"a": drawn(label=None)})
    assert prepare(tar_source) == 2
    assert "no sample with image and label found" in capsys.readouterr().err
    (tar_source / "meta.yaml").unlink()
    assert prepare(tar_source) == 2
    assert "meta.yaml: not found, expected the label space" in capsys.readouterr().err
    folder = tar_source.rename(tar_source.parent / "disks")
    (folder / "meta.yaml").write_text(yaml.safe_dump(DISKS))
    assert prepare(folder, f"out={folder}") == 2
    assert "is the source or lies in it" in capsys.readouterr().err


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_common_format_is_read(format: int, tar_source: Path) -> None:
    folder = "long/" * 30 if format != tarfile.USTAR_FORMAT else "long/" * 18
    members = [(f"{folder}{key}.{suffix}", content) for key in "ab" for suffix, content in drawn().items()]
    write_members(tar_source / "0.tar", members, format=format)
    assert prepare(tar_source) == 0
    split = opened(tar_source)
    assert split.keys == [f"{folder}a", f"{folder}b"]
    assert split.read(1).image == dict(members)[f"{folder}b.jpg"]


def test_keys_that_several_tars_have_begin_with_the_name_of_the_tar(tar_source: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tar_source / "train-0.tar", {"a": drawn(), "b": drawn()})
    write_tar(tar_source / "train" / "1.tar", {"a": drawn(), "c": drawn()})
    write_tar(tar_source / "val-0.tar", {"a": drawn()})
    assert prepare(tar_source) == 0
    assert opened(tar_source).keys == ["train-0/a", "train-0/b", "train/1/a", "train/1/c"]
    assert opened(tar_source).read(2).key == "train/1/a"
    assert opened(tar_source, "val").keys == ["a"]
    assert "disks train: keys found in several tars, so each begins with its tar's name" in caplog.messages


def test_names_behind_dot_and_slash_are_taken_as_they_are(tar_source: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `tar cf x.tar -C DIR .` writes them."""
    write_members(tar_source / "0.tar", [(f"./s{n}.{suffix}", part) for n in range(2) for suffix, part in drawn().items()])
    assert prepare(tar_source) == 0
    assert opened(tar_source).keys == ["s0", "s1"]
    assert not caplog.messages


def test_what_was_noted_is_told_after_a_stop_too(tar_source: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tar_source / "0.tar", {"a": drawn(), "b": drawn(label=None)})
    write_tar(tar_source / "1.tar", {"c": lying_id()})
    assert prepare(tar_source) == 2
    write_tar(tar_source / "1.tar", {"c": drawn()})
    assert prepare(tar_source) == 0
    assert "disks train: 1 samples left out, no label (seg.png, label.png, png)" in caplog.messages
