"""What relations change in the scores of a concatenation, from stored winners."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_merging import LEAVES, VIEWS, built, taxonomy

from data.errors import InputError
from data.taxonomy.hypotheses import (
    Among,
    Effect,
    Winners,
    effects,
    matrices,
    mean_iou,
    parts_of,
    predictions,
    read_winners,
    score,
    write_winners,
)
from data.taxonomy.pictures import effects_picture
from trainers.metrics import scores


def random_winners(dataset: str, seed: int = 0, images: int = 6) -> Winners:
    rng, labels, entries = np.random.default_rng(seed), VIEWS[dataset].names, 400
    return Winners(
        dataset=dataset,
        labels=labels,
        leaves=LEAVES,
        images=tuple(f"image {i}" for i in range(images)),
        image=rng.integers(images, size=entries).astype(np.int32),
        truth=rng.integers(len(labels), size=entries).astype(np.int32),
        winner=rng.integers(len(LEAVES), size=entries).astype(np.int32),
        own=rng.integers(len(labels), size=entries).astype(np.int32),
        pixels=rng.integers(1, 50, size=entries),
    )


@pytest.mark.parametrize("among", ["own", "all"])
@pytest.mark.parametrize("dataset", list(VIEWS))
def test_predictions_are_those_of_a_concatenation(dataset: str, among: Among) -> None:
    logits = torch.randn(1, len(LEAVES), 20, 20, generator=torch.Generator().manual_seed(0))
    own = [LEAVES.index(f"{dataset}/{label}") for label in VIEWS[dataset].names]
    of = replace(random_winners(dataset), winner=logits.argmax(dim=1).flatten().numpy(), own=logits[:, own].argmax(dim=1).flatten().numpy())
    expected = built("winner", among, taxonomy()).predict(logits, dataset).flatten().numpy()
    np.testing.assert_array_equal(predictions(of, parts_of(taxonomy()), among), np.where(expected == 255, len(own), expected))


def test_matrices_and_scores_are_counted_as_in_evaluation() -> None:
    of = random_winners("fine")
    parts = parts_of(taxonomy())
    found, guess = matrices(of, parts, "all"), predictions(of, parts, "all")
    expected = np.zeros((6, 4, 5), np.int64)
    for entry in range(len(of.pixels)):
        expected[of.image[entry], of.truth[entry], guess[entry]] += of.pixels[entry]
    np.testing.assert_array_equal(found, expected)
    assert score([of], parts, "all")["fine"] == pytest.approx(scores(expected.sum(axis=0), of.labels).miou)
    total = expected.sum(axis=0)
    total[2] = total[:, 2] = 0  # a class that is nowhere
    assert mean_iou(total) == pytest.approx(scores(total, of.labels).miou)
    total[0, 2] = 7  # and one that is only predicted
    assert mean_iou(total) == pytest.approx(scores(total, of.labels).miou)
    assert np.isnan(mean_iou(np.zeros((4, 5))))


def test_a_change_is_the_score_with_a_relation_less_that_without() -> None:
    winners = [random_winners(name, seed) for seed, name in enumerate(VIEWS)]
    found = list(effects(taxonomy(), winners, draws=50))
    datasets = {(r.a, r.b, name.split("/")[0]) for r in taxonomy().relations for name in (r.a, r.b)}
    assert {(e.a, e.b, e.dataset) for e in found} == datasets
    whole = parts_of(taxonomy())
    one = next(e for e in found if (e.a, e.b, e.dataset) == ("fine/car", "coarse/thing", "coarse"))
    less = {**whole, "coarse/thing": whole["coarse/thing"] - {"fine/car"}}
    assert one.miou == score(winners, whole, "all")["coarse"]
    assert one.change == pytest.approx(one.miou - score(winners, less, "all")["coarse"])
    assert one.low <= one.change <= one.high
    assert effects_picture(found).axes


def test_what_is_right_helps_and_what_is_wrong_hurts() -> None:
    """On every image fine/road wins on half of the ground, where sky is the dataset's own best, and fine/car on half of the sky."""
    images, names = 8, VIEWS["coarse"].names
    rows = [(0, "coarse/ground", 0), (0, "fine/road", 2), (1, "coarse/thing", 1), (2, "coarse/sky", 2), (2, "fine/car", 2)]
    image, entry = (grid.ravel() for grid in np.meshgrid(np.arange(images), np.arange(len(rows)), indexing="ij"))
    of = Winners(
        dataset="coarse",
        labels=names,
        leaves=LEAVES,
        images=tuple(map(str, range(images))),
        image=image.astype(np.int32),
        truth=np.array([row[0] for row in rows], np.int32)[entry],
        winner=np.array([LEAVES.index(row[1]) for row in rows], np.int32)[entry],
        own=np.array([row[2] for row in rows], np.int32)[entry],
        pixels=np.full(len(entry), 100),
    )
    verdicts = {(e.a, e.b): e.verdict for e in effects(taxonomy(), [of], among="own")}
    assert verdicts["fine/road", "coarse/ground"] == "helps"
    assert verdicts["fine/car", "coarse/thing"] == "hurts"
    assert verdicts["fine/grass", "coarse/ground"] == "open"


def test_the_file_holds_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winners = [random_winners("coarse"), random_winners("fine", 1)]
    write_winners(tmp_path / "w.parquet", winners)
    again = read_winners(tmp_path / "w.parquet")
    for before, after in zip(winners, again, strict=True):
        assert (before.dataset, before.labels, before.leaves, before.images) == (after.dataset, after.labels, after.leaves, after.images)
        for name in ("image", "truth", "winner", "own", "pixels"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    (tmp_path / "w.parquet").write_bytes((tmp_path / "w.parquet").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"w\.parquet: no file of winners"):
        read_winners(tmp_path / "w.parquet")
    monkeypatch.setattr("data.taxonomy.hypotheses.VERSION", 2)
    write_winners(tmp_path / "w.parquet", winners)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"^\S*w\.parquet: version 2 found, expected 1; collect them again: test=RUN$"):
        read_winners(tmp_path / "w.parquet")
    with pytest.raises(InputError, match=r"nowhere\.parquet"):
        read_winners(tmp_path / "nowhere.parquet")


def test_among_own_labels_what_one_is_a_part_of_is_not_tested() -> None:
    found = list(effects(taxonomy(), [random_winners(name) for name in VIEWS], among="own", draws=10))
    assert {(effect.a, effect.dataset) for effect in found if effect.a == "fine/car"} == {("fine/car", "coarse")}


def test_other_labels_are_told() -> None:
    nothing = replace(random_winners("coarse"), pixels=np.zeros(400, np.int64))
    with pytest.raises(InputError, match="test: pixels of no dataset found, expected some of coarse, fine, signs"):
        list(effects(taxonomy(), [nothing]))
    of = replace(random_winners("coarse"), labels=("ground", "thing", "heaven"))
    with pytest.raises(InputError, match="coarse/heaven found in one of taxonomy and concatenation only"):
        list(effects(taxonomy(), [of]))


def test_an_interval_on_one_side_of_nothing_is_a_verdict() -> None:
    effect = Effect(a="a/x", kind="equal", b="b/x", dataset="a", miou=0.5, change=0.1, low=0.01, high=0.2)
    assert (effect.verdict, replace(effect, low=0.0).verdict, replace(effect, low=-1, high=-0.1).verdict) == ("helps", "open", "hurts")
