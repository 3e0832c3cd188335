import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.labels import IGNORE_INDEX, Label, LabelSpace, ViewClass, ViewSpec, count_ids


def space(ids: list[int], ignore_ids: list[int]) -> LabelSpace:
    labels = tuple(Label(id=i, name=f"class {i}", color=(i, i, i)) for i in ids)
    return LabelSpace(name="some", labels=labels, ignore_ids=tuple(ignore_ids))


id_sets = st.sets(st.integers(0, 255), min_size=1, max_size=255)


@given(id_sets, st.sets(st.integers(0, 255), max_size=3))
def test_view_numbers_the_classes_by_id_and_ignores_the_rest(ids: set[int], ignored: set[int]) -> None:
    classes = sorted(ids - ignored)
    if not classes:
        return
    view = space(list(ids), list(ignored)).view()
    assert view.name == "all"
    assert view.native_ids == tuple(classes)
    assert view.table[classes].tolist() == list(range(len(classes)))
    others = np.setdiff1d(np.arange(256), classes)
    assert (view.table[others] == IGNORE_INDEX).all()


@given(id_sets, st.sets(st.integers(0, 255), max_size=3))
def test_void_id_is_no_class(ids: set[int], ignored: set[int]) -> None:
    if ids - ignored:
        label_space = space(list(ids), list(ignored))
        assert label_space.view().table[label_space.void_id] == IGNORE_INDEX


def test_an_ignored_class_is_no_class() -> None:
    assert space([0, 1, 2], [0]).view().names == ("class 1", "class 2")


@st.composite
def spaces_with_views(draw: st.DrawFn) -> LabelSpace:
    """A label space with up to three views, each a partition of some of its classes in any order."""
    ids = draw(st.sets(st.integers(0, 255), min_size=1, max_size=30))
    ignored = draw(st.sets(st.integers(0, 255), max_size=3))
    plain = space(sorted(ids | {7}), sorted(ignored - {7}))
    views = []
    for number in range(draw(st.integers(0, 3))):
        chosen = draw(st.lists(st.sampled_from([label.id for label in plain.classes]), min_size=1, unique=True))
        cuts = sorted(draw(st.sets(st.integers(1, len(chosen)), max_size=5)) | {0, len(chosen)})
        groups = [tuple(chosen[a:b]) for a, b in pairwise(cuts)]
        classes = tuple(ViewClass(name=f"group {i}", color=(i, 0, 255 - i), ids=group) for i, group in enumerate(groups))
        views.append(ViewSpec(name=f"v{number}", classes=classes))
    default = draw(st.sampled_from([None, "all", *(view.name for view in views)]))
    return replace(plain, views=tuple(views), default_view=default)


@given(spaces_with_views())
def test_a_view_has_its_classes_and_nothing_else(label_space: LabelSpace) -> None:
    for spec in label_space.views:
        view = label_space.view(spec.name)
        expected = np.full(256, IGNORE_INDEX)
        for index, c in enumerate(spec.classes):
            for i in c.ids:
                expected[i] = index
        assert view.name == spec.name
        assert view.table.tolist() == expected.tolist()
        assert view.table[list(view.native_ids)].tolist() == list(range(view.num_classes))
        assert view.palette[: view.num_classes].tolist() == [list(c.color) for c in spec.classes]
        assert view.table[label_space.void_id] == IGNORE_INDEX
    assert label_space.view().name == (label_space.default_view or "all")
    assert label_space.view("all").native_ids == tuple(label.id for label in label_space.classes)


@given(spaces_with_views())
def test_views_survive_their_own_dictionary(label_space: LabelSpace) -> None:
    entry = label_space.to_dict()
    assert LabelSpace.from_dict(json.loads(json.dumps(entry)), origin="here") == label_space
    assert ("views" in entry) == bool(label_space.views)
    assert ("default_view" in entry) == (label_space.default_view is not None)


META = """
name: some
ignore_ids: [9]
classes:
- {id: 13, name: road, color: [1, 2, 3]}
- {id: 7, name: kerb, color: [4, 5, 6]}
- {id: 8, name: sky}
default_view: 2
views:
  lanes: [{name: way, ids: [13, 7]}, {name: up, ids: [8], color: [9, 9, 9]}]
  2: [7, 13]
"""


def test_views_are_read_from_a_file_in_both_forms() -> None:
    label_space = LabelSpace.from_dict(yaml.safe_load(META), origin="meta.yaml")
    lanes, short = label_space.view("lanes"), label_space.view()
    assert (lanes.names, lanes.colors, lanes.native_ids) == (("way", "up"), ((1, 2, 3), (9, 9, 9)), (13, 8))
    assert lanes.table[[13, 7, 8, 9]].tolist() == [0, 0, 1, IGNORE_INDEX]
    assert (short.name, short.names, short.native_ids) == ("2", ("kerb", "road"), (7, 13))


def test_categories_of_classes_are_a_view() -> None:
    classes = [
        {"id": 4, "name": "car", "category": "vehicle"},
        {"id": 1, "name": "road"},
        {"id": 2, "name": "bus", "category": "vehicle"},
        {"id": 9, "name": "tram", "category": "vehicle"},
        {"id": 3, "name": "sky", "category": "other"},
    ]
    entry = {"name": "some", "classes": classes, "ignore_ids": [9]}
    made = LabelSpace.from_dict(entry, origin="file")
    view = made.view("categories")
    assert (view.names, view.native_ids) == (("vehicle", "other"), (4, 3))
    assert [int(view.table[i]) for i in (4, 2, 3, 1, 9)] == [0, 0, 1, IGNORE_INDEX, IGNORE_INDEX]
    assert made.view().name == "all"
    assert LabelSpace.from_dict(made.to_dict(), origin="file") == made
    own = LabelSpace.from_dict({**entry, "views": {"categories": [1]}}, origin="file")
    assert own.view("categories").names == ("road",)


def test_an_unknown_view_lists_the_known_ones() -> None:
    label_space = LabelSpace.from_dict(yaml.safe_load(META), origin="meta.yaml")
    with pytest.raises(InputError, match="view '19' of label space some: no such view, expected one of all, lanes, 2"):
        label_space.view("19")


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"views": {"a": [7, 99]}}, "view a: id 99 of class 99 found, expected the id of a class that is not ignored"),
        ({"views": {"a": [{"name": "x", "ids": [7, 99]}]}}, "view a: id 99 of class x found"),
        ({"views": {"a": [7, 9]}}, "view a: id 9 of class ground found, expected the id of a class that is not ignored"),
        ({"views": {"a": [{"name": "x", "ids": [7]}, {"name": "y", "ids": [8, 7]}]}}, "view a: id 7 is given to several classes"),
        ({"views": {"a": [{"name": "x", "ids": [7, 7]}]}}, "view a: id 7 is given to several classes, or twice"),
        ({"views": {"a": [{"name": "x", "ids": [7]}, {"name": "x", "ids": [8]}]}}, "view a: name x is given to several"),
        ({"views": {"a": [{"name": "x", "ids": []}]}}, "view a: class x without ids"),
        ({"views": {"a": []}}, "view a: no class found"),
        ({"views": {"a": 7}}, "view a: 7 is not a list"),
        ({"views": {"a": ["7"]}}, "id '7' is not a whole number"),
        ({"views": {"a": [{"ids": [7]}]}}, "KeyError 'name'"),
        ({"views": [7]}, "and `views` (name: a list of ids or of {name, ids, color?})"),
        ({"views": {"all": [7]}}, "view 'all' found, expected a name of its own"),
        ({"views": {"a b": [7]}}, "view 'a b' found, expected a name of its own"),
        ({"default_view": "a"}, "default_view 'a' found, expected one of all"),
    ],
)
def test_bad_views_name_the_file_and_the_fault(views: dict[str, object], words: str) -> None:
    classes = [{"id": 7, "name": "kerb"}, {"id": 8, "name": "sky"}, {"id": 9, "name": "ground"}]
    with pytest.raises(InputError, match=r"^meta\.yaml: ") as caught:
        LabelSpace.from_dict({"name": "some", "classes": classes, "ignore_ids": [9], **views}, origin="meta.yaml")
    assert words in str(caught.value)


def test_survives_its_own_dictionary() -> None:
    label_space = space([3, 1, 200], [7, 255])
    assert LabelSpace.from_dict(label_space.to_dict(), origin="here") == label_space


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "x", "classes": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}, "id 0 is given to several"),
        ({"name": "x", "classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "a"}]}, "name a is given to several"),
        ({"name": "x", "classes": [{"id": 256, "name": "a"}]}, "id 256 found, expected 0..255"),
        ({"name": "x", "classes": [{"id": 1, "name": "a"}], "ignore_ids": [1]}, "0 classes besides the ignored ids"),
        ({"name": "x", "classes": [{"id": 1, "name": "a"}], "supervision": "dots"}, "supervision 'dots'"),
        ({"name": "x", "classes": [{"id": 1, "name": "a", "color": [1, 2]}]}, "expected `name`, `classes`"),
        ({"name": "x", "classes": [{"id": 1.9, "name": "a"}]}, "id 1.9 is not a whole number"),
        ({"name": "x", "classes": [{"id": 1, "name": "a"}], "ignore_ids": "255"}, "id '2' is not a whole number"),
        ({"name": "a/b", "classes": [{"id": 1, "name": "a"}]}, "name: 'a/b' found"),
        ({"name": None, "classes": [{"id": 1, "name": "a"}]}, "name: None found"),
        ({"name": "x"}, "'classes'"),
        ({}, "expected `name`"),
    ],
)
def test_bad_label_spaces_name_the_file_and_the_fault(entry: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=r"^meta\.yaml: ") as caught:
        LabelSpace.from_dict(entry, origin="meta.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize("size", [(3, 5), (480, 640), (4096, 4097)])
def test_ids_are_counted(size: tuple[int, int]) -> None:
    label = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    label[: size[0] // 2] = 7
    assert count_ids(label).tolist() == np.bincount(label.ravel(), minlength=256).tolist()
    assert count_ids(label[:, ::2]).tolist() == np.bincount(label[:, ::2].ravel(), minlength=256).tolist()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"supervison": "none"}, "'supervison': unknown key found, expected supervision"),
        ({"ignore_id": [255]}, "'ignore_id': unknown key found, expected ignore_ids"),
        ({"default-view": "x"}, "'default-view': unknown key found, expected default_view"),
        ({"task": "box"}, "task: 'box' found, expected boxes or pixels"),
        ({"supervision": False}, "supervision False found"),
        ({"ignore_ids": 0}, "not iterable"),
        ({"classes": [{"id": 1, "name": "a", "colour": [1, 2, 3]}]}, "'colour': unknown key found, expected color"),
        ({"views": {"v": [{"name": "a", "id": [1]}]}}, "'id': unknown key found, expected ids"),
        ({"classes": [{"id": 1, "name": ["a"]}]}, "name a list is no text"),
        ({"classes": [{"id": 1, "name": True}]}, "name True is no text"),
    ],
)
def test_typos_and_wrong_types_are_told(entry: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        LabelSpace.from_dict({"name": "x", "classes": [{"id": 1, "name": "a"}], **entry}, origin="meta.yaml")
    assert words in str(caught.value)


def test_what_a_meta_says_besides_is_left_alone_and_numbers_are_names() -> None:
    names = ["origin", "licence", "license", "notes", "splits", "domain", "box_format", "categories", "ignore_name", "tags", "version"]
    entry = {"name": "x", "classes": [{"id": 1, "name": 50, "key": "k", "trainId": 3}], **dict.fromkeys(names, "text")}
    assert LabelSpace.from_dict(entry, origin="here").labels[0].name == "50"
