"""Images per second of `taxomix prepare` on one core, beside the decoding and encoding that it cannot do without.

    python -m benchmarks.prepare_speed

The limit reads and decodes image and label and encodes what has to be encoded, with the functions of data/images.py:
a JPEG source keeps its bytes and is decoded to find damaged files, a PNG source is encoded as JPEG.
"""

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import conf
from benchmarks.drawn import SETS, PictureSet, draw_picture, folder_for, hardware, write_meta
from data.config import build
from data.images import encode_label, jpeg_for_shard, read_label_image
from data.prepare import PrepareConfig, prepare
from data.streets import atom_palette


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare_speed", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    lines = [hardware(), "", "| source, one core | limit, images/s | prepare, images/s | prepare / limit |", "| --- | --- | --- | --- |"]
    for name in options.sets:
        for suffix in (".jpg", ".png"):
            with folder_for(None) as folder:
                lines.append(measure(SETS[name], suffix, folder, num_images=options.images, rounds=options.rounds))
    print("\n".join(lines))


def measure(pictures: PictureSet, suffix: str, folder: Path, *, num_images: int, rounds: int) -> str:
    """One row of the table."""
    source = folder / "source" / pictures.name
    write_meta(source, pictures.name)
    for number in range(num_images):
        draw_picture(pictures, source, number, suffix=suffix)
    limits, ours = [], []
    for _ in range(rounds):
        limits.append(num_images / seconds_of_limit(source))
        ours.append(num_images / seconds_of_prepare(source, folder / "shards"))
    ratio = median(our / limit for our, limit in zip(ours, limits, strict=True))
    what = f"{pictures.width}x{pictures.height}, {'JPEG' if suffix == '.jpg' else 'PNG'}"
    return f"| {what} | {median(limits):.1f} | {median(ours):.1f} | {ratio:.2f} |"


def seconds_of_limit(source: Path) -> float:
    begin = time.perf_counter()
    for image in sorted((source / "images" / "train").iterdir()):
        jpeg_for_shard(image, quality=95)
        encode_label(read_label_image(source / "labels" / "train" / f"{image.stem}.png"), atom_palette())
    return time.perf_counter() - begin


def seconds_of_prepare(source: Path, out: Path) -> float:
    """What the command does, without the half second that composing its configuration takes."""
    shutil.rmtree(out, ignore_errors=True)
    config = build(PrepareConfig, conf.compose("prepare", ["dataset=folder", f"source={source}", f"out={out}", "workers=1"]))
    begin = time.perf_counter()
    prepare(config)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
