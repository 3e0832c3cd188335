"""What domain adaptation is for, at a size that takes a minute: from rendered streets to a real look-alike without labels."""

import json
from pathlib import Path

import pytest

from taxomix import main
from trainers.run_folder import RunFolder

DRAWN = (
    "dataset=streets",
    "dataset.spaces=[streets_rendered, streets_coarse]",
    "dataset.size=[96, 192]",
    "dataset.train=120",
    "dataset.val=24",
)
JOB = (
    "data=mine",
    "data.mix={streets_rendered: {samples: 4, role: source}, streets_coarse: {samples: 4, role: target}}",
    "data.crop.size=[64, 96]",
    "model=edanet",
    "outputs=universal",
    "outputs.universe=streets",
    "trainer=dacs",
    "loop.steps=150",
    "loop.evaluate_every=150",
    "loop.overlays=0",
    "cluster=none",
    "cluster.threads_per_worker=1",
)


@pytest.mark.timeout(400)
def test_adaptation_is_better_than_the_source_alone(tmp_path: Path) -> None:
    """With seed 0 the source alone had an mIoU of 20.8 on the target, IntraMix 26.4 and DACS 23.5; after 250 steps both are ahead by
    4 points and more on each of three seeds (benchmarks/experiments/streets_rendered.yaml)."""
    assert main(["prepare", *DRAWN, f"out={tmp_path / 'shards'}", "workers=1"]) == 0
    on_target = {}
    for name, words in {"source": ["trainer.mask=none"], "mixed": ["trainer.mix=intra", "trainer.rounding=down"]}.items():
        assert main(["train", *JOB, f"data.root={tmp_path / 'shards'}", f"run.dir={tmp_path}", f"run.name={name}", *words]) == 0
        content = json.loads(RunFolder(tmp_path / name).evaluation.read_text())
        on_target[name] = 100 * content["datasets"]["streets_coarse"]["miou"]
    assert on_target["mixed"] > on_target["source"] + 2
