"""Small datasets, made on the spot: every test is free of network, GPU and data of the outside."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import settings
from tiny import DISKS, TINY_JOB, FolderMaker, write_folder

from taxomix import main

settings.register_profile("taxomix", deadline=None)  # a slow machine is no failure
settings.load_profile("taxomix")


@pytest.fixture
def make_folder(tmp_path: Path) -> FolderMaker:
    """Writes a folder data set of `kind` (disks, tones or boxed) below a path and returns its folder."""

    def make(kind: str, *, root: Path = tmp_path / "source", train: int = 6, val: int = 3, seed: int = 0) -> Path:
        return write_folder(kind, root, train=train, val=val, seed=seed)

    return make


@pytest.fixture
def tar_source(tmp_path: Path) -> Path:
    """A folder for tars made by others: the label space of disks, and no tar yet."""
    folder = tmp_path / "tars"
    folder.mkdir()
    (folder / "meta.yaml").write_text(yaml.safe_dump(DISKS))
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared: disks and tones (pixels, other ids and classes for the same kind of pictures) and boxed (boxes)."""
    root = tmp_path_factory.mktemp("data")
    for seed, kind in enumerate(("disks", "tones", "boxed")):
        folder = write_folder(kind, root / "source", train=10, val=4, seed=seed)
        arguments = ["prepare", "dataset=folder", f"source={folder}", f"out={root / 'shards'}", "samples_per_shard=4", "workers=1"]
        assert main(arguments) == 0
    return root / "shards"


@pytest.fixture
def tiny_job(shards: Path, tmp_path: Path) -> list[str]:
    """The words of a job of some seconds over `shards`, its runs below tmp_path/runs."""
    return ["train", *TINY_JOB, f"data.root={shards}", f"run.dir={tmp_path / 'runs'}"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """On pictures this small threads wait for each other longer than they work, and tests run in as many processes as there are cores."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
