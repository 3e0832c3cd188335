"""Jobs that start from weights: of another run, of torchvision, on several ranks."""

from functools import partial
from pathlib import Path

import pytest
import torch
from test_distributed import on_ranks
from tiny import view_of
from torch import Tensor
from torchvision.models import get_model

import conf
from data.config import build
from data.errors import InputError
from models.model import build_model
from models.weight_names import JobHead, run_form
from taxomix import main
from trainers.config import JobConfig
from trainers.loop import Training, train
from trainers.ranks import Ranks
from trainers.weights import start_from_weights


def head(outputs: str = "multihead", **classifiers: str) -> JobHead:
    return JobHead(outputs=outputs, classifiers={name: tuple(text) for name, text in classifiers.items()}, normalise="imagenet")


def test_classifiers_go_to_those_that_decide_between_the_same() -> None:
    form = run_form(head(a="xy", b="xyz", c="x"), head(c="x", b="xzy", d="x"))
    assert form.place("model.network.encoder.conv1.weight").names == ("network.encoder.conv1.weight",)
    assert form.place("model.outputs.decoder.last.0.bias").names == ("outputs.decoder.last.0.bias",)
    assert form.place("model.outputs.classifiers.2.module.bias").names == ("outputs.classifiers.0.module.bias",)
    assert form.place("model.outputs.decoders.2.last.0.bias").names == ("outputs.decoders.0.last.0.bias",)
    assert form.place("model.outputs.classifiers.0.module.bias").reason == "the classifier of a, which is not in this job"
    assert form.place("model.outputs.classifiers.1.module.bias").reason == "the classifier of b, which had other classes"
    other = run_form(head("universal", a="xy"), head("concat", a="xy"))
    assert other.place("model.outputs.classifiers.0.module.bias").reason == "of outputs=universal, this job has concat"
    assert other.place("model.outputs.decoder.last.0.bias").names == ("outputs.decoder.last.0.bias",)


def test_what_was_learnt_of_the_same_classes_is_taken_along() -> None:
    leanings = "model.outputs.leanings.0"
    assert run_form(head("learned", a="xy"), head("learned", a="xy")).place(leanings).names == (leanings.removeprefix("model."),)
    assert "of other classes" in (run_form(head("learned", a="xy"), head("learned", a="yx")).place(leanings).reason or "")


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step over disks and tones."""
    runs = tmp_path_factory.mktemp("trained")
    words = [
        "data=mine",
        f"data.root={shards}",
        "data.mix={disks: 1, tones: 1}",
        "data.crop.size=[32, 32]",
        "loop.steps=1",
        "loop.overlays=0",
    ]
    assert main(["train", *words, "cluster=none", f"run.dir={runs}", "run.name=first"]) == 0
    return runs / "first"


def test_a_run_starts_from_another(
    tiny_job: list[str], trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the three datasets of the job, tones and disks were in the first run, in another order."""
    started: dict[str, Tensor] = {}
    monkeypatch.setattr(Training, "run", lambda self, report: started.update(self.trainer.model.state_dict()))
    words = [word for word in tiny_job[1:] if not word.startswith("data.mix")]
    words += ["data.mix={boxed: 2, tones: 2, disks: 2}", "run.name=second", f"model.weights={trained}"]
    job = build(JobConfig, conf.compose("train", words))
    train(job, Ranks())
    expected = torch.load(trained / "checkpoints" / "best.pt", weights_only=True)["model"]
    assert torch.equal(started["network.encoder.conv1.weight"], expected["model.network.encoder.conv1.weight"])
    for new, old in ((1, 1), (2, 0)):
        key = "outputs.classifiers.{}.module.weight"
        assert torch.equal(started[key.format(new)], expected["model." + key.format(old)])
    text = (job.run.folder / "weights.txt").read_text()
    assert "as initialised: outputs.classifiers.0 (2 tensors)" in text
    assert "0 tensors of it are not used" in text
    assert text in capsys.readouterr().out


def test_weights_are_read_by_a_fresh_run_alone(
    tiny_job: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "moved.pth"
    file.write_bytes((trained / "checkpoints" / "best.pt").read_bytes())
    words = [*tiny_job, "run.name=some", "loop.steps=2", "loop.evaluate_every=2", f"model.weights={file}"]
    assert main(["plan", *words[1:-2], words[-1]]) == 0
    assert "note: model.weights: 195 of 197 tensors" in capsys.readouterr().out.replace("\n", " ")
    assert main([*words, "loop.checkpoint_every=1"]) == 0
    assert capsys.readouterr().out.count("weights: 195 of 197 tensors") == 1
    file.unlink()
    (tmp_path / "runs" / "some" / "checkpoints" / "step-00000002.pt").unlink()
    assert main([*words, "loop.checkpoint_every=1"]) == 0
    assert "going on from step 1" in capsys.readouterr().out
    assert main(["evaluate", f"run={tmp_path / 'runs' / 'some'}", "checkpoint=last"]) == 0
    assert main([*words[:-1], "loop.checkpoint_every=1"]) == 2
    assert "model.weights: None found, but" in capsys.readouterr().err
    assert main([*words, "run.name=other"]) == 2
    assert not (tmp_path / "runs" / "other").exists()


@pytest.mark.parametrize("subcommand", ["plan", "train"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.weights=nowhere.pth"], "/nowhere.pth: no such file or folder, expected imagenet, a file or the folder of a run"),
        (["model.weights=."], "no checkpoint found, expected the folder of a trained run"),
        (["model.weights=https://some.org/a.pth"], "model.weights: https://some.org/a.pth found, expected a name, a file"),
        (["model=erfnet", "model.weights=imagenet"], "torchvision has no weights of an encoder like that of erfnet, expected swiftnet"),
        (["model.weights=IMAGENET1K_V7"], "IMAGENET1K_V7 found, torchvision's resnet18 has IMAGENET1K_V1"),
    ],
)
def test_weights_that_cannot_be_had_are_told_before_anything_starts(
    subcommand: str, words: list[str], message: str, tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main([subcommand, *tiny_job[1:], "run.name=some", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def start_on_rank(folder: Path, rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    for name in ("nowhere", "encoder"):
        words = [f"model.weights={folder / name}.pth", f"run.dir={folder}", "run.name=some", "data=mine", "data.root=x", "data.mix={a: 2}"]
        job = build(JobConfig, conf.compose("train", words))
        torch.manual_seed(rank)
        model = build_model(job.model, job.outputs, {"a": view_of(3)}).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            start_from_weights(job, model, Ranks(rank=rank, world_size=world_size))
        except InputError as error:
            out[f"{name} error"] = torch.tensor(list(str(error).encode()), dtype=torch.uint8)
    out.update(model.state_dict())


def test_all_ranks_end_with_the_weights_of_the_first_or_with_its_error(tmp_path: Path) -> None:
    torch.save(get_model("resnet18", weights=None).state_dict(), tmp_path / "encoder.pth")
    first, second = on_ranks(partial(start_on_rank, tmp_path), tmp_path)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "nowhere.pth: no such file or folder" in bytes(first["nowhere error"].tolist()).decode()
    assert "encoder error" not in first
    assert torch.equal(first["network.encoder.conv1.weight"], torch.load(tmp_path / "encoder.pth", weights_only=True)["conv1.weight"])
    assert "torchvision's resnet18" in (tmp_path / "some" / "weights.txt").read_text()
