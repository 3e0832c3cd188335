"""Size and speed of every network: parameters, multiplications, a forward pass and a training step, time and peak memory.

    python -m benchmarks.networks                                        # on a GPU where there is one, else on the CPU
    python -m benchmarks.networks --networks swiftnet_rn18 --sizes 512x1024

One dataset of 19 classes at each size, beside a network of torchvision or segmentation_models.pytorch on the same trunk where
there is one; and three datasets (19, 65 and 43 classes) with the decoder shared or repeated (paper 002, figure 6). A network and
its neighbour are timed in turn, in one process; the peak of memory is that of a process, or of the GPU, for each alone.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import conf
from benchmarks.output_losses import view_of
from benchmarks.process import Memory, forget_peak, peak
from data.config import build
from data.types import Batch
from models.model import SegmentationModel, build_model
from models.networks import NetworkConfig
from models.networks.base import Features, FirstMap, Network
from models.outputs import build_outputs
from models.outputs.multihead import MultiHeadConfig
from trainers.flat import FlatConfig, FlatTrainer
from trainers.ranks import Ranks
from trainers.step import train_step
from trainers.update import Update

CLASSES = (19, 65, 43)
"""Of Cityscapes, Vistas and GTSDB, the sets of paper 002."""
MODES = ("eager", "channels_last", "bf16", "compiled")
"""Each has all that the ones before it have."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured."""

    network: str
    """A choice of conf/model, or a neighbour's name."""
    size: tuple[int, int]
    mode: str
    device: str
    num_datasets: int = 1
    decoder: str = "shared"
    num_images: int = 1
    """In a training step; the forward pass has one image, with the outputs of all datasets."""


@dataclass(frozen=True, kw_only=True)
class _Network:
    model: NetworkConfig


def network_config(name: str) -> NetworkConfig:
    return build(_Network, {"model": yaml.safe_load((conf.FOLDER / "model" / f"{name}.yaml").read_text())}).model


class Neighbour(Network):
    """Another library's network in the place of ours: its logits are the features, and its classifier is nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Features:
        out = self.network(images)
        return (out["out"] if isinstance(out, dict) else out,)

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.Identity())


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import segmentation

    network: nn.Module = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES[0])
    return network


def _smp(encoder: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    network: nn.Module = smp.FPN(encoder, encoder_weights=None, classes=CLASSES[0])
    return network


NEIGHBOURS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "swiftnet_rn18": ("smp FPN resnet18", lambda: _smp("resnet18")),
    "swiftnet_rn34": ("smp FPN resnet34", lambda: _smp("resnet34")),
    "deeplabv2_rn101": ("torchvision fcn_resnet101", lambda: _torchvision("fcn_resnet101")),
    "dilated_resnet50": ("torchvision fcn_resnet50", lambda: _torchvision("fcn_resnet50")),
}
"""Network -> one of another library on the same trunk with the same output stride; heads differ. smp is segmentation_models.pytorch,
which takes part where it is installed."""


def _neighbours_of(network: str) -> list[tuple[str, Callable[[], nn.Module]]]:
    """The neighbour of a network, if there is one and its library is installed."""
    found = [NEIGHBOURS[network]] if network in NEIGHBOURS else []
    return [one for one in found if not one[0].startswith("smp") or find_spec("segmentation_models_pytorch")]


class Subject:
    """A model that can be run forward and trained, by the functions that a job trains with."""

    def __init__(self, case: Case) -> None:
        self.case, self.device = case, torch.device(case.device)
        torch.manual_seed(0)
        views = {str(number): view_of([str(i) for i in range(CLASSES[number])]) for number in range(case.num_datasets)}
        config = build(MultiHeadConfig, {"name": "multihead", "decoder": case.decoder})
        neighbours = dict(NEIGHBOURS.values())
        if case.network in neighbours:
            neighbour = Neighbour(neighbours[case.network]())
            self.model = SegmentationModel(neighbour, build_outputs(config, views, neighbour))
        else:
            self.model = build_model(network_config(case.network), config, views)
        layout = torch.contiguous_format if case.mode == "eager" else torch.channels_last
        self.model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.trainer = FlatTrainer(self.model, FlatConfig(name="flat")).to(self.device)
        if case.mode == "compiled":
            self.model.compile()
        optimizer = torch.optim.SGD([weight for weight in self.model.parameters() if weight.requires_grad], lr=1e-4, momentum=0.9)
        self.update = Update(self.trainer, optimizer, precision="bf16" if self._is_mixed else "fp32")
        self.batch, self.image = self._make_batch(case.num_images), self._make_batch(1).images

    def _make_batch(self, num_images: int) -> Batch:
        height, width = self.case.size
        images = torch.randint(0, 256, (num_images, height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        names = [str(number) for number in range(self.case.num_datasets)]
        batch = Batch(
            images=images if self.case.mode != "eager" else images.contiguous(),
            labels=torch.randint(0, CLASSES[0], (num_images, height, width), dtype=torch.uint8),
            rows={name: torch.arange(num_images)[number :: len(names)] for number, name in enumerate(names)},
            roles={},
            streams=torch.zeros(num_images, dtype=torch.int64),
            seeds=torch.arange(num_images),
            sample_ids=("",) * num_images,
            step=0,
        )
        return batch.to(self.device)

    @property
    def _is_mixed(self) -> bool:
        return self.case.mode in ("bf16", "compiled")

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self._is_mixed else nullcontext()

    @torch.no_grad()
    def forward(self) -> None:
        self.model.eval()
        row = torch.zeros(1, dtype=torch.int64, device=self.device)
        with self._autocast():
            self.model(self.image, {str(number): row for number in range(self.case.num_datasets)})
        self._wait()

    def train(self) -> None:
        self.model.train()
        train_step(self.trainer, [self.batch], self.update, Ranks(device=self.device))
        self._wait()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


RUNS: dict[str, Callable[[Subject], None]] = {"forward": Subject.forward, "train": Subject.train}


def seconds_of(cases: Sequence[Case], what: str, *, seconds: float, least: int) -> list[float] | str:
    """Median seconds of `what` for each case, taken in turn; or why there are none."""
    try:
        subjects = [Subject(case) for case in cases]
        for subject in subjects:
            for _ in range(3 if subject.device.type == "cuda" else 1):  # what is compiled and tuned at first
                RUNS[what](subject)
        times: list[list[float]] = [[] for _ in cases]
        end = time.perf_counter() + seconds
        while len(times[0]) < least or time.perf_counter() < end:
            for subject, taken in zip(subjects, times, strict=True):
                begin = time.perf_counter()
                RUNS[what](subject)
                taken.append(time.perf_counter() - begin)
        return [median(taken) for taken in times]
    except (RuntimeError, ImportError) as error:
        return _one_line(error)


def peak_of(case: Case, what: str) -> float | str:
    """The most gigabytes that `what` takes, the weights included; of the process on a CPU, of the device on a GPU."""
    before = Memory.now().total
    try:
        subject = Subject(case)
        if case.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()
        RUNS[what](subject)
        return (torch.cuda.max_memory_allocated() if case.device == "cuda" else peak() - before) / 1e9
    except (RuntimeError, ImportError) as error:
        return _one_line(error)


def count(case: Case) -> tuple[int, int] | str:
    """Parameters, and multiply-accumulates of a forward pass."""
    try:
        subject = Subject(replace(case, device="cpu", mode="eager", size=(64, 64)))
        parameters = sum(weight.numel() for weight in subject.model.parameters())
        subject.model.eval().to("meta")
        row = torch.zeros(1, dtype=torch.int64, device="meta")
        image = torch.zeros(1, 3, *case.size, dtype=torch.uint8, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subject.model(image, {str(number): row for number in range(case.num_datasets)})
        return parameters, counter.get_total_flops() // 2
    except (RuntimeError, ImportError) as error:
        return _one_line(error)


def _one_line(error: Exception) -> str:
    return "out of memory" if "memory" in str(error) else f"{type(error).__name__}: {' '.join(str(error).split())[:60]}"


def in_own_process(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A result from a process of its own, whose memory is its own and given back; a text where the system killed it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments, **options).result()
        except BrokenProcessPool:
            return "killed"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=(__doc__ or "").split("\n", 1)[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--networks", nargs="+", choices=conf.choices("model"), default=conf.choices("model"))
    parser.add_argument("--sizes", nargs="*", default=["512x1024", "1024x2048"], help="of one dataset's table; none leaves it out")
    parser.add_argument("--sets-size", nargs="?", default="512x1024", help="of the three datasets' table; without a value it is left out")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES) if device == "cuda" else ["channels_last"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--seconds", type=float, default=3.0, help="that each pair is timed for")
    parser.add_argument("--least", type=int, default=3, help="times that each is timed")
    options = parser.parse_args(arguments)
    cores = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    name = torch.cuda.get_device_name() if options.device == "cuda" else cores
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}\n")
    bench = Bench(options.device, options.seconds, options.least)
    for size in options.sizes:
        bench.one_dataset(options.networks, size, options.modes)
    if options.sets_size:
        bench.three_datasets(options.networks, options.sets_size, options.modes[-1])


@dataclass(frozen=True)
class Bench:
    device: str
    seconds: float
    least: int

    def one_dataset(self, networks: Sequence[str], size: str, modes: Sequence[str]) -> None:
        """A table of networks and their neighbours on one dataset."""
        print(f"One dataset of {CLASSES[0]} classes, one image of {size} (height x width)\n")
        measured = ("forward, ms", "images/s", "GB", "training step, ms", "images/s", "GB")
        _row("network", "mode", "M parameters", "GMACs", *measured, "ours / this: forward, step")
        _row(*["---"] * 11)
        for network in networks:
            for mode in modes:
                case = Case(network=network, size=_size(size), mode=mode, device=self.device)
                pair = [case, *(replace(case, network=name) for name, _ in _neighbours_of(network))]
                times = {what: self._times(pair, what) for what in RUNS}
                for number, one in enumerate(pair):
                    self._print(one, {what: times[what][number] for what in RUNS}, {what: times[what][0] for what in RUNS})
        print()

    def _times(self, cases: Sequence[Case], what: str) -> Sequence[float | str]:
        found = in_own_process(seconds_of, cases, what, seconds=self.seconds, least=self.least)
        return [found] * len(cases) if isinstance(found, str) else found

    def _print(self, case: Case, seconds: Mapping[str, float | str], ours: Mapping[str, float | str]) -> None:
        counted = in_own_process(count, case)
        sizes = [counted, "-"] if isinstance(counted, str) else [f"{counted[0] / 1e6:.2f}", f"{counted[1] / 1e9:.1f}"]
        measured, ratios = [], []
        for what, taken in seconds.items():
            held = in_own_process(peak_of, case, what)
            reference = ours[what]
            if isinstance(taken, str) or isinstance(reference, str):
                measured += [taken if isinstance(taken, str) else f"{1e3 * taken:.1f}", "-"]
                ratios.append("-")
            else:
                measured += [f"{1e3 * taken:.1f}", f"{case.num_images / taken:.2f}"]
                ratios.append(f"{reference / taken:.2f}")
            measured.append(held if isinstance(held, str) else f"{held:.2f}")
        is_ours = case.network not in dict(NEIGHBOURS.values())
        _row(f"**{case.network}**" if is_ours else case.network, case.mode, *sizes, *measured, "" if is_ours else ", ".join(ratios))

    def three_datasets(self, networks: Sequence[str], size: str, mode: str) -> None:
        """A table of what a second and third dataset cost, with one decoder and with one for each."""
        print(f"Forward pass of one image of {size} with the outputs of one and of three datasets, training step of three images, {mode}\n")
        columns = ("forward, ms", "training step, ms", "M parameters")
        _row("network", *(cell for column in columns for cell in (f"{column}: 1", "3, shared", "3, repeated")))
        _row(*["---"] * 10)
        for network in networks:
            case = Case(network=network, size=_size(size), mode=mode, device=self.device, num_images=3)
            cases = [case, replace(case, num_datasets=3), replace(case, num_datasets=3, decoder="repeated")]
            times = [value for what in RUNS for value in self._times(cases, what)]
            counted = [in_own_process(count, one) for one in cases]
            cells = [value if isinstance(value, str) else f"{1e3 * value:.1f}" for value in times]
            _row(network, *cells, *(value if isinstance(value, str) else f"{value[0] / 1e6:.2f}" for value in counted))
        print()


def _size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
