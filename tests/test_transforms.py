from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.config import build, to_plain
from data.crop_presets import CROPS, named_crop
from data.errors import InputError
from data.transforms import Crop, CropConfig, ResizeConfig, crop_boxes, crop_image, crop_label, draw_crop, rasterise_boxes

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
modes = st.sampled_from(["exact", "fit", "cover"])
resizes = st.builds(lambda height, width, mode: ResizeConfig(size=(height, width), mode=mode), sides, sides, modes)
any_configs = st.builds(
    replace,
    configs,
    resize=st.none() | resizes,
    scale_of=st.sampled_from(["image", "box"]),
    flip_first=st.booleans(),
    interpolation=st.sampled_from(["linear", "cubic", "area", "pil_linear", "pil_cubic"]),
    pad=st.sampled_from(["grey", "mean", (0, 128, 255)]),
)
LINEAR, CUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


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


@given(any_configs, sides, sides, seeds)
def test_label_crops_equal_the_slow_reference(config: CropConfig, height: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 200, (height, width)).astype(np.uint8)
    crop = draw_crop(config, height, width, generator)
    out = np.empty(config.size, np.uint8)
    crop_label(label, crop, out, pad=PAD)
    # The source pixel under the centre of each pixel that is not padding, in exact arithmetic.
    rows = [crop.top + int((i + Fraction(1, 2)) * crop.height / crop.out_height) for i in range(crop.out_height)]
    columns = [crop.left + int((i + Fraction(1, 2)) * crop.width / crop.out_width) for i in range(crop.out_width)]
    np.testing.assert_array_equal(out, canvas(label[np.ix_(rows, columns)], config, crop.flip, PAD))


@given(any_configs, sides, sides, seeds)
def test_image_crops_equal_whole_images_resized(config: CropConfig, height: int, width: int, seed: int) -> None:
    """Linear interpolation in the whole image at the same places: the same, where no pixel beyond the source box has a share."""
    config = replace(config, interpolation="linear", pad=(1, 2, 3))
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
    crop = draw_crop(config, height, width, generator)
    out = np.empty((*config.size, 3), np.uint8)
    crop_image(image, crop, out)
    top, below, down, row_sure = neighbours(crop.top, crop.height, crop.out_height, height)
    left, right, across, column_sure = neighbours(crop.left, crop.width, crop.out_width, width)
    rows = image[top] * (1 - down)[:, None, None] + image[below] * down[:, None, None]
    part = rows[:, left] * (1 - across)[:, None] + rows[:, right] * across[:, None]
    expected = canvas(part, config, crop.flip, (1, 2, 3))
    sure = canvas(row_sure[:, None] & column_sure, config, crop.flip, True)
    assert np.abs(out - expected)[sure].max(initial=0) <= 1.5  # OpenCV's weights have 11 bits


def neighbours(start: int, length: int, out_length: int, whole: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each output pixel: the source pixels before and after its centre, the latter's share, and whether both are in the box."""
    place = start + (np.arange(out_length) + 0.5) * length / out_length - 0.5
    before = np.floor(place).astype(int)
    inside = (before >= start) & (before + 1 < start + length)
    return before.clip(0, whole - 1), (before + 1).clip(0, whole - 1), place - before, inside


def canvas(part: np.ndarray, config: CropConfig, flip: bool, pad: object) -> np.ndarray:
    """The steps of the papers after the resizing: pad on the right and below, flip before or after that."""
    out = np.empty((*config.size, *part.shape[2:]), part.dtype)
    out[:] = pad
    out[: part.shape[0], : part.shape[1]] = part[:, ::-1] if flip and config.flip_first else part
    return out[:, ::-1] if flip and not config.flip_first else out


@given(any_configs, sides, sides, seeds)
def test_image_and_label_stay_aligned(config: CropConfig, height: int, width: int, seed: int) -> None:
    """A picture of two flat halves: away from their border, image and label of the crop agree."""
    generator = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 1
    image = np.repeat(label[:, :, None] * 200, 3, axis=2)
    config = replace(config, pad="grey")
    crop = draw_crop(config, height, width, generator)
    image_out, label_out = np.empty((*config.size, 3), np.uint8), np.empty(config.size, np.uint8)
    crop_image(image, crop, image_out)
    crop_label(label, crop, label_out, pad=PAD)
    sure = ((image_out[..., 0] == 0) | (image_out[..., 0] == 200)) & (label_out != PAD)
    assert (label_out[sure] == image_out[..., 0][sure] // 200).all()
    if crop.out_height == config.size[0] and crop.out_width == config.size[1]:
        assert sure.mean() > 0.9 - 4 / min(crop.width, crop.out_width)


@given(any_configs, st.integers(40, 150), st.integers(40, 150), seeds)
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
    assert moved.tolist() == [[0, 5, 6, 11, 2, 66]]


def test_what_lies_on_top_does_not_depend_on_the_crop() -> None:
    """The crop leaves 10 x 40 pixels of the larger box, and more of the smaller one."""
    boxes = np.array([[0, 0, 99, 99, 1], [60, 95, 139, 119, 2]], np.int32)
    whole, cut = np.empty((128, 160), np.uint8), np.empty((64, 64), np.uint8)
    rasterise_boxes(boxes + np.array([0, 0, 1, 1, 0]), whole, background=PAD)
    crop = Crop(top=60, left=90, height=64, width=64, out_height=64, out_width=64, flip=False)
    rasterise_boxes(crop_boxes(boxes, crop, (64, 64)), cut, background=PAD)
    np.testing.assert_array_equal(cut, whole[60:124, 90:154])
    assert cut[37, 5] == 2  # in both boxes


def test_no_scale_no_flip_is_a_plain_cut() -> None:
    image = np.arange(60 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 80, 3)
    crop = draw_crop(CropConfig(size=(32, 48), scale=(1, 1), flip=0), 60, 80, np.random.default_rng(3))
    out = np.empty((32, 48, 3), np.uint8)
    crop_image(image, crop, out)
    np.testing.assert_array_equal(out, image[crop.top : crop.top + 32, crop.left : crop.left + 48])


@given(any_configs, sides, sides, seeds)
def test_every_pixel_is_written_and_nothing_else(config: CropConfig, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    before = image.copy()
    crop = draw_crop(config, height, width, np.random.default_rng(seed))
    assert 0 <= crop.top <= crop.top + crop.height <= height
    assert 0 <= crop.left <= crop.left + crop.width <= width
    images, labels = np.zeros((2, *config.size, 3), np.uint8), np.zeros((2, *config.size), np.uint8)
    images[1], labels[1] = 255, 255
    for image_out, label_out in zip(images, labels, strict=True):
        crop_image(image, crop, image_out)
        crop_label(image[..., 0], crop, label_out, pad=PAD)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(labels[0], labels[1])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("flip_first", [False, True])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_enlarged_crops_equal_resizing_everything_first(factor: int, flip_first: bool, flip: float) -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (30, 90, 3)).astype(np.uint8)
    label = generator.integers(0, 200, (30, 90)).astype(np.uint8)
    config = CropConfig(size=(128, 64), scale=(factor, factor), flip=flip, flip_first=flip_first, pad=(9, 9, 9))
    crop = draw_crop(config, 30, 90, generator)
    image_out, label_out = np.empty((128, 64, 3), np.uint8), np.empty((128, 64), np.uint8)
    crop_image(image, crop, image_out)
    crop_label(label, crop, label_out, pad=PAD)
    whole = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    whole_label = label.repeat(factor, axis=0).repeat(factor, axis=1)
    cut = np.s_[crop.top * factor : crop.top * factor + 128, crop.left * factor : crop.left * factor + 64]
    np.testing.assert_array_equal(label_out, canvas(whole_label[cut], config, crop.flip, PAD))
    expected = canvas(whole[cut], config, crop.flip, 9).astype(int)
    inner = np.s_[:, factor:-factor]  # the border knows no pixel beyond the box
    assert np.abs(image_out[inner] - expected[inner]).max() <= 1


def test_whole_images_come_out_as_resized() -> None:
    image = np.random.default_rng(1).integers(0, 256, (200, 333, 3)).astype(np.uint8)
    config = CropConfig(size=(96, 128), resize=ResizeConfig(size=(96, 128)), scale=(1, 1), flip=0)
    for name, code in (("linear", cv2.INTER_LINEAR), ("cubic", cv2.INTER_CUBIC), ("area", cv2.INTER_AREA)):
        out = np.empty((96, 128, 3), np.uint8)
        crop_image(image, draw_crop(replace(config, interpolation=name), 200, 333, np.random.default_rng()), out)
        np.testing.assert_array_equal(out, cv2.resize(image, (128, 96), interpolation=code))


@pytest.mark.parametrize(
    ("preset", "height", "width", "out", "pillow"),
    [
        ("dacs_gta5", 1052, 1914, (720, 1280), CUBIC),
        ("classmix_cityscapes", 1024, 2048, (512, 1024), LINEAR),
        ("dacs_cityscapes", 1024, 2048, (512, 1024), LINEAR),
    ],
)
def test_presets_resize_as_pillow_does(preset: str, height: int, width: int, out: tuple[int, int], pillow: Image.Resampling) -> None:
    """Noise of one pixel, which a filter that does not widen only samples."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    config = replace(CROPS[preset], size=out)
    crop_out = np.empty((*out, 3), np.uint8)
    crop_image(image, draw_crop(config, height, width, np.random.default_rng(0)), crop_out)
    np.testing.assert_array_equal(crop_out, np.asarray(Image.fromarray(image).resize(out[::-1], pillow)))


def test_swiftnet_zooms_out_as_pillow_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    config = replace(CROPS["swiftnet"], size=(200, 200), scale=(2.0, 2.0), flip=0.0)
    out = np.empty((200, 200, 3), np.uint8)
    crop_image(image, draw_crop(config, 400, 400, np.random.default_rng(0)), out)
    np.testing.assert_array_equal(out, np.asarray(Image.fromarray(image).resize((200, 200), CUBIC)))
    assert out.std() < 0.5 * image.std()


def test_area_is_linear_where_an_image_grows() -> None:
    image = np.random.default_rng(1).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    outs = []
    for name in ("linear", "area"):
        config = CropConfig(size=(64, 64), scale=(1.7, 1.7), interpolation=name)
        outs.append(np.empty((64, 64, 3), np.uint8))
        crop_image(image, draw_crop(config, 60, 60, np.random.default_rng(2)), outs[-1])
    np.testing.assert_array_equal(*outs)


@pytest.mark.parametrize(
    ("mode", "image", "expected"),
    [
        ("exact", (800, 1360), (512, 706)),
        ("fit", (1024, 2048), (353, 706)),
        ("cover", (3000, 4000), (530, 706)),
        ("cover", (1024, 2048), (512, 1024)),
        ("cover", (2448, 3264), (530, 706)),
    ],
)
def test_sizes_of_resized_images(mode: str, image: tuple[int, int], expected: tuple[int, int]) -> None:
    assert ResizeConfig(size=(512, 706), mode=mode).resized(*image) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("image", "expected"), [((1024, 2048), (512, 1024)), ((800, 1360), (512, 870)), ((3000, 4000), (512, 683))])
def test_paper_002_resizes_inside_1024x512(image: tuple[int, int], expected: tuple[int, int]) -> None:
    resize = CROPS["paper002"].resize
    assert resize is not None
    assert resize.resized(*image) == expected


@given(modes, st.integers(1, 3000), st.integers(1, 3000), sides, sides)
def test_fit_lies_inside_and_cover_covers(mode: str, height: int, width: int, out_height: int, out_width: int) -> None:
    resized = ResizeConfig(size=(out_height, out_width), mode=mode).resized(height, width)  # type: ignore[arg-type]
    if mode == "fit":
        assert resized[0] <= out_height
        assert resized[1] <= out_width
    else:
        assert resized[0] >= out_height
        assert resized[1] >= out_width


def drawn(config: CropConfig, height: int, width: int, count: int) -> list[Crop]:
    generator = np.random.default_rng(5)
    return [draw_crop(config, height, width, generator) for _ in range(count)]


def test_presets_cut_the_boxes_that_the_papers_cut() -> None:
    for crop in drawn(CROPS["paper001_vistas"], 3000, 4000, 20):
        assert (crop.width, crop.out_height, crop.out_width, crop.flip) == (4000, 512, 706, False)
        assert crop.height == round(512 * 3000 / 530)
    for crop in drawn(CROPS["paper001_gtsdb"], 800, 1360, 20):
        assert (crop.height, crop.width) == (800, round(706 * 1360 / 850))
    for crop in drawn(CROPS["dacs_gta5"], 1052, 1914, 20):
        assert (crop.height, crop.width) == (round(512 * 1052 / 720), round(512 * 1914 / 1280))
    for crop in drawn(CROPS["dacs_synthia"], 760, 1280, 20):
        assert (crop.height, crop.width) == (512, 512)
    for crop in drawn(CROPS["classmix_cityscapes"], 1024, 2048, 3):
        assert (crop.top, crop.left, crop.height, crop.width) == (0, 0, 1024, 2048)


def test_scale_steps_are_the_twelve_of_classmix() -> None:
    boxes = {crop.height for crop in drawn(CROPS["classmix_voc"], 1000, 1000, 400)}
    assert boxes == {round(321 / (0.5 + 0.1 * step)) for step in range(12)}


def test_scale_of_the_box_zooms_out() -> None:
    boxes = [crop.height for crop in drawn(CROPS["swiftnet"], 2000, 2000, 2000)]
    assert min(boxes) < 400
    assert max(boxes) > 1500
    assert np.mean(boxes) == pytest.approx(768 * 1.25, rel=0.03)  # uniform in the box, not in the zoom


def test_padding_is_flipped_along_or_not() -> None:
    image = np.full((20, 20, 3), 50, np.uint8)
    for flip_first in (False, True):
        config = CropConfig(size=(40, 40), scale=(1, 1), flip=1.0, flip_first=flip_first, pad=(1, 2, 3))
        out = np.empty((40, 40, 3), np.uint8)
        crop_image(image, draw_crop(config, 20, 20, np.random.default_rng(0)), out)
        padding, picture = (out[:20, 20:], out[:20, :20]) if flip_first else (out[:20, :20], out[:20, 20:])
        assert (picture == 50).all()
        assert (padding == [1, 2, 3]).all()
        assert (out[20:] == [1, 2, 3]).all()


def test_padding_takes_the_mean_colour_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8) // np.array([1, 2, 4], np.uint8)
    out = np.empty((40, 40, 3), np.uint8)
    crop_image(image, draw_crop(CropConfig(size=(40, 40), scale=(1, 1), flip=0, pad="mean"), 20, 20, np.random.default_rng(0)), out)
    assert (out[20:] == np.rint(image.mean(axis=(0, 1)))).all()


@given(any_configs, st.sampled_from([0.5, 0.75, 2.0, 3.0]), seeds)
def test_scaled_crops_show_as_much_less_of_the_image(config: CropConfig, factor: float, seed: int) -> None:
    plain, scaled = (draw_crop(each, 4000, 4000, np.random.default_rng(seed)) for each in (config, config.scaled_by(factor)))
    for side in ("height", "width"):
        box, scaled_box = getattr(plain, side), getattr(scaled, side)
        if max(box, scaled_box) < 4000:
            assert abs(scaled_box - box / factor) <= 0.5 + 0.5 / factor + 1e-3
    assert config.scaled_by(factor).size == config.size


@pytest.mark.parametrize("factor", [0.3, 1.7])
@pytest.mark.parametrize("name", CROPS)
def test_scaled_presets_are_possible(name: str, factor: float) -> None:
    scaled = CROPS[name].scaled_by(factor)
    assert scaled.scaled_by(1 / factor).scale == pytest.approx(CROPS[name].scale)


@pytest.mark.parametrize("name", CROPS)
def test_presets_can_be_written_in_a_config(name: str) -> None:
    assert build(CropConfig, to_plain(named_crop(name)), key="data.crop") == CROPS[name]


def test_an_unknown_preset_is_told() -> None:
    with pytest.raises(InputError, match="no preset 'swiftnett', expected one of swiftnet, thesis000"):
        named_crop("swiftnett")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", (16, 64)),
        ("scale", (0.0, 1.0)),
        ("scale", (2.0, 1.0)),
        ("scale_step", 0.0),
        ("scale_step", 0.25),
        ("flip", 1.5),
        ("pad", (0, 0, 256)),
    ],
)
def test_impossible_crops_are_told(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{key}: "):
        CropConfig(**{"size": (64, 64), key: value})  # type: ignore[arg-type]


def test_an_impossible_resize_is_told() -> None:
    with pytest.raises(InputError, match=r"^size: "):
        ResizeConfig(size=(0, 64))
