"""A search with Ray Tune: trials chosen by Optuna or drawn, stopped early, and a second round that trains the best with other seeds."""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.launch import worker_gpus
from cluster.session import LOCAL, session, set_environment
from cluster.tasks import num_at_a_time
from data.config import to_plain
from data.errors import InputError
from data.tasks import num_cores
from trainers.config import JobConfig
from trainers.job import open_data
from tune.config import HowConfig, LossWeightsConfig, TuneConfig
from tune.folder import SearchFolder, best_first
from tune.job import Base, own_setting
from tune.loss_weights import parameters_of
from tune.space import Choice, Parameter, Range, Setting, grid, parse_word
from tune.trial import TrialPlan, run_trial
from tune.watch import TrialWatch

log = logging.getLogger(__name__)

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each run logs for itself
    "TUNE_GLOBAL_CHECKPOINT_S": "5",  # seconds between notes of Tune on how far it is
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the panel that it would print
}


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search whose words were understood and checked."""

    config: TuneConfig
    base: Base
    parameters: tuple[Parameter, ...]

    @property
    def how(self) -> HowConfig:
        return self.config.tune

    @property
    def folder(self) -> SearchFolder:
        return SearchFolder(self.base.job.run.folder)


def plan_search(config: TuneConfig, space: Sequence[str], words: Sequence[str]) -> Search:
    """Raises InputError for whatever would make a trial fail for its config."""
    base = Base(words=tuple(words))
    job = base.job
    given = [parse_word(word) for word in space]
    if isinstance(config.search, LossWeightsConfig):
        given = [*(own for own in parameters_of(config.search, job) if own.name not in {one.name for one in given}), *given]
    twice = [one.name for number, one in enumerate(given) if one.name in {other.name for other in given[:number]}]
    if twice:
        raise InputError(f"space.{twice[0]}: given twice, expected each key once; remove one")
    if not given:
        raise InputError("space: no parameter found, expected one or more; give for example space.optim.lr='loguniform(1e-5, 1e-2)'")
    search = Search(config=config, base=base, parameters=tuple(given))
    base.check(search.parameters)
    _check_how(search, job)
    return search


def _check_how(search: Search, job: JobConfig) -> None:
    how, loop = search.how, job.loop
    names = {"mean_miou", *(f"miou/{name}" for name in open_data(job).val)}
    unknown = [name for name in how.metrics if name not in names]
    if unknown:
        raise InputError(f"tune.metric: {unknown[0]} found, expected some of {', '.join(sorted(names))}; mend it")
    if job.cluster.name == "none" and job.cluster.workers > 1:
        raise InputError("cluster.workers: with cluster=none a trial is one process; give cluster=local")
    if how.scheduler == "pbt":
        if job.cluster.workers > 1:
            raise InputError(
                f"tune.scheduler=pbt: cluster.workers={job.cluster.workers} found, expected 1: trials take over one another's checkpoints; "
                "give cluster.workers=1, or tune.scheduler=asha"
            )
        odd = [one.name for one in search.parameters if isinstance(one.range, Choice) and len(one.paths[0]) == 1]
        if odd:
            raise InputError(f"space.{odd[0]}: changed by tune.scheduler=pbt as a run goes on, expected keys of numbers; remove it")
    if how.scheduler != "none" and loop.evaluate_every >= loop.steps:
        log.warning(
            "loop.evaluate_every: %d, of loop.steps=%d: trials are scored at their end alone, so that none is stopped early",
            loop.evaluate_every,
            loop.steps,
        )


def num_trials(search: Search) -> int:
    how = search.how
    return sum(1 for _ in grid(search.parameters, how.points)) if how.sampler == "grid" else how.num_trials


@dataclass(frozen=True, kw_only=True)
class Place:
    """What Ray has for trials: what each worker of one needs, and how many trials run at a time."""

    needs: Mapping[str, float]
    concurrent: int


def run_search(search: Search) -> SearchFolder:
    """Try settings, then train the best and the job's own with other seeds; what is done already is not done again.

    Raises InputError where Ray has no room for a trial, and KeyboardInterrupt where the search was stopped.
    """
    folder = search.folder
    with places(search) as place:
        if not (folder.path / "searched").is_file():
            _fit(search, folder.trials, _space(search), name="search", num=num_trials(search), place=place, main=True)
            (folder.path / "searched").touch()
        train_finalists(search, list(_finalists(search)), place)
    return folder


def train_finalists(search: Search, finalists: Sequence[Mapping[str, Any]], place: Place) -> None:
    """Train entries of `title`, `seed`, and `setting` or more `words` to their end, those that are not yet."""
    from ray import tune as ray_tune

    records = SearchFolder.records(search.folder.finalists)
    done = {(record.about["title"], record.about["seed"]) for record in records if record.state != "running"}
    if all((entry["title"], entry["seed"]) in done for entry in finalists):
        return
    # Ray Tune's notes go by name: those of other seeds are another search.
    space, name = {"finalist": ray_tune.grid_search(list(finalists))}, f"finalists-{len(finalists)}"
    _fit(search, search.folder.finalists, space, name=name, num=len(finalists), place=place, main=False)


@contextmanager
def places(search: Search) -> Iterator[Place]:
    """A connection to Ray."""
    job = search.base.job
    address = LOCAL if job.cluster.name in ("local", "none") else job.cluster.address or "auto"
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    set_environment(address)
    _quiet()
    workers = job.cluster.workers
    asked_for = math.ceil((search.how.concurrent or 1) * workers * job.cluster.cpus_per_worker)
    remedy = "start one, or give its address or cluster=local"
    with session(address, num_cpus=max(num_cores(), asked_for), where="cluster", remedy=remedy, log_to_driver=False):
        needs = {"CPU": job.cluster.cpus_per_worker, "GPU": worker_gpus(job.cluster)}
        room = _room(needs, workers)
        yield Place(needs=needs, concurrent=min(search.how.concurrent or room, room))


def _quiet() -> None:
    """What Ray Tune and Optuna say of themselves is not what a user waits for."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in ("ray.tune", "ray._private.worker"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _room(needs: Mapping[str, float], workers: int) -> int:
    """Trials that have room at a time. Raises InputError where that is none: Ray would wait for ever."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(num_at_a_time(node, needs) for node in nodes) // workers
    if not room:
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise InputError(
            f"cluster.workers, cluster.cpus_per_worker, cluster.gpus_per_worker: {workers} workers with {needs['CPU']:g} CPUs and "
            f"{needs['GPU']:g} GPUs each found, but the nodes of Ray have {there}; lower them"
        )
    return room


def _finalists(search: Search) -> list[dict[str, Any]]:
    """The trainings of the end: the best setting and the job's own, each with other seeds than that of the search."""
    best = best_first(SearchFolder.records(search.folder.trials))
    if not best or search.how.scheduler == "pbt":  # what pbt found is a run, no setting
        return []
    own, first = own_setting(search.base, search.parameters), search.base.job.seed + 1
    settings = {"best": best[0].setting, "own": own}
    if best[0].setting == own:
        del settings["own"]
    return [
        {"title": title, "seed": seed, "setting": setting}
        for seed in range(first, first + search.how.seeds)
        for title, setting in settings.items()
    ]


def _fit(search: Search, folder: Path, space: Mapping[str, Any], *, name: str, num: int, place: Place, main: bool) -> None:
    """Run Ray Tune to the end, from where it was stopped if it was; `main` is the search itself, which chooses and stops trials."""
    from ray import tune as ray_tune

    how, job, path = search.how, search.base.job, search.folder.ray / name
    plan = TrialPlan(
        base=search.base,
        parameters=search.parameters,
        folder=folder,
        metrics=how.metrics,
        gpus=place.needs["GPU"],
        takes_over=main and how.scheduler == "pbt",
    )
    resources = {"cpu": job.cluster.cpus_per_worker, "gpu": plan.gpus}
    if job.cluster.workers > 1:
        # The trial itself only waits, and its workers need whole CPUs of their own; but a trial that asks for nothing is not allowed.
        resources = {"memory": 1e6}
    trainable = ray_tune.with_resources(partial(run_trial, plan=plan), resources)
    keep, is_grid = how.keep if main else num, how.sampler == "grid" or not main
    with TrialWatch(folder, total=num, steps=job.loop.steps, keep=keep, places=place.concurrent) as watch:
        if ray_tune.Tuner.can_restore(str(path)):
            tuner = ray_tune.Tuner.restore(str(path), trainable, param_space=dict(space))
        else:
            tuner = ray_tune.Tuner(
                trainable,
                param_space=dict(space),
                tune_config=ray_tune.TuneConfig(
                    num_samples=1 if is_grid else num,
                    max_concurrent_trials=None if plan.takes_over else place.concurrent,  # all of pbt's have to be there
                    time_budget_s=how.seconds if main else None,
                    trial_dirname_creator=_trial_name,
                    **(_strategy(search) if main else {}),
                ),
                run_config=ray_tune.RunConfig(
                    name=name,
                    storage_path=str(search.folder.ray),
                    failure_config=ray_tune.FailureConfig(max_failures=job.cluster.max_failures),
                    checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=4),
                    callbacks=[watch.callback()],
                    verbose=0,
                ),
            )
        results = tuner.fit()
    unfinished = [record for record in SearchFolder.records(folder) if record.state == "running"]
    if unfinished or (len(results) < num and (how.seconds is None or not main)):
        raise KeyboardInterrupt  # Ray Tune takes the signal for itself, and ends in peace


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)


def _space(search: Search) -> dict[str, Any]:
    """Of Ray Tune, the names being p0, p1, ..."""
    from ray import tune as ray_tune

    if search.how.sampler == "grid":
        return {f"p{i}": ray_tune.grid_search(list(one.range.points(search.how.points))) for i, one in enumerate(search.parameters)}
    return {f"p{i}": _domain(one.range) for i, one in enumerate(search.parameters)}


def _domain(of: Range) -> Any:
    from ray import tune as ray_tune

    if isinstance(of, Choice):
        return ray_tune.choice(list(of.values))
    if of.whole:  # whose upper end is not part of it
        return (ray_tune.lograndint if of.log else ray_tune.randint)(int(of.low), int(of.high) + 1)
    return (ray_tune.loguniform if of.log else ray_tune.uniform)(of.low, of.high)


def _strategy(search: Search) -> dict[str, Any]:
    """Who chooses the settings, and who stops trials."""
    how, loop = search.how, search.base.job.loop
    grace = how.grace or max(loop.evaluate_every, -(-loop.steps // 9))
    strategy: dict[str, Any] = {}
    if how.scheduler == "asha":
        from ray.tune.schedulers import AsyncHyperBandScheduler

        strategy["scheduler"] = AsyncHyperBandScheduler(
            time_attr="step",
            metric="goal",
            mode="max",
            max_t=loop.steps + 1,  # who reaches the end, ends by itself
            grace_period=min(grace, loop.steps),
            reduction_factor=how.factor,
        )
    if how.scheduler == "pbt":
        strategy["scheduler"] = _pbt(search, grace)
        return strategy
    first = _numbered(search.parameters, own_setting(search.base, search.parameters))
    if how.sampler in ("tpe", None):
        strategy["search_alg"] = _optuna(search, first)
    elif how.sampler == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        strategy["search_alg"] = BasicVariantGenerator(points_to_evaluate=[first] if first else None, random_state=how.seed)
    return strategy


def _optuna(search: Search, first: Setting) -> Any:
    from optuna.samplers import TPESampler
    from ray.tune.search.optuna import OptunaSearch

    how = search.how
    sampler = TPESampler(seed=how.seed, multivariate=True, constant_liar=True, n_startup_trials=min(10, max(2, how.num_trials // 3)))
    several = len(how.metrics) > 1
    whole = len(first) == len(search.parameters)
    return OptunaSearch(
        metric=list(how.metrics) if several else "goal",
        mode=["max"] * len(how.metrics) if several else "max",
        sampler=sampler,
        points_to_evaluate=[dict(first)] if whole else None,
    )


def _pbt(search: Search, grace: int) -> Any:
    from ray.tune.schedulers import PopulationBasedTraining

    mutable = {f"p{i}": _domain(one.range) for i, one in enumerate(search.parameters)}
    ranges = {f"p{i}": one.range for i, one in enumerate(search.parameters)}
    return PopulationBasedTraining(
        time_attr="turn",
        metric="goal",
        mode="max",
        perturbation_interval=grace,
        hyperparam_mutations=mutable,
        custom_explore_fn=partial(_inside, ranges=ranges),
        log_config=False,
    )


def _inside(config: dict[str, Any], ranges: Mapping[str, Range]) -> dict[str, Any]:
    """Factors of 0.8 and 1.2 lead out of ranges."""
    for name, of in ranges.items():
        if not isinstance(of, Choice):
            config[name] = type(config[name])(min(max(config[name], of.low), of.high))
    return config


def _numbered(parameters: Sequence[Parameter], setting: Setting) -> dict[str, Any]:
    return {f"p{number}": setting[one.name] for number, one in enumerate(parameters) if one.name in setting}


def asked(search: Search) -> dict[str, Any]:
    """What search.yaml says of it: another one does not go on in its folder."""
    plain = to_plain(search.config)
    ranges = {one.name: {"range": to_plain(one.range), "keys": [".".join(path) for path in one.paths]} for one in search.parameters}
    job = to_plain(search.base.job)
    for key in ("run", "cluster"):
        del job[key]
    return {"search": plain["search"], "tune": plain["tune"], "space": ranges, "job": job}
