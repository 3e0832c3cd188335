"""Searching the rules of taxonomies by what was stored."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_hypotheses import random_winners
from test_merging import VIEWS, taxonomy

from benchmarks.taxonomy_streets import SPACES, true_pairs
from data.streets.labels import label_space
from data.taxonomy import Evidence, Rules, read_taxonomy, write_taxonomy
from data.taxonomy.connections import connect
from data.taxonomy.exact import exact
from data.taxonomy.hypotheses import write_winners
from data.taxonomy.problem import Problem
from taxomix import main
from trainers.evaluation.results import write_json
from tune.config import HowConfig, TaxonomySearchConfig
from tune.space import Numbers, Parameter
from tune.taxonomy import PAPER, RANGES, USED, at, best_of, parameters_of, rules_of, scorer_of, search_taxonomies, trimmed, truth_of


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Evidence between the datasets of test_merging, answers of a concatenation, and a taxonomy that is taken for the truth."""
    generator = np.random.default_rng(0)
    labels = {name: list(view.names) for name, view in VIEWS.items()}
    pairs = [(a, b) for a in labels for b in labels if a != b]
    counts = {pair: generator.integers(0, 1000, (len(labels[pair[1]]), len(labels[pair[0]]))) ** 2 for pair in pairs}
    entries = [
        {
            "predictions_of": a,
            "labels_of": b,
            "predictions": labels[a],
            "labels": labels[b],
            "counts": matrix.tolist(),
            "no_prediction": [0] * len(labels[b]),
        }
        for (a, b), matrix in counts.items()
    ]
    content = {"version": 1, "pairs": entries}
    write_json(tmp_path / "confusions.json", content)
    write_winners(tmp_path / "winners.parquet", [random_winners(name) for name in VIEWS])
    write_taxonomy(tmp_path / "truth.yaml", taxonomy())
    return {"evidence": tmp_path / "confusions.json", "winners": tmp_path / "winners.parquet", "truth": tmp_path / "truth.yaml"}


def config(files: dict[str, Path], **more: object) -> TaxonomySearchConfig:
    return TaxonomySearchConfig(name="taxonomy", **{**files, **more})  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1), min_size=len(RANGES), max_size=len(RANGES)))
def test_every_setting_is_rules_and_has_only_what_its_typing_goes_by(parts: list[float]) -> None:
    wanted = TaxonomySearchConfig(name="taxonomy", evidence=Path("x"))
    setting = trimmed(at(parameters_of(wanted, ()), parts), wanted)
    assert set(setting) == USED[str(setting["typing"])]
    assert isinstance(rules_of(setting), Rules)


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe"])
def test_all_samplers_score_each_setting_by_each_goal(sampler: str, files: dict[str, Path]) -> None:
    wanted = config(files, typings=("difference",))
    space = [Parameter(name=name, range=Numbers(low=0, high=1), paths=((name,),)) for name in ("epsilon", "delta")]
    how = HowConfig(trials=50, sampler=sampler, points=2)  # type: ignore[arg-type]
    parameters, scored = search_taxonomies(wanted, how, space)
    assert {one.name for one in parameters} == USED["difference"] - {"typing"}
    assert len(scored) == (2 ** len(parameters) if sampler == "grid" else 50)
    scorer = scorer_of(wanted)
    for one in scored[:5]:
        assert one.goals == scorer.goals(scorer.taxonomy(rules_of(one.setting)))
    ordered = best_of(scored, "merged_miou")
    assert ordered[0].goals["merged_miou"] == max(one.goals["merged_miou"] for one in scored)
    assert len({one.key for one in ordered}) == len(ordered)


def test_the_same_seed_tries_the_same_settings(files: dict[str, Path]) -> None:
    found = [search_taxonomies(config(files), HowConfig(trials=20, seed=seed), ())[1] for seed in (1, 1, 2)]
    assert [one.setting for one in found[0]] == [one.setting for one in found[1]] != [one.setting for one in found[2]]


def test_the_truth_of_a_universe_is_that_of_the_streets() -> None:
    labels = {name: tuple(label_space(name).view().names) for name in SPACES}
    pairs = [(a, b) for a in SPACES for b in SPACES if a != b]
    counts = {(a, b): np.ones((len(labels[b]), len(labels[a])), np.int64) for a, b in pairs}
    evidence = Evidence(labels=labels, counts=counts, pixels={pair: int(matrix.sum()) for pair, matrix in counts.items()})
    true = truth_of(Path("streets"), evidence)
    found = {(evidence.nodes[a], evidence.nodes[b]) for a, b in np.argwhere(true & ~np.eye(len(true), dtype=bool)).tolist()}
    assert found == set(true_pairs(SPACES))


@given(st.integers(0, 10_000))
def test_a_pair_of_labels_is_solved_as_the_program_solves_it(seed: int) -> None:
    """Two labels with nothing else: the best of three relations, or none."""
    generator = np.random.default_rng(seed)
    counts = {("a", "b"): generator.integers(0, 100, (1, 1)), ("b", "a"): generator.integers(0, 100, (1, 1))}
    counts[("a", "b")][0, 0] += 1
    evidence = Evidence(labels={"a": ("x",), "b": ("y",)}, counts=counts, pixels={pair: int(m.sum()) for pair, m in counts.items()})
    rules = Rules(typing=generator.choice(["shares", "difference"]).item(), share=0.3, epsilon=float(generator.uniform(0, 2)))
    problem = Problem(connections=connect(evidence, rules))
    found = exact(problem)
    connections = problem.connections
    assert found.worth == found.bound == max(0.0, connections.equal[0, 1], connections.subset[0, 1], connections.subset[1, 0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search.objective=agreement"], "search.truth: missing, expected a file for search.objective=agreement"),
        (["search.objective=merged_miou"], "search.winners: missing, expected a file for search.objective=merged_miou"),
        (["search.objective=luck"], "search.objective: 'luck' found, expected one of merged_miou, likelihood, agreement"),
        (
            ["search.objective=likelihood", "space.epsilom=uniform(0, 1)"],
            "space.epsilom: no parameter of the rules, expected one of",
        ),
        (["search.objective=likelihood", "space.share=uniform(0, 2)"], "space.share: rules.share: 2 found, expected a part in 0..1"),
        (["search.objective=likelihood", "search.typings=[share]"], "search.typings: share found, expected some of shares"),
        (["search.objective=likelihood", "search.truth=/nowhere"], "search.truth"),
    ],
)
def test_what_cannot_be_searched_is_told(
    words: list[str], message: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"search.evidence={files['evidence']}", f"run.dir={tmp_path / 'runs'}", "run.name=rules"]
    assert main(["tune", "search=taxonomy", *where, *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_command_writes_what_was_found(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [f"search.{name}={path}" for name, path in files.items()]
    test = [f"search.test_evidence={files['evidence']}", f"search.test_winners={files['winners']}"]
    assert main(["tune", "search=taxonomy", *where, *test, "tune.trials=60", f"run.dir={tmp_path}", "run.name=rules"]) == 0
    folder = tmp_path / "rules"
    report = json.loads((folder / "report.json").read_text())
    rows = list(csv.DictReader((folder / "settings.csv").read_text().splitlines()))
    assert len(rows) == report["settings"] > 50
    assert max(float(row["merged_miou"]) for row in rows) == report["best"]["goals"]["merged_miou"]
    for name in ("found", "default", "paper 000 (0.33, 0.5)"):
        compared = report["compared"][name]
        assert compared["test"]["merged_miou"] == compared["val"]["merged_miou"]
    found = read_taxonomy(folder / "taxonomy.yaml")
    assert len(found.relations) == report["best"]["relations"]
    assert yaml.safe_load((folder / "universe.yaml").read_text())["leaves"]
    assert (folder / "parameters.png").is_file()
    assert "rules" in capsys.readouterr().out


def test_the_papers_parameters_are_those_of_its_mode() -> None:
    assert (PAPER.epsilon, PAPER.delta, PAPER.score, PAPER.typing, PAPER.unmix) == (0.33, 0.5, "sum", "difference", False)
