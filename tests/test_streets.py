"""Drawn streets: pictures are pure functions of (seed, split, index), and the truth that comes with them is exact."""

import hashlib
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from data.errors import InputError
from data.streets import (
    ATOM_IDS,
    ATOMS,
    SIGN_FRONTS,
    STREET_SPACES,
    Scene,
    atom_palette,
    atoms_of,
    label_space,
    native_ids,
    relation,
    render,
    true_relations,
)
from data.streets.source import StreetEntry, StreetsConfig, StreetsSource

ROOT = Path(__file__).parents[1]
NUM_SCENES = 60
PIXEL_SPACES = [name for name, space in STREET_SPACES.items() if space.label_space.supervision == "pixels"]
PAIRS = [(a, b) for a in STREET_SPACES for b in STREET_SPACES]


@cache
def scenes() -> tuple[Scene, ...]:
    return tuple(render(3, index, "tests/all") for index in range(NUM_SCENES))


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.atoms.tobytes() + scene.boxes.tobytes()).hexdigest()


def test_shapes_and_types():
    scene = render(0, 0, "a", size=(96, 160))
    assert (scene.image.shape, scene.image.dtype) == ((96, 160, 3), np.uint8)
    assert (scene.atoms.shape, scene.atoms.dtype) == ((96, 160), np.uint8)
    assert (scene.boxes.ndim, scene.boxes.shape[1], scene.boxes.dtype) == (2, 5, np.int32)


def test_scene_does_not_depend_on_what_was_drawn_before():
    first = digest(render(7, 5, "streets_fine/train"))
    np.random.default_rng(0).random()
    for index in (4, 6):
        render(7, index, "streets_fine/train")
    assert digest(render(7, 5, "streets_fine/train")) == first


def test_scene_is_the_same_in_another_process():
    code = (
        "import hashlib; from data.streets import render; s = render(7, 5, 'streets_fine/train');"
        "print(hashlib.sha256(s.image.tobytes() + s.atoms.tobytes() + s.boxes.tobytes()).hexdigest())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == digest(render(7, 5, "streets_fine/train"))


def test_seed_index_and_split_each_change_the_scene():
    variants = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    assert len({digest(render(seed, index, split, size=(64, 128))) for seed, index, split in variants}) == len(variants)


@pytest.mark.parametrize("size", [(32, 32), (65, 97), (128, 64)])
def test_any_size(size):
    scene = render(1, 2, "a", size=size)
    assert scene.image.shape == (*size, 3)
    assert scene.atoms.max() < len(ATOMS)


@pytest.mark.parametrize("arguments", [{"size": (16, 384)}, {"seed": -1}, {"index": -1}])
def test_unusable_arguments_are_refused(arguments):
    values = {"seed": 0, "index": 0, "split": "a", **arguments}
    with pytest.raises(InputError, match="expected"):
        render(values.pop("seed"), values.pop("index"), values.pop("split"), **values)


def test_atom_ids_are_valid_and_every_atom_occurs():
    num_scenes = Counter()
    for scene in scenes():
        num_pixels = np.bincount(scene.atoms.ravel(), minlength=len(ATOMS))
        assert len(num_pixels) == len(ATOMS)
        num_scenes.update(np.flatnonzero(num_pixels >= 10).tolist())
    rare = [atom.name for atom in ATOMS if num_scenes[atom.id] < 0.04 * NUM_SCENES]
    assert not rare


def test_pictures_show_what_the_ids_say():
    """The sky is brighter than asphalt, grass and trees greener than houses: image and ids share their geometry."""
    colors = {name: [] for name in ("sky", "asphalt", "tree", "building")}
    for scene in scenes():
        for name, means in colors.items():
            pixels = scene.image[scene.atoms == ATOM_IDS[name]]
            if len(pixels) > 200:
                means.append(pixels.mean(0))
    mean = {name: np.mean(means, 0) for name, means in colors.items()}
    assert mean["sky"].sum() > mean["asphalt"].sum() + 60
    green = {name: 2 * color[1] - color[0] - color[2] for name, color in mean.items()}
    assert green["tree"] > green["building"] + 5


def test_edges_of_ids_are_edges_of_the_picture():
    """A shift of the ids by three pixels to either side must fit the picture less well than no shift."""
    gain = 0.0
    for scene in scenes()[:20]:
        gray = scene.image.astype(np.float32).mean(2)
        contrast = np.abs(np.diff(gray, axis=1))
        edges = np.diff(scene.atoms, axis=1) != 0
        here = contrast[:, 3:-3][edges[:, 3:-3]].mean()
        beside = max(contrast[:, 3:-3][np.roll(edges, shift, 1)[:, 3:-3]].mean() for shift in (-3, 3))
        gain += (here - beside) / 20
    assert gain > 5


def test_boxes_are_tight_around_pixels_of_their_sign():
    num_boxes = 0
    for scene in scenes():
        for x1, y1, x2, y2, atom in scene.boxes.tolist():
            num_boxes += 1
            assert ATOMS[atom].name in SIGN_FRONTS
            assert min(x2 - x1, y2 - y1) + 1 >= 4
            inside = scene.atoms[y1 : y2 + 1, x1 : x2 + 1] == atom
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
    assert num_boxes > NUM_SCENES


def test_sign_pixels_outside_all_boxes_are_few():
    """Only signs too small for a box have pixels of a sign front outside of the boxes of that kind."""
    outside = inside = 0
    for scene in scenes():
        boxed = np.zeros_like(scene.atoms, bool)
        for x1, y1, x2, y2, atom in scene.boxes.tolist():
            boxed[y1 : y2 + 1, x1 : x2 + 1] |= scene.atoms[y1 : y2 + 1, x1 : x2 + 1] == atom
        front = np.isin(scene.atoms, [ATOM_IDS[name] for name in SIGN_FRONTS])
        outside, inside = outside + int((front & ~boxed).sum()), inside + int((front & boxed).sum())
    assert outside < 0.02 * inside


@pytest.mark.parametrize("name", PIXEL_SPACES)
def test_pixel_spaces_partition_the_atoms(name):
    space = STREET_SPACES[name]
    groups = [*space.atoms.values(), space.ignored]
    assert sorted(atom for group in groups for atom in group) == [atom.id for atom in ATOMS]
    table = native_ids(name)
    for label in space.label_space.classes:
        assert {atom.id for atom in ATOMS if table[atom.id] == label.id} == set(atoms_of(name, label.name))
    assert {int(table[atom]) for atom in space.ignored} == set(space.label_space.ignore_ids)


def test_label_images_hold_known_ids_alone():
    for name in PIXEL_SPACES:
        known = label_space(name).known_ids
        assert all(known[native_ids(name)[scene.atoms]].all() for scene in scenes())


def test_label_spaces_disagree():
    coarse, fine = label_space("streets_coarse"), label_space("streets_fine")
    assert coarse.ignore_ids == (255,)
    assert fine.ignore_ids == (len(fine.classes),)
    assert not np.array_equal(native_ids("streets_coarse"), native_ids("streets_fine"))
    assert {found.kind for found in true_relations("streets_coarse", "streets_fine")} == {
        "equal",
        "subset",
        "superset",
        "overlap",
    }


def test_box_space_has_the_sign_fronts_and_nothing_else():
    space = STREET_SPACES["streets_signs"]
    assert space.label_space.supervision == "boxes"
    assert sorted(ATOMS[atom].name for group in space.atoms.values() for atom in group) == sorted(SIGN_FRONTS)
    background = [atom.id for atom in ATOMS if atom.name not in SIGN_FRONTS]
    assert set(native_ids("streets_signs")[background].tolist()) == {space.label_space.void_id}


@pytest.mark.parametrize(("space_a", "space_b"), PAIRS)
def test_relations_are_what_pixels_show(space_a, space_b):
    """Recount every relation from the pixels in which both labels meet, in pictures that show every atom."""
    masks = {space: _label_masks(space) for space in (space_a, space_b)}
    expected = {}
    for a, mask_a in masks[space_a].items():
        for b, mask_b in masks[space_b].items():
            both, only_a, only_b = (mask_a & mask_b).any(), (mask_a & ~mask_b).any(), (mask_b & ~mask_a).any()
            kind = {(False, False): "equal", (False, True): "subset", (True, False): "superset", (True, True): "overlap"}
            expected[a, b] = kind[bool(only_a), bool(only_b)] if both else "disjoint"
    assert {(a, b): relation(space_a, a, space_b, b) for a, b in expected} == expected
    listed = {(found.label_a, found.label_b): found.kind for found in true_relations(space_a, space_b)}
    assert listed == {pair: kind for pair, kind in expected.items() if kind != "disjoint"}


def _label_masks(space):
    atoms = np.stack([scene.atoms for scene in scenes()])
    native = native_ids(space)[atoms]
    return {label.name: native == label.id for label in label_space(space).classes}


def test_relations_turn_around():
    opposite = {"equal": "equal", "subset": "superset", "superset": "subset", "overlap": "overlap"}
    forth = true_relations("streets_coarse", "streets_signs")
    back = {(found.label_b, found.label_a): found.kind for found in true_relations("streets_signs", "streets_coarse")}
    assert {(found.label_a, found.label_b): opposite[found.kind] for found in forth} == back


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match="streets_coarse, streets_fine, streets_signs"):
        label_space("cityscapes")
    with pytest.raises(InputError, match="crosswalk"):
        relation("streets_fine", "pavement", "streets_coarse", "road")


def test_atoms_have_colors_of_their_own():
    assert len({tuple(color) for color in atom_palette()[: len(ATOMS)].tolist()}) == len(ATOMS)


def test_label_spaces_are_chosen() -> None:
    assert StreetsConfig(name="streets").names == ("streets_coarse", "streets_fine", "streets_signs")
    assert StreetsConfig(name="streets", spaces=("streets_extended",)).names == ("streets_extended",)
    entry = StreetEntry("train", 3)
    every, one, small = (
        StreetsSource("streets_signs", StreetsConfig(name="streets", **keys)).fingerprint(entry)
        for keys in ({}, {"spaces": ("streets_signs",), "train": 9}, {"size": (64, 64)})
    )
    assert every == one != small
    with pytest.raises(InputError, match="label space 'streets_fin' of the drawn streets: not found, expected one of streets_coarse"):
        StreetsConfig(name="streets", spaces=("streets_fin",))


def test_extended_is_coarse_with_sign_types() -> None:
    extended, coarse = STREET_SPACES["streets_extended"], STREET_SPACES["streets_coarse"]
    types = set(extended.atoms) - set(coarse.atoms)
    assert types == set(STREET_SPACES["streets_signs"].atoms)
    assert frozenset().union(*(extended.atoms[name] for name in types)) == coarse.atoms["traffic_sign"]


def test_rendered_has_the_labels_of_coarse_and_looks_otherwise() -> None:
    rendered, coarse = STREET_SPACES["streets_rendered"], STREET_SPACES["streets_coarse"]
    assert dict(rendered.atoms) == dict(coarse.atoms)
    assert not np.array_equal(rendered.native_ids(), coarse.native_ids())
    images, shares = {}, {}
    for name, space in (("rendered", rendered), ("coarse", coarse)):
        drawn = [render(0, index, "tests/look", size=(64, 128), look=space.look) for index in range(12)]
        images[name] = np.stack([scene.image for scene in drawn]).astype(float)
        atoms = np.stack([scene.atoms for scene in drawn])
        shares[name] = {label: np.isin(atoms, list(members)).mean() for label, members in space.atoms.items()}
    saturation = {name: (found.max(axis=-1) - found.min(axis=-1)).mean() for name, found in images.items()}
    assert saturation["rendered"] > 1.5 * saturation["coarse"]
    for label, times in {"person": 0.6, "building": 0.8}.items():  # fewer of them
        assert shares["rendered"][label] < times * shares["coarse"][label]
    assert shares["rendered"]["vegetation"] > 1.3 * shares["coarse"]["vegetation"]
    source = StreetsSource("streets_rendered", StreetsConfig(name="streets", size=(64, 128)))
    assert source.load(StreetEntry("train", 0), jpeg_quality=90).label is not None
