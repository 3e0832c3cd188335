"""`taxomix taxonomy`: from runs, or from matrices that were stored, to a taxonomy with its universe and pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.config import build, to_plain
from data.errors import InputError
from data.inspect.plots import write_figure
from data.tasks import RunTasks
from data.taxonomy import (
    MODES,
    Evidence,
    Taxonomy,
    TaxonomyConfig,
    connect,
    evidence_of,
    find_taxonomy,
    read_evidence,
    read_overrides,
    write_taxonomy,
    write_universe,
)
from data.taxonomy.connections import Kind
from data.taxonomy.hypotheses import Among, Winners, effects, parts_of, read_winners, score, write_winners
from data.taxonomy.overrides import SIGNS
from data.taxonomy.pictures import effects_picture, shares_picture, tree_picture
from data.universe import Color
from trainers.evaluation.cross import CrossConfig, Entries, collect
from trainers.evaluation.results import write_json
from trainers.evaluation.winners import collect_winners

Value = bool | int | float | str

WORDS: dict[Kind, str] = {"equal": "the same as", "subset": "a part of"}


@dataclass(frozen=True, kw_only=True)
class FindConfig(CrossConfig):
    """The keys of `taxomix taxonomy`."""

    evidence: Path | None = None
    """A confusions.json, of an earlier call or of `taxomix evaluate cross=true`, in place of runs."""
    out: Path
    mode: Literal["default", "thesis"] = "default"
    rules: dict[str, Value] = field(default_factory=dict)
    """Keys of `Rules` (data/taxonomy/connections.py) that are to be others than those of the mode; the same for the next two."""
    search: dict[str, Value] = field(default_factory=dict)
    leaves: dict[str, Value] = field(default_factory=dict)
    overrides: Path | None = None
    test: Path | None = None
    """A run with outputs=concat, or the winners.parquet of an earlier test: each relation is tested by what it changes in its scores."""
    among: Among = "all"
    """As what a label of another dataset counts in the test where it wins and is part of nothing: a miss, or (own) not at all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.evidence is None) == (not self.runs):
            raise InputError("runs, evidence: both or none of them found, expected runs=[RUN, RUN] or evidence=FILE; give one of them")

    @property
    def taxonomy(self) -> TaxonomyConfig:
        content = to_plain(MODES[self.mode])
        for part in ("rules", "search", "leaves"):
            content[part] |= getattr(self, part)
        return build(TaxonomyConfig, content)


def find(config: FindConfig, run_tasks: RunTasks[Entries] | None = None) -> Taxonomy:
    """Collect or read the evidence, and write into `config.out`: what was collected as confusions.json, taxonomy.yaml, universe.yaml (what
    `outputs=universal` reads), tree.png, and shares/MODEL_on_IMAGES.png. `run_tasks` as `collect` has it. Raises InputError for what the
    user has to mend."""
    wanted, overrides = config.taxonomy, None if config.overrides is None else read_overrides(config.overrides)
    colors: Mapping[str, Color] = {}
    winners: Sequence[Winners] = ()
    if config.test is not None:
        winners = collect_winners(config.test, config) if config.test.is_dir() else read_winners(config.test)
    if config.evidence is not None:
        evidence = read_evidence(config.evidence)
    else:
        content, colors = collect(config, run_tasks)
        evidence = evidence_of(content)
        write_json(config.out / "confusions.json", content)
    taxonomy = find_taxonomy(evidence, wanted, overrides)
    config.out.mkdir(parents=True, exist_ok=True)
    write_taxonomy(config.out / "taxonomy.yaml", taxonomy)
    write_universe(config.out / "universe.yaml", taxonomy.universe(colors=colors))
    _draw(config.out, taxonomy, evidence, wanted)
    for name in ("effects.json", "effects.png"):  # of another taxonomy, where this one is not tested
        (config.out / name).unlink(missing_ok=True)
    if winners:
        if config.test is not None and config.test.is_dir():
            write_winners(config.out / "winners.parquet", winners)
        _test(config, winners, taxonomy)
    return taxonomy


def _test(config: FindConfig, winners: Sequence[Winners], taxonomy: Taxonomy) -> None:
    """Write what each relation changes as effects.json and effects.png."""
    found = tuple(effects(taxonomy, winners, among=config.among))
    means = {"with": score(winners, parts_of(taxonomy), config.among), "without": score(winners, {}, config.among)}
    entries = [{**to_plain(effect), "verdict": effect.verdict} for effect in found]
    write_json(config.out / "effects.json", {"version": 1, "among": config.among, "miou": means, "effects": entries})
    if found:
        write_figure(config.out / "effects.png", effects_picture(found))


def _draw(out: Path, taxonomy: Taxonomy, evidence: Evidence, config: TaxonomyConfig) -> None:
    write_figure(out / "tree.png", tree_picture(taxonomy))
    (out / "shares").mkdir(exist_ok=True)
    connections = connect(evidence, config.rules)
    for model, images in evidence.counts:
        write_figure(out / "shares" / f"{model}_on_{images}.png", shares_picture(connections, (model, images), taxonomy.order))


def print_effects(path: Path, console: Console) -> None:
    """What effects.json says: the scores with and without the taxonomy, and what each relation changes, the worst first."""
    content = json.loads(path.read_text(encoding="utf-8"))
    table = Table(title="what each relation changes in validation mIoU, in points (95 % of images drawn anew)")
    for title in ("label", "is", "label", "on", "change", "from", "to", ""):
        table.add_column(title, justify="right" if title in ("change", "from", "to") else "left")
    for entry in sorted(content["effects"], key=lambda entry: entry["change"]):
        numbers = [f"{100 * entry[key]:+.2f}" for key in ("change", "low", "high")]
        table.add_row(escape(entry["a"]), WORDS[entry["kind"]], escape(entry["b"]), entry["dataset"], *numbers, entry["verdict"])
    console.print(table)
    for dataset, miou in content["miou"]["with"].items():
        console.print(f"{dataset}: mIoU {100 * content['miou']['without'][dataset]:.2f} without the taxonomy, {100 * miou:.2f} with it")
    hurts = [f"{entry['a']} {SIGNS[entry['kind']]} {entry['b']}" for entry in content["effects"] if entry["verdict"] == "hurts"]
    if hurts:
        console.print(escape(f"to leave out what hurts, as overrides: forbid: [{', '.join(dict.fromkeys(hurts))}]"))


def print_taxonomy(taxonomy: Taxonomy, console: Console) -> None:
    """Its relations, the most certain first, and what can be said of the search."""
    table = Table(title="relations")
    for title in ("label", "is", "label", "share of the first", "of the second", "score", "from"):
        table.add_column(title, justify="right" if title.startswith(("share", "of", "score")) else "left")
    for relation in sorted(taxonomy.relations, key=lambda relation: -relation.score):
        shares = ["-" if share is None else f"{share:.2f}" for share in (relation.share_a, relation.share_b)]
        table.add_row(escape(relation.a), WORDS[relation.kind], escape(relation.b), *shares, f"{relation.score:.2f}", relation.origin)
    console.print(table)
    outcome, universe = taxonomy.outcome, taxonomy.universe()
    proof = {"optimal": "no set is worth more", "time limit": f"none is worth more than {outcome.bound}", "heuristic": "without proof"}
    console.print(
        f"{len(taxonomy.relations)} relations worth {outcome.worth:.2f} ({proof[outcome.status]}), "
        f"{len(taxonomy.rejected)} candidates left out, {len(universe.leaves)} universal classes"
    )
