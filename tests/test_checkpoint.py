import os
import pickle
from pathlib import Path

import pytest
import torch

from data.errors import InputError
from data.files import atomic_write
from trainers.checkpoint import Checkpoints, load_checkpoint


def state(step: int, score: float | None = None) -> dict[str, object]:
    return {"step": step, "score": score, "model": {"w": torch.full((3,), float(step))}}


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in range(10, 60, 10):
        checkpoints.save(state(step), step, keep=2, best=step == 20)
    assert checkpoints.steps() == [40, 50]
    assert checkpoints.load("last")["step"] == 50
    assert checkpoints.load("best")["step"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step-00000040.pt", "step-00000050.pt"]


def test_the_last_is_not_given_for_the_best(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(state(7), 7, keep=1, best=False)
    with pytest.raises(InputError, match=r"no best\.pt found, .*; give checkpoint=last"):
        Checkpoints(tmp_path).load("best")


def test_no_checkpoint_is_told(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nothing").load_last() is None
    with pytest.raises(InputError, match="no checkpoint found"):
        Checkpoints(tmp_path).load("last")
    with pytest.raises(InputError, match="no checkpoint found"):
        Checkpoints(tmp_path).load("best")


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), 1, keep=3, best=False)
    path = checkpoints.save(state(2), 2, keep=3, best=False)
    path.write_bytes({"cut": path.read_bytes()[:-100], "empty": b"", "text": b"hello"}[damage])
    loaded = checkpoints.load_last()
    assert loaded is not None
    assert loaded["step"] == 1
    assert "step-00000002.pt: not a readable checkpoint" in caplog.text


def test_damaged_checkpoints_do_not_push_out_whole_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(state(step), step, keep=2, best=False)
    (tmp_path / "step-00000002.pt").write_bytes(b"")
    (tmp_path / ".step-00000003.pt.abc.tmp").write_bytes(b"half")
    loaded = checkpoints.load_last()
    assert loaded is not None
    checkpoints.discard_after(loaded["step"])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_checkpoints_of_which_none_can_be_read_are_no_new_run(tmp_path: Path) -> None:
    (tmp_path / "step-00000002.pt").write_bytes(b"")
    with pytest.raises(InputError, match="none of 1 checkpoints can be read"):
        Checkpoints(tmp_path).load_last()


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "step-00000001.pt"
    for content in (pickle.dumps(Attack()), None):
        if content is None:
            torch.save({"step": 1, "model": Attack()}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable checkpoint"):
            load_checkpoint(path)
        assert not (tmp_path / "executed").exists()


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:  # noqa: PT012
        file.write(b"half of the new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
