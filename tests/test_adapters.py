"""Every adapter, on look-alikes of the official downloads: prepared with the command, read back, compared id by id."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from adapter_trees import (
    Expected,
    Splits,
    Tree,
    write_cityscapes,
    write_cityscapes_coarse,
    write_cityscapes_extended,
    write_gta5,
    write_gtsdb,
    write_png16,
    write_sbd_png,
    write_synthia,
    write_vistas,
    write_vistas_config,
    write_voc,
    write_voc_sbd,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_shards import published

from data.adapters.cityscapes import CityscapesConfig, CityscapesSource
from data.adapters.common import read_entries, read_table
from data.adapters.gta5 import gta5_space, resize_label
from data.images import decode_jpeg, decode_label
from data.labels import IGNORE_INDEX
from data.shards import ShardSplit
from taxomix import main


def prepare(dataset: str, root: Path, out: Path, *words: str) -> int:
    return main(["prepare", f"dataset={dataset}", f"source={root}", f"out={out}", "workers=1", *words])


def check_shards(folder: Path, expected: Splits) -> None:
    """Every split and sample is there, in order, and holds what it should."""
    assert {path.stem for path in folder.glob("*.json")} == set(expected)
    for name, samples in expected.items():
        split = ShardSplit(folder, name)
        assert split.keys == sorted(samples)
        for number, key in enumerate(split.keys):
            check_sample(split, number, samples[key])


def check_sample(split: ShardSplit, number: int, expected: Expected) -> None:
    sample = split.read(number)
    assert split.size(number) == expected.size
    image = decode_jpeg(sample.image).astype(int)
    assert image.shape[:2] == expected.size
    assert np.abs(image - expected.color).max() <= 4
    assert sample.boxes.tolist() == [list(box) for box in expected.boxes]
    if expected.label is None:
        assert sample.label is None
    else:
        assert sample.label is not None
        np.testing.assert_array_equal(decode_label(sample.label), expected.label)


CASES: list[tuple[str, str, Callable[[Path], Splits], list[str]]] = [
    ("cityscapes", "cityscapes", write_cityscapes, []),
    ("cityscapes", "cityscapes_coarse", write_cityscapes_coarse, ["dataset.labels=coarse"]),
    ("cityscapes", "cityscapes_extended", write_cityscapes_extended, ["dataset.extended={root}/extended"]),
    ("voc", "voc", write_voc, []),
    ("voc", "voc", lambda root: write_voc_sbd(root, write_sbd_png), ["dataset.sbd={root}/VOCdevkit/VOC2012"]),
    ("voc", "voc", lambda root: write_voc_sbd(root, write_sbd_png), ["dataset.sbd={root}/VOCdevkit/VOC2012/SegmentationClassAug"]),
    ("vistas", "vistas", write_vistas, []),
    ("vistas", "vistas", lambda root: write_vistas(root, release="2.0"), []),
    ("gtsdb", "gtsdb", write_gtsdb, []),
    ("gtsdb", "gtsdb", lambda root: write_gtsdb(root, "TrainIJCNN2013", (0, 7, 599)), []),
    ("gta5", "gta5", write_gta5, []),
    ("synthia", "synthia", write_synthia, []),
]
IDS = [
    "fine",
    "coarse",
    "extended",
    "voc",
    "sbd in voc",
    "sbd beside",
    "vistas 1.2",
    "vistas 2.0",
    "gtsdb",
    "gtsdb train",
    "gta5",
    "synthia",
]


@pytest.mark.parametrize(("dataset", "name", "write", "words"), CASES, ids=IDS)
def test_the_official_layout_reads_back_id_by_id(
    dataset: str, name: str, write: Callable[[Path], Splits], words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "download"
    expected = write(root)
    assert prepare(dataset, root, tmp_path / "out", *(word.format(root=root) for word in words)) == 0
    check_shards(tmp_path / "out" / name, expected)
    told = [line for line in caplog.messages if line.endswith("of the official release")]  # no tree has the official number of images
    assert len(told) == len(expected)
    for split, samples in expected.items():
        assert any(line.startswith(f"{name} {split}: {len(samples)} images found, expected the ") for line in told)


def test_original_jpeg_bytes_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "download"
    write_voc(root)
    assert prepare("voc", root, tmp_path / "out") == 0
    jpeg = ShardSplit(tmp_path / "out" / "voc", "val").read(0).image
    assert jpeg == (root / "VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg").read_bytes()


def test_a_download_may_be_named_by_any_of_its_folders(tmp_path: Path) -> None:
    root = tmp_path / "download"
    expected = write_voc(root)
    assert prepare("voc", root / "VOCdevkit", tmp_path / "a") == 0
    assert prepare("voc", root / "VOCdevkit" / "VOC2012", tmp_path / "b") == 0
    check_shards(tmp_path / "a" / "voc", expected)
    check_shards(tmp_path / "b" / "voc", expected)


def test_the_official_number_of_images_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = Tree(tmp_path)
    for number in range(500):
        tree.junk(f"leftImg8bit/val/bonn/{number}_leftImg8bit.png", f"gtFine/val/bonn/{number}_gtFine_labelIds.png")
    entries = CityscapesSource(tmp_path, CityscapesConfig(name="cityscapes")).entries()
    assert len(entries["val"]) == 500
    assert not caplog.messages


def test_sbd_adds_a_split_to_what_is_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "download"
    expected = write_voc_sbd(root, write_sbd_png)
    assert prepare("voc", root, tmp_path / "out") == 0
    assert prepare("voc", root, tmp_path / "out", f"dataset.sbd={root / 'VOCdevkit/VOC2012'}") == 0
    assert capsys.readouterr().out.count("already there") == 2
    check_shards(tmp_path / "out" / "voc", expected)


def write_sbd_mat(root: Path, name: str, label: np.ndarray) -> None:
    """As SBD has it: a struct GTcls with boundaries, the label image and the classes that are present."""
    from scipy import io as scipy_io
    from scipy import sparse

    boundaries = np.empty((20, 1), object)
    for index in range(20):
        boundaries[index, 0] = sparse.csc_matrix(label == index)
    path = root / "benchmark_RELEASE/dataset/cls" / f"{name}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"Boundaries": boundaries, "Segmentation": label, "CategoriesPresent": np.unique(label)}
    scipy_io.savemat(path, {"GTcls": content}, do_compression=True)


def test_sbd_as_it_is_downloaded(tmp_path: Path) -> None:
    root = tmp_path / "download"
    expected = write_voc_sbd(root, write_sbd_mat)
    assert prepare("voc", root, tmp_path / "out", f"dataset.sbd={root / 'benchmark_RELEASE'}") == 0
    check_shards(tmp_path / "out" / "voc", expected)


def test_gta5_in_its_official_splits(tmp_path: Path) -> None:
    from scipy import io as scipy_io

    root = tmp_path / "download"
    samples = write_gta5(root)["train"]
    scipy_io.savemat(root / "split.mat", {"trainIds": [[3], [1], [77]], "valIds": [[2]], "testIds": [[24966]]})
    assert prepare("gta5", root, tmp_path / "out", "dataset.splits=official") == 0
    keys = {"train": ["00001", "00003"], "val": ["00002"], "test": ["24966"]}
    check_shards(tmp_path / "out" / "gta5", {split: {key: samples[key] for key in of} for split, of in keys.items()})


def test_the_config_of_vistas_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "download"
    expected = write_vistas(root)
    labels = [(label["key"], label["name"]) for label in read_entries("vistas")["classes"]]
    write_vistas_config(root / "config.json", labels)
    assert prepare("vistas", root, tmp_path / "out") == 0
    check_shards(tmp_path / "out" / "vistas", expected)
    for wrong, message in (
        ([labels[1], labels[0], *labels[2:]], "config.json: label 0 is animal--ground-animal, expected animal--bird"),
        (labels[:65], "config.json: 65 labels found, expected 66"),
    ):
        write_vistas_config(root / "config.json", wrong)
        assert prepare("vistas", root, tmp_path / "other") == 2
        assert message in capsys.readouterr().err


def test_train_alone_may_have_the_boxes_of_all_beside_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "download"
    expected = write_gtsdb(root, "TrainIJCNN2013", (0, 7, 599))
    text = (root / "TrainIJCNN2013" / "gt.txt").read_text() + "00601.ppm;1;1;2;2;5\n"
    (root / "TrainIJCNN2013" / "gt.txt").unlink()
    (root / "gt.txt").write_text(text)
    assert prepare("gtsdb", root, tmp_path / "out") == 0
    check_shards(tmp_path / "out" / "gtsdb", expected)
    assert any("no test split" in line for line in caplog.messages)


def replace_label(root: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(root / name)


VOC = "VOCdevkit/VOC2012"
AACHEN = "gtFine/train/aachen/aachen_000000_000002_gtFine_labelIds.png"
LABELS = "RAND_CITYSCAPES/GT/LABELS"
Damage = Callable[[Path], object]
WRONG: list[tuple[str, Callable[[Path], Splits], list[str], Damage, str]] = [
    ("cityscapes", write_cityscapes, [], lambda r: shutil.rmtree(r / "leftImg8bit"), "no leftImg8bit found"),
    ("cityscapes", write_cityscapes, [], lambda r: shutil.rmtree(r / "gtFine"), "gtFine: no such folder"),
    ("cityscapes", write_cityscapes, [], lambda r: (r / AACHEN).unlink(), "000002_leftImg8bit.png: no label found, expected {root}/gtFine"),
    ("cityscapes", write_cityscapes, [], lambda r: replace_label(r, AACHEN, np.full((18, 24), 34, np.uint8)), "id 34 found in 432 pixels"),
    ("cityscapes", write_cityscapes, [], lambda r: replace_label(r, AACHEN, np.zeros((18, 24, 3), np.uint8)), "mode RGB found"),
    ("cityscapes", write_cityscapes, [], lambda r: replace_label(r, AACHEN, np.zeros((9, 12), np.uint8)), "size 12x9 found"),
    ("cityscapes", write_cityscapes, ["dataset.labels=coarse"], lambda r: None, "gtCoarse: no such folder"),
    ("cityscapes", write_cityscapes, ["dataset.extended=/x", "dataset.labels=coarse"], lambda r: None, "dataset.extended: given with"),
    (
        "cityscapes",
        write_cityscapes_extended,
        ["dataset.extended={root}/extended"],
        lambda r: replace_label(r / "extended", AACHEN, np.full((18, 24), 1999, np.uint16)),
        "id 1999 found in 432 pixels, expected 0..33 or 2000..2043",
    ),
    ("voc", write_voc, [], lambda r: shutil.rmtree(r / VOC / "ImageSets"), "no ImageSets/Segmentation found"),
    ("voc", write_voc, [], lambda r: (r / VOC / "JPEGImages/2007_000039.jpg").unlink(), "2007_000039.jpg: not found, as one of 1 images"),
    ("voc", write_voc, [], lambda r: (r / VOC / "SegmentationClass/2007_000039.png").unlink(), "2007_000039.jpg: no label found"),
    ("voc", write_voc, ["dataset.sbd={root}/nowhere"], lambda r: None, "dataset.sbd={root}/nowhere: no label found"),
    (
        "vistas",
        write_vistas,
        [],
        lambda r: [(r / name).rename(r / f"{name}x") for name in ("training", "validation", "testing")],
        "no split found",
    ),
    ("vistas", write_vistas, [], lambda r: shutil.rmtree(r / "validation/labels"), "images/9Zk-val_x.jpg: no label found"),
    ("vistas", write_vistas, [], lambda r: (r / "config.json").write_text("[]"), "config.json: TypeError"),
    ("gtsdb", write_gtsdb, [], lambda r: (r / "FullIJCNN2013/gt.txt").unlink(), "gt.txt: no such file"),
    ("gtsdb", write_gtsdb, [], lambda r: (r / "FullIJCNN2013/gt.txt").write_text("00000.ppm;1;2;3;4\n"), "gt.txt:1: not enough values"),
    ("gtsdb", write_gtsdb, [], lambda r: (r / "FullIJCNN2013/gt.txt").write_text("00000.ppm;1;2;24;4;5\n"), "box 1,2,24,4 found"),
    ("gtsdb", write_gtsdb, [], lambda r: (r / "FullIJCNN2013/gt.txt").write_text("00000.ppm;1;2;3;4;43\n"), "box of class 43 found"),
    ("gtsdb", write_gtsdb, [], lambda r: (r / "FullIJCNN2013/gt.txt").write_text("00700.ppm;1;2;3;4;4\n"), "00700.ppm: no such file"),
    ("gta5", write_gta5, [], lambda r: (r / "labels/00003.png").unlink(), "00003.png: no label found"),
    ("gta5", write_gta5, ["dataset.splits=official"], lambda r: None, "split.mat: no such file"),
    ("synthia", write_synthia, [], lambda r: shutil.rmtree(r / "RAND_CITYSCAPES/RGB"), "no RGB found"),
    (
        "synthia",
        write_synthia,
        [],
        lambda r: replace_label(r, f"{LABELS}/0000000.png", np.zeros((18, 24), np.uint8)),
        "1 channels of 8 bits",
    ),
    (
        "synthia",
        write_synthia,
        [],
        lambda r: write_png16(r / LABELS / "0000000.png", np.full((18, 24, 3), 23, np.uint16)),
        "class 23 found",
    ),
    ("synthia", write_synthia, [], lambda r: (r / LABELS / "0000000.png").write_bytes(b""), "0000000.png: the image does not decode"),
]


@pytest.mark.parametrize(("dataset", "write", "words", "damage", "message"), WRONG, ids=[f"{case[0]}: {case[4]}" for case in WRONG])
def test_a_wrong_tree_is_one_line(
    dataset: str,
    write: Callable[[Path], Splits],
    words: list[str],
    damage: Damage,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "download"
    write(root)
    damage(root)
    assert prepare(dataset, root, tmp_path / "out", *(word.format(root=root) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("taxomix prepare: ")
    assert message.format(root=root) in error
    assert error.count("\n") == 1
    if (tmp_path / "out").exists():  # only for shards that are whole, and of no use to anything else
        assert list((tmp_path / "out").glob("*/.*.partial/*.note"))
        assert not published(tmp_path / "out")


@pytest.mark.parametrize("dataset", ["cityscapes", "voc", "vistas", "gtsdb", "gta5", "synthia"])
def test_a_source_that_is_not_there_is_one_line(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(dataset, tmp_path / "nowhere", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"taxomix prepare: source={tmp_path / 'nowhere'}: no such folder")
    (tmp_path / "nowhere").mkdir()
    assert prepare(dataset, tmp_path / "nowhere", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1


CITYSCAPES_19 = read_table("cityscapes").view("19")


def test_views_of_cityscapes() -> None:
    space = read_table("cityscapes")
    assert space.view().name == "19"
    assert space.view().native_ids == (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    extra = set(space.view("27").names) - set(space.view("19").names)
    assert extra == {"ego vehicle", "parking", "rail track", "guard rail", "bridge", "tunnel", "caravan", "trailer"}
    assert set(space.view("19").names) - set(space.view("16").names) == {"terrain", "truck", "train"}
    assert set(space.view("16").names) - set(space.view("13").names) == {"wall", "fence", "pole"}
    assert (space.view("27").table[[0, 2, 3, 255]] == IGNORE_INDEX).all()


@pytest.mark.parametrize("view", ["19", "16", "13"])
def test_synthia_has_the_classes_of_cityscapes(view: str) -> None:
    synthia, cityscapes = read_table("synthia").view(view), read_table("cityscapes").view(view)
    assert synthia.names == cityscapes.names
    assert synthia.colors == cityscapes.colors
    assert (synthia.table[[0, 13, 14, 22]] == IGNORE_INDEX).all()


def test_views_of_vistas() -> None:
    space = read_table("vistas")
    assert space.view().num_classes == 65
    assert space.view("lanes").names == ("Road", "Lane Marking - General", "Crosswalk - Plain", "Lane Marking - Crosswalk")
    street = space.view("cityscapes19")
    assert street.names == CITYSCAPES_19.names
    assert street.colors == CITYSCAPES_19.colors
    # curb, pole and utility pole, manhole, the three riders, on rails; crosswalk and bike lane are nothing
    assert [street.names[street.table[i]] for i in (2, 45, 47, 41, 20, 21, 22, 58)] == [
        *("sidewalk", "pole", "pole", "road", "rider", "rider", "rider", "train"),
    ]
    assert (street.table[[7, 8, 23, 65]] == IGNORE_INDEX).all()
    assert len(np.flatnonzero(street.table != IGNORE_INDEX)) == 25


def test_gta5_shares_the_view_of_cityscapes() -> None:
    space = gta5_space()
    assert space.view().names == CITYSCAPES_19.names
    assert (space.view().table == CITYSCAPES_19.table).all()
    assert space.known_ids[34]
    assert space.view("all").table[34] == IGNORE_INDEX


def test_signs_of_cityscapes_extended_are_signs_in_the_other_views(tmp_path: Path) -> None:
    write_cityscapes_extended(tmp_path)
    space = CityscapesSource(tmp_path, CityscapesConfig(name="cityscapes", extended=tmp_path / "extended")).label_space
    assert space.view("signs43").names == read_table("gtsdb").view().names
    assert space.view("signs43").table[100:143].tolist() == list(range(43))
    assert set(space.view("19").table[[20, *range(100, 143)]].tolist()) == {7}
    assert space.view("19").native_ids == CITYSCAPES_19.native_ids
    assert space.view("27").num_classes == 27


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_label_is_resized_by_pixel_centres(height: int, width: int, new_height: int, new_width: int) -> None:
    label = np.arange(height * width).reshape(height, width) % 251
    resized = resize_label(label, height=new_height, width=new_width)
    assert resized.shape == (new_height, new_width)
    for row in (0, new_height // 2, new_height - 1):
        for column in (0, new_width // 2, new_width - 1):
            y, x = int((row + 0.5) * height / new_height + 1e-9), int((column + 0.5) * width / new_width + 1e-9)
            assert resized[row, column] == label[y, x]


def test_labels_of_another_size_are_counted_and_of_another_shape_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "download"
    write_gta5(root)
    for path in (root / "labels").glob("*.png"):
        replace_label(root / "labels", path.name, np.full((9, 12), 7, np.uint8))
    assert prepare("gta5", root, tmp_path / "out") == 0
    number = len(list((root / "labels").glob("*.png")))
    assert f"gta5 train: {number} samples whose label was brought to the size of its image" in caplog.messages
    replace_label(root / "labels", "00001.png", np.full((12, 9), 7, np.uint8))
    assert prepare("gta5", root, tmp_path / "other") == 2
    assert "00001.png: size 9x12 found, expected the shape of its image, 24x18" in capsys.readouterr().err


def test_nothing_is_left_of_folders_made_for_nothing(tmp_path: Path) -> None:
    root = tmp_path / "download"
    write_synthia(root)
    (root / LABELS / "0000000.png").write_bytes(b"")
    assert prepare("synthia", root, tmp_path / "out" / "deep") == 2
    assert not (tmp_path / "out").exists()
