"""Proofs on real pictures: camvid11 and msrc23, below the folder that TAXOMIX_DATA names (by default ../shared/data)."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taxomix import main

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TAXOMIX_DATA", ROOT.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(not (DATA / "camvid11").is_dir(), reason=f"no camvid11 in {DATA}; name its folder in TAXOMIX_DATA"),
]


@pytest.fixture(scope="module")
def real_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real")
    for name in ("camvid11", "msrc23"):
        assert main(["prepare", "dataset=folder", f"source={DATA / name}", f"out={out}", "workers=1"]) == 0
    return out


def train(shards: Path, runs: Path, *words: str) -> tuple[dict[str, float], float]:
    """mIoU per dataset, and the seconds the command took."""
    begin = time.monotonic()
    words = ("train", "data=mine", f"data.root={shards}", f"run.dir={runs}", "run.name=real", "cluster=none", *words)
    subprocess.run([sys.executable, "-m", "taxomix", *words], cwd=ROOT, check=True)
    seconds = time.monotonic() - begin
    content = json.loads((runs / "real" / "evaluation.json").read_text())
    return {name: result["miou"] for name, result in content["datasets"].items()}, seconds


@pytest.mark.timeout(900)
def test_camvid11_from_scratch_reaches_40_percent_in_ten_minutes(real_shards: Path, tmp_path: Path) -> None:
    miou, seconds = train(
        real_shards, tmp_path, "data.mix={camvid11: 8}", "model.input_scale=0.5", "loop.steps=400", "loop.evaluate_every=200"
    )
    print(f"camvid11: mIoU {100 * miou['camvid11']:.2f} in {seconds:.0f} s")
    assert miou["camvid11"] >= 0.40
    assert seconds < 600


@pytest.mark.timeout(600)
def test_two_heads_learn_both_datasets(real_shards: Path, tmp_path: Path) -> None:
    miou, seconds = train(real_shards, tmp_path, "data.mix={camvid11: 4, msrc23: 4}", "model.input_scale=0.5", "loop.steps=100")
    print(f"{miou} in {seconds:.0f} s")
    assert miou["camvid11"] > 0.15
    assert miou["msrc23"] > 0.06
