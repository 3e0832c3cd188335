"""What comes of search=taxonomy: the best rules and what they find, compared with the paper's and the default, and finalists that are
trained for real."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import FailedError
from data.files import write_text
from data.inspect.plots import write_figure
from data.tasks import RunTasks, run_locally
from data.taxonomy import Rules, Taxonomy, write_taxonomy, write_universe
from data.taxonomy.pictures import tree_picture
from trainers.evaluation.results import write_json
from tune.config import AnyConfig, Goal, TaxonomySearchConfig, TuneConfig
from tune.folder import SearchFolder, TrialRecord
from tune.importance import importance_of
from tune.job import Base
from tune.pictures import parameters_figure
from tune.report import finalist_lines, finalist_scores, range_text
from tune.search import Search, places, train_finalists
from tune.space import Parameter, parse_word, shown
from tune.taxonomy import Scored, Scorer, best_of, named_rules, rules_of, scorer_of, search_taxonomies

GOALS: dict[Goal, str] = {"merged_miou": "merged mIoU, %", "agreement": "agreement (F1), %", "likelihood": "log-likelihood, nats"}

DRAWN = 1000
"""Points of a picture, at most."""


def run_taxonomy_search(
    config: TuneConfig, space: Sequence[str], words: Sequence[str], folder: Path, run_tasks: RunTasks[list[Scored]] = run_locally
) -> dict[str, Any]:
    """Search, write into `folder` and train the finalists; gives what report.json says.

    Raises InputError for what the user has to mend, and FailedError where no setting relates any labels.
    """
    wanted = config.search
    assert isinstance(wanted, TaxonomySearchConfig)
    search = _finalist_search(config, words) if wanted.finalists else None
    parameters, scored = search_taxonomies(wanted, config.tune, [parse_word(word) for word in space], run_tasks)
    ordered, scorer = best_of(scored, wanted.objective), scorer_of(wanted)
    best = ordered[0]
    taxonomy = scorer.taxonomy(rules_of(best.setting))
    if taxonomy is None:
        raise FailedError(f"{wanted.evidence}: no setting of {len(scored)} relates any labels; train and evaluate the models longer")
    folder.mkdir(parents=True, exist_ok=True)
    _write_settings(folder / "settings.csv", parameters, scored)
    _write_found(folder, taxonomy)
    importance = importance_of([(_all_of(one, parameters), one.goals[wanted.objective]) for one in scored if one.key], _common(parameters))
    records = _records(scored, wanted.objective)
    scale, label = (1, GOALS[wanted.objective]) if wanted.objective == "likelihood" else (100, GOALS[wanted.objective])
    write_figure(folder / "parameters.png", parameters_figure(records, parameters, importance, None, label=label, scale=scale))
    rules = {"found": rules_of(best.setting), **named_rules()}
    content: dict[str, Any] = {
        "version": 1,
        "settings": len(scored),
        "sets": len(ordered),
        "objective": wanted.objective,
        "best": {"setting": best.setting, "goals": best.goals, "relations": best.relations},
        "importance": importance,
        "compared": {name: _compared(scorer, wanted, of) for name, of in rules.items()},
        "finalists": [],
    }
    if search is not None:
        _train(search, wanted, scorer, ordered)
        content["finalists"] = list(finalist_scores(search, SearchFolder.records(search.folder.finalists)))
    write_json(folder / "report.json", content)
    write_text(folder / "report.md", "\n".join(_lines(config, parameters, content, search, folder)) + "\n")
    return content


def _finalist_search(config: TuneConfig, words: Sequence[str]) -> Search:
    """What trains finalists: the job of the words, nothing of which is searched."""
    search = Search(config=TuneConfig(search=AnyConfig(name="any"), tune=config.tune), base=Base(words=tuple(words)), parameters=())
    search.base.check(())
    return search


def _train(search: Search, wanted: TaxonomySearchConfig, scorer: Scorer, ordered: Sequence[Scored]) -> None:
    """The best sets of relations, and those of the rules that the search is compared with; what finds the same is trained once."""
    found: dict[str, tuple[bytes, Taxonomy]] = {}
    candidates = [(f"found {number + 1}", rules_of(one.setting)) for number, one in enumerate(ordered[: wanted.finalists])]
    for title, rules in [*candidates, *named_rules().items()]:
        taxonomy = scorer.taxonomy(rules)
        if taxonomy is not None:
            key = taxonomy.order.below.tobytes()
            same = next((name for name, (other, _) in found.items() if other == key), None)
            found[title if same is None else f"{same} = {title}"] = found.pop(same) if same is not None else (key, taxonomy)
    entries = []
    for number, (title, (_, taxonomy)) in enumerate(found.items()):
        folder = search.folder.path / "candidates" / str(number + 1)
        folder.mkdir(parents=True, exist_ok=True)
        _write_found(folder, taxonomy)
        words = ["outputs=universal", f"outputs.universe={folder.absolute() / 'universe.yaml'}"]
        first = search.base.job.seed + 1
        entries += [{"title": title, "seed": first + place, "words": words} for place in range(max(1, search.how.seeds))]
    with places(search) as place:
        train_finalists(search, sorted(entries, key=lambda entry: entry["seed"]), place)


def _write_found(folder: Path, taxonomy: Taxonomy) -> None:
    write_taxonomy(folder / "taxonomy.yaml", taxonomy)
    write_universe(folder / "universe.yaml", taxonomy.universe())
    write_figure(folder / "tree.png", tree_picture(taxonomy))


def _compared(scorer: Scorer, wanted: TaxonomySearchConfig, rules: Rules) -> dict[str, Any]:
    """What rules find, by all goals that there are files for; and the same relations on the split that nothing was chosen by."""
    taxonomy = scorer.taxonomy(rules)
    scores: dict[str, Any] = {"val": scorer.goals(taxonomy), "relations": 0 if taxonomy is None else len(taxonomy.relations)}
    if wanted.test_evidence is not None or wanted.test_winners is not None:
        other = Scorer(
            evidence=wanted.test_evidence or wanted.evidence, winners=wanted.test_winners or wanted.winners, truth=None, among=wanted.among
        )
        found = other.goals(taxonomy)
        given = {"likelihood": wanted.test_evidence, "merged_miou": wanted.test_winners}
        scores["test"] = {name: value for name, value in found.items() if given[name] is not None}
    return scores


def _all_of(one: Scored, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """What all typings go by: importance compares settings with the same parameters."""
    names = {parameter.name for parameter in _common(parameters)}
    return {name: value for name, value in one.setting.items() if name in names}


def _common(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    if all(one.name != "typing" for one in parameters):
        return tuple(parameters)
    return tuple(one for one in parameters if one.name in ("typing", "share", "min_part", "min_found", "unmix", "min_pixels"))


def _records(scored: Sequence[Scored], objective: Goal) -> list[TrialRecord]:
    # Not every second one and the like: Sobol's points have an order.
    drawn = sorted(np.random.default_rng(0).permutation(len(scored))[:DRAWN].tolist())
    return [
        TrialRecord(
            id=str(number),
            number=number + 1,
            setting=one.setting,
            state="complete",
            reports=({"step": 0.0, "goal": one.goals[objective]},),
            about={},
        )
        for number, one in ((number, scored[number]) for number in drawn)
        if one.key
    ]


def _write_settings(path: Path, parameters: Sequence[Parameter], scored: Sequence[Scored]) -> None:
    names = list(dict.fromkeys(["typing", *(one.name for one in parameters)]))
    goals = list(scored[0].goals)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*names, "relations", *goals])
    for one in scored:
        writer.writerow([*(one.setting.get(name, "") for name in names), one.relations, *(one.goals[goal] for goal in goals)])
    write_text(path, text.getvalue())


def _lines(
    config: TuneConfig, parameters: Sequence[Parameter], content: Mapping[str, Any], search: Search | None, folder: Path
) -> Iterator[str]:
    wanted, best = config.search, content["best"]
    assert isinstance(wanted, TaxonomySearchConfig)
    yield "# Search for the rules of a taxonomy"
    yield ""
    yield f"{content['settings']} settings found {content['sets']} different sets of relations. The goal is {GOALS[wanted.objective]}."
    yield ""
    yield "| parameter | range | found | importance |"
    yield "| --- | --- | --- | --- |"
    for one in parameters:
        value = shown(best["setting"][one.name]) if one.name in best["setting"] else "-"
        share = f"{100 * content['importance'][one.name]:.0f} %" if one.name in content["importance"] else "-"
        yield f"| {one.name} | {range_text(one.range)} | {value} | {share} |"
    yield ""
    rules = json.dumps(best["setting"]).replace('"', "")
    yield f"`taxomix taxonomy evidence={wanted.evidence} out=OUT 'rules={rules}'` finds it again."
    yield f"`taxomix train outputs=universal outputs.universe={folder / 'universe.yaml'} ...` trains with it."
    yield ""
    yield from _compared_lines(content["compared"])
    if search is not None:
        yield from finalist_lines(content["finalists"], search.base.job.data.val_split, config.tune.test_split)
    yield "![Parameters](parameters.png)"
    yield ""
    yield "![Tree](tree.png)"


def _compared_lines(compared: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    columns = [(split, goal) for split in ("val", "test") for goal in GOALS if any(goal in one.get(split, {}) for one in compared.values())]
    titles = [GOALS[goal] + (" on the test split" if split == "test" else "") for split, goal in columns]
    yield "| rules | relations | " + " | ".join(titles) + " |"
    yield "| --- |" + " --- |" * (1 + len(columns))
    for name, one in compared.items():
        cells = [f"{one[split][goal] * (1 if goal == 'likelihood' else 100):.2f}" for split, goal in columns]
        yield f"| {name} | {one['relations']} | " + " | ".join(cells) + " |"
    yield ""
