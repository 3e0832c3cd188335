"""Watching a run: a line on the terminal, TensorBoard, and metrics.jsonl. The main rank alone writes."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from data.files import write_text
from data.mixture import Mixture
from trainers.config import LoopConfig
from trainers.metrics import Scores
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder


class Watch:
    """Collects losses on the device and turns them into numbers only every `log_every` steps. Steps are counted from 1."""

    def __init__(self, folder: RunFolder, ranks: Ranks, loop: LoopConfig, *, done: int, mixture: Mixture) -> None:
        self.ranks, self.loop, self.mixture = ranks, loop, mixture
        self.metrics_path = folder.metrics
        self.writer: SummaryWriter | None = None
        if ranks.is_main:
            # What a killed run logged after its last checkpoint is replaced by what this run logs at the same steps.
            _drop_lines_after(folder.metrics, done)
            self.writer = SummaryWriter(str(folder.tensorboard), purge_step=done + 1)
        self._losses: list[dict[str, Tensor]] = []
        self._begin = time.perf_counter()
        self._wait_seconds = 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """The time inside counts as waiting for data."""
        begin = time.perf_counter()
        yield
        self._wait_seconds += time.perf_counter() - begin

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The time inside does not count as training."""
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin

    def step_done(self, step: int, losses: Mapping[str, Tensor], lr: float) -> None:
        """Take up the losses of the step-th step; log the mean since the last line when it is time to.

        Raises FloatingPointError on all ranks alike when a loss is not finite.
        """
        self._losses.append(dict(losses))
        if step % self.loop.log_every and step < self.loop.steps:
            return
        values = self.take_losses(step)
        seconds = time.perf_counter() - self._begin
        rate = len(self._losses) * self.mixture.batch_size / seconds
        wait = self._wait_seconds / seconds
        left = (self.loop.steps - step) * seconds / len(self._losses)
        self._losses.clear()
        self._begin, self._wait_seconds = time.perf_counter(), 0.0
        losses_by_name = {f"loss/{name}": value for name, value in values.items()}
        samples = {stream.name: number for stream, number in zip(self.mixture.streams, self.mixture.consumed(step), strict=True)}
        shares = {f"samples/{name}": float(number) for name, number in samples.items()}
        shares |= {f"epochs/{stream.name}": samples[stream.name] / stream.order.num_samples for stream in self.mixture.streams}
        self.log(step, {**losses_by_name, "lr": lr, "images_per_second": rate, "data_wait_share": wait, **shares})
        if self.ranks.is_main:
            terms = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            times = f"{rate:.1f} images/s  data wait {100 * wait:.0f} %  {_duration(left)} left"
            print(f"step {step}/{self.loop.steps}  loss: {terms}  lr {lr:.2e}  {times}", flush=True)

    def take_losses(self, step: int) -> dict[str, float]:
        """Mean of each loss term since the last line, as numbers; the same on all ranks."""
        stacked = torch.stack([torch.stack(list(losses.values())) for losses in self._losses]).cpu()
        means = dict(zip(self._losses[-1], stacked.mean(dim=0).tolist(), strict=True))
        for name, value in means.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"step {step}: loss of {name} is {value} since the last line; lower optim.lr or look at the data; "
                    "nothing of it is saved"
                )
        return means

    def check_finite(self, step: int) -> None:
        """Raise FloatingPointError if a loss since the last line was not finite: called before a checkpoint is written."""
        if self._losses:
            self.take_losses(step)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of `step` to TensorBoard and metrics.jsonl."""
        if self.writer is None:
            return
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        with self.metrics_path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")

    def log_scores(self, step: int, results: Mapping[str, Scores], left_out: Mapping[str, int]) -> None:
        """Scores of each dataset, and how many of its images could not be read and are in none of them."""
        if self.writer is None:
            return
        numbers = {f"left_out/{name}": float(number) for name, number in left_out.items()}
        self.log(step, {f"miou/{name}": result.miou for name, result in results.items()} | numbers)
        for name, result in results.items():
            for label, iou in zip(result.names, result.iou, strict=True):
                if not math.isnan(iou):
                    self.writer.add_scalar(f"iou_{name}/{label}", iou, step)
            values = f"mIoU {100 * result.miou:.2f}  mPA {100 * result.mpa:.2f}"
            missing = f"  left out {left_out[name]}" if left_out[name] else ""
            print(f"step {step}/{self.loop.steps}  {name}: {values}{missing}", flush=True)

    def log_pixels(self, step: int, pixels: Mapping[str, Mapping[str, int]]) -> None:
        """Pixels of each class seen so far, by stream."""
        if self.writer is not None:
            for stream, classes in pixels.items():
                for name, number in classes.items():
                    self.writer.add_scalar(f"pixels_{stream}/{name}", number, step)

    def log_image(self, step: int, name: str, image: np.ndarray) -> None:
        if self.writer is not None:
            self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _drop_lines_after(path: Path, done: int) -> None:
    """Leave in a metrics file only whole lines of the first `done` steps."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry: Any = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that a killed process was writing
        if entry["step"] <= done:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
