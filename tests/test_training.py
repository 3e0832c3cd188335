"""Whole jobs on tiny shards, by the command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_distributed import on_ranks, run_job
from tiny import TINY_JOB, FolderMaker, read_metrics, write_folder

import conf
from data.config import build
from data.images import read_label_image
from data.shards import ShardSplit
from taxomix import main
from trainers.checkpoint import Checkpoints
from trainers.config import JobConfig
from trainers.job import build_trainer, open_data
from trainers.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
LOSSES = ("loss/disks", "loss/tones", "loss/boxed")


def command(words: Sequence[str], *launcher: str) -> list[str]:
    return [sys.executable, *launcher, "-m", "taxomix", *words]


def test_a_job_trains_evaluates_and_predicts(tiny_job: list[str], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*tiny_job, "run.name=whole", "loop.steps=40", "loop.evaluate_every=20", "optim.lr=2e-3"]
    assert main(words) == 0
    run = RunFolder(tmp_path / "runs" / "whole")
    printed = capsys.readouterr().out
    for name in ("disks", "tones", "boxed"):
        assert f"{name}: IoU of each class" in printed
    for place in (run.checkpoints.folder, run.tensorboard, run.overlays):
        assert str(place) in printed
        assert any(place.iterdir())

    content = json.loads(run.evaluation.read_text())
    assert content["step"] == 40
    pixels = sum((np.array(ShardSplit(shards / "disks", "val").index["label_pixels"][i].as_py()).sum()) for i in range(4))
    assert content["datasets"]["disks"]["num_pixels"] == pixels - 4 * 2 * 96  # each picture has two ignored rows
    for name in ("disks", "tones"):
        assert content["datasets"][name]["miou"] > content["datasets"][name]["constant_miou"] + 0.1
    assert content["datasets"]["boxed"]["mpa"] > 0.7
    losses = read_metrics(run.path, "loss/disks")
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])

    assert main(["evaluate", f"run={run.path}", "checkpoint=last"]) == 0
    again = json.loads(run.evaluation.read_text())
    assert again == {**content, "checkpoint": "last"}

    images = tmp_path / "pictures"
    images.mkdir()
    Image.fromarray(np.full((50, 70, 3), 80, np.uint8)).save(images / "some.png")
    assert main(["predict", f"run={run.path}", f"images={images}", f"out={tmp_path / 'out'}"]) == 0
    label = read_label_image(tmp_path / "out" / "tones" / "labels" / "some.png")
    assert label.shape == (50, 70)
    assert set(np.unique(label)) <= {3, 7}
    with Image.open(tmp_path / "out" / "disks" / "overlays" / "some.png") as overlay:
        assert overlay.size == (70, 50)

    # The same command again: the run is complete, so nothing is trained and the same table is printed.
    before = Checkpoints(run.checkpoints.folder).steps()
    assert main(words) == 0
    assert Checkpoints(run.checkpoints.folder).steps() == before
    assert len(read_metrics(run.path, "loss/disks")) == 40


def last_state(runs: Path, name: str) -> dict[str, torch.Tensor]:
    state = RunFolder(runs / name).checkpoints.load("last")
    assert state["step"] == 6
    return {f"{kind}/{key}": value for kind in ("model", "optimizer") for key, value in flatten(state[kind]).items()}


def flatten(value: object, key: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {key: value}
    if isinstance(value, dict):
        return {k: v for name, entry in value.items() for k, v in flatten(entry, f"{key}.{name}").items()}
    return {}


def wait_for_steps(run: Path, steps: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the job ended with {process.returncode} before step {steps}")
        if (run / "metrics.jsonl").is_file() and len(read_metrics(run, "lr")) >= steps:
            return
        time.sleep(0.02)
    pytest.fail(f"step {steps} not reached in {seconds} s")


TAUGHT = (
    "data.mix={disks: 2, rest: {dataset: disks, samples: 2, role: unlabelled}}",
    "trainer=classmix",
    "trainer.strong=classmix",
    "trainer.weight=ramp",
    "trainer.align={disks: labels}",
)
"""With a teacher, and all else that such a trainer keeps from step to step."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("changes", "losses"), [((), LOSSES), (TAUGHT, ("loss/disks", "loss/mixed/disks"))], ids=["flat", "with a teacher"]
)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    changes: tuple[str, ...], losses: tuple[str, ...], tiny_job: list[str], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    keys = {word.partition("=")[0] for word in changes}
    job = [*(word for word in tiny_job if word.partition("=")[0] not in keys), *changes]
    assert main([*job, "run.name=whole"]) == 0
    words = [*job, "run.name=killed"]
    process = subprocess.Popen(command(words), cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for_steps(runs / "killed", 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = RunFolder(runs / "killed").checkpoints.steps()
    assert steps
    assert steps[-1] < 6
    again = subprocess.run(command(words), cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    assert f"going on from step {steps[-1]}" in again.stdout
    whole, killed = last_state(runs, "whole"), last_state(runs, "killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
    assert any("teacher" in key for key in whole) == bool(changes)
    for name in (*losses, "samples/disks", "epochs/disks"):
        assert read_metrics(runs / "killed", name) == read_metrics(runs / "whole", name) != []
    shares = [json.loads((runs / name / "shares.json").read_text()) for name in ("whole", "killed")]
    assert shares[0] == shares[1]


def test_shares_tell_what_was_seen(tiny_job: list[str], tmp_path: Path) -> None:
    """Six steps of two crops of 64 x 64 from each of three streams of ten samples."""
    assert main([*tiny_job, "run.name=a"]) == 0
    shares = json.loads((tmp_path / "runs" / "a" / "shares.json").read_text())
    assert shares["step"] == 6
    for name in ("disks", "tones", "boxed"):
        stream = shares["streams"][name]
        assert stream["samples"] == 12
        assert stream["epochs"] == pytest.approx(1.2)
        assert 0 < sum(stream["pixels"].values()) <= 12 * 64 * 64
    assert set(shares["streams"]["boxed"]["pixels"]) == {"red thing", "blue thing"}
    assert read_metrics(tmp_path / "runs" / "a", "samples/disks") == [2, 4, 6, 8, 10, 12]


def test_a_job_with_all_that_the_data_layer_offers(tiny_job: list[str], tmp_path: Path) -> None:
    """Proportional shares, a subset, rare classes, a crop of its own for one stream, jitter and blur for the others."""
    mix = (
        "data.mix={disks: {subset: 1/2, rare_classes: {min_pixels: 10}}, tones: {role: source, crop: {size: [64, 64], scale_of: box, "
        "flip_first: true, pad: mean}, photometric: none}, more: {dataset: tones, subset: 1/2, rest: true}}"
    )
    words = [word for word in tiny_job if not word.startswith("data.mix")]
    words += [mix, "data.quota={name: proportional, batch: 5}", "data.photometric=dacs", "data.window=4"]
    assert main([*words, "run.name=whole"]) == 0
    samples = [read_metrics(tmp_path / "runs" / "whole", f"samples/{name}")[-1] for name in ("disks", "tones", "more")]
    assert sum(samples) == 30
    assert samples == pytest.approx([30 * share / 20 for share in (5, 10, 5)], abs=2)
    assert main([*words, "data.photometric=none", "run.name=plain"]) == 0
    assert read_metrics(tmp_path / "runs" / "plain", "loss/tones") != read_metrics(tmp_path / "runs" / "whole", "loss/tones")


@pytest.mark.timeout(180)
def test_one_and_two_workers_train_alike(tiny_job: list[str], tmp_path: Path) -> None:
    """The same global batches on one worker and on two give the same loss curve up to rounding, BatchNorm included.

    float32 rounding, that is: the gradients of a fresh SwiftNet carry a relative error of about half a percent (permuting the
    samples of one worker's batch already shows it), which every step amplifies some thirty times. In float64, test_distributed.py
    holds the same steps to 1e-7.
    """
    runs = tmp_path / "runs"
    tiny_job += ["optim=sgd", "optim.lr=0.002", "loop.steps=3", "loop.checkpoint_every=1"]
    assert main([*tiny_job, "run.name=one"]) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command([*tiny_job, "run.name=two"], *launcher), cwd=ROOT, check=True, timeout=120, env=environment)
    for name in LOSSES:
        one, two = read_metrics(runs / "one", name), read_metrics(runs / "two", name)
        for first, second, tolerance in zip(one, two, (1e-5, 5e-3, 5e-2), strict=True):
            assert second == pytest.approx(first, rel=tolerance)
    shares = [json.loads((runs / name / "shares.json").read_text()) for name in ("one", "two")]
    assert shares[0] == shares[1]


def test_another_config_under_the_same_name_is_told(tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*tiny_job, "run.name=some", "loop.steps=1"]
    assert main(words) == 0
    assert main([*words, "optim.lr=1.0"]) == 2
    assert "optim.lr: 1.0 found, but" in capsys.readouterr().err
    assert main([*words, "loop.log_every=7", "data.threads=1"]) == 0


def test_data_prepared_anew_is_told(
    make_folder: FolderMaker, tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny_job, "run.name=some", "loop.steps=1", f"data.root={tmp_path}", "data.mix={disks: 2}"]
    for seed in (1, 2):
        folder = make_folder("disks", root=tmp_path / f"source {seed}", seed=seed)
        assert main(["prepare", "dataset=folder", f"source={folder}", f"out={tmp_path}", "workers=1", "overwrite=true"]) == 0
        assert main(words) == (0 if seed == 1 else 2)
    assert "disks: prepared anew since the run was started" in capsys.readouterr().err


def test_a_folder_that_cannot_be_used_is_told(tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main([*tiny_job, "run.name=some", f"run.dir={tmp_path / 'file'}"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'file'}" in error
    assert error.count("\n") == 1


def test_a_run_in_use_is_told(
    tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.run_folder.LOCK_WAIT_SECONDS", 0.0)
    with RunFolder(tmp_path / "runs" / "busy").lock():
        assert main([*tiny_job, "run.name=busy"]) == 2
    assert "in use by another process" in capsys.readouterr().err


@pytest.mark.parametrize("checkpoint_every", [1, 2, 6])
def test_a_loss_that_is_no_number_stops_the_run(
    checkpoint_every: int, tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run.name=wild", "optim=sgd", "optim.lr=1e30", "schedule=constant", "loop.max_skipped_steps=3"]
    words.append(f"loop.checkpoint_every={checkpoint_every}")
    assert main([*tiny_job, *words]) == 1
    assert "lower optim.lr" in capsys.readouterr().err
    state = RunFolder(tmp_path / "runs" / "wild").checkpoints.load_last()
    assert state is None or all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.mix={disks: 3}", "cluster=local"], "data.mix: a global batch of 3 (3 disks) found, which 2 workers do not divide"),
        (["data.mix={}"], "data.mix: empty"),
        (["data.mix={disks: 0}"], "data.mix.disks: 0 samples found"),
        (["data.mix={nothing: 2}"], "nothing: no such folder, expected the shards of split 'train'"),
        (["data.mix={disks: 2}", "data.val_split=test"], "data.val_split=test: no dataset of the mix has it with labels"),
        (["trainer.weights={disc: 1.0}"], "trainer.weights.disc: no such term of the loss"),
        (["data.mix={disks: {samples: 2, role: unlabelled}}"], "data.mix.disks.role: unlabelled found, expected labelled"),
        (["seed=-1"], "seed: -1 found"),
        (["data.mix={disks: 2}", "cluster.wrkers=2"], "cluster.wrkers: unknown key"),
    ],
)
def test_a_job_that_cannot_run_is_one_line_and_leaves_nothing(
    words: list[str], message: str, tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [word for word in tiny_job if word.split("=")[0] not in {new.split("=")[0] for new in words}]
    if "cluster=local" in words:
        kept = [word for word in kept if not word.startswith("cluster.")]
    assert main([*kept, *words, "run.name=bad"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_predict_without_pictures_is_told(tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*tiny_job, "run.name=some", "loop.steps=1"]) == 0
    run = f"run={tmp_path / 'runs' / 'some'}"
    empty = tmp_path / "empty"
    empty.mkdir()
    for words, message in (
        ([f"images={empty}"], "no picture found"),
        (["images=/nowhere"], "no such folder"),
        ([f"images={empty}", "datasets=[cats]"], "datasets: cats is not of this run, expected some of disks, tones, boxed"),
    ):
        assert main(["predict", run, f"out={tmp_path / 'out'}", *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_all_of_a_job_lies_on_one_device(shards: Path, tmp_path: Path) -> None:
    """On the meta device, since tests have no GPU: a table left on the CPU would end a job on a GPU in its first step."""
    words = [f"data.root={shards}", f"run.dir={tmp_path}", "run.name=x", *TINY_JOB]
    job = build(JobConfig, conf.compose("train", words))
    trainer = build_trainer(job, open_data(job).views, torch.device("meta"))
    assert {value.device.type for value in (*trainer.parameters(), *trainer.buffers())} == {"meta"}


UNIVERSE = """
version: 1
leaves: [{name: ground}, {name: red}, {name: blue}]
labels:
  disks: {ground: [ground], red: [red], blue: [blue]}
  tones: {dark: [ground], colourful: [red, blue]}
  boxed: {red thing: [red], blue thing: [blue]}
"""

TREE = """
version: 1
classifiers:
  root: {classes: [ground, thing]}
  things: {of: thing, classes: [red, blue], void: true, weight: 0.5}
labels:
  disks: {ground: ground, red: red, blue: blue}
  tones: {dark: ground, colourful: thing}
  boxed: {red thing: red, blue thing: blue}
"""


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        (["outputs=multihead", "outputs.decoder=repeated"], {"disks", "tones", "boxed"}),
        (["outputs=concat", "outputs.predict=all"], {"disks", "tones", "boxed"}),
        (["outputs=universal", "outputs.universe=FOLDER/universe.yaml"], {"disks", "tones", "boxed"}),
        (["outputs=hierarchy", "outputs.tree=FOLDER/tree.yaml", "outputs.rule=greedy"], {"root", "things"}),
        (["outputs=learned", "optim.lr=0.1"], {"disks", "tones", "boxed"}),
    ],
)
def test_every_output_space_trains_resumes_evaluates_and_predicts(
    tiny_job: list[str], shards: Path, tmp_path: Path, words: list[str], terms: set[str]
) -> None:
    """Of the files of trees and universes a run keeps the content: `evaluate` and `predict` need none."""
    (tmp_path / "universe.yaml").write_text(UNIVERSE)
    (tmp_path / "tree.yaml").write_text(TREE)
    words = [*tiny_job, *(word.replace("FOLDER", str(tmp_path)) for word in words), "run.name=space", "loop.checkpoint_every=2"]
    assert main([*words, "loop.steps=4"]) == 0
    run = RunFolder(tmp_path / "runs" / "space")
    assert {name for name in terms if read_metrics(run.path, f"loss/{name}")} == terms
    before = json.loads(run.evaluation.read_text())
    for path in (run.checkpoints.path(4), run.checkpoints.folder / "best.pt"):
        path.unlink()
    assert main([*words, "loop.steps=4"]) == 0  # from step 2
    assert json.loads(run.evaluation.read_text()) == before
    for name in ("universe.yaml", "tree.yaml"):
        (tmp_path / name).unlink()
    assert main(["evaluate", f"run={run.path}", "overlays=1"]) == 0
    assert json.loads(run.evaluation.read_text()) == {**before, "checkpoint": "best"}
    pictures = write_folder("disks", tmp_path / "pictures", train=1, val=1, seed=3) / "images"
    assert main(["predict", f"run={run.path}", f"images={pictures}", f"out={tmp_path / 'out'}"]) == 0
    assert len(list((tmp_path / "out").rglob("labels/**/*.png"))) == 6


@pytest.mark.timeout(120)
def test_output_spaces_of_files_train_on_two_ranks_as_on_one(tiny_job: list[str], tmp_path: Path) -> None:
    (tmp_path / "universe.yaml").write_text(UNIVERSE)
    (tmp_path / "tree.yaml").write_text(TREE)
    for name, key, terms in (("universal", "universe", ("disks", "tones", "boxed")), ("hierarchy", "tree", ("root", "things"))):
        words = [*tiny_job[1:], f"outputs={name}", f"outputs.{key}={tmp_path / key}.yaml", "loop.steps=2"]
        assert main(["train", *words, f"run.name={name}-one"]) == 0
        folder = tmp_path / f"{name}-ranks"
        folder.mkdir()
        on_ranks(partial(run_job, [*words, f"run.name={name}-two"]), folder)
        one, two = [[read_metrics(tmp_path / "runs" / f"{name}-{ranks}", f"loss/{term}") for term in terms] for ranks in ("one", "two")]
        assert np.array(two)[:, 0] == pytest.approx(np.array(one)[:, 0], rel=1e-5)
        assert np.array(two) == pytest.approx(np.array(one), rel=5e-2)
