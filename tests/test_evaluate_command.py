"""`taxomix evaluate` as a whole, on drawn disks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_training import TREE
from tiny import TINY_JOB

from data.shards import ShardSplit
from taxomix import main

ROOT = Path(__file__).parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tree, concat and heads: three short runs over disks, tones and boxed."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tree.yaml").write_text(TREE)
    for name, words in {
        "tree": ["outputs=hierarchy", f"outputs.tree={folder / 'tree.yaml'}"],
        "concat": ["outputs=concat"],
        "heads": [],
    }.items():
        job = ["train", *TINY_JOB, f"data.root={shards}", f"run.dir={folder}", f"run.name={name}", "loop.steps=3", "optim.lr=2e-3"]
        assert main([*job, *words]) == 0
    return folder


def evaluated(run: Path, out: Path, *words: str) -> dict[str, Any]:
    assert main(["evaluate", f"run={run}", f"out={out}", "overlays=0", *words]) == 0
    content = json.loads((out / "evaluation.json").read_text())
    assert isinstance(content, dict)
    return content


def test_all_is_written(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = evaluated(runs / "tree", tmp_path, "worst=2", "overlays=1", "cross=true")
    assert (content["version"], content["run"], content["checkpoint"], content["averaged"]) == (3, "tree", "best", False)
    ious = [iou for entry in content["datasets"].values() for iou in entry["iou"].values() if iou is not None]
    assert content["class_mean_miou"] == pytest.approx(np.mean(ious))
    assert content["settings"]["scales"] == [1.0]
    disks = content["datasets"]["disks"]
    assert disks["ignored_pixels"] == 4 * 2 * 96
    assert sum(disks["pixels"].values()) == disks["num_pixels"] == 4 * 70 * 96
    assert list(disks["depths"]) == ["depth 1"]
    assert list(disks["depths"]["depth 1"]["iou"]) == ["ground", "thing"]
    assert list(disks["classifiers"]) == ["root", "things"]
    assert disks["classifiers"]["things"]["num_pixels"] == disks["pixels"]["red"] + disks["pixels"]["blue"]
    assert content["datasets"]["boxed"]["classifiers"]["root"]["names"] == ["thing"]

    lines = [json.loads(line) for line in (tmp_path / "evaluation_images.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    of_disks = [line for line in lines if line["dataset"] == "disks"]
    assert sum(line["pixels"] for line in of_disks) == disks["num_pixels"]
    hits = sum(line["pixels"] * line["pixel_accuracy"] for line in of_disks)
    assert hits / disks["num_pixels"] == pytest.approx(disks["pixel_accuracy"])

    worst = sorted(path.name for path in (tmp_path / "overlays" / "worst").iterdir())
    keys = [line["key"] for line in sorted(of_disks, key=lambda line: line["miou"])]
    assert worst[2:4] == [f"disks-01-{keys[0]}.png", f"disks-02-{keys[1]}.png"]
    assert len(worst) == 6
    pictures = {path.name for path in (tmp_path / "confusion").iterdir()}
    assert {"disks.png", "disks-depths-depth_1.png", "disks-classifiers-things.png", "tones-cross-disks.png"} <= pictures

    cross = json.loads((tmp_path / "confusions.json").read_text())
    assert (cross["version"], cross["run"], len(cross["pairs"])) == (1, "tree", 9)
    pairs = {(pair["labels_of"], pair["predictions_of"]): pair for pair in cross["pairs"]}
    pair = pairs["disks", "tones"]
    assert (pair["labels"], pair["predictions"]) == (["ground", "red", "blue"], ["dark", "colourful"])
    assert np.sum(pair["counts"]) + sum(pair["no_prediction"]) == disks["num_pixels"]
    own = np.array(disks["confusion_matrix"])
    np.testing.assert_array_equal(np.column_stack([pairs["disks", "disks"]["counts"], pairs["disks", "disks"]["no_prediction"]]), own)
    printed = capsys.readouterr().out
    assert "disks: levels of the tree" in printed
    assert "classifier things" in printed


def test_how_a_tree_predicts_can_be_changed(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joint, greedy = (evaluated(runs / "tree", tmp_path / rule, f"rule={rule}") for rule in ("joint", "greedy"))
    assert greedy["settings"]["rule"] == "greedy"
    assert joint["datasets"]["disks"]["classifiers"] == greedy["datasets"]["disks"]["classifiers"]
    assert not any(row[-1] for row in joint["datasets"]["disks"]["confusion_matrix"])
    assert joint["datasets"]["boxed"]["confusion_matrix"] != greedy["datasets"]["boxed"]["confusion_matrix"]
    for words, text in ((["predict=all"], "outputs=hierarchy found, expected concat"), (["averaged=true"], "no averaged weights")):
        capsys.readouterr()
        assert main(["evaluate", f"run={runs / 'tree'}", *words]) == 2
        assert text in capsys.readouterr().err


def test_a_concatenation_predicts_among_all_when_asked(runs: Path, tmp_path: Path) -> None:
    own, among_all = (evaluated(runs / "concat", tmp_path / way, f"predict={way}") for way in ("own", "all"))
    misses = [sum(row[-1] for row in content["datasets"]["disks"]["confusion_matrix"]) for content in (own, among_all)]
    assert misses[0] == 0
    assert misses[1] > 0


def test_looks_and_sizes_reach_the_scores(runs: Path, tmp_path: Path) -> None:
    plain = evaluated(runs / "heads", tmp_path / "plain", "datasets=[disks]")
    windowed = evaluated(runs / "heads", tmp_path / "large", "datasets=[disks]", "window=[72, 96]")
    assert windowed["datasets"] == plain["datasets"]
    looked = evaluated(runs / "heads", tmp_path / "looks", "datasets=[disks]", "flip=true", "scales=[0.5, 1]", "window=[64, 64]")
    assert looked["datasets"] != plain["datasets"]
    assert (looked["settings"]["flip"], looked["settings"]["window"]) == (True, [64, 64])
    small = evaluated(runs / "heads", tmp_path / "small", "datasets=[disks]", "size={image: {size: [36, 48]}, labels: image}")
    disks = small["datasets"]["disks"]
    assert disks["num_pixels"] + disks["ignored_pixels"] == 4 * 36 * 48
    assert small["settings"]["size"]["labels"] == "image"


def test_a_protocol_says_which_classes_it_averages(
    runs: Path, tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = "protocols={disks: {classes: [ground, red], others: ignored}, tones: {min_pixels: 4000}}"
    content = evaluated(runs / "heads", tmp_path, words)
    disks, tones = (content["datasets"][name]["protocol"] for name in ("disks", "tones"))
    assert (disks["classes"], disks["other_classes"]) == (["ground", "red"], ["blue"])
    assert disks["pixels"] == sum(content["datasets"]["disks"]["pixels"][name] for name in ("ground", "red"))
    assert tones["too_few_pixels"]["colourful"]["train"] == int(ShardSplit(shards / "tones", "train").labels().total()[7])
    assert tones["classes"] == ["dark"]
    assert tones["miou"] == content["datasets"]["tones"]["iou"]["dark"]
    assert "disks, protocol custom: mIoU" in capsys.readouterr().out
    words = "protocols={disks: {classes: [red], min_pixels: 1, pixels_of: boxed}}"  # where it is called "red thing"
    of_other = evaluated(runs / "heads", tmp_path / "other", "datasets=[disks]", words)["datasets"]["disks"]["protocol"]
    assert of_other["too_few_pixels"] == {"red": {"evaluated": content["datasets"]["disks"]["pixels"]["red"], "boxed train": 0}}
    assert "protocols.disks: no class has 1 pixels" in caplog.text
    assert main(["evaluate", f"run={runs / 'heads'}", "protocols={disks: cityscapes19}"]) == 2
    assert "class 'road' found, expected classes of view all (ground, red, blue)" in capsys.readouterr().err


def test_the_second_choice_counts_in_a_flat_run(runs: Path, tmp_path: Path) -> None:
    """Of tones: what is taken for disks/red and then for colourful is right."""
    among_all = evaluated(runs / "concat", tmp_path / "all", "predict=all")
    content = evaluated(runs / "concat", tmp_path / "second", "protocols={tones: {second_choice: [disks/ground, disks/red, disks/blue]}}")
    before, after = (np.array(entry["datasets"]["tones"]["confusion_matrix"]) for entry in (among_all, content))
    assert np.diag(after).sum() > np.diag(before).sum()
    assert after.sum() == before.sum()


@pytest.fixture
def elsewhere(shards: Path, tmp_path: Path) -> Path:
    """disks under another name, which no run knows."""
    source = tmp_path / "source"
    for name in ("images", "labels"):
        (source / name).parent.mkdir(exist_ok=True)
        os.symlink(shards.parent / "source" / "disks" / name, source / name)
    meta = (
        (shards.parent / "source" / "disks" / "meta.yaml")
        .read_text()
        .replace("name: disks", "name: elsewhere")
        .replace("name: red", "name: rouge")
    )
    (source / "meta.yaml").write_text(meta)
    assert main(["prepare", "dataset=folder", f"source={source}", f"out={tmp_path / 'shards'}", "workers=1"]) == 0
    return tmp_path / "shards"


def test_a_run_is_evaluated_on_a_dataset_it_does_not_know(
    runs: Path, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = evaluated(runs / "heads", tmp_path / "own", "datasets=[disks]")["datasets"]["disks"]
    table = tmp_path / "table.yaml"
    table.write_text("version: 1\nlabels:\n  elsewhere: {ground: ground, rouge: red, blue: disks/blue}\n")
    words = [f"root={elsewhere}", "datasets={elsewhere: disks}"]
    assert main(["evaluate", f"run={runs / 'heads'}", *words]) == 2
    assert "datasets.elsewhere: label 'rouge' found, which is none of disks (ground, red, blue)" in capsys.readouterr().err
    found = evaluated(runs / "heads", tmp_path / "out", *words, f"through={table}", "cross=true")
    assert found["datasets"]["elsewhere"]["confusion_matrix"] == own["confusion_matrix"]
    assert list(found["datasets"]["elsewhere"]["iou"]) == ["ground", "rouge", "blue"]
    assert len(json.loads((tmp_path / "out" / "confusions.json").read_text())["pairs"]) == 3

    table.write_text("version: 1\nlabels:\n  elsewhere: {ground: ground, rouge: [red, blue], blue: null}\n")
    through = evaluated(runs / "tree", tmp_path / "tree", f"root={elsewhere}", "datasets=[elsewhere]", f"through={table}")
    result = through["datasets"]["elsewhere"]
    assert list(result["iou"]) == ["ground", "rouge"]
    assert result["ignored_pixels"] == own["ignored_pixels"] + own["pixels"]["blue"]
    assert list(result["classifiers"]) == ["root"]
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("version: 1\nlabels:\n  elsewhere: {ground: null, rouge: null, blue: null}\n")
    table_of_own = tmp_path / "own.yaml"
    table_of_own.write_text("version: 1\nlabels:\n  disks: {ground: red, red: ground, blue: blue}\n")
    (tmp_path / "file").touch()
    for words, text in (
        ([f"root={elsewhere}", "datasets=[elsewhere]", f"through={nothing}"], "labels.elsewhere: null for all labels found"),
        ([f"through={table_of_own}"], "labels of disks found, which is of the run and answers for itself"),
        ([f"out={tmp_path / 'file'}"], f"out={tmp_path / 'file'}: File exists; expected a folder"),
        (["foreign=true", "rule=greedy", f"root={elsewhere}", "datasets=[elsewhere]", f"through={table}"], "rule=greedy found"),
        (["datasets=[nowhere]"], "no dataset of the run has it with labels"),
        (["datasets={disks: nowhere}"], "datasets.disks: nowhere found, expected a dataset of the run"),
        ([f"through={table}"], "labels of elsewhere found, expected some of datasets="),
        (["views={disks: all}"], "views.disks"),
        (["protocols={nowhere: voc21}"], "protocols.nowhere: no dataset that is evaluated"),
    ):
        capsys.readouterr()
        assert main(["evaluate", f"run={runs / 'tree'}", *words]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1


def test_names_are_printed_as_they_are_and_old_pictures_go(
    runs: Path, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets are markup to the library that draws the tables."""
    out, table = tmp_path / "out", tmp_path / "table.yaml"
    evaluated(runs / "heads", out, "overlays=1", "worst=1")
    (out / "mine.png").touch()
    assert len(list(out.rglob("*.png"))) == 3 + 3 + 3 + 1
    meta = yaml.safe_load((elsewhere.parent / "source" / "meta.yaml").read_text())
    meta["name"], meta["classes"][1]["name"], meta["classes"][2]["name"] = "odd", "sign [/front]", "car [moving]"
    (elsewhere.parent / "source" / "meta.yaml").write_text(yaml.safe_dump(meta))
    assert main(["prepare", "dataset=folder", f"source={elsewhere.parent / 'source'}", f"out={elsewhere}", "workers=1"]) == 0
    table.write_text("version: 1\nlabels:\n  odd: {ground: ground, 'sign [/front]': red, 'car [moving]': blue}\n")
    capsys.readouterr()
    evaluated(runs / "heads", out, f"root={elsewhere}", "datasets={odd: disks}", f"through={table}", "worst=0")
    printed = capsys.readouterr().out
    assert "sign [/front]" in printed
    assert "car [moving]" in printed
    assert 'answered_by: {"odd": "disks"}' in printed
    assert sorted(path.name for path in out.rglob("*.png")) == ["mine.png", "odd.png"]


def test_predictions_are_of_pictures_and_each_has_its_own_name(
    runs: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = next((shards.parent / "source" / "disks" / "images" / "val").iterdir())
    pictures = tmp_path / "pictures"
    for name in ("a.JPG", "a.b.jpg", "c.jpg"):
        pictures.mkdir(exist_ok=True)
        (pictures / name).write_bytes(picture.read_bytes())
    words = ["predict", f"run={runs / 'heads'}", f"images={pictures}", "datasets=[disks]"]
    for _ in range(2):  # what the first wrote is no picture of the second
        assert main([*words, f"out={pictures}/../pictures/out"]) == 0
    assert "3 pictures labelled" in capsys.readouterr().out.splitlines()[-1]
    assert main([*words, f"out={pictures}"]) == 2
    assert "the folder of the pictures found" in capsys.readouterr().err
    (pictures / "a.jpeg").write_bytes(picture.read_bytes())
    assert main([*words, f"out={tmp_path / 'out'}"]) == 2
    assert "same name as a.JPG but for the suffix" in capsys.readouterr().err


@pytest.mark.timeout(180)
def test_two_ranks_write_what_one_writes(runs: Path, tmp_path: Path) -> None:
    one = evaluated(runs / "tree", tmp_path / "one", "cross=true")
    words = ["evaluate", f"run={runs / 'tree'}", f"out={tmp_path / 'two'}", "overlays=0", "cross=true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*TORCHRUN, "-m", "taxomix", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1
    assert json.loads((tmp_path / "two" / "evaluation.json").read_text()) == one
    for name in ("confusions.json", "evaluation_images.jsonl"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()


def test_training_shows_confusion_matrices(runs: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(runs / "heads" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"confusion/disks", "confusion/tones", "confusion/boxed"} <= set(events.Tags()["images"])
    assert (runs / "heads" / "confusion" / "disks.png").is_file()


def test_looks_reach_predictions(runs: Path, shards: Path, tmp_path: Path) -> None:
    pictures = shards.parent / "source" / "disks" / "images" / "val"
    words = ["predict", f"run={runs / 'heads'}", f"images={pictures}", "datasets=[disks]"]
    assert main([*words, f"out={tmp_path / 'plain'}"]) == 0
    assert main([*words, f"out={tmp_path / 'looks'}", "flip=true", "scales=[0.5]"]) == 0
    plain, looks = (sorted((tmp_path / name).rglob("labels/*.png")) for name in ("plain", "looks"))
    assert len(plain) == len(looks) == 4
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(plain, looks, strict=True))
    assert torch.get_num_threads() == 1
