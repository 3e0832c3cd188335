"""`taxomix taxonomy`: from runs, and from what an earlier call stored, to files that training reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.taxonomy import read_evidence, read_taxonomy
from data.universe import read_universe
from taxomix import main


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of disks and of tones by themselves, and one of both."""
    folder = tmp_path_factory.mktemp("runs")
    words = [
        "data=mine",
        f"data.root={shards}",
        "data.crop.size=[64, 64]",
        "loop.steps=2",
        "loop.overlays=0",
        "cluster=none",
        "model=edanet",
    ]
    for name, mix in {"disks": "{disks: 2}", "tones": "{tones: 2}", "both": "{disks: 1, tones: 1}"}.items():
        concat = ["outputs=concat"] if name == "both" else []
        assert main(["train", *words, *concat, f"data.mix={mix}", f"run.dir={folder}", f"run.name={name}"]) == 0
    return folder


SURE = "rules={share: 0.0}"
"""Models of two steps are right about nothing; whatever share they have counts."""


def test_runs_of_one_dataset_each_give_files_that_can_be_trained_with(runs: Path, tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    assert main(["taxonomy", f"runs=[{runs / 'disks'}, {runs / 'tones'}]", f"out={out}", SURE]) == 0
    evidence = read_evidence(out / "confusions.json")
    assert evidence.labels == {"disks": ("ground", "red", "blue"), "tones": ("dark", "colourful")}
    pixels = 4 * 72 * 96  # four images in each val split; two of 72 rows are ignored
    assert {pair: evidence.pixels[pair] for pair in evidence.counts} == dict.fromkeys(
        (("disks", "tones"), ("tones", "disks")), pixels * 70 // 72
    )
    assert evidence.counts["disks", "tones"].shape == (2, 3)
    taxonomy = read_taxonomy(out / "taxonomy.yaml")
    assert taxonomy.relations
    universe = read_universe(str(out / "universe.yaml"))
    assert all(leaf.color is not None for leaf in universe.leaves)  # those of the datasets
    assert {path.name for path in (out / "shares").iterdir()} == {"disks_on_tones.png", "tones_on_disks.png"}
    assert (out / "tree.png").stat().st_size > 1000
    words = [
        "data=mine",
        f"data.root={shards}",
        "data.mix={disks: 1, tones: 1}",
        "data.crop.size=[64, 64]",
        "loop.steps=1",
        "loop.overlays=0",
    ]
    words += ["outputs=universal", f"outputs.universe={out / 'universe.yaml'}", "cluster=none", "model=edanet"]
    assert main(["train", *words, f"run.dir={tmp_path}", "run.name=universal"]) == 0


@pytest.mark.parametrize(("trainer", "roles"), [("classmix", ("labelled", "unlabelled")), ("dacs", ("source", "target"))])
def test_a_found_universe_serves_every_trainer_and_datasets_that_are_not_trained_on(
    runs: Path, tmp_path: Path, shards: Path, trainer: str, roles: tuple[str, str]
) -> None:
    assert main(["taxonomy", f"runs=[{runs / 'disks'}, {runs / 'tones'}]", f"out={tmp_path}", SURE]) == 0
    job = ["data=mine", f"data.root={shards}", "data.crop.size=[64, 64]", "loop.steps=2", "loop.overlays=0", "cluster=none", "model=edanet"]
    job += ["outputs=universal", f"outputs.universe={tmp_path / 'universe.yaml'}", f"run.dir={tmp_path}"]
    mix = f"data.mix={{disks: {{samples: 2, role: {roles[0]}}}, tones: {{samples: 2, role: {roles[1]}}}}}"
    assert main(["train", *job, mix, f"trainer={trainer}", "run.name=both"]) == 0
    datasets = json.loads((tmp_path / "both" / "evaluation.json").read_text())["datasets"]
    assert set(datasets) == {"disks", "tones"}
    assert main(["train", *job, "data.mix={disks: 2}", "run.name=one"]) == 0
    assert main(["evaluate", f"run={tmp_path / 'one'}", "datasets=[disks, tones]", "overlays=0", "worst=0"]) == 0
    datasets = json.loads((tmp_path / "one" / "evaluation.json").read_text())["datasets"]
    assert list(datasets["tones"]["iou"]) == ["dark", "colourful"]  # by the labels that the universe has of it
    assert sum(map(sum, datasets["tones"]["confusion_matrix"])) > 0


def test_stored_evidence_needs_no_model_and_gives_the_same(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["taxonomy", f"runs=[{runs / 'both'}]", f"out={tmp_path / 'a'}", SURE]) == 0
    assert "relations worth" in capsys.readouterr().out
    assert main(["taxonomy", f"evidence={tmp_path / 'a' / 'confusions.json'}", f"out={tmp_path / 'b'}", SURE]) == 0
    assert main(["evaluate", f"run={runs / 'both'}", f"out={tmp_path / 'e'}", "cross=true", "overlays=0", "worst=0"]) == 0
    assert main(["taxonomy", f"evidence={tmp_path / 'e' / 'confusions.json'}", f"out={tmp_path / 'c'}", SURE]) == 0
    first, second = (read_taxonomy(tmp_path / name / "taxonomy.yaml") for name in ("a", "c"))
    assert set(first.relations) == set(second.relations)
    assert (tmp_path / "a" / "taxonomy.yaml").read_text() == (tmp_path / "b" / "taxonomy.yaml").read_text()


def test_a_concatenation_is_evaluated_and_predicts_by_a_taxonomy(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["taxonomy", f"runs=[{runs / 'both'}]", f"out={tmp_path}", SURE]) == 0
    given = [f"taxonomy={tmp_path / 'taxonomy.yaml'}", "merge=winner"]
    words = ["predict=all", "overlays=0", "worst=0"]
    matrices = {}
    for name, more in {"plain": [], "merged": given}.items():
        assert main(["evaluate", f"run={runs / 'both'}", f"out={tmp_path / name}", *words, *more]) == 0
        content = json.loads((tmp_path / name / "evaluation.json").read_text())
        matrices[name] = {dataset: np.array(entry["confusion_matrix"]) for dataset, entry in content["datasets"].items()}
    assert content["settings"]["taxonomy"].endswith("taxonomy.yaml")
    for dataset, plain in matrices["plain"].items():
        merged = matrices["merged"][dataset]
        assert (merged[:, :-1] >= plain[:, :-1]).all()  # what other datasets' labels took from them comes back
        assert merged.sum() == plain.sum()
    assert any((merged != matrices["plain"][dataset]).any() for dataset, merged in matrices["merged"].items())
    assert main(["evaluate", f"run={runs / 'disks'}", f"out={tmp_path}", *given]) == 2
    assert "a run with outputs=multihead found, expected concat" in capsys.readouterr().err
    assert main(["evaluate", f"run={runs / 'both'}", f"out={tmp_path}", "merge=logits"]) == 2
    assert "merge: logits found without a taxonomy" in capsys.readouterr().err


def test_evidence_looks_and_tests_of_a_run_with_a_taxonomy(runs: Path, tmp_path: Path) -> None:
    assert main(["taxonomy", f"runs=[{runs / 'both'}]", f"out={tmp_path}", SURE]) == 0
    given = [f"run={runs / 'both'}", "overlays=0", "worst=0", f"taxonomy={tmp_path / 'taxonomy.yaml'}", "merge=logits", "predict=all"]
    assert main(["evaluate", *given, f"out={tmp_path / 'cross'}", "cross=true"]) == 0
    matrices = [json.loads((folder / "confusions.json").read_text())["pairs"] for folder in (tmp_path, tmp_path / "cross")]
    assert all(pair in matrices[0] for pair in matrices[1])  # evidence knows no relation
    for average in ("probabilities", "logits"):
        assert main(["evaluate", *given, f"out={tmp_path / average}", "flip=true", f"average={average}"]) == 0
    found = [json.loads((tmp_path / name / "evaluation.json").read_text())["datasets"] for name in ("probabilities", "logits")]
    assert found[0] == found[1]  # sums of logits have no mean but that of logits


def test_labels_that_the_run_has_no_part_of_are_missed_not_left_out(runs: Path, tmp_path: Path, shards: Path) -> None:
    """disks/red and disks/blue are parts of tones/colourful, which a concatenation of tones alone cannot tell apart."""
    labels = {"disks": ["ground", "red", "blue"], "tones": ["dark", "colourful"]}
    counts = {("disks", "tones"): [[9000, 0, 0], [0, 9000, 9000]], ("tones", "disks"): [[9000, 0], [0, 9000], [0, 9000]]}
    pairs = [
        {"labels_of": d, "predictions_of": m, "labels": labels[d], "predictions": labels[m], "counts": of, "no_prediction": [0] * len(of)}
        for (m, d), of in counts.items()
    ]
    (tmp_path / "e.json").write_text(json.dumps({"version": 1, "pairs": pairs}))
    assert main(["taxonomy", f"evidence={tmp_path / 'e.json'}", f"out={tmp_path}", "rules={share: 0.6}"]) == 0
    job = ["data=mine", f"data.root={shards}", "data.crop.size=[64, 64]", "loop.steps=2", "loop.overlays=0", "cluster=none", "model=edanet"]
    assert main(["train", *job, "outputs=concat", "data.mix={tones: 2}", f"run.dir={tmp_path}", "run.name=tones"]) == 0
    words = [f"run={tmp_path / 'tones'}", f"taxonomy={tmp_path / 'taxonomy.yaml'}", "datasets=[disks]", "overlays=0", "worst=0"]
    assert main(["evaluate", *words]) == 0
    iou = json.loads((tmp_path / "tones" / "evaluation.json").read_text())["datasets"]["disks"]["iou"]
    assert list(iou) == labels["disks"]
    assert iou["red"] == iou["blue"] == 0


@pytest.mark.parametrize("among", ["own", "all"])
def test_relations_are_tested_by_what_they_change(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], among: str) -> None:
    words = ["taxonomy", f"runs=[{runs / 'both'}]", f"out={tmp_path}", SURE, f"among={among}"]
    assert main([*words, f"test={runs / 'both'}"]) == 0
    assert "without the taxonomy" in capsys.readouterr().out
    content = json.loads((tmp_path / "effects.json").read_text())
    assert (tmp_path / "effects.png").stat().st_size > 1000
    scored = ["evaluate", f"run={runs / 'both'}", "overlays=0", "worst=0", f"predict={among}"]
    for name, more in {"with": [f"taxonomy={tmp_path / 'taxonomy.yaml'}", "merge=winner"], "without": []}.items():
        assert main([*scored, f"out={tmp_path / name}", *more]) == 0
        datasets = json.loads((tmp_path / name / "evaluation.json").read_text())["datasets"]
        assert content["miou"][name] == pytest.approx({dataset: entry["miou"] for dataset, entry in datasets.items()}, nan_ok=True)
    again = ["taxonomy", f"evidence={tmp_path / 'confusions.json'}", f"out={tmp_path / 'again'}", SURE, f"among={among}"]
    assert main([*again, f"test={tmp_path / 'winners.parquet'}"]) == 0
    assert json.loads((tmp_path / "again" / "effects.json").read_text()) == content
    for test, message in {"disks": "a run with outputs=multihead found, expected concat", "nowhere": "nowhere: no such file"}.items():
        words = ["taxonomy", f"evidence={tmp_path / 'confusions.json'}", f"out={tmp_path / 'never'}", f"test={runs / test}"]
        assert main(words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "never").exists()
    assert main(again) == 0
    assert not (tmp_path / "again" / "effects.json").exists()  # of what was there before


def test_overrides_and_modes_count(tmp_path: Path) -> None:
    labels = {"a": ["road", "car"], "b": ["street", "auto"]}
    right = {"counts": [[90_000, 1000], [1000, 90_000]], "no_prediction": [0, 0]}
    pairs = [
        {"labels_of": d, "predictions_of": m, "labels": labels[d], "predictions": labels[m], **right} for m, d in (("a", "b"), ("b", "a"))
    ]
    (tmp_path / "e.json").write_text(json.dumps({"version": 1, "pairs": pairs}))
    words = ["taxonomy", f"evidence={tmp_path / 'e.json'}", f"out={tmp_path / 'out'}"]
    for mode in ("default", "thesis"):
        assert main([*words, f"mode={mode}"]) == 0
        taxonomy = read_taxonomy(tmp_path / "out" / "taxonomy.yaml")
        assert {(r.a, r.kind, r.b) for r in taxonomy.relations} == {("a/road", "equal", "b/street"), ("a/car", "equal", "b/auto")}
        assert taxonomy.mode == mode
    (tmp_path / "mine.yaml").write_text("version: 1\nforbid: [a/car ~ b/auto]\n")
    assert main([*words, f"overrides={tmp_path / 'mine.yaml'}"]) == 0
    assert [(r.a, r.b) for r in read_taxonomy(tmp_path / "out" / "taxonomy.yaml").relations] == [("a/road", "b/street")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected runs=[RUN, RUN] or evidence=FILE"),
        (["runs=[nowhere]"], "runs: nowhere: run=nowhere: no such folder"),
        (["evidence=nowhere.json"], "nowhere.json"),
        (["evidence=x", "rules={shar: 1}"], "shar"),
    ],
)
def test_what_cannot_work_is_one_line(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["taxonomy", *words, f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dataset_in_two_runs_is_told(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["taxonomy", f"runs=[{runs / 'disks'}, {runs / 'both'}]", f"out={tmp_path / 'out'}"]) == 2
    assert "runs: disks found in" in capsys.readouterr().err
    assert main(["taxonomy", f"runs=[{runs / 'disks'}]", f"out={tmp_path / 'out'}"]) == 2
    assert "expected two datasets or more" in capsys.readouterr().err
