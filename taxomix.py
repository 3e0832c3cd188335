"""The command `taxomix`: a thin table of subcommands. Each takes Hydra's key=value words.

Exit codes: 0 done, 1 a run failed or `inspect` found an error, 2 the input has to be mended (one line on stderr says how).
"""

import errno
import logging
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import conf
from data.config import build
from data.errors import FailedError, InputError

if TYPE_CHECKING:
    from trainers.config import JobConfig

# Each subcommand imports what it needs when it runs: `--help` and `prepare` wait for no torch.


def prepare(overrides: Sequence[str]) -> None:
    """turn a dataset into shards"""
    from cluster.tasks import run_on_ray
    from data.prepare import PrepareConfig
    from data.prepare import prepare as run_prepare

    config = build(PrepareConfig, conf.compose("prepare", overrides))
    run_tasks = None if config.ray is None else partial(run_on_ray, address=config.ray, workers=config.workers)
    for folder, manifest, was_there in run_prepare(config, run_tasks):
        state = (
            "already there"
            if was_there
            else f"{sum(shard.bytes for shard in manifest.shards) / 1e6:.1f} MB in {len(manifest.shards)} shards"
        )
        print(f"{folder} {manifest.split}: {manifest.num_samples} samples, {len(manifest.label_space.classes)} classes, {state}")


def plan(overrides: Sequence[str]) -> None:
    """tell what a job would do: mix, epochs, shards, what cannot work"""
    from rich.console import Console

    from trainers.plan import make_plan, print_plan

    planned = make_plan(_job(overrides))
    print_plan(planned, Console(width=None if sys.stdout.isatty() else 160))
    if planned.problems:
        raise InputError(f"this job cannot work: {planned.problems[0]}")


def inspect(overrides: Sequence[str]) -> int:
    """find what is wrong with a dataset before training"""
    from rich.console import Console

    from data.inspect.opening import InspectConfig
    from data.inspect.report import print_report
    from data.inspect.run import run_inspect

    config = build(InspectConfig, conf.compose("inspect", overrides))
    errors = 0
    for content in run_inspect(config):
        print_report(content, Console())
        print(f"written to {config.out / content['dataset']}\n")
        errors += content["counts"]["error"]
    return 1 if errors else 0


def train(overrides: Sequence[str]) -> None:
    """train a job, and go on where it stopped"""
    from cluster.launch import launch

    folder = launch(_job(overrides))
    if folder is None:
        return
    _print_evaluation(folder.evaluation)
    print(f"checkpoints  {folder.checkpoints.folder}")
    print(f"TensorBoard  tensorboard --logdir {folder.tensorboard}")
    print(f"overlays     {folder.overlays}")


def evaluate(overrides: Sequence[str]) -> None:
    """evaluate a run on its datasets, or on others"""
    from trainers.evaluation.command import EvaluateConfig, evaluate_run

    path = evaluate_run(build(EvaluateConfig, conf.compose("evaluate", overrides)))
    if path is not None:
        _print_evaluation(path)
        print(f"written to {path}")


def predict(overrides: Sequence[str]) -> None:
    """label a folder of pictures"""
    from trainers.predict import PredictConfig, predict_run

    config = build(PredictConfig, conf.compose("predict", overrides))
    print(f"{predict_run(config)} pictures labelled in {config.out}")


def taxonomy(overrides: Sequence[str]) -> None:
    """find how the labels of datasets are related"""
    from rich.console import Console

    from cluster.tasks import run_on_ray
    from trainers.taxonomy import FindConfig, find, print_effects, print_taxonomy

    config = build(FindConfig, conf.compose("taxonomy", overrides))
    run_tasks = None
    if config.ray is not None:
        run_tasks = partial(
            run_on_ray,
            address=config.ray,
            workers=config.workers,
            cpus_per_worker=config.cpus_per_worker,
            gpus_per_worker=config.gpus_per_worker,
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    print_taxonomy(find(config, run_tasks), console)
    if config.test is not None:
        print_effects(config.out / "effects.json", console)
    print(f"written to {config.out}")


def tune(overrides: Sequence[str]) -> None:
    """search for the best values of a job's keys"""
    from rich.console import Console
    from rich.markdown import Markdown

    from cluster.tasks import run_on_ray
    from data.tasks import run_locally
    from tune.config import TaxonomySearchConfig, TuneConfig, own_words
    from tune.report import report_search
    from tune.search import asked, plan_search, run_search
    from tune.taxonomies import run_taxonomy_search

    words, space, job_words = own_words(tuple(overrides))
    config = build(TuneConfig, conf.compose("tune", words))
    if isinstance(config.search, TaxonomySearchConfig):
        job = _job(job_words)
        folder = job.run.folder
        on_ray = partial(run_on_ray, address=job.cluster.address or "auto", workers=config.tune.concurrent)
        run_taxonomy_search(config, space, job_words, folder, on_ray if job.cluster.name == "ray" else run_locally)
    else:
        search = plan_search(config, space, job_words)
        folder = search.folder.path
        with search.folder.lock():
            search.folder.start(asked(search))
            run_search(search)
            report_search(search)
    text = [line for line in (folder / "report.md").read_text().splitlines() if not line.startswith("![")]
    Console(width=None if sys.stdout.isatty() else 160).print(Markdown("\n".join(text).rstrip()))
    print(f"written to {folder}")
    print(f"TensorBoard  tensorboard --logdir {folder}")


def export(overrides: Sequence[str]) -> None:
    """write a run's model as one file for other runtimes"""
    from trainers.export import ExportConfig, export_run

    config = build(ExportConfig, conf.compose("export", overrides))
    print(f"exporting to {config.format} and comparing with the model; this takes a minute or two", flush=True)
    done = export_run(config)
    found = done.agreement
    print(f"{done.path}: {done.bytes / 1e6:.1f} MB")
    print(f"compared on {found.images} images of {', '.join(found.sizes)}")
    beyond = f", more at {100 * found.beyond:.3g} % of pixels, as by rounding alone" if found.beyond else ""
    print(f"  logits differ by at most {found.largest_difference:.1e} of the largest{beyond}")
    print(f"  labels are equal at {100 * found.equal_labels:.5g} % of pixels, to those of predict at {100 * done.equal_to_predict:.5g} %")
    runtime = "ONNX Runtime" if config.format == "onnx" else "TorchScript"
    times = f"{done.milliseconds:.0f} ms in {runtime}, {done.torch_milliseconds:.0f} ms in torch, on this CPU"
    print(f"  an image of {found.sizes[0]} takes {times}")


def _job(overrides: Sequence[str]) -> "JobConfig":
    from trainers.config import JobConfig

    try:
        return build(JobConfig, conf.compose("train", overrides))
    except InputError as error:
        raise InputError(f"{error}{conf.recipe_hint(str(error), overrides)}") from None


def _print_evaluation(path: Path) -> None:
    import json

    from rich.console import Console

    from trainers.evaluation import print_evaluation

    print_evaluation(json.loads(path.read_text()), Console(width=None if sys.stdout.isatty() else 160))


# A subcommand that has done its work and yet has to answer with another code than 0 gives it back.
SUBCOMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "prepare": prepare,
    "inspect": inspect,
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "taxonomy": taxonomy,
    "tune": tune,
    "export": export,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if not words or words[0] in ("--help", "-h"):
        print(_usage())
        return 0 if words else 2
    name, overrides = words[0], words[1:]
    if name not in SUBCOMMANDS:
        print(f"taxomix: {name}: no such subcommand, expected one of {', '.join(SUBCOMMANDS)}", file=sys.stderr)
        return 2
    if {"--help", "-h"} & set(overrides):
        print(f"taxomix {name} [key=value ...]: {SUBCOMMANDS[name].__doc__}\n\n{conf.describe('train' if name == 'plan' else name)}")
        return 0
    try:
        return SUBCOMMANDS[name](overrides) or 0
    except InputError as error:
        print(f"taxomix {name}: {error}", file=sys.stderr)
        return 2
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        print(f"taxomix {name}: {error.filename}: {error.strerror}; give a path that can be used as asked", file=sys.stderr)
        return 2
    except (FailedError, FloatingPointError) as error:  # which says all that there is to say
        print(f"taxomix {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"taxomix {name}: stopped; the same command goes on", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"taxomix {name}: {_full(error)}; make room, the same command goes on", file=sys.stderr)
            return 1
        traceback.print_exc()
        print(f"taxomix {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _full(error: OSError) -> str:
    if error.filename is None:
        return f"{error.strerror}"
    path = Path(error.filename).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return f"{path}: {error.strerror}, {shutil.disk_usage(there).free / 1e6:.0f} MB free"


def _usage() -> str:
    lines = [f"  taxomix {name:10}{function.__doc__}" for name, function in SUBCOMMANDS.items()]
    return "\n".join(["One segmentation model from many datasets.", "", *lines, "", "taxomix SUBCOMMAND --help lists its keys."])


if __name__ == "__main__":
    sys.exit(main())
