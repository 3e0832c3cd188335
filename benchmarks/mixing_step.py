"""What a step of DACS costs beside what its forward and backward passes cost, and where the rest goes.

    python -m benchmarks.mixing_step

The passes of such a step: a supervised step on the source, forward and backward with the loss over as many pictures besides, and the
teacher's forward pass over the target. Beside their sum the whole step, as a training takes it: with the teacher's labels, masks, mixing,
weights of pixels, the average of the teacher, and with `--strong` changes of colour. All take turns in every round; figures are medians,
ratios are taken within a round.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

from benchmarks.drawn import hardware
from benchmarks.networks import network_config
from benchmarks.turns import seconds_in_turn
from data.config import build
from data.labels import Label, LabelSpace, View
from data.types import Batch
from data.universe import read_universe
from models.model import build_model
from models.outputs.universal import UniversalConfig
from trainers.flat import FlatConfig, FlatTrainer
from trainers.mixing.config import DacsConfig
from trainers.mixing.trainer import MixTrainer
from trainers.ranks import Ranks
from trainers.step import local_sums, objective, train_step
from trainers.update import Precision, Update

SOURCE, TARGET = "gta5", "cityscapes"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixing_step", description=(__doc__ or "").split("\n", 1)[0])
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--network", default="swiftnet_rn18")
    parser.add_argument("--size", nargs=2, type=int, default=[512, 1024] if on_gpu else [256, 512], metavar=("H", "W"))
    parser.add_argument("--samples", type=int, default=8 if on_gpu else 2, help="of the source, and of the target")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--strong", default="none", help="changes of colour of mixed pictures: none, dacs, ...")
    parser.add_argument("--rounds", type=int, default=20 if on_gpu else 7)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--cpu-time", action="store_true", help="for a CPU that is busy with other things")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    where = torch.cuda.get_device_name() if on_gpu else f"{hardware()}, {options.threads} thread{'s'[: options.threads > 1]}"
    size = f"{options.samples} + {options.samples} pictures of {options.size[0]}x{options.size[1]}"
    print(f"{where}, torch {torch.__version__}, {options.network}, {options.precision}, {size}, strong={options.strong}\n")
    clock = time.process_time if options.cpu_time else time.perf_counter
    device = torch.device("cuda" if on_gpu else "cpu")
    steps = Steps(options.network, options.size, options.samples, options.precision, options.strong, device)
    print(steps.table(options.rounds, clock))


def view_of(dataset: str) -> View:
    names = read_universe("cityscapes19").labels[dataset]
    return LabelSpace(name=dataset, labels=tuple(Label(id=i, name=name, color=(i, i, i)) for i, name in enumerate(names))).view()


class Steps:
    """A step of DACS, and what it is made of, on pictures of one size."""

    def __init__(self, network: str, size: Sequence[int], samples: int, precision: Precision, strong: str, device: torch.device) -> None:
        self.ranks = Ranks(device=device)
        torch.manual_seed(0)
        outputs = build(UniversalConfig, {"name": "universal", "universe": "cityscapes19"})
        model = build_model(network_config(network), outputs, {SOURCE: view_of(SOURCE), TARGET: view_of(TARGET)})
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.flat = FlatTrainer(model, FlatConfig(name="flat")).to(device)
        self.dacs = MixTrainer(model, DacsConfig(name="dacs", strong=strong, threshold=0.1)).to(device)
        self.dacs.start()
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4, momentum=0.9)
        self.update = Update(self.dacs, optimizer, precision=precision)
        self.source, self.target = make_batch(size, {SOURCE: samples}), make_batch(size, {TARGET: samples})
        self.both = make_batch(size, {SOURCE: samples, TARGET: samples})
        self.source, self.target, self.both = (batch.to(device) for batch in (self.source, self.target, self.both))

    def whole(self) -> None:
        train_step(self.dacs, [self.both], self.update, self.ranks)
        self.dacs.after_step(1)

    def supervised(self) -> None:
        train_step(self.flat, [self.source], self.update, self.ranks)

    def more_pictures(self) -> None:
        """Forward, loss and backward."""
        self.update.begin()
        with self.update.autocast():
            terms = self.flat.losses(self.target)
        self.update.backward(objective(terms, local_sums(terms)[1], 1))

    @torch.no_grad()
    def teacher(self) -> None:
        assert self.dacs.teacher is not None
        self.dacs.teacher.set_mode()
        with self.update.autocast():
            self.dacs.teacher.model(self.target.images, self.target.rows)

    def average(self) -> None:
        self.dacs.after_step(1)

    def table(self, rounds: int, clock: Callable[[], float]) -> str:
        def now() -> float:
            if self.ranks.device.type == "cuda":
                torch.cuda.synchronize()
            return clock()

        passes = {
            "a supervised step on the source": self.supervised,
            "forward, loss and backward of as many pictures": self.more_pictures,
            "the teacher's forward pass over the target": self.teacher,
        }
        others = {"the average of the teacher": self.average, "**the whole step**": self.whole}
        for contestant in (*passes.values(), *others.values()):
            for _ in range(2):  # warm up
                contestant()
        seconds = seconds_in_turn({**passes, **others}, rounds, now)
        sums = [sum(parts) for parts in zip(*(seconds[name] for name in passes), strict=True)]
        seconds = {name: seconds[name] for name in passes} | {"**these three**": sums} | {name: seconds[name] for name in others}
        lines = ["| part | ms | times the three |", "| --- | --- | --- |"]
        for name, found in seconds.items():
            ratios = [mine / all_passes for mine, all_passes in zip(found, sums, strict=True)]
            lines.append(f"| {name} | {1e3 * median(found):.1f} | {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |")
        return "\n".join(lines)


def make_batch(size: Sequence[int], samples: Mapping[str, int]) -> Batch:
    """Random pictures with labels in blocks of 32 pixels."""
    order = [name for name, number in samples.items() for _ in range(number)]
    blocks = torch.randint(0, 19, (len(order), -(-size[0] // 32), -(-size[1] // 32)), dtype=torch.uint8)
    return Batch(
        images=torch.randint(0, 256, (len(order), *size, 3), dtype=torch.uint8).permute(0, 3, 1, 2),
        labels=blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, : size[0], : size[1]].contiguous(),
        rows={name: torch.tensor([i for i, of in enumerate(order) if of == name], dtype=torch.int64) for name in (SOURCE, TARGET)},
        roles={},
        streams=torch.zeros(len(order), dtype=torch.int64),
        seeds=torch.arange(len(order)),
        sample_ids=("",) * len(order),
        step=0,
        slots=tuple((name, "source" if name == SOURCE else "target") for name in order),
    )


if __name__ == "__main__":
    main()
