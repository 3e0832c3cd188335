"""Inspecting datasets that are flawed on purpose: each flaw is found, named, and nothing else is."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import DISKS, FolderMaker, draw_disks, write_image

from data.adapters.folder import FolderConfig
from data.images import decode_jpeg, encode_jpeg
from data.inspect.collect import SplitFacts, collect, diagnose_ids
from data.inspect.duplicates import ALIKE, agreement, culprits_of, differences, label_twins, nearest_twins, same_groups, same_labels
from data.inspect.findings import KINDS, LEVELS, Finding, sort_findings
from data.inspect.lints import lint
from data.inspect.observe import (
    GRID,
    STEPS,
    RawSample,
    box_flaws,
    digest,
    label_flaws,
    label_positions,
    observe,
    picture_flaws,
    thumbnail,
)
from data.inspect.opening import InspectConfig, Prepared, decode_ids, open_datasets
from data.inspect.plots import frequency_figure, positions_figure
from data.inspect.report import describe
from data.inspect.run import examine
from data.inspect.sheet import choose, draw_sheet, fit, overlay
from data.labels import Label, LabelSpace
from taxomix import main

DISK_SPACE = LabelSpace.from_dict(DISKS, origin="test")
BOX_SPACE = LabelSpace(
    name="b", labels=(Label(id=0, name="x", color=(255, 0, 0)), Label(id=5, name="y", color=(0, 0, 255))), supervision="boxes"
)
NO_BOXES = np.zeros((0, 5), np.int32)

Inspect = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def inspect() -> Inspect:
    """Inspects a folder as it is downloaded, or with `shards` prepared ones, and draws no pictures: exit code and report."""

    def run(folder: Path, *, shards: bool = False) -> tuple[int, dict[str, Any]]:
        download = InspectConfig(dataset=FolderConfig(name="folder"), source=folder, workers=2)
        config = InspectConfig(shards=str(folder), workers=2) if shards else download
        (dataset,) = open_datasets(config)
        _, report = examine(dataset, config)
        return int(report["counts"]["error"] > 0), json.loads(json.dumps(report))

    return run


@pytest.fixture
def command(tmp_path: Path) -> Inspect:
    """The same by the command, with pictures below tmp_path/reports."""

    def run(folder: Path, *, shards: bool = False) -> tuple[int, dict[str, Any]]:
        words = [f"shards={folder}"] if shards else ["dataset=folder", f"source={folder}"]
        code = main(["inspect", *words, f"out={tmp_path / 'reports'}", "workers=2"])
        return code, json.loads((tmp_path / "reports" / folder.name / "report.json").read_text())

    return run


def kinds(report: dict[str, Any]) -> dict[str, int]:
    """Kind -> how many, over the splits."""
    found: dict[str, int] = {}
    for finding in report["findings"]:
        found[finding["kind"]] = found.get(finding["kind"], 0) + finding["count"]
    return found


def rewrite_label(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = folder / "labels" / f"{name}.png"
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


# The command


@pytest.mark.parametrize("kind", ["disks", "boxed"])
def test_nothing_is_found_where_nothing_is_wrong(kind: str, make_folder: FolderMaker, command: Inspect, tmp_path: Path) -> None:
    code, report = command(make_folder(kind))
    assert code == 0
    assert report["findings"] == []
    assert report["counts"] == {"error": 0, "warning": 0, "note": 0}
    assert {split: of["samples"] for split, of in report["splits"].items()} == {"train": 6, "val": 3}
    for name in ("frequency.png", "positions.png", "contact_sheet.png"):
        with Image.open(tmp_path / "reports" / kind / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or ()) > 20
    assert not list(tmp_path.rglob("*.tmp"))


def test_shards_and_their_source_give_the_same_report(shards: Path, inspect: Inspect) -> None:
    _, of_source = inspect(shards.parent / "source" / "disks")
    _, of_shards = inspect(shards / "disks", shards=True)
    assert of_shards == of_source


def test_the_table_holds_what_is_in_the_label_images(make_folder: FolderMaker, inspect: Inspect) -> None:
    folder = make_folder("disks")
    _, report = inspect(folder)
    labels = [np.array(Image.open(path)) for path in sorted((folder / "labels" / "train").iterdir())]
    whole = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)
    for row in report["classes"]:
        of = row["splits"]["train"]
        assert of["pixels"] == whole[row["id"]]
        assert of["images"] == sum((label == row["id"]).any() for label in labels)
        share = whole[row["id"]] / (whole[:3].sum() if row["state"] == "class" else whole.sum())
        assert of["pixel_percent"] == pytest.approx(100 * share)
    assert [(row["id"], row["state"]) for row in report["classes"]] == [(0, "class"), (1, "class"), (2, "class"), (255, "ignored")]


def test_ids_that_begin_anywhere_are_sound(make_folder: FolderMaker, inspect: Inspect) -> None:
    code, report = inspect(make_folder("tones"))
    assert (code, report["findings"]) == (0, [])


def test_a_root_of_several_datasets(shards: Path) -> None:
    opened = list(open_datasets(InspectConfig(shards=str(shards), splits=("val",))))
    assert [(dataset.name, dataset.sizes) for dataset in opened] == [(name, {"val": 4}) for name in ("boxed", "disks", "tones")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "shards, dataset: neither given"),
        (["shards=x", "dataset=folder", "source=y"], "shards, dataset: both given"),
        (["shards=/nowhere"], "shards=/nowhere: no shards found"),
        (["dataset=folder", "source=/nowhere"], "source=/nowhere: no such folder"),
        (["dataset=folder"], "source: missing"),
        (["shards=x", "examples=0"], "examples: 0 found, expected at least 1"),
        (["shards=x", "shard=y"], "shard: unknown key (did you mean shards?)"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"taxomix inspect: {message}")
    assert error.count("\n") == 1


def test_an_unknown_split_is_named(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"shards={shards / 'disks'}", f"out={tmp_path}", "splits=[tst]"]) == 2
    assert "splits: tst is not in" in capsys.readouterr().err


# Flaws of single samples


def test_every_flaw_of_a_download_is_found_in_one_go(
    make_folder: FolderMaker, command: Inspect, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder("disks")
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    (images / "train_00.jpg").write_bytes((images / "train_00.jpg").read_bytes()[:900])
    (labels / "train_01.png").write_bytes(b"no picture")
    rewrite_label(folder, "train/train_02", lambda label: label[:-1])
    rewrite_label(folder, "train/train_03", lambda label: np.where(label == 1, 77, label).astype(np.uint8))
    rewrite_label(folder, "train/train_04", lambda label: np.stack([label, 0 * label, 0 * label], axis=2))
    (labels / "train_05.png").unlink()
    code, report = command(folder)
    assert code == 1
    expected = {"unlistable": 1, "picture-unreadable": 1, "label-unreadable": 2, "size-differs": 1, "unknown-id": 1, "label-colours": 1}
    assert {kind: number for kind, number in kinds(report).items() if KINDS[kind].level == "error"} == expected
    text = {finding["kind"]: finding["text"] for finding in report["findings"]}
    assert "train_03 (id 77)" in text["unknown-id"]
    assert "(96x71, picture 96x72)" in text["size-differs"]
    assert "all but its red channel is zero: keep that one" in text["label-colours"]
    assert "2 of 6: train_01 (not an image), train_05 (No such file or directory); restore" in text["label-unreadable"]
    assert "train_00 (the image does not decode (image file is truncated" in text["picture-unreadable"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(LEVELS)]
    assert len(lines) == len(report["findings"])
    assert lines[0].startswith("error   unlistable: ")


def test_an_adapter_that_refuses_does_not_end_the_inspection(tmp_path: Path, inspect: Inspect, make_folder: FolderMaker) -> None:
    folder = make_folder("boxed")
    rows = (folder / "boxes_train.csv").read_text().splitlines()
    name = "train/train_00.jpg"
    rows += [
        f"{name},90,10,99,20,0",
        f"{name},20,10,15,20,0",
        f"{name},1,1,9,9,3",
        f"{name},2,2,20,20,5",
        f"{name},2,2,20,20,5",
        f"{name},3,3,6,30,0",
    ]
    (folder / "boxes_train.csv").write_text("\n".join(rows) + "\n")
    code, report = inspect(folder)
    assert code == 1
    assert kinds(report) == {"box-outside": 1, "box-no-area": 1, "box-unknown-class": 1, "box-twice": 1, "box-tiny": 1}


def test_damaged_shards_are_findings(shards: Path, tmp_path: Path, inspect: Inspect) -> None:
    folder = tmp_path / "disks"
    folder.mkdir()
    for path in (shards / "disks").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "train-00001.tar").unlink()
    (folder / "val.arrow").write_bytes(b"no index")
    code, report = inspect(folder, shards=True)
    assert code == 1
    assert kinds(report)["picture-unreadable"] == 4
    assert "no such file" in next(f["text"] for f in report["findings"] if f["kind"] == "picture-unreadable").lower()
    assert [f["split"] for f in report["findings"] if f["kind"] == "unlistable"] == ["val"]


def test_splits_of_two_label_spaces(shards: Path, tmp_path: Path, inspect: Inspect) -> None:
    for path in (shards / "disks").glob("train*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in (shards / "tones").glob("val*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    code, report = inspect(tmp_path, shards=True)
    assert code == 1
    assert kinds(report)["spaces-differ"] == 1


def test_flipped_bytes_do_not_abort(shards: Path, tmp_path: Path, command: Inspect) -> None:
    generator = np.random.default_rng(0)
    folder = tmp_path / "disks"
    folder.mkdir()
    for path in (shards / "disks").iterdir():
        content = np.frombuffer(path.read_bytes(), np.uint8).copy()
        if path.suffix == ".tar":
            content[generator.integers(0, len(content), len(content) // 400)] = generator.integers(0, 256, len(content) // 400)
        (folder / path.name).write_bytes(content.tobytes())
    code, report = command(folder, shards=True)
    assert code == 1
    assert set(kinds(report)) & {"picture-unreadable", "label-unreadable", "index-differs", "size-differs"}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_label_or_a_flaw(content: bytes) -> None:
    label, flaw = decode_ids(content, (4, 4))
    assert (label is None) == (flaw is not None)


def test_label_colours_are_described() -> None:
    def flaw_of(pixels: np.ndarray) -> str:
        import io

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        label, flaw = decode_ids(buffer.getvalue(), pixels.shape[:2])
        assert label is None
        assert flaw is not None
        assert flaw.kind == "label-colours"
        return flaw.detail

    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert "its three channels are the same" in flaw_of(np.stack([grey] * 3, axis=2))
    assert "12 colours" in flaw_of(np.stack([grey, grey[::-1], grey], axis=2))
    assert flaw_of(grey.astype(np.uint16) * 300) == "mode I;16"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({0: 50, 1: 50}, []),
        ({0: 100}, ["one-class"]),
        ({255: 100}, ["all-ignored"]),
        ({255: 99, 1: 1}, ["little-labelled", "one-class"]),
        ({0: 50, 3: 50}, ["unknown-id"]),
        ({7: 100}, ["unknown-id"]),
    ],
)
def test_flaws_of_one_label_image(counts: dict[int, int], expected: list[str]) -> None:
    values = np.zeros(256, np.int64)
    values[list(counts)] = list(counts.values())
    assert [flaw.kind for flaw in label_flaws(values, DISK_SPACE)] == expected


@pytest.mark.parametrize(
    ("shape", "value", "expected"),
    [((70, 70), None, []), ((63, 70), None, ["tiny-picture"]), ((70, 281), None, ["long-picture"]), ((70, 70), 9, ["constant-picture"])],
)
def test_flaws_of_one_picture(shape: tuple[int, int], value: int | None, expected: list[str]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    assert [flaw.kind for flaw in picture_flaws(image if value is None else np.full_like(image, value))] == expected


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 99, 49, 0), []),
        ((0, 0, 100, 49, 0), ["box-outside"]),
        ((-1, 0, 9, 9, 0), ["box-outside"]),
        ((0, 0, 9, 50, 0), ["box-outside"]),
        ((9, 0, 8, 9, 0), ["box-no-area"]),
        ((0, 0, 4, 9, 0), ["box-tiny"]),
        ((0, 0, 9, 9, 1), ["box-unknown-class"]),
    ],
)
def test_flaws_of_one_box(box: tuple[int, ...], expected: list[str]) -> None:
    assert [flaw.kind for flaw in box_flaws(np.array([box]), BOX_SPACE, (50, 100))] == expected


# Ids


def counts_of(ids: list[int]) -> np.ndarray:
    pixels = np.zeros(256, np.int64)
    pixels[ids] = 10
    return pixels


def space_of(colors: list[tuple[int, int, int]], *, first: int = 0, ignore: tuple[int, ...] = (255,)) -> LabelSpace:
    labels = tuple(Label(id=first + i, name=f"c{i}", color=color) for i, color in enumerate(colors))
    return LabelSpace(name="s", labels=labels, ignore_ids=ignore)


COLORS = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153)]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 3, 4, 5], "one too high"),
        ([1, 2, 3, 4, 5, 255], "one too high"),
        ([0, 1, 2, 3, 4, 5], ""),
        ([0, 90, 120, 70, 108, 164], "grey levels"),
        ([128, 244, 102, 190, 70], "red channel"),
        ([0, 1, 17, 31], "2 unknown ids in all: 17, 31"),
    ],
)
def test_what_unknown_ids_may_be(ids: list[int], expected: str) -> None:
    found = diagnose_ids(counts_of(ids), space_of(COLORS))
    assert expected in found
    assert bool(found) == bool(expected)


def test_ids_that_are_one_too_low() -> None:
    assert "one too low" in diagnose_ids(counts_of([0, 1, 2]), space_of(COLORS[:3], first=1))


def test_labels_one_too_high_are_called_so(make_folder: FolderMaker, inspect: Inspect) -> None:
    folder = make_folder("disks")
    for path in (folder / "labels").rglob("*.png"):
        rewrite_label(folder, f"{path.parent.name}/{path.stem}", lambda label: np.where(label == 255, 255, label + 1).astype(np.uint8))
    code, report = inspect(folder)
    assert code == 1
    assert "likely off by one: every id is one too high" in report["findings"][0]["text"]
    assert kinds(report)["unknown-id"] == 9
    assert [row["name"] for row in report["classes"] if row["id"] == 3] == ["unknown"]


def test_a_shift_into_the_ignored_id_is_suspected(make_folder: FolderMaker, inspect: Inspect) -> None:
    folder = make_folder("disks")
    meta = {**DISKS, "ignore_ids": [3]}
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta))
    for path in (folder / "labels").rglob("*.png"):
        rewrite_label(folder, f"{path.parent.name}/{path.stem}", lambda label: np.where(label == 255, 3, label + 1).astype(np.uint8))
    code, report = inspect(folder)
    assert code == 0
    assert set(kinds(report)) >= {"off-by-one", "class-never"}


# Classes


def facts_of(samples: dict[str, list[np.ndarray]], space: LabelSpace, *, seed: int = 0) -> dict[str, SplitFacts]:
    """Facts of label images, each with a picture of its own."""
    generator = np.random.default_rng(seed)
    facts = {split: SplitFacts(split=split) for split in samples}
    for split, labels in samples.items():
        for number, label in enumerate(labels):
            image = np.kron(generator.integers(0, 255, (8, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
            raw = RawSample(key=f"{split}{number}", where="", image=image, label=label, boxes=NO_BOXES)
            facts[split].add(observe(raw, space), examples=5)
    return facts


def stripes(*ids: int) -> np.ndarray:
    """Horizontal stripes of equal height, 80x80."""
    return np.repeat(np.array(ids, np.uint8), 80 // len(ids))[:, None].repeat(80, axis=1)


def found_in(samples: dict[str, list[np.ndarray]], space: LabelSpace) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.examples for finding in lint(space, facts_of(samples, space), examples=5)}


def test_classes_that_do_not_occur() -> None:
    space = space_of(COLORS)
    found = found_in({"train": [stripes(0, 1)], "val": [stripes(0, 2)]}, space)
    assert found["class-never"] == ("3 c3", "4 c4")
    assert found["class-not-in-train"] == ("2 c2",)
    assert found["class-not-in-split"] == ("1 c1",)


def test_a_sky_below_the_road_is_the_wrong_way_up() -> None:
    labels = (
        Label(id=0, name="sky", color=(0, 0, 255)),
        Label(id=1, name="road", color=(9, 9, 9)),
        Label(id=2, name="road_sign", color=(1, 2, 3)),
    )
    space = LabelSpace(name="s", labels=labels)
    assert "upside-down" not in found_in({"train": [stripes(2, 0, 1, 1)] * 5}, space)
    assert found_in({"train": [stripes(1, 2, 0, 0)] * 5}, space)["upside-down"] == ("sky below road",)
    assert "upside-down" not in found_in({"train": [stripes(1, 2, 0, 0)] * 4}, space), "too few to tell"


def test_drift_between_splits() -> None:
    space = space_of(COLORS[:2])
    rare = np.zeros((80, 80), np.uint8)
    rare[0, :40] = 1
    found = found_in({"train": [stripes(0, 1)], "val": [rare]}, space)
    assert found["drift"] == ("c1 50 % -> 0.62 %",)
    assert "drift" not in found_in({"train": [stripes(0, 1)], "val": [stripes(0, 0, 0, 0, 1)]}, space)


# Sizes and colours


def test_sizes(tmp_path: Path, make_folder: FolderMaker, inspect: Inspect) -> None:
    folder = make_folder("disks")
    generator = np.random.default_rng(5)
    image, label, _ = draw_disks(generator, size=(80, 96))
    write_image(folder / "images" / "train" / "train_03.jpg", image)
    write_image(folder / "labels" / "train" / "train_03.png", label)
    _, report = inspect(folder)
    assert kinds(report) == {"size-outlier": 1}
    assert "train_03 in labels" not in report["findings"][0]["text"]
    assert "(96x80)" in report["findings"][0]["text"]
    image, label, _ = draw_disks(generator, size=(96, 72))
    write_image(folder / "images" / "train" / "train_04.jpg", image)
    write_image(folder / "labels" / "train" / "train_04.png", label)
    _, report = inspect(folder)
    assert kinds(report) == {"sizes-vary": 3}
    assert report["splits"]["train"]["sizes"][0] == {"height": 72, "width": 96, "pictures": 4}


def test_grey_pictures_among_coloured_ones(make_folder: FolderMaker, inspect: Inspect) -> None:
    folder = make_folder("disks")
    path = folder / "images" / "val" / "val_01.jpg"
    write_image(path, np.array(Image.open(path).convert("L")))
    _, report = inspect(folder)
    assert kinds(report) == {"grey-picture": 1}


# The same picture, the same label


def test_copies_of_pictures(make_folder: FolderMaker, inspect: Inspect) -> None:
    folder = make_folder("disks")

    def copy(source: str, target: str, *, label: bool = True) -> None:
        pixels = np.array(Image.open(folder / "images" / f"{source}.jpg"))
        (folder / "images" / f"{target}.png").unlink(missing_ok=True)
        (folder / "images" / f"{target}.jpg").write_bytes((folder / "images" / f"{source}.jpg").read_bytes())
        assert pixels.shape == (72, 96, 3)
        if label:
            (folder / "labels" / f"{target}.png").write_bytes((folder / "labels" / f"{source}.png").read_bytes())

    copy("train/train_00", "val/val_00")
    copy("train/train_01", "train/train_02")
    copy("train/train_03", "train/train_04", label=False)
    code, report = inspect(folder)
    assert code == 1
    assert kinds(report) == {"same-picture-in-splits": 1, "same-picture": 2, "same-picture-other-label": 1}
    assert "val_00 = train train_00" in report["findings"][0]["text"]


def test_a_picture_saved_anew_in_another_split(make_folder: FolderMaker, inspect: Inspect) -> None:
    folder = make_folder("disks")
    blocks = np.random.default_rng(0).integers(0, 200, (9, 12, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    write_image(folder / "images" / "train" / "train_00.jpg", blocks)
    Image.fromarray(blocks + 30).resize((48, 36)).save(folder / "images" / "val" / "val_00.jpg", quality=40)
    label = Image.open(folder / "labels" / "train" / "train_00.png")
    label.resize((48, 36), Image.Resampling.NEAREST).save(folder / "labels" / "val" / "val_00.png")
    code, report = inspect(folder)
    assert code == 0
    assert kinds(report) == {"near-picture-in-splits": 1, "sizes-vary": 2, "tiny-picture": 1}
    assert "val_00 = train train_00" in report["findings"][0]["text"]


def test_a_label_of_another_picture(make_folder: FolderMaker, inspect: Inspect) -> None:
    folder = make_folder("disks")
    (folder / "labels" / "train" / "train_05.png").write_bytes((folder / "labels" / "train" / "train_00.png").read_bytes())
    _, report = inspect(folder)
    assert kinds(report) == {"same-label": 1}
    assert "train_05 = train_00" in report["findings"][0]["text"]


def test_a_label_that_nearly_is_that_of_another_picture() -> None:
    space = space_of(COLORS)
    label, shifted = stripes(0, 1, 2, 3), stripes(0, 1, 2, 3)
    shifted[40, :6] = 1
    assert found_in({"train": [label, shifted, stripes(3, 2, 1, 0)]}, space)["same-label"] == ("train1 = train0",)


def test_the_one_wrong_label_is_named_and_not_the_scene_it_contradicts() -> None:
    assert culprits_of([(1, 9), (2, 9), (3, 9)]) == [(9, 1)]
    assert culprits_of([(1, 2), (5, 6), (5, 7)]) == [(2, 1), (5, 6)]
    assert culprits_of([]) == []


def test_one_label_for_all_pictures_is_found_without_comparing_all() -> None:
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 255, (3000, 256)).astype(np.uint8)
    pairs = same_labels([b"x"] * 3000, pictures)
    assert 2900 < len(culprits_of(pairs)) < 3000
    assert same_labels([b"x"] * 3000, pictures[:1].repeat(3000, axis=0)) == []


def slow_twins(thumbs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each with each."""
    twins = np.full(len(thumbs), -1)
    for i, one in enumerate(thumbs.astype(float)):
        best = ALIKE
        for j, other in enumerate(thumbs.astype(float)):
            contrast = min(one.std(), other.std())
            if groups[i] != groups[j] and contrast >= 4 and (one - other).std() < best * contrast:
                twins[i], best = j, (one - other).std() / contrast
    return twins


@pytest.mark.parametrize("seed", range(4))
def test_nearest_twins_are_those_of_comparing_each_with_each(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scenes = generator.integers(20, 230, (12, 64))
    thumbs = (scenes[generator.integers(0, 12, 60)] + generator.normal(0, 4, (60, 64))).clip(0, 255).astype(np.uint8)
    thumbs[:4] = 128  # without contrast
    groups = generator.integers(0, 3, 60)
    twins = nearest_twins(thumbs, groups)
    assert (twins >= 0).sum() > 20
    np.testing.assert_array_equal(twins, slow_twins(thumbs, groups))


def test_a_poor_copy_is_alike_and_another_picture_is_not() -> None:
    generator = np.random.default_rng(0)
    image = np.kron(generator.integers(0, 255, (12, 16, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    copy = decode_jpeg(encode_jpeg(np.asarray(Image.fromarray(image).resize((160, 120))), quality=30))
    assert differences(thumbnail(copy)[None], thumbnail(image))[0] < 0.5 * ALIKE
    assert differences(thumbnail(image[:, ::-1])[None], thumbnail(image))[0] > 5 * ALIKE


def test_label_twins_agree_class_by_class() -> None:
    generator = np.random.default_rng(1)
    maps = generator.integers(0, 4, (40, 576)).astype(np.uint8)
    maps[7] = maps[30]
    maps[7, generator.choice(576, 6, replace=False)] = 3
    known = np.ones(256, bool)
    pictures = generator.integers(0, 255, (40, 256)).astype(np.uint8)
    assert label_twins(maps, pictures, is_class=known) == [(7, 30)]
    pictures[7] = pictures[30] + 1
    assert label_twins(maps, pictures, is_class=known) == [], "the same picture may have the same label"
    one_background = np.zeros((40, 576), np.uint8)
    one_background[:, :3] = generator.integers(0, 4, (40, 3))
    assert label_twins(one_background, pictures, is_class=known) == []
    assert agreement(maps[7], maps[7], is_class=known) == 1
    assert agreement(maps[7], maps[7], is_class=~known) == 0


def test_thousands_of_pictures_are_compared_in_a_second() -> None:
    import time

    generator = np.random.default_rng(0)
    thumbs = generator.integers(0, 255, (4000, 256)).astype(np.uint8)
    thumbs[1] = thumbs[3999]
    begin = time.perf_counter()
    twins = nearest_twins(thumbs, np.arange(4000))
    assert twins[1] == 3999
    assert (twins >= 0).sum() == 2
    assert time.perf_counter() - begin < 5


def test_none_is_like_no_other() -> None:
    assert same_groups([None, b"a", None, b"b", b"a"]) == [[1, 4]]


# What is kept of a sample


def test_positions_are_parts_of_each_cell() -> None:
    label = np.zeros((GRID[0] * 8, GRID[1] * 8), np.uint8)
    label[:8, :4] = 9
    positions = label_positions(label, np.array([0, 9], np.uint8))
    assert positions.shape == (2, *GRID)
    assert (positions.sum(axis=0) == STEPS**2).all()
    assert positions[1, 0, 0] == STEPS**2 // 2
    assert positions[1].sum() == STEPS**2 // 2


def test_positions_of_a_small_label_still_add_up() -> None:
    positions = label_positions(np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(6, dtype=np.uint8))
    assert (positions.sum(axis=0) == STEPS**2).all()


def test_digest_tells_shapes_apart() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert digest(pixels) == digest(pixels.copy())
    assert digest(pixels) != digest(pixels.reshape(6, 4, 3))
    assert digest(pixels) != digest(pixels + 1)


def test_memory_does_not_hold_pictures() -> None:
    """One pass over 60 pictures of 3 MB holds a few at a time, and keeps some kilobytes of each."""

    class Drawn:
        name, label_space, findings = "drawn", DISK_SPACE, ()
        sizes = {"train": 60}  # noqa: RUF012

        def read(self, split: str, number: int) -> RawSample:
            image = np.random.default_rng(number).integers(0, 255, (1000, 1000, 3), np.uint8)
            label = np.tile(np.arange(3, dtype=np.uint8), (999, 333))
            return RawSample(key=str(number), where="", image=image, label=np.pad(label, ((0, 1), (0, 1))), boxes=NO_BOXES)

    tracemalloc.start()
    facts = collect(Drawn(), "train", workers=2, examples=5)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(facts) == 60
    assert kept < 60 * 6000 + 400_000
    assert peak < 40e6, "60 pictures and labels would be 240 MB"


# Pictures


def test_overlay_has_the_colours_of_the_classes() -> None:
    space = space_of(COLORS)
    grey = np.full((40, 40, 3), 100, np.uint8)
    label = stripes(0, 1, 9, 255)
    mixed = overlay(grey, label, space)
    assert tuple(mixed[5, 5]) == tuple(round(0.4 * 100 + 0.6 * value) for value in COLORS[0])
    assert tuple(mixed[15, 5]) == tuple(round(0.4 * 100 + 0.6 * value) for value in COLORS[1])
    assert tuple(mixed[25, 5]) == (193, 40, 193), "unknown ids are magenta"
    assert tuple(mixed[35, 5]) == (40, 40, 40), "ignored pixels are darkened"
    assert tuple(mixed[10, 5]) == (20, 20, 20), "a line where classes meet"


def test_sheet_shows_portraits_and_landscapes_whole() -> None:
    space = space_of(COLORS)
    samples = []
    for number, size in enumerate([(80, 160), (160, 80), (90, 90)]):
        label = np.zeros(size, np.uint8)
        label[:, size[1] // 2 :] = 1
        image = np.full((*size, 3), 200, np.uint8)
        samples.append(("train", RawSample(key=f"k{number}", where="", image=image, label=label, boxes=NO_BOXES)))
    sheet = np.asarray(draw_sheet(samples, space, np.zeros(256, np.int64)))
    assert sheet.shape[1] == 3 * (2 * 300 + 2 + 8) + 8
    height = 300
    middle = 8 + 18 + height // 2
    for number in range(3):
        left = 8 + number * 610
        assert tuple(sheet[middle, left + 150]) == (200, 200, 200)
        assert tuple(sheet[middle, left + 302 + 130]) == tuple(round(0.4 * 200 + 0.6 * value) for value in COLORS[0])
        assert tuple(sheet[middle, left + 302 + 170]) == tuple(round(0.4 * 200 + 0.6 * value) for value in COLORS[1])
    assert tuple(sheet[middle, 618 + 20]) == (228, 228, 228), "beside a portrait there is background"


def test_boxes_are_drawn_where_they_are() -> None:
    image = np.full((100, 300, 3), 120, np.uint8)
    raw = RawSample(key="k", where="", image=image, label=None, boxes=np.array([[100, 40, 159, 79, 5]]))
    sheet = np.asarray(draw_sheet([("train", raw)], BOX_SPACE, np.zeros(256, np.int64)))
    panel_height = 120
    top = 8 + 18 + (panel_height - 100) // 2
    assert tuple(sheet[top + 40, 8 + 130]) == (0, 0, 255), "the upper edge of the box"
    assert tuple(sheet[top + 60, 8 + 130]) == (120, 120, 120), "its inside"
    close_up = sheet[26 : 26 + panel_height, 310:610]
    assert (close_up == (0, 0, 255)).all(axis=2).sum() > 200


def test_the_sheet_covers_rare_classes() -> None:
    space = space_of(COLORS)
    samples = {"train": [stripes(0, 1)] * 20 + [stripes(0, 2), stripes(1, 3)], "val": [stripes(0, 1)] * 9 + [stripes(4, 0)]}
    facts = facts_of(samples, space)
    is_class = space.known_ids & (np.arange(256) != 255)
    chosen = choose(facts, is_class, number=4, seed=0)
    assert {("train", 20), ("train", 21), ("val", 9)} <= set(chosen)
    assert choose(facts, is_class, number=4, seed=0) == chosen
    everything = choose(facts, is_class, number=99, seed=1)
    assert len(everything) == len(set(everything)) == 32
    assert choose({}, is_class, number=3, seed=0) == []


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (3, 3)])
def test_any_shape_fits(size: tuple[int, int]) -> None:
    height, width = fit(np.zeros((*size, 3), np.uint8), (300, 200)).shape[:2]
    assert 1 <= height <= 200
    assert 1 <= width <= 300
    assert height == 200 or width == 300


def test_figures_of_many_classes() -> None:
    space = space_of([(i, 255 - i, 99) for i in range(66)])
    facts = facts_of({"train": [stripes(*range(0, 40, 2))], "val": [stripes(65)]}, space)
    content = describe("s", space, facts, [])
    frequency = frequency_figure(content, space)
    assert [len(axis.patches) for axis in frequency.axes] == [132, 132]
    assert next(text.get_text() for text in frequency.axes[1].get_xticklabels()) == "65 c65"
    positions = positions_figure("s", space, facts)
    shown = [axis for axis in positions.axes if axis.axison]
    assert len(shown) == 66
    assert shown[65].get_title() == "65 c65\n50.0 %"
    assert shown[41].get_title() == "41 c41\nnever"


# The list of findings


def test_findings_are_sorted_and_read_as_one_line() -> None:
    findings = [
        Finding(kind="no-box", split="val", count=3, total=9, examples=("a", "b")),
        Finding(kind="unknown-id", split="train", count=1, total=9, detail="off by one", examples=("k (id 3)",)),
    ]
    first, second = sort_findings(findings)
    assert first.level == "error"
    assert first.text == (
        "train: label images with ids that the label space does not know: 1 of 9 (off by one): k (id 3); "
        "mend the labels, or add the ids to classes or ignore_ids"
    )
    assert second.text == "val: pictures without a box: 3 of 9: a, b and 1 more; fine where they hold no object"


def test_the_documentation_lists_every_finding() -> None:
    text = (Path(__file__).parents[1] / "docs" / "inspect.md").read_text()
    listed = {
        cells[0].strip("` "): cells[1].strip()
        for cells in (line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `"))
    }
    assert listed == {kind: KINDS[kind].level for kind in KINDS}


def test_config_is_checked() -> None:
    with pytest.raises(ValueError, match="workers: 0 found"):
        InspectConfig(shards="x", workers=0)


def test_a_prepared_split_reads_back(shards: Path) -> None:
    dataset = Prepared(str(shards / "boxed"), None)
    raw = dataset.read("train", 0)
    assert raw.image is not None
    assert raw.image.shape == (72, 96, 3)
    assert raw.where == "train-00000.tar"
    assert len(raw.boxes) == 2
    assert raw.flaws == ()
