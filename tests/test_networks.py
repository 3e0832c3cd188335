"""What every network has to do, whatever is in conf/model: one battery over all of them, and the arithmetic of those of this file."""

import copy
import io
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from tiny import head_of, view_of
from torch import Tensor, nn
from torchvision.models import get_model

import conf
from data.adapters.common import read_table
from data.config import build
from data.errors import InputError
from models.model import SegmentationModel, build_model
from models.networks import NetworkConfig, build_network
from models.networks.deeplab import DeepLabV2, DeepLabV2Config
from models.networks.dilated_resnet import DilatedResNet50, DilatedResNet50Config
from models.networks.encoders import ENCODERS, build_encoder
from models.networks.swiftnet import SwiftNet, SwiftNetConfig
from models.outputs.hierarchy import HierarchyConfig
from models.outputs.multihead import MultiHeadConfig
from trainers.config import JobConfig

CHOICES = conf.choices("model")
SWITCHES = [
    "swiftnet_rn18 model.encoder=resnet50 model.spp_grids=[8,4,2,1] model.normalise=cityscapes",
    "swiftnet_rn18 model.encoder=convnext_tiny",
    "deeplabv2_rn101 model.branches=4 model.normalise=imagenet",
    "dilated_resnet50 model.deconv_kernel=2 model.stride_in=first model.normalise=imagenet",
]
"""Other values of the keys, for the tests that learn most from them."""

SIZES = [(64, 96), (65, 97), (33, 130), (32, 32), (47, 31)]


@cache
def config(choice: str) -> NetworkConfig:
    file, *words = choice.split()
    return build(JobConfig, conf.compose("train", [f"model={file}", *words])).model


@cache
def _pristine(choice: str) -> SegmentationModel:
    torch.manual_seed(0)
    return build_model(config(choice), MultiHeadConfig(name="multihead"), {"a": view_of(6), "b": view_of(2)})


def model_of(choice: str) -> SegmentationModel:
    """A model of two datasets, of 6 and of 2 classes, fresh, but the same each time."""
    return copy.deepcopy(_pristine(choice))


def batch(*size: int, seed: int = 0) -> Tensor:
    """Images (2, 3, *size) of rough patches rather than noise: networks that pool see something after it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, *(-(-side // 8) for side in size), generator=generator)
    fine = torch.rand(2, 3, *size, generator=generator)
    return (255 * (0.8 * F.interpolate(coarse, size, mode="bicubic").clamp(0, 1) + 0.2 * fine)).to(torch.uint8)


def rows(**numbers: list[int]) -> dict[str, Tensor]:
    return {name: torch.tensor(entries, dtype=torch.int64) for name, entries in numbers.items()}


ROWS = rows(a=[0, 1], b=[1])


EVERY_NETWORK = sorted({config(choice).name: choice for choice in reversed(CHOICES)}.values())
every_network = pytest.mark.parametrize("choice", EVERY_NETWORK)
every_kind = pytest.mark.parametrize("choice", [*CHOICES, *SWITCHES])


def objective(logits: Mapping[str, Tensor]) -> Tensor:
    """A scalar that every logit is in, with a different weight each."""
    return torch.stack([(values.float() * torch.linspace(-1, 1, values.numel()).view_as(values)).sum() for values in logits.values()]).sum()


def distance(found: Tensor, expected: Tensor) -> float:
    """Euclidean, as a share of the length of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_every_network_has_a_config_file() -> None:
    names = {get_args(get_type_hints(kind)["name"])[0] for kind in get_args(NetworkConfig)}
    assert {config(choice).name for choice in CHOICES} == names


@every_kind
def test_forward_and_backward(choice: str) -> None:
    """Every parameter that asks for a gradient gets one, or several ranks would wait for it for ever; that of an encoder is not 0."""
    model = model_of(choice).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits = model(batch(32, 64), ROWS)
    assert {name: values.shape for name, values in logits.items()} == {"a": (2, 6, 32, 64), "b": (1, 2, 32, 64)}
    objective(logits).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    first = next(parameter for parameter in model.network.parameters() if parameter.requires_grad)
    assert first.grad is not None
    assert first.grad.any()
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed
    assert changed == {name for name in before if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")}


@every_network
def test_evaluation_changes_nothing_and_knows_no_neighbours(choice: str) -> None:
    model = model_of(choice).eval()
    before = copy.deepcopy(model.state_dict())
    images = batch(64, 96)
    with torch.no_grad():
        both = model(images, rows(a=[0, 1]))["a"]
        alone = model(images[1:], rows(a=[0]))["a"]
    assert distance(alone, both[1:]) < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@every_kind
def test_any_size(choice: str) -> None:
    """Logits have the size of the images, whatever it is, in training too."""
    model = model_of(choice)
    for size in SIZES:
        for mode in (True, False):
            with torch.no_grad():
                logits = model.train(mode)(batch(*size), ROWS)
            assert logits["a"].shape == (2, 6, *size)
            assert logits["b"].shape == (1, 2, *size)
            assert all(values.isfinite().all() for values in logits.values())


@every_network
def test_logits_are_of_their_place(choice: str) -> None:
    """A bright spot moves the logits most where it is: nothing is mirrored, turned or shifted far on the way."""
    model = model_of(choice).eval()
    images = torch.full((2, 3, 128, 192), 128, dtype=torch.uint8)
    images[1, :, 88:104, 40:56] = 255
    with torch.no_grad():
        plain, spotted = model(images, rows(a=[0, 1]))["a"].double()
    weights = (spotted - plain).abs().sum(dim=0) ** 4
    weights /= weights.sum()
    centre = float((weights.sum(1) * torch.arange(128)).sum()), float((weights.sum(0) * torch.arange(192)).sum())
    assert centre == pytest.approx((95.5, 47.5), abs=24)


@every_network
def test_state_dict_round_trip(choice: str) -> None:
    model = model_of(choice)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = build_model(config(choice), MultiHeadConfig(name="multihead"), model.outputs.views)
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        expected, found = (m.eval()(batch(64, 64), ROWS) for m in (model, other))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@every_kind
def test_channels_last_is_kept(choice: str) -> None:
    """A single map that goes back to the other order costs a copy there, and one at every layer behind."""
    model = model_of(choice).eval()
    images = batch(64, 96)
    with torch.no_grad():
        expected = model(images, ROWS)
        model = model.to(memory_format=torch.channels_last)
        wrong = _watch_memory_format(model)
        found = model(images.contiguous(memory_format=torch.channels_last), ROWS)
    assert not wrong
    assert all(distance(found[name], expected[name]) < 1e-3 for name in expected)


def _watch_memory_format(model: nn.Module) -> list[str]:
    """The names of the convolutions that are given a map of another memory format, filled in as `model` is called."""
    wrong: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not inputs[0].is_contiguous(memory_format=torch.channels_last):
                wrong.append(name)

        return check

    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_pre_hook(hook(name))
    return wrong


@every_network
def test_bf16_autocast(choice: str) -> None:
    """One rounding to 8 bits costs up to half a percent; deep networks gather some of them."""
    model = model_of(choice).eval()
    image = batch(32, 64)[:1]
    with torch.no_grad():
        expected = model(image, rows(a=[0]))["a"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(image, rows(a=[0]))["a"]
    assert found.isfinite().all()
    assert distance(found, expected) < 0.05
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch(32, 64), ROWS)
    torch.stack([values.square().mean() for values in logits.values()]).sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 and weight.grad.isfinite().all() for weight in trained)


@every_network
def test_compiles_without_a_graph_break(choice: str) -> None:
    torch._dynamo.reset()
    model = model_of(choice).eval()
    images = batch(64, 96)
    with torch.no_grad():
        expected = model(images, ROWS)
        found = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)(images, ROWS)
    assert all(distance(found[name], expected[name]) < 1e-5 for name in expected)
    model.train()
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True, backend="eager", dynamic=False)):
        torch.manual_seed(0)  # dropout
        model.zero_grad()
        torch.stack([logits.square().mean() for logits in run(images, ROWS).values()]).sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    for name, expected_gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected_gradient, rtol=0, atol=1e-3 * float(expected_gradient.abs().max()))


@every_network
def test_the_same_seed_gives_the_same(choice: str) -> None:
    """Dropout included; and another seed gives other weights."""
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        with torch.no_grad():
            results.append(model_of(choice).train()(batch(32, 64), ROWS))
    assert all(torch.equal(results[0][name], results[1][name]) for name in ROWS)
    built = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        _, classifier = head_of(_pristine(choice).network, 3)
        built.append(torch.cat([parameter.detach().flatten() for parameter in classifier.parameters()]))
    assert torch.equal(built[0], built[1])
    assert not torch.equal(built[0], built[2])


@every_network
def test_what_comes_in_is_not_changed(choice: str) -> None:
    model = model_of(choice).train()
    images = torch.randn(2, 3, 64, 64)
    before = images.clone()
    features = model.network(images)
    assert torch.equal(images, before)
    kept = [feature.clone() for feature in features]
    decoder, classifier = head_of(model.network, 4)
    decoded = decoder(features)
    assert all(torch.equal(feature, copied) for feature, copied in zip(features, kept, strict=True))
    kept = [feature.clone() for feature in decoded]
    model.network.upsample(classifier(decoded), decoded, (64, 64))
    assert all(torch.equal(feature, copied) for feature, copied in zip(decoded, kept, strict=True))


@every_network
def test_a_dataset_without_rows_has_zero_gradients(choice: str) -> None:
    """Also of a decoder of its own: nobody's collectives wait."""
    network = model_of(choice).network.train()
    features = tuple(feature[:0] for feature in network(batch(64, 64).float()))
    decoder, classifier = head_of(network, 3)
    decoded = decoder(features)
    logits = network.upsample(classifier(decoded), decoded, (64, 64))
    assert logits.shape == (0, 3, 64, 64)
    logits.sum().backward()
    for name, parameter in [*decoder.named_parameters(), *classifier.named_parameters()]:
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


@every_network
@pytest.mark.parametrize("num_classes", [2, 65])
def test_few_and_many_classes(choice: str, num_classes: int) -> None:
    network = model_of(choice).network.eval()
    with torch.no_grad():
        decoder, classifier = head_of(network, num_classes)
        decoded = decoder.eval()(network(torch.randn(1, 3, 64, 64)))
        logits = network.upsample(classifier.eval()(decoded), decoded, (64, 64))
    assert logits.shape == (1, num_classes, 64, 64)


class _OneHead(nn.Module):
    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, {"a": torch.arange(len(images))})["a"]


@every_network
def test_exports_to_onnx(choice: str) -> None:
    """Slow to trace, so at one size; what leaves the exporter is run by another library than torch."""
    reason = "needs onnx, onnxscript and onnxruntime"
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=reason)
    runtime: Any = pytest.importorskip("onnxruntime", reason=reason)
    images = batch(64, 96)
    model = _OneHead(model_of(choice)).eval()
    with torch.no_grad():
        expected = model(images)
    program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert distance(torch.from_numpy(found), expected) < 1e-3


def count(*modules: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad or not trained)


def with_heads(config: NetworkConfig, *num_classes: int) -> list[nn.Module]:
    """A network with a decoder and a classifier for each number of classes; shapes alone, without memory for the weights."""
    with torch.device("meta"):
        network = build_network(config)
        return [network, *(part for number in num_classes for part in head_of(network, number))]


@pytest.mark.parametrize(
    ("config", "num_classes", "expected"),
    [
        (SwiftNetConfig(name="swiftnet"), 19, 11_797_071),
        (SwiftNetConfig(name="swiftnet"), 20, 11_797_200),
        (SwiftNetConfig(name="swiftnet"), 21, 11_797_329),
        (SwiftNetConfig(name="swiftnet"), 40, 11_799_780),
        (SwiftNetConfig(name="swiftnet"), 41, 11_799_909),
        (SwiftNetConfig(name="swiftnet", encoder="resnet34"), 19, 21_284_672 + 620_559),
        (DeepLabV2Config(name="deeplabv2"), 19, 43_901_068),
        (DeepLabV2Config(name="deeplabv2"), 21, 44_048_532),
    ],
)
def test_number_of_parameters(config: NetworkConfig, num_classes: int, expected: int) -> None:
    """Those of the official codes; ResNet-34 is torchvision's 21,284,672 without its classifier, and SwiftNet's decoder."""
    with torch.device("meta"):
        model = build_model(config, MultiHeadConfig(name="multihead"), {"a": view_of(num_classes)})
    assert count(model) == expected


@pytest.mark.parametrize(("branches", "expected"), [(4, 43_795_724), (2, 43_795_724 - 700_454)])
def test_deeplab_trains_what_it_uses(branches: Any, expected: int) -> None:
    """The official code lists 43,795,724 as trained, of which half of the classifier never has a gradient."""
    assert count(*with_heads(DeepLabV2Config(name="deeplabv2", branches=branches), 19), trained=True) == expected


def test_the_hierarchy_of_paper_001_has_the_published_number_of_parameters() -> None:
    """Its five classifiers have 54, 11, 4, 3 and 44 outputs, the voids included, and a branch each."""
    outputs = build(HierarchyConfig, {"name": "hierarchy", "tree": "paper001"})
    model = build_model(DilatedResNet50Config(name="dilated_resnet50"), outputs, {"gtsdb": read_table("gtsdb").view()})
    assert count(model.network) == 23_508_032 + 524_800
    assert count(model.outputs) == 5 * 722_432 + 29_812 + 80_084
    assert count(model) == 27_754_888


@pytest.mark.parametrize(("size", "expected"), [(321, 41), (512, 65)])
def test_deeplabs_maps_have_the_odd_sizes_of_caffe(size: int, expected: int) -> None:
    """Of a narrow strip: a map's sides do not know of each other."""
    with torch.device("meta"):
        network = DeepLabV2(DeepLabV2Config(name="deeplabv2"))
        assert network(torch.empty(1, 3, size, 17))[0].shape == (1, 2048, expected, 3)


def kernels(layer: nn.Sequential, name: str) -> list[tuple[int, int]]:
    """Stride and dilation of a convolution of each block."""
    return [(conv.stride[0], conv.dilation[0]) for conv in (getattr(block, name) for block in layer)]


def test_strides_and_dilations_of_deeplab() -> None:
    with torch.device("meta"):
        encoder = DeepLabV2(DeepLabV2Config(name="deeplabv2")).encoder
    assert kernels(encoder.layer2, "conv1") == [(2, 1)] + 3 * [(1, 1)]  # Caffe's: on the first 1x1
    assert kernels(encoder.layer2, "conv2") == 4 * [(1, 1)]
    assert kernels(encoder.layer3, "conv2") == 23 * [(1, 2)]
    assert kernels(encoder.layer4, "conv2") == 3 * [(1, 4)]


@pytest.mark.parametrize(
    ("stride_in", "expected"),
    [
        ("last", [2 * [(1, 1)] + [(2, 1)], 4 * [(1, 1)], 6 * [(1, 2)], 3 * [(1, 4)]]),
        ("first", [3 * [(1, 1)], [(2, 1)] + 3 * [(1, 1)], [(1, 1)] + 5 * [(1, 2)], [(1, 2)] + 2 * [(1, 4)]]),
    ],
)
def test_strides_and_dilations_of_paper_001(stride_in: Any, expected: list[list[tuple[int, int]]]) -> None:
    with torch.device("meta"):
        encoder = DilatedResNet50(DilatedResNet50Config(name="dilated_resnet50", stride_in=stride_in)).encoder
        assert [kernels(layer, "conv2") for layer in encoder.layers()] == expected
        assert [f.shape[3] for f in encoder(torch.empty(1, 3, 32, 64))] == [8 if stride_in == "last" else 16, 8, 8, 8]


def test_deeplab_sums_two_branches_and_enlarges_by_corners() -> None:
    network = DeepLabV2(DeepLabV2Config(name="deeplabv2"))
    _, classifier = head_of(network, 3)
    x = torch.randn(2, 2048, 5, 6)
    first, second = (
        F.conv2d(x, classifier.branches[i].weight, classifier.branches[i].bias, padding=d, dilation=d) for i, d in ((0, 6), (1, 12))
    )
    logits = classifier((x,))
    torch.testing.assert_close(logits, first + second)
    assert not any(p.requires_grad for branch in classifier.branches[2:] for p in branch.parameters())
    enlarged = network.upsample(logits, (x,), (33, 41))
    torch.testing.assert_close(enlarged[:, :, ::8, ::8], logits)  # 4 * 8 + 1 and 5 * 8 + 1: every eighth pixel is one of the map


def test_deeplabs_normalisation_is_frozen_but_of_the_batch() -> None:
    network = DeepLabV2(DeepLabV2Config(name="deeplabv2"))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(count(norm) for norm in norms) == 105_344
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    assert all(norm.training and norm.track_running_stats for norm in norms)
    assert float(network.encoder.conv1.weight.detach().std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("kernel", "reach"), [(4, 4), (2, 2)])
def test_learned_upsampling_of_paper_001(kernel: Any, reach: int) -> None:
    """One pixel of the map reaches `kernel` pixels of the doubled map, centred on its own two."""
    network = DilatedResNet50(DilatedResNet50Config(name="dilated_resnet50", deconv_kernel=kernel))
    _, classifier = head_of(network, 2)
    behind_branch = classifier.module[1:]
    x = torch.zeros(1, 256, 5, 5)
    plain = behind_branch(x)
    assert plain.shape == (1, 2, 10, 10)
    x[0, :, 2, 2] = 1
    touched = (behind_branch(x) - plain)[0].abs().sum(0).sum(0).nonzero().flatten().tolist()
    start = 4 - (reach - 2) // 2
    assert touched == list(range(start, start + reach))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_an_encoders_resnet_is_torchvisions(name: str) -> None:
    """The last map, after its ReLU, is what torchvision's own forward pass gives from the same weights; the skips have no ReLU."""
    encoder, reference = build_encoder(name).eval(), get_model(name, weights=None).eval()
    assert reference.load_state_dict(encoder.state_dict(), strict=False).missing_keys == ["fc.weight", "fc.bias"]
    reference.avgpool, reference.fc = nn.Identity(), nn.Identity()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = encoder(x)
        torch.testing.assert_close(F.relu(features[-1]).flatten(1), reference(x))
    assert tuple(f.shape[1] for f in features) == encoder.channels
    assert [tuple(f.shape[2:]) for f in features] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert all((f < 0).any() for f in features)


def test_an_encoders_convnext_is_torchvisions() -> None:
    encoder, reference = build_encoder("convnext_tiny").eval(), get_model("convnext_tiny", weights=None).eval()
    missing = reference.load_state_dict(encoder.state_dict(), strict=False).missing_keys
    assert missing
    assert all(name.startswith("classifier.") for name in missing)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = encoder(x)
        assert torch.equal(features[-1], reference.features(x))
    assert tuple(f.shape[1] for f in features) == encoder.channels == (96, 192, 384, 768)
    assert [tuple(f.shape[2:]) for f in features] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_every_family_of_encoders_fits_a_decoder() -> None:
    """Without memory for the weights: shapes alone."""
    families = ("resnet101", "resnext50_32x4d", "wide_resnet50_2", "convnext_large")
    assert {"resnet18", "resnet34", "resnet50", "resnet152", "convnext_tiny", *families} <= set(ENCODERS)
    with torch.device("meta"):
        for name in families:
            network = SwiftNet(SwiftNetConfig(name="swiftnet", encoder=name))
            decoded = network.make_decoder(5)(network(torch.empty(2, 3, 64, 96)))
            assert decoded[0].shape == (2, 128, 16, 24)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("encoder=resnet19", "model.encoder: 'resnet19' found, expected one of convnext_base,"),
        ("spp_grids=[]", "model.spp_grids: [] found, expected numbers of rows such as [8, 4, 2]; mend them"),
        ("spp_grids=[8,0]", "model.spp_grids: [8, 0] found, expected"),
    ],
)
def test_wrong_values_are_told(word: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        config(f"swiftnet_rn18 model.{word}")
