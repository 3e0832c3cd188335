"""Whole jobs of ClassMix and DACS: their teacher, resuming, plans, and what cannot work."""

import json
from pathlib import Path

import pytest
import torch
from test_mixing import ROLES
from test_training import UNIVERSE
from tiny import read_metrics

from data.errors import InputError
from data.shards import ShardSplit
from taxomix import main
from trainers.mixing.config import ClassMixConfig
from trainers.run_folder import RunFolder

MIX = "data.mix={disks: 2, few: {dataset: disks, samples: 2, role: unlabelled}}"


def job(tiny_job: list[str], mix: str, *words: str) -> list[str]:
    return [*(word for word in tiny_job if not word.startswith("data.mix")), mix, *words]


@pytest.mark.timeout(120)
def test_a_job_trains_resumes_and_shows_its_teacher(tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = job(tiny_job, MIX, "trainer=classmix", "trainer.strong=classmix", "run.name=some", "loop.steps=4", "loop.evaluate_every=4")
    assert main(words) == 0
    run = RunFolder(tmp_path / "runs" / "some")
    state = run.checkpoints.load("last")
    assert any(name.startswith("teacher.model.") for name in state["model"])
    assert int(state["model"]["steps_taken"]) == 4
    assert len(read_metrics(run.path, "loss/mixed/disks")) == 4
    assert len(read_metrics(run.path, "miou/teacher/disks")) == 1
    content = json.loads(run.evaluation.read_text())
    assert 0 <= content["companions"]["teacher"]["disks"]["miou"] <= 1
    assert (run.overlays / "mixed.png").is_file()
    assert "teacher, mIoU: disks" in capsys.readouterr().out
    for path in (run.checkpoints.path(4), run.checkpoints.folder / "best.pt"):
        path.unlink()
    assert main(words) == 0  # from step 2
    again = run.checkpoints.load("last")
    assert all(torch.equal(tensor, again["model"][name]) for name, tensor in state["model"].items())
    assert json.loads(run.evaluation.read_text()) == content
    assert main(["evaluate", f"run={run.path}", "overlays=0", "teacher=true"]) == 0
    of_teacher = json.loads(run.evaluation.read_text())
    assert of_teacher["datasets"]["disks"]["miou"] == pytest.approx(content["companions"]["teacher"]["disks"]["miou"])
    assert of_teacher["settings"]["teacher"] is True


def test_a_plan_knows_the_memory_of_mixing_on_any_number_of_workers(tiny_job: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for workers in (1, 2):
        words = job(tiny_job, MIX, "trainer=classmix", "trainer.align={disks: labels}", "run.name=x", "model=edanet")
        words = [word for word in words if not word.startswith("cluster")]
        assert main(["plan", *words[1:], "cluster=local", f"cluster.workers={workers}"]) == 0
        assert "memory of a worker: about 0." in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["classmix", "dacs"])
def test_batches_without_a_picture_of_some_role(kind: str, tiny_job: list[str], tmp_path: Path) -> None:
    """Shares by size: some of the batches of two have none of the fewer."""
    (tmp_path / "universe.yaml").write_text(UNIVERSE)
    known, hidden = ROLES[kind]
    mix = f"data.mix={{disks: {{role: {known}, subset: 1/5}}, tones: {{role: {hidden}}}}}"
    words = job(tiny_job, mix, f"trainer={kind}", "outputs=universal", f"outputs.universe={tmp_path / 'universe.yaml'}", "loop.steps=6")
    assert main([*words, "data.quota={name: proportional, batch: 2}", "run.name=some", "loop.overlays=0"]) == 0


def test_a_job_adapts_to_a_dataset_without_labels(tiny_job: list[str], tmp_path: Path, shards: Path) -> None:
    (tmp_path / "universe.yaml").write_text(UNIVERSE)
    mix = "data.mix={disks: {samples: 2, role: source}, tones: {samples: 2, role: target}}"
    words = job(tiny_job, mix, "trainer=dacs", "outputs=universal", f"outputs.universe={tmp_path / 'universe.yaml'}", "loop.steps=2")
    others = ["run.name=other", "trainer.mix=intra", "trainer.target=soft", "loop.precision=bf16", "trainer.align={tones: labels}"]
    assert main([*words, *others]) == 0
    state = RunFolder(tmp_path / "runs" / "other").checkpoints.load("last")["model"]
    pixels = ShardSplit(shards / "tones", "train").labels().total()[[3, 7]]
    torch.testing.assert_close(state["wanted_1"], torch.from_numpy(pixels / pixels.sum()))
    assert not torch.equal(state["running_1"], state["wanted_1"])


@pytest.mark.parametrize(
    ("mix", "words", "message"),
    [
        ("data.mix={disks: 2}", ["trainer=classmix"], "expected a stream of role unlabelled for trainer=classmix"),
        (MIX, ["trainer=dacs"], "role: labelled found, expected source or target"),
        (MIX, [], "role: unlabelled found, expected labelled or source; trainer=flat"),
        (
            "data.mix={disks: {samples: 2, role: source}, tones: {samples: 2, role: target}}",
            ["trainer=dacs"],
            "outputs=multihead: no stream with labels of tones found",
        ),
        (MIX, ["trainer=classmix", "trainer.align={nowhere: {a: 1.0}}"], "trainer.align.nowhere: no such dataset"),
        (MIX, ["trainer=classmix", "trainer.align={disks: {a: 1.0}}"], "trainer.align.disks: a found, expected"),
        (MIX, ["trainer=classmix", "trainer.threshold=2"], "trainer.threshold: 2 found"),
        (MIX, ["trainer=classmix", "trainer.strong=nothing"], "no preset 'nothing'"),
    ],
)
def test_what_cannot_work_is_told(
    mix: str, words: list[str], message: str, tiny_job: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *job(tiny_job, mix, *words, "run.name=x")[1:]]) == 2
    said = capsys.readouterr()
    assert message in said.out + said.err


def test_shares_have_to_be_above_zero() -> None:
    with pytest.raises(InputError, match=r"align\.fine"):
        ClassMixConfig(name="classmix", align={"fine": {"road": 0.0}})
