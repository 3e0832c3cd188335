import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.labels import IGNORE_INDEX
from trainers.metrics import confusion_matrix, scores


@given(st.integers(1, 255), st.integers(0, 2**31))
def test_confusion_matrix_equals_the_slow_reference(num_classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, num_classes + 1, (7, 9)).astype(np.uint8)
    truth[truth == num_classes] = IGNORE_INDEX
    predicted = generator.integers(0, num_classes + 1, (7, 9)).astype(np.uint8)
    predicted[predicted == num_classes] = IGNORE_INDEX
    expected = np.zeros((num_classes, num_classes + 1), np.int64)
    for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t != IGNORE_INDEX:
            expected[t, min(p, num_classes)] += 1
    matrix = confusion_matrix(torch.from_numpy(truth), torch.from_numpy(predicted), num_classes)
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(matrix.numpy(), expected)


def test_scores_by_hand() -> None:
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 4, 0, 0]])
    result = scores(matrix, ["a", "b", "absent", "missed"])
    assert result.iou[:2] == pytest.approx((6 / 9, 3 / 10))
    assert math.isnan(result.iou[2])
    assert result.iou[3] == 0
    assert result.miou == pytest.approx((6 / 9 + 3 / 10 + 0) / 3)
    assert result.mpa == pytest.approx((6 / 8 + 3 / 4 + 0) / 3)
    assert result.pixel_accuracy == pytest.approx(9 / 16)
    assert result.constant_miou == pytest.approx(8 / 16 / 3)
    assert result.num_pixels == 16


def test_no_prediction_is_a_miss_and_nobodys_false_alarm() -> None:
    result = scores(np.array([[6, 2, 4], [0, 5, 0]]), ["a", "b"])
    assert result.iou == pytest.approx((6 / 12, 5 / 7))
    assert result.mpa == pytest.approx((6 / 12 + 1) / 2)
    assert result.pixel_accuracy == pytest.approx(11 / 17)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    result = scores(np.array([[5, 5], [0, 0]]), ["a", "never true"])
    assert result.iou == (0.5, 0.0)
    assert result.miou == 0.25
    assert result.mpa == 0.5


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_always_predicting_the_most_frequent_class_reaches_what_is_said(num_classes: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(1, 50, num_classes)
    constant = np.zeros((num_classes, num_classes), np.int64)
    constant[:, counts.argmax()] = counts
    result = scores(constant, [str(i) for i in range(num_classes)])
    assert result.miou == pytest.approx(result.constant_miou)


def test_no_pixel_at_all_is_no_number() -> None:
    result = scores(np.zeros((2, 2), np.int64), ["a", "b"])
    assert math.isnan(result.miou)
    assert math.isnan(result.pixel_accuracy)
