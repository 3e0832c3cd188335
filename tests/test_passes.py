"""Several looks at one picture, against a slow reference."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spaces import SPACES, VIEWS, outputs_of
from torch import Tensor, nn

from data.errors import InputError
from data.transforms import CropConfig, ResizeConfig, resize_image
from models.model import SegmentationModel
from models.networks.base import Features, FirstMap, Network
from models.outputs import build_outputs
from trainers.evaluation.passes import PassesConfig, _Places, predict_image, read_logits


class Local(Network):
    """A convolution over the picture, and one over that: what it says of a pixel depends on the pixels around."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 5, padding=2)

    def forward(self, images: Tensor) -> Features:
        return (self.first(images),)

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.Conv2d(6, num_classes, 3, padding=1))


def model_of(name: str) -> SegmentationModel:
    torch.manual_seed(0)
    network = Local()
    return SegmentationModel(network, build_outputs(SPACES[name], VIEWS, network)).eval()


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 255, (height, width, 3)).astype(np.uint8)


CROP = CropConfig(size=(32, 32))


def slow_mean(model: SegmentationModel, image: np.ndarray, name: str, passes: PassesConfig, shown: tuple[int, int]) -> Tensor:
    """Logits (1, K, H, W) of the mean probability of leaves over all looks, each added to the pixels that it saw."""
    height, width = image.shape[:2]
    window = passes.window or shown
    stride = passes.stride or (window[0] // 2, window[1] // 2)
    rows, columns = (_Places(*entry) for entry in zip((height, width), shown, window, stride, strict=True))
    total, count = torch.zeros(1, len(model.outputs.leaves(name)), height, width, dtype=torch.float64), torch.zeros(height, width)
    for top, left in product(rows.starts, columns.starts):
        part = image[top : top + rows.length, left : left + columns.length]
        for scale, mirrored in product(passes.scales, (False, True)[: 1 + passes.flip]):
            seen = resize_image(part, (round(rows.shown * scale), round(columns.shown * scale)), "linear")
            seen = seen[:, ::-1] if mirrored else seen
            pixels = torch.from_numpy(seen.copy()).permute(2, 0, 1)[None]
            logits = model(pixels, {name: torch.zeros(1, dtype=torch.int64)}, size=part.shape[:2])[name]
            logits = logits.flip(3) if mirrored else logits
            place = (slice(None), slice(None), slice(top, top + rows.length), slice(left, left + columns.length))
            total[place] += model.outputs.leaf_log_probabilities(logits, name).exp()
            count[place[2:]] += 1
    return model.outputs.as_logits((total / count).log(), name)


PASSES = {
    "flip": PassesConfig(flip=True),
    "scales": PassesConfig(scales=(0.5, 1.0, 1.5)),
    "windows": PassesConfig(window=(32, 40), stride=(20, 33)),
    "all": PassesConfig(flip=True, scales=(0.75, 1.25), window=(32, 32)),
}


@torch.no_grad()
@pytest.mark.parametrize("space", ["shared", "concat", "universal", "joint", "greedy"])
@pytest.mark.parametrize("passes", PASSES)
def test_looks_are_averaged_as_the_slow_reference_does(space: str, passes: str) -> None:
    model, image = model_of(space), picture(70, 83)
    expected = slow_mean(model, image, "fine", PASSES[passes], (70, 83))
    seen = 0
    for name, rows, logits in read_logits(model, image, {"fine": CROP}, PASSES[passes]):
        assert name == "fine"
        assert rows.start == seen
        seen = rows.stop
        wanted = expected[:, :, rows]
        outputs = model.outputs
        torch.testing.assert_close(
            outputs.leaf_log_probabilities(logits, name), outputs.leaf_log_probabilities(wanted, name).float(), rtol=1e-4, atol=1e-4
        )
    assert seen == 70
    predicted = predict_image(model, image, {"fine": CROP}, PASSES[passes])["fine"]
    assert (predicted == model.outputs.predict(expected, "fine")[0]).float().mean() > 0.999  # but for ties


@torch.no_grad()
def test_windows_of_pictures_that_are_shown_smaller() -> None:
    """Of 140x166, shown at half: windows of 32 are 64 of its own pixels."""
    model, image = model_of("shared"), picture(140, 166)
    crop = CropConfig(size=(32, 32), resize=ResizeConfig(size=(70, 83)))
    passes = PassesConfig(window=(32, 32))
    expected = slow_mean(model, image, "coarse", passes, (70, 83))
    logits = torch.cat([values for _, _, values in read_logits(model, image, {"coarse": crop}, passes)], dim=2)
    torch.testing.assert_close(logits.exp(), expected.exp().float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [(70, 83), (500, 83), (70, 90)])
def test_a_window_as_large_as_the_picture_is_plain_evaluation(window: tuple[int, int]) -> None:
    model, image = model_of("joint"), picture(70, 83)
    (plain,) = [logits for _, _, logits in read_logits(model, image, {"fine": CROP})]
    (windowed,) = [logits for _, _, logits in read_logits(model, image, {"fine": CROP}, PassesConfig(window=window))]
    assert torch.equal(plain, windowed)


def test_no_more_rows_are_held_than_a_window_has() -> None:
    model, image = model_of("shared"), picture(400, 60)
    bands = [logits.shape[2] for _, _, logits in read_logits(model, image, {"fine": CROP}, PassesConfig(window=(40, 40), stride=(10, 40)))]
    assert max(bands) <= 40
    assert sum(bands) == 400


def test_the_mean_of_logits_is_another_than_that_of_probabilities() -> None:
    model, image = model_of("shared"), picture(40, 40)
    looks = [PassesConfig(flip=True, average=average) for average in ("probabilities", "logits")]  # type: ignore[arg-type]
    (probabilities,), (logits,) = [[values for _, _, values in read_logits(model, image, {"fine": CROP}, passes)] for passes in looks]
    (plain,) = [values for _, _, values in read_logits(model, image, {"fine": CROP})]
    (mirrored,) = [values for _, _, values in read_logits(model, image[:, ::-1], {"fine": CROP})]
    torch.testing.assert_close(logits, (plain + mirrored.flip(3)) / 2, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits.softmax(1), probabilities.softmax(1))


@pytest.mark.parametrize("name", SPACES)
def test_logits_of_leaves_say_the_same(name: str) -> None:
    outputs, logits = outputs_of(name)
    for dataset, values in logits.items():
        log_p = outputs.leaf_log_probabilities(values, dataset)
        back = outputs.as_logits(log_p, dataset)
        assert back.shape == values.shape
        torch.testing.assert_close(outputs.leaf_log_probabilities(back, dataset), log_p)
        assert torch.equal(outputs.predict(back, dataset), outputs.predict(values, dataset))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_windows_cover_every_pixel(length: int, shown: int, window: int, stride: int) -> None:
    places = _Places(length, shown, window, min(stride, window))
    covered = np.zeros(length, int)
    for start in places.starts:
        assert 0 <= start <= length - places.length
        covered[start : start + places.length] += 1
    assert covered.min() >= 1
    assert places.starts == sorted(set(places.starts))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (0.0,)}, "scales"),
        ({"window": (8, 64)}, "window"),
        ({"stride": (8, 8)}, "stride"),
        ({"window": (64, 64), "stride": (65, 8)}, "stride"),
    ],
)
def test_what_cannot_be_is_told(words: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        PassesConfig(**words)  # type: ignore[arg-type]
