"""Searches: what is tried and what is refused before anything starts; and real ones on Ray, killed, failing, stopped early."""

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_training import ROOT, command
from tiny import TINY_JOB

import conf
from data.config import build
from data.errors import InputError
from taxomix import main
from trainers.config import JobConfig
from trainers.run_folder import RunFolder
from tune.config import AnyConfig, HowConfig, LossWeightsConfig, TuneConfig, own_words
from tune.folder import SearchFolder, TrialFolder, TrialRecord, best_first
from tune.importance import importance_of
from tune.job import Base, own_setting
from tune.loss_weights import parameters_of
from tune.pictures import pareto
from tune.search import Search, asked, plan_search
from tune.space import Choice, Numbers, Parameter, grid, parse_range, parse_word

LR = Parameter(name="optim.lr", range=Numbers(low=1e-5, high=1e-2, log=True), paths=(("optim", "lr"),))
OPTIM = Parameter(name="optim", range=Choice(values=("adam", "sgd")), paths=(("optim",),))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("uniform(0.1, 0.9)", Numbers(low=0.1, high=0.9)),
        ("loguniform(1e-5,1e-2)", Numbers(low=1e-5, high=1e-2, log=True)),
        ("int(1, 8)", Numbers(low=1, high=8, whole=True)),
        (" logint( 1 ,1000)", Numbers(low=1, high=1000, whole=True, log=True)),
        ("choice(adam, 3, 0.5, true)", Choice(values=("adam", 3, 0.5, True))),
    ],
)
def test_ranges_are_read(text: str, found: object) -> None:
    assert parse_range(text, "space.some") == found


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("space.optim.lr=loguniform(0, 1)", "space.optim.lr: 0 found as the least of a logarithmic range"),
        ("space.optim.lr=uniform(2, 1)", "space.optim.lr: 2 to 1 found, expected numbers that rise"),
        ("space.optim.lr=uniform(1)", "space.optim.lr: (1) found, expected two numbers"),
        ("space.optim.lr=normal(0, 1)", "space.optim.lr: normal(0, 1) found, expected uniform(0.1, 0.9)"),
        ("space.optim.lr=1e-3", "space.optim.lr: 1e-3 found, expected uniform"),
        ("space.a=int(1, 2.5)", "space.a: (1, 2.5) found, expected whole numbers"),
        ("space.a=choice(x)", "space.a: x found, expected two different values"),
        ("space.a=choice(x, x)", "space.a: x, x found, expected two different values"),
    ],
)
def test_ranges_that_are_none_are_refused(word: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_word(word)
    assert message in str(caught.value)


def some_range(low: float, width: float, whole: bool, log: bool) -> Numbers:
    if whole:
        low, width = float(math.ceil(low)), float(math.ceil(width))
    return Numbers(low=low, high=low + width, whole=whole, log=log)


numbers = st.builds(some_range, st.floats(1e-3, 1e3), st.floats(1e-2, 1e4), st.booleans(), st.booleans())


@given(of=numbers, part=st.floats(0, 1), points=st.integers(1, 9))
def test_all_values_of_a_range_are_in_it_and_rise(of: Numbers, part: float, points: int) -> None:
    assert of.has(of.at(part))
    values = of.points(points)
    assert 1 <= len(values) <= points
    assert list(values) == sorted(set(values))
    if points > 1:
        assert (values[0], values[-1]) == (pytest.approx(of.low), pytest.approx(of.high))


def test_a_grid_has_every_combination_once() -> None:
    settings = list(grid([LR, OPTIM], points=3))
    assert len(settings) == len({tuple(setting.items()) for setting in settings}) == 6
    assert [setting["optim.lr"] for setting in settings[::2]] == pytest.approx([1e-5, math.sqrt(1e-7), 1e-2])


def test_words_go_to_the_search_or_to_the_job() -> None:
    words = ("search=any", "tune.trials=3", "space.optim.lr=uniform(0, 1)", "optim=sgd", "search.factor=2", "+x=1")
    assert own_words(words) == (["search=any", "tune.trials=3", "search.factor=2"], ["space.optim.lr=uniform(0, 1)"], ["optim=sgd", "+x=1"])


@pytest.fixture
def base(shards: Path, tmp_path: Path) -> Base:
    return Base(words=(*TINY_JOB, f"data.root={shards}", f"run.dir={tmp_path / 'runs'}", "run.name=search"))


def test_a_setting_is_in_the_job(base: Base) -> None:
    weights = Parameter(
        name="weights", range=Numbers(low=0, high=1), paths=(("trainer", "weights", "disks"), ("trainer", "weights", "tones"))
    )
    job = base.with_setting([LR, OPTIM, weights], {"optim.lr": 0.002, "optim": "sgd", "weights": 0.25})
    assert (job.optim.lr, job.optim.name) == (0.002, "sgd")
    assert job.trainer.weights == {"disks": 0.25, "tones": 0.25}
    assert job.cluster.workers == 1
    assert Base(words=(*base.words[:-1], "cluster=local", "cluster.workers=3")).job.cluster.workers == 3


def test_the_jobs_own_values_are_the_first_setting(base: Base) -> None:
    weight = Parameter(name="w", range=Numbers(low=0.1, high=10, log=True), paths=(("trainer", "weights", "disks"),))
    too_high = Parameter(name="seed", range=Numbers(low=5, high=9, whole=True), paths=(("seed",),))
    assert own_setting(base, [LR, OPTIM, weight, too_high]) == {"optim.lr": base.job.optim.lr, "optim": "adam", "w": 1.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["space.optim.lrr=uniform(0.1, 1)"], "space.optim.lrr, at 0.1: optim.lrr: unknown key (did you mean lr?)"),
        (["space.optimm.lr=uniform(0.1, 1)"], "space.optimm.lr: unknown key"),
        (["space.optim.lr.x=uniform(0.1, 1)"], "space.optim.lr.x: optim.lr has no keys"),
        (["space.optim=choice(adam, sdg)"], "space.optim, at sdg: optim=sdg: no such choice"),
        (["space.loop.steps=uniform(1, 2.5)"], "space.loop.steps, at 1: loop.steps: 1.0 found, expected a whole number"),
        (["space.trainer.weights.dsks=uniform(0.1, 1)"], "space.trainer.weights.dsks, at 0.1: trainer.weights"),
        (["space.trainer.threshold=uniform(0.1, 1)"], "space.trainer.threshold, at 0.1: trainer.threshold: unknown key"),
        (["space.optim.lr=uniform(0.1, 1)", "space.optim.lr=uniform(0.1, 1)"], "space.optim.lr: given twice"),
        ([], "space: no parameter found"),
        (["space.optim.lr=uniform(0.1, 1)", "tune.metric=miou/cats"], "tune.metric: miou/cats found, expected some of mean_miou"),
        (["space.optim.lr=uniform(0.1, 1)", "tune.trials=0"], "tune.trials: 0 found, expected at least 1"),
        (["space.optim.lr=uniform(0.1, 1)", "tune.trails=3"], "tune.trails: unknown key (did you mean tune.trials?)"),
        (["space.optim.lr=uniform(0.1, 1)", "search=every"], "search=every: no such choice, expected one of any, loss_weights, taxonomy"),
        (["space.optim=choice(adam, sgd)", "tune.scheduler=pbt"], "space.optim: changed by tune.scheduler=pbt as a run goes on"),
        (["space.optim.lr=uniform(0.1, 1)", "loop.stepps=3"], "loop.stepps: unknown key"),
    ],
)
def test_what_cannot_be_searched_is_told_before_a_trial_starts(
    words: list[str], message: str, tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *words, *tiny_job[1:]]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def space_of(include: Sequence[str], *words: str, root: str) -> dict[str, Parameter]:
    job = build(JobConfig, conf.compose("train", [f"data.root={root}", *words]))
    config = build(LossWeightsConfig, {"name": "loss_weights", "include": list(include), "factor": 10})
    return {one.name: one for one in parameters_of(config, job)}


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("streets")
    spaces = "dataset.spaces=[streets_coarse, streets_fine, streets_rendered]"
    assert main(["prepare", "dataset=streets", f"out={root}", "dataset.size=[64, 96]", "dataset.train=2", "dataset.val=1", spaces]) == 0
    return str(root)


def test_loss_weights_of_a_tree_are_its_levels_or_classifiers(streets: str) -> None:
    words = ("data=mine", "data.mix={streets_coarse: 1, streets_fine: 1}", "outputs=hierarchy", "trainer=hierarchical")
    levels = space_of(["auto"], *words, root=streets)
    assert list(levels) == ["weight of level 1"]
    assert {path[-1] for path in levels["weight of level 1"].paths} == {"buildings", "road", "plants", "posts", "rider", "motor_vehicle"}
    each = space_of(["classifiers", "lr"], *words, "trainer.weights={road: 0.5}", root=streets)
    assert each["trainer.weights.road"].range == Numbers(low=0.05, high=5, log=True)
    assert "trainer.weights.scene" not in each
    assert each["optim.lr"].range == Numbers(low=1e-3 / math.sqrt(10), high=1e-3 * math.sqrt(10), log=True)


def test_loss_weights_of_datasets_and_of_mixing(streets: str) -> None:
    words = ("data=mine", "data.mix={streets_coarse: 1, streets_fine: 3}", "outputs=multihead")
    assert list(space_of(["auto", "mixing"], *words, root=streets)) == ["trainer.weights.streets_fine", "data.mix.streets_fine"]
    source, target = "streets_rendered: {samples: 2, role: source}", "streets_coarse: {samples: 2, role: target}"
    mixing = ("data=mine", f"data.mix={{{source}, {target}}}", "outputs=universal", "trainer=dacs")
    found = space_of(["auto", "mixing"], *mixing, root=streets)
    assert {"trainer.consistency", "trainer.threshold", "trainer.teacher.decay", "data.mix.streets_coarse"} <= set(found)
    assert found["data.mix.streets_coarse"].paths == (("data", "mix", "streets_coarse", "samples"),)
    for include in ("levels", "consistency"):
        with pytest.raises(InputError, match=f"search.include: {include} found with"):
            space_of([include], *words, root=streets)


def record(number: int, goal: float | None, state: Any = "complete", **setting: Any) -> TrialRecord:
    reports = () if goal is None else ({"step": 10.0, "goal": goal},)
    return TrialRecord(id=str(number), number=number, setting=setting, state=state, reports=reports, about={})


def test_the_best_is_the_best_of_those_that_went_to_the_end() -> None:
    records = [record(1, 0.3), record(2, 0.5, "stopped"), record(3, 0.4), record(4, 0.9, "failed"), record(5, None, "running")]
    assert [one.number for one in best_first(records)] == [3, 1]
    assert [one.number for one in best_first(records[1:2])] == [2]
    assert best_first(records[3:]) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_pareto_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto(np.array(points, float))
    for place, point in enumerate(points):
        beaten = any(all(a >= b for a, b in zip(other, point, strict=True)) and other != point for other in points)
        assert front[place] == (not beaten)


def test_importance_finds_what_decides() -> None:
    generator = np.random.default_rng(0)
    noise = Parameter(name="noise", range=Numbers(low=0, high=1), paths=(("noise",),))
    settings = [{"optim.lr": float(LR.range.at(part)), "noise": float(generator.uniform())} for part in generator.uniform(size=60).tolist()]
    points = [(setting, -abs(math.log(setting["optim.lr"] / 1e-3))) for setting in settings]
    found = importance_of(points, [LR, noise])
    assert found["optim.lr"] > 0.7
    assert sum(found.values()) == pytest.approx(1)
    assert importance_of(points[:5], [LR, noise]) == {}


def test_reports_of_a_trial_are_those_of_what_its_checkpoint_holds(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "trial")
    folder.begin(1, {"a": 1})
    folder.begin(2, {"a": 2})  # it goes on: nothing changes
    for step in (10, 20, 20, 30):
        folder.note({"step": step, "goal": step / 100})
    with folder.reports.open("a") as file:
        file.write('{"step": 40, "go')  # killed as it wrote
    folder.drop_reports_after(20)
    found = folder.record()
    assert found is not None
    assert (found.number, found.setting, found.state) == (1, {"a": 1}, "running")
    assert [report["step"] for report in found.reports] == [10, 20]
    folder.end("stopped")
    folder.end("complete")
    again = folder.record()
    assert again is not None
    assert (again.state, again.value("goal")) == ("stopped", 0.2)


def test_another_search_does_not_go_on_in_the_folder_of_one(base: Base) -> None:
    def search(*words: str, **how: Any) -> Search:
        config = TuneConfig(search=AnyConfig(name="any"), tune=HowConfig(**how))
        return plan_search(config, ["space.optim.lr=uniform(0.1, 1)"], (*base.words, *words))

    first = search(trials=3)
    first.folder.start(asked(first))
    same = search("cluster.threads_per_worker=2", trials=3, keep=2, concurrent=1)
    same.folder.start(asked(same))
    for other, key in ((search(trials=4), "tune.trials"), (search("optim=sgd", trials=3), "job")):
        with pytest.raises(InputError, match=f"^{key}: "):
            other.folder.start(asked(other))


def words_of(tiny_job: list[str], *more: str) -> list[str]:
    own = [word for word in tiny_job[1:] if not word.startswith(("loop.overlays", "data.mix"))]
    return ["tune", *own, "data.mix={disks: 2, tones: 2}", "optim=sgd", "schedule=constant", "tune.seed=1", *more]


def run_command(words: list[str], seconds: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(command(words), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.mark.timeout(200)
def test_a_killed_search_goes_on_and_its_best_trains_as_it_is(tiny_job: list[str], tmp_path: Path) -> None:
    words = words_of(tiny_job, "search=any", "space.optim.lr=loguniform(1e-3, 1e2)", "tune.trials=4", "tune.concurrent=1", "tune.seeds=1")
    words += [
        "loop.steps=8",
        "loop.evaluate_every=2",
        "loop.checkpoint_every=1",
        "loop.max_skipped_steps=1",
        "run.name=search",
        "tune.test_split=val",
    ]
    folder = SearchFolder(tmp_path / "runs" / "search")
    with subprocess.Popen(
        command(words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 90
        while not any(one.reports for one in folder.records(folder.trials)[1:]):  # the second has begun
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    before = folder.records(folder.trials)
    done = run_command(words, 120)
    assert done.returncode == 0, done.stderr
    after = folder.records(folder.trials)
    assert len(after) == 4
    assert [one.id for one in after[: len(before)]] == [one.id for one in before]
    assert after[0].reports == before[0].reports  # it had ended, and was not trained again
    assert all(one.state in ("complete", "stopped", "failed") for one in after)
    assert [report["step"] for report in after[1].reports] == sorted({report["step"] for report in after[1].reports})
    failed = [one for one in after if one.state == "failed"]
    assert all("not finite" in (one.error or "") for one in failed)
    best = best_first(after)[0]
    kept = [one.id for one in after if (folder.trials / one.id / "checkpoints").is_dir()]
    assert kept == [best.id]
    report = json.loads(folder.results.read_text())
    assert report["best"]["setting"] == best.setting
    assert {entry["title"] for entry in report["finalists"]} <= {"best", "own"}
    assert report["finalists"][0]["scores"]["test"]["miou/disks"] == report["finalists"][0]["scores"]["val"]["miou/disks"]
    for picture in ("history.png", "parameters.png"):
        assert (folder.path / picture).is_file()
    job = build(JobConfig, yaml.safe_load(folder.best.read_text()))
    assert job.optim.lr == best.setting["optim.lr"]
    assert main(["train", f"config={folder.best}", "run.name=again", "loop.steps=1", "cluster=none"]) == 0
    assert RunFolder(tmp_path / "runs" / "again").checkpoints.steps() == [1]


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_trials_of_two_workers_are_stopped_with_their_workers(tiny_job: list[str], tmp_path: Path) -> None:
    words = [word for word in words_of(tiny_job, "search=any", "space.optim.lr=loguniform(1e-8, 1e-1)") if not word.startswith("cluster")]
    words += [
        "cluster=local",
        "cluster.workers=2",
        "tune.trials=3",
        "tune.seeds=0",
        "run.name=nested",
        "loop.steps=400",
        "loop.evaluate_every=100",
    ]
    done = run_command([*words, "tune.grace=100", "tune.factor=2"], 280)
    assert done.returncode == 0, done.stderr
    folder = SearchFolder(tmp_path / "runs" / "nested")
    records = folder.records(folder.trials)
    assert [one.state for one in records].count("stopped") >= 1
    for one in records:
        goodput = json.loads((folder.trials / one.id / "goodput.json").read_text())
        steps = 400 if one.state == "complete" else 399
        assert one.last is not None
        assert one.last["step"] <= steps
        assert goodput["sessions"]
    assert subprocess.run(["pgrep", "-f", "ray::RayTrainWorker"], capture_output=True, check=False).returncode == 1


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_pbt_hands_on_the_state_of_better_trials(tiny_job: list[str], tmp_path: Path) -> None:
    words = words_of(
        tiny_job, "search=any", "space.optim.lr=loguniform(1e-6, 1e-1)", "tune.scheduler=pbt", "tune.trials=4", "tune.grace=10"
    )
    done = run_command([*words, "loop.steps=60", "loop.evaluate_every=10", "loop.checkpoint_every=10", "run.name=pbt"], 280)
    assert done.returncode == 0, done.stderr
    folder = SearchFolder(tmp_path / "runs" / "pbt")
    records = folder.records(folder.trials)
    assert [one.state for one in records] == ["complete"] * 4
    changes = [(folder.trials / one.id / "settings.jsonl").read_text().splitlines() for one in records]
    assert any(len({json.loads(line)["optim.lr"] for line in lines}) > 1 for lines in changes)
    lowest = min(one.value("goal") or 0.0 for one in records)
    assert lowest > 0.1  # rates of 1e-6 alone would learn nothing
