"""Preparing and reading shards, good input and bad."""

import errno
import fcntl
import gc
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import DISKS, FolderMaker, write_image

from data.errors import InputError, UnreadableError
from data.images import decode_jpeg, decode_label
from data.labels import LabelSpace
from data.shards import Sample, ShardSplit, parse_boxes, write_shard
from taxomix import main

ROOT = Path(__file__).parents[1]
DISKS_SPACE = LabelSpace.from_dict(DISKS, origin="test")


def prepare(folder: Path, out: Path, *words: str) -> int:
    workers = [] if any(word.startswith("workers=") for word in words) else ["workers=1"]
    return main(["prepare", "dataset=folder", f"source={folder}", f"out={out}", *workers, *words])


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(out: Path) -> list[str]:
    """What is there besides the hidden folders of work that is not done."""
    return [name for name in files_below(out) if not re.search(r"(^|/)\.", name)]


def test_reads_back_what_went_in(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("disks")
    assert prepare(folder, tmp_path / "out", "samples_per_shard=4") == 0
    split = ShardSplit(tmp_path / "out" / "disks", "train")
    assert len(split) == 6
    assert [(shard.name, shard.samples) for shard in split.manifest.shards] == [("train-00000.tar", 4), ("train-00001.tar", 2)]
    for number, key in enumerate(split.keys):
        sample = split.read(number)
        assert sample.image == (folder / "images" / "train" / f"{key}.jpg").read_bytes()
        label = np.array(Image.open(folder / "labels" / "train" / f"{key}.png"))
        assert sample.label is not None
        np.testing.assert_array_equal(decode_label(sample.label), label)
        counts = dict(zip(split.index["label_ids"][number].as_py(), split.index["label_pixels"][number].as_py(), strict=True))
        assert counts == {int(i): int((label == i).sum()) for i in np.unique(label)}
        assert split.size(number) == label.shape


def test_a_share_of_train_becomes_val(make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("boxed", train=8)
    assert prepare(folder, tmp_path / "both", "dataset.val_share=0.25") == 2
    assert "images with train, val found, expected train without val" in capsys.readouterr().err
    shutil.rmtree(folder / "images" / "val")
    assert prepare(folder, tmp_path / "out", "dataset.val_share=0.25") == 0
    train, val = (ShardSplit(tmp_path / "out" / "boxed", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    keys = {split.key(i) for split in (train, val) for i in range(len(split))}
    assert keys == {path.stem for path in (folder / "images" / "train").iterdir()}
    assert prepare(folder, tmp_path / "out", "dataset.val_share=1.5") == 2
    assert "dataset.val_share: 1.5 found" in capsys.readouterr().err


def test_boxes_read_back(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("boxed")
    assert prepare(folder, tmp_path / "out") == 0
    split = ShardSplit(tmp_path / "out" / "boxed", "val")
    rows = [line.split(",") for line in (folder / "boxes_val.csv").read_text().splitlines()[1:]]
    for number, key in enumerate(split.keys):
        sample = split.read(number)
        expected = [[int(value) for value in row[1:]] for row in rows if row[0] == f"val/{key}.jpg"]
        assert sample.label is None
        assert sample.boxes.tolist() == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves its files to the collector
def test_the_webdataset_library_reads_the_shards(shards: Path) -> None:
    urls = sorted(str(path) for path in (shards / "disks").glob("train-*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    gc.collect()
    split = ShardSplit(shards / "disks", "train")
    assert [sample["__key__"] for sample in samples] == split.keys
    for number, sample in enumerate(samples):
        assert sample["jpg"] == split.read(number).image
        assert decode_label(sample["png"]).shape == split.size(number)
        assert json.loads(sample["json"])["source"] == f"images/train/{sample['__key__']}.jpg"


@given(
    samples=st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="./", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=150),
            st.binary(max_size=3000),
        ),
        max_size=4,
        unique_by=lambda sample: sample[0],
    ),
    has_label=st.booleans(),
)
@settings(max_examples=30)
def test_tars_are_byte_for_byte_those_of_the_webdataset_library(samples: list[tuple[str, bytes]], has_label: bool) -> None:
    label = np.arange(48, dtype=np.uint8).reshape(6, 8) if has_label else None
    palette = DISKS_SPACE.palette
    boxes = np.array([[0, 1, 2, 3, 1]], np.int32)
    written = [Sample(key=key, jpeg=jpeg, height=6, width=8, label=label, boxes=boxes, source="x") for key, jpeg in samples]
    expected = io.BytesIO()
    options = {"encoder": False, "mtime": 0, "user": "taxomix", "group": "taxomix", "mode": 0o644, "compress": False}
    with tempfile.TemporaryDirectory() as folder, webdataset.TarWriter(expected, **options) as writer:
        table = write_shard(Path(folder) / "x.tar", written, shard=3, palette=palette)
        content = (Path(folder) / "x.tar").read_bytes()
        for row, (key, jpeg) in zip(table.to_pylist(), samples, strict=True):
            members = {
                suffix: content[row[f"{member}_offset"] :][: row[f"{member}_bytes"]]
                for member, suffix in (("image", "jpg"), ("label", "png"), ("json", "json"))
            }
            assert members["jpg"] == jpeg
            assert parse_boxes(members["json"]).tolist() == boxes.tolist()
            assert bool(members["png"]) == has_label
            writer.write({"__key__": key, **{suffix: part for suffix, part in members.items() if part or suffix != "png"}})
    assert content == expected.getvalue()


def test_preparing_imports_neither_torch_nor_webdataset(make_folder: FolderMaker, tmp_path: Path) -> None:
    """They would cost every process seconds and hundreds of megabytes."""
    words = ["prepare", "dataset=folder", f"source={make_folder('disks')}", f"out={tmp_path / 'out'}", "workers=1"]
    code = f"import sys, taxomix; assert taxomix.main({words}) == 0; print({{'torch', 'webdataset', 'ray'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "set()"


def test_no_process_outlives_a_killed_run(tmp_path: Path) -> None:
    words = ["prepare", "dataset=streets", "dataset.train=2000", f"out={tmp_path / 'out'}", "workers=2", "samples_per_shard=500"]
    process = subprocess.Popen([sys.executable, "-m", "taxomix", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()  # an estimate, although no shard is done
    assert re.fullmatch(r"prepare: samples: \d+/\d+, \d+ s left\n", line)
    assert not list((tmp_path / "out").rglob("*.arrow"))
    pattern = f"/proc/{process.pid}/task/{process.pid}/children"
    children = [int(pid) for pid in Path(pattern).read_text().split()]
    assert len(children) >= 2
    process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/exe").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_bytes_do_not_depend_on_the_number_of_processes(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("disks", train=9)
    assert prepare(folder, tmp_path / "one", "samples_per_shard=2") == 0
    assert prepare(folder, tmp_path / "two", "samples_per_shard=2", "workers=2") == 0
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")


def test_a_png_and_a_progressive_jpeg_become_baseline_jpeg(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("disks")
    image = Image.open(folder / "images" / "train" / "train_00.jpg")
    pixels = np.array(image)
    (folder / "images" / "train" / "train_00.jpg").unlink()
    image.save(folder / "images" / "train" / "train_00.png")
    Image.fromarray(pixels).save(folder / "images" / "train" / "train_01.jpg", progressive=True, quality=95)
    assert prepare(folder, tmp_path) == 0
    split = ShardSplit(tmp_path / "disks", "train")
    for number in (0, 1):
        jpeg = split.read(number).image
        assert not Image.open(io.BytesIO(jpeg)).info.get("progressive")
        assert np.abs(decode_jpeg(jpeg).astype(int) - pixels).mean() < 4


def test_a_second_run_keeps_what_is_there_and_a_changed_source_is_told(
    make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make_folder("disks"), tmp_path / "out"
    assert prepare(folder, out) == 0
    before = files_below(out)
    assert prepare(folder, out / "disks") == 0  # the folder itself may be named too
    assert "already there" in capsys.readouterr().out
    assert files_below(out) == before
    label = folder / "labels" / "train" / "train_00.png"
    write_image(label, np.zeros_like(np.array(Image.open(label))))
    assert prepare(folder, out) == 2
    assert "give overwrite=true" in capsys.readouterr().err
    assert files_below(out) == before
    assert prepare(folder, out, "overwrite=true", "samples_per_shard=4") == 0
    assert (decode_label(ShardSplit(out / "disks", "train").read(0).label or b"") == 0).all()


def test_a_killed_run_goes_on_with_the_shards_that_are_missing(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("disks", train=9)
    assert prepare(folder, tmp_path / "whole", "samples_per_shard=2") == 0
    code = f"""
import os, data.prepare, taxomix
write, done = data.prepare.write_shard, []
def write_and_die(path, *args, **kwargs):
    if len(done) == 3:
        os._exit(9)
    done.append(path)
    return write(path, *args, **kwargs)
data.prepare.write_shard = write_and_die
taxomix.main(["prepare", "dataset=folder", "source={folder}", "out={tmp_path / "killed"}", "workers=1", "samples_per_shard=2"])
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 9
    partial = tmp_path / "killed" / "disks" / ".train.partial"
    kept = {path: path.stat().st_ino for path in partial.glob("*.tar")}
    assert len(kept) == 3
    with pytest.raises(InputError, match="no split found"):
        ShardSplit(tmp_path / "killed" / "disks", "train")
    assert prepare(folder, tmp_path / "killed", "samples_per_shard=2") == 0
    assert files_below(tmp_path / "killed") == files_below(tmp_path / "whole")
    for path, inode in kept.items():
        assert (tmp_path / "killed" / "disks" / path.name).stat().st_ino == inode


@pytest.mark.parametrize("moves", [0, 1, 3])
def test_a_run_killed_while_publishing_goes_on(
    moves: int, make_folder: FolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder("disks", train=5)
    assert prepare(folder, tmp_path / "whole", "samples_per_shard=2") == 0

    class Killed(BaseException):
        pass

    replace, done = os.replace, []

    def replace_or_die(source: Path, target: Path) -> None:
        if str(target).endswith(".tar") and ".partial" not in str(target):
            if len(done) == moves:
                raise Killed
            done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        patch.setattr("data.publish.os.replace", replace_or_die)
        prepare(folder, tmp_path / "killed", "samples_per_shard=2")
    assert prepare(folder, tmp_path / "killed", "samples_per_shard=2") == 0
    assert files_below(tmp_path / "killed") == files_below(tmp_path / "whole")


def test_a_split_leaves_others_of_like_name_alone(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("disks")
    for kind in ("images", "labels"):
        (folder / kind / "val").rename(folder / kind / "train-extra")
        (folder / kind / "train").rename(tmp_path / kind)
    assert prepare(folder, tmp_path / "out") == 0
    for kind in ("images", "labels"):
        (tmp_path / kind).rename(folder / kind / "train")
    assert prepare(folder, tmp_path / "out") == 0
    assert len(ShardSplit(tmp_path / "out" / "disks", "train-extra")) == 3
    assert prepare(folder, tmp_path / "out", "overwrite=true", "samples_per_shard=2") == 0
    assert prepare(folder, tmp_path / "out", "overwrite=true") == 0
    assert sorted(path.name for path in (tmp_path / "out" / "disks").glob("*.tar")) == ["train-00000.tar", "train-extra-00000.tar"]


def break_missing_label(folder: Path) -> None:
    (folder / "labels" / "train" / "train_03.png").unlink()


def break_label_size(folder: Path) -> None:
    write_image(folder / "labels" / "train" / "train_03.png", np.zeros((10, 20), np.uint8))


def break_label_id(folder: Path) -> None:
    path = folder / "labels" / "train" / "train_03.png"
    label = np.array(Image.open(path))
    label[5, :7] = 17
    write_image(path, label)


def break_label_mode(folder: Path) -> None:
    write_image(folder / "labels" / "train" / "train_03.png", np.zeros((72, 96, 3), np.uint8))


def break_image(folder: Path) -> None:
    path = folder / "images" / "train" / "train_03.jpg"
    path.write_bytes(path.read_bytes()[:700])


def break_image_completely(folder: Path) -> None:
    (folder / "images" / "train" / "train_03.jpg").write_bytes(b"not a picture")


def break_meta(folder: Path) -> None:
    (folder / "meta.yaml").write_text("a: [")


def break_meta_missing(folder: Path) -> None:
    (folder / "meta.yaml").unlink()


def break_empty_split(folder: Path) -> None:
    for path in (folder / "images" / "val").iterdir():
        path.unlink()


def break_same_key(folder: Path) -> None:
    write_image(folder / "images" / "train" / "train_03.png", np.zeros((72, 96, 3), np.uint8))


def break_val_label_only(folder: Path) -> None:
    write_image(folder / "labels" / "val" / "val_01.png", np.zeros((10, 20), np.uint8))


def break_16_bit(folder: Path) -> None:
    (folder / "images" / "train" / "train_03.jpg").unlink()
    write_image(folder / "images" / "train" / "train_03.png", np.full((72, 96), 3000, np.uint16))


def break_nested_images(folder: Path) -> None:
    write_image(folder / "images" / "train" / "city" / "a.jpg", np.zeros((72, 96, 3), np.uint8))


def break_loose_image(folder: Path) -> None:
    write_image(folder / "images" / "a.jpg", np.zeros((72, 96, 3), np.uint8))


def break_name(folder: Path) -> None:
    (folder / "meta.yaml").write_text("{name: ../evil, classes: [{id: 0, name: a}]}")


BAD_FOLDERS: list[tuple[Callable[[Path], None], str]] = [
    (break_missing_label, "images/train/train_03.jpg: no label found, expected {folder}/labels/train/train_03.png; add the label"),
    (break_label_size, "labels/train/train_03.png: size 20x10 found, expected that of its image train_03.jpg, 96x72"),
    (break_label_id, "labels/train/train_03.png: id 17 found in 7 pixels, expected the ids of label space disks"),
    (break_label_mode, "labels/train/train_03.png: mode RGB found, expected an 8-bit image of ids"),
    (break_image, "images/train/train_03.jpg: the image does not decode"),
    (break_image_completely, "images/train/train_03.jpg: the image does not decode"),
    (break_meta, "meta.yaml: not YAML"),
    (break_meta_missing, "meta.yaml: not found"),
    (break_empty_split, "images/val: no image found"),
    (break_val_label_only, "labels/val/val_01.png: size 20x10 found"),
    (break_16_bit, "images/train/train_03.png: an image of mode I;16 found, expected 8 bits per channel"),
    (break_nested_images, "images/train/city: a folder of images found"),
    (break_loose_image, "images/a.jpg: an image beside the splits found"),
    (break_name, "meta.yaml: name: '../evil' found"),
    (break_same_key, "images/train/train_03.png: same key train_03 as train_03.jpg"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_FOLDERS, ids=[damage.__name__ for damage, _ in BAD_FOLDERS])
def test_bad_folders_are_one_line_and_publish_nothing(
    damage: Callable[[Path], None], message: str, make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder("disks")
    damage(folder)
    assert prepare(folder, tmp_path / "out", "samples_per_shard=2") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"taxomix prepare: {folder}/{message.format(folder=folder)}")
    assert error.count("\n") == 1
    assert not published(tmp_path / "out")


def test_bad_input_in_another_process_is_told_alike(make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("disks")
    break_label_id(folder)
    assert prepare(folder, tmp_path / "out", "samples_per_shard=2", "workers=2") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("prepare: samples")]
    assert len(errors) == 1
    assert errors[0].startswith(f"taxomix prepare: {folder}/labels/train/train_03.png: id 17 found in 7 pixels")
    assert not published(tmp_path / "out")


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_are_told_together(workers: int, make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("disks", train=40)
    names = [f"train_{number:02}.png" for number in (0, 1, 7, 30)]
    for name in names:
        write_image(folder / "labels" / "train" / name, np.zeros((10, 20), np.uint8))
    assert prepare(folder, tmp_path / "out", "samples_per_shard=4", f"workers={workers}") == 2
    error = capsys.readouterr().err
    assert "taxomix prepare: 4 bad files found" in error
    assert [line.split(":")[0].strip() for line in error.splitlines()[-4:]] == [f"{folder}/labels/train/{name}" for name in names]
    assert not published(tmp_path / "out")


def test_of_many_bad_files_some_are_told(make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("disks", train=50)
    for path in (folder / "labels" / "train").iterdir():
        write_image(path, np.zeros((10, 20), np.uint8))
    assert prepare(folder, tmp_path / "out", "samples_per_shard=4") == 2
    error = capsys.readouterr().err
    assert "at least 20 bad files found" in error
    assert error.count("size 20x10 found") == 20


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train/train_00.jpg,5,5,4,9,0", "box 5,5,4,9 found, expected 0 <= x1 <= x2 < 96"),
        ("train/train_00.jpg,5,5,96,9,0", "box 5,5,96,9 found"),
        ("train/train_00.jpg,5,5,9,9,3", "box of class 3 found"),
        ("train/train_99.jpg,5,5,9,9,0", "boxes_train.csv:14: image train/train_99.jpg not found"),
        ("train/train_00.jpg,5,5,99999999999,9,0", "box 5,5,99999999999,9 found"),
        ("train/train_00.jpg,5,5,9,x,0", "boxes_train.csv:14: ValueError"),
        ("train/train_00.jpg,5,5", "boxes_train.csv:14: TypeError"),
    ],
)
def test_bad_boxes(row: str, message: str, make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("boxed")
    with (folder / "boxes_train.csv").open("a") as file:
        file.write(row + "\n")
    assert prepare(folder, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not published(tmp_path / "out")


def test_a_full_disk_leaves_no_half_shard(make_folder: FolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    assert prepare(make_folder("disks"), tmp_path / "out") == 1
    assert not [name for name in files_below(tmp_path / "out") if not name.endswith("plan")]


@pytest.mark.parametrize("damage", ["no index", "cut index", "no manifest", "bad manifest"])
def test_damaged_shards_are_told(damage: str, make_folder: FolderMaker, tmp_path: Path) -> None:
    assert prepare(make_folder("disks"), tmp_path) == 0
    folder = tmp_path / "disks"
    match damage:
        case "no index":
            (folder / "train.arrow").unlink()
        case "cut index":
            (folder / "train.arrow").write_bytes((folder / "train.arrow").read_bytes()[:-20])
        case "no manifest":
            (folder / "train.json").unlink()
        case "bad manifest":
            (folder / "train.json").write_text("{}")
    with pytest.raises(InputError, match="prepare"):
        ShardSplit(folder, "train")


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_shard_costs_its_own_samples_only(damage: str, make_folder: FolderMaker, tmp_path: Path) -> None:
    assert prepare(make_folder("disks"), tmp_path, "samples_per_shard=2") == 0
    folder = tmp_path / "disks"
    split = ShardSplit(folder, "train")
    whole = [split.read(number).image for number in range(6)]
    shard = folder / "train-00001.tar"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[: len(shard.read_bytes()) // 4])
    else:
        shard.unlink()
    split = ShardSplit(folder, "train")
    for number in range(6):
        if number in (2, 3):
            with pytest.raises(UnreadableError, match=rf"train-00001\.tar: sample {split.key(number)}: "):
                split.read(number)
        else:
            assert split.read(number).image == whole[number]


def test_only_so_many_shards_stay_open(make_folder: FolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(make_folder("disks", train=12), tmp_path, "samples_per_shard=1") == 0
    monkeypatch.setattr(ShardSplit, "MAX_OPEN", 3)
    split = ShardSplit(tmp_path / "disks", "train")
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda number: split.read(number % 12).image, range(200)))
    assert read == [split.read(number % 12).image for number in range(200)]
    assert len(os.listdir("/proc/self/fd")) - before <= 3


def test_unlabelled_folders_need_no_labels(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("boxed")
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    (folder / "meta.yaml").write_text(yaml.safe_dump({**meta, "supervision": "none"}))
    for path in folder.glob("boxes_*.csv"):
        path.unlink()
    assert prepare(folder, tmp_path / "out") == 0
    sample = ShardSplit(tmp_path / "out" / "boxed", "train").read(0)
    assert sample.label is None
    assert not len(sample.boxes)


def test_sources_are_only_read(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("disks")
    before = files_below(folder)
    assert prepare(folder, tmp_path / "out") == 0
    assert files_below(folder) == before


def test_after_bad_files_only_their_shards_are_done_again(
    make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder("disks", train=10)
    label = folder / "labels" / "train" / "train_03.png"
    good = label.read_bytes()
    break_label_id(folder)
    assert prepare(folder, tmp_path / "out", "samples_per_shard=2") == 2
    label.write_bytes(good)
    done: list[str] = []
    monkeypatch.setattr(
        "data.prepare.write_shard", lambda path, *args, **more: (done.append(path.name), write_shard(path, *args, **more))[1]
    )
    assert prepare(folder, tmp_path / "out", "samples_per_shard=2") == 0
    assert done == ["train-00001.tar"]
    monkeypatch.undo()
    assert prepare(folder, tmp_path / "whole", "samples_per_shard=2") == 0
    assert {name: c for name, c in files_below(tmp_path / "out").items() if not name.endswith("json")} == {
        name: c for name, c in files_below(tmp_path / "whole").items() if not name.endswith("json")
    }


def test_a_fault_of_the_disk_is_no_bad_file_and_keeps_the_work(
    make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = make_folder("disks", train=10), Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "train_05.jpg":
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert prepare(folder, tmp_path / "out", "samples_per_shard=2") == 1
    assert "train_05.jpg" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert len(list((tmp_path / "out" / "disks" / ".train.partial").glob("*.note"))) == 2


def test_one_process_at_a_time_prepares_a_split(make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("disks")
    (tmp_path / "out" / "disks").mkdir(parents=True)
    with (tmp_path / "out" / "disks" / ".train.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert prepare(folder, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert "split train is being prepared by another process" in error
        assert error.count("\n") == 1
        assert files_below(tmp_path / "out") == {"disks/.train.lock": b""}
    assert prepare(folder, tmp_path / "out") == 0
    assert not [name for name in files_below(tmp_path / "out") if "/." in name]


@pytest.mark.parametrize("name", ["train-00000.tar", "train-00007.tar", "train.arrow"])
@pytest.mark.parametrize("words", [[], ["overwrite=true"]])
def test_files_of_others_are_not_replaced(
    name: str, words: list[str], make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "disks" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert prepare(make_folder("disks"), tmp_path / "out", *words) == 2
    assert f"{path}: found, and no train.json names it" in capsys.readouterr().err
    assert files_below(tmp_path / "out") == {f"disks/{name}": b"mine"}


def test_only_what_the_older_manifest_names_is_removed(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder, out = make_folder("disks"), tmp_path / "out" / "disks"
    assert prepare(folder, out, "samples_per_shard=2") == 0
    (out / "train-00009.tar").write_bytes(b"mine")
    assert prepare(folder, out, "samples_per_shard=4", "overwrite=true") == 0
    assert sorted(path.name for path in out.glob("train-*.tar")) == ["train-00000.tar", "train-00001.tar", "train-00009.tar"]


def test_a_tar_of_an_older_version_is_not_taken_for_the_new_one(
    make_folder: FolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, again = make_folder("disks"), tmp_path / "out", ["jpeg_quality=30", "overwrite=true"]
    for path in (folder / "images" / "train").iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    assert prepare(folder, out) == 0

    class Killed(BaseException):
        pass

    def die(job: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        patch.setattr("data.prepare.SplitJob.publish", die)
        prepare(folder, out, *again)
    (out / "disks" / ".train.partial" / "train-00000.tar").unlink()
    assert prepare(folder, out, *again) == 0
    assert prepare(folder, tmp_path / "whole", "jpeg_quality=30") == 0
    assert files_below(out) == files_below(tmp_path / "whole")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(
    number: int, make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", no_space)
    assert prepare(make_folder("disks"), tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"taxomix prepare: {tmp_path / 'out' / 'disks'}: {os.strerror(number)}, ")
    assert " MB free; make room, the same command goes on" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("below", ["", "images", "shards/deep"])
def test_shards_are_not_written_into_the_source(
    below: str, make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder("disks")
    (tmp_path / "link").symlink_to(folder)
    before = files_below(folder)
    assert prepare(folder, folder / below) == 2
    assert "is the source or lies in it" in capsys.readouterr().err
    assert prepare(folder, tmp_path / "link" / below) == 2
    assert files_below(folder) == before


def test_the_hint_at_inspect_works_as_printed(make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("disks", root=tmp_path / "a folder")
    for number in (0, 1):
        write_image(folder / "labels" / "train" / f"train_0{number}.png", np.zeros((10, 20), np.uint8))
    assert prepare(folder, tmp_path / "out") == 2
    hint = re.search(r"`taxomix (inspect .*)` lists all", capsys.readouterr().err)
    assert hint is not None
    assert main([*shlex.split(hint[1]), f"out={tmp_path / 'reports'}", "pictures=0"]) == 1
    assert "size-differs" in (tmp_path / "reports" / "disks" / "report.json").read_text()


def test_names_that_are_no_text_are_told(make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("disks")
    image = folder / "images" / "train" / "train_00.jpg"
    os.rename(image, os.path.join(os.fsencode(image.parent), b"\xff.jpg"))
    assert prepare(folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "a name that is not UTF-8 found" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_bytes_of_a_photo_with_more_behind_it_are_kept(make_folder: FolderMaker, tmp_path: Path) -> None:
    folder = make_folder("disks")
    path = folder / "images" / "train" / "train_00.jpg"
    image = Image.open(path).copy()
    image.save(path, "MPO", save_all=True, append_images=[image], quality=90)
    with Image.open(path) as opened:
        assert opened.format == "MPO"
    assert prepare(folder, tmp_path / "out") == 0
    assert ShardSplit(tmp_path / "out" / "disks", "train").read(0).image == path.read_bytes()


def test_images_that_the_loader_would_refuse_are_told(make_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("disks")
    (folder / "images" / "train" / "train_00.jpg").unlink()
    Image.new("1", (8200, 8200)).save(folder / "images" / "train" / "train_00.png")
    assert prepare(folder, tmp_path / "out") == 2
    assert "train_00.png: the image does not decode (8200x8200 pixels found, expected at most" in capsys.readouterr().err
