"""Time and memory of the loss of every output space, forward and backward, beside plain cross entropy on the same logits.

    python -m benchmarks.output_losses

Logits of 108 channels, as the tree of paper 001 has classes. Each round measures all in turn, in both layouts that logits have in memory;
figures are medians, ratios are taken within a round.
"""

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.drawn import hardware
from data.hierarchy import Hierarchy, read_hierarchy
from data.labels import IGNORE_INDEX, Label, LabelSpace, View
from data.universe import Leaf, Universe
from models.networks.base import Features, FirstMap, Network
from models.outputs import OutputsConfig, build_outputs
from models.outputs.concat import ConcatConfig
from models.outputs.hierarchy import HierarchyConfig
from models.outputs.multihead import MultiHeadConfig
from models.outputs.universal import UniversalConfig

NUM_CHANNELS = 108
PLAIN = "plain cross entropy"
LAYOUTS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
Loss = Callable[[Tensor, Tensor], Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.output_losses", description=(__doc__ or "").split("\n", 1)[0])
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--shape", nargs=3, type=int, default=[8, 512, 1024] if on_gpu else [2, 256, 512], metavar=("N", "H", "W"))
    parser.add_argument("--rounds", type=int, default=20 if on_gpu else 7)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--cpu-time", action="store_true", help="for a CPU that is busy with other things")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if on_gpu else "cpu")
    clock = time.process_time if options.cpu_time else time.perf_counter
    where = torch.cuda.get_device_name() if on_gpu else f"{hardware()}; {options.threads} thread{'s'[: options.threads > 1]}"
    print(f"{where}, {'x'.join(map(str, options.shape))} pixels of {NUM_CHANNELS} float32 logits\n")
    print("| logits | loss | ms | time / plain | MB beyond the logits | memory / plain |")
    print("| --- | --- | --- | --- | --- | --- |")
    for layout in LAYOUTS:
        print(measure(layout, options.shape, options.rounds, device, clock), flush=True)


class Bare(Network):
    """Of no use but to make output spaces."""

    def forward(self, images: Tensor) -> Features:
        return (images,)

    def make_decoder(self, num_classes: int) -> nn.Module:
        return nn.Identity()

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.Conv2d(1, num_classes, 1))


def contestants(device: torch.device) -> dict[str, tuple[Loss, int]]:
    """Name -> its loss of logits and labels, and how many labels it knows."""
    names = [f"c{i}" for i in range(NUM_CHANNELS)]
    pairs: dict[str, tuple[str, ...]] = {f"pair {i}": (names[2 * i], names[2 * i + 1]) for i in range(NUM_CHANNELS // 2)}
    leaves = tuple(Leaf(name=name) for name in names)
    tree = tree_of_108()
    made: dict[str, tuple[OutputsConfig, dict[str, View]]] = {
        "multihead": (MultiHeadConfig(name="multihead"), {"a": view_of(names)}),
        "concat": (ConcatConfig(name="concat"), {"a": view_of(names[:65]), "b": view_of(names[65:])}),
        "universal, a leaf each": (
            UniversalConfig(name="universal", universe=Universe(version=1, leaves=leaves, labels={"a": {n: (n,) for n in names}})),
            {"a": view_of(names)},
        ),
        "universal, sets": (
            UniversalConfig(name="universal", universe=Universe(version=1, leaves=leaves, labels={"a": pairs})),
            {"a": view_of(list(pairs))},
        ),
        "hierarchy, five classifiers": (HierarchyConfig(name="hierarchy", tree=tree), {"a": view_of(list(tree.labels["a"]))}),
    }

    def loss_of(config: OutputsConfig, views: dict[str, View]) -> Loss:
        space = build_outputs(config, views, Bare()).to(device)
        return lambda x, y: torch.stack([term.total for term in space.losses({"a": x}, {"a": y}).values()]).sum()

    def plain(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")

    spaces = {name: (loss_of(config, views), views["a"].num_classes) for name, (config, views) in made.items()}
    return {PLAIN: (plain, NUM_CHANNELS), **spaces}


def tree_of_108() -> Hierarchy:
    """That of paper 001 with so few signs that its five classifiers have 108 outputs; one dataset labels all leaves."""
    tree = read_hierarchy("paper001")
    signs = replace(tree.classifiers["L3_front"], classes=tree.classifiers["L3_front"].classes[:35])
    classifiers = {name: replace(c, datasets=None, passed_over=()) for name, c in {**tree.classifiers, "L3_front": signs}.items()}
    labels = {node: node for c in classifiers.values() for node in c.classes if node not in tree.splitting}
    return Hierarchy(version=1, classifiers=classifiers, labels={"a": dict(labels)})


def view_of(names: Sequence[str]) -> View:
    return LabelSpace(name="a", labels=tuple(Label(id=i, name=name, color=(0, 0, 0)) for i, name in enumerate(names))).view()


def measure(layout: str, shape: Sequence[int], rounds: int, device: torch.device, clock: Callable[[], float]) -> str:
    """The rows of one layout."""
    batch, height, width = shape
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(batch, NUM_CHANNELS, height, width, generator=generator) * 3).to(device, memory_format=LAYOUTS[layout])
    logits.requires_grad_()
    blocks = torch.rand(batch, (height + 15) // 16, (width + 15) // 16, generator=generator)
    losses = contestants(device)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    for number in range(rounds + 1):
        for name, (loss, num_labels) in losses.items():
            labels = (blocks * num_labels).long().repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width].contiguous()
            labels[:, : height // 10] = IGNORE_INDEX
            found = one_step(loss, logits, labels.to(device), clock)
            if number:  # the first warms up
                results[name].append(found)
    rows = []
    for name, steps in results.items():
        pairs = list(zip(steps, results[PLAIN], strict=True))
        seconds, memory = (median(step[i] for step in steps) for i in (0, 1))
        slower, larger = (median(step[i] / max(plain[i], 1e-9) for step, plain in pairs) for i in (0, 1))
        rows.append(f"| {layout} | {name} | {1000 * seconds:.0f} | {slower:.2f} | {memory / 1e6:.0f} | {larger:.2f} |")
    return "\n".join(rows)


def one_step(loss: Loss, logits: Tensor, labels: Tensor, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of forward and backward, and the bytes that they needed at most besides what was there."""
    logits.grad = None
    gc.collect()
    before = start_peak(logits.device)
    begin = clock()
    (loss(logits, labels) * 1e-6).backward()
    if logits.is_cuda:
        torch.cuda.synchronize()
    return clock() - begin, peak(logits.device) - before


def start_peak(device: torch.device) -> int:
    """Forget the peak so far; the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
