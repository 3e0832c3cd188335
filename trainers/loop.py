"""The training loop: batches through the step, with evaluation, checkpoints and logging in between."""

import inspect
import json
import logging
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data.files import write_text
from data.order import digest
from data.photometric import augment
from data.types import Batch
from models.batchnorm import synchronise_batchnorm
from trainers.config import JobConfig
from trainers.evaluation import all_scores, evaluate, mean_miou, write_evaluation
from trainers.job import build_loader, build_trainer, check_same_data, checkpoint_header, open_data
from trainers.optim import build_optimizer, learning_rate, set_learning_rate
from trainers.overlay import write_panels
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder
from trainers.step import train_step
from trainers.watch import Watch
from trainers.weights import start_from_weights

log = logging.getLogger(__name__)

# All ranks start from one seed and normalise with the same statistics: buffers need no broadcast. torch renamed the option.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFER_BROADCAST: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}

Report = Callable[[dict[str, float]], None]


def train(job: JobConfig, ranks: Ranks, report: Report = lambda scores: None) -> None:
    """Train `job` to its end on this rank, from its last checkpoint where it has one.

    `report` is called after each evaluation, on every rank alike, with its scores.
    """
    training = Training(job, ranks)
    with training.folder.lock(".writer") if ranks.is_main else nullcontext():
        training.resume()
        training.run(report)


class Training:
    """One rank's part of a job: the state that a checkpoint holds, and the loop over it."""

    def __init__(self, job: JobConfig, ranks: Ranks) -> None:
        self.job, self.ranks = job, ranks
        self.folder = RunFolder(job.run.folder)
        self.data = open_data(job.data, seed=job.seed)
        self.loader = build_loader(job, self.data, ranks)
        self.trainer = build_trainer(job, self.data.views, ranks.device)
        self.losses: nn.Module = self.trainer
        if ranks.world_size > 1:
            synchronise_batchnorm(self.trainer, ranks.device)
            self.losses = DistributedDataParallel(self.trainer, gradient_as_bucket_view=True, **_NO_BUFFER_BROADCAST)
        self.optimizer = build_optimizer(self.trainer.model, job.optim)
        self.photometric = [job.data.photometric_of(stream) for stream in job.data.streams.values()]
        self.step = 0
        """Steps done."""
        self.best_score = float("-inf")
        self.label_pixels = torch.zeros(len(self.data.train), 256, dtype=torch.int64, device=ranks.device)
        """Pixels of each native id that this rank has trained on, by stream; the main rank's hold what a checkpoint counted."""

    def resume(self) -> None:
        """Go on from the last whole checkpoint of the run, if there is one; a fresh run starts from `model.weights`."""
        state = self.folder.checkpoints.load_last()
        self.ranks.agree(-1 if state is None else state["step"], "last checkpoint")
        if state is None:
            if self.job.model.weights is not None:
                start_from_weights(self.job, self.trainer.model, self.ranks)
            return
        check_same_data(state, self.job, self.data)
        self.trainer.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best_score = state["step"], state["best_score"]
        if self.ranks.is_main:
            self.label_pixels += state["label_pixels"].to(self.ranks.device)
            print(f"{self.folder.path}: going on from step {self.step}", flush=True)
            self.folder.checkpoints.discard_after(self.step)
            if state["score"] == self.best_score:  # the process may have died between writing it and naming it the best
                self.folder.checkpoints.keep_as_best(self.step)

    def run(self, report: Report) -> None:
        loop, schedule = self.job.loop, self.job.schedule
        watch = Watch(self.folder, self.ranks, loop, done=self.step, mixture=self.data.mixture)
        with closing(self.loader.batches(self.step, loop.steps)) as batches:
            while self.step < loop.steps:
                with watch.waiting_for_data():
                    batch = next(batches)
                    streams = batch.streams.tolist()  # while they are on the host
                    batch = batch.to(self.ranks.device)
                batch = self._augmented(batch, streams)
                count_labels(batch, self.label_pixels)
                lr = learning_rate(self.job.optim.lr, schedule, self.step, loop.steps)
                set_learning_rate(self.optimizer, lr)
                seed_step(self.job.seed, self.step, self.ranks.rank)
                losses = train_step(self.losses, batch, self.optimizer, self.ranks)
                self.trainer.after_step(self.step)
                self.step += 1
                watch.step_done(self.step, losses, lr)
                with watch.pause():
                    self._evaluate_and_save(watch, report)
        watch.close()

    def _augmented(self, batch: Batch, streams: list[int]) -> Batch:
        """The batch with its colours and sharpness changed as its samples' streams say, alike on any number of ranks."""
        configs = [self.photometric[stream] for stream in streams]
        call_seed = step_number(self.job.seed, self.step, "photometric")
        return replace(batch, images=augment(batch.images, batch.seeds, configs, call_seed))

    def _evaluate_and_save(self, watch: Watch, report: Report) -> None:
        loop, last = self.job.loop, self.step == self.job.loop.steps
        evaluates = last or self.step % loop.evaluate_every == 0
        if not evaluates and self.step % loop.checkpoint_every:
            return
        watch.check_finite(self.step)
        self._check_weights()
        score = self._evaluate(watch, report) if evaluates else None
        is_best = score is not None and score > self.best_score
        self.best_score = score if score is not None and is_best else self.best_score
        label_pixels = self.ranks.sum(self.label_pixels.clone()).cpu()
        if self.ranks.is_main:
            self._write_shares(watch, label_pixels)
            state = {**self._state(score), "label_pixels": label_pixels}
            self.folder.checkpoints.save(state, self.step, keep=loop.keep_checkpoints, best=is_best)
        self.ranks.barrier()

    def _write_shares(self, watch: Watch, label_pixels: torch.Tensor) -> None:
        """What of each stream has been trained on so far: samples, epochs, and pixels of each class, in crops as they were cut."""
        mixture = self.data.mixture
        shares: dict[str, dict[str, Any]] = {}
        for stream, samples, counts in zip(mixture.streams, mixture.consumed(self.step), label_pixels, strict=True):
            view = self.data.views[self.data.datasets[stream.name]]
            by_class = torch.bincount(torch.from_numpy(view.table).long(), weights=counts.double(), minlength=256).long().tolist()
            pixels = dict(zip(view.names, by_class, strict=False))
            shares[stream.name] = {"samples": samples, "epochs": samples / stream.order.num_samples, "pixels": pixels}
        watch.log_pixels(self.step, {name: share["pixels"] for name, share in shares.items()})
        write_text(self.folder.shares, json.dumps({"step": self.step, "streams": shares}, indent=1) + "\n")

    def _check_weights(self) -> None:
        """Raise FloatingPointError, on all ranks alike, where the last update made a weight something that is no number."""
        for name, value in self.trainer.state_dict().items():
            if not value.isfinite().all():
                raise FloatingPointError(f"step {self.step}: {name} is not finite; lower optim.lr or look at the data")

    def _evaluate(self, watch: Watch, report: Report) -> float | None:
        """The score that decides about the best checkpoint, the same on all ranks; None where images were left out, since scores
        over different images do not compare."""
        model = self.trainer.model
        tallies = evaluate(model, self.data.val, self.job.data.crops, self.ranks)
        results = all_scores(model, tallies)
        watch.log_scores(self.step, results, {name: tally.left_out for name, tally in tallies.items()})
        if self.ranks.is_main:
            write_evaluation(self.folder.evaluation, tallies, results, step=self.step, split=self.job.data.val_split)
            panels = write_panels(model, self.data.val, self.job.data.crops, self.folder.overlays, self.job.loop.overlays)
            for name, picture in panels:
                watch.log_image(self.step, name, picture)
        score, left_out = mean_miou(results), sum(tally.left_out for tally in tallies.values())
        by_dataset = {f"miou/{name}": result.miou for name, result in results.items()}
        report({"step": float(self.step), "mean_miou": score, "left_out": float(left_out), **by_dataset})
        if left_out and self.ranks.is_main:
            images = left_out + sum(tally.images for tally in tallies.values())
            text = "step %d: the evaluation left out %d of %d images, so this checkpoint cannot be the best one"
            log.warning(text, self.step, left_out, images)
        return None if left_out else score

    def _state(self, score: float | None) -> dict[str, object]:
        """All that a resumed run needs. The schedule, the data position and the random numbers are functions of the step."""
        return {
            **checkpoint_header(self.job, self.data),
            "step": self.step,
            "score": score,
            "best_score": self.best_score,
            "model": self.trainer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }


def count_labels(batch: Batch, counts: torch.Tensor) -> None:
    """Add the pixels of each native id to `counts` (number of streams, 256) int64, on the device and without waiting for it."""
    places = batch.streams[:, None, None] * 256 + batch.labels
    counts.view(-1).scatter_add_(0, places.flatten(), torch.ones(1, dtype=torch.int64, device=counts.device).expand(places.numel()))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step (dropout and the like), so that no generator state has to be saved."""
    torch.manual_seed(step_number(seed, step, str(rank)))


def step_number(seed: int, step: int, name: str) -> int:
    """A number in 0..2**56-1 for what is drawn at one step."""
    return int.from_bytes(digest(f"{seed}/{step}/{name}", 7), "big")
