"""Tables of variants over seeds: what stands in them is what evaluations counted."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from benchmarks import experiment
from benchmarks.experiment import Experiment, ScoreConfig, read_experiment, score_of
from data.config import to_plain
from data.errors import InputError
from taxomix import main

FILES = sorted(Path(experiment.__file__).with_name("experiments").glob("*.yaml"))

CONTENT = {
    "datasets": {
        "some": {
            "iou": {"a": 0.5, "b": 0.25, "c": None},
            "confusion_matrix": [[6, 2, 0, 0], [1, 1, 0, 2], [0, 0, 0, 0]],
        }
    }
}


@pytest.mark.parametrize(
    ("score", "classes", "expected"),
    [
        ("miou", None, (6 / 9 + 1 / 6) / 2),  # c is absent
        ("miou", ("b", "c"), 1 / 6),
        ("mpa", None, (6 / 8 + 1 / 4) / 2),
        ("mpa", ("a",), 6 / 8),
        ("pixel_accuracy", None, 7 / 12),
        ("pixel_accuracy", ("b",), 1 / 4),
    ],
)
def test_scores_are_over_the_classes_asked_for(score: str, classes: tuple[str, ...] | None, expected: float) -> None:
    assert score_of(ScoreConfig(dataset="some", score=score, classes=classes), CONTENT) == pytest.approx(expected)  # type: ignore[arg-type]


def test_an_unknown_dataset_or_class_is_told() -> None:
    with pytest.raises(InputError, match="class d of some found, expected some of a, b, c"):
        score_of(ScoreConfig(dataset="some", score="miou", classes=("a", "d")), CONTENT)
    with pytest.raises(InputError, match="dataset other found, expected one of some"):
        score_of(ScoreConfig(dataset="other", score="miou"), CONTENT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_read(path: Path) -> None:
    found = read_experiment(path)
    assert found.variants
    assert all(word.partition("=")[1] for words in (found.words, *found.variants.values(), *found.prepare) for word in words)


def test_a_file_with_a_wrong_name_is_told(tmp_path: Path) -> None:
    content = {"about": "", "words": [], "variants": {"one": []}, "scores": {}, "without": {"two": []}}
    path = tmp_path / "some.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"some.yaml: without.two: .*expected a variant"):
        read_experiment(path)


def test_variants_whose_runs_have_one_name_and_missing_data_are_told(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    content = {"about": "", "words": ["source={DATA}/a"], "variants": {"a b": [], "a_b": []}, "scores": {}}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit, match=r"some.yaml: variants, evaluations: 'a b' and 'a_b' found"):
        experiment.main([str(path)])
    path.write_text(yaml.safe_dump({**content, "variants": {"a": []}}))
    with pytest.raises(SystemExit, match="--data: missing"):
        experiment.main([str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match=r"nowhere\.yaml"):
        experiment.main([str(tmp_path / "nowhere.yaml")])


def table_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]


def in_this_process(command: list[str], **_: object) -> SimpleNamespace:
    """Instead of a process that imports torch for each run."""
    return SimpleNamespace(returncode=main(command[3:]))


def test_two_seeds_of_a_tiny_job_give_a_row(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment.subprocess, "run", in_this_process)
    content = Experiment(
        about="Tiny.",
        words=("data=mine", f"data.root={shards}", "data.crop.size=[64, 64]", "loop.steps=1", "loop.overlays=0", "cluster=none"),
        variants={"disks alone": ("data.mix={disks: 1}",), "both": ("data.mix={disks: 1, tones: 1}",)},
        scores={"disks": ScoreConfig(dataset="disks", score="miou"), "tones": ScoreConfig(dataset="tones", score="mpa")},
        without={"disks alone": ("tones",)},
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(to_plain(content), sort_keys=False))
    words = [str(path), "--out", str(tmp_path / "out"), "--seeds", "0", "1", "--jobs", "1"]
    experiment.main(words)
    rows = table_of(capsys)
    assert rows[0].startswith("| variant | disks | tones |")
    assert rows[2].startswith("| disks alone | ")
    assert ") | - |" in rows[2]
    assert rows[3].count("±") == 2
    checkpoints = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")}
    assert len({path.parent for path in checkpoints}) == 4
    experiment.main(words)  # nothing is trained again
    assert table_of(capsys) == rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")} == checkpoints
    (tmp_path / "out" / "tiny" / "both-0.json").unlink()
    assert main(["evaluate", f"run={tmp_path / 'out' / 'tiny' / 'both-0'}", "overlays=0"]) == 0
    with pytest.raises(SystemExit, match=r"both-0/evaluation\.json: not what training wrote"):
        experiment.main(words)


def test_rows_that_train_nothing_and_what_is_done_before(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment.subprocess, "run", in_this_process)
    job = ["data=mine", "data.root={SHARDS}", "data.mix={disks: 1, tones: 1}", "data.crop.size=[64, 64]", "loop.steps=1"]
    job += ["loop.overlays=0", "cluster=none", "outputs=concat"]
    content = {
        "about": "Tiny.",
        "before": [["train", *job, "seed={SEED}", "run.dir={OUT}/tiny", "run.name=first-{SEED}"]],
        "words": job,
        "variants": {"a": ["model.weights={OUT}/tiny/first-{SEED}"]},
        "evaluations": {"a among all": {"of": "a", "words": ["predict=all"]}},
        "also": ["datasets={tones: disks}", "through={OUT}/table.yaml"],
        "scores": {"disks": {"dataset": "disks", "score": "miou"}, "tones": {"dataset": "tones", "score": "miou"}},
    }
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.yaml").write_text("{version: 1, labels: {tones: {dark: ground, colourful: [red, blue]}}}")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    words = [str(path), "--out", str(tmp_path / "out"), "--shards", str(shards), "--seeds", "3"]
    experiment.main(words)
    folder = tmp_path / "out" / "tiny"
    assert (folder / "first-3" / "checkpoints").is_dir()
    rows = table_of(capsys)
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["a", "a among all"]
    entries = [json.loads((folder / f"{name}-3.json").read_text())["datasets"].values() for name in ("a", "a_among_all")]
    misses = [sum(np.array(entry["confusion_matrix"])[:, -1].sum() for entry in found) for found in entries]
    assert misses[0] == 0 < misses[1]
    for name in ("a", "a_among_all"):
        also = json.loads((folder / f"{name}-3-also" / "evaluation.json").read_text())["datasets"]["tones"]
        assert json.loads((folder / f"{name}-3.json").read_text())["datasets"]["tones"] == also
        assert also != json.loads((folder / f"{name}-3" / "evaluation.json").read_text())["datasets"]["tones"]
    made = {file: file.stat().st_mtime_ns for file in folder.rglob("*.json")}
    experiment.main(words)  # nothing is done again
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.json")} == made
    path.write_text(yaml.safe_dump(content | {"evaluations": {"b": {"of": "c", "words": []}}}))
    with pytest.raises(SystemExit, match=r"evaluations\.b\.of: c found, expected a variant"):
        experiment.main(words)


def test_collapsed_classes_stand_in_the_table(tmp_path: Path) -> None:
    """b is never predicted by the first; a has collapsed in one of its runs. The dataset of the first column counts alone."""
    entry = {"iou": {"a": 0.5, "b": 0.0}, "confusion_matrix": [[6, 0, 0], [2, 0, 0]]}
    well = {"iou": {"a": 0.5, "b": 0.5}, "confusion_matrix": [[6, 1, 0], [1, 2, 0]]}
    columns = {"mIoU": ScoreConfig(dataset="some", score="miou")}
    for scores, expected in (
        (columns, "| b (2), a (1) |"),
        ({**columns, "mPA": ScoreConfig(dataset="other", score="mpa")}, "| b (2), a (1) |"),
    ):
        about = Experiment(about="", words=(), variants={"one": (), "two": ()}, scores=scores, seeds=(0, 1))
        bench = experiment.Bench(about, tmp_path, "", tmp_path / "shards")
        for run, found, classes in (("one-0", entry, ["a", "b"]), ("one-1", entry, []), ("two-0", well, []), ("two-1", well, [])):
            content = {"datasets": {"some": found, "other": found}, "collapsed": {"some": classes}}
            (tmp_path / f"{run}.json").write_text(json.dumps(content))
        lines = bench.table((0, 1)).splitlines()
        assert lines[0].endswith("| never predicted or collapsed (in runs) |")
        assert lines[2].endswith(expected)
        assert lines[3].endswith("| none |")


def test_prepared_data_are_taken_as_they_are(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment.subprocess, "run", in_this_process)
    words = ["data=mine", "data.root={SHARDS}", "data.mix={disks: 1}", "data.crop.size=[64, 64]", "loop.steps=1", "loop.overlays=0"]
    content = {
        "about": "Tiny.",
        "prepare": [["dataset=folder", "source={DATA}/disks", "out={SHARDS}"]],
        "words": [*words, "cluster=none"],
        "variants": {"a": []},
        "scores": {"mIoU": {"dataset": "disks", "score": "miou"}},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    experiment.main([str(path), "--out", str(tmp_path / "out"), "--shards", str(shards), "--seeds", "0"])
    assert not (tmp_path / "out" / "tiny" / "shards").exists()
