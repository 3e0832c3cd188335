"""Starting from weights: every name of the official codes lands where it belongs, and nothing is left out without a word."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import view_of
from torch import Tensor
from torchvision.models import get_model

from data.errors import InputError
from models.model import SegmentationModel, build_model
from models.networks import NetworkConfig
from models.outputs.multihead import MultiHeadConfig
from models.weight_files import read_weights
from models.weight_names import forms
from models.weights import Fit, LoadReport, _groups, fit_weights

Shapes = dict[str, tuple[int, ...]]
"""Name -> shape of the tensors of an official state dict."""

ESPNET_FILE = Path(__file__).parents[2] / "shared" / "weights" / "espnet_p2q8_camvid.pth"


def config_of(name: str, **keys: Any) -> NetworkConfig:
    config = next(config for config in get_args(NetworkConfig) if name in get_args(config.__annotations__["name"]))
    return config(name=name, **keys)


def model_of(config: NetworkConfig, **num_classes: int) -> SegmentationModel:
    """Its weights are whatever lies in memory."""
    with torch.device("meta"):
        model = build_model(config, MultiHeadConfig(name="multihead"), {name: view_of(number) for name, number in num_classes.items()})
    return model.to_empty(device="cpu")


def numbered(shapes: Shapes) -> dict[str, Tensor]:
    """A tensor for each name, filled with its number: any that lands in a wrong place is found."""
    return {name: torch.full((), float(number)).expand(shape) for number, (name, shape) in enumerate(shapes.items())}


def fit(model: SegmentationModel, config: NetworkConfig, content: Any, normalise: str | None = None) -> Fit:
    return fit_weights(model, list(forms(config, model.state_dict())), content, "file.pth", normalise)


def load(model: SegmentationModel, config: NetworkConfig, content: Any) -> LoadReport:
    fitted = fit(model, config, content)
    fitted.load_into(model)
    return fitted.report


def bn(name: str, channels: int) -> Shapes:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def conv(name: str, out: int, into: int, *kernel: int, bias: bool = False) -> Shapes:
    return {f"{name}.weight": (out, into, *(kernel if len(kernel) == 2 else kernel * 2))} | ({f"{name}.bias": (out,)} if bias else {})


def resnet(prefix: str, blocks: tuple[int, ...], *, bottleneck: bool) -> Shapes:
    shapes, into = conv(f"{prefix}conv1", 64, 3, 7) | bn(f"{prefix}bn1", 64), 64
    for layer, number in enumerate(blocks):
        width = 64 * 2**layer
        out = width * (4 if bottleneck else 1)
        for block in range(number):
            name = f"{prefix}layer{layer + 1}.{block}"
            if bottleneck:
                shapes |= conv(f"{name}.conv1", width, into, 1) | bn(f"{name}.bn1", width)
                shapes |= conv(f"{name}.conv2", width, width, 3) | bn(f"{name}.bn2", width)
                shapes |= conv(f"{name}.conv3", out, width, 1) | bn(f"{name}.bn3", out)
            else:
                shapes |= conv(f"{name}.conv1", width, into, 3) | bn(f"{name}.bn1", width)
                shapes |= conv(f"{name}.conv2", width, width, 3) | bn(f"{name}.bn2", width)
            if block == 0 and into != out:
                shapes |= conv(f"{name}.downsample.0", out, into, 1) | bn(f"{name}.downsample.1", out)
            into = out
    return shapes


def swiftnet(num_classes: int = 19) -> Shapes:
    def unit(name: str, into: int, out: int, kernel: int, *, bias: bool = False) -> Shapes:
        return bn(f"{name}.norm", into) | conv(f"{name}.conv", out, into, kernel, bias=bias)

    shapes: Shapes = {"backbone.img_mean": (1, 3, 1, 1), "backbone.img_std": (1, 3, 1, 1)}
    shapes |= resnet("backbone.", (2, 2, 2, 2), bottleneck=False)
    shapes |= unit("backbone.spp.spp.spp_bn", 512, 128, 1)
    for level in range(3):
        shapes |= unit(f"backbone.spp.spp.spp{level}", 128, 42, 1)
    shapes |= unit("backbone.spp.spp.spp_fuse", 254, 128, 1)
    for step, channels in enumerate((256, 128, 64)):
        shapes |= unit(f"backbone.upsample.{step}.bottleneck", channels, 128, 1)
        shapes |= unit(f"backbone.upsample.{step}.blend_conv", 128, 128, 3)
    return shapes | unit("logits", 128, num_classes, 1, bias=True)


def deeplab(num_classes: int = 19) -> Shapes:
    shapes = resnet("", (3, 4, 23, 3), bottleneck=True)
    for branch in range(4):
        shapes |= conv(f"layer5.conv2d_list.{branch}", num_classes, 2048, 3, bias=True)
    return shapes


def erfnet(num_classes: int = 20) -> Shapes:
    def down(name: str, into: int, out: int) -> Shapes:
        return conv(f"{name}.conv", out - into, into, 3, bias=True) | bn(f"{name}.bn", out)

    def wide(name: str, channels: int) -> Shapes:
        shapes: Shapes = {}
        for pair in (1, 2):
            shapes |= conv(f"{name}.conv3x1_{pair}", channels, channels, 3, 1, bias=True)
            shapes |= conv(f"{name}.conv1x3_{pair}", channels, channels, 1, 3, bias=True)
            shapes |= bn(f"{name}.bn{pair}", channels)
        return shapes

    def up(name: str, into: int, out: int) -> Shapes:
        return {f"{name}.conv.weight": (into, out, 3, 3), f"{name}.conv.bias": (out,)} | bn(f"{name}.bn", out)

    shapes = down("encoder.initial_block", 3, 16) | down("encoder.layers.0", 16, 64) | down("encoder.layers.6", 64, 128)
    for number in (1, 2, 3, 4, 5):
        shapes |= wide(f"encoder.layers.{number}", 64)
    for number in range(7, 15):
        shapes |= wide(f"encoder.layers.{number}", 128)
    shapes |= conv("encoder.output_conv", num_classes, 128, 1, bias=True)
    for first, into, out in ((0, 128, 64), (3, 64, 16)):
        shapes |= up(f"decoder.layers.{first}", into, out)
        shapes |= wide(f"decoder.layers.{first + 1}", out) | wide(f"decoder.layers.{first + 2}", out)
    return shapes | {"decoder.output_conv.weight": (16, num_classes, 2, 2), "decoder.output_conv.bias": (num_classes,)}


def espnet(num_classes: int = 20, p: int = 2, q: int = 3) -> Shapes:
    def br(name: str, channels: int) -> Shapes:
        return bn(f"{name}.bn", channels) | {f"{name}.act.weight": (channels,)}

    def esp(name: str, into: int, out: int, kernel: int, *, strided: bool) -> Shapes:
        inner = out // 5
        shapes = conv(f"{name}.c1.conv", inner, into, kernel)
        for dilation in (1, 2, 4, 8, 16):
            shapes |= conv(f"{name}.d{dilation}.conv", out - 4 * inner if dilation == 1 else inner, inner, 3)
        return shapes | br(name if strided else f"{name}.bn", out)

    shapes = conv("encoder.level1.conv", 16, 3, 3) | br("encoder.level1", 16) | br("encoder.b1", 19)
    shapes |= esp("encoder.level2_0", 19, 64, 3, strided=True) | br("encoder.b2", 131)
    shapes |= esp("encoder.level3_0", 131, 128, 3, strided=True) | br("encoder.b3", 256)
    for level, number, channels in ((2, p, 64), (3, q, 128)):
        for block in range(number):
            shapes |= esp(f"encoder.level{level}.{block}", channels, channels, 1, strided=False)
    shapes |= conv("encoder.classifier.conv", num_classes, 256, 1) | conv("level3_C.conv", num_classes, 131, 1) | bn("br", num_classes)
    shapes |= conv("conv.conv", num_classes, 19 + num_classes, 3) | br("conv", num_classes)
    shapes |= br("combine_l2_l3.0", 2 * num_classes) | esp("combine_l2_l3.1", 2 * num_classes, num_classes, 1, strided=False)
    for name in ("up_l3.0", "up_l2.0", "classifier"):
        shapes |= {f"{name}.weight": (num_classes, num_classes, 2, 2)}
    return shapes | br("up_l2.1", num_classes)


OFFICIAL: dict[str, tuple[NetworkConfig, Shapes, int, list[str], dict[str, str]]] = {
    "swiftnet": (
        config_of("swiftnet"),
        swiftnet(),
        19,
        ["backbone.img_mean", "backbone.img_std"],
        {
            "network.encoder.layer3.0.downsample.1.running_var": "backbone.layer3.0.downsample.1.running_var",
            "outputs.decoder.pyramid.reduce.0.weight": "backbone.spp.spp.spp_bn.norm.weight",
            "outputs.decoder.pyramid.levels.1.2.weight": "backbone.spp.spp.spp1.conv.weight",
            "outputs.decoder.pyramid.fuse.2.weight": "backbone.spp.spp.spp_fuse.conv.weight",
            "outputs.decoder.ladder.0.blend.0.bias": "backbone.upsample.0.blend_conv.norm.bias",
            "outputs.decoder.ladder.2.blend.2.weight": "backbone.upsample.2.blend_conv.conv.weight",
            "outputs.decoder.ladder.1.skip.2.weight": "backbone.upsample.1.bottleneck.conv.weight",
            "outputs.decoder.last.0.running_mean": "logits.norm.running_mean",
            "outputs.classifiers.0.module.bias": "logits.conv.bias",
        },
    ),
    "deeplabv2": (
        config_of("deeplabv2"),
        deeplab(),
        19,
        [],
        {
            "network.encoder.bn1.running_mean": "bn1.running_mean",
            "network.encoder.layer3.22.conv2.weight": "layer3.22.conv2.weight",
            "outputs.classifiers.0.branches.1.weight": "layer5.conv2d_list.1.weight",
            "outputs.classifiers.0.branches.3.bias": "layer5.conv2d_list.3.bias",
        },
    ),
    "erfnet": (
        config_of("erfnet"),
        erfnet(),
        20,
        ["encoder.output_conv.weight", "encoder.output_conv.bias"],
        {
            "network.encoder.initial_block.conv.weight": "encoder.initial_block.conv.weight",
            "network.encoder.layers.14.conv1x3_2.bias": "encoder.layers.14.conv1x3_2.bias",
            "outputs.decoder.layers.5.bn2.running_var": "decoder.layers.5.bn2.running_var",
            "outputs.classifiers.0.module.weight": "decoder.output_conv.weight",
        },
    ),
    "espnet": (
        config_of("espnet", q=3),
        espnet(),
        20,
        [],
        {
            "network.encoder.join2.1.weight": "encoder.b2.act.weight",
            "network.encoder.down3.branches.3.weight": "encoder.level3_0.d8.conv.weight",
            "network.encoder.blocks2.1.norm.0.running_mean": "encoder.level2.1.bn.bn.running_mean",
            "outputs.decoder.score3.2.weight": "up_l3.0.weight",
            "outputs.decoder.fuse2.2.weight": "up_l2.0.weight",
            "outputs.decoder.fuse2.3.0.weight": "up_l2.1.bn.weight",
            "outputs.decoder.fuse1.2.weight": "conv.act.weight",
            "outputs.classifiers.0.module.weight": "classifier.weight",
        },
    ),
}
"""Network -> its config, the official names and shapes, their number of classes, those that have no place here, some places."""


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_official_tensor_lands_where_it_belongs(name: str) -> None:
    config, shapes, num_classes, nowhere, places = OFFICIAL[name]
    model = model_of(config, a=num_classes)
    content = numbered(shapes)
    report = load(model, config, {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in content.items()}})
    state = model.state_dict()
    assert report.missing == ()
    assert [key.removeprefix("module.") for key in report.skipped] == nowhere
    assert report.loaded.keys() == state.keys()
    assert len(set(report.loaded.values())) == len(state)
    assert report.num_parameters[0] == report.num_parameters[1] == sum(parameter.numel() for parameter in model.parameters())
    assert "state_dict" in report.form
    for ours, official in report.loaded.items():
        assert (state[ours] == content[official.removeprefix("module.")].flatten()[0]).all()
    for ours, official in places.items():
        assert report.loaded[ours] == f"module.{official}"


@pytest.mark.parametrize("name", OFFICIAL)
def test_with_other_classes_the_classifier_is_left_and_told(name: str) -> None:
    config, shapes, num_classes, nowhere, _ = OFFICIAL[name]
    model = model_of(config, a=num_classes + 1, b=num_classes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load(model, config, numbered(shapes))
    # ESPNet's decoder is as wide as its classes.
    assert all(key.startswith("outputs." if name == "espnet" else "outputs.classifiers.0.") for key in report.missing)
    assert "as initialised: outputs.classifiers" in report.text
    for key in report.missing:
        assert torch.equal(model.state_dict()[key].view(torch.uint8), before[key].view(torch.uint8))
    if name == "espnet":
        assert "another shape: (20, 256, 1, 1) found, expected (21, 256, 1, 1)" in report.text
    else:  # the classifier of as many classes has it
        assert list(report.skipped) == nowhere
        assert any(key.startswith("outputs.classifiers.1.") for key in report.loaded)


def test_the_first_weights_of_the_deeplab_family_have_a_prefix() -> None:
    config = config_of("deeplabv2")
    model = model_of(config, a=19)
    report = fit(model, config, {f"Scale.{key}": value for key, value in numbered(deeplab(21)).items()}, "imagenet").report
    assert {key.rpartition(".")[0] for key in report.skipped} == {f"Scale.layer5.conv2d_list.{i}" for i in range(4)}
    assert report.form == "ClassMix, DACS and AdaptSegNet"
    assert report.notes == ("these weights were trained with model.normalise=caffe, this model has imagenet",)
    without_prefix = fit(model, config, numbered(deeplab(21)), "caffe").report
    assert without_prefix.form == report.form
    assert without_prefix.notes == ()


def test_encoders_alone() -> None:
    encoder = {key: value for key, value in numbered(erfnet()).items() if key.startswith("encoder.") and "output_conv" not in key}
    on_imagenet = {f"module.features.{key}": value for key, value in encoder.items()} | {"module.classifier.linear.bias": torch.ones(1000)}
    for name in ("erfnet", "igumnet"):
        config = config_of(name)
        report = fit(model_of(config, a=5), config, on_imagenet).report
        assert len(report.loaded) == len(encoder)
        assert list(report.skipped) == ["module.classifier.linear.bias"]
    esp = {key.removeprefix("encoder."): value for key, value in numbered(espnet()).items() if key.startswith("encoder.")}
    config = config_of("espnet", q=3)
    report = fit(model_of(config, a=20), config, esp).report
    assert len(report.loaded) == len(esp)
    drn = {key.removeprefix("network.encoder."): value for key, value in model_of(config_of("gunet"), a=2).state_dict().items()}
    drn = numbered({key: tuple(value.shape) for key, value in drn.items() if key.startswith("layer")})
    config = config_of("gunet")
    assert len(fit(model_of(config, a=2), config, drn).report.loaded) == len(drn)


@pytest.mark.parametrize(
    ("config", "encoder"),
    [
        (config_of("swiftnet"), "resnet18"),
        (config_of("swiftnet", encoder="resnext50_32x4d"), "resnext50_32x4d"),
        (config_of("swiftnet", encoder="convnext_tiny"), "convnext_tiny"),
        (config_of("deeplabv2", normalise="imagenet"), "resnet101"),
        (config_of("dilated_resnet50", normalise="imagenet"), "resnet50"),
    ],
)
def test_torchvisions_weights_fill_the_encoder(config: NetworkConfig, encoder: str) -> None:
    model = model_of(config, a=3)
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in get_model(encoder, weights=None).state_dict().items()}
    content = numbered(shapes)
    report = load(model, config, content)
    assert report.form == f"torchvision's {encoder}"
    state = model.state_dict()
    assert set(report.loaded) == {key for key in state if key.startswith("network.encoder.")}
    assert all(key.startswith(("fc.", "classifier.")) for key in report.skipped)
    for ours, theirs in report.loaded.items():
        assert ours == f"network.encoder.{theirs}"
        assert (state[ours] == content[theirs].flatten()[0]).all()


def test_a_layer_is_taken_whole_or_not_at_all() -> None:
    """iGUM-Net's classifier has as many biases as ERFNet's, and other weights."""
    config = config_of("igumnet")
    report = fit(model_of(config, a=20), config, numbered(erfnet())).report
    assert {"outputs.classifiers.0.module.weight", "outputs.classifiers.0.module.bias"} <= set(report.missing)
    assert report.skipped["decoder.output_conv.bias"] == "another shape: that of decoder.output_conv.weight"


def test_the_wrong_depth_is_told_in_few_lines() -> None:
    config = config_of("swiftnet")
    content = get_model("resnet50", weights=None).state_dict()
    report = fit(model_of(config, a=2), config, content).report
    assert len(report.skipped) > 100
    assert len(report.text.splitlines()) < 30
    assert "groups of names more" in report.text
    assert report.notes == ("23 of 100 tensors of the encoder are not from the file; are its weights of another architecture?",)


names = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=4).map(".".join)


@given(st.sets(names, min_size=1, max_size=12), st.data())
def test_groups_hold_the_chosen_names_and_no_other(all_names: set[str], data: st.DataObject) -> None:
    all_names = {name for name in all_names if not any(other.startswith(f"{name}.") for other in all_names)}
    chosen = data.draw(st.sets(st.sampled_from(sorted(all_names))))
    found = 0
    for text, first in _groups(sorted(chosen), sorted(all_names)):
        group = text.partition(" ")[0]
        inside = {name for name in all_names if name == group or name.startswith(f"{group}.")}
        assert inside <= chosen
        assert first in inside
        found += len(inside)
    assert found == len(chosen)


def test_weights_of_another_network_are_an_error() -> None:
    config = config_of("swiftnet")
    with pytest.raises(InputError, match="none of its tensors fits this model"):
        fit(model_of(config, a=2), config, {"a.weight": torch.ones(2)})
    with pytest.raises(InputError, match="no tensors with names found"):
        fit(model_of(config, a=2), config, [1, 2])
    broken = dict(model_of(config, a=2).state_dict())
    broken["network.encoder.conv1.weight"] = torch.full((64, 3, 7, 7), torch.nan)
    with pytest.raises(InputError, match=r"conv1\.weight holds values that are no numbers"):
        fit(model_of(config, a=2), config, broken)


@pytest.mark.proof
@pytest.mark.skipif(not ESPNET_FILE.is_file(), reason="the official weights are not here")
def test_the_official_file_of_espnet_fits() -> None:
    config = config_of("espnet", decoder_width=12, normalise="camvid")
    report = fit(model_of(config, camvid=12), config, read_weights(ESPNET_FILE), "camvid").report
    assert report.missing == ()
    assert not report.skipped
    assert report.notes == ()
