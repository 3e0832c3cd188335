"""The benchmarks run and name every contestant; how fast they are is for benchmarks/README.md, not for a test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the benchmarks pin their processes, as Linux can")


def run(module: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(table: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")]
    return {row[0].strip("*"): row[1:] for row in rows}


@pytest.mark.timeout(180)
def test_input_pipeline_prints_every_contestant(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    words = ["--seconds", "0.1", "--rounds", "1", "--images", "8", "--sets", "voc", "--cores", "1", "--out", str(out)]
    printed = run("input_pipeline", *words)
    assert out.read_text() in printed
    rows = cells(out.read_text())
    limit = rows["limit: JPEG decode alone"]
    assert limit[1] == "1.00"
    assert rows["mmseg style (OpenCV)"][2] == "1.00"
    for name in ("ours", "torchvision reference", 'webdataset decode("pil")'):
        assert float(rows[name][0].split()[0]) > 0
        assert float(rows[name][1]) > 0
    assert rows["mosaicml-streaming"][0].startswith("not installed") or float(rows["mosaicml-streaming"][1]) > 0


@pytest.mark.timeout(180)
def test_output_losses_prints_every_space() -> None:
    printed = run("output_losses", "--shape", "1", "16", "32", "--rounds", "1")
    rows = [line for line in printed.splitlines() if line.startswith("| channels")]
    assert len(rows) == 12
    for name in ("plain cross entropy", "multihead", "concat", "universal, sets", "hierarchy"):
        assert sum(name in row for row in rows) == 2


@pytest.mark.timeout(180)
def test_reader_memory_and_prepare_speed_print_their_rows() -> None:
    rows = cells(run("reader_memory", "--shards", "2", "5", "--samples", "64"))
    assert (rows["2"][0], rows["5"][0]) == ("256", "640")
    rows = cells(run("prepare_speed", "--images", "2", "--rounds", "1", "--sets", "voc"))
    assert float(rows["500x375, JPEG"][0]) > 0
    assert float(rows["500x375, PNG"][1]) > 0


@pytest.mark.timeout(180)
def test_networks_have_a_row_in_each_table() -> None:
    words = ["--networks", "espnet", "--sizes", "64x64", "--sets-size", "64x64", "--seconds", "0", "--least", "1", "--device", "cpu"]
    one, three = (cells(table)["espnet"] for table in run("networks", *words).split("Forward pass of one image"))
    mode, parameters, macs, *measured = one
    assert (mode, parameters) == ("channels_last", "0.36")
    assert all(float(cell) >= 0 for cell in (macs, *measured[:-1]))
    assert all(float(cell) > 0 for cell in three)
    assert float(three[6]) < float(three[7]) < float(three[8])  # parameters: one dataset, a shared decoder, one for each


@pytest.mark.timeout(180)
def test_confusion_counts_the_same_in_every_way() -> None:
    printed = run("confusion", "--size", "64", "96", "--rounds", "1", "--classes", "19", "66")
    assert printed.count("ours") == 4
    assert printed.count("| 1.0 (1.0 to 1.0) |") >= 4


def test_mixing_gives_the_same_as_the_papers_way() -> None:
    """The module compares the two before it times them."""
    rows = cells(run("mixing", "--size", "64", "96", "--rounds", "1"))
    assert rows["the papers' comparisons"][1].startswith("1.0")
    assert float(rows["ours"][0]) > 0


@pytest.mark.timeout(180)
def test_mixing_step_prints_the_step_and_its_parts() -> None:
    rows = cells(run("mixing_step", "--network", "edanet", "--size", "64", "96", "--samples", "1", "--rounds", "1", "--strong", "dacs"))
    assert rows["these three"][1].startswith("1.000")
    assert float(rows["the whole step"][0]) > float(rows["the average of the teacher"][0]) > 0


def test_taxonomy_search_finds_the_truth_where_models_are_right() -> None:
    words = ["--labels", "5", "6", "--labels", "4", "5", "4", "--noise", "none", "--typing", "--seeds", "2", "--restarts", "50"]
    lines = [line.split(" | ") for line in run("taxonomy_search", *words).splitlines() if line.startswith("| ")][2:]
    assert [(line[0], line[3]) for line in lines] == [
        *(("| 5 + 6", name) for name in ("exact", "greedy", "restarts")),
        *(("| 4 + 5 + 4", name) for name in ("exact", "greedy")),
    ]
    assert [line[-1] for line in lines if line[3] == "exact"] == ["1.000 |", "1.000 |"]
