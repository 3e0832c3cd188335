import colorsys
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from data.config import build, to_plain
from data.errors import InputError
from data.photometric import (
    JITTER,
    PHOTOMETRIC,
    BlurConfig,
    Change,
    JitterConfig,
    PhotometricConfig,
    augment,
    blur,
    draw_change,
    kernel_length,
    named_photometric,
)

TORCHVISION = JitterConfig(probability=1.0, brightness=0.6, contrast=0.6, saturation=0.6, hue=0.4)
KORNIA = replace(TORCHVISION, semantics="kornia")


def batch(num: int, height: int = 20, width: int = 24, seed: int = 0) -> Tensor:
    """Noise with grey, black, white and pure colours in it; channels-last."""
    pixels = np.random.default_rng(seed).integers(0, 256, (num, height, width, 3)).astype(np.uint8)
    pixels[:, 0, :8] = [[0, 0, 0], [255, 255, 255], [127, 127, 127], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [1, 0, 1]]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def seeds_of(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def applied(semantics: str, picture: Tensor, change: Change) -> Tensor:
    assert change.factors is not None
    picture = picture.clone()
    for place in change.order:
        picture = JITTER[semantics][place](picture, change.factors[place])
    return picture


@pytest.mark.parametrize("seed", range(8))
def test_torchvision_jitter_equals_torchvision(seed: int) -> None:
    change = draw_change(PhotometricConfig(jitter=TORCHVISION), seed, 0)
    assert change.factors is not None
    picture = batch(1, seed=seed)[0].float()
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    expected = picture / 255
    for place in change.order:
        expected = operations[place](expected, change.factors[place])
    torch.testing.assert_close(applied("torchvision", picture, change), expected * 255, rtol=0, atol=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_kornia_jitter_equals_the_slow_reference(seed: int) -> None:
    change = draw_change(PhotometricConfig(jitter=KORNIA), seed, 0)
    assert change.factors is not None
    picture = batch(1, height=6, width=9, seed=seed)[0].float()
    expected = picture.double().numpy() / 255
    for place in change.order:
        expected = SLOW_KORNIA[place](expected, change.factors[place])
    np.testing.assert_allclose(applied("kornia", picture, change).numpy(), expected * 255, rtol=0, atol=0.01)


def in_hsv(picture: np.ndarray, saturation: float, turns: float) -> np.ndarray:
    out = np.empty_like(picture)
    for y, x in np.ndindex(picture.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*picture[:, y, x])
        out[:, y, x] = colorsys.hsv_to_rgb((h + turns) % 1, min(s * saturation, 1), v)
    return out


SLOW_KORNIA = (
    lambda picture, addend: np.clip(picture + addend, 0, 1),
    lambda picture, factor: np.clip(picture * factor, 0, 1),
    lambda picture, factor: in_hsv(picture, factor, 0),
    lambda picture, turns: in_hsv(picture, 1, turns),
)


def test_tensorflow_contrast_keeps_the_mean_of_each_channel() -> None:
    assert JITTER["tensorflow"][0::2] == JITTER["kornia"][0::2]
    assert JITTER["tensorflow"][3] == JITTER["kornia"][3]
    picture = batch(1)[0].float()
    means = picture.double().numpy().mean(axis=(1, 2), keepdims=True)
    for factor in (0.8, 1.2):
        expected = np.clip((picture.double().numpy() - means) * factor + means, 0, 255)
        np.testing.assert_allclose(JITTER["tensorflow"][1](picture.clone(), factor).numpy(), expected, rtol=0, atol=0.01)


def test_each_sample_follows_its_own_config() -> None:
    images, seeds = batch(4), seeds_of(3, 4, 5, 6)
    names = ["dacs", "none", "torchvision", "paper001"]
    for call_seed in range(4):
        mixed = augment(images, seeds, [PHOTOMETRIC[name] for name in names], call_seed)
        assert torch.equal(mixed[1], images[1])
        for row, name in enumerate(names):
            alone = augment(images[row : row + 1], seeds[row : row + 1], [PHOTOMETRIC[name]], call_seed)
            assert torch.equal(mixed[row : row + 1], alone)


def test_draws_hang_on_no_version_of_numpy() -> None:
    """The strength of the brightness is the eighth number that the sample's name gives."""
    content = hashlib.blake2b(b"photometric/sample/12345/0").digest()
    drawn = (int.from_bytes(content[56:64], "little") >> 11) / 2**53
    change = draw_change(PhotometricConfig(jitter=KORNIA), 12345, 1)
    assert change.factors is not None
    assert change.factors[0] == pytest.approx(0.6 * (2 * drawn - 1), abs=1e-12)


@pytest.mark.parametrize(("sigma", "share"), [(0.15, 0.1), (0.7, 0.1), (1.15, 0.1), (3.0, 0.1), (1.15, 0.3), (0.9, 1.0)])
def test_blur_equals_the_slow_reference(sigma: float, share: float) -> None:
    picture = batch(1, height=40, width=64)[0].float()
    taps = [kernel_length(length, share) for length in picture.shape[1:]]
    expected = picture.double().numpy()
    for axis, num_taps in enumerate(taps, start=1):
        radius = num_taps // 2
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        width = [(radius, radius) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(expected, width, mode="reflect")
        expected = np.apply_along_axis(np.convolve, axis, padded, weights / weights.sum(), mode="valid")
    np.testing.assert_allclose(blur(picture, sigma, share).numpy(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("length", "taps"), [(512, 51), (1024, 103), (321, 33), (32, 3), (10, 1), (1, 1)])
def test_kernels_are_a_tenth_made_odd(length: int, taps: int) -> None:
    assert kernel_length(length, 0.1) == taps


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    """Dealt to other ranks, or in another order, every sample comes out the same."""
    images, seeds = batch(6), seeds_of(5, 99, 2**62, 0, 7, 123)
    for call_seed in range(4):
        whole = augment(images, seeds, [PHOTOMETRIC[name]] * 6, call_seed)
        for rows in ([0, 2, 4], [5, 3, 1], [2]):
            assert torch.equal(augment(images[rows], seeds[rows], [PHOTOMETRIC[name]] * len(rows), call_seed), whole[rows])


@pytest.mark.parametrize("name", PHOTOMETRIC)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_type_and_memory_format_are_kept_and_the_input_too(name: str, memory_format: torch.memory_format) -> None:
    images = batch(5).contiguous(memory_format=memory_format)
    before = images.clone()
    out = augment(images, seeds_of(1, 2, 3, 4, 5), [PHOTOMETRIC[name]] * 5, 3)
    assert out.dtype == torch.uint8
    assert out.stride() == images.stride()
    assert torch.equal(images, before)
    assert torch.equal(out, images) == (name == "none")


def test_rounding_is_to_the_nearest() -> None:
    images = batch(1)
    config = PhotometricConfig(jitter=replace(KORNIA, contrast=0.0, saturation=0.0, hue=0.0))
    change = draw_change(config, 4, 0)
    assert change.factors is not None
    expected = np.rint(np.clip(images.double().numpy() + change.factors[0] * 255, 0, 255))
    np.testing.assert_allclose(augment(images, seeds_of(4), [config], 0).numpy(), expected, atol=0)


def test_nothing_is_read_from_the_device() -> None:
    """A tensor of the meta device has no values, so that reading one fails."""
    images = batch(4).to("meta")
    for config in PHOTOMETRIC.values():
        for call_seed in range(4):
            out = augment(images, seeds_of(1, 2, 3, 4), [config] * 4, call_seed)
            assert out.device.type == "meta"


def test_no_jitter_strength_changes_nothing() -> None:
    images = batch(3)
    for semantics in JITTER:
        still = JitterConfig(semantics=semantics, probability=1.0, brightness=0, contrast=0, saturation=0, hue=0)  # type: ignore[arg-type]
        assert torch.equal(augment(images, seeds_of(1, 2, 3), [PhotometricConfig(jitter=still)] * 3, 0), images)


def changes(config: PhotometricConfig, *, call_seed: int = 0, count: int = 600) -> list[Change]:
    return [draw_change(config, seed, call_seed) for seed in range(count)]


def test_strengths_lie_in_their_ranges_and_fill_them() -> None:
    config = PhotometricConfig(jitter=KORNIA, blur=BlurConfig(probability=1.0))
    drawn = changes(config)
    factors = np.array([change.factors for change in drawn])
    sigmas = np.array([[change.sigma] for change in drawn])
    values = np.hstack([factors, sigmas])
    low, high = np.array([-0.6, 0.4, 0.4, -0.4, 0.15]), np.array([0.6, 1.6, 1.6, 0.4, 1.15])
    assert (values >= low).all()
    assert (values <= high).all()
    np.testing.assert_allclose(values.min(axis=0), low, atol=0.03)
    np.testing.assert_allclose(values.max(axis=0), high, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(values.T), np.eye(5), atol=0.15)  # independent of each other
    assert len({change.order for change in drawn}) == 24
    brightness = [change.factors[0] for change in changes(replace(config, jitter=TORCHVISION)) if change.factors]
    assert min(brightness) == pytest.approx(0.4, abs=0.03)


def test_probabilities() -> None:
    drawn = changes(PHOTOMETRIC["torchvision"], count=2000)
    jittered, blurred = (np.array([getattr(change, part) is not None for change in drawn]) for part in ("factors", "sigma"))
    assert jittered.mean() == pytest.approx(0.8, abs=0.04)
    assert blurred.mean() == pytest.approx(0.5, abs=0.04)
    assert (jittered & blurred).mean() == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize(("name", "num_orders", "num_sigmas"), [("dacs", 24, 100), ("classmix", 1, 1)])
def test_what_the_samples_of_a_step_share(name: str, num_orders: int, num_sigmas: int) -> None:
    decisions = []
    for call_seed in range(40):
        drawn = changes(PHOTOMETRIC[name], call_seed=call_seed, count=100)
        whether = {(change.factors is not None, change.sigma is not None) for change in drawn}
        assert len(whether) == 1
        decisions.append(whether.pop())
        if decisions[-1] == (True, True):
            assert len({change.sigma for change in drawn}) == num_sigmas
            assert 0.9 * num_orders <= len({change.order for change in drawn}) <= num_orders
            assert len({change.factors for change in drawn}) == 100
    assert len(set(decisions)) == 4  # another step decides anew


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_jitter_and_blur_do_not_move_each_other(seed: int, call_seed: int) -> None:
    both = PHOTOMETRIC["dacs"]
    change = draw_change(both, seed, call_seed)
    assert draw_change(replace(both, blur=None), seed, call_seed) == replace(change, sigma=None)
    assert draw_change(replace(both, jitter=None), seed, call_seed) == replace(change, factors=None)


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_presets_can_be_written_in_a_config(name: str) -> None:
    assert build(PhotometricConfig, to_plain(named_photometric(name)), key="data.photometric") == PHOTOMETRIC[name]


def test_an_unknown_preset_is_told() -> None:
    with pytest.raises(InputError, match="no preset 'kornia', expected one of none, torchvision, classmix, dacs, paper001"):
        named_photometric("kornia")


@pytest.mark.parametrize(("key", "value"), [("probability", 1.1), ("brightness", -0.1), ("contrast", 2.0), ("hue", 0.6)])
def test_an_impossible_jitter_is_told(key: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^{key}: "):
        JitterConfig(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("key", "value"), [("probability", -1.0), ("sigma", (0.0, 1.0)), ("sigma", (2.0, 1.0)), ("kernel", 0.0)])
def test_an_impossible_blur_is_told(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{key}: "):
        BlurConfig(**{key: value})  # type: ignore[arg-type]
