import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.drawing import blend
from data.loader import read_whole
from data.shards import ShardSplit
from data.transforms import CropConfig, ResizeConfig, draw_crop
from models.model import SegmentationModel, build_model
from models.networks.base import Features
from models.networks.swiftnet import SwiftNet, SwiftNetConfig
from models.outputs.multihead import MultiHeadConfig
from trainers.evaluation import all_scores, evaluate, mean_miou, predict_image, read_samples
from trainers.overlay import write_panels
from trainers.predict import predict_folder
from trainers.ranks import Ranks


@pytest.fixture(scope="module")
def splits(shards: Path) -> dict[str, ShardSplit]:
    return {name: ShardSplit(shards / name, "val") for name in ("disks", "tones", "boxed")}


@pytest.fixture(scope="module")
def model(splits: dict[str, ShardSplit]) -> SegmentationModel:
    torch.manual_seed(1)
    views = {name: split.label_space.view() for name, split in splits.items()}
    return build_model(SwiftNetConfig(name="swiftnet_rn18"), MultiHeadConfig(name="multihead"), views)


CROP = CropConfig(size=(64, 64))
CROPS = dict.fromkeys(("disks", "tones", "boxed"), CROP)


class OneOf(Ranks):
    """One rank of several whose sums are left to the test."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_each_image_counts_once_whatever_the_number_of_ranks(
    world_size: int, model: SegmentationModel, splits: dict[str, ShardSplit]
) -> None:
    whole = evaluate(model, splits, CROPS, Ranks())
    shares = [evaluate(model, splits, CROPS, OneOf(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for name, matrix in whole.items():
        assert matrix.dtype == np.int64
        np.testing.assert_array_equal(sum(share[name] for share in shares), matrix)


def test_matrices_equal_the_slow_reference(model: SegmentationModel, splits: dict[str, ShardSplit]) -> None:
    model.train()
    matrix = evaluate(model, splits, CROPS, Ranks())["tones"]
    assert model.training  # as it was before
    model.eval()
    expected = np.zeros((2, 2), np.int64)
    split = splits["tones"]
    for number in range(len(split)):
        _, image, label = next(read_samples(split, [number]))
        predicted = predict_image(model, image, {"tones": CROP})["tones"].numpy()
        for native, class_index in ((3, 0), (7, 1)):
            for prediction in (0, 1):
                expected[class_index, prediction] += int(((label == native) & (predicted == prediction)).sum())
    np.testing.assert_array_equal(matrix, expected)


def test_pictures_are_resized_for_the_network_and_predictions_are_not(model: SegmentationModel) -> None:
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3)).astype(np.uint8)
    model.eval()
    whole = predict_image(model, image, {"disks": CROP})["disks"]
    model.input_scale = 0.5
    half = predict_image(model, image, {"disks": CROP})["disks"]
    model.input_scale = 1.0
    assert half.shape == whole.shape == (70, 90)
    assert not torch.equal(half, whole)


class Shown(SwiftNet):
    """A network that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__(SwiftNetConfig(name="swiftnet_rn18"))
        self.pictures: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> Features:
        self.pictures.append(images)
        return super().forward(torch.zeros(1, 3, 32, 32))


def shown_to(model: SegmentationModel, image: np.ndarray, crops: dict[str, CropConfig]) -> list[torch.Tensor]:
    shown, network = Shown().eval(), model.network
    model.eval()
    model.network = shown
    try:
        predicted = predict_image(model, image, crops)
    finally:
        model.network = network
    assert list(predicted) == list(crops)
    assert {classes.shape for classes in predicted.values()} == {image.shape[:2]}
    return shown.pictures


@pytest.mark.parametrize("mode", ["exact", "fit", "cover"])
def test_whole_pictures_are_as_large_as_training_saw_them(mode: str, model: SegmentationModel) -> None:
    """A crop at the scale of 1 enlarges its source box by what evaluation enlarges the whole picture by."""
    image = np.random.default_rng(0).integers(0, 255, (240, 400, 3)).astype(np.uint8)
    config = CropConfig(size=(64, 64), resize=ResizeConfig(size=(120, 160), mode=mode), scale=(1, 1))  # type: ignore[arg-type]
    (shown,) = shown_to(model, image, {"disks": config})
    crop = draw_crop(config, 240, 400, np.random.default_rng(0))
    assert shown.shape[2] / 240 == pytest.approx(crop.out_height / crop.height, abs=0.005)
    assert shown.shape[3] / 400 == pytest.approx(crop.out_width / crop.width, abs=0.005)


def test_a_picture_is_shown_once_to_all_that_see_it_alike(model: SegmentationModel) -> None:
    image = np.random.default_rng(0).integers(0, 255, (80, 96, 3)).astype(np.uint8)
    half = CropConfig(size=(64, 64), resize=ResizeConfig(size=(40, 48)), interpolation="pil_linear")
    shown = shown_to(model, image, {"disks": CROP, "tones": half, "boxed": CROP})
    assert [tuple(picture.shape[2:]) for picture in shown] == [(80, 96), (40, 48)]
    small = np.asarray(Image.fromarray(image).resize((48, 40), Image.Resampling.BILINEAR))
    expected = (torch.from_numpy(small.copy()).permute(2, 0, 1)[None] - model.mean) / model.std
    torch.testing.assert_close(shown[1], expected)


def test_boxes_are_scored_inside_the_boxes_only(splits: dict[str, ShardSplit]) -> None:
    split = splits["boxed"]
    sample = split.read(0)
    _, label = read_whole(split, 0)
    inside = np.zeros(label.shape, bool)
    for x1, y1, x2, y2, _ in sample.boxes:
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
    assert (label[~inside] == 255).all()
    assert np.isin(label[inside], [0, 5]).all()


def test_the_score_is_the_mean_over_datasets(model: SegmentationModel) -> None:
    matrices = {"disks": np.diag([5, 5, 5]), "tones": np.array([[1, 1], [0, 2]])}
    assert mean_miou(all_scores(model, matrices)) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)


def test_what_cannot_be_read_is_left_out_of_the_evaluation(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (shards / "disks").glob("val*"):
        shutil.copy(path, tmp_path / path.name)
    split = ShardSplit(tmp_path, "val")
    with (tmp_path / "val-00000.tar").open("r+b") as file:
        file.seek(split.index["image_offset"][1].as_py())
        file.write(bytes(64))
    assert [number for number, _, _ in read_samples(split, range(4))] == [0, 2, 3]
    assert any("left out of the evaluation" in record.message and split.key(1) in record.message for record in caplog.records)


def test_panels_are_written_and_show_the_picture(model: SegmentationModel, splits: dict[str, ShardSplit], tmp_path: Path) -> None:
    panels = dict(write_panels(model, splits, CROPS, tmp_path, 2))
    assert len(panels) == 6
    assert {f"{name}.png" for name in panels} == {path.name for path in tmp_path.iterdir()}
    name = next(name for name in panels if name.startswith("disks"))
    key = name.removeprefix("disks-")
    _, image, _ = next(read_samples(splits["disks"], [splits["disks"].keys.index(key)]))
    np.testing.assert_array_equal(panels[name][20 : 20 + image.shape[0], : image.shape[1]], image)


def test_blend_darkens_what_is_ignored(splits: dict[str, ShardSplit]) -> None:
    view = splits["disks"].label_space.view()
    image = np.full((2, 2, 3), 100, np.uint8)
    mixed = blend(image, np.array([[0, 1], [2, 255]], np.uint8), view, alpha=0.5)
    assert mixed[1, 1].tolist() == [50, 50, 50]
    assert mixed[0, 1].tolist() == [round((100 + c) / 2) for c in view.colors[1]]


def test_pictures_in_subfolders_keep_their_place(model: SegmentationModel, tmp_path: Path) -> None:
    for name in ("a/same.png", "b/same.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(path)
    model.eval()
    assert predict_folder(model, tmp_path / "in", tmp_path / "out", {"disks": CROP}) == 2
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == [f"disks/{kind}/{name}/same.png" for kind in ("labels", "overlays") for name in ("a", "b")]
