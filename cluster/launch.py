"""Launching a training job where its config says, and waiting for its end."""

import json
import logging
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from cluster.session import LOCAL, session, set_environment
from data.errors import InputError
from data.files import write_text
from trainers.config import ClusterConfig, JobConfig
from trainers.job import check_job
from trainers.loop import train
from trainers.ranks import Ranks, ranks_from_environment
from trainers.run_folder import RunFolder


class RunError(RuntimeError):
    """A job's workers failed; the text is the first worker's error."""


def launch(job: JobConfig) -> RunFolder | None:
    """Check `job`, train it to its end and return its folder; None on all of torchrun's processes but the first.

    Raises InputError for what the user has to mend, before anything is started or written, and RunError when the workers
    failed for good.
    """
    folder = RunFolder(job.run.folder)
    if job.cluster.name == "none":
        return folder if _launch_here(job, folder).is_main else None
    check_job(job)
    with folder.lock():
        _launch_on_ray(job, folder)
    return folder


def _launch_here(job: JobConfig, folder: RunFolder) -> Ranks:
    """Train in this process, or as one of the processes that torchrun started."""
    check_job(job)
    _set_threads(job.cluster)
    ranks = ranks_from_environment()
    try:
        with folder.lock() if ranks.is_main else nullcontext():
            if ranks.is_main:
                folder.start(job)
            ranks.barrier()
            train(job, ranks)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return ranks


def _set_threads(cluster: ClusterConfig) -> None:
    if cluster.threads_per_worker:
        torch.set_num_threads(cluster.threads_per_worker)


def _launch_on_ray(job: JobConfig, folder: RunFolder) -> None:
    set_environment(_address(job.cluster))
    with _session(job.cluster):
        gpus = worker_gpus(job.cluster)
        folder.start(job)
        fit(job, gpus)


def fit(job: JobConfig, gpus: float, callbacks: Sequence[Any] = ()) -> None:
    """Train `job` with the workers of a Ray that this process is connected to, each with `gpus`; `callbacks` are Ray Train's.

    Raises InputError and RunError as `launch` does.
    """
    # Imported late: Ray reads its variables when it is imported, and other ways to run need no Ray.
    from ray import train as ray_train
    from ray.exceptions import RayError
    from ray.train.torch import TorchTrainer

    folder = RunFolder(job.run.folder)
    folder.failure.unlink(missing_ok=True)
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={"job": job, "gpus": gpus},
        scaling_config=ray_train.ScalingConfig(
            num_workers=job.cluster.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": job.cluster.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=ray_train.RunConfig(  # type: ignore[call-arg]
            # Ray's own notes on the run, not ours: checkpoints are in the run's folder, whole or not there.
            name="ray",
            storage_path=str(job.run.folder),
            callbacks=list(callbacks),
            failure_config=ray_train.FailureConfig(  # type: ignore[call-arg]
                max_failures=job.cluster.max_failures, controller_failure_limit=job.cluster.max_failures
            ),
            logging_config=ray_train.LoggingConfig("WARNING"),
            worker_runtime_env={"env_vars": _worker_environment(job.cluster)},
        ),
    )
    try:
        trainer.fit()
    except (ray_train.TrainingFailedError, RayError) as error:
        _raise_failure(folder)
        raise RunError(_first_cause(error)) from error
    _raise_failure(folder)


def _worker_environment(cluster: ClusterConfig) -> dict[str, str]:
    return {} if cluster.threads_per_worker is None else {"OMP_NUM_THREADS": str(cluster.threads_per_worker)}


def _session(cluster: ClusterConfig) -> AbstractContextManager[None]:
    """A Ray of our own on this machine, or a connection to the running one."""
    where = f"cluster.address={cluster.address}" if cluster.address else "cluster=ray"
    remedy = "start one, or give its address or cluster=local"
    return session(_address(cluster), num_cpus=_local_cpus(cluster), where=where, remedy=remedy)


def _address(cluster: ClusterConfig) -> str:
    return LOCAL if cluster.name == "local" else cluster.address or "auto"


def _local_cpus(cluster: ClusterConfig) -> int:
    """CPUs that the local Ray offers: the machine's, or what the job asks for where that is more (they only count places)."""
    return max(os.cpu_count() or 1, math.ceil(cluster.workers * cluster.cpus_per_worker))


def worker_gpus(cluster: ClusterConfig) -> float:
    """GPUs for each worker. Raises InputError where the machines do not have what the workers ask for: Ray would wait for ever."""
    import ray

    there = ray.cluster_resources()
    num_gpus, num_cpus = there.get("GPU", 0), there.get("CPU", 0)
    if cluster.gpus_per_worker is None and 0 < num_gpus < cluster.workers:
        raise InputError(
            f"cluster.workers={cluster.workers}: {num_gpus:g} GPUs found, expected one for each worker; "
            f"give cluster.workers={num_gpus:g}, or cluster.gpus_per_worker=0 to train on CPUs"
        )
    gpus = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else float(num_gpus > 0)
    for name, asked, found in (("gpus", gpus, num_gpus), ("cpus", cluster.cpus_per_worker, num_cpus)):
        if asked * cluster.workers > found:
            raise InputError(
                f"cluster.{name}_per_worker: {asked:g} for each of {cluster.workers} workers found, but Ray has {found:g} in all; "
                f"lower cluster.{name}_per_worker or cluster.workers"
            )
    return gpus


def _train_on_worker(config: dict[str, object]) -> None:
    """What each Ray worker runs."""
    from ray import train as ray_train
    from ray.train.torch import get_device

    job = config["job"]
    assert isinstance(job, JobConfig)
    failure = RunFolder(job.run.folder).failure
    if failure.is_file():
        return  # started again after an error that would only come again: see below
    for name in ("ray.train", None):  # Ray would print every report of every rank, through the root logger
        logging.getLogger(name).setLevel(logging.WARNING)
    _set_threads(job.cluster)
    context = ray_train.get_context()
    device = get_device() if config["gpus"] else torch.device("cpu")
    ranks = Ranks(rank=context.get_world_rank(), world_size=context.get_world_size(), device=device)
    try:
        train(job, ranks, report=ray_train.report)
    except (InputError, FloatingPointError) as error:
        # The same steps would fail alike, however often Ray starts the workers again; the note tells those to end at once.
        # Ending here without an error would leave the other ranks waiting in their next collective.
        write_text(failure, json.dumps({"kind": type(error).__name__, "text": str(error)}))
        raise


def _raise_failure(folder: RunFolder) -> None:
    """Raise what a worker noted, if one did."""
    if folder.failure.is_file():
        note = json.loads(folder.failure.read_text())
        folder.failure.unlink()
        raise (InputError if note["kind"] == "InputError" else RunError)(note["text"])


def _first_cause(error: BaseException) -> str:
    """The worker's own error, from inside what Ray wraps around it."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        return f"worker {rank}: {str(failure).strip().splitlines()[-1]}"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else 'no message'}"
