"""One trial: a training with a setting, on a worker of Ray Tune, which it tells of each evaluation. It goes on from its own checkpoints."""

import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import hparams, scalar

from cluster.launch import fit
from trainers.config import JobConfig, RunConfig
from trainers.goodput import read_sessions
from trainers.loop import train
from trainers.ranks import Ranks
from tune.folder import TrialFolder
from tune.job import Base
from tune.space import Parameter, Setting, Value


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """What all trials of a search have in common."""

    base: Base
    parameters: tuple[Parameter, ...]
    folder: Path
    """Where the folders of trials lie."""
    metrics: tuple[str, ...]
    gpus: float
    takes_over: bool = False
    """Whether Tune may give a trial the checkpoint of another (pbt), and so is given checkpoints."""

    def job(self, trial: str, setting: Setting, seed: int | None, words: Sequence[str] = ()) -> JobConfig:
        base = replace(self.base, words=(*self.base.words, *words))
        job = base.with_setting(self.parameters, setting)
        return replace(job, run=RunConfig(dir=self.folder, name=trial), seed=job.seed if seed is None else seed)

    def goal(self, scores: Mapping[str, float]) -> float:
        """What is to be high: the mean of the metrics, 0..1."""
        return sum(scores[name] for name in self.metrics) / len(self.metrics)


def setting_of(parameters: Sequence[Parameter], config: Mapping[str, Any]) -> dict[str, Value]:
    """The setting of Tune's config: its names may hold what Tune takes for something else."""
    return {parameter.name: config[f"p{number}"] for number, parameter in enumerate(parameters) if f"p{number}" in config}


def run_trial(config: Mapping[str, Any], *, plan: TrialPlan) -> None:
    """What Tune calls. An error of the training is noted and reported as the worst that there is, so that the search goes on; that of
    a process which dies is Tune's to deal with."""
    from ray import tune as ray_tune

    os.chdir(plan.base.folder)  # paths of the words are relative to where the command was given
    trial = ray_tune.get_context().get_trial_id()
    assert trial is not None
    finalist = config.get("finalist", {})
    setting = finalist.get("setting") or setting_of(plan.parameters, config)
    folder = TrialFolder(plan.folder / trial)
    about = {key: finalist[key] for key in ("title", "seed") if key in finalist}
    folder.begin(_number(plan.folder, trial), setting, **about)
    _log_setting(folder, setting, plan.metrics)
    if folder.ended.is_file():  # Tune was killed before it noted that
        _replay(folder, ray_tune.report)
        return
    try:
        job = plan.job(trial, setting, finalist.get("seed"), finalist.get("words", ()))
        _train(job, plan, folder, setting)
        folder.end("complete")
    except Exception as error:
        folder.end("failed", f"{type(error).__name__}: {error}")
        with folder.log.open("a") as log:
            traceback.print_exc(file=log)
        last = folder.read_reports()[-1:] or [{"step": 0.0}]
        ray_tune.report({"step": last[0]["step"] + 1, "goal": 0.0, **dict.fromkeys(plan.metrics, 0.0), "failed": 1.0})


def _log_setting(folder: TrialFolder, setting: Setting, metrics: Sequence[str]) -> None:
    """What TensorBoard's panel of hyperparameters shows of the trial, beside the scalars of its run."""
    goals = dict.fromkeys(["goal", *(name for name in metrics if name.startswith("miou/"))])
    with closing(FileWriter(str(folder.run.tensorboard), filename_suffix=".setting")) as writer:
        for summary in hparams(dict(setting), goals):
            writer.add_summary(summary)


def _number(folder: Path, trial: str) -> int:
    """In the order of begin: how many other trials have begun, and one."""
    there = [path.name for path in folder.glob("*/trial.json")] if folder.is_dir() else []
    return len(there) + 1 - any(path == trial for path in there)


def _train(job: JobConfig, plan: TrialPlan, folder: TrialFolder, setting: Setting) -> None:
    from ray import tune as ray_tune

    if plan.takes_over:
        _take_over(folder, ray_tune.get_checkpoint(), setting)
    folder.run.start(job)
    state = folder.run.checkpoints.steps()
    folder.drop_reports_after(state[-1] if state else 0)
    reporter = Reporter(plan=plan, folder=folder.path, seconds=_seconds_before(folder))
    if not plan.takes_over:  # else Tune has them, with the checkpoint
        _replay(folder, ray_tune.report)
    if job.cluster.workers > 1:
        fit(job, plan.gpus, callbacks=[_nested_callback(reporter)])
        return
    if job.cluster.threads_per_worker:
        torch.set_num_threads(job.cluster.threads_per_worker)
    device = torch.device("cuda" if plan.gpus and torch.cuda.is_available() else "cpu")

    def report(scores: dict[str, float]) -> None:
        told = reporter.note(scores)
        if plan.takes_over:
            # What pbt counts the steps between changes by: at the end of the run there is nothing to change any more.
            told["turn"] = told["step"] if told["step"] < job.loop.steps else 0.0
            with tempfile.TemporaryDirectory(dir=folder.path) as copy:
                newest = folder.run.checkpoints.path(folder.run.checkpoints.steps()[-1])
                shutil.copyfile(newest, Path(copy) / newest.name)
                ray_tune.report(told, checkpoint=ray_tune.Checkpoint.from_directory(copy))
        else:
            ray_tune.report(told)

    with folder.log.open("a", buffering=1) as log, redirect_stdout(log):
        train(job, Ranks(device=device), report=report)


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Notes what a training reports in the trial's folder, and makes what Tune is told of it."""

    plan: TrialPlan
    folder: Path
    seconds: float
    """Of the trial before this process."""
    begin: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "begin", time.time())

    def note(self, scores: Mapping[str, float]) -> dict[str, float]:
        goal = self.plan.goal(scores)
        if goal != goal:
            raise FloatingPointError(
                f"step {scores['step']:g}: {', '.join(self.plan.metrics)} is no number, expected a score; look at the data"
            )
        told = {**scores, "goal": goal, "seconds": self.seconds + time.time() - self.begin}
        folder = TrialFolder(self.folder)
        folder.note(told)
        with closing(FileWriter(str(folder.run.tensorboard), filename_suffix=".trial")) as writer:
            writer.add_summary(scalar("goal", goal), int(scores["step"]))
        return told


def _nested_callback(reporter: Reporter) -> Any:
    """Ray Train's callback that tells Tune of what its workers report. Made late: it exists in a trial only."""
    from ray.tune.integration.ray_train import TuneReportCallback

    class Nested(TuneReportCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            super().after_report(run_context, [reporter.note(metrics[0])], None)

    return Nested()  # type: ignore[no-untyped-call]


def _replay(folder: TrialFolder, report: Callable[[dict[str, float]], None]) -> None:
    """Tell Tune again of what it may have missed: it saves its own state now and then, a trial each evaluation."""
    for entry in folder.read_reports():
        report(entry)


def _seconds_before(folder: TrialFolder) -> float:
    reports = folder.read_reports()
    return reports[-1]["seconds"] if reports else 0.0


def _take_over(folder: TrialFolder, checkpoint: Any, setting: Setting) -> None:
    """Put the checkpoint that Tune gives, this trial's own or another's, in the place of what is there."""
    folder.run.config.unlink(missing_ok=True)
    folder.change(setting)
    if checkpoint is None:
        return
    with checkpoint.as_directory() as given:
        for old in folder.run.checkpoints.steps():
            folder.run.checkpoints.path(old).unlink()
        (newest,) = Path(given).glob("step-*.pt")
        folder.run.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(newest, folder.run.checkpoints.folder / newest.name)
    with (folder.path / "settings.jsonl").open("a") as file:
        file.write(json.dumps({"after": newest.name, **setting}) + "\n")


def seconds_of(folder: TrialFolder) -> dict[str, float]:
    """What the sessions of a trial's run spent their time with."""
    sessions = read_sessions(folder.run.goodput)
    names = ("training", "data", "evaluating", "checkpointing", "starting")
    return {name: sum(getattr(session, name) for session in sessions) for name in names}
