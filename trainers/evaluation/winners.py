"""What a concatenation finds most probable at each pixel, image by image: what relations are tested with (data/taxonomy/hypotheses.py)."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data.errors import InputError
from data.labels import IGNORE_INDEX
from data.progress import track
from data.shards import ShardSplit
from data.taxonomy.hypotheses import Winners
from data.transforms import CropConfig
from models.model import SegmentationModel
from models.outputs.base import evaluating
from models.outputs.concat import Concat
from trainers.evaluation.cross import CrossConfig
from trainers.evaluation.passes import read_logits
from trainers.evaluation.samples import read_samples
from trainers.finished import RunChoice, default_device


def collect_winners(run: Path, config: CrossConfig) -> tuple[Winners, ...]:
    """Of each dataset of a run with outputs=concat, on the split that it was evaluated on as it trained, or on `config.split`. Pictures are
    shown as in training's own evaluation. Raises InputError for a run of another kind, or without shards."""
    model, job, _ = RunChoice(run=run, checkpoint=config.checkpoint).open(default_device())
    if not isinstance(model.outputs, Concat):
        raise InputError(f"test={run}: a run with outputs={job.outputs.name} found, expected concat; name another")
    data = replace(job.data, root=config.root or job.data.root)
    splits = {name: ShardSplit(data.location(name), config.split or job.data.val_split, cache=config.cache) for name in model.outputs.views}
    for split in splits.values():
        if split.label_space.supervision != "pixels":
            kind = split.label_space.supervision
            raise InputError(f"test={run}: labels of kind {kind} found in {split.location}, expected pixels; name another run")
    return tuple(_of_dataset(model, name, split, job.data.crops[name]) for name, split in splits.items())


def _of_dataset(model: SegmentationModel, name: str, split: ShardSplit, crop: CropConfig) -> Winners:
    view, leaves = model.outputs.views[name], model.outputs.leaves(name)
    own = torch.tensor([leaves.index(f"{name}/{label}") for label in view.names], device=model.mean.device)
    keys, entries = list[str](), list[np.ndarray]()
    samples = range(len(split))
    with evaluating(model), closing(read_samples(split, samples)) as read:
        for number, image, label in track(read, total=len(samples), what=f"winners on {name}"):
            truth = view.table[label].astype(np.int64)
            winner, best = np.empty_like(truth), np.empty_like(truth)
            for _, rows, logits in read_logits(model, image, {name: crop}):
                winner[rows] = logits.argmax(dim=1)[0].cpu()
                best[rows] = logits.index_select(1, own).argmax(dim=1)[0].cpu()
            known = truth != IGNORE_INDEX
            alike = (truth * len(leaves) + winner) * len(own) + best
            codes, pixels = np.unique(alike[known], return_counts=True)
            entries.append(np.stack([np.full_like(codes, len(keys)), codes, pixels]))
            keys.append(split.key(number))
    image, codes, pixels = np.concatenate(entries, axis=1) if entries else np.zeros((3, 0), np.int64)
    return Winners(
        dataset=name,
        labels=view.names,
        leaves=leaves,
        images=tuple(keys),
        image=image.astype(np.int32),
        truth=(codes // len(own) // len(leaves)).astype(np.int32),
        winner=(codes // len(own) % len(leaves)).astype(np.int32),
        own=(codes % len(own)).astype(np.int32),
        pixels=pixels,
    )
