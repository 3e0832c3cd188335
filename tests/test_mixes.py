"""The mixes that come with the package, on look-alikes of the datasets: with the words that their files name they can be trained."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from adapter_trees import write_cityscapes, write_gta5, write_gtsdb, write_sbd_png, write_synthia, write_vistas, write_voc_sbd
from tiny import write_image

import conf
from data.config import build
from data.hierarchy import read_hierarchy
from data.universe import read_universe
from taxomix import main
from trainers.config import JobConfig
from trainers.plan import Plan, make_plan

HIERARCHICAL = ["trainer=hierarchical", "outputs=hierarchy"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Look-alikes of the papers' datasets, of CamVid in 11 classes, of carla23 and of msrc23, some pictures each."""
    root = tmp_path_factory.mktemp("mixes")
    for name, write in {
        "cityscapes": write_cityscapes,
        "voc": lambda folder: write_voc_sbd(folder, write_sbd_png),
        "vistas": write_vistas,
        "gtsdb": write_gtsdb,
        "gta5": write_gta5,
        "synthia": write_synthia,
    }.items():
        write(root / name)
        sbd = [f"dataset.sbd={root / name / 'VOCdevkit' / 'VOC2012'}"] if name == "voc" else []
        assert main(["prepare", f"dataset={name}", f"source={root / name}", f"out={root / 'shards'}", "workers=1", *sbd]) == 0
    sets = {
        "camvid11": list(read_hierarchy("camvid11_gtsdb").labels["camvid11"]),
        "carla23": list(read_universe("camvid11_carla23").labels["carla23"]),
        "msrc23": ["grass", "cow"],
    }
    for name, classes in sets.items():
        write_set(
            root / name, classes, size=(288, 384) if name == "carla23" else (12, 16)
        )  # large enough for the rare classes of its recipe
        assert main(["prepare", "dataset=folder", f"source={root / name}", f"out={root / 'shards'}", "workers=1"]) == 0
    return root / "shards"


def write_set(folder: Path, names: list[str], size: tuple[int, int]) -> None:
    classes = [{"id": i, "name": name} for i, name in enumerate(names)]
    folder.mkdir()
    (folder / "meta.yaml").write_text(yaml.safe_dump({"name": folder.name, "ignore_ids": [len(names)], "classes": classes}))
    for split, number in (("train", 9), ("val", 1)):
        for key in "abcdefghi"[:number]:
            write_image(folder / "images" / split / f"{key}.png", np.zeros((*size, 3), np.uint8))
            label = np.arange(size[0] * size[1]).reshape(size) % (len(names) + 1)
            write_image(folder / "labels" / split / f"{key}.png", label.astype(np.uint8))


def plan(prepared: Path, *words: str) -> Plan:
    return make_plan(build(JobConfig, conf.compose("train", [*words, f"data.root={prepared}", "cluster=none", "loop.steps=60"])))


@pytest.mark.parametrize(
    ("mix", "words", "batch"),
    [
        ("paper001", [*HIERARCHICAL, "outputs.tree=paper001"], {"cityscapes": (1, 1), "vistas": (2, 2), "gtsdb": (1, 1)}),
        (
            "paper002_cityscapes_gtsdb",
            ["trainer.weighting=learned", "trainer.boxes={gtsdb: cityscapes/traffic sign}"],
            {"cityscapes": (3, 3), "gtsdb": (3, 3)},
        ),
        (
            "paper002_three",
            [
                "trainer.weighting=learned",
                'trainer.boxes={gtsdb: [cityscapes/traffic sign, "vistas/Traffic Sign (Front)"]}',
                "data.views={vistas: '65'}",
            ],
            {"cityscapes": (2, 2), "gtsdb": (2, 2), "vistas": (2, 2)},
        ),
        (
            "paper002_three",
            ["data.views={vistas: lanes}", "trainer.boxes={gtsdb: cityscapes/traffic sign}", "outputs.decoder=repeated"],
            {"cityscapes": (2, 2), "gtsdb": (2, 2), "vistas": (2, 2)},
        ),
        ("camvid11_gtsdb", [*HIERARCHICAL, "outputs.tree=camvid11_gtsdb"], {"camvid11": (4, 4), "gtsdb": (4, 4)}),
        (
            "camvid11_gtsdb",
            [*HIERARCHICAL, "outputs.tree=camvid11_gtsdb_categories", "data.views={gtsdb: categories}"],
            {"camvid11": (4, 4), "gtsdb": (4, 4)},
        ),
        ("camvid11_gtsdb", ["trainer.boxes={gtsdb: camvid11/sign_symbol}"], {"camvid11": (4, 4), "gtsdb": (4, 4)}),
    ],
)
def test_mixes_can_be_trained(prepared: Path, mix: str, words: list[str], batch: dict[str, tuple[int, int]]) -> None:
    found = plan(prepared, f"data={mix}", *words)
    assert found.problems == ()
    assert {stream.name: stream.per_batch for stream in found.streams} == batch


def test_of_one_set_every_picture_is_seen_equally_often(prepared: Path) -> None:
    found = plan(prepared, "data=paper000_cityscapes_voc", "outputs=concat")
    assert found.problems == ()
    assert found.batch_size == 14
    assert {stream.name: stream.view for stream in found.streams} == {"cityscapes": "19", "voc": "all"}
    epochs = [stream.epochs for stream in found.streams]
    assert epochs == pytest.approx([60 * 14 / sum(stream.num_samples for stream in found.streams)] * 2, rel=0.02)


def test_crops_and_colours_are_those_of_the_papers() -> None:
    def of(mix: str) -> dict[str, tuple[object, object]]:
        data = build(JobConfig, conf.compose("train", [f"data={mix}"])).data
        return {name: (stream.crop or data.crop, stream.photometric or data.photometric) for name, stream in data.streams.items()}

    assert of("paper000_cityscapes_voc") == {"cityscapes": ("thesis000_cityscapes", "none"), "voc": ("thesis000", "none")}
    assert of("paper001") == {
        "cityscapes": ("paper001_cityscapes", "paper001"),
        "vistas": ("paper001_vistas", "none"),
        "gtsdb": ("paper001_gtsdb", "paper001"),
    }
    assert of("paper002_three") == dict.fromkeys(("cityscapes", "gtsdb", "vistas"), ("paper002", "none"))


def test_boxes_that_cannot_be_are_one_line(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=camvid11_gtsdb", f"data.root={prepared}", "trainer.boxes={gtsdb: camvid11/sign}"]
    for command in ("train", "plan"):
        assert main([command, *words]) == 2
        error = capsys.readouterr().err
        assert "trainer.boxes.gtsdb: camvid11/sign found, expected a class of view all of camvid11 (sky, building" in error
        assert error.count("\n") == 1
    assert main(["train", "data=camvid11_gtsdb", f"data.root={prepared}", "trainer=hierarchical"]) == 2
    assert "trainer=hierarchical: outputs=multihead found" in capsys.readouterr().err


@pytest.mark.parametrize("name", conf.choices("recipe"))
def test_recipes_can_be_run_as_they_stand(prepared: Path, name: str) -> None:
    """But for ImageNet's weights, which are downloaded."""
    found = plan(prepared, f"recipe={name}", "model.weights=null")
    assert found.problems == ()


def test_two_datasets_can_share_a_softmax_in_semi_supervised_training(prepared: Path) -> None:
    found = plan(prepared, "recipe=camvid_msrc_ssl", "outputs=universal", "outputs.universe=camvid11_msrc23")
    assert found.problems == ()


@pytest.mark.timeout(120)
def test_a_recipe_trains_and_is_evaluated_as_its_file_says(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipe=paper002_cityscapes_gtsdb", "model=espnet", f"data.root={prepared}", f"run.dir={tmp_path}", "cluster=none"]
    small = ["data.crop={size: [64, 96]}", "data.quota={name: replicate, batch: 2}", "loop.steps=2", "loop.overlays=0", "schedule.hold=1"]
    assert main(["train", *words, *small]) == 0
    capsys.readouterr()
    run = tmp_path / "paper002_cityscapes_gtsdb"
    assert main(["evaluate", f"run={run}", "datasets=[gtsdb]", "split=test", "checkpoint=last", "protocols={gtsdb: gtsdb_signs}"]) == 0
    assert "gtsdb, protocol gtsdb_signs: mIoU" in capsys.readouterr().out
