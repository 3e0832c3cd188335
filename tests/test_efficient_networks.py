"""The six efficient networks of paper 002, beside the battery that runs over every network: counts, arithmetic, official weights."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import head_of, view_of
from torch import Tensor, nn

from data.errors import InputError
from data.shards import ShardSplit
from data.transforms import CropConfig
from models.model import SegmentationModel, build_model
from models.networks import NetworkConfig, build_network
from models.networks.base import resize
from models.networks.blocks import ConvBesidePool
from models.networks.drn import DRND22
from models.networks.edanet import EDANet, EDANetConfig
from models.networks.enet import ENet, ENetConfig, largest_of_four, max_unpool
from models.networks.erfnet import ERFNet, ERFNetConfig, official_erfnet_key
from models.networks.espnet import Esp, ESPNet, ESPNetConfig, official_espnet_key
from models.networks.gum import guided_upsample
from models.networks.gunet import GUNet, GUNetConfig
from models.networks.igumnet import IGUMNet, IGUMNetConfig
from models.outputs.multihead import MultiHeadConfig
from taxomix import main
from trainers.evaluation import all_scores, evaluate
from trainers.ranks import Ranks

SHARED = Path(os.environ.get("TAXOMIX_DATA", Path(__file__).parents[2] / "shared" / "data"))
CAMVID = SHARED / "camvid11"
CAMVID_WEIGHTS = SHARED.parent / "weights" / "espnet_p2q8_camvid.pth"

ENET, ERFNET, EDANET = ENetConfig(name="enet"), ERFNetConfig(name="erfnet"), EDANetConfig(name="edanet")
ESPNET, GUNET, IGUMNET = ESPNetConfig(name="espnet"), GUNetConfig(name="gunet"), IGUMNetConfig(name="igumnet")


def model_of(config: NetworkConfig, **num_classes: int) -> SegmentationModel:
    torch.manual_seed(0)
    return build_model(config, MultiHeadConfig(name="multihead"), {name: view_of(number) for name, number in num_classes.items()})


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config", "num_classes", "total", "encoder"),
    [
        (ENET, 19, 364_311, 338_156),
        (ERFNET, 19, 2_064_191, 2_064_191 - 190_147),
        (ESPNET, 19, 363_462, 349_193 - 256 * 19),
        (ESPNET, 20, 365_109, 349_193 - 256 * 19),
        (replace(ESPNET, q=3), 19, 201_542, None),
        (replace(ESPNET, p=5, q=3), 19, 225_158, None),
        (EDANET, 19, 689_485, None),
        (replace(EDANET, bias=False), 19, 686_679, None),
        (GUNET, 19, 16_582_853, 15_880_752),
        (IGUMNET, 19, 1_969_425, 2_064_191 - 190_147),
    ],
)
def test_number_of_parameters(config: NetworkConfig, num_classes: int, total: int, encoder: int | None) -> None:
    """Those of the official codes, counted there; of GUNet and iGUM-Net, which are reconstructions, what their docstrings say."""
    model = model_of(config, a=num_classes)
    assert size_of(model) == total
    assert encoder is None or size_of(model.network.encoder) == encoder


@pytest.mark.parametrize(
    ("config", "per_class"),
    [(ENET, 65), (ERFNET, 65), (ESPNET, 4 * 43), (EDANET, 451), (replace(EDANET, bias=False), 450), (GUNET, 129), (IGUMNET, 129)],
)
@pytest.mark.parametrize("num_classes", [4, 19, 43])
def test_one_more_dataset_adds_its_last_layer_alone(config: NetworkConfig, per_class: int, num_classes: int) -> None:
    more, fewer = model_of(config, a=43, b=num_classes), model_of(config, a=43)
    assert size_of(more) - size_of(fewer) == per_class * num_classes


# ENet


@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_unpooling_is_that_of_torch(n: int, channels: int, height: int, width: int, seed: int) -> None:
    """Equal values in a 2x2 are frequent here, too; the first of them counts."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 2, (n, channels, 2 * height, 2 * width), generator=generator).float()
    values = torch.randn(n, channels, height, width, generator=generator)
    found = max_unpool(values, largest_of_four(x))
    if n:
        _, indices = F.max_pool2d(x, 2, return_indices=True)
        assert torch.equal(found, F.max_unpool2d(values, indices, 2))
    assert found.shape == x.shape


def test_unpooling_has_the_gradient_of_its_values() -> None:
    largest = torch.tensor([[[[0, 3], [2, 1]]]], dtype=torch.uint8)
    values = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: max_unpool(x, largest), values)


def test_enet_narrows_to_a_quarter_of_what_a_block_gives() -> None:
    model = model_of(ENET, a=19)
    encoder, decoder = model.network.encoder, model.outputs.decoder
    assert [encoder.down1.main[0].out_channels, encoder.down2.main[0].out_channels] == [16, 32]
    assert [decoder.up4.main[0].out_channels, decoder.up5.main[0].out_channels] == [16, 4]
    middles = [block.main[3] for block in encoder.stage2]
    assert [m.dilation[0] if isinstance(m, nn.Conv2d) else [p.kernel_size for p in m] for m in middles] == [
        *(1, 2, [(1, 5), (5, 1)], 4, 1, 8, [(1, 5), (5, 1)], 16)
    ]
    assert all(part.eps == 1e-3 for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    assert [part.p for part in encoder.modules() if isinstance(part, nn.Dropout2d)] == [0.01] * 5 + [0.1] * 17
    assert not any(isinstance(part, nn.PReLU | nn.Dropout2d) for part in model.outputs.modules())
    assert all(part.num_parameters > 1 for part in encoder.modules() if isinstance(part, nn.PReLU))


# ERFNet


def official_erfnet_keys() -> Iterator[str]:
    """Of the official state dicts, as DataParallel saves them."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    resizing = [f"conv.{name}" for name in ("weight", "bias")] + [f"bn.{name}" for name in norm]
    convs = [f"conv{kernel}_{i}.{name}" for kernel in ("3x1", "1x3") for i in (1, 2) for name in ("weight", "bias")]
    block = convs + [f"bn{i}.{name}" for i in (1, 2) for name in norm]
    yield from (f"module.encoder.initial_block.{name}" for name in resizing)
    for part, number, changing in (("encoder", 15, (0, 6)), ("decoder", 6, (0, 3))):
        for layer in range(number):
            yield from (f"module.{part}.layers.{layer}.{name}" for name in (resizing if layer in changing else block))
        yield from (f"module.{part}.output_conv.{name}" for name in ("weight", "bias"))


def our_keys(network: nn.Module, num_classes: int) -> set[str]:
    parts = dict(zip(("decoder", "classifier"), head_of(network, num_classes), strict=True))
    return {*network.state_dict(), *(f"{part}.{key}" for part, module in parts.items() for key in module.state_dict())}


def test_every_official_key_of_erfnet_has_its_place() -> None:
    ours = {key: official_erfnet_key(key) for key in official_erfnet_keys()}
    assert [key for key, our in ours.items() if our is None] == [f"module.encoder.output_conv.{name}" for name in ("weight", "bias")]
    places = [our for our in ours.values() if our is not None]
    assert len(places) == len(set(places))
    assert set(places) == our_keys(ERFNet(ERFNET), 20)


def test_weights_of_imagenet_fill_the_encoder_of_erfnet() -> None:
    theirs = [key.replace("module.", "module.features.") for key in official_erfnet_keys() if "module.encoder.l" in key or "initial" in key]
    assert {official_erfnet_key(key) for key in theirs} == set(ERFNet(ERFNET).state_dict())
    assert official_erfnet_key("module.classifier.linear.weight") is None


def test_erfnet_dilates_the_second_pair_and_drops_out_in_the_encoder() -> None:
    model = model_of(ERFNET, a=19)
    blocks = [layer for layer in model.network.encoder.layers if hasattr(layer, "conv3x1_2")]
    assert [block.conv3x1_2.dilation for block in blocks] == [(d, 1) for d in (1, 1, 1, 1, 1, 2, 4, 8, 16, 2, 4, 8, 16)]
    assert [block.conv1x3_2.dilation for block in blocks] == [(1, d) for d in (1, 1, 1, 1, 1, 2, 4, 8, 16, 2, 4, 8, 16)]
    assert all(block.conv3x1_1.dilation == block.conv1x3_1.dilation == (1, 1) for block in blocks)
    assert [block.dropout.p for block in blocks] == [0.03] * 5 + [0.3] * 8
    assert not any(isinstance(part, nn.Dropout2d) for part in model.outputs.modules())
    assert all(part.eps == 1e-3 for part in model.modules() if isinstance(part, nn.BatchNorm2d))


# ESPNet


def test_the_branches_of_a_pyramid_are_summed_one_by_one() -> None:
    esp = Esp(3, 5)
    esp.norm = nn.Identity()
    esp.reduce.weight.data.fill_(1.0)
    for exponent, branch in enumerate(esp.branches):
        branch.weight.data.zero_()
        branch.weight.data[:, :, 1, 1] = 10.0**exponent
    x = torch.full((1, 3, 2, 2), 1 / 3)
    torch.testing.assert_close(esp(x)[0, :, 0, 0], torch.tensor([1.0, 10.0, 110.0, 1110.0, 11110.0]))
    assert [branch.dilation[0] for branch in esp.branches] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(("num_classes", "width"), [(2, 5), (4, 5), (5, 5), (9, 9), (43, 43)])
def test_the_decoder_of_espnet_is_as_wide_as_it_has_classes_and_5_at_least(num_classes: int, width: int) -> None:
    model = model_of(ESPNET, a=num_classes, b=2).eval()
    assert [conv.module.weight.shape for conv in model.outputs.classifiers] == [(width, num_classes, 2, 2), (width, 2, 2, 2)]
    logits = model(torch.randint(0, 256, (1, 3, 33, 40), dtype=torch.uint8), dict.fromkeys("ab", torch.tensor([0])))
    assert [tuple(values.shape) for values in logits.values()] == [(1, num_classes, 33, 40), (1, 2, 33, 40)]


def test_the_width_of_the_decoder_of_espnet_may_be_chosen() -> None:
    model = model_of(replace(ESPNET, decoder_width=16), a=104, b=4)
    assert [conv.module.weight.shape[:2] for conv in model.outputs.classifiers] == [(16, 104), (16, 4)]
    with pytest.raises(InputError, match=r"^decoder_width: 4 found, expected at least 5; raise it"):
        replace(ESPNET, decoder_width=4)
    with pytest.raises(InputError, match=r"^q: 0 found, expected at least 1; raise it"):
        replace(ESPNET, q=0)


def test_decoders_of_espnet_of_their_own_have_classifiers_of_their_width() -> None:
    network, counts = ESPNet(ESPNET).eval(), (7, 2, 19)
    pairs = [head_of(network, c) for c in counts]
    features = network(torch.randn(1, 3, 32, 32))
    assert [classifier(decoder.eval()(features)).shape[1] for decoder, classifier in pairs] == list(counts)


def official_espnet_keys(p: int, q: int) -> Iterator[str]:
    norm = [f"bn.{name}" for name in ("weight", "bias", "running_mean", "running_var")] + ["act.weight"]
    convs = [f"{name}.conv.weight" for name in ("c1", "d1", "d2", "d4", "d8", "d16")]
    block = convs + [f"bn.{name}" for name in norm]
    yield from (f"encoder.{name}" for name in ["level1.conv.weight", *(f"level1.{name}" for name in norm), "classifier.conv.weight"])
    yield from (f"encoder.b{i}.{name}" for i in (1, 2, 3) for name in norm)
    yield from (f"encoder.level{i}_0.{name}" for i in (2, 3) for name in convs + norm)
    yield from (f"encoder.level{i}.{n}.{name}" for i, number in ((2, p), (3, q)) for n in range(number) for name in block)
    yield from ("level3_C.conv.weight", "up_l3.0.weight", "up_l2.0.weight", "classifier.weight", "conv.conv.weight")
    yield from (name.replace("bn.", "br.") for name in norm[:-1])
    yield from (f"{part}.{name}" for part in ("conv", "up_l2.1", "combine_l2_l3.0") for name in norm)
    yield from (f"combine_l2_l3.1.{name}" for name in block)


@pytest.mark.parametrize(("p", "q"), [(2, 8), (5, 3)])
def test_every_official_key_of_espnet_has_its_place(p: int, q: int) -> None:
    ours = [official_espnet_key(key) for key in official_espnet_keys(p, q)]
    assert len(ours) == len(set(ours))
    counts = {key for key in our_keys(ESPNet(replace(ESPNET, p=p, q=q)), 12) if key.endswith("num_batches_tracked")}
    assert {*ours, *counts} == our_keys(ESPNet(replace(ESPNET, p=p, q=q)), 12)
    assert official_espnet_key("nothing.weight") is None


def test_espnet_takes_what_the_official_code_reads() -> None:
    """BGR, less the mean, over the deviation, over 255."""
    rgb = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    bgr = rgb.flip(1).float()
    for choice, mean, std in (
        ("camvid", (110.205, 108.372, 104.955), (78.249, 79.364, 78.241)),
        ("cityscapes", (72.3923111, 82.90893555, 73.15840149), (45.3192215, 46.15289307, 44.91483307)),
    ):
        expected = (bgr - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1) / 255
        torch.testing.assert_close(model_of(replace(ESPNET, normalise=choice), a=5).normalise(rgb), expected)


@pytest.mark.parametrize("config", [ENET, ERFNET, EDANET])
def test_the_others_take_rgb_in_0_to_1(config: NetworkConfig) -> None:
    rgb = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(model_of(config, a=5).normalise(rgb), rgb.float() / 255)
    shown = model_of(replace(config, normalise="imagenet"), a=5).normalise(rgb)
    expected = (rgb.float() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    torch.testing.assert_close(shown, expected)


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.skipif(not (CAMVID.is_dir() and CAMVID_WEIGHTS.is_file()), reason=f"no {CAMVID} or no {CAMVID_WEIGHTS}; see TAXOMIX_DATA")
def test_official_weights_give_the_official_scores(tmp_path: Path) -> None:
    """ESPNet's weights for CamVid have a twelfth output, for void pixels; these are scored nowhere, but may be predicted."""
    assert main(["prepare", "dataset=folder", f"source={CAMVID}", f"out={tmp_path}", "workers=1"]) == 0
    split = ShardSplit(tmp_path / "camvid11", "val")
    classes = split.label_space.view()
    outputs = replace(classes, names=(*classes.names, "void"), colors=(*classes.colors, (0, 0, 0)), native_ids=(*classes.native_ids, 11))
    model = build_model(replace(ESPNET, normalise="camvid"), MultiHeadConfig(name="multihead"), {"camvid11": outputs})
    state = model.state_dict()
    places = {"encoder": "network.encoder", "decoder": "outputs.decoder", "classifier": "outputs.classifiers.0"}
    for key, value in torch.load(CAMVID_WEIGHTS, map_location="cpu", weights_only=True).items():
        part, _, rest = str(official_espnet_key(key)).partition(".")
        state[f"{places[part]}.{rest}"] = value
    model.load_state_dict(state)
    matrices = evaluate(model, {"camvid11": split}, {"camvid11": CropConfig(size=(360, 480))}, Ranks())
    iou = all_scores(model, matrices)["camvid11"].iou[:11]
    official = [0.9442, 0.8453, 0.1006, 0.9650, 0.8595, 0.9053, 0.3444, 0.7038, 0.8019, 0.4160, 0.6520]
    np.testing.assert_allclose(iou, official, atol=2e-4)
    assert float(np.mean(iou)) == pytest.approx(0.6853, abs=1e-4)


# EDANet


def test_edanet_grows_densely() -> None:
    network = EDANet(EDANET).eval()
    x = torch.randn(1, 3, 32, 32)
    channels = []
    for layer in network.encoder:
        before, x = x, layer(x)
        channels.append(x.shape[1])
        if not isinstance(layer, ConvBesidePool):
            assert torch.equal(x[:, 40:], before)
    assert channels == [15, 60, 100, 140, 180, 220, 260, 130, 170, 210, 250, 290, 330, 370, 410, 450]
    dilated = [module.layers[7].dilation[0] for module in network.encoder if hasattr(module, "layers")]
    assert dilated == [1, 1, 1, 2, 2, 2, 2, 4, 4, 8, 8, 16, 16]


def test_edanet_keeps_corners() -> None:
    logits = torch.randn(1, 2, 4, 5)
    large = EDANet.upsample(logits, (), (32, 40))
    assert torch.equal(large[..., [0, 0, -1, -1], [0, -1, 0, -1]], logits[..., [0, 0, -1, -1], [0, -1, 0, -1]])


def test_without_bias_edanet_has_none() -> None:
    model = model_of(replace(EDANET, bias=False), a=19)
    assert all(part.bias is None for part in model.modules() if isinstance(part, nn.Conv2d))


# DRN, GUNet, iGUM-Net


def test_drn_d_22_has_the_official_layers() -> None:
    drn = DRND22()
    layers = [getattr(drn, f"layer{i}") for i in range(9)]
    assert [size_of(layer) for layer in layers] == [2_384, 2_336, 4_672, 131_712, 525_568, 2_099_712, 8_393_728, 2_360_320, 2_360_320]
    convs = [[part for part in layer.modules() if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1)] for layer in layers]
    assert [{conv.dilation[0] for conv in of_layer} for of_layer in convs] == [{1}, {1}, {1}, {1}, {1}, {2}, {4}, {2}, {1}]
    assert drn.eval()(torch.randn(1, 3, 32, 48)).shape == (1, 512, 4, 6)
    assert {"layer0.0.weight", "layer4.0.downsample.1.bias", "layer6.1.bn2.running_var", "layer8.1.weight"} <= set(drn.state_dict())


def test_both_branches_of_gunet_share_their_weights() -> None:
    """The small image alone reaches the deep layers, and both images the shallow ones."""
    network = GUNet(GUNET).eval()
    seen: list[tuple[int, ...]] = []
    network.encoder.layer0.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    network.encoder.layer8.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    fused, offsets = network(torch.randn(2, 3, 64, 96))
    assert seen == [(2, 3, 32, 48), (2, 512, 4, 6), (2, 3, 64, 96)]
    assert (fused.shape, offsets.shape) == ((2, 128, 8, 12), (2, 2, 32, 48))


def slow_guided_upsample(maps: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """The formula of the papers, cell by cell; positions outside of the map are brought to its border."""
    (height, width), (rows, columns) = size, maps.shape[2:]
    out = maps.new_zeros(*maps.shape[:2], *size)
    for i, row, column in product(range(len(maps)), range(height), range(width)):
        p, q = offsets[i, :, row, column].tolist()
        x = min(max((column + 0.5) * columns / width - 0.5 + p, 0.0), columns - 1.0)
        y = min(max((row + 0.5) * rows / height - 0.5 + q, 0.0), rows - 1.0)
        for n, m in product(range(rows), range(columns)):
            out[i, :, row, column] += maps[i, :, n, m] * max(0.0, 1 - abs(x - m)) * max(0.0, 1 - abs(y - n))
    return out


sides = st.integers(1, 4)


@given(sides, sides, st.integers(1, 7), st.integers(1, 7), st.floats(0, 3), st.integers(0, 2**31))
def test_guided_upsampling_is_the_formula(rows: int, columns: int, height: int, width: int, strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 2, rows, columns, dtype=torch.float64, generator=generator)
    offsets = strength * torch.randn(2, 2, height, width, dtype=torch.float64, generator=generator)
    found = guided_upsample(maps, offsets, (height, width))
    torch.testing.assert_close(found, slow_guided_upsample(maps, offsets, (height, width)))


@given(sides, sides, st.integers(1, 40), st.integers(1, 40))
def test_without_offsets_guided_upsampling_is_bilinear(rows: int, columns: int, height: int, width: int) -> None:
    maps = torch.randn(1, 3, rows, columns, dtype=torch.float64)
    found = guided_upsample(maps, torch.zeros(1, 2, 3, 5), (height, width))
    torch.testing.assert_close(found, F.interpolate(maps, (height, width), mode="bilinear"))


def test_offsets_move_what_is_read_and_are_enlarged_themselves() -> None:
    maps = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    offsets = torch.zeros(1, 2, 2, 2)
    offsets[:, 0] = 1.0
    plain, moved = (guided_upsample(maps, o, (16, 16)) for o in (torch.zeros_like(offsets), offsets))
    torch.testing.assert_close(moved[..., :13], plain[..., :13] + 1 - 0.25 * (torch.arange(13) == 0))  # the border is no slope
    assert torch.equal(moved[..., -2:], torch.full((1, 1, 16, 2), 7.0))


def test_offsets_have_gradients() -> None:
    maps = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    offsets = (0.2 * torch.randn(1, 2, 5, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, o: guided_upsample(m, o, (5, 6)), (maps, offsets))


def test_guided_upsampling_is_exact_in_bfloat16_too() -> None:
    maps, offsets = torch.randn(1, 2, 8, 16, dtype=torch.bfloat16), torch.randn(1, 2, 8, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = guided_upsample(maps, offsets, (64, 128))
    torch.testing.assert_close(found, guided_upsample(maps.float(), offsets.float(), (64, 128)))
    assert guided_upsample(maps[:0], offsets[:0], (64, 128)).shape == (0, 2, 64, 128)


@pytest.mark.parametrize("config", [GUNET, IGUMNET])
def test_guided_networks_begin_as_bilinear_ones_and_learn_to_differ(config: GUNetConfig | IGUMNetConfig) -> None:
    torch.manual_seed(0)
    network = build_network(config).train()
    features = network(torch.randn(2, 3, 64, 96))
    assert not features[1].any()
    decoder, classifier = head_of(network, 5)
    logits = classifier(decoder(features))
    enlarged = network.upsample(logits, features, (64, 96))
    torch.testing.assert_close(enlarged, resize(logits, (64, 96)))
    F.cross_entropy(enlarged, torch.randint(0, 5, (2, 64, 96))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.guidance[-1].weight.grad.any()


def test_enet_and_the_others_are_found_by_name() -> None:
    kinds = {"enet": ENet, "erfnet": ERFNet, "espnet": ESPNet, "edanet": EDANet, "gunet": GUNet, "igumnet": IGUMNet}
    for config in (ENET, ERFNET, ESPNET, EDANET, GUNET, IGUMNET):
        assert type(build_network(config)) is kinds[config.name]
