import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import pytest
import yaml

import conf
from data.adapters import ADAPTERS
from data.config import build, to_plain
from data.errors import InputError
from data.inspect.opening import InspectConfig
from data.prepare import PrepareConfig
from taxomix import main
from trainers.config import JobConfig
from trainers.evaluation.command import EvaluateConfig
from trainers.export import ExportConfig
from trainers.predict import PredictConfig
from trainers.taxonomy import FindConfig
from tune.config import TuneConfig


@dataclass(frozen=True, kw_only=True)
class Left:
    name: Literal["left"]
    size: int


@dataclass(frozen=True, kw_only=True)
class Right:
    name: Literal["right"]
    ratio: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Whole:
    side: Left | Right
    mix: dict[str, int | Right] = field(default_factory=dict)
    where: Path | None = None
    pair: tuple[int, int] = (1, 2)
    on: bool = False


def test_builds_nested_dataclasses_and_back() -> None:
    values: dict[str, Any] = {
        "side": {"name": "right", "ratio": 1},
        "mix": {"a": 3, "b": {"name": "right"}},
        "where": "x/y",
        "pair": [3, 4],
    }
    whole = build(Whole, values)
    assert whole == Whole(side=Right(name="right", ratio=1.0), mix={"a": 3, "b": Right(name="right")}, where=Path("x/y"), pair=(3, 4))
    assert build(Whole, to_plain(whole)) == whole


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"side": {"name": "left"}}, "side.size: missing; give side.size=..."),
        ({"side": {"name": "left", "size": 1.5}}, "side.size: 1.5 found, expected a whole number"),
        ({"side": {"name": "left", "size": True}}, "side.size: True found, expected a whole number"),
        ({"side": {"name": "lfet", "size": 1}}, "side.name: 'lfet' found (did you mean left?), expected one of left, right"),
        ({"side": {"name": "left", "size": 1}, "pear": [1, 2]}, "pear: unknown key (did you mean pair?)"),
        ({"side": {"name": "left", "size": 1}, "pair": [1]}, "pair: [1] found, expected 2 values"),
        ({"side": {"name": "left", "size": 1}, "pair": "12"}, "pair: '12' found, expected a list"),
        ({"side": {"name": "left", "size": 1}, "on": "yes"}, "on: 'yes' found, expected true or false"),
        ({"side": {"name": "left", "size": 1}, "mix": 3}, "mix: 3 found, expected keys and values"),
        ({"side": {"name": "left", "size": 1}, "mix": {"a": "many"}}, "mix.a: 'many' found, expected a whole number"),
        ({"side": 3}, "side: 3 found, which does not fit"),
    ],
)
def test_errors_name_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(Whole, values)
    assert message in str(caught.value)


PRIMARY: dict[str, tuple[type, list[str]]] = {
    "train": (JobConfig, []),
    "prepare": (PrepareConfig, ["dataset=streets", "out=x"]),
    "inspect": (InspectConfig, ["shards=x"]),
    "evaluate": (EvaluateConfig, ["run=x"]),
    "predict": (PredictConfig, ["run=x", "images=y", "out=z"]),
    "export": (ExportConfig, ["run=x", "format=onnx"]),
    "taxonomy": (FindConfig, ["evidence=x", "out=y"]),
    "tune": (TuneConfig, []),
}
NEEDED = {
    ("data", "mine"): ["data.root=x", "data.mix={a: 2}"],
    ("schedule", "steps"): ["schedule.milestones=[100]"],
    ("dataset", "folder"): ["source=x"],
    ("dataset", "webdataset"): ["source=x"],
    ("search", "taxonomy"): ["search.evidence=x"],
}
GROUPS = {
    "train": ["data", "model", "outputs", "trainer", "optim", "schedule", "cluster", "recipe"],
    "prepare": ["dataset"],
    "tune": ["search"],
}
CHOICES = [(name, group, choice) for name, groups in GROUPS.items() for group in groups for choice in conf.choices(group)]


@pytest.mark.parametrize("name", PRIMARY)
def test_every_primary_file_composes_and_converts(name: str) -> None:
    cls, words = PRIMARY[name]
    assert isinstance(build(cls, conf.compose(name, words)), cls)


@pytest.mark.parametrize(("name", "group", "choice"), CHOICES)
def test_every_choice_composes_and_converts(name: str, group: str, choice: str) -> None:
    cls, words = PRIMARY[name]
    built = build(cls, conf.compose(name, [*words, f"{group}={choice}", *NEEDED.get((group, choice), [])]))
    assert isinstance(built, cls)


def test_every_dataset_has_a_config_file_and_an_adapter() -> None:
    names = {get_args(get_type_hints(config)["name"])[0] for config in get_args(get_type_hints(PrepareConfig)["dataset"])}
    assert names == set(conf.choices("dataset"))
    assert names == {*ADAPTERS, "streets", "webdataset"}


def test_every_config_file_is_covered() -> None:
    files = {path.relative_to(conf.FOLDER).as_posix() for path in conf.FOLDER.rglob("*.yaml")}
    assert files == {f"{name}.yaml" for name in PRIMARY} | {f"{group}/{choice}.yaml" for _, group, choice in CHOICES}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "loop.stepps=3"], "taxomix train: loop.stepps: unknown key (did you mean loop.steps?)"),
        (
            ["train", "loop.ema.decay=0.9"],
            "taxomix train: loop.ema.decay: unknown key, loop.ema is empty; give the whole",
        ),
        (["train", "loop.steps=many"], "taxomix train: loop.steps: 'many' found, expected a whole number"),
        (["train", "loop.steps=0"], "taxomix train: loop.steps: 0 found, expected at least 1"),
        (["train", "cluster=cloud"], "taxomix train: cluster=cloud: no such choice, expected one of local, none, ray"),
        (["train", "data=mine"], "taxomix train: data.root: missing; give data.root=..."),
        (["train", "nonsense"], "taxomix train: nonsense: not a key=value word"),
        (["train", "run.name=../x"], "taxomix train: run.name: '../x' found"),
        (["train", "data.root=/nowhere"], "taxomix train: data.root=/nowhere: no such folder"),
        (["prepare", "out=x"], "taxomix prepare: dataset: missing; give dataset=cityscapes or dataset=folder or "),
        (["prepare", "dataset=folder", "out=x"], "taxomix prepare: source: missing"),
        (["prepare", "dataset=vistas", "out=x"], "taxomix prepare: source: missing"),
        (["prepare", "dataset=voc", "out=x", "dataset.sdb=y"], "taxomix prepare: dataset.sdb: unknown key"),
        (["prepare", "dataset=cityscapes", "out=x", "dataset.labels=both"], "taxomix prepare: dataset.labels: 'both' found"),
        (["evaluate"], "taxomix evaluate: run: missing"),
        (["evaluate", "run=/nowhere"], "taxomix evaluate: run=/nowhere: no such folder"),
        (["frobnicate"], "taxomix: frobnicate: no such subcommand"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


@pytest.mark.parametrize("path", ["/x/ü", "/x/a (1)/b", "a=b", "a,b", "a#b", "it's", "/x/with space", "C:\\x", "50%"])
def test_paths_may_hold_what_hydra_has_a_meaning_for(path: str) -> None:
    assert conf.compose("evaluate", [f"run={path}"])["run"] == path


def test_home_is_expanded() -> None:
    assert build(EvaluateConfig, conf.compose("evaluate", ["run=~/runs/x"])).run == Path.home() / "runs" / "x"


def test_a_mapping_replaces_the_one_in_the_file() -> None:
    assert conf.compose("train", ["data.mix={mine: 3}"])["data"]["mix"] == {"mine": 3}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """The config.yaml of a run, whose learning rate is no choice's."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_plain(build(JobConfig, conf.compose("train", ["optim.lr=0.5", "run.name=before"])))))
    return path


def test_a_config_file_is_taken_as_it_is_and_other_words_count(config_file: Path) -> None:
    before = build(JobConfig, yaml.safe_load(config_file.read_text()))
    assert build(JobConfig, conf.compose("train", [f"config={config_file}"])) == before
    words = [f"config={config_file}", "optim.lr=3", "optim=sgd", "run.name=after", "data.mix={a: 4}", "+trainer.weights.a=2"]
    after = build(JobConfig, conf.compose("train", words))
    assert (after.optim.name, after.optim.lr, after.run.name, after.data.mix, after.trainer.weights) == (
        "sgd",
        3,
        "after",
        {"a": 4},
        {"a": 2},
    )
    assert after.schedule == before.schedule


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["config=/nowhere"], "config=/nowhere: No such file or directory, expected a config.yaml that a run wrote"),
        (["config={}", "optim.lrr=1"], "optim.lrr: unknown key (did you mean optim.lr?)"),
        (["config={}", "optim=adm"], "optim=adm: no such choice, expected one of adam, adamw, sgd"),
        (["config={}", "recipe=camvid11"], "recipe=camvid11: not with config=, which says all that a recipe says"),
    ],
)
def test_what_does_not_go_with_a_config_file_is_told(words: list[str], message: str, config_file: Path) -> None:
    with pytest.raises(InputError) as caught:
        conf.compose("train", [word.replace("{}", str(config_file)) for word in words])
    assert str(caught.value).startswith(message)


def test_the_constraints_are_exact_versions() -> None:
    lines = (conf.FOLDER.parent / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+", line) for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", PRIMARY)
def test_help_lists_the_keys(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for key in conf.compose(name, PRIMARY[name][1]):
        assert f"{key}:" in text or f"{key}=" in text


def test_what_to_do_about_a_key_inside_of_nothing_or_of_a_recipe_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words, remedy in (
        (["optim.groups.norms.lr=2"], "optim.groups is empty; give the whole of it: 'optim.groups={norms: {lr: 2}}'"),
        (["optim.groups=3"], "expected keys and values"),
        (["recipe=paper001", "optim=adam"], "it comes from recipe=paper001: take it away with the word ~optim.momentum"),
        (["recipe=paper000_concat", "outputs=multihead"], "take it away with the word ~outputs.predict"),
        (["recipe=paper001", "optim.momentun=0.5"], "did you mean optim.momentum?"),
    ):
        assert main(["plan", *words]) == 2
        error = capsys.readouterr().err
        assert remedy in error
        assert error.count("\n") == 1
