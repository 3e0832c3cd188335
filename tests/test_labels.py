import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.labels import IGNORE_INDEX, Label, LabelSpace


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
