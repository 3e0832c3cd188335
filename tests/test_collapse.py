"""Classes that are no longer known, or never said."""

import numpy as np
import pytest

from trainers.collapse import Peaks, describe, find_collapsed, never_said
from trainers.metrics import scores

NAMES = ("road", "car", "person")
GOOD = np.array([[8, 1, 0, 0], [1, 5, 0, 0], [1, 0, 4, 0]])
WITHOUT_CAR = np.array([[8, 0, 0, 1], [5, 0, 1, 0], [1, 0, 4, 0]])


def test_a_class_that_was_known_and_is_zero_has_collapsed() -> None:
    peaks = Peaks()
    assert find_collapsed(peaks, (), {"a": WITHOUT_CAR}, {"a": scores(WITHOUT_CAR, NAMES)}) == {}  # never known, and not hidden
    peaks.update("a", scores(GOOD, NAMES))
    peaks.update("a", scores(WITHOUT_CAR, NAMES))  # the peak stays
    assert find_collapsed(peaks, (), {"a": GOOD}, {"a": scores(GOOD, NAMES)}) == {}
    found = find_collapsed(peaks, (), {"a": WITHOUT_CAR}, {"a": scores(WITHOUT_CAR, NAMES)})
    assert found == {"a": ["car"]}
    assert describe(found) == "a: car"
    again = Peaks(peaks.iou)  # as from a checkpoint
    assert again.collapsed("a", scores(WITHOUT_CAR, NAMES)) == ["car"]


@pytest.mark.parametrize(("peak", "expected"), [(0.1, []), (0.11, ["car"])])
def test_known_is_above_ten_percent(peak: float, expected: list[str]) -> None:
    assert Peaks({"a": {"car": peak}}).collapsed("a", scores(WITHOUT_CAR, NAMES)) == expected


def test_of_hidden_datasets_what_is_never_said_is_told_and_once() -> None:
    peaks = Peaks({"a": {"car": 0.5}})
    results = {name: scores(WITHOUT_CAR, NAMES) for name in ("a", "b")}
    matrices = dict.fromkeys(results, WITHOUT_CAR)
    assert find_collapsed(peaks, {"b"}, matrices, results) == {"a": ["car"], "b": ["car"]}
    assert find_collapsed(peaks, {"a", "b"}, matrices, results)["a"] == ["car"]


def test_a_class_without_a_pixel_is_not_missed() -> None:
    assert never_said(np.array([[3, 0, 0], [0, 0, 0]]), ("a", "b")) == []
    assert never_said(np.array([[3, 0, 0], [2, 0, 0]]), ("a", "b")) == ["b"]
