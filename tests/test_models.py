import pytest
import torch
from torch import Tensor, nn

from data.labels import IGNORE_INDEX, Label, LabelSpace, View
from models.model import SegmentationModel, build_model
from models.networks.base import Features, FirstMap, Network
from models.networks.swiftnet import SwiftNetConfig
from models.outputs.multihead import MultiHead, MultiHeadConfig


def view(num_classes: int) -> View:
    return LabelSpace(name="some", labels=tuple(Label(id=i, name=str(i), color=(i, i, i)) for i in range(num_classes))).view()


def swiftnet(**num_classes: int) -> SegmentationModel:
    torch.manual_seed(0)
    views = {name: view(number) for name, number in num_classes.items()}
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


class Plain(Network):
    """Its features are the images, of four channels."""

    def forward(self, images: Tensor) -> Features:
        return (images,)

    def make_decoder(self, num_classes: int) -> nn.Module:
        return nn.Identity()

    def make_classifier(self, num_classes: int) -> nn.Module:
        return FirstMap(nn.Conv2d(4, num_classes, 1))


def head(**num_classes: int) -> MultiHead:
    torch.manual_seed(0)
    return MultiHead({name: view(number) for name, number in num_classes.items()}, Plain()).double()


def slow_loss(logits: Tensor, labels: Tensor) -> tuple[float, int]:
    total, count = 0.0, 0
    for n in range(len(labels)):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if labels[n, y, x] != IGNORE_INDEX:
                    total += float(logits[n, :, y, x].logsumexp(0) - logits[n, labels[n, y, x], y, x])
                    count += 1
    return total, count


def test_loss_is_the_sum_of_cross_entropies_with_its_count() -> None:
    space = head(a=5)
    logits = torch.randn(2, 5, 6, 7) * 3
    labels = torch.randint(0, 5, (2, 6, 7))
    labels[0, :3] = IGNORE_INDEX
    total, count = space.loss(logits, labels, "a")
    expected_total, expected_count = slow_loss(logits, labels)
    assert int(count) == expected_count
    assert float(total) == pytest.approx(expected_total, rel=1e-5)


@pytest.mark.parametrize("labels", [torch.full((2, 4, 4), IGNORE_INDEX), torch.zeros((0, 4, 4), dtype=torch.int64)])
def test_nothing_to_learn_is_zero_loss_and_zero_gradient(labels: Tensor) -> None:
    logits = torch.randn(len(labels), 3, 4, 4, requires_grad=True)
    total, count = head(a=3).loss(logits, labels, "a")
    assert float(total.detach()) == 0
    assert int(count) == 0
    total.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_dataset_without_a_sample_has_zero_gradients_not_none() -> None:
    space = head(a=3, b=2)
    features = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    logits = space((features,), {"a": torch.tensor([0, 1]), "b": torch.tensor([], dtype=torch.int64)}, (5, 5))
    assert logits["b"].shape == (0, 2, 5, 5)
    totals = [space.loss(logits[n], torch.zeros(len(logits[n]), 5, 5, dtype=torch.int64), n)[0] for n in ("a", "b")]
    sum(totals, torch.zeros(())).backward()
    assert space.classifiers[0].module.weight.grad.any()
    assert space.classifiers[1].module.weight.grad is not None
    assert not space.classifiers[1].module.weight.grad.any()


def test_predictions_and_pseudo_labels() -> None:
    space = head(a=3)
    logits = torch.randn(2, 3, 4, 5)
    classes, confidence = space.pseudo_labels(logits, "a")
    assert torch.equal(classes, space.predict(logits, "a"))
    torch.testing.assert_close(confidence, torch.softmax(logits, 1).gather(1, classes[:, None])[:, 0])
