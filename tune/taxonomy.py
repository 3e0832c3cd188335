"""search=taxonomy: the parameters of the rules that relations are found by (paper 000 chooses epsilon and delta by hand, and leaves open by
what), scored from stored matrices and stored answers of a concatenation: thousands of settings, and no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from data.config import build, to_plain
from data.errors import InputError
from data.progress import Advance, progress
from data.tasks import RunTasks, run_locally
from data.taxonomy import THESIS, Evidence, Rules, Taxonomy, TaxonomyConfig, find_taxonomy, read_evidence, read_taxonomy
from data.taxonomy.hypotheses import Winners, read_winners
from data.taxonomy.objectives import agreement, likelihood, merged_miou
from data.universe import read_universe
from tune.config import Goal, HowConfig, TaxonomySearchConfig
from tune.space import Choice, Numbers, Parameter, Range, Setting, Value, grid

NUM_SETTINGS = 2000
"""That are tried by default."""

ALL_AT_ONCE = 40
"""Settings of one piece of work; of tpe, which learns of those before, as many as are asked for at a time."""

RANGES: dict[str, Range] = {
    "typing": Choice(values=("shares", "difference", "strict")),
    "share": Numbers(low=0.05, high=0.8),
    "high": Numbers(low=0.2, high=0.9),
    "score": Choice(values=("sum", "product")),
    "epsilon": Numbers(low=0.0, high=1.2),
    "delta": Numbers(low=0.05, high=0.9),
    "min_part": Numbers(low=1e-6, high=1e-2, log=True),
    "min_found": Numbers(low=1e-4, high=0.3, log=True),
    "unmix": Choice(values=(True, False)),
}
"""What of the rules is searched, and where."""

USED = {
    "shares": {"typing", "share", "min_part", "min_found", "unmix"},
    "difference": {"typing", "share", "score", "epsilon", "delta", "min_part", "min_found", "unmix"},
    "strict": {"typing", "share", "high", "score", "epsilon", "min_part", "min_found", "unmix"},
}
"""What each typing goes by: the others keep their defaults, so that no two settings are the same rules."""

PAPER = replace(THESIS.rules, min_pixels=0, min_part=2e-5)
"""Its 0.33 and 0.5, and its 5,000 pixels as the same part of images of any number and size."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A setting and what it found."""

    setting: dict[str, Value]
    goals: dict[Goal, float]
    relations: int
    key: bytes
    """Of the set of relations: settings with the same key found the same."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """What settings are scored by: files, so that any process can."""

    evidence: Path
    winners: Path | None
    truth: Path | None
    among: Any

    @cached_property
    def loaded(self) -> tuple[Evidence, tuple[Winners, ...], np.ndarray | None]:
        evidence = read_evidence(self.evidence)
        winners = () if self.winners is None else read_winners(self.winners)
        return evidence, winners, None if self.truth is None else truth_of(self.truth, evidence)

    def taxonomy(self, rules: Rules) -> Taxonomy | None:
        """None where no two labels could be related."""
        try:
            return find_taxonomy(self.loaded[0], TaxonomyConfig(rules=rules))
        except InputError:
            return None

    def score(self, setting: Setting) -> Scored:
        taxonomy = self.taxonomy(rules_of(setting))
        key = b"" if taxonomy is None else taxonomy.order.below.tobytes()
        return Scored(
            setting=dict(setting),
            goals=self.goals(taxonomy),
            relations=0 if taxonomy is None else len(taxonomy.relations),
            key=key,
        )

    def goals(self, taxonomy: Taxonomy | None) -> dict[Goal, float]:
        """Those that there are files for; of no taxonomy they are what no relation at all is worth."""
        evidence, winners, true = self.loaded
        found: dict[Goal, float] = {"likelihood": float("-inf") if taxonomy is None else likelihood(taxonomy, evidence)}
        if winners:
            found["merged_miou"] = 0.0 if taxonomy is None else merged_miou(taxonomy, winners, self.among)
        if true is not None:
            found["agreement"] = 0.0 if taxonomy is None else agreement(taxonomy.order.below, true)
        return found


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """A Task (data/tasks.py): some settings."""

    scorer: Scorer
    settings: tuple[Setting, ...]

    @property
    def amount(self) -> int:
        return len(self.settings)

    def run(self, advance: Advance) -> list[Scored]:
        found = []
        for setting in self.settings:
            found.append(self.scorer.score(setting))
            advance(1)
        return found


def rules_of(setting: Setting) -> Rules:
    """Raises InputError for a name or value that is none."""
    return build(Rules, to_plain(Rules()) | dict(setting), key="rules")


def truth_of(path: Path, evidence: Evidence) -> np.ndarray:
    """(labels, labels) bool: whether the first is a part of the second or the same. `path` is a taxonomy.yaml, a universe (which
    labels have which leaves), or the name of one, such as streets. Raises InputError where it has not all labels of the evidence."""
    if path.is_file() and "relations:" in path.read_text(encoding="utf-8"):
        parts = read_taxonomy(path)
        sets = {name: frozenset(parts.parts(name)) for name in parts.nodes}
        below = {name: frozenset(other for other in sets if name in sets[other]) for name in sets}
    else:
        try:
            labels = read_universe(str(path)).labels
        except InputError as error:
            raise InputError(f"search.truth={path}: no taxonomy.yaml found, and no universe: {error}") from None
        leaves = {f"{dataset}/{label}": frozenset(of) for dataset, entry in labels.items() for label, of in entry.items()}
        below = {a: frozenset(b for b in leaves if leaves[a] and leaves[a] <= leaves[b]) for a in leaves}
    missing = [name for name in evidence.nodes if name not in below]
    if missing:
        raise InputError(f"search.truth={path}: nothing about {missing[0]} found, expected all labels of the evidence; mend it")
    true = np.array([[b in below[a] for b in evidence.nodes] for a in evidence.nodes])
    same = evidence.spaces[:, None] == evidence.spaces[None]
    return np.asarray((true & ~same) | np.eye(len(true), dtype=bool))


def parameters_of(config: TaxonomySearchConfig, given: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Raises InputError for a parameter that the rules do not have, and a value that does not fit."""
    known = {name: Parameter(name=name, range=of, paths=((name,),)) for name, of in RANGES.items()}
    for one in given:
        if one.name not in known and one.name != "min_pixels":
            raise InputError(f"space.{one.name}: no parameter of the rules, expected one of {', '.join(known)}, min_pixels; mend it")
    odd = [typing for typing in config.typings if typing not in USED]
    if odd or not config.typings:
        raise InputError(f"search.typings: {', '.join(odd) or 'none'} found, expected some of {', '.join(USED)}; mend it")
    if len(config.typings) > 1:
        known["typing"] = replace(known["typing"], range=Choice(values=config.typings))
    else:
        del known["typing"]
        known = {name: one for name, one in known.items() if name in USED[config.typings[0]]}
    found = tuple({**known, **{one.name: one for one in given}}.values())
    for one in found:
        for value in one.range.points(2):
            try:
                rules_of({one.name: value})
            except InputError as error:
                raise InputError(f"space.{one.name}: {error}") from None
    return found


def trimmed(setting: Setting, config: TaxonomySearchConfig) -> dict[str, Value]:
    """With its typing, and without what that does not go by."""
    full = {"typing": config.typings[0], **setting}
    return {name: value for name, value in full.items() if name in USED[str(full["typing"])] or name == "min_pixels"}


def search_taxonomies(
    config: TaxonomySearchConfig, how: HowConfig, given: Sequence[Parameter], run_tasks: RunTasks[list[Scored]] = run_locally
) -> tuple[tuple[Parameter, ...], list[Scored]]:
    """All settings, scored. Raises InputError for what the user has to mend."""
    parameters = parameters_of(config, given)
    scorer = scorer_of(config)
    num = how.trials or NUM_SETTINGS
    with progress(total=num, what="settings") as advance:
        if how.sampler == "tpe":
            return parameters, _by_tpe(scorer, config, how, parameters, num, run_tasks, advance)
        if how.sampler == "grid":
            settings = list(grid(parameters, how.points))
        else:
            settings = [at(parameters, parts) for parts in _spread(len(parameters), num, how.seed).tolist()]
        distinct = list({repr(sorted(one.items())): one for one in (trimmed(setting, config) for setting in settings)}.values())
        return parameters, _scored(scorer, distinct, run_tasks, advance)


def scorer_of(config: TaxonomySearchConfig) -> Scorer:
    """Raises InputError where what the objective needs is missing, or a file cannot be used."""
    needed = {"merged_miou": ("winners", config.winners), "agreement": ("truth", config.truth)}
    name, path = needed.get(config.objective, ("", Path()))
    if path is None:
        raise InputError(f"search.{name}: missing, expected a file for search.objective={config.objective}; give it, or another objective")
    scorer = Scorer(evidence=config.evidence.absolute(), winners=_absolute(config.winners), truth=config.truth, among=config.among)
    evidence, winners, _ = scorer.loaded
    known = {of.dataset for of in winners if of.pixels.any()}
    if winners and not known & set(evidence.labels):
        raise InputError(
            f"search.winners: pixels of {', '.join(known) or 'no dataset'} found, expected some of {', '.join(evidence.labels)}; "
            "name others"
        )
    return Scorer(**{name: getattr(scorer, name) for name in ("evidence", "winners", "truth", "among")})  # without what was loaded


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def at(parameters: Sequence[Parameter], parts: Sequence[float]) -> dict[str, Value]:
    """The setting at a point of the unit cube."""
    return {one.name: one.range.at(part) for one, part in zip(parameters, parts, strict=True)}


def _spread(dimensions: int, num: int, seed: int) -> np.ndarray:
    """(num, dimensions): Sobol's points, which leave no gaps as drawn ones do."""
    sobol = qmc.Sobol(dimensions, rng=np.random.default_rng(seed))
    return np.asarray(sobol.random_base2(max(1, (num - 1).bit_length()))[:num])


def _scored(scorer: Scorer, settings: Sequence[Setting], run_tasks: RunTasks[list[Scored]], advance: Advance) -> list[Scored]:
    pieces = [tuple(settings[first : first + ALL_AT_ONCE]) for first in range(0, len(settings), ALL_AT_ONCE)]
    tasks = [ScoreTask(scorer=scorer, settings=piece) for piece in pieces]
    found = dict(run_tasks(tasks, advance))
    return [one for number in range(len(tasks)) for one in found[number]]


def _by_tpe(
    scorer: Scorer,
    config: TaxonomySearchConfig,
    how: HowConfig,
    parameters: Sequence[Parameter],
    num: int,
    run_tasks: RunTasks[list[Scored]],
    advance: Advance,
) -> list[Scored]:
    import optuna

    from tune.importance import distribution_of

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=how.seed, multivariate=True, constant_liar=True)
    )
    distributions = {one.name: distribution_of(one.range) for one in parameters}
    found: list[Scored] = []
    score = partial(_scored, scorer, run_tasks=run_tasks, advance=advance)
    while len(found) < num:
        trials = [study.ask(distributions) for _ in range(min(ALL_AT_ONCE, num - len(found)))]
        scored = score([trimmed(trial.params, config) for trial in trials])
        for trial, one in zip(trials, scored, strict=True):
            study.tell(trial, max(one.goals[config.objective], -1e9))
        found += scored
    return found


def best_of(scored: Sequence[Scored], objective: Goal) -> list[Scored]:
    """One setting for each set of relations, the best first: of those that found the same the one in the middle of most others, since
    what lies at an edge finds something else on the next matrices."""
    groups: dict[bytes, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.key, []).append(one)
    ordered = sorted(groups.values(), key=lambda group: -group[0].goals[objective])
    return [_central(group) for group in ordered]


def _central(group: Sequence[Scored]) -> Scored:
    """Of the typing that most have, the one nearest to the median of all numbers."""
    typings = [one.setting["typing"] for one in group]
    common = max(dict.fromkeys(typings), key=typings.count)
    alike = [one for one in group if one.setting["typing"] == common]
    names = [name for name in alike[0].setting if isinstance(RANGES.get(name), Numbers)]
    if not names:
        return alike[0]
    values = np.array([[_place(RANGES[name], one.setting[name]) for name in names] for one in alike])
    return alike[int(np.abs(values - np.median(values, axis=0)).sum(axis=1).argmin())]


def _place(of: Any, value: Any) -> float:
    """Where in its range a value lies, 0..1."""
    low, high, value = (np.log(number) if of.log else number for number in (of.low, of.high, value))
    return float((value - low) / (high - low))


def named_rules() -> Mapping[str, Rules]:
    """What a search is compared with."""
    return {"paper 000 (0.33, 0.5)": PAPER, "default": Rules()}
