"""Models asked about each other's images by tasks: in whatever order, on Ray, each image read once for all heads of a run."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_training import ROOT
from tiny import write_folder

import conf
from cluster.tasks import num_at_a_time
from data.config import build
from data.errors import InputError
from data.progress import Advance
from data.shards import ShardSplit
from data.tasks import Task, run_counted
from taxomix import main
from trainers.evaluation import cross, samples
from trainers.evaluation.cross import Entries, collect
from trainers.evaluation.readings import cross_reading
from trainers.evaluation.results import pair_content
from trainers.evaluation.tally import Task as Counting
from trainers.evaluation.tally import count_readings
from trainers.finished import RunChoice
from trainers.ranks import Ranks
from trainers.taxonomy import FindConfig, find

NUM_IMAGES = 4
"""Of each val split."""


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of dots, and of disks and tones together three: concat, multihead, and `apart`, which sees the two at other sizes."""
    folder = tmp_path_factory.mktemp("runs")
    dots = write_folder("disks", folder / "source", train=4, val=NUM_IMAGES, seed=9)
    meta = yaml.safe_load((dots / "meta.yaml").read_text())
    (dots / "meta.yaml").write_text(yaml.safe_dump({**meta, "name": "dots"}))
    assert main(["prepare", "dataset=folder", f"source={dots}", f"out={folder / 'shards'}", "workers=1"]) == 0
    words = ["train", "data=mine", "data.crop.size=[64, 64]", "loop.steps=2", "loop.overlays=0", "cluster=none", "model=edanet"]
    both, large = "data.mix={disks: 1, tones: 1}", "{size: [64, 64], resize: {size: [96, 128]}}"
    jobs = {
        "dots": [f"data.root={folder / 'shards'}", "data.mix={dots: 1}"],
        "concat": [f"data.root={shards}", both, "outputs=concat"],
        "multihead": [f"data.root={shards}", both],
        "apart": [f"data.root={shards}", f"data.mix={{disks: 1, tones: {{samples: 1, crop: {large}}}}}"],
    }
    for name, more in jobs.items():
        assert main([*words, *more, f"run.dir={folder}", f"run.name={name}"]) == 0
    return folder


def config_of(*words: str) -> FindConfig:
    return build(FindConfig, conf.compose("taxonomy", list(words)))


@pytest.mark.parametrize(("name", "num_reads"), [("concat", 1), ("multihead", 1), ("apart", 2)])
def test_an_image_is_read_once_for_all_heads_that_see_it_alike(
    name: str, num_reads: int, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the counts are those of each head by itself."""
    read: list[str] = []
    plain = samples.read_whole

    def counted(split: ShardSplit, number: int, **more: Any) -> Any:
        read.append(split.location)
        return plain(split, number, **more)

    monkeypatch.setattr(samples, "read_whole", counted)
    content, _ = collect(config_of(f"runs=[{runs / name}, {runs / 'dots'}]", f"out={tmp_path}"))
    assert sum(location.endswith("dots") for location in read) == NUM_IMAGES * (num_reads + 1)  # and once for the run of dots itself
    pairs = [(pair["predictions_of"], pair["labels_of"]) for pair in content["pairs"]]
    names = ("disks", "tones", "dots")
    assert pairs == [(head, images) for run in (("disks", "tones"), ("dots",)) for images in names for head in run]
    model, job, _ = RunChoice(run=runs / name).open()
    split = ShardSplit(runs / "shards" / "dots", "val")
    for head in ("disks", "tones"):
        reading = cross_reading(model.outputs, head, split.label_space.view(None))
        alone = count_readings(model, Counting(split=split, readings={head: reading}, crop=job.data.crops[head]), Ranks(), what="")
        assert content["pairs"][pairs.index((head, "dots"))] == pair_content("dots", reading, alone[head])


def backwards(tasks: Sequence[Task[Entries]], advance: Advance) -> Generator[tuple[int, Entries], None, None]:
    """RunTasks that does the last one first, each as another process gets it and in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for number, task in reversed(list(enumerate(tasks))):
            here = Path.cwd()
            os.chdir(folder)
            try:
                yield number, pickle.loads(pickle.dumps(run_counted(pickle.loads(pickle.dumps(task)), advance)))
            finally:
                os.chdir(here)


def test_tasks_in_another_order_and_place_give_the_same_bytes(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    words = ["runs=[concat, dots]", "rules={share: 0.0}"]
    find(config_of(*words, f"out={tmp_path / 'one'}"))
    find(config_of(*words, f"out={tmp_path / 'two'}", "ray=local"), backwards)
    for name in ("confusions.json", "taxonomy.yaml", "universe.yaml"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_bad_input_is_found_before_anything_is_asked(runs: Path, tmp_path: Path) -> None:
    def never(tasks: Sequence[Task[Entries]], advance: Advance) -> Generator[tuple[int, Entries], None, None]:
        pytest.fail(f"{len(tasks)} tasks were begun")
        yield

    for words, message in {
        f"runs=[{runs / 'dots'}, {runs / 'nowhere'}]": "no such folder",
        f"runs=[{runs / 'concat'}, {runs / 'multihead'}]": "disks found in",
    }.items():
        with pytest.raises(InputError, match=message):
            find(config_of(words, f"out={tmp_path / 'out'}", "ray=local"), never)
    assert not (tmp_path / "out").exists()


def test_a_run_that_a_task_cannot_open_is_told_as_one_that_cannot_be_opened_at_all(runs: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(runs / "multihead", gone)

    def late(tasks: Sequence[Task[Entries]], advance: Advance) -> Generator[tuple[int, Entries], None, None]:
        shutil.rmtree(gone)
        yield from backwards(tasks, advance)

    with pytest.raises(InputError, match=f"runs: {gone}: run={gone}: no such folder"):
        find(config_of(f"runs=[{gone}, {runs / 'dots'}]", f"out={tmp_path / 'out'}", "ray=local"), late)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["workers=2"], "workers: 2 found without ray=, expected both; give ray=local, or remove workers="),
        (["cpus_per_worker=2"], "cpus_per_worker: 2 found without ray="),
        (["ray=local", "workers=0"], "workers: 0 found, expected at least 1"),
        (["ray=local", "gpus_per_worker=2"], "gpus_per_worker: 2.0 found, expected 0..1"),
    ],
)
def test_keys_of_ray_that_cannot_work_are_told(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        config_of(f"runs=[{tmp_path}]", f"out={tmp_path / 'out'}", *words)


@pytest.mark.parametrize(
    ("there", "cpus", "gpus", "expected"),
    [
        ({"CPU": 8.0}, 1, 0, 8),
        ({"CPU": 8.0}, 3, 0, 2),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 1, 2),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 0.5, 4),
        ({"CPU": 2.0, "GPU": 2.0}, 1, 0.5, 2),
        ({"CPU": 8.0}, 1, 1, 0),
    ],
)
def test_as_many_tasks_are_handed_over_as_have_room(there: dict[str, float], cpus: float, gpus: float, expected: int) -> None:
    assert num_at_a_time(there, {"CPU": cpus, "GPU": gpus}) == expected


@pytest.mark.timeout(240)
def test_on_a_ray_of_its_own_a_process_dies_and_the_bytes_are_those_of_one_process(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Ray is closed to others, a task has the threads of its CPUs and sees no GPU, and what it warns of is heard."""
    monkeypatch.setattr(cross, "default_device", lambda: torch.device("cpu"))
    words = ["taxonomy", f"runs=[{runs / 'concat'}, {runs / 'dots'}]", "rules={share: 0.0}"]
    assert main([*words, f"out={tmp_path / 'one'}"]) == 0
    on_ray = [*words, f"out={tmp_path / 'ray'}", "ray=local", "workers=2", "gpus_per_worker=0"]
    code = f"""
import json, logging, os, signal, sys, taxomix, torch, trainers.evaluation.cross
from pathlib import Path
class Deadly(trainers.evaluation.cross.Question):
    def run(self, advance):
        mark = Path({str(tmp_path / "killed")!r})
        if self.name == "dots" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        found = super().run(advance)
        logging.getLogger("asking").warning("asked about 100 %% of %s", self.name)
        names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "CUDA_VISIBLE_DEVICES")
        seen = {{"threads": torch.get_num_threads(), "code": taxomix.__file__, **{{name: os.environ.get(name) for name in names}}}}
        (mark.parent / "seen.json").write_text(json.dumps(seen))
        return found
trainers.evaluation.cross.Question = Deadly
sys.exit(taxomix.main({on_ray!r}))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # Unix sockets allow 107 characters
        environment |= {"RAY_TMPDIR": folder, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    assert (tmp_path / "ray" / "confusions.json").read_bytes() == (tmp_path / "one" / "confusions.json").read_bytes()
    for name in ("disks", "tones", "dots"):
        assert f"WARNING: asked about 100 % of {name}" in done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    token = seen.pop("RAY_AUTH_TOKEN")
    assert len(token) == 64
    assert seen == {"threads": 1, "code": str(ROOT / "taxomix.py"), "RAY_AUTH_MODE": "token", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.timeout(60)
def test_an_address_where_nothing_listens_is_told_at_once(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["taxonomy", f"runs=[{runs / 'concat'}, {runs / 'dots'}]", f"out={tmp_path / 'out'}", "ray=127.0.0.1:1"]
    assert main(words) == 2
    assert "ray=127.0.0.1:1: no running Ray cluster found (nothing listens at 127.0.0.1:1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
