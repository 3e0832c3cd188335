"""Readings of the same logits, protocols and sizes, against slow references."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spaces import SPACES, TREE, UNIVERSE, VIEWS, outputs_of, view

from data.adapters.cityscapes import extended_space
from data.adapters.common import read_table
from data.errors import FieldError, InputError
from data.labels import IGNORE_INDEX
from data.transforms import CropConfig, ResizeConfig
from models.outputs.hierarchy import HierarchySpace
from trainers.evaluation.pictures import confusion_picture
from trainers.evaluation.protocols import PROTOCOLS, ProtocolConfig, protocol_of, protocol_result
from trainers.evaluation.readings import (
    classifier_readings,
    cross_reading,
    cut_off,
    depth_readings,
    level_readings,
    second_choice_reading,
    sets_reading,
)
from trainers.evaluation.sizes import SIZES, SizeConfig, named_size
from trainers.evaluation.tally import Tally
from trainers.evaluation.through import Through, sets_of
from trainers.metrics import fold, joint_counts, scores

IDS = torch.zeros(4, 5, dtype=torch.uint8)


@pytest.mark.parametrize("name", ["joint", "greedy"])
def test_labels_as_nodes_are_predicted_as_the_labels_are(name: str) -> None:
    outputs, logits = outputs_of(name)
    assert isinstance(outputs, HierarchySpace)
    for dataset, values in logits.items():
        own = outputs.predict_nodes(values, dataset, outputs.label_leaves(dataset))
        assert torch.equal(own, outputs.predict(values, dataset))


@pytest.mark.parametrize("name", ["joint", "greedy"])
def test_the_first_depth_is_what_the_root_alone_decides(name: str) -> None:
    """Of a dataset whose labels are the leaves: joint, since the voids count for their nodes; greedy, since it goes no further."""
    outputs, logits = outputs_of(name, size=(20, 20))
    assert isinstance(outputs, HierarchySpace)
    (reading,) = depth_readings(outputs, "fine", VIEWS["fine"], outputs.label_leaves("fine")).values()
    assert reading.names == ("ground", "car", "sign")
    found = reading.answer(logits["fine"][:1], IDS)
    top = outputs.decide(logits["fine"][:1], "top")[0]
    if name == "greedy":
        assert torch.equal(found, top.masked_fill(top == 3, IGNORE_INDEX))
    else:
        assert torch.equal(found[top < 3], top[top < 3])


def test_depths_merge_labels_and_keep_what_is_no_deeper() -> None:
    sets = [("road",), ("grass",), ("car",), ("stop", "yield", "sign/void")]
    names, rows, nodes = cut_off(TREE, ["road", "grass", "car", "sign"], sets, 1)
    assert (names, rows, nodes) == (["ground", "car", "sign"], [0, 0, 1, 2], [("ground",), ("car",), ("sign",)])
    names, rows, _ = cut_off(TREE, ["road", "grass", "car", "sign"], sets, 2)
    assert (names, rows) == (["road", "grass", "car", "sign"], [0, 1, 2, 3])
    names, rows, nodes = cut_off(TREE, ["thing", "either", "void"], [("car", "stop"), ("yield", "car"), ()], 1)
    assert (names, rows, nodes) == (["thing+either"], [0, 0, None], [("car", "sign")])


def test_a_classifier_is_scored_where_labels_lie_below_its_node() -> None:
    outputs, logits = outputs_of("joint", size=(30, 30))
    assert isinstance(outputs, HierarchySpace)
    readings = classifier_readings(outputs, "fine", VIEWS["fine"], outputs.label_leaves("fine"))
    assert {name: reading.names for name, reading in readings.items()} == {"top": ("ground", "car", "sign"), "ground": ("road", "grass")}
    assert readings["ground"].view.table[:5].tolist() == [0, 1, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]
    assert readings["top"].view.table[:5].tolist() == [0, 0, 1, 2, IGNORE_INDEX]
    found = readings["ground"].answer(logits["fine"][:1], IDS)
    decided = outputs.decide(logits["fine"][:1], "ground")[0]
    assert torch.equal(found, torch.tensor([0, 1, IGNORE_INDEX])[decided])  # void is a miss
    assert (decided == 2).any()
    signs = classifier_readings(outputs, "signs", VIEWS["signs"], outputs.label_leaves("signs"))
    assert {name: reading.names for name, reading in signs.items()} == {"top": ("sign",), "sign": ("stop", "yield")}
    assert level_readings(outputs_of("shared")[0], "fine") == {}


def test_the_second_choice_saves_what_a_generic_label_took() -> None:
    """Pixel by pixel: paper 001, section V-B, for a concatenation in which coarse/thing is the generic label of signs."""
    outputs, logits = outputs_of("concat", size=(40, 40))
    sets = [("signs/stop",), ("signs/yield",)]
    reading = second_choice_reading(outputs, "signs", VIEWS["signs"], sets, ["coarse/thing"])
    ids = torch.randint(0, 3, (40, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = reading.answer(logits["signs"][:1], ids)
    leaves, saved = outputs.leaves("signs"), 0
    for i, j in product(range(40), range(40)):
        order = logits["signs"][0, :, i, j].argsort(descending=True).tolist()
        first, second, truth = leaves[order[0]], leaves[order[1]], int(ids[i, j])
        expected = {"signs/stop": 0, "signs/yield": 1}.get(first, IGNORE_INDEX)
        if first == "coarse/thing" and truth < 2 and second == sets[truth][0]:
            expected, saved = truth, saved + 1
        assert int(found[i, j]) == expected
    assert saved > 10
    with pytest.raises(InputError, match="expected a flat one"):
        second_choice_reading(outputs_of("joint")[0], "signs", VIEWS["signs"], sets, ["coarse/thing"])
    with pytest.raises(InputError, match="leaf 'thing' found"):
        second_choice_reading(outputs, "signs", VIEWS["signs"], sets, ["thing"])


def test_foreign_leaves_win_where_they_are_asked() -> None:
    outputs, logits = outputs_of("universal", size=(30, 30))
    sets = [("road", "grass"), ("sky",)]
    other = view(["ground", "sky"])
    closed = sets_reading(outputs, "fine", other, sets, foreign=False).answer(logits["fine"][:1], IDS)
    open_ = sets_reading(outputs, "fine", other, sets, foreign=True).answer(logits["fine"][:1], IDS)
    assert set(closed.unique().tolist()) == {0, 1}
    assert set(open_.unique().tolist()) == {0, 1, IGNORE_INDEX}
    assert torch.equal(open_[open_ != IGNORE_INDEX], closed[open_ != IGNORE_INDEX])


def test_the_labels_of_one_dataset_meet_the_classes_of_another() -> None:
    outputs, logits = outputs_of("shared", size=(30, 30))
    reading = cross_reading(outputs, "fine", VIEWS["coarse"])
    assert (len(reading.names), len(reading.columns)) == (3, 4)
    ids = torch.randint(0, 4, (30, 30), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    predicted = reading.answer(logits["fine"][:1], ids).byte()
    matrix, ignored = fold(joint_counts(ids, predicted).numpy(), reading.view.table, 3, 4)
    expected = np.zeros((3, 5), np.int64)
    for truth, column in zip(ids.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if truth < 3:
            expected[truth, column] += 1
    np.testing.assert_array_equal(matrix, expected)
    assert ignored == int((ids == 3).sum())


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**31))
def test_folding_counts_of_native_ids_is_counting_classes(rows: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    table = generator.integers(0, rows, 256).astype(np.uint8)
    table[generator.random(256) < 0.3] = IGNORE_INDEX
    ids = generator.integers(0, 256, (13, 17)).astype(np.uint8)
    predicted = generator.integers(0, columns + 1, ids.shape).astype(np.uint8)
    predicted[predicted == columns] = IGNORE_INDEX
    matrix, ignored = fold(joint_counts(torch.from_numpy(ids), torch.from_numpy(predicted)).numpy(), table, rows, columns)
    truth = table[ids]
    for row, column in product(range(rows), range(columns)):
        assert matrix[row, column] == ((truth == row) & (predicted == column)).sum()
    np.testing.assert_array_equal(matrix[:, columns], [((truth == row) & (predicted == IGNORE_INDEX)).sum() for row in range(rows)])
    assert ignored == (truth == IGNORE_INDEX).sum()


def test_counts_of_large_pictures_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    a, b = (torch.from_numpy(generator.integers(0, 256, (40, 50)).astype(np.uint8)) for _ in range(2))
    whole = joint_counts(a, b)
    monkeypatch.setattr("trainers.metrics.EXACT", 77)
    assert torch.equal(joint_counts(a, b), whole)
    assert int(whole.sum()) == 2000


MATRIX = np.array([[50, 5, 3, 2], [4, 60, 6, 1], [7, 8, 70, 0]])
NAMES = ("a", "b", "c")
PIXELS = {"evaluated": MATRIX.sum(axis=1)}


def result(**fields: object) -> dict[str, object]:
    tally = Tally(matrix=MATRIX, images=1, ignored=9)
    return protocol_result(ProtocolConfig(**fields), "some", tally, view(NAMES), PIXELS)  # type: ignore[arg-type]


def test_other_classes_stay_errors_or_have_no_label() -> None:
    counted = result(classes=("a", "b"))
    assert counted["iou"] == pytest.approx({"a": 50 / (60 + 61 - 50), "b": 60 / (71 + 73 - 60)})
    assert (counted["pixels"], counted["ignored_pixels"], counted["other_classes"]) == (216, 9, ["c"])
    ignored = result(classes=("a", "b"), others="ignored")
    assert ignored["iou"] == pytest.approx({"a": 50 / (60 + 54 - 50), "b": 60 / (71 + 65 - 60)})  # of c: misses, no false alarms
    assert (ignored["pixels"], ignored["ignored_pixels"]) == (131, 9 + 85)
    for found in (counted, ignored):
        assert found["miou"] == pytest.approx(np.mean(list(found["iou"].values())))  # type: ignore[attr-defined]
        assert found["mpa"] == pytest.approx((50 / 60 + 60 / 71) / 2)


def test_rare_classes_are_not_averaged() -> None:
    found = result(min_pixels=71)
    assert found["classes"] == ["b", "c"]
    assert found["too_few_pixels"] == {"a": {"evaluated": 60}}
    tally = Tally(matrix=MATRIX, images=1)
    by_train = protocol_result(ProtocolConfig(min_pixels=71), "some", tally, view(NAMES), {**PIXELS, "train": np.array([1000, 1000, 70])})
    assert by_train["too_few_pixels"] == {"a": {"evaluated": 60, "train": 1000}, "c": {"evaluated": 85, "train": 70}}
    assert by_train["miou"] == pytest.approx(60 / (71 + 73 - 60))
    none = protocol_result(ProtocolConfig(min_pixels=1000), "some", tally, view(NAMES), PIXELS)
    assert (none["classes"], np.isnan(none["miou"])) == ([], True)


@pytest.mark.parametrize("classes", [(), ("a", "a")])
def test_classes_of_a_protocol_are_given_once(classes: tuple[str, ...]) -> None:
    with pytest.raises(FieldError, match="expected one class or several, each once"):
        ProtocolConfig(classes=classes)


def test_the_papers_protocols_name_classes_of_their_datasets() -> None:
    cityscapes = read_table("cityscapes")
    sizes = {"cityscapes19": 19, "synthia16": 16, "synthia13": 13}
    extended = extended_space(cityscapes)
    for name in ("gtsdb_signs", "gtsdb_signs_flat"):
        for space, chosen in ((read_table("gtsdb"), "all"), (extended, "signs43"), (extended, "69")):
            assert PROTOCOLS[name].names(space.view(chosen)) == read_table("gtsdb").view().names
        with pytest.raises(InputError, match="class 'speed limit 20' found"):
            PROTOCOLS[name].names(extended.view("19"))
    assert len(extended.view("61").names) == 61
    for name, number in sizes.items():
        assert len(PROTOCOLS[name].names(cityscapes.view("19"))) == number
        assert len(PROTOCOLS[name].names(cityscapes.view("27"))) == number
    assert len(PROTOCOLS["cityscapes27"].names(cityscapes.view("27"))) == 27
    assert len(PROTOCOLS["voc21"].names(read_table("voc").view())) == 21
    assert len(PROTOCOLS["vistas65"].names(read_table("vistas").view())) == 65
    assert set(PROTOCOLS["synthia16"].names(cityscapes.view("19"))) == set(cityscapes.view("19").names) - {"terrain", "truck", "train"}
    assert PROTOCOLS["synthia13"].names(read_table("synthia").view("19"))
    with pytest.raises(InputError, match="class 'ego vehicle' found"):
        PROTOCOLS["cityscapes27"].names(cityscapes.view("19"))
    with pytest.raises(InputError, match="no preset 'synthia17'"):
        protocol_of("synthia17")
    with pytest.raises(InputError, match="classes=nowhere/19"):
        ProtocolConfig(classes="nowhere/19").names(cityscapes.view())


def test_absent_classes_are_named_and_in_no_mean() -> None:
    found = scores(np.array([[8, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]), NAMES)
    assert (found.absent, found.only_predicted, found.pixels) == (("c",), ("b",), (9, 0, 0))
    assert found.miou == pytest.approx(8 / 9 / 2)
    assert found.means(["a", "c"]) == pytest.approx((8 / 9, 8 / 9))


def test_labels_are_brought_to_the_size_of_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 100, 3)).astype(np.uint8)
    label = np.arange(60 * 100, dtype=np.uint8).reshape(60, 100)
    crop = CropConfig(size=(32, 32), resize=ResizeConfig(size=(20, 20)))
    small, ids, shown = SizeConfig(image=ResizeConfig(size=(30, 50)), labels="image").brought(image, label, crop)
    assert (small.shape, ids.shape, shown.resize) == ((30, 50, 3), (30, 50), None)
    np.testing.assert_array_equal(ids, label[1::2, 1::2])
    same, untouched, shown = named_size("label").brought(image, label, crop)
    assert (same is image, untouched is label, shown) == (True, True, crop)
    own, untouched, shown = named_size("swiftnet").brought(image, label, crop)
    assert (own.shape, untouched.shape, shown.resize) == ((60, 100, 3), (60, 100), None)
    stretched, ids, _ = SIZES["paper001"].brought(image, label, crop)
    assert (stretched.shape, ids.shape) == ((512, 706, 3), (512, 706))
    thesis, ids, _ = SIZES["thesis000_cityscapes"].brought(image, label, crop)
    assert (thesis.shape, ids.shape) == ((512, 1024, 3), (512, 1024))
    fitted, ids, _ = SIZES["paper002"].brought(image, label, crop)
    assert (fitted.shape, ids.shape) == ((512, 853, 3), (512, 853))
    with pytest.raises(InputError, match="no preset 'paper003'"):
        named_size("paper003")


def test_labels_of_other_datasets_are_found() -> None:
    outputs, _ = outputs_of("shared")
    config = SPACES["shared"]
    other = view(["car", "lawn"])
    table = Through(version=1, labels={"other": {"car": "car", "lawn": ("fine/grass",)}})
    assert sets_of(outputs, config, table, "other", other, "fine") == ([("fine/car",), ("fine/grass",)], None)
    assert sets_of(outputs, config, None, "other", view(["car", "sign"]), "fine") == ([("fine/car",), ("fine/sign",)], None)
    with pytest.raises(InputError, match=r"through: labels.other: 'lawn' found, expected 'plane' of view"):
        sets_of(outputs, config, table, "other", view(["car", "plane"]), "fine")
    with pytest.raises(InputError, match="label 'lawn' found, which is none of fine"):
        sets_of(outputs, config, None, "other", other, "fine")
    with pytest.raises(InputError, match="through: 'plane' found"):
        sets_of(outputs, config, Through(version=1, labels={"other": {"car": "plane", "lawn": None}}), "other", other, "fine")
    known, _ = sets_of(outputs_of("universal")[0], SPACES["universal"], None, "signs", VIEWS["signs"], "fine")
    assert [tuple(names) for names in known] == [UNIVERSE.labels["signs"][name] for name in VIEWS["signs"].names]


def test_labels_of_the_same_names_are_asked_as_those_of_the_dataset_that_answers() -> None:
    """What a tree passes over for its dataset, it passes over for another one that has that one's labels."""
    outputs, logits = outputs_of("greedy", size=(30, 30))
    sets, of_tree = sets_of(outputs, SPACES["greedy"], None, "elsewhere", VIEWS["signs"], "signs")
    assert of_tree == "signs"
    reading = sets_reading(outputs, "signs", VIEWS["signs"], sets, of_tree=of_tree)
    assert torch.equal(reading.answer(logits["signs"][:1], IDS), outputs.predict(logits["signs"][:1], "signs")[0])


def test_a_greedy_tree_has_no_foreign_leaves() -> None:
    outputs, _ = outputs_of("greedy")
    with pytest.raises(InputError, match="foreign=true: a tree with rule=greedy found"):
        sets_reading(outputs, "signs", VIEWS["signs"], outputs.label_leaves("signs"), foreign=True)


def test_confusion_pictures_have_a_cell_for_every_pair() -> None:
    small, large = (confusion_picture(np.eye(n, n + 1, dtype=np.int64), NAMES_OF[n], NAMES_OF[n], "title") for n in (19, 66))
    assert small.width > 19 * 34
    assert large.width > 66 * 22
    missing = confusion_picture(np.zeros((2, 4), np.int64), ["a", "b"], NAMES, "nothing")
    assert (232, 232, 232) in {color for _, color in missing.getcolors(10**6)}


NAMES_OF = {n: [f"class {i}" for i in range(n)] for n in (19, 66)}
