"""What a run's time went into."""

import json
from pathlib import Path

import pytest
from tiny import read_metrics

from taxomix import main
from trainers.goodput import Goodput, Session, described, read_sessions, shares
from trainers.run_folder import RunFolder


def test_shares_are_of_the_whole_time_and_add_up() -> None:
    """Ten seconds, of which the first process left six behind; two passed until the next one began, which took one to get to a step."""
    first = Session(begin=100, end=106, starting=1, data=0.5, evaluating=0.5, checkpointing=1)
    second = Session(begin=108, end=110, starting=1, data=0.25)
    found = shares([first, second])
    assert found.pop("seconds") == 10
    assert found == pytest.approx(
        {"training": 0.375, "data": 0.075, "evaluating": 0.05, "checkpointing": 0.1, "starting": 0.1, "restarting": 0.3}
    )
    assert sum(found.values()) == pytest.approx(1)
    assert described(shares([first])).startswith("goodput: of 0:00:06 training 50.0 %, data 8.3 %")


def test_sessions_are_kept_where_a_run_goes_on_and_not_where_it_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "goodput.json"
    for step, sessions in ((0, 1), (5, 2), (0, 1)):
        goodput = Goodput(path)
        goodput.resume(step)
        goodput.started()
        with goodput.doing("data"):
            pass
        goodput.save()
        assert len(read_sessions(path)) == sessions
    path.write_text("{")
    assert read_sessions(path) == ()


def test_a_run_tells_its_goodput(tiny_job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*tiny_job, "run.name=first", "loop.steps=4"]) == 0
    assert "goodput: of 0:00:" in capsys.readouterr().out
    run = RunFolder(tmp_path / "runs" / "first")
    (session,) = json.loads(run.goodput.read_text())["sessions"]
    parts = [session[name] for name in ("starting", "data", "evaluating", "checkpointing")]
    assert all(part > 0 for part in parts)
    assert sum(parts) < session["end"] - session["begin"]
    assert all(0 < value < 1 for value in read_metrics(run.path, "goodput"))
    assert main([*tiny_job, "run.name=first", "loop.steps=4"]) == 0  # complete: nothing is measured
    assert len(json.loads(run.goodput.read_text())["sessions"]) == 1
    assert "goodput: " not in capsys.readouterr().out
