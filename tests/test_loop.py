"""What the loop does besides the step: several batches of it, averages, skipped steps, an early end, and what it tells of it all."""

import json
import math
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_distributed import on_ranks
from test_training import TREE, UNIVERSE, flatten
from tiny import TINY_JOB, read_metrics
from torch import Tensor, nn

import conf
from data.config import build
from data.errors import InputError
from data.types import Batch
from models.outputs.base import LossTerm
from taxomix import main
from trainers.config import JobConfig, LoopConfig
from trainers.ema import EmaConfig
from trainers.finished import RunChoice
from trainers.flat import FlatTrainer
from trainers.job import model_from_checkpoint
from trainers.loop import Training, train
from trainers.memory import peak_of
from trainers.plan import make_plan
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder
from trainers.step import train_step
from trainers.watch import occasions

EVERYTHING = (
    "model=enet",  # which has dropout
    "loop.precision=fp16",
    "optim=adamw",
    "optim.groups={encoder: {lr: 0.25}, norms: {weight_decay: 0}}",
    "schedule=poly",
    "schedule.warmup_steps=2",
    "loop.steps=4",
    "loop.evaluate_every=4",
    "loop.accumulate=2",
    "loop.clip_norm=1",
    "loop.ema={decay: 0.9}",
)


def folder_of(tmp_path: Path, name: str) -> RunFolder:
    return RunFolder(tmp_path / "runs" / name)


def all_of(state: dict[str, object]) -> dict[str, object]:
    tensors = {f"{kind}/{key}": value for kind in ("model", "ema", "optimizer") for key, value in flatten(state[kind]).items()}
    return {**tensors, **{key: state[key] for key in ("scaler", "step", "stale", "skipped", "best_score")}}


@pytest.mark.timeout(120)
def test_a_run_with_everything_goes_on_bit_for_bit(tiny_job: list[str], tmp_path: Path) -> None:
    words = [*tiny_job, *EVERYTHING, "run.name=all"]
    assert main(words) == 0
    run = folder_of(tmp_path, "all")
    whole = all_of(run.checkpoints.load("last"))
    names = ["loss/disks", "grad_norm", "lr/encoder+norms", "samples/boxed"]
    metrics = [read_metrics(run.path, name) for name in names]
    evaluation = json.loads(run.evaluation.read_text())
    for path in (run.checkpoints.path(4), run.checkpoints.folder / "best.pt"):
        path.unlink()
    assert main(words) == 0
    again = all_of(run.checkpoints.load("last"))
    assert whole.keys() == again.keys()
    for key, value in whole.items():
        assert torch.equal(value, again[key]) if isinstance(value, Tensor) else value == again[key], key
    assert [read_metrics(run.path, name) for name in names] == metrics
    assert json.loads(run.evaluation.read_text()) == evaluation
    assert metrics[-1] == [4, 8, 12, 16]  # two of each of two batches
    assert json.loads(run.shares.read_text())["streams"]["boxed"]["samples"] == 16


def test_two_batches_a_step_are_those_of_two_steps(tiny_job: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[tuple[int, tuple[str, ...]]]] = {"one": [], "two": []}
    losses = FlatTrainer.losses
    for name, words in (("one", ["loop.steps=4"]), ("two", ["loop.steps=2", "loop.accumulate=2"])):

        def spying(self: FlatTrainer, batch: Batch, name: str = name) -> dict[str, LossTerm]:
            seen[name].append((batch.step, batch.sample_ids))
            return losses(self, batch)

        monkeypatch.setattr(FlatTrainer, "forward", spying)
        assert main([*tiny_job, *words, f"run.name={name}"]) == 0
    assert seen["one"] == seen["two"]
    assert [step for step, _ in seen["one"]] == [0, 1, 2, 3]


def test_averaged_weights_are_what_is_evaluated_and_used(tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*tiny_job, "run.name=mean", "loop.ema={decay: 0.99, warmup: false}", "loop.steps=3"]) == 0
    run = folder_of(tmp_path, "mean")
    state = run.checkpoints.load("last")
    assert not torch.equal(state["ema"]["model.network.encoder.conv1.weight"], state["model"]["model.network.encoder.conv1.weight"])
    model, job, _ = RunChoice(run=run.path, checkpoint="last").open()
    plain = model_from_checkpoint(state, job, torch.device("cpu"), averaged=False)
    for found, kind in ((model, "ema"), (plain, "model")):
        assert all(torch.equal(value, state[kind][f"model.{name}"]) for name, value in found.state_dict().items())
    before = json.loads(run.evaluation.read_text())
    assert main(["evaluate", f"run={run.path}", "checkpoint=last"]) == 0
    assert json.loads(run.evaluation.read_text()) == {**before, "checkpoint": "last"}  # so training evaluated them, too
    assert before["averaged"]
    capsys.readouterr()
    assert main([*tiny_job, "run.name=next", f"model.weights={run.path}", "loop.steps=1", "loop.ema={decay: 0.5}", "optim.lr=1e-30"]) == 0
    assert "best.pt (its averaged weights), named as in taxomix" in capsys.readouterr().out
    started = folder_of(tmp_path, "next").checkpoints.load("last")
    for kind in ("model", "ema"):
        assert torch.equal(started[kind]["model.network.encoder.conv1.weight"], state["ema"]["model.network.encoder.conv1.weight"])


def spoil(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[Batch], bool]) -> None:
    losses = FlatTrainer.losses

    def spoiled(self: FlatTrainer, batch: Batch) -> dict[str, LossTerm]:
        terms = losses(self, batch)
        if is_bad(batch):
            terms["tones"] = LossTerm(terms["tones"].total * math.nan, terms["tones"].count)
        return terms

    monkeypatch.setattr(FlatTrainer, "forward", spoiled)


def test_a_spoiled_batch_is_passed_over_and_counted(
    tiny_job: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(monkeypatch, lambda batch: batch.step in (1, 2, 4))
    words = [*tiny_job, "run.name=some", "loop.max_skipped_steps=3", "loop.checkpoint_every=3"]
    assert main(words) == 0
    run = folder_of(tmp_path, "some")
    assert read_metrics(run.path, "skipped_steps") == [0, 1, 2, 2, 3, 3]
    assert len(read_metrics(run.path, "loss/disks")) == 3
    assert "step 2: skipped, loss of tones not finite (1 in a row)" in caplog.text
    out = capsys.readouterr().out
    assert "step 2/6  no loss: no step or pixel counts" in out
    assert "skipped 3" in out
    states = [run.checkpoints.load("last")]
    assert (states[0]["skipped"], states[0]["skipped_in_a_row"]) == (3, 0)
    for path in (run.checkpoints.path(6), run.checkpoints.folder / "best.pt"):
        path.unlink()
    assert main(words) == 0  # from step 3, after two were skipped
    states.append(run.checkpoints.load("last"))
    assert states[1]["skipped"] == 3
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())


def test_too_many_spoiled_batches_in_a_row_stop_the_run_with_their_samples(
    tiny_job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids: list[tuple[str, ...]] = []
    spoil(monkeypatch, lambda batch: ids.append(batch.sample_ids) is None and batch.step >= 2)
    assert main([*tiny_job, "run.name=some", "loop.max_skipped_steps=2", "loop.checkpoint_every=2"]) == 1
    error = capsys.readouterr().err
    assert "step 4: loss of tones not finite, 2 steps in a row were skipped; lower optim.lr or look at the data" in error
    assert f"the samples of the last one: {', '.join(ids[-1])}" in error
    assert len(ids) == 4
    assert folder_of(tmp_path, "some").checkpoints.steps() == [2]


def run_spoiled(words: list[str], rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, lambda batch: rank == 1)
        text = "no error"
        with suppress(FloatingPointError):
            try:
                train(build(JobConfig, conf.compose("train", words)), Ranks(rank=rank, world_size=world_size))
            except FloatingPointError as error:
                text = str(error)
                raise
    out["text"] = torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.timeout(90)
def test_all_ranks_stop_and_name_the_samples_of_all(shards: Path, tmp_path: Path) -> None:
    words = [*TINY_JOB, f"data.root={shards}", f"run.dir={tmp_path}", "run.name=some", "loop.max_skipped_steps=1"]
    first, second = (bytes(out["text"].tolist()).decode() for out in on_ranks(partial(run_spoiled, words), tmp_path))
    assert first == second
    assert len(first.split("the samples of the last one: ")[1].split(", ")) == 6


def test_a_run_ends_where_no_evaluation_is_better(
    tiny_job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores of the evaluations: the third and the fourth are no better than the second."""
    scores = iter([0.1, 0.3, 0.3, 0.2, 0.4, 0.1])
    monkeypatch.setattr("trainers.loop.mean_miou", lambda results: next(scores))
    words = [*tiny_job, "run.name=some", "loop.evaluate_every=1", "loop.overlays=0"]
    assert main([*words, "loop.patience=2"]) == 0
    run = folder_of(tmp_path, "some")
    assert "step 4/6  complete: no better mean mIoU in 2 evaluations" in capsys.readouterr().out
    assert run.checkpoints.load("last")["step"] == 4
    assert run.checkpoints.load("best")["step"] == 2
    assert main([*words, "loop.patience=2"]) == 0
    assert "complete at step 4" in capsys.readouterr().out
    assert run.checkpoints.load("last")["step"] == 4
    assert main([*words, "loop.patience=3"]) == 0  # of more patience it goes on
    assert run.checkpoints.load("last")["step"] == 6
    assert run.checkpoints.load("best")["step"] == 5


def test_the_steps_since_the_last_line_are_told_where_a_run_ends_between_two(
    tiny_job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.loop.mean_miou", lambda results: 0.5)
    kept = [word for word in tiny_job if not word.startswith("loop.log_every")]
    words = [*kept, "run.name=some", "loop.evaluate_every=1", "loop.overlays=0", "loop.log_every=5", "loop.patience=2"]
    assert main(words) == 0
    run = folder_of(tmp_path, "some")
    assert run.checkpoints.load("last")["step"] == 3
    assert read_metrics(run.path, "samples/disks") == [6]
    assert len(read_metrics(run.path, "loss/disks")) == len(read_metrics(run.path, "lr")) == 1


def test_a_term_without_a_pixel_is_no_loss_of_zero(tiny_job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes in the last three of six steps alone; a line of the log is of two steps."""
    losses = FlatTrainer.losses

    def sparse(self: FlatTrainer, batch: Batch) -> dict[str, LossTerm]:
        terms = losses(self, batch)
        if batch.step < 3:
            terms["boxed"] = LossTerm(terms["boxed"].total * 0, terms["boxed"].count * 0)
        seen.append(float((terms["boxed"].total / terms["boxed"].count.clamp(min=1)).detach()))
        return terms

    seen: list[float] = []
    monkeypatch.setattr(FlatTrainer, "forward", sparse)
    kept = [word for word in tiny_job if not word.startswith("loop.log_every")]
    assert main([*kept, "run.name=some", "loop.log_every=2"]) == 0
    assert len(read_metrics(tmp_path / "runs" / "some", "loss/disks")) == 3
    found = read_metrics(tmp_path / "runs" / "some", "loss/boxed")
    assert found == pytest.approx([seen[3], (seen[4] + seen[5]) / 2], rel=1e-5)


def test_validation_without_a_label_has_no_score(
    tiny_job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainers.loop.mean_miou", lambda results: math.nan)
    assert main([*tiny_job, "run.name=some", "loop.steps=3", "loop.evaluate_every=1", "loop.overlays=0", "loop.patience=1"]) == 0
    assert folder_of(tmp_path, "some").checkpoints.load("last")["step"] == 3
    assert "step 1: no pixel with a label in the validation splits" in caplog.text


ON_RANKS = (
    "trainer.boxes={boxed: [disks/red, tones/colourful]}",
    "trainer.weighting=learned",
    "outputs.decoder=repeated",
    "loop.accumulate=2",
    "loop.clip_norm=1",
    "loop.ema={decay: 0.9}",
    "loop.evaluate_every=2",
    "loop.patience=4",
    "loop.steps=4",
    "loop.overlays=0",
)


def run_job(words: list[str], rank: int, world_size: int, out: dict[str, Tensor]) -> None:
    """Four steps, then the last two of them again from the checkpoint of the second; on two ranks."""
    job = build(JobConfig, conf.compose("train", words))
    ranks = Ranks(rank=rank, world_size=world_size)
    folder = RunFolder(job.run.folder)
    for time in ("first", "again"):
        train(job, ranks)
        ranks.barrier()
        state = folder.checkpoints.load("last")
        out |= {f"{time}/{key}": value for key, value in all_of(state).items() if isinstance(value, Tensor)}
        ranks.barrier()
        if rank == 0:
            folder.checkpoints.path(4).unlink()
        ranks.barrier()


@pytest.mark.timeout(180)
def test_a_job_with_everything_is_the_same_on_two_ranks_and_goes_on(shards: Path, tmp_path: Path) -> None:
    """The first step up to rounding, which those after it amplify; what goes on, goes on bit for bit."""
    words = [*TINY_JOB, *ON_RANKS, f"data.root={shards}", f"run.dir={tmp_path}", "loop.keep_checkpoints=3"]
    main_rank, other = on_ranks(partial(run_job, [*words, "run.name=two"]), tmp_path)
    for key, value in main_rank.items():
        assert torch.equal(value, other[key]), key
        if key.startswith("first/"):
            assert torch.equal(value, main_rank[key.replace("first", "again")]), key
    assert main(["train", *words, "run.name=one"]) == 0
    names = ["loss/disks", "loss/tones", "loss/boxed", "grad_norm", "box_share/boxed", "samples/disks"]
    first = [[read_metrics(tmp_path / run, name)[0] for name in names] for run in ("one", "two")]
    assert first[0] == pytest.approx(first[1], rel=1e-3)
    one = RunFolder(tmp_path / "one").checkpoints.load("last")
    assert {key for key in all_of(one) if "/" in key} == {key.removeprefix("first/") for key in main_rank if key.startswith("first/")}


def test_a_compiled_model_keeps_its_names_and_is_not_compiled_for_pictures(
    tiny_job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the graph run as it is: making kernels of it takes minutes."""
    torch._dynamo.reset()  # sizes that other tests have compiled for would become variables
    compiled = []
    compile_module = nn.Module.compile

    def compile_quickly(self: nn.Module) -> None:
        def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., object]:
            compiled.append(tuple(examples[0].shape))
            return graph.forward

        compile_module(self, backend=backend)

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    words = [*tiny_job, "loop.steps=2"]
    assert main([*words, "run.name=plain"]) == 0
    assert not compiled
    assert main([*words, "loop.compile=true", "run.name=compiled"]) == 0
    assert compiled
    plain, other = (folder_of(tmp_path, name).checkpoints.load("last")["model"] for name in ("plain", "compiled"))
    assert list(plain) == list(other)
    torch.testing.assert_close(plain, other, rtol=1e-3, atol=1e-4)


def test_pictures_and_weights_lie_in_memory_as_asked(tiny_job: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(FlatTrainer, "after_step", lambda self, step: None)
    losses = FlatTrainer.losses

    def spying(self: FlatTrainer, batch: Batch) -> dict[str, LossTerm]:
        weight = self.get_parameter("model.network.encoder.conv1.weight")
        found.append([tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (batch.images, weight)])
        return losses(self, batch)

    monkeypatch.setattr(FlatTrainer, "forward", spying)
    for value in ("true", "false"):
        assert main([*tiny_job, f"run.name=last-{value}", f"loop.channels_last={value}", "loop.steps=1"]) == 0
    assert found == [[True, True], [False, False]]


def test_the_log_tells_of_all_that_is_known(
    tiny_job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FlatTrainer, "scalars", lambda self: {"weight/disks": torch.tensor(0.25)})
    words = ["loop.precision=fp16", "optim.groups={outputs: {lr: 10}}", "loop.log_every=2", "data.quota={name: proportional, batch: 5}"]
    mix = "data.mix=[disks, tones]"
    kept = [word for word in tiny_job if not word.startswith(("loop.log_every", "data.mix"))]
    assert main([*kept, *words, mix, "run.name=some"]) == 0
    run = folder_of(tmp_path, "some")
    for name in ("lr", "lr/outputs", "lr/rest", "images_per_second", "data_wait_share", "skipped_steps", "memory/process_peak_gb"):
        assert len(read_metrics(run.path, name)) == 3, name
    assert read_metrics(run.path, "lr/outputs")[0] == pytest.approx(10 * read_metrics(run.path, "lr")[0], rel=1e-2)
    assert read_metrics(run.path, "weight/disks") == [0.25] * 3
    assert read_metrics(run.path, "loss_scale")[-1] > 0
    assert 0.1 < read_metrics(run.path, "memory/process_peak_gb")[-1] < 100
    assert len(read_metrics(run.path, "checkpoint_seconds")) == 3
    samples, shares = ([read_metrics(run.path, f"{kind}/{name}") for name in ("disks", "tones")] for kind in ("samples", "share"))
    assert [sum(both) for both in zip(*samples, strict=True)] == [10, 20, 30]
    assert [sum(both) for both in zip(*shares, strict=True)] == pytest.approx([1, 1, 1])
    assert shares[0][1] == pytest.approx((samples[0][1] - samples[0][0]) / 10)
    out = capsys.readouterr().out
    assert "grad norm" in out
    assert "skipped" not in out
    assert out.count("checkpoint written in") == 3
    assert out.count(" left\n") == 3


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.data())
def test_evaluations_and_checkpoints_to_come_are_counted(
    steps: int, evaluate_every: int, checkpoint_every: int, data: st.DataObject
) -> None:
    loop = LoopConfig(steps=steps, evaluate_every=evaluate_every, checkpoint_every=checkpoint_every)
    step = data.draw(st.integers(1, steps))
    rest = range(step, steps + 1)
    evaluations = {number for number in rest if number % evaluate_every == 0 or number == steps}
    saves = evaluations | {number for number in rest if number % checkpoint_every == 0}
    assert occasions(step, loop) == (len(evaluations), len(saves))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "words",
    [
        ["model=edanet"],
        ["model=edanet", "loop.precision=bf16"],
        ["model=erfnet", "loop.accumulate=2"],
        ["outputs=concat", "loop.ema={decay: 0.9}", "data.crop.size=[160, 160]"],
        ["outputs.decoder=repeated", "trainer.weighting=learned", "trainer.boxes={boxed: disks/red}"],
    ],
)
def test_the_memory_of_a_plan_is_that_of_the_tensors_of_a_real_step(words: list[str], tiny_job: list[str]) -> None:
    job = build(JobConfig, conf.compose("train", [*tiny_job[1:], "run.name=x", "optim=sgd", *words]))
    memory = make_plan(job).memory
    assert memory is not None
    training = Training(job, Ranks())
    assert memory.weights == sum(value.nbytes for value in training.trainer.state_dict().values())
    with closing(training.loader.batches(0, job.loop.accumulate)) as loaded:
        batches = list(loaded)

    def step() -> None:
        train_step(training.losses, batches, training.update, Ranks())

    step()
    optimizer = sum(value.nbytes for value in flatten(training.optimizer.state_dict()["state"]).values())
    average = 0 if training.ema is None else sum(value.nbytes for value in training.ema.state_dict().values())
    assert memory.state == optimizer + average
    inputs = batches[0].images.nbytes + batches[0].labels.nbytes
    assert memory.step == pytest.approx(inputs + peak_of(step), rel=0.05)


@pytest.mark.parametrize(("outputs", "key", "text"), [("universal", "universe", UNIVERSE), ("hierarchy", "tree", TREE)])
def test_losses_of_sets_of_labels_can_be_planned(outputs: str, key: str, text: str, tiny_job: list[str], tmp_path: Path) -> None:
    """They look at values where there are some."""
    (tmp_path / "file.yaml").write_text(text)
    words = [f"outputs={outputs}", f"outputs.{key}={tmp_path / 'file.yaml'}", "model=edanet"]
    memory = make_plan(build(JobConfig, conf.compose("train", [*tiny_job[1:], "run.name=x", *words]))).memory
    assert memory is not None
    assert memory.step > 6 * 64 * 64 * (3 + 1)


def test_the_swap_of_averaged_weights_is_planned(tiny_job: list[str]) -> None:
    plain, averaged = (
        make_plan(build(JobConfig, conf.compose("train", [*tiny_job[1:], "run.name=x", *words]))).memory
        for words in ([], ["loop.ema={decay: 0.9}"])
    )
    assert plain is not None
    assert averaged is not None
    assert averaged.evaluation == plain.evaluation + plain.weights


def test_a_plan_tells_of_memory_and_batches(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "data=mine", f"data.root={shards}", "data.mix={disks: 2}", "loop.steps=10", "loop.accumulate=3", "cluster=none"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "10 steps of 3 batches of 2 samples on 1 worker (2 each)" in out
    assert "memory of a worker: about 0." in out
    assert "6.00" in out  # 60 samples of 10


def test_that_apex_is_missing_is_told_by_plan_and_train(tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("plan", "train"):
        assert main([command, *tiny_job[1:], "run.name=x", "optim.implementation=apex"]) == 2
        out, error = capsys.readouterr()
        assert "optim.implementation: apex found, but" in error
        assert ("cannot work: optim.implementation: apex found, but" in out) == (command == "plan")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accumulate": 0}, "loop.accumulate: 0 found"),
        ({"patience": 0}, "loop.patience: 0 found"),
        ({"max_skipped_steps": 0}, "loop.max_skipped_steps: 0 found"),
        ({"clip_norm": 0.0}, "loop.clip_norm: 0.0 found, expected a number above 0, or null"),
        ({"precision": "fp8"}, "loop.precision: 'fp8' found"),
        ({"ema": {"decay": 1.0}}, "loop.ema.decay: 1 found"),
    ],
)
def test_values_that_make_no_loop_are_told(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(LoopConfig, {"steps": 1, **values}, key="loop")
    assert message in str(caught.value)
    assert EmaConfig(decay=0.9).at(0) == 0.1
