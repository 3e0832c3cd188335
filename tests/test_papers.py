"""The numbers of the papers, their code and the datasets' publishers, written down a second time: tables that are compared with
themselves agree with every slip."""

import hashlib
from dataclasses import asdict

import pytest

from data.adapters.common import read_table
from data.adapters.gta5 import gta5_space
from data.crop_presets import CROPS
from data.labels import LabelSpace
from data.photometric import PHOTOMETRIC

SCALE_1 = (1.0, 1.0)
CAFFE = (123, 117, 104)  # RGB of BGR 104.00698793, 116.66876762, 122.67891434
GEOMETRY: dict[str, tuple[object, ...]] = {
    # name: crop, resize, scale, step, scale of, flip, flip first, interpolation, padding
    "swiftnet": ((768, 768), None, (0.5, 2.0), None, "box", 0.5, True, "pil_cubic", (73, 83, 72)),
    "thesis000": ((448, 448), None, (0.7, 1.3), None, "image", 0.5, True, "pil_linear", "mean"),
    "thesis000_cityscapes": ((448, 448), ((512, 1024), "exact"), (0.7, 1.3), None, "image", 0.5, True, "pil_linear", "mean"),
    "paper001_vistas": ((512, 706), ((512, 706), "cover"), SCALE_1, None, "image", 0.0, False, "linear", "grey"),
    "paper001_cityscapes": ((512, 706), ((512, 1024), "exact"), SCALE_1, None, "image", 0.0, False, "linear", "grey"),
    "paper001_gtsdb": ((512, 706), ((512, 850), "exact"), SCALE_1, None, "image", 0.0, False, "linear", "grey"),
    "paper002": ((512, 1024), ((512, 1024), "fit"), (0.5, 2.0), None, "image", 0.0, False, "linear", (124, 116, 104)),
    "classmix_cityscapes": ((512, 1024), ((512, 1024), "exact"), SCALE_1, None, "image", 0.0, False, "pil_linear", "grey"),
    "classmix_cityscapes_crop": ((512, 512), ((512, 1024), "exact"), SCALE_1, None, "image", 0.0, False, "pil_linear", "grey"),
    "classmix_voc": ((321, 321), None, (0.5, 1.6), 0.1, "image", 0.0, False, "linear", CAFFE),
    "dacs_gta5": ((512, 512), ((720, 1280), "exact"), SCALE_1, None, "image", 0.0, False, "pil_cubic", CAFFE),
    "dacs_cityscapes": ((512, 512), ((512, 1024), "exact"), SCALE_1, None, "image", 0.0, False, "pil_linear", CAFFE),
    "dacs_synthia": ((512, 512), ((760, 1280), "exact"), SCALE_1, None, "image", 0.0, False, "pil_cubic", CAFFE),
}
KORNIA = {"semantics": "kornia", "probability": 0.8, "brightness": 0.25, "contrast": 0.25, "saturation": 0.25, "hue": 0.25}
BLUR = {"probability": 0.5, "sigma": (0.15, 1.15), "kernel": 0.1}
COLOURS: dict[str, tuple[object, ...]] = {
    # name: jitter, blur, shared
    "none": (None, None, "nothing"),
    "torchvision": ({**KORNIA, "semantics": "torchvision", "hue": 0.05}, BLUR, "nothing"),
    "classmix": (KORNIA, BLUR, "call"),
    "dacs": (KORNIA, BLUR, "decision"),
    "paper001": (
        {"semantics": "tensorflow", "probability": 0.5, "brightness": 16 / 255, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
        None,
        "nothing",
    ),
}
CITYSCAPES_19 = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SYNTHIA_19 = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11]
OF_16 = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]  # as numbers of the 19
OF_13 = [0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]


def test_geometries_are_those_of_the_papers() -> None:
    found = {}
    for name, crop in CROPS.items():
        resize = None if crop.resize is None else (crop.resize.size, crop.resize.mode)
        how = (crop.scale_of, crop.flip, crop.flip_first, crop.interpolation, crop.pad)
        found[name] = (crop.size, resize, crop.scale, crop.scale_step, *how)
    assert found == GEOMETRY


def test_colour_changes_are_those_of_the_papers() -> None:
    found = {name: tuple(asdict(config)[key] for key in ("jitter", "blur", "shared")) for name, config in PHOTOMETRIC.items()}
    assert found == COLOURS


@pytest.mark.parametrize(
    ("name", "num_labels", "expected"),
    [
        ("cityscapes", 34, "5eb39b12dd89b3ee"),
        ("synthia", 23, "ce4643ea436f5548"),
        ("gtsdb", 43, "b5a7af4d8c03c566"),
        ("vistas", 66, "8b7061a3043c3b35"),
        ("voc", 21, "b96fba0aec639356"),
    ],
)
def test_label_tables_are_the_published_ones(name: str, num_labels: int, expected: str) -> None:
    """Digests of ids, names and colours, made of tables that were written by themselves from the publishers' files."""
    labels = sorted(read_table(name).labels, key=lambda label: label.id)
    text = "\n".join(f"{label.id} {label.name} {tuple(label.color)}" for label in labels)
    assert len(labels) == num_labels
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == expected


def test_colours_of_voc_follow_its_rule() -> None:
    """Bits 0, 1, 2 of the id are the highest bits of red, green and blue, bits 3, 4, 5 the next ones."""
    for label in read_table("voc").labels:
        expected = [sum((label.id >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)]
        assert list(label.color) == expected


def ids(space: LabelSpace, view: str) -> list[tuple[int, ...]]:
    return [found.ids for spec in space.views if spec.name == view for found in spec.classes]


@pytest.mark.parametrize(
    ("space", "nineteen"),
    [(read_table("cityscapes"), CITYSCAPES_19), (gta5_space(), CITYSCAPES_19), (read_table("synthia"), SYNTHIA_19)],
    ids=["cityscapes", "gta5", "synthia"],
)
def test_views_of_streets_have_the_order_of_cityscapes(space: LabelSpace, nineteen: list[int]) -> None:
    assert ids(space, "19") == [(native_id,) for native_id in nineteen]
    if space.name != "gta5":
        assert ids(space, "16") == [(nineteen[number],) for number in OF_16]
        assert ids(space, "13") == [(nineteen[number],) for number in OF_13]


def test_view_27_has_eight_classes_more() -> None:
    more = {"ego vehicle": 1, "parking": 9, "rail track": 10, "guard rail": 14, "bridge": 15, "tunnel": 16, "caravan": 29, "trailer": 30}
    space = read_table("cityscapes")
    assert {label.id: label.name for label in space.labels if label.name in more} == {number: name for name, number in more.items()}
    assert sorted(ids(space, "27")) == sorted((native_id,) for native_id in [*CITYSCAPES_19, *more.values()])


def test_vistas_is_mapped_to_cityscapes_as_robustnet_maps_it() -> None:
    expected = {2: 1, 3: 4, 6: 3, 13: 0, 15: 1, 17: 2, 19: 11, 20: 12, 21: 12, 22: 12, 24: 0, 27: 10, 29: 9, 30: 8, 41: 0}
    expected |= {45: 5, 47: 5, 48: 6, 50: 7, 52: 18, 54: 15, 55: 13, 57: 17, 58: 16, 61: 14}
    space = read_table("vistas")
    assert {native_id: number for number, group in enumerate(ids(space, "cityscapes19")) for native_id in group} == expected
    assert ids(space, "65") == [(native_id,) for native_id in range(65)]
    assert ids(space, "lanes") == [(13,), (24,), (8,), (23,)]
