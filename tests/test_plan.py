"""`taxomix plan`: what it says must be what the job then does."""

import shutil
from pathlib import Path

import pytest
import yaml

import conf
from data.config import build
from data.crop_presets import CROPS
from data.rare import RareClassOrder
from taxomix import main
from trainers.config import JobConfig
from trainers.job import open_data
from trainers.plan import make_plan


def job(shards: Path, *words: str) -> JobConfig:
    return build(JobConfig, conf.compose("train", ["data=mine", f"data.root={shards}", "loop.steps=30", "cluster=none", *words]))


@pytest.mark.parametrize(
    "words", [["data.mix={disks: 1, tones: 2, boxed: 1}"], ["data.mix=[disks, boxed]", "data.quota={name: proportional, batch: 8}"]]
)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_plan_is_what_the_mixture_does(shards: Path, words: list[str], world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    config = job(shards, *words)
    plan = make_plan(config)
    mixture = open_data(config).mixture
    assert not plan.problems
    for number, stream in enumerate(plan.streams):
        batches = [[draw for draw in mixture.draws(step) if draw.stream == number] for step in range(30)]
        assert stream.seen == sum(map(len, batches))
        assert stream.epochs == pytest.approx(stream.seen / 10)
        assert stream.per_batch == (min(map(len, batches)), max(map(len, batches)))
        ranks = [
            sum(draw.stream == number for draw in mixture.draws(step, rank=rank, world_size=world_size))
            for step in range(30)
            for rank in range(world_size)
        ]
        assert stream.per_rank == (min(ranks), max(ranks))


def test_the_plan_is_printed(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "plan",
        "data=mine",
        f"data.root={shards}",
        "data.mix={disks: 4, extra: {dataset: tones, samples: 4, subset: 1/2, role: source}}",
    ]
    assert main([*words, "cluster.workers=2", "loop.steps=10"]) == 0
    out = capsys.readouterr().out
    assert "10 steps of 8 samples on 2 workers (4 each), 11,79" in out
    assert "extra = tones/train (1/2)" in out
    assert "8.00" in out  # 40 samples of 5


def test_pictures_are_not_resized_twice(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "data=mine", f"data.root={shards}", "data.mix={tones: 2, disks: {samples: 2, crop: classmix_cityscapes}}"]
    words.append("data.crop={size: [512, 1024]}")
    assert main(words) == 0
    assert main([*words, "model.input_scale=0.5"]) == 2
    error = capsys.readouterr().out
    assert "model.input_scale: 0.5 found, expected 1 where the crop of data.mix.disks has a resize" in error
    assert "remove model.input_scale, or give the smaller size as resize.size" in error


def test_whole_pictures_follow_the_first_stream_of_their_dataset(shards: Path) -> None:
    mix = "data.mix={a: {dataset: tones, samples: 1, crop: dacs_gta5}, tones: {samples: 1, crop: dacs_synthia}, disks: 1}"
    crops = job(shards, mix, "data.crop=dacs_cityscapes").data.crops
    assert crops == {"tones": CROPS["dacs_gta5"], "disks": CROPS["dacs_cityscapes"]}


def test_what_cannot_work_is_told(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "data=mine", f"data.root={shards}", "data.mix={disks: 3, tones: {samples: 2, role: target}}", "cluster.workers=2"]
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert "cannot work: data.mix: a global batch of 5 (3 disks + 2 tones) found, which 2 workers do not divide" in out
    assert "cannot work: data.mix.tones.role: target found" in out
    assert error.startswith("taxomix plan: this job cannot work: data.mix: a global batch of 5")


def test_a_quota_that_the_workers_do_not_divide_is_named(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also: a list of streams replaces the mapping of the default mix."""
    words = ["plan", f"data.root={shards}", "data.mix=[disks, tones]", "data.quota={name: replicate, batch: 9}", "cluster.workers=2"]
    assert main(words) == 2
    assert "cannot work: data.quota.batch: 9 found, which 2 workers do not divide" in capsys.readouterr().out


def test_cut_shards_of_the_val_split_are_told_by_plan_and_train(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shards / "disks", tmp_path / "disks")
    (tmp_path / "disks" / "val-00000.tar").write_bytes(b"")
    words = ["data=mine", f"data.root={tmp_path}", "data.mix={disks: 2}", "cluster=none", "loop.steps=1", f"run.dir={tmp_path}"]
    told = "disks val: 4 samples lie in shards that are gone or cut short"
    assert main(["plan", *words]) == 2
    assert f"cannot work: {told}" in capsys.readouterr().out
    assert main(["train", *words]) == 2
    assert f"taxomix train: {told}" in capsys.readouterr().err


def test_that_remote_rare_classes_need_a_large_cache_is_noted(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.shards.ShardSplit.is_remote", True)
    rare = "data.mix={disks: {samples: 2, rare_classes: {min_pixels: 1}}}"
    notes = make_plan(job(shards, rare)).notes
    assert any(note.startswith("disks: rare_classes draws from all shards at any time, so data.cache.max_gb has to hold") for note in notes)


@pytest.mark.parametrize("kind", ["universal", "hierarchy"])
def test_no_picture_is_drawn_more_often_for_labels_that_teach_nothing(shards: Path, tmp_path: Path, kind: str) -> None:
    rare = "data.mix={disks: {samples: 2, rare_classes: {min_pixels: 1}}}"
    config = job(shards, rare)
    data = open_data(config)
    first, *others = data.views["disks"].names
    labels = {"disks": {first: [], **{name: [name] for name in others}}}
    content = {"version": 1, "leaves": [{"name": name} for name in (*others, "more")], "labels": labels}
    if kind == "hierarchy":
        content = {"version": 1, "classifiers": {"root": {"classes": [*others, "more"], "datasets": ["disks"]}}, "labels": labels}
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(content))
    key = "universe" if kind == "universal" else "tree"
    silent = open_data(job(shards, rare, f"outputs={kind}", f"outputs.{key}={tmp_path / 'file.yaml'}"))
    orders = [opened.mixture.streams[0].order for opened in (data, silent)]
    assert [order.classes.tolist() for order in orders if isinstance(order, RareClassOrder)] == [
        list(range(len(others) + 1)),
        list(range(1, len(others) + 1)),
    ]


def test_labels_that_no_stream_supervises_are_told(shards: Path) -> None:
    config = job(shards, "data.mix={disks: 2, hidden: {dataset: tones, samples: 2, role: unlabelled}}")
    plan = make_plan(config)
    assert any(problem.startswith("outputs=multihead: no stream with labels of tones found") for problem in plan.problems)
    assert plan.notes == ()


def test_a_dataset_without_a_val_split_is_trained_on_alone(shards: Path, tmp_path: Path) -> None:
    for name in ("disks", "tones"):
        (tmp_path / name).symlink_to(shards / name)
    (tmp_path / "boxed").mkdir()
    for path in (shards / "boxed").glob("train*"):
        (tmp_path / "boxed" / path.name).symlink_to(path)
    plan = make_plan(job(tmp_path, "data.mix={disks: 2, boxed: 2}"))
    assert plan.notes == ("boxed: no split val with labels, it is not evaluated",)
    words = ["train", "data=mine", f"data.root={tmp_path}", "data.mix={disks: 2, boxed: 2}", "data.crop.size=[64, 64]", "loop.steps=1"]
    assert main([*words, "cluster=none", "cluster.threads_per_worker=1", f"run.dir={tmp_path / 'runs'}", "run.name=a"]) == 0
    assert '"disks"' in (tmp_path / "runs" / "a" / "evaluation.json").read_text()
    assert '"boxed"' not in (tmp_path / "runs" / "a" / "evaluation.json").read_text()
    assert '"pixels"' in (tmp_path / "runs" / "a" / "shares.json").read_text()
