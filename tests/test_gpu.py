"""On a GPU: steps that never wait for it, the same as on a CPU; whole jobs. Skipped where there is none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from spaces import SPACES, VIEWS
from test_mixing import mix_batch, trainer_of
from test_mixing_jobs import MIX, job
from test_supervision import small_model
from tiny import read_metrics

from data.types import Batch
from taxomix import main
from trainers.base import Trainer
from trainers.flat import FlatConfig, FlatTrainer
from trainers.optim import SgdConfig, build_optimizer
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder
from trainers.step import StepResult, train_step
from trainers.update import Update

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # that it may miss some
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

CPU, GPU = torch.device("cpu"), torch.device("cuda")

SHARES = {"road": 0.4, "grass": 0.3, "car": 0.2, "sign": 0.1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "classmix": ("classmix", {"threshold": 0.5}),
    "classmix, soft": ("classmix", {"target": "soft", "weight": "pixel", "threshold": 0.5}),
    "cutmix": ("classmix", {"mask": "box", "weight": "constant", "target": "squared"}),
    "cowmix": ("classmix", {"mask": "cow", "weight": "sample", "threshold": 0.5}),
    "dacs": ("dacs", {"threshold": 0.5, "strong": "dacs"}),
    "dacs, aligned": ("dacs", {"mix": "intra", "weight": "ramp", "align": {"fine": SHARES}}),
}


def pinned(batch: Batch) -> Batch:
    """As the loader gives it: in memory that is copied without waiting."""
    return replace(
        batch,
        images=batch.images.contiguous(memory_format=torch.channels_last).pin_memory(),
        labels=batch.labels.pin_memory(),
        streams=batch.streams.pin_memory(),
        rows={name: index.pin_memory() for name, index in batch.rows.items()},
    )


def steps(trainer: Trainer, batches: list[Batch], device: torch.device, *, strict_after: int) -> list[StepResult]:
    """Steps on a device; from the number `strict_after` on whatever waits for it is an error."""
    trainer.to(device)
    trainer.start()
    update = Update(trainer, build_optimizer(trainer, SgdConfig(name="sgd", lr=0.1)))
    found = []
    try:
        for number, batch in enumerate(batches):
            if number == strict_after and device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            found.append(train_step(trainer, [batch.to(device)], update, Ranks(device=device)))
            trainer.after_step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("space", ["shared", "universal", "joint"])
def test_a_step_waits_for_nothing_but_its_losses(case: str, space: str) -> None:
    """The first steps make what is kept on the device; those after them only queue work. The losses are those of a CPU."""
    kind, keys = CASES[case]
    batches = [pinned(mix_batch(kind, seed=seed)) for seed in (0, 1, 1)]
    on_gpu, on_cpu = (steps(trainer_of(kind, space, **keys), batches, device, strict_after=2) for device in (GPU, CPU))
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.losses == pytest.approx(cpu.losses, rel=1e-6, abs=1e-9)


def test_a_step_of_the_flat_trainer_waits_for_nothing_but_its_losses() -> None:
    batches = [pinned(mix_batch("classmix", seed=seed)) for seed in (0, 1, 1)]
    trainers = [FlatTrainer(small_model(SPACES["universal"], VIEWS), FlatConfig(name="flat")) for _ in range(2)]
    on_gpu, on_cpu = (steps(trainer, batches, device, strict_after=2) for trainer, device in zip(trainers, (GPU, CPU), strict=True))
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.losses == pytest.approx(cpu.losses, rel=1e-6)


def test_pictures_are_mixed_on_a_gpu_as_on_a_cpu() -> None:
    mixed = []
    for device in (CPU, GPU):
        trainer = trainer_of("dacs", strong="none").to(device)
        trainer.losses(pinned(mix_batch("dacs")).to(device))
        assert trainer._last is not None
        mixed.append(trainer._last)
    assert torch.equal(mixed[0].mask, mixed[1].mask.cpu())
    assert torch.equal(mixed[0].images, mixed[1].images.cpu())
    assert mixed[1].images.is_contiguous(memory_format=torch.channels_last)


JOBS: dict[str, tuple[str, ...]] = {
    "fp32": ("trainer=classmix", "trainer.strong=classmix"),
    "bf16": ("trainer=classmix", "loop.precision=bf16"),
    "fp16": ("trainer=classmix", "loop.precision=fp16", "loop.clip_norm=1"),
    "averaged": ("trainer=classmix", "trainer.mask=none", "loop.ema={decay: 0.9}", "optim=adamw"),
}


@pytest.mark.parametrize("case", JOBS)
def test_a_job_trains_and_goes_on(case: str, tiny_job: list[str], tmp_path: Path) -> None:
    words = job(tiny_job, MIX, *JOBS[case], "run.name=some")
    assert main(words) == 0
    run = RunFolder(tmp_path / "runs" / "some")
    for path in (run.checkpoints.path(6), run.checkpoints.folder / "best.pt"):
        path.unlink()
    assert main(words) == 0  # from step 4
    state = run.checkpoints.load("last")
    assert state["step"] == 6
    assert state["skipped"] == 0
    assert len(read_metrics(run.path, "loss/disks")) == 6
    assert main(["evaluate", f"run={run.path}", "overlays=0"]) == 0


@pytest.mark.timeout(300)
def test_a_compiled_job_trains(tiny_job: list[str]) -> None:
    assert main(job(tiny_job, MIX, "trainer=classmix", "loop.compile=true", "loop.steps=3", "run.name=some")) == 0
