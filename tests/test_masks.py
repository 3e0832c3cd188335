"""Masks against slow references: which classes, boxes and fields are pasted."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.labels import IGNORE_INDEX
from trainers.mixing.masks import Rounding, blend, box_masks, class_masks, cow_masks, priorities

CPU = torch.device("cpu")


def slow_class_mask(labels: np.ndarray, priority: np.ndarray, rounding: Rounding, paste_ignored: bool) -> np.ndarray:
    """Algorithm 1 of paper 004, label by label and pixel by pixel."""
    shown = [int(label) for label in np.unique(labels) if paste_ignored or label != IGNORE_INDEX]
    number = len(shown) // 2 if rounding == "down" else -(-len(shown) // 2)
    taken = sorted(shown, key=lambda label: priority[label])[:number]
    mask = np.zeros(labels.shape, bool)
    for i, j in product(*map(range, labels.shape)):
        mask[i, j] = labels[i, j] in taken
    return mask


@given(st.integers(0, 2**62), st.integers(1, 9), st.sampled_from(["down", "up"]), st.booleans())
def test_half_of_the_classes_that_are_seen_are_pasted(seed: int, num_labels: int, rounding: Rounding, paste_ignored: bool) -> None:
    generator = np.random.default_rng(seed)
    known = [*generator.choice(255, num_labels, replace=False), IGNORE_INDEX]
    labels = generator.choice(known, (3, 5, 7)).astype(np.uint8)
    priority = priorities([seed, seed + 1, seed + 2])
    found = class_masks(torch.from_numpy(labels), priority, rounding=rounding, paste_ignored=paste_ignored)
    wide = class_masks(torch.from_numpy(labels).long(), priority, rounding=rounding, paste_ignored=paste_ignored)
    assert torch.equal(found, wide)  # bytes have a way of their own on a CPU
    for mask, own, first in zip(found.numpy(), labels, priority.numpy(), strict=True):
        np.testing.assert_array_equal(mask, slow_class_mask(own, first, rounding, paste_ignored))


@pytest.mark.parametrize(("rounding", "expected"), [("down", 0), ("up", 12)])
def test_of_one_class_nothing_or_all_is_pasted(rounding: Rounding, expected: int) -> None:
    labels = torch.full((1, 3, 4), 7, dtype=torch.uint8)
    assert int(class_masks(labels, priorities([3]), rounding=rounding).sum()) == expected


def test_every_class_is_pasted_equally_often() -> None:
    labels = torch.arange(5, dtype=torch.uint8).view(1, 1, 5).expand(400, 1, 5)
    shares = class_masks(labels, priorities(range(400))).float().mean(dim=(0, 1))
    assert float(shares.mean()) == pytest.approx(0.4)
    assert ((shares - 0.4).abs() < 0.1).all()


def test_a_mask_depends_on_its_sample_alone() -> None:
    labels = torch.randint(0, 6, (2, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    both = class_masks(labels, priorities([5, 9]))
    assert torch.equal(both[1:], class_masks(labels[1:], priorities([9])))
    for masks in (box_masks, cow_masks):
        assert torch.equal(masks([5, 9], (40, 60), CPU)[1:], masks([9], (40, 60), CPU))
        assert not torch.equal(*masks([5, 9], (40, 60), CPU))


@given(st.integers(0, 2**62), st.integers(20, 90), st.integers(20, 90))
def test_a_box_of_half_the_area_is_left_out(seed: int, height: int, width: int) -> None:
    (mask,) = box_masks([seed], (height, width), CPU)
    rows, columns = ((~mask).any(dim=1), (~mask).any(dim=0))
    assert torch.equal(~mask, rows[:, None] & columns)  # a box
    assert (~mask).sum() == rows.sum() * columns.sum()
    assert float((~mask).float().mean()) == pytest.approx(0.5, abs=1.5 / min(height, width))
    assert columns.sum() >= width // 2


def test_boxes_lie_everywhere_and_are_of_all_widths() -> None:
    masks = ~box_masks(range(500), (60, 80), CPU)
    widths = masks.any(dim=1).sum(dim=1).float()
    assert widths.min() < 44
    assert widths.max() > 76
    assert float(widths.mean()) == pytest.approx(60, abs=2)
    assert float(masks.any(dim=0).float().mean()) > 0.98


def test_fields_of_noise_cover_half_and_are_smooth() -> None:
    masks = cow_masks(range(20), (128, 160), CPU)
    shares = masks.float().mean(dim=(1, 2))
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.08)
    changes = (masks[:, :, 1:] != masks[:, :, :-1]).float().mean(dim=(1, 2))
    assert (changes < 0.05).all()  # half of the neighbours of noise differ
    assert changes.max() > 3 * changes.min()  # fields are coarse and fine


def test_blending_takes_what_the_mask_says() -> None:
    mask = torch.tensor([[[True, False], [False, True]]])
    images, others = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 3, 2, 2), 9, dtype=torch.uint8)
    assert blend(mask, images, others).tolist() == [[[[0, 9], [9, 0]]] * 3]
    assert blend(mask, images[:, 0], others[:, 0]).tolist() == [[[0, 9], [9, 0]]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_blending_keeps_the_memory_format(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 9, 11, generator=generator) < 0.5
    images, others = (torch.randint(0, 256, (2, 3, 9, 11), generator=generator).to(dtype) for _ in range(2))
    expected = torch.where(mask[:, None], images, others)
    for layout in (torch.contiguous_format, torch.channels_last):
        before = others.contiguous(memory_format=layout)
        found = blend(mask, images.contiguous(memory_format=layout), before)
        assert torch.equal(found, expected)
        assert torch.equal(before, others)
        assert found.is_contiguous(memory_format=layout)
