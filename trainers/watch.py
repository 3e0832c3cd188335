"""Watching a run: a line on the terminal, TensorBoard, and metrics.jsonl. The main rank alone writes."""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from data.files import write_text
from data.mixture import Mixture
from trainers.config import LoopConfig
from trainers.goodput import Goodput, described
from trainers.metrics import Scores
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder
from trainers.step import StepResult


class Watch:
    """Collects what each step gives, and tells of it every `log_every` steps. Steps are counted from 1.

    `scalars` gives more to log; it is only asked when it is time to.
    """

    def __init__(
        self,
        folder: RunFolder,
        ranks: Ranks,
        loop: LoopConfig,
        *,
        done: int,
        mixture: Mixture,
        goodput: Goodput,
        scalars: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.ranks, self.loop, self.mixture, self.goodput, self.scalars = ranks, loop, mixture, goodput, scalars
        self.metrics_path = folder.metrics
        self.writer: SummaryWriter | None = None
        if ranks.is_main:
            # What a killed run logged after its last checkpoint is replaced by what this run logs at the same steps.
            _drop_lines_after(folder.metrics, done)
            self.writer = SummaryWriter(str(folder.tensorboard), purge_step=done + 1)
        self._results: list[StepResult] = []
        self._last_step: tuple[int, dict[str, float], int] = (done, {}, 0)
        """The step of the last result, its learning rates, and the steps skipped until then."""
        self._last_line = done
        self._begin = time.perf_counter()
        self._wait_seconds = 0.0
        self._evaluations, self._saves = list[float](), list[float]()
        """Seconds of each so far."""

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """The time inside counts as waiting for data."""
        begin = time.perf_counter()
        with self.goodput.doing("data"):
            yield
        self._wait_seconds += time.perf_counter() - begin

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The time inside does not count as training."""
        with self._pause(self._evaluations), self.goodput.doing("evaluating"):
            yield

    @contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """The time inside is what the checkpoint of `step` cost the loop, and does not count as training."""
        with self._pause(self._saves), self.goodput.doing("checkpointing"):
            yield
        spent = self.goodput.save()
        self.log(step, {"checkpoint_seconds": self._saves[-1], "goodput": spent["training"]})
        if self.ranks.is_main:
            print(f"step {step}/{self.loop.steps}  checkpoint written in {self._saves[-1]:.2f} s", flush=True)

    def tell_goodput(self) -> None:
        """Print what the run's time went into, up to now."""
        if self.ranks.is_main:
            print(described(self.goodput.save()), flush=True)

    @contextmanager
    def _pause(self, durations: list[float]) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        durations.append(time.perf_counter() - begin)
        self._begin += durations[-1]

    def step_done(self, step: int, result: StepResult, rates: Mapping[str, float], skipped: int) -> None:
        """Take up what the step-th step gave; log the mean since the last line when it is time to. `rates` are learning rates, the
        main one as `lr`; `skipped` the steps of the run that were skipped."""
        self._results.append(result)
        self._last_step = (step, dict(rates), skipped)
        if step % self.loop.log_every == 0 or step == self.loop.steps:
            self.flush()

    def flush(self) -> None:
        """Log the steps since the last line, if there are any: a run may end between two."""
        if not self._results:
            return
        step, rates, skipped = self._last_step
        seconds = time.perf_counter() - self._begin
        means, norm = self._means()
        throughput = {
            "images_per_second": len(self._results) * self.loop.accumulate * self.mixture.batch_size / seconds,
            "data_wait_share": self._wait_seconds / seconds,
        }
        left = self._seconds_left(step, seconds / len(self._results))
        losses = {f"loss/{name}": value for name, value in means.items()}
        grad = {} if norm is None else {"grad_norm": norm}
        memory = memory_gigabytes(self.ranks.device)
        mix = self._mix(step)
        self.log(step, {**losses, **rates, **grad, **throughput, **memory, "skipped_steps": float(skipped), **mix, **self.scalars()})
        if self.ranks.is_main:
            parts = [
                f"step {step}/{self.loop.steps}",
                "loss: " + "  ".join(f"{name} {value:.4f}" for name, value in means.items())
                if means
                else "no loss: no step or pixel counts",
                f"lr {rates['lr']:.2e}",
                *([] if norm is None else [f"grad norm {norm:.3g}"]),
                *([f"skipped {skipped}"] if skipped else []),
                f"{throughput['images_per_second']:.1f} images/s",
                f"data wait {100 * throughput['data_wait_share']:.0f} %",
                f"{_duration(left)} left",
            ]
            print("  ".join(parts), flush=True)
        self._results.clear()
        self._last_line = step
        self._begin, self._wait_seconds = time.perf_counter(), 0.0

    def _means(self) -> tuple[dict[str, float], float | None]:
        """Of each loss term, and of the norm of the gradient, over the steps since the last line that were not skipped and have one."""
        taken = [result for result in self._results if not result.spoiled]
        norms = [norm for result in taken if (norm := result.grad_norm) is not None and math.isfinite(norm)]
        names = dict.fromkeys(name for result in taken for name in result.losses)
        losses = {name: fmean(result.losses[name] for result in taken if name in result.losses) for name in names}
        return losses, fmean(norms) if norms else None

    def _mix(self, step: int) -> dict[str, float]:
        """Samples of each stream so far, its epochs, and its share of the samples since the last line."""
        before, now = (self.mixture.consumed(number * self.loop.accumulate) for number in (self._last_line, step))
        scalars = {}
        for stream, first, last in zip(self.mixture.streams, before, now, strict=True):
            scalars[f"samples/{stream.name}"] = float(last)
            scalars[f"epochs/{stream.name}"] = last / stream.order.num_samples
            scalars[f"share/{stream.name}"] = (last - first) / (sum(now) - sum(before))
        return scalars

    def _seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Of the rest of the run; evaluations and checkpoints to come count as long as those that were took on average."""
        evaluations, saves = occasions(step, self.loop)
        to_come = ((evaluations, self._evaluations), (saves, self._saves))
        return (self.loop.steps - step) * seconds_per_step + sum(number * fmean(past) for number, past in to_come if past)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of `step` to TensorBoard and metrics.jsonl."""
        if self.writer is None:
            return
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        with self.metrics_path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")

    def log_scores(
        self, step: int, results: Mapping[str, Scores], left_out: Mapping[str, int], levels: Mapping[str, Scores] | None = None
    ) -> None:
        """Scores of each dataset, and how many of its images could not be read and are in none of them; and of `levels` of a tree, by
        DATASET/LEVEL."""
        if self.writer is None:
            return
        scored = {**results, **(levels or {})}
        numbers = {f"left_out/{name}": float(number) for name, number in left_out.items()}
        mious, mpas = ({f"{key}/{name}": getattr(result, key) for name, result in scored.items()} for key in ("miou", "mpa"))
        self.log(step, mious | mpas | numbers)
        for name, result in results.items():
            for label, iou in zip(result.names, result.iou, strict=True):
                if not math.isnan(iou):
                    self.writer.add_scalar(f"iou_{name}/{label}", iou, step)
            values = f"mIoU {100 * result.miou:.2f}  mPA {100 * result.mpa:.2f}"
            missing = f"  left out {left_out[name]}" if left_out.get(name) else ""
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


def occasions(step: int, loop: LoopConfig) -> tuple[int, int]:
    """Evaluations and checkpoints of the steps from `step`, the last one included."""

    def multiples(every: int) -> int:
        return loop.steps // every - (step - 1) // every

    every, save_every = loop.evaluate_every, loop.checkpoint_every
    evaluations = multiples(every) + (loop.steps % every > 0)
    return evaluations, evaluations + multiples(save_every) - multiples(math.lcm(every, save_every)) - (
        loop.steps % every > 0 and loop.steps % save_every == 0
    )


def memory_gigabytes(device: torch.device) -> dict[str, float]:
    """The most that this process has held, and of its GPU if it has one: of tensors, and with what torch keeps for more."""
    unit = 1 if sys.platform == "darwin" else 1024
    scalars = {"memory/process_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if device.type == "cuda":
        scalars["memory/gpu_peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        scalars["memory/gpu_reserved_gb"] = torch.cuda.max_memory_reserved(device) / 1e9
    return scalars


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
