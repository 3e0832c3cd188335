import pytest
import torch
from tiny import view_of

from models.model import SegmentationModel, build_model
from models.networks.swiftnet import SwiftNetConfig
from models.outputs.multihead import MultiHeadConfig


def swiftnet(**num_classes: int) -> SegmentationModel:
    torch.manual_seed(0)
    views = {name: view_of(number) for name, number in num_classes.items()}
    return build_model(SwiftNetConfig(name="swiftnet"), MultiHeadConfig(name="multihead"), views)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 130), (32, 32)])
def test_logits_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    model = swiftnet(a=3, b=5).eval()
    images = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    before = images.clone()
    logits = model(images, {"a": torch.tensor([0, 2]), "b": torch.tensor([1])})
    assert logits["a"].shape == (2, 3, *size)
    assert logits["b"].shape == (1, 5, *size)
    assert torch.equal(images, before)
    again = model(images, {"a": torch.tensor([0, 2]), "b": torch.tensor([1])})
    assert torch.equal(logits["a"], again["a"])


def test_logits_may_be_asked_for_at_another_size() -> None:
    logits = swiftnet(a=3).eval()(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), {"a": torch.tensor([0])}, size=(131, 190))
    assert logits["a"].shape == (1, 3, 131, 190)
