"""Exported models: sizes as arithmetic, equals of what cannot be exported, comparison, and the files in other runtimes."""

import io
import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_merging import forced_taxonomy
from tiny import draw_disks
from torch import Tensor, nn

import conf
from data.config import build, to_plain
from data.errors import InputError
from data.labels import View
from data.streets.labels import STREET_SPACES
from data.transforms import CropConfig, Interpolation, ResizeConfig, resize_image, whole_size
from models.deploy import DeployedModel, ExportablePyramid, Shown, adaptive_mean, resize_pictures, round_div, round_up
from models.formats import METADATA_KEY, FormatName, TorchScriptDraft, draft, open_file
from models.model import SegmentationModel, build_model
from models.networks import NetworkConfig
from models.networks.base import Features, FirstMap, Network, Normalisation
from models.networks.swiftnet import SpatialPyramidPooling
from models.outputs import MultiHeadConfig, OutputsConfig, build_outputs
from taxomix import main
from trainers.agreement import compare, equal_to_predict, make_batches
from trainers.export import fingerprint, shown_like

INTERPOLATIONS: tuple[Interpolation, ...] = ("linear", "cubic", "area", "pil_linear", "pil_cubic")


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_whole_numbers_round_as_python_does(a: int, b: int) -> None:
    assert round_div(a, b) == round(a / b)
    assert round_up(a, b) % b == 0
    assert 0 <= round_up(a, b) - a < b


resizes = st.builds(
    ResizeConfig,
    size=st.tuples(st.integers(32, 900), st.integers(32, 900)),
    mode=st.sampled_from(["exact", "fit", "cover"]),
)


@given(st.integers(1, 3000), st.integers(1, 3000), resizes | st.none(), st.sampled_from([0.25, 0.5, 0.7, 1.0, 1.5]))
def test_pictures_are_shown_at_the_size_of_evaluation(height: int, width: int, resize: ResizeConfig | None, scale: float) -> None:
    """Exactly, but for halves: of 45 rows 0.7 are 31.5, which a float is a little below."""
    scale = scale if resize is None else 1.0
    crop = CropConfig(size=(64, 64), resize=resize)
    found = shown_like(crop, scale).size(height, width)
    expected = whole_size(crop, height, width, input_scale=scale)
    close = resize is not None and resize.mode != "exact"
    halves = [abs(side * scale % 1 - 0.5) < 1e-9 for side in (height, width)]
    for one, other, may_differ in zip(found, expected, halves if not close else _halves(resize, height, width), strict=True):
        assert abs(one - other) <= may_differ


def _halves(resize: ResizeConfig | None, height: int, width: int) -> list[bool]:
    assert resize is not None
    sides = resize.size[1] / width * height, resize.size[0] / height * width
    return [abs(side % 1 - 0.5) < 1e-9 for side in sides]


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 12), st.integers(1, 20))
def test_pooling_by_matrices_is_adaptive_pooling(height: int, width: int, rows: int, columns: int) -> None:
    x = torch.rand(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(adaptive_mean(x, (rows, columns)), F.adaptive_avg_pool2d(x, (rows, columns)))
    torch.testing.assert_close(adaptive_mean(x.float(), (rows, columns)), F.adaptive_avg_pool2d(x.float(), (rows, columns)))


@given(st.integers(1, 40), st.integers(1, 80), st.sampled_from([(8, 4, 2), (8, 4, 2, 1), (3, 5)]))
def test_the_exportable_pyramid_is_the_pyramid(height: int, width: int, grids: tuple[int, ...]) -> None:
    torch.manual_seed(height * width)
    pyramid = SpatialPyramidPooling(6, grids).eval()
    x = torch.randn(1, 6, height, width)
    with torch.no_grad():
        torch.testing.assert_close(ExportablePyramid(pyramid)(x), pyramid(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(36, 48), (31, 80), (100, 97)])
def test_resizing_inside_is_resizing_outside(interpolation: Interpolation, size: tuple[int, int]) -> None:
    if interpolation == "area" and size == (100, 97):
        size = (72, 96)
    image, _, _ = draw_disks(np.random.default_rng(0))
    found = resize_pictures(torch.from_numpy(image).permute(2, 0, 1)[None], size, interpolation)[0].permute(1, 2, 0).numpy()
    difference = np.abs(found - resize_image(image, size, interpolation))
    assert difference.max() <= (1.6 if interpolation.startswith("pil") else 1.01)  # Pillow rounds twice
    assert difference.mean() < 0.5


def test_area_that_may_grow_is_refused() -> None:
    Shown(interpolation="area")
    Shown(interpolation="area", scale=0.5)
    for crop, scale in ((CropConfig(size=(64, 64), interpolation="area"), 1.5), (_area_crop(), 1.0)):
        with pytest.raises(InputError, match=r"data\.crop\.interpolation: area found"):
            shown_like(crop, scale)


def _area_crop() -> CropConfig:
    return CropConfig(size=(64, 64), resize=ResizeConfig(size=(64, 64)), interpolation="area")


SPACES = {name: STREET_SPACES[name].label_space for name in ("streets_coarse", "streets_fine", "streets_signs")}
VOID_IDS = {name: space.void_id for name, space in SPACES.items()}
TAXONOMY = forced_taxonomy(
    {name: space.view() for name, space in SPACES.items()},
    ("streets_fine/car < streets_coarse/vehicle", "streets_fine/tree < streets_coarse/vegetation", "streets_fine/sky = streets_coarse/sky"),
)
NETWORKS = conf.choices("model")
OUTPUTS = {
    "multihead": {"name": "multihead"},
    "repeated": {"name": "multihead", "decoder": "repeated"},
    "concat": {"name": "concat"},
    "all": {"name": "concat", "predict": "all"},
    "winner": {"name": "concat", "predict": "all", "merge": "winner", "taxonomy": to_plain(TAXONOMY)},
    "logits": {"name": "concat", "merge": "logits", "taxonomy": to_plain(TAXONOMY)},
    "universal": {"name": "universal", "universe": "streets"},
    "joint": {"name": "hierarchy", "tree": "streets"},
    "greedy": {"name": "hierarchy", "tree": "streets", "rule": "greedy"},
    "learned": {"name": "learned"},
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    model: NetworkConfig
    outputs: OutputsConfig


def make_model(network: str, outputs: str = "multihead") -> SegmentationModel:
    """Of a file in conf/model; with statistics of some pictures, so that logits differ from pixel to pixel."""
    entry = yaml.safe_load((conf.FOLDER / "model" / f"{network}.yaml").read_text())
    parts = build(Parts, {"model": entry, "outputs": OUTPUTS[outputs]})
    torch.manual_seed(0)
    model = build_model(parts.model, parts.outputs, {name: space.view() for name, space in SPACES.items()})
    with torch.no_grad():
        model(torch.cat(pictures()[:2]), dict.fromkeys(SPACES, torch.tensor([0, 1])))
    return model.eval()


def pictures() -> list[Tensor]:
    generator = np.random.default_rng(0)
    return make_batches([draw_disks(generator, size)[0] for size in ((72, 96), (72, 96), (97, 75))], None)


def deploy(model: SegmentationModel, *, scores: bool = False) -> DeployedModel:
    return DeployedModel(model, shown=dict.fromkeys(SPACES, Shown()), void_ids=VOID_IDS, scores=scores)


def test_batches_are_of_several_sizes() -> None:
    """Whole pictures, odd sizes lying and upright, two at once; with a size, that one."""
    image = np.zeros((360, 480, 3), np.uint8)
    shapes = [tuple(batch.shape) for batch in make_batches([image], None)]
    assert shapes == [(1, 3, 360, 480), (1, 3, 181, 321), (1, 3, 360, 161), (2, 3, 181, 241)]
    assert {tuple(batch.shape[2:]) for batch in make_batches([image, image], (64, 96))} == {(64, 96)}
    large = make_batches([np.zeros((3000, 4000, 3), np.uint8)], None)[0]
    assert 0.99 < large.shape[2] * large.shape[3] / 2**20 <= 1


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_a_deployed_model_is_the_model(outputs: str) -> None:
    model = make_model("edanet", outputs)
    found = compare(lambda images: deployed(images, logits=True), model, deployed := deploy(model, scores=True), pictures())
    assert found.largest_difference < 1e-5
    assert (found.beyond, found.equal_labels, found.images) == (0, 1, 7)
    out = deployed(pictures()[0])
    assert set(out) == set(deployed.output_names())
    for name, space in SPACES.items():
        label = out[f"labels_{name}"]
        assert label.dtype == torch.uint8
        assert set(label.unique().tolist()) <= {*space.view().native_ids, space.void_id}
        scores = out[f"scores_{name}"].sum(dim=1)
        assert scores.max() < 1 + 1e-5
        if outputs in ("multihead", "repeated", "concat"):
            torch.testing.assert_close(scores, torch.ones_like(scores))


def test_what_is_no_class_is_void() -> None:
    """With `predict: all`, a pixel that the model takes for another dataset's label."""
    model = make_model("edanet", "all")
    images = pictures()[0]
    out, logits = deploy(model)(images), model(images, dict.fromkeys(SPACES, torch.tensor([0])))
    for name in SPACES:
        is_none = model.outputs.predict(logits[name], name) == 255
        assert torch.equal(is_none, out[f"labels_{name}"] == VOID_IDS[name]) or not is_none.any()
    assert any((out[f"labels_{name}"] == VOID_IDS[name]).any() for name in SPACES)


def test_datasets_that_see_alike_share_one_pass() -> None:
    model = make_model("edanet")
    shown = {"streets_coarse": Shown(), "streets_fine": Shown(scale=0.5), "streets_signs": Shown()}
    deployed = DeployedModel(model, shown, VOID_IDS)
    passes: list[tuple[int, ...]] = []
    deployed.model.network.register_forward_pre_hook(lambda _, inputs: passes.append(tuple(inputs[0].shape)))
    found = compare(lambda images: deployed(images, logits=True), model, deployed, pictures()[:1])
    assert passes == [(1, 3, 72, 96), (1, 3, 40, 48)]
    assert found.equal_labels == 1


def shifted(model: DeployedModel, key: str, change: "dict[str, float]") -> object:
    def run(images: Tensor) -> dict[str, Tensor]:
        out = model(images, logits=True)
        for kind, by in change.items():
            value = out[f"{kind}_{key}"]
            value[:, ..., :5, :5] += torch.tensor(by).to(value.dtype)
        return out

    return run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": 1.0}, r"logits that differ by more than 0\.0001 of the largest at 0\.\d+ % of pixels found, where rounding makes 0 %"),
        ({"logits": float("nan")}, "logits that differ by more than"),
        ({"labels": 1.0}, "other labels at 25 pixels whose logits are the same found"),
        ({"scores": 0.01}, r"scores that differ by 0\.01 found"),
    ],
)
def test_a_difference_is_told(change: dict[str, float], message: str) -> None:
    model = make_model("edanet")
    deployed = deploy(model, scores=True)
    with pytest.raises(InputError, match=f"streets_fine, pictures of 96x72: {message}.*nothing is written"):
        compare(shifted(deployed, "streets_fine", change), model, deployed, pictures()[:1])


def test_other_shapes_are_told() -> None:
    model = make_model("edanet")
    deployed = deploy(model)

    def cut(images: Tensor) -> dict[str, Tensor]:
        return {name: value[..., :-1] for name, value in deployed(images, logits=True).items()}

    with pytest.raises(InputError, match=r"logits of \(1, 11, 72, 95\) in place of \(1, 11, 72, 96\) found"):
        compare(cut, model, deployed, pictures()[:1])


def test_labels_may_differ_where_two_classes_are_as_likely() -> None:
    model = make_model("edanet")
    last = model.outputs.classifiers[0].module
    with torch.no_grad():
        last.weight[1], last.bias[1] = last.weight[0], last.bias[0]
        last.bias[:2] += 10
    deployed = deploy(model)
    first, second = SPACES["streets_coarse"].view().native_ids[:2]

    def run(images: Tensor) -> dict[str, Tensor]:
        out = deployed(images, logits=True)
        assert set(out["labels_streets_coarse"].unique().tolist()) <= {first, second}
        out["labels_streets_coarse"] = torch.full_like(out["labels_streets_coarse"], second)
        return out

    assert compare(run, model, deployed, pictures()[:1]).equal_labels < 1


class Jumping(Network):
    """Jumps where u / 57.12 * 57.12 is no longer u, for 14 of 256 values of red on which float32 and float64 do not agree."""

    normalisation = Normalisation(mean=(0.0, 0.0, 0.0), std=(57.12, 1.0, 1.0))

    def forward(self, images: Tensor) -> Features:
        return (images + (images[:, :1] * 57.12 % 1).round(),)

    def make_decoder(self, num_classes: int) -> nn.Module:
        return nn.Identity()

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.Conv2d(3, num_classes, 1))


def test_a_network_that_jumps_may_jump_elsewhere_as_often() -> None:
    torch.manual_seed(0)
    view: View = SPACES["streets_coarse"].view()
    views = {"streets_coarse": view}
    model = SegmentationModel(network := Jumping(), build_outputs(MultiHeadConfig(name="multihead"), views, network)).eval()
    deployed = DeployedModel(model, {"streets_coarse": Shown()}, VOID_IDS)
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)

    def run(images: Tensor, share: float) -> dict[str, Tensor]:
        out = deployed(images, logits=True)
        out["logits_streets_coarse"][:, :, : int(64 * share)] += 1.0
        return out

    assert 0.01 < compare(lambda images: run(images, 0.05), model, deployed, [image]).beyond < 0.05
    with pytest.raises(InputError, match="where rounding makes"):
        compare(lambda images: run(images, 1.0), model, deployed, [image])


def test_a_fingerprint_is_of_names_and_values() -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}
    same = {"b": torch.tensor(3), "a": torch.arange(6.0).view(3, 2).t().contiguous().t().reshape(2, 3)}
    assert fingerprint(weights) == fingerprint(same)
    assert fingerprint(weights) != fingerprint({**weights, "b": torch.tensor(4)})
    assert fingerprint(weights) != fingerprint({"c": weights["a"], "b": weights["b"]})


def check_format(name: FormatName, network: str, outputs: str) -> None:
    model = make_model(network, outputs)
    deployed = deploy(model, scores=True)
    drafted = draft(name, deployed, size=None, opset=None)
    found = compare(drafted.run, model, deployed, pictures())
    assert found.equal_labels > 0.999
    run, metadata = open_file(name, drafted.finish({"a": 1}))
    assert metadata == {"a": 1}
    assert set(run(pictures()[0])) == set(deployed.output_names())


@pytest.mark.timeout(300)
def test_torchscript_of_enet_and_a_tree() -> None:
    check_format("torchscript", "enet", "greedy")


def test_a_trace_keeps_no_device() -> None:
    """A grid of the guided upsampling made on the CPU would end a model that was loaded onto a GPU."""
    drafted = TorchScriptDraft(deploy(make_model("igumnet", "greedy")), torch.zeros(2, 3, 97, 75, dtype=torch.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.jit.load(io.BytesIO(drafted.finish({}))).inlined_graph
    constants = [node.output() for node in graph.findAllNodes("prim::Constant")]
    assert not [value for value in constants if value.type().kind() == "DeviceObjType"]
    tensors = [value for value in constants if value.type().kind() == "TensorType" and value.type().dim()]
    assert all(use.user.kind() == "aten::to" for value in tensors for use in value.uses())


NO_TAXOMIX = """import sys, json, warnings
warnings.simplefilter('ignore')
for name in ('taxomix', 'data', 'models', 'trainers', 'conf'):
    sys.modules[name] = None
"""

LOAD_TORCHSCRIPT = f"""{NO_TAXOMIX}
import torch
extra = {{"{METADATA_KEY}.json": ""}}
model = torch.jit.load(sys.argv[1], _extra_files=extra)
about = json.loads(extra["{METADATA_KEY}.json"])
for size in ((1, 3, 75, 131), (2, 3, 64, 40)):
    with torch.no_grad():
        out = model(torch.zeros(*size, dtype=torch.uint8))
    for name, dataset in about["datasets"].items():
        label = out[dataset["labels"]]
        assert label.shape == (size[0], *size[2:]) and label.dtype == torch.uint8
        assert set(label.unique().tolist()) <= {{c["id"] for c in dataset["classes"]}}
print(json.dumps(about))
"""

LOAD_ONNX = f"""{NO_TAXOMIX}
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["{METADATA_KEY}"])
assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("images", "tensor(uint8)", ["batch", 3, "height", "width"])]
assert [o.shape for o in session.get_outputs()] == [["batch", "height", "width"]] * len(about["datasets"])
for size in ((1, 3, 75, 131), (2, 3, 64, 40)):
    out = session.run(None, {{"images": np.zeros(size, np.uint8)}})
    for (name, dataset), output, label in zip(about["datasets"].items(), session.get_outputs(), out):
        assert output.name == dataset["labels"]
        assert label.shape == (size[0], *size[2:]) and label.dtype == np.uint8
        assert set(np.unique(label).tolist()) <= {{c["id"] for c in dataset["classes"]}}
assert "torch" not in sys.modules
print(json.dumps(about))
"""


@pytest.fixture
def run(tiny_job: list[str], tmp_path: Path) -> Path:
    assert main([*tiny_job, "run.name=some", "loop.steps=2", "loop.overlays=0"]) == 0
    return tmp_path / "runs" / "some"


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "suffix", "script"), [("onnx", "onnx", LOAD_ONNX), ("torchscript", "pt", LOAD_TORCHSCRIPT)])
def test_a_run_is_exported_and_runs_without_taxomix(
    name: str, suffix: str, script: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", f"run={run}", f"format={name}"]) == 0
    path = run / "export" / f"some.{suffix}"
    printed = capsys.readouterr().out
    assert f"{path}: 4" in printed
    assert "compared on" in printed
    assert "labels are equal at 100 % of pixels, to those of predict at 100 %" in printed
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    result = subprocess.run(
        [sys.executable, "-I", "-c", script, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    about = json.loads(result.stdout)
    assert about["run"] == "some"
    assert about["step"] == 2
    assert about["network"]["name"] == "swiftnet"
    assert about["input"]["padded_inside_to_multiples_of"] == 1
    assert about["datasets"]["tones"]["classes"] == [
        {"id": 3, "name": "dark", "color": [10, 10, 10]},
        {"id": 7, "name": "colourful", "color": [250, 120, 0]},
    ]
    assert [dataset["void_id"] for dataset in about["datasets"].values()] == [255, 255, 255]
    assert about["compared"]["equal_labels"] == 1


def test_what_differs_is_not_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TorchScriptDraft.run
    monkeypatch.setattr(TorchScriptDraft, "run", lambda self, images: {k: v + 1 for k, v in plain(self, images).items()})
    out = tmp_path / "out" / "model.pt"
    assert main(["export", f"run={run}", "format=torchscript", f"out={out}"]) == 2
    error = capsys.readouterr().err
    assert "nothing is written" in error
    assert error.count("\n") == 1
    assert not out.parent.exists()
    monkeypatch.setattr(TorchScriptDraft, "run", plain)
    words = ["datasets=[tones]", "scores=true", "size=[64,96]"]
    images = tmp_path / "pictures"
    images.mkdir()
    Image.fromarray(draw_disks(np.random.default_rng(0), (150, 90))[0]).save(images / "some.png")
    assert main(["export", f"run={run}", "format=torchscript", f"out={out}", f"images={images}", *words]) == 0
    assert "compared on 3 images of 96x64\n" in capsys.readouterr().out
    once, about = open_file("torchscript", out.read_bytes())
    assert set(once(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))) == {"labels_tones", "scores_tones"}
    assert about["input"]["shape"] == ["batch", 3, 64, 96]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["format=onnx", "datasets=[cats]"], "datasets: cats is not of this run, expected some of disks, tones, boxed"),
        (["format=onnx", "size=[8, 64]"], "size: [8, 64] found, expected [height, width] of at least 32 pixels"),
        (["format=torchscript", "opset=20"], "opset: 20 found with format=torchscript"),
        (["format=onnx", "images=/nowhere"], "images=/nowhere: no picture found"),
        (["format=onnx", "out=/"], "out=/: a folder found"),
        (["format=tflite"], "format: 'tflite' found, expected one of onnx, torchscript"),
        ([], "format: missing"),
    ],
)
def test_keys_that_cannot_be_used(words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"run={run}", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (run / "export").exists()


def test_missing_packages_and_pictures(
    run: Path, shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.export._val_pictures", lambda *_: iter(()))
    assert main(["export", f"run={run}", "format=torchscript"]) == 2
    assert "no picture of the run's validation splits can be read (split val is empty); give images=DIR" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", f"run={run}", "format=onnx"]) == 2
    error = capsys.readouterr().err
    assert "pip install '.[export]'" in error
    assert error.count("\n") == 1


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["torchscript", "onnx"])
@pytest.mark.parametrize(
    ("network", "outputs"),
    [*((network, "multihead") for network in NETWORKS), *(("edanet", outputs) for outputs in OUTPUTS if outputs != "multihead")],
)
def test_every_network_and_every_space(name: FormatName, network: str, outputs: str) -> None:
    check_format(name, network, outputs)


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("network", ["edanet", "swiftnet_rn18"])
def test_onnx_of_one_size(network: str) -> None:
    model = make_model(network)
    deployed = deploy(model)
    drafted = draft("onnx", deployed, size=(70, 90), opset=None)
    batches = make_batches([draw_disks(np.random.default_rng(0))[0]], (70, 90))
    assert compare(drafted.run, model, deployed, batches).equal_labels > 0.999


RESIZED = {
    "streets_coarse": Shown(resize=ResizeConfig(size=(60, 100), mode="fit")),
    "streets_fine": Shown(resize=ResizeConfig(size=(50, 80), mode="cover"), interpolation="pil_cubic"),
    "streets_signs": Shown(scale=0.6, interpolation="area"),
}


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["torchscript", "onnx"])
@pytest.mark.parametrize("shown", [RESIZED, dict.fromkeys(SPACES, Shown(resize=ResizeConfig(size=(70, 90)), interpolation="cubic"))])
def test_pictures_are_resized_in_the_file(name: FormatName, shown: dict[str, Shown]) -> None:
    model = make_model("edanet")
    deployed = DeployedModel(model, shown, VOID_IDS)
    drafted = draft(name, deployed, size=None, opset=None)
    assert compare(drafted.run, model, deployed, pictures()).equal_labels > 0.999
    crops = {key: CropConfig(size=(64, 64), resize=way.resize, interpolation=way.interpolation) for key, way in shown.items()}
    if shown is not RESIZED:
        assert equal_to_predict(drafted.run, model, deployed, crops, pictures()) > 0.98
