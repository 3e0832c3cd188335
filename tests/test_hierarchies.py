"""Trees and universes: those that come with the package, and what is wrong with a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from spaces import SPACES, TREE, UNIVERSE, VIEWS, Plain, outputs_of, view

from data.adapters.cityscapes import extended_space
from data.adapters.common import read_table
from data.config import build, to_plain
from data.errors import InputError
from data.hierarchy import Classifier, Hierarchy, read_hierarchy
from data.streets.labels import ATOMS, STREET_SPACES
from data.universe import read_universe
from models.outputs import (
    HierarchyConfig,
    UniversalConfig,
    build_outputs,
)
from models.outputs.hierarchy import HierarchySpace


def test_the_tree_of_paper_001() -> None:
    tree = read_hierarchy("paper001")
    sizes = {name: len(classifier.classes) for name, classifier in tree.classifiers.items()}
    assert sizes == {"L1": 53, "L2_driveable": 10, "L2_rider": 3, "L2_traffic_sign": 2, "L3_front": 43}
    assert all(classifier.void for classifier in tree.classifiers.values())
    assert [classifier.weight for classifier in tree.classifiers.values()] == [1.0, 0.1, 0.1, 0.1, 0.1]
    split = {classifier.of for classifier in tree.classifiers.values() if classifier.of not in (None, "Traffic Sign (Front)")}
    assert sum(sizes.values()) - len(split) == 108
    cityscapes, vistas, gtsdb = read_table("cityscapes"), read_table("vistas"), read_table("gtsdb")
    extended = extended_space(cityscapes)
    for name, made in (("cityscapes", cityscapes), ("vistas", vistas), ("gtsdb", gtsdb), ("cityscapes_extended", extended)):
        assert tree.labels[name].keys() == {label.name for label in made.classes}
    # Which classifiers each dataset teaches: facts of the code, not of the text.
    views = {"cityscapes": cityscapes.view("27"), "vistas": vistas.view(), "gtsdb": gtsdb.view()}
    taught = {name: set(tree.targets(name, view)) for name, view in views.items()}
    assert taught["cityscapes"] == {"L1", "L2_traffic_sign"}
    assert taught["vistas"] == {"L1", "L2_driveable", "L2_rider", "L2_traffic_sign"}
    assert taught["gtsdb"] == {"L3_front"}
    assert not any(label is None for label in tree.labels["vistas"].values())
    assert all(len(one) == 1 for one in tree.targets("cityscapes", views["cityscapes"])["L1"])
    for name, others in (("cityscapes", {"road": "Driveable", "parking": "Driveable", "train": "On Rails"}), ("vistas", {})):
        outputs = [{tree.outputs["L1"][i] for i in one} for one in tree.targets(name, views[name])["L1"]]
        for label, nodes in zip(views[name].names, outputs, strict=True):
            parent = next((c.of for c in tree.classifiers.values() if c.of in tree.outputs["L1"] and label in c.classes), None)
            assert {node.lower() for node in nodes} == {(others.get(label) or parent or label).lower()}, label
    signs = tree.targets("cityscapes", views["cityscapes"])["L2_traffic_sign"]
    assert [name for name, one in zip(views["cityscapes"].names, signs, strict=True) if one] == ["traffic sign"]
    assert {one for one in signs if one} == {frozenset([1])}
    used = {leaf for name, view in views.items() for leaves in tree.leaves_of(name, view) for leaf in leaves}
    assert {leaf for leaf in tree.leaves if leaf not in used} == {"void", "Driveable/void", "Traffic Sign/void"}


def test_the_universe_of_the_streets_is_what_is_drawn() -> None:
    universe = read_universe("streets")
    assert set(universe.names) == {atom.name for atom in ATOMS} - {"ego_vehicle"}
    for name, made in STREET_SPACES.items():
        expected = {label: {ATOMS[i].name for i in atoms} for label, atoms in made.atoms.items()}
        assert {label: set(leaves) for label, leaves in universe.labels[name].items()} == expected
    assert universe.view().colors[universe.names.index("sky")] == (70, 130, 180)


def test_the_tree_of_the_streets_agrees_with_what_is_drawn() -> None:
    """Every label covers the leaves of what it is drawn of, and no two labels of a dataset share one."""
    tree = read_hierarchy("streets")
    views = {name: made.label_space.view() for name, made in STREET_SPACES.items()}
    of_atom = {atom: leaf for name, labels in universe_pairs(tree).items() for atom, leaf in labels.items()}
    assert set(of_atom.values()) == set(tree.leaves)
    for name, made in STREET_SPACES.items():
        for label, leaves in zip(views[name].names, tree.leaves_of(name, views[name]), strict=True):
            assert set(leaves) == {of_atom[ATOMS[i].name] for i in made.atoms[label]}
    assert set(tree.targets("streets_signs", views["streets_signs"])) == {"sign"}
    assert tree.targets("streets_fine", views["streets_fine"])["scene"][18] == {10, 11}  # two_wheeler: motorcycle or bicycle
    assert HierarchyConfig(name="hierarchy", tree="streets").terms(views) == tuple(tree.classifiers)


def universe_pairs(tree: Hierarchy) -> dict[str, dict[str, str]]:
    """Atom -> leaf: by name, but for signs, curbs and what streets_fine calls otherwise."""
    signs = {f"sign_{name}": name for name in ("speed_limit", "danger", "give_way", "mandatory", "no_entry", "stop")}
    same = {atom.name: atom.name for atom in ATOMS if atom.name in tree.leaves}
    return {"same": same, "signs": {**signs, "sign_priority": "priority_road"}, "other": {"curb": "sidewalk"}}


def test_the_tree_of_camvid_and_gtsdb() -> None:
    tree = read_hierarchy("camvid11_gtsdb")
    assert [classifier.num_outputs for classifier in tree.classifiers.values()] == [11, 44]
    assert tree.labels["gtsdb"].keys() == set(read_table("gtsdb").view().names)
    assert len(tree.labels["camvid11"]) == 11
    categories = read_hierarchy("camvid11_gtsdb_categories")
    assert categories.labels["camvid11"] == tree.labels["camvid11"]
    assert set(categories.labels["gtsdb"]) == set(read_table("gtsdb").view("categories").names)
    assert set(tree.targets("gtsdb", read_table("gtsdb").view())) == {"sign"}
    assert set(tree.targets("camvid11", view(list(tree.labels["camvid11"])))) == {"scene"}


DEEP = Hierarchy(
    version=1,
    classifiers={
        "a": Classifier(classes=("b", "leaf1")),
        "b": Classifier(of="b", classes=("c", "leaf2")),
        "c": Classifier(of="c", classes=("d", "leaf3"), void=True),
        "d": Classifier(of="d", classes=("leaf4", "leaf5")),
    },
    labels={"x": {"deep": "leaf5", "middle": "c", "pair": ("d", "leaf2"), "void": None, "all": ("b", "leaf1")}},
)


def test_a_label_teaches_the_way_from_the_root_and_none_below() -> None:
    targets = DEEP.targets("x", view(["deep", "middle", "pair", "void", "all"]))
    no = frozenset[int]()
    assert targets["a"] == ({0}, {0}, {0}, no, no)
    assert targets["b"] == ({0}, {0}, {0, 1}, no, no)
    assert targets["c"] == ({0}, no, no, no, no)
    assert targets["d"] == ({1}, no, no, no, no)


def test_trees_and_universes_go_through_configs_and_files(tmp_path: Path) -> None:
    for config in SPACES.values():
        assert build(type(config), to_plain(config)) == config
    path = tmp_path / "tree.yaml"
    path.write_text(yaml.safe_dump(to_plain(TREE), sort_keys=False))
    assert HierarchyConfig(name="hierarchy", tree=str(path)).content == TREE
    path.write_text(yaml.safe_dump(to_plain(UNIVERSE), sort_keys=False))
    assert UniversalConfig(name="universal", universe=str(path)).content == UNIVERSE


def changed(content: Any, key: str, value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(content)
    *parents, last = key.split(".")
    place = plain
    for parent in parents:
        place = place[parent]
    place[last] = value
    return plain


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version: 2 found, expected one of 1"),
        ("classifiers.sign.of", "signs", "classifiers.sign.of: signs found, expected a class of a classifier before it"),
        ("classifiers.sign.of", None, "classifiers.sign.of: None found, expected the node it splits"),
        ("classifiers.top.of", "sky", "classifiers.top.of: sky found"),
        ("classifiers.sign.of", "ground", "classifiers: of: ground found more than once"),
        ("classifiers.sign.classes", ["stop", "sky"], "classifiers.sign.classes: sky found more than once"),
        ("classifiers.sign.classes", [], "classes: none found, expected two outputs or more"),
        ("classifiers.sign.weight", -1, "weight: -1 found, expected a number of 0 or more"),
        ("classifiers.sign.datasets", ["sign"], "classifiers.sign.datasets: sign found, which is defined nowhere"),
        ("classifiers.top.passed_over", ["fine"], "classifiers.top.passed_over: fine found, whose labels lie below ground, car, sign"),
        ("labels.signs.stop", "stopp", "labels.signs.stop: stopp found, which is defined nowhere"),
        ("labels.fine.sign", ["sign", "stop"], "labels.fine.sign: sign, stop found, expected nodes of which none is below another"),
        ("colors.stopp", [1, 2, 3], "colors: stopp found, which is defined nowhere"),
        ("colors.stop", [1, 2, 300], "colors.stop: colour [1, 2, 300] found, expected three numbers in 0..255"),
        ("classifiers", {}, "classifiers: none found"),
    ],
)
def test_what_is_wrong_with_a_tree_is_told(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(yaml.safe_dump(changed(TREE, key, value), sort_keys=False))
    with pytest.raises(InputError) as caught:
        read_hierarchy(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("leaves", [{"name": "road"}], "leaves: 1 found, expected at least two"),
        ("leaves", [{"name": "road"}, {"name": "road"}], "leaves: road found more than once"),
        ("leaves", [{"name": "road", "colour": [1, 2, 3]}], "leaves[0].colour: unknown key (did you mean color?)"),
        ("leaves", [{"name": "road", "color": [-1, 0, 0]}, {"name": "car"}], "leaves.road: colour [-1, 0, 0] found"),
        ("labels.fine.car", ["bus"], "labels.fine.car: bus found, which is defined nowhere"),
        ("labels.fine.car", ["car", "car"], "labels.fine.car: car found more than once"),
        ("labels.fine.car", "car", "labels.fine.car: 'car' found, expected a list"),
    ],
)
def test_what_is_wrong_with_a_universe_is_told(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "universe.yml"
    path.write_text(yaml.safe_dump(changed(UNIVERSE, key, value), sort_keys=False))
    with pytest.raises(InputError) as caught:
        read_universe(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_what_is_wrong_with_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "universe.yaml"
    for content, message in (
        ("version: 1\nversion: 2\n", "not YAML (version is given twice"),
        ("a: [", "not YAML"),
        ("- 1", "[1] found, expected keys and values"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=f"{path.name}: ") as caught:
            read_universe(str(path))
        assert message in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        read_universe(str(tmp_path / "none.yaml"))
    universes = "camvid11_carla23, camvid11_msrc23, cityscapes19, streets"
    with pytest.raises(InputError, match=rf"'street' found, expected a \.yaml file or one of {universes}"):
        UniversalConfig(name="universal", universe="street")


def test_datasets_and_classes_that_the_file_does_not_know_are_told() -> None:
    views = {"coarse": VIEWS["coarse"], "mine": VIEWS["fine"]}
    for config in (SPACES["universal"], SPACES["joint"]):
        with pytest.raises(InputError, match=r"outputs: no labels of mine found, .* outputs.aliases=\{mine: coarse\}"):
            config.terms(views)
        assert isinstance(config, UniversalConfig | HierarchyConfig)
        assert replace(config, aliases={"mine": "fine"}).terms(views)
        for aliases, told in (({"none": "fine"}, "aliases.none: no such dataset"), ({"mine": "none"}, "aliases.mine: none found")):
            with pytest.raises(InputError, match=told):
                replace(config, aliases=aliases).terms(views)
        other = {"fine": view(["road", "bus"])}
        with pytest.raises(InputError, match=r"labels.fine without 'bus' found, expected all of view all"):
            build_outputs(config, other, Plain())
    silent = replace(TREE, classifiers={**TREE.classifiers, "sign": replace(TREE.classifiers["sign"], datasets=("coarse",))})
    with pytest.raises(InputError, match=r"outputs.tree: no classifier taught by signs found"):
        HierarchyConfig(name="hierarchy", tree=silent).terms({"signs": VIEWS["signs"]})


def test_what_one_classifier_says_can_be_asked_for() -> None:
    made, logits = outputs_of("joint")
    assert isinstance(made, HierarchySpace)
    assert torch.equal(made.decide(logits["signs"], "ground"), logits["signs"][:, 4:7].argmax(1))


def test_a_void_and_a_class_may_not_share_a_name() -> None:
    root = {"classes": ["void", "a"], "void": True}
    with pytest.raises(InputError, match=r"classifiers \(a void is named NODE/void\): void found more than once"):
        build(Hierarchy, {"version": 1, "classifiers": {"root": root}, "labels": {}})


def test_a_dataset_may_teach_no_classifier_and_be_predicted_all_the_same() -> None:
    tree = build(
        Hierarchy,
        {
            "version": 1,
            "classifiers": {"root": {"classes": ["ground", "car"], "datasets": ["fine"]}},
            "labels": {"coarse": {"ground": "ground", "thing": "car", "sky": None}, "fine": dict.fromkeys(VIEWS["fine"].names, "ground")},
        },
    )
    made = build_outputs(HierarchyConfig(name="hierarchy", tree=tree), {name: VIEWS[name] for name in ("coarse", "fine")}, Plain())
    logits = {name: torch.randn(1, 2, 3, 3, requires_grad=True) for name in ("coarse", "fine")}
    terms = made.losses(logits, {name: torch.zeros(1, 3, 3, dtype=torch.int64) for name in logits})
    assert list(terms) == ["root"]
    terms["root"].total.backward()
    assert logits["fine"].grad is not None
    assert logits["coarse"].grad is None
    assert made.predict(logits["coarse"], "coarse").shape == (1, 3, 3)


def test_labels_that_are_never_predicted_and_datasets_that_teach_nothing_are_noted() -> None:
    """Where a label's leaves are all of another label, no pixel can be more probably of the first."""
    apart = {**UNIVERSE.labels, "signs": {"stop": ("stop", "yield"), "yield": ("yield",)}}
    config = UniversalConfig(name="universal", universe=replace(UNIVERSE, labels=apart))
    assert list(config.notes(VIEWS)) == ["signs: yield is never predicted: all its leaves are of stop too"]
    assert list(SPACES["universal"].notes(VIEWS)) == []
    twins = replace(UNIVERSE, labels={**UNIVERSE.labels, "signs": {"stop": ("stop",), "yield": ("stop",)}})
    assert list(UniversalConfig(name="universal", universe=twins).notes(VIEWS)) == [
        "signs: yield is never predicted: all its leaves are of stop too"
    ]
    silent = replace(TREE, classifiers={**TREE.classifiers, "sign": replace(TREE.classifiers["sign"], datasets=("coarse",))})
    assert list(HierarchyConfig(name="hierarchy", tree=silent).notes(VIEWS)) == [
        "signs: its labels teach no classifier, it is only predicted"
    ]
    extended = {"cityscapes_extended": extended_space(read_table("cityscapes")).view("all")}
    notes = list(HierarchyConfig(name="hierarchy", tree="paper001").notes(extended))
    assert notes[0] == "cityscapes_extended: its labels teach no classifier, it is only predicted"
    assert len(notes) == 44
