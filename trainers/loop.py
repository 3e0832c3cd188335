"""The training loop: batches through the step, with evaluation, checkpoints and logging in between."""

import inspect
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data.drawing import write_picture
from data.files import write_text
from data.order import step_number
from data.photometric import augment
from data.types import Batch
from models.batchnorm import synchronise_batchnorm
from trainers.collapse import COLLAPSED, Peaks, describe, find_collapsed
from trainers.config import JobConfig
from trainers.ema import Average
from trainers.evaluation import Tally, all_scores, evaluate, level_scores, mean_miou, write_evaluation
from trainers.goodput import Goodput
from trainers.job import build_loader, build_trainer, check_same_data, checkpoint_header, class_pixels, open_data
from trainers.metrics import Scores
from trainers.optim import build_optimizer, load_optimizer, set_learning_rates
from trainers.overlay import write_confusions, write_panels
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder
from trainers.schedule import learning_rate
from trainers.step import GRADIENT, StepResult, train_step
from trainers.update import Update
from trainers.watch import Watch
from trainers.weights import start_from_weights

log = logging.getLogger(__name__)

# All ranks start from one seed and normalise with the same statistics: buffers need no broadcast. torch renamed the option.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFER_BROADCAST: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}

Report = Callable[[dict[str, float]], None]


def train(job: JobConfig, ranks: Ranks, report: Report = lambda scores: None) -> None:
    """Train `job` to its end on this rank, from its last checkpoint where it has one.

    `report` is called after each evaluation, on every rank alike, with its scores; the checkpoint of that step is written by then.
    """
    training = Training(job, ranks)
    with training.folder.lock(".writer") if ranks.is_main else nullcontext():
        training.resume()
        training.run(report)


class Training:
    """One rank's part of a job: the state that a checkpoint holds, and the loop over it."""

    def __init__(self, job: JobConfig, ranks: Ranks) -> None:
        self.job, self.ranks, loop = job, ranks, job.loop
        self.folder = RunFolder(job.run.folder)
        self.goodput = Goodput(self.folder.goodput if ranks.is_main else None)
        self.data = open_data(job)
        self.loader = build_loader(job, self.data, ranks)
        self.trainer = build_trainer(job, self.data.views, ranks.device)
        self.trainer.prepare(partial(class_pixels, self.data))
        self.losses: nn.Module = self.trainer
        if ranks.world_size > 1:
            synchronise_batchnorm(self.trainer, ranks.device)
        if loop.compile:
            for model in (self.trainer.model, *self.trainer.companions.values()):
                model.compile()
        if ranks.world_size > 1:
            self.losses = DistributedDataParallel(self.trainer, gradient_as_bucket_view=True, **_NO_BUFFER_BROADCAST)
        self.optimizer = build_optimizer(self.trainer, job.optim)
        self.update = Update(self.trainer, self.optimizer, precision=loop.precision, accumulate=loop.accumulate, clip_norm=loop.clip_norm)
        self.ema = None if loop.ema is None else Average(self.trainer, self.trainer.averages)
        self.photometric = [job.data.photometric_of(stream) for stream in job.data.streams.values()]
        self.step = 0
        """Steps done, the skipped ones among them."""
        self.skipped, self.skipped_in_a_row = 0, 0
        self.best_score = float("-inf")
        self.peaks = Peaks()
        self.stale = 0
        """Evaluations since the one with the best score."""
        self.label_pixels = torch.zeros(len(self.data.train), 256, dtype=torch.int64, device=ranks.device)
        """Pixels of each native id that this rank has trained on, by stream; the main rank's hold what a checkpoint counted."""

    def resume(self) -> None:
        """Go on from the last whole checkpoint of the run, if there is one; a fresh run starts from `model.weights`."""
        state = self.folder.checkpoints.load_last()
        self.ranks.agree(-1 if state is None else state["step"], "last checkpoint")
        if state is None:
            if self.job.model.weights is not None:
                start_from_weights(self.job, self.trainer.model, self.ranks)
            self.trainer.start()
            if self.ema is not None:
                self.ema.reset()
            return
        check_same_data(state, self.job, self.data)
        self.trainer.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.update.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.peaks = Peaks(state.get("peaks", {}))
        self.step, self.best_score, self.stale = state["step"], state["best_score"], state["stale"]
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
        if self.ranks.is_main:
            self.label_pixels += state["label_pixels"].to(self.ranks.device)
            print(f"{self.folder.path}: {'complete at' if self.is_complete else 'going on from'} step {self.step}", flush=True)
            self.folder.checkpoints.discard_after(self.step)
            if state["score"] is not None and self.stale == 0:  # the process may have died between writing it and naming it the best
                self.folder.checkpoints.keep_as_best(self.step)

    @property
    def is_complete(self) -> bool:
        """Whether all steps are done, or as many evaluations as `loop.patience` were none the best."""
        patience = self.job.loop.patience
        return self.step >= self.job.loop.steps or (patience is not None and self.stale >= patience)

    def run(self, report: Report) -> None:
        loop = self.job.loop
        self.goodput.resume(self.step)
        watch = Watch(self.folder, self.ranks, loop, done=self.step, mixture=self.data.mixture, goodput=self.goodput, scalars=self._scalars)
        begin = self.step
        with closing(watch), closing(self.loader.batches(self.step * loop.accumulate, loop.batches)) as loaded:
            self.goodput.started()
            while not self.is_complete:
                rates = self._set_learning_rates()
                sample_ids: list[tuple[str, ...]] = []
                result = train_step(self.losses, self._batches(loaded, sample_ids, watch), self.update, self.ranks)
                self.trainer.after_step(self.step)
                if self.ema is not None and loop.ema is not None:
                    self.ema.update(loop.ema.at(self.step))
                self.step += 1
                self.skipped += bool(result.spoiled)
                self.skipped_in_a_row = self.skipped_in_a_row + 1 if result.spoiled else 0
                watch.step_done(self.step, result, rates, self.skipped)
                if result.spoiled:
                    self._tell_skipped(result, sample_ids, watch)
                self._evaluate_and_save(watch, report)
            watch.flush()
            if self.step > begin:
                watch.tell_goodput()

    def _batches(self, loaded: Iterator[Batch], sample_ids: list[tuple[str, ...]], watch: Watch) -> Iterator[Batch]:
        """The batches of one step, on the device, with all random numbers seeded for each; their ids are noted in `sample_ids`."""
        for _ in range(self.job.loop.accumulate):
            with watch.waiting_for_data():
                batch = next(loaded)
                streams = batch.streams.tolist()  # while they are on the host
                batch = batch.to(self.ranks.device)
            sample_ids.append(batch.sample_ids)
            batch = self._augmented(batch, streams)
            count_labels(batch, self.label_pixels)
            seed_step(self.job.seed, batch.step, self.ranks.rank)
            yield batch

    def _set_learning_rates(self) -> dict[str, float]:
        """Returns the rate of parameters in no group as `lr`, and those of all groups where there are several."""
        schedule, steps = self.job.schedule, self.job.loop.steps
        rates = set_learning_rates(self.optimizer, schedule, self.step, steps)
        by_group = {f"lr/{name}": rate for name, rate in rates.items()} if len(rates) > 1 else {}
        return {"lr": learning_rate(self.job.optim.lr, schedule, self.step, steps), **by_group}

    def _scalars(self) -> dict[str, float]:
        """What is worth watching of the state."""
        scale = {"loss_scale": self.update.scaler.get_scale()} if self.update.scaler.is_enabled() else {}
        return {**{name: float(value) for name, value in self.trainer.scalars().items()}, **scale}

    def _tell_skipped(self, result: StepResult, sample_ids: Sequence[tuple[str, ...]], watch: Watch) -> None:
        """Say why a step was skipped. Raises FloatingPointError, on all ranks alike, where that were too many in a row."""
        if self.skipped_in_a_row == 1:
            self._check_weights()  # where the step before spoiled them, these samples are not to blame
        names = ", ".join(dict.fromkeys(name if name == GRADIENT else f"loss of {name}" for _, name in result.spoiled))
        ids = [sample for number in sorted({number for number, _ in result.spoiled}) for sample in sample_ids[number]]
        samples = ", ".join(text for text in self.ranks.texts(", ".join(ids)) if text)
        if self.ranks.is_main:
            log.warning("step %d: skipped, %s not finite (%d in a row); samples: %s", self.step, names, self.skipped_in_a_row, samples)
        if self.skipped_in_a_row < self.job.loop.max_skipped_steps:
            return
        watch.flush()
        raise FloatingPointError(
            f"step {self.step}: {names} not finite, {self.skipped_in_a_row} steps in a row were skipped; lower optim.lr or look at the "
            f"data, the samples of the last one: {samples}"
        )

    def _augmented(self, batch: Batch, streams: list[int]) -> Batch:
        """The batch with its colours and sharpness changed as its samples' streams say, alike on any number of ranks."""
        configs = [self.photometric[stream] for stream in streams]
        call_seed = step_number(self.job.seed, batch.step, "photometric")
        images = augment(batch.images, batch.seeds, configs, call_seed)
        return replace(batch, images=images if self.job.loop.channels_last else images.contiguous())

    def _evaluate_and_save(self, watch: Watch, report: Report) -> None:
        loop = self.job.loop
        evaluates = self.step == loop.steps or self.step % loop.evaluate_every == 0
        if not evaluates and self.step % loop.checkpoint_every:
            return
        self._check_weights()
        score, is_best, scores = None, False, dict[str, float]()
        if evaluates:
            with watch.evaluating(), self._ready_for_evaluation():
                score, scores = self._evaluate(watch)
        if score is not None:
            is_best = score > self.best_score
            self.best_score, self.stale = (score, 0) if is_best else (self.best_score, self.stale + 1)
        with watch.saving(self.step):
            label_pixels = self.ranks.sum(self.label_pixels.clone()).cpu()
            if self.ranks.is_main:
                self._write_shares(watch, label_pixels)
                state = {**self._state(score), "label_pixels": label_pixels}
                self.folder.checkpoints.save(state, self.step, keep=loop.keep_checkpoints, best=is_best)
            self.ranks.barrier()
        if evaluates:
            report(scores)
        if self.ranks.is_main and self.is_complete and self.step < loop.steps:
            print(f"step {self.step}/{loop.steps}  complete: no better mean mIoU in {self.stale} evaluations (loop.patience)", flush=True)

    @contextmanager
    def _ready_for_evaluation(self) -> Iterator[None]:
        """The model with its averaged weights, if there are such; and not compiled anew for every size of picture."""
        with ExitStack() as stack:
            if self.ema is not None:
                stack.enter_context(self.ema.in_place())
            if self.job.loop.compile:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    def _write_shares(self, watch: Watch, label_pixels: torch.Tensor) -> None:
        """What of each stream has been trained on so far: samples, epochs, and pixels of each class, in crops as they were cut."""
        mixture = self.data.mixture
        shares: dict[str, dict[str, Any]] = {}
        for stream, samples, counts in zip(
            mixture.streams, mixture.consumed(self.step * self.job.loop.accumulate), label_pixels, strict=True
        ):
            view = self.data.views[self.data.datasets[stream.name]]
            pixels = dict(zip(view.names, view.count(counts.numpy()).tolist(), strict=True))
            shares[stream.name] = {"samples": samples, "epochs": samples / stream.order.num_samples, "pixels": pixels}
        watch.log_pixels(self.step, {name: share["pixels"] for name, share in shares.items()})
        write_text(self.folder.shares, json.dumps({"step": self.step, "streams": shares}, indent=1) + "\n")

    def _check_weights(self) -> None:
        """Raise FloatingPointError, on all ranks alike, where the last update made a weight something that is no number."""
        for name, value in self.trainer.state_dict().items():
            if not value.isfinite().all():
                raise FloatingPointError(
                    f"step {self.step}: {name} is not finite; lower optim.lr, give loop.clip_norm, or look at the data"
                )

    def _evaluate(self, watch: Watch) -> tuple[float | None, dict[str, float]]:
        """The score that decides about the best checkpoint, the same on all ranks; None where images were left out, since scores
        over different images do not compare, and where nothing was scored. And all that is reported."""
        model = self.trainer.model
        tallies = evaluate(model, self.data.val, self.job.data.crops, self.ranks)
        results = all_scores(model, tallies)
        levels = {f"{name}/{level}": found for name, tally in tallies.items() for (_, level), (found, _) in level_scores(tally).items()}
        watch.log_scores(self.step, results, {name: tally.left_out for name, tally in tallies.items()}, levels)
        collapsed = self._collapsed(tallies, results)
        companions = self._evaluate_companions(watch)
        if self.ranks.is_main:
            about = {"run": self.job.run.name, "step": self.step, "split": self.job.data.val_split, "averaged": self.ema is not None}
            extra = {"collapsed": collapsed, **({"companions": companions} if companions else {})}
            write_evaluation(self.folder.evaluation, tallies, results, **about, **extra)
            self._draw(watch, tallies)
        score, left_out = mean_miou(results), sum(tally.left_out for tally in tallies.values())
        by_dataset = {f"miou/{name}": result.miou for name, result in results.items()}
        scores = {"step": float(self.step), "mean_miou": score, "left_out": float(left_out), **by_dataset}
        if left_out and self.ranks.is_main:
            images = left_out + sum(tally.images for tally in tallies.values())
            text = "step %d: the evaluation left out %d of %d images, so this checkpoint cannot be the best one"
            log.warning(text, self.step, left_out, images)
        if math.isnan(score) and self.ranks.is_main:
            log.warning("step %d: no pixel with a label in the validation splits, so there is no score", self.step)
        return (None if left_out or math.isnan(score) else score), scores

    def _collapsed(self, tallies: Mapping[str, Tally], results: Mapping[str, Scores]) -> dict[str, list[str]]:
        matrices = {name: tally.matrix for name, tally in tallies.items()}
        found = find_collapsed(self.peaks, self.job.data.hidden, matrices, results)
        for name, result in results.items():
            self.peaks.update(name, result)
        if self.ranks.is_main and found:
            log.warning("step %d: %s: %s", self.step, COLLAPSED, describe(found))
        return found

    def _evaluate_companions(self, watch: Watch) -> dict[str, dict[str, dict[str, Any]]]:
        """Scores of what the trainer has beside its model, such as a teacher: name -> dataset -> scores."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for name, companion in self.trainer.companions.items():
            results = all_scores(companion, evaluate(companion, self.data.val, self.job.data.crops, self.ranks))
            watch.log_scores(self.step, {f"{name}/{dataset}": result for dataset, result in results.items()}, {})
            found[name] = {
                dataset: {"miou": result.miou, "mpa": result.mpa, "iou": dict(zip(result.names, result.iou, strict=True))}
                for dataset, result in results.items()
            }
        return found

    def _draw(self, watch: Watch, tallies: Mapping[str, Tally]) -> None:
        panels = write_panels(self.trainer.model, self.data.val, self.job.data.crops, self.folder.overlays, self.job.loop.overlays)
        for kind, pictures in (("overlays", panels), ("confusion", write_confusions(tallies, self.folder.confusion))):
            for name, picture in pictures:
                watch.log_image(self.step, f"{kind}/{name}", picture)
        for name, sheet in self.trainer.panels().items() if self.job.loop.overlays else ():
            write_picture(self.folder.overlays / f"{name}.png", sheet)
            watch.log_image(self.step, f"steps/{name}", np.asarray(sheet))

    def _state(self, score: float | None) -> dict[str, object]:
        """All that a resumed run needs. The schedule, the data position and the random numbers are functions of the step."""
        return {
            **checkpoint_header(self.job, self.data),
            "step": self.step,
            "score": score,
            "best_score": self.best_score,
            "stale": self.stale,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "peaks": self.peaks.iou,
            "model": self.trainer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.update.scaler.state_dict(),
            **({} if self.ema is None else {"ema": self.ema.state_dict()}),
        }


def count_labels(batch: Batch, counts: torch.Tensor) -> None:
    """Add the pixels of each native id to `counts` (number of streams, 256) int64, on the device and without waiting for it."""
    places = batch.streams[:, None, None] * 256 + batch.labels
    counts.view(-1).scatter_add_(0, places.flatten(), torch.ones(1, dtype=torch.int64, device=counts.device).expand(places.numel()))


def seed_step(seed: int, batch: int, rank: int) -> None:
    """Seed torch's generators for one global batch (dropout and the like), so that no generator state has to be saved."""
    torch.manual_seed(step_number(seed, batch, str(rank)))
