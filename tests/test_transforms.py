import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.transforms import Crop, CropConfig, crop_boxes, crop_image, crop_label, draw_crop, rasterise_boxes

PAD = 255
seeds = st.integers(0, 2**31)
sides = st.integers(20, 150)
configs = st.builds(
    lambda height, width, low, span, flip: CropConfig(size=(height, width), scale=(low, low + span), flip=flip),
    st.integers(32, 100),
    st.integers(32, 100),
    st.floats(0.3, 2),
    st.floats(0, 1.5),
    st.sampled_from([0.0, 0.5, 1.0]),
)


@given(configs, sides, sides, seeds)
def test_crops_lie_inside_the_image_and_the_output(config: CropConfig, height: int, width: int, seed: int) -> None:
    crop = draw_crop(config, height, width, np.random.default_rng(seed))
    assert 0 <= crop.top <= crop.top + crop.height <= height
    assert 0 <= crop.left <= crop.left + crop.width <= width
    assert 1 <= crop.out_height <= config.size[0]
    assert 1 <= crop.out_width <= config.size[1]
    # The drawn scale, up to rounding to whole pixels.
    for out, box in ((crop.out_height, crop.height), (crop.out_width, crop.width)):
        assert config.scale[0] - 0.6 * config.scale[0] / box * 2 - 1 / box <= out / box <= config.scale[1] * (1 + 2 / box) + 1 / box


@given(configs, sides, sides, seeds)
def test_label_crops_equal_the_slow_reference(config: CropConfig, height: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 200, (height, width)).astype(np.uint8)
    crop = draw_crop(config, height, width, generator)
    out = np.empty(config.size, np.uint8)
    crop_label(label, crop, out, pad=PAD)
    for y in range(0, config.size[0], 7):
        for x in range(0, config.size[1], 5):
            column = config.size[1] - 1 - x if crop.flip else x
            expected = PAD
            if y < crop.out_height and column < crop.out_width:
                # The source pixel under the centre of the output pixel.
                source_y = crop.top + int((y + 0.5) * crop.height / crop.out_height)
                source_x = crop.left + int((column + 0.5) * crop.width / crop.out_width)
                expected = label[source_y, source_x]
            assert out[y, x] == expected


@given(configs, sides, sides, seeds)
def test_image_and_label_stay_aligned(config: CropConfig, height: int, width: int, seed: int) -> None:
    """A picture of two flat halves: away from their border, image and label of the crop agree."""
    generator = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 1
    image = np.repeat(label[:, :, None] * 200, 3, axis=2)
    crop = draw_crop(config, height, width, generator)
    image_out, label_out = np.empty((*config.size, 3), np.uint8), np.empty(config.size, np.uint8)
    crop_image(image, crop, image_out)
    crop_label(label, crop, label_out, pad=PAD)
    sure = (image_out[..., 0] == 0) | (image_out[..., 0] == 200)
    assert (label_out[sure] == image_out[..., 0][sure] // 200).all()
    if crop.out_height == config.size[0] and crop.out_width == config.size[1]:
        assert sure.mean() > 0.9 - 4 / min(crop.width, crop.out_width)


@given(configs, st.integers(40, 150), st.integers(40, 150), seeds)
def test_boxes_follow_the_label(config: CropConfig, height: int, width: int, seed: int) -> None:
    """Rasterising the moved box gives what moving the rasterised box gives, up to a pixel at its border."""
    generator = np.random.default_rng(seed)
    y1, x1 = int(generator.integers(0, height - 20)), int(generator.integers(0, width - 20))
    y2, x2 = y1 + int(generator.integers(5, 19)), x1 + int(generator.integers(5, 19))
    label = np.full((height, width), PAD, np.uint8)
    label[y1 : y2 + 1, x1 : x2 + 1] = 3
    crop = draw_crop(config, height, width, generator)
    moved, rasterised = np.empty(config.size, np.uint8), np.empty(config.size, np.uint8)
    crop_label(label, crop, moved, pad=PAD)
    boxes = crop_boxes(np.array([[x1, y1, x2, y2, 3]], np.int32), crop, config.size)
    rasterise_boxes(boxes, rasterised, background=PAD)
    rows = np.flatnonzero((moved == 3).any(axis=1)), np.flatnonzero((rasterised == 3).any(axis=1))
    columns = np.flatnonzero((moved == 3).any(axis=0)), np.flatnonzero((rasterised == 3).any(axis=0))
    for before, after in (rows, columns):
        if len(before) > 1 and len(after) > 1:
            assert abs(before[0] - after[0]) <= 1
            assert abs(before[-1] - after[-1]) <= 1
    assert abs(int((moved == 3).sum()) - int((rasterised == 3).sum())) <= 2 * (len(rows[0]) + len(columns[0])) + 4


def test_the_smallest_box_lies_on_top() -> None:
    boxes = np.array([[2, 2, 6, 6, 1], [0, 0, 10, 10, 2], [4, 4, 8, 12, 3]], np.float32)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        out = np.empty((12, 12), np.uint8)
        rasterise_boxes(boxes[order], out, background=PAD)
        assert out[5, 5] == 1
        assert out[9, 5] == 3
        assert out[9, 9] == 2
        assert out[11, 9] == PAD


def test_boxes_outside_the_crop_are_dropped() -> None:
    crop = Crop(top=0, left=50, height=40, width=40, out_height=40, out_width=40, flip=False)
    boxes = np.array([[0, 0, 49, 10, 1], [45, 5, 55, 10, 2]], np.int32)
    moved = crop_boxes(boxes, crop, (40, 40))
    assert moved.tolist() == [[0, 5, 6, 11, 2]]


def test_no_scale_no_flip_is_a_plain_cut() -> None:
    image = np.arange(60 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 80, 3)
    crop = draw_crop(CropConfig(size=(32, 48), scale=(1, 1), flip=0), 60, 80, np.random.default_rng(3))
    out = np.empty((32, 48, 3), np.uint8)
    crop_image(image, crop, out)
    np.testing.assert_array_equal(out, image[crop.top : crop.top + 32, crop.left : crop.left + 48])


@pytest.mark.parametrize(("key", "value"), [("size", (16, 64)), ("scale", (0.0, 1.0)), ("scale", (2.0, 1.0)), ("flip", 1.5)])
def test_impossible_crops_are_told(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"data\.crop\.{key}: "):
        CropConfig(**{"size": (64, 64), key: value})  # type: ignore[arg-type]
