"""`taxomix taxonomy`: from runs, or from matrices that were stored, to a taxonomy with its universe and pictures."""

from collections.abc import Mapping
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
from data.taxonomy.pictures import shares_picture, tree_picture
from data.universe import Color
from trainers.evaluation.cross import CrossConfig, Entries, collect
from trainers.evaluation.results import write_json

Value = bool | int | float | str


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
    return taxonomy


def _draw(out: Path, taxonomy: Taxonomy, evidence: Evidence, config: TaxonomyConfig) -> None:
    write_figure(out / "tree.png", tree_picture(taxonomy))
    (out / "shares").mkdir(exist_ok=True)
    connections = connect(evidence, config.rules)
    for model, images in evidence.counts:
        write_figure(out / "shares" / f"{model}_on_{images}.png", shares_picture(connections, (model, images), taxonomy.order))


def print_taxonomy(taxonomy: Taxonomy, console: Console) -> None:
    """Its relations, the most certain first, and what can be said of the search."""
    table = Table(title="relations")
    for title in ("label", "is", "label", "share of the first", "of the second", "score", "from"):
        table.add_column(title, justify="right" if title.startswith(("share", "of", "score")) else "left")
    for relation in sorted(taxonomy.relations, key=lambda relation: -relation.score):
        shares = ["-" if share is None else f"{share:.2f}" for share in (relation.share_a, relation.share_b)]
        kind = "the same as" if relation.kind == "equal" else "a part of"
        table.add_row(escape(relation.a), kind, escape(relation.b), *shares, f"{relation.score:.2f}", relation.origin)
    console.print(table)
    outcome, universe = taxonomy.outcome, taxonomy.universe()
    proof = {"optimal": "no set is worth more", "time limit": f"none is worth more than {outcome.bound}", "heuristic": "without proof"}
    console.print(
        f"{len(taxonomy.relations)} relations worth {outcome.worth:.2f} ({proof[outcome.status]}), "
        f"{len(taxonomy.rejected)} candidates left out, {len(universe.leaves)} universal classes"
    )
