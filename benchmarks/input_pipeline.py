"""Samples per second of the input pipeline beside its limit and beside other pipelines, in alternated rounds.

    python -m benchmarks.input_pipeline                            # the whole table, about a quarter of an hour
    python -m benchmarks.input_pipeline --seconds 1 --images 16 --rounds 1

Every contestant has a process of its own, pinned to one core or to two from its first instruction on. In each round each runs
for some seconds while all others wait; the figures are medians over the rounds, ratios are taken within a round.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context, set_forkserver_preload, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from benchmarks.contestants import CONTESTANTS, LIMIT, MMSEG, OURS, why_missing
from benchmarks.drawn import SETS, Drawn, draw_set, folder_for, hardware

WARM_UP = 6
"""Batches that are taken before the clock starts: as many as any pipeline may have made in advance."""

Rates = dict[tuple[str, int], list[float]]
"""(contestant, cores) -> samples per second, round by round."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=4, help="that each contestant runs in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64, help="pictures in each set")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--cores", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--cpu-time", action="store_true", help="with --cores 1: samples per second of processor time, on a busy machine")
    parser.add_argument("--data", type=Path, help="folder in which the pictures are kept for the next time")
    parser.add_argument("--out", type=Path, help="file that the tables are written to, as Markdown")
    options = parser.parse_args(arguments)
    if options.cpu_time and options.cores != [1]:
        parser.error("--cpu-time: expected --cores 1")
    cores = [number for number in options.cores if number <= len(os.sched_getaffinity(0))]
    # forkserver: the libraries are imported once, and no process inherits the threads of another.
    set_forkserver_preload(["benchmarks.contestants"])
    text = f"{hardware()}; {options.rounds} rounds of {options.seconds:g} s{' of processor time' if options.cpu_time else ''}\n"
    with folder_for(options.data) as folder:
        for name in options.sets:
            drawn = draw_set(name, folder, options.images)
            text += "\n" + table(
                drawn, measure(drawn, cores, rounds=options.rounds, seconds=options.seconds, cpu_time=options.cpu_time), cores
            )
    print(text)
    if options.out is not None:
        options.out.write_text(text)


def measure(drawn: Drawn, cores: Sequence[int], *, rounds: int, seconds: float, cpu_time: bool = False) -> Rates:
    entrants = [(name, number) for name in CONTESTANTS if why_missing(name) is None for number in cores]
    rates: Rates = {entrant: [] for entrant in entrants}
    with ExitStack() as stack:
        running = {entrant: stack.enter_context(_start(drawn, *entrant, cpu_time=cpu_time)) for entrant in entrants}
        for number in range(rounds):
            for entrant in entrants if number % 2 == 0 else reversed(entrants):
                rates[entrant].append(_ask(running[entrant], seconds))
                print(
                    f"{drawn.pictures.name} round {number + 1}: {entrant[0]}, {entrant[1]} core(s): {rates[entrant][-1]:.1f}/s",
                    file=sys.stderr,
                )
    return rates


@contextmanager
def _start(drawn: Drawn, name: str, cores: int, *, cpu_time: bool) -> Iterator[Connection]:
    context = get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(drawn, name, cores, cpu_time, theirs))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()  # ends the process
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _ask(connection: Connection, seconds: float) -> float:
    connection.send(seconds)
    try:
        answer = connection.recv()
    except EOFError:
        raise SystemExit("a contestant ended with an error, see above") from None
    assert isinstance(answer, float)
    return answer


def _run(drawn: Drawn, name: str, cores: int, cpu_time: bool, connection: Connection) -> None:
    """The process of a contestant: answers a number of seconds with the samples per second that it made in them."""
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    set_start_method("fork", force=True)  # so that the workers of a DataLoader are pinned too, and end with this process
    torch.set_num_threads(1)
    # On one core all work is done in this process, so that its own time can stand for the time of a core of its own.
    clock = time.process_time if cpu_time else time.perf_counter
    batches = CONTESTANTS[name](drawn, cores)
    while True:
        try:
            seconds = connection.recv()
        except EOFError:
            os._exit(0)  # its threads and workers are in the midst of batches that nobody waits for
        for _ in range(WARM_UP):
            next(batches)
        samples, begin = 0, clock()
        while (elapsed := clock() - begin) < seconds or samples == 0:
            samples += next(batches)
        connection.send(samples / elapsed)


def table(drawn: Drawn, rates: Rates, cores: Sequence[int]) -> str:
    """Markdown: samples per second (median, lowest to highest) and ratios."""
    head = ["", *(f"{number} core{'s'[: number - 1]}, samples/s" for number in cores), "/ JPEG limit", "/ mmseg style"]
    head += [f"{number} cores / 1" for number in cores[1:]]
    lines = [drawn.describe() + f", crops of {drawn.pictures.crop}", "", _row(head), _row(["---"] * len(head))]
    for name in CONTESTANTS:
        reason = why_missing(name)
        if reason is not None:
            lines.append(_row([name, reason, *[""] * (len(head) - 2)]))
            continue
        cells = [_spread(rates[name, number]) for number in cores]
        cells += [_ratio(rates[name, cores[0]], rates[other, cores[0]]) for other in (LIMIT, MMSEG)]
        cells += [_ratio(rates[name, number], rates[name, cores[0]]) for number in cores[1:]]
        lines.append(_row([f"**{name}**" if name == OURS else name, *cells]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    digits = 0 if median(values) >= 100 else 1
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _ratio(values: Sequence[float], others: Sequence[float]) -> str:
    return f"{median(value / other for value, other in zip(values, others, strict=True)):.2f}"


if __name__ == "__main__":
    main()
