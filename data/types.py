"""The batch: what the data layer hands to a trainer."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of a global batch. Images and labels stay uint8 until the device.

    images: (N, 3, H, W) uint8 RGB, channels-last in memory.
    labels: (N, H, W) uint8 native ids of each sample's own dataset; its label space's `void_id` where nothing is known.
    rows: dataset name -> (N_d,) int64, which samples are of that dataset; every dataset of the job is a key, N_d may be 0.
    roles: role -> (N_r,) int64, which samples are labelled, unlabelled, source or target; every role of the job is a key.
        Labels of unlabelled and target samples are void.
    streams: (N,) int64, the number of each sample's stream in the mixture.
    seeds: (N,) int64 on the CPU, one per sample, of (seed, stream, epoch, position) alone: whatever is random about a sample on the
        device is drawn from it.
    sample_ids: N texts stream/epoch/key.
    slots: dataset and role of each sample of the whole global batch, in its order; the samples here are those of slots[rank::world_size].
        What trainers need to know on the host, of other ranks' samples too, without asking a device or a rank.
    step: the number of the global batch, from 0: that of the training step, where each takes one (`loop.accumulate`).
    """

    images: Tensor
    labels: Tensor
    rows: dict[str, Tensor]
    roles: dict[str, Tensor]
    streams: Tensor
    seeds: Tensor
    sample_ids: tuple[str, ...]
    step: int
    slots: tuple[tuple[str, str], ...] = ()
    rank: int = 0
    world_size: int = 1

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; without waiting for the copy where the memory is pinned."""
        rows = {name: index.to(device, non_blocking=True) for name, index in self.rows.items()}
        roles = {name: index.to(device, non_blocking=True) for name, index in self.roles.items()}
        images, labels = self.images.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        return replace(self, images=images, labels=labels, rows=rows, roles=roles, streams=self.streams.to(device, non_blocking=True))
