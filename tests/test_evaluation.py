import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from tiny import damage, read_metrics

import conf
from data.cache import CacheConfig
from data.config import build
from data.drawing import blend
from data.loader import read_whole
from data.shards import ShardSplit
from data.transforms import CropConfig, ResizeConfig, draw_crop
from models.model import SegmentationModel, build_model
from models.networks.base import Features
from models.networks.swiftnet import SwiftNet, SwiftNetConfig
from models.outputs.multihead import MultiHeadConfig
from taxomix import main
from trainers.config import JobConfig
from trainers.evaluation import Tally, all_scores, evaluate, mean_miou, predict_image, read_samples
from trainers.loop import train
from trainers.overlay import write_panels
from trainers.predict import predict_folder
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder


@pytest.fixture(scope="module")
def splits(shards: Path) -> dict[str, ShardSplit]:
    return {name: ShardSplit(shards / name, "val") for name in ("disks", "tones", "boxed")}


@pytest.fixture(scope="module")
def model(splits: dict[str, ShardSplit]) -> SegmentationModel:
    torch.manual_seed(1)
    views = {name: split.label_space.view() for name, split in splits.items()}
    return build_model(SwiftNetConfig(name="swiftnet"), MultiHeadConfig(name="multihead"), views)


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
    for name, tally in whole.items():
        assert tally.matrix.dtype == np.int64
        assert (tally.images, tally.left_out, tally.left_out_keys) == (4, 0, ())
        np.testing.assert_array_equal(sum(share[name].matrix for share in shares), tally.matrix)
        assert sum(share[name].images for share in shares) == 4


def test_matrices_equal_the_slow_reference(model: SegmentationModel, splits: dict[str, ShardSplit]) -> None:
    model.train()
    matrix = evaluate(model, splits, CROPS, Ranks())["tones"].matrix
    assert model.training  # as it was before
    model.eval()
    expected = np.zeros((2, 3), np.int64)
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
        super().__init__(SwiftNetConfig(name="swiftnet"))
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
    tallies = {name: Tally(matrix=matrix, images=1) for name, matrix in matrices.items()}
    assert mean_miou(all_scores(model, tallies)) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)


def copy_of(folder: Path, shards: Path, *names: str, splits: str = "*") -> Path:
    """Some of the prepared datasets once more, below `folder`, of each the files that match `splits`."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for path in (shards / name).glob(splits):
            shutil.copy(path, folder / name / path.name)
    return folder


def test_what_cannot_be_read_is_left_out_of_the_evaluation(
    model: SegmentationModel, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = ShardSplit(copy_of(tmp_path, shards, "disks") / "disks", "val")
    damage(split, 1)
    assert [number for number, _, _ in read_samples(split, range(4))] == [0, 2, 3]
    assert any("left out of the evaluation" in record.message and split.key(1) in record.message for record in caplog.records)
    caplog.clear()
    whole = evaluate(model, {"disks": ShardSplit(shards / "disks", "val")}, CROPS, Ranks())["disks"]
    assert not caplog.records
    tally = evaluate(model, {"disks": split}, CROPS, Ranks())["disks"]
    assert (tally.images, tally.left_out, tally.left_out_keys) == (3, 1, (split.key(1),))
    assert tally.matrix.sum() == pytest.approx(whole.matrix.sum() * 3 / 4, abs=0)  # each picture has as many ignored pixels
    summary = [record.message for record in caplog.records if "1 of 4 images of split val" in record.message]
    assert len(summary) == 1
    assert f"({split.key(1)})" in summary[0]


def test_of_many_that_cannot_be_read_some_are_named(
    model: SegmentationModel, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("samples", "tally"):
        monkeypatch.setattr(f"trainers.evaluation.{module}.NUM_NAMED", 2)
    split = ShardSplit(copy_of(tmp_path, shards, "disks") / "disks", "train")
    damage(split, 0, 3, 4, 8, 9)
    tally = evaluate(model, {"disks": split}, CROPS, Ranks())["disks"]
    assert (tally.images, tally.left_out, tally.left_out_keys) == (5, 5, (split.key(0), split.key(3)))
    assert len(caplog.messages) == 3
    assert "5 of 10 images of split train cannot be read" in caplog.messages[2]
    assert f"({split.key(0)}, {split.key(3)} and 3 more)" in caplog.messages[2]


def test_an_evaluation_that_left_out_images_makes_no_checkpoint_the_best(
    tiny_job: list[str], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    split = ShardSplit(copy_of(tmp_path, shards, "disks", "tones", "boxed") / "disks", "val")
    damage(split, 2)
    run = tmp_path / "runs" / "some"
    assert main([*tiny_job, f"data.root={tmp_path}", "run.name=some", "loop.steps=2"]) == 0
    printed = capsys.readouterr().out
    assert "disks: mIoU" in printed
    assert f"disks: left out, since they cannot be read: {split.key(2)}" in printed
    assert "step 2: the evaluation left out 1 of 12 images, so this checkpoint cannot be the best one" in caplog.messages
    assert (read_metrics(run, "left_out/disks"), read_metrics(run, "left_out/tones")) == ([1], [0])
    assert RunFolder(run).checkpoints.load("last")["score"] is None

    assert main(["evaluate", f"run={run}"]) == 2
    error = capsys.readouterr().err
    assert "no best.pt found" in error
    assert "give checkpoint=last" in error
    assert error.count("\n") == 1
    assert main(["evaluate", f"run={run}", "checkpoint=last"]) == 0
    content = json.loads((run / "evaluation.json").read_text())
    assert content["images"] == {"disks": 3, "tones": 4, "boxed": 4}
    assert content["left_out"] == {"disks": 1, "tones": 0, "boxed": 0}
    assert content["left_out_keys"] == {"disks": [split.key(2)]}
    row = next(line for line in capsys.readouterr().out.splitlines() if "disks" in line)
    assert [int(cell) for cell in row.split("│")[-3:-1]] == [3, 1]


def test_the_best_of_the_whole_evaluations_stays_the_best(
    tiny_job: list[str], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that rise from one evaluation to the next, of which the second and third leave out an image."""
    rising = itertools.count(0.1, 0.1)
    monkeypatch.setattr("trainers.loop.mean_miou", lambda results: next(rising))
    split = ShardSplit(copy_of(tmp_path, shards, "disks") / "disks", "val")
    words = [*tiny_job[1:], "data.mix={disks: 2}", f"data.root={tmp_path}", "loop.steps=3", "loop.evaluate_every=1", "run.name=some"]
    reported = []

    def report(scores: dict[str, float]) -> None:
        reported.append(scores["left_out"])
        damage(split, 3)

    train(build(JobConfig, conf.compose("train", words)), Ranks(), report)
    folder = RunFolder(tmp_path / "runs" / "some")
    assert reported == read_metrics(folder.path, "left_out/disks") == [0, 1, 1]
    assert folder.checkpoints.load("best")["step"] == 1
    assert folder.checkpoints.load("last")["best_score"] == pytest.approx(0.1)


def test_the_split_is_the_runs_own_unless_another_is_given(
    tiny_job: list[str], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The run is evaluated on train; tones has no val, and that of boxed is without labels."""
    copy_of(tmp_path, shards, "disks")
    copy_of(tmp_path, shards, "tones", "boxed", splits="train*")
    source = tmp_path / "source" / "boxed"
    (source / "images" / "val").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(source / "images" / "val" / "a.jpg")
    (source / "meta.yaml").write_text("name: boxed\nsupervision: none\nclasses: [{id: 0, name: red thing}, {id: 5, name: blue thing}]\n")
    assert main(["prepare", "dataset=folder", f"source={source}", f"out={tmp_path}", "workers=1"]) == 0
    run = tmp_path / "runs" / "some"
    assert main([*tiny_job, f"data.root={tmp_path}", "data.val_split=train", "run.name=some", "loop.steps=1"]) == 0

    evaluation = run / "evaluation.json"
    evaluation.unlink()
    assert main(["evaluate", f"run={run}"]) == 0
    content = json.loads(evaluation.read_text())
    assert (content["split"], content["images"]) == ("train", {"disks": 10, "tones": 10, "boxed": 10})
    assert not caplog.messages
    capsys.readouterr()

    assert main(["evaluate", f"run={run}", "split=val"]) == 0
    content = json.loads(evaluation.read_text())
    assert (content["split"], content["images"], list(content["datasets"])) == ("val", {"disks": 4}, ["disks"])
    assert [message.split(":")[0] for message in caplog.messages] == ["not evaluated"] * 2
    assert f"{tmp_path / 'tones'}" in caplog.messages[0]
    assert f"{tmp_path / 'boxed'}: split 'val' has no labels" in caplog.messages[1]
    printed = capsys.readouterr().out
    assert "some: step 1, checkpoint best, split val" in printed
    assert "disks: IoU of each class" in printed
    assert "tones" not in printed

    assert main(["evaluate", f"run={run}", "split=test"]) == 2
    assert "split=test: no dataset of the run has it with labels" in capsys.readouterr().err


class Held(MemoryFileSystem):
    """Files in memory behind a server that answers nothing for those of `held`, until `released`."""

    protocol = "held"
    store: ClassVar[dict[str, Any]] = {}
    held: ClassVar[set[str]] = set()
    released = threading.Event()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("held://")))

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.rsplit("/", 1)[-1] in self.held:
            self.released.wait(60)
        return super()._open(path, *args, **kwargs)


fsspec.register_implementation("held", Held, clobber=True)


@pytest.fixture
def remote(shards: Path) -> Iterator[str]:
    """URL of the prepared datasets, on a server of this process; a shard has 4 samples."""
    files = Held()
    Held.held, Held.released = set(), threading.Event()
    for name in ("disks", "tones", "boxed"):
        for path in (shards / name).iterdir():
            files.pipe_file(f"/set/{name}/{path.name}", path.read_bytes())
    yield "held://set"
    Held.released.set()
    Held.store.clear()


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.01)


def copies(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.tar")}


def test_remote_shards_are_fetched_before_their_samples_are_read(remote: str, tmp_path: Path) -> None:
    """The reader itself is five samples ahead: without fetching ahead it has asked for nothing of the third shard."""
    split = ShardSplit(f"{remote}/disks", "train", cache=CacheConfig(folder=tmp_path))
    samples = read_samples(split, range(10))
    assert next(samples)[0] == 0
    wait_until(lambda: "train-00002.tar" in copies(tmp_path))
    assert [number for number, _, _ in samples] == list(range(1, 10))


def test_only_the_shards_of_the_samples_are_fetched(remote: str, tmp_path: Path) -> None:
    split = ShardSplit(f"{remote}/disks", "train", cache=CacheConfig(folder=tmp_path))
    assert [number for number, _, _ in read_samples(split, [1, 9])] == [1, 9]
    assert copies(tmp_path) == {"train-00000.tar", "train-00002.tar"}
    assert list(read_samples(split, [])) == []


def test_an_evaluation_that_ends_early_waits_for_no_server(remote: str, model: SegmentationModel, tmp_path: Path) -> None:
    """The third shard is on its way and never comes when the evaluation fails at its first image."""
    Held.held = {"train-00002.tar"}
    split = ShardSplit(f"{remote}/disks", "train", cache=CacheConfig(folder=tmp_path))

    def fail(samples: Iterator[object], **_: object) -> Iterator[object]:
        next(samples)
        wait_until(lambda: list(tmp_path.rglob("train-00002.tar+*.partial")))
        raise KeyboardInterrupt
        yield

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as caught:  # what was raised holds the frames that it went through
        evaluate(model, {"disks": split}, CROPS, Ranks(), progress=fail)
    assert time.monotonic() - start < 10
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("prefetch", "evaluation"))]
    assert caught.tb is not None


def test_a_run_is_evaluated_with_the_cache_of_this_host(
    remote: str, tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    words = ["run.name=some", "loop.steps=1", "data.mix={disks: 2}", f"data.root={remote}", f"data.cache.folder={there}"]
    assert main([*tiny_job, *words]) == 0
    shutil.rmtree(there)
    there.write_text("")  # what was a folder on the host of the training is none here
    run = tmp_path / "runs" / "some"
    assert main(["evaluate", f"run={run}", f"cache.folder={here}", "cache.max_gb=0.001", "cache.retry_seconds=1"]) == 0
    assert copies(here) == {"val-00000.tar"}
    assert json.loads((run / "evaluation.json").read_text())["images"] == {"disks": 4}
    shutil.rmtree(here)
    capsys.readouterr()
    assert main(["evaluate", f"run={run}", f"cache.folder={here}", "cache.max_gb=0.000001"]) == 2
    assert "max_gb: 1e-06 found" in capsys.readouterr().err


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
    assert predict_folder(model, tmp_path / "in", tmp_path / "out", {"disks": CROP}, {"disks": 255}) == 2
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == [f"disks/{kind}/{name}/same.png" for kind in ("labels", "overlays") for name in ("a", "b")]
