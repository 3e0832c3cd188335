"""A concatenation whose predictions go by a taxonomy, against sums, maxima and winners taken label by label."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from spaces import VIEWS, Plain
from torch import Tensor

from data.errors import FieldError, InputError
from data.labels import IGNORE_INDEX, View
from data.taxonomy import Overrides, Rules, Taxonomy, TaxonomyConfig, evidence_of, find_taxonomy, write_taxonomy
from models.outputs import ConcatConfig, build_outputs
from models.outputs.base import OutputSpace
from models.outputs.concat import Merge

FORCED = (
    "fine/road < coarse/ground",
    "fine/grass < coarse/ground",
    "fine/car < coarse/thing",
    "fine/sign < coarse/thing",
    "signs/stop < fine/sign",
)
"""And with these, signs/stop < coarse/thing. signs/yield and coarse/sky are related to none."""


def taxonomy() -> Taxonomy:
    return forced_taxonomy(VIEWS, FORCED)


def forced_taxonomy(views: Mapping[str, View], forced: tuple[str, ...]) -> Taxonomy:
    """With these relations, what follows from them, and no other."""
    labels = {name: list(view.names) for name, view in views.items()}
    pairs = [
        {
            "predictions_of": model,
            "labels_of": images,
            "predictions": labels[model],
            "labels": labels[images],
            "counts": np.ones((len(labels[images]), len(labels[model])), int).tolist(),
            "no_prediction": [0] * len(labels[images]),
        }
        for model in labels
        for images in labels
        if model != images
    ]
    return find_taxonomy(evidence_of({"version": 1, "pairs": pairs}), TaxonomyConfig(rules=Rules(share=0.9)), Overrides(force=forced))


LEAVES = tuple(f"{name}/{label}" for name, view in VIEWS.items() for label in view.names)

PARTS = {
    "coarse/ground": ("coarse/ground", "fine/road", "fine/grass"),
    "coarse/thing": ("coarse/thing", "fine/car", "fine/sign", "signs/stop"),
    "fine/sign": ("fine/sign", "signs/stop"),
}

SILENT = {
    "coarse": (),
    "fine": ("coarse/ground", "coarse/thing"),
    "signs": ("fine/sign", "coarse/thing"),
}
"""What labels of a dataset are a part of, and no label of it."""


def reference(logits: np.ndarray, dataset: str, merge: Merge, among: Literal["own", "all"]) -> int:
    """The class of one pixel (K,)."""
    own = [f"{dataset}/{label}" for label in VIEWS[dataset].names]
    of = dict(zip(LEAVES, logits.tolist(), strict=True))
    parts = {label: PARTS.get(label, (label,)) for label in own}
    used = {leaf for leaves in parts.values() for leaf in leaves}
    rivals = [leaf for leaf in LEAVES if leaf not in used and leaf not in SILENT[dataset]]
    if merge == "winner":
        winner = max(of, key=lambda leaf: of[leaf])
        for number, label in enumerate(own):
            if winner in parts[label]:
                return number
        if winner in rivals and among == "all":
            return IGNORE_INDEX
        return max(range(len(own)), key=lambda number: of[own[number]])
    total = {
        label: sum(of[leaf] for leaf in leaves) if merge == "logits" else np.logaddexp.reduce([of[leaf] for leaf in leaves])
        for label, leaves in parts.items()
    }
    best = max(range(len(own)), key=lambda number: total[own[number]])
    if among == "all" and any(of[leaf] > total[own[best]] for leaf in rivals):
        return IGNORE_INDEX
    return best


def built(merge: Merge, among: Literal["own", "all"], of: Taxonomy | None) -> OutputSpace:
    return build_outputs(ConcatConfig(name="concat", predict=among, taxonomy=of, merge=merge), VIEWS, Plain())


@pytest.mark.parametrize("among", ["own", "all"])
@pytest.mark.parametrize("merge", ["probabilities", "logits", "winner"])
def test_predictions_are_those_of_loops_over_labels(merge: Merge, among: Literal["own", "all"]) -> None:
    space = built(merge, among, taxonomy())
    logits = 2 * torch.randn(1, len(LEAVES), 16, 20, generator=torch.Generator().manual_seed(0))
    seen = set()
    for dataset in VIEWS:
        found = space.predict(logits, dataset)[0]
        expected = [[reference(logits[0, :, y, x].numpy(), dataset, merge, among) for x in range(20)] for y in range(16)]
        assert found.tolist() == expected
        classes, confidence = space.pseudo_labels(logits, dataset)
        assert torch.equal(classes[0], found)
        assert torch.all((confidence[0] == 0) == (found == IGNORE_INDEX))
        seen |= set(found.unique().tolist())
    assert (IGNORE_INDEX in seen) == (among == "all")


def test_probabilities_are_shares_of_all_that_competes() -> None:
    logits = torch.randn(1, len(LEAVES), 3, 4, generator=torch.Generator().manual_seed(1))
    p = logits.double().exp()[0]

    def mass(*names: str) -> Tensor:
        return sum((p[LEAVES.index(name)] for name in names), torch.zeros(3, 4, dtype=torch.float64))

    found = built("probabilities", "all", taxonomy()).class_log_probabilities(logits.double(), "signs").exp()[0]
    competing = mass("signs/stop", "signs/yield", "coarse/ground", "coarse/sky", "fine/road", "fine/grass", "fine/car")
    torch.testing.assert_close(found, torch.stack([mass("signs/stop"), mass("signs/yield")]) / competing)
    found = built("probabilities", "own", taxonomy()).class_log_probabilities(logits.double(), "coarse").exp()[0]
    sums = torch.stack([mass(*PARTS["coarse/ground"]), mass(*PARTS["coarse/thing"]), mass("coarse/sky")])
    torch.testing.assert_close(found, sums / sums.sum(dim=0))


def test_losses_do_not_know_the_taxonomy() -> None:
    logits = {name: torch.randn(2, len(LEAVES), 4, 5, generator=torch.Generator().manual_seed(2)) for name in VIEWS}
    labels = {name: torch.randint(0, view.num_classes, (2, 4, 5)) for name, view in VIEWS.items()}
    plain, merged = (built("probabilities", "own", of).losses(logits, labels) for of in (None, taxonomy()))
    assert {name: float(term.total) for name, term in plain.items()} == {name: float(term.total) for name, term in merged.items()}


def test_a_taxonomy_of_other_labels_is_told(tmp_path: Path) -> None:
    write_taxonomy(tmp_path / "t.yaml", taxonomy())
    config = ConcatConfig(name="concat", taxonomy=str(tmp_path / "t.yaml"))
    assert config.taxonomy == taxonomy()
    config.terms(VIEWS)
    with pytest.raises(InputError, match=r"labels\.coarse without 'road' found"):
        config.terms({"coarse": VIEWS["fine"]})


def test_a_dataset_of_the_run_that_the_taxonomy_lacks_keeps_to_itself() -> None:
    views = {"more": VIEWS["coarse"], "coarse": VIEWS["coarse"], "fine": VIEWS["fine"]}
    merged = build_outputs(ConcatConfig(name="concat", taxonomy=taxonomy()), views, Plain())
    assert merged.label_leaves("more") == (("more/ground",), ("more/thing",), ("more/sky",))
    assert merged.label_leaves("coarse")[1] == ("coarse/thing", "fine/car", "fine/sign")  # signs/stop is not in the run


@pytest.mark.parametrize("among", ["own", "all"])
@pytest.mark.parametrize("merge", ["probabilities", "logits"])
def test_labels_of_a_dataset_that_is_not_of_the_run_are_merged_alike(merge: Merge, among: Literal["own", "all"]) -> None:
    space = built(merge, among, taxonomy())
    logits = 2 * torch.randn(1, len(LEAVES), 8, 9, generator=torch.Generator().manual_seed(3))
    for dataset in VIEWS:
        table = space.table("fine", space.label_leaves(dataset))
        found = space.predict_through(logits, "fine", table, foreign=among == "all")
        assert torch.equal(found, space.predict(logits, dataset))


def test_the_winner_is_a_part_of_a_label_of_any_dataset() -> None:
    space = built("winner", "own", taxonomy())
    table = space.table("fine", [PARTS["coarse/ground"], (), ("signs/yield",)])
    logits = torch.zeros(1, len(LEAVES), 1, 3)
    for pixel, leaf in enumerate(("fine/grass", "signs/yield", "coarse/sky")):
        logits[0, LEAVES.index(leaf), 0, pixel] = 2.0
    logits[0, LEAVES.index("signs/yield"), 0, 2] = 1.0
    assert space.predict_through(logits, "fine", table)[0, 0].tolist() == [0, 2, 2]
    assert space.predict_through(logits, "fine", table, foreign=True)[0, 0].tolist() == [0, 2, IGNORE_INDEX]
    summed = built("logits", "own", taxonomy())
    assert summed.predict_through(-1 - logits, "fine", table).ne(1).all()  # a label without leaves is never predicted


def test_what_a_dataset_says_for_evidence_knows_no_relation() -> None:
    logits = torch.randn(1, len(LEAVES), 8, 9, generator=torch.Generator().manual_seed(4))
    plain, merged = built("probabilities", "own", None), built("winner", "all", taxonomy())
    for dataset in VIEWS:
        assert torch.equal(merged.predict_by_own_labels(logits, dataset), plain.predict(logits, dataset))
    assert (merged.predict(logits, "coarse") != plain.predict(logits, "coarse")).any()


def test_what_cannot_be_merged_is_told() -> None:
    with pytest.raises(FieldError, match="merge: logits found without a taxonomy"):
        ConcatConfig(name="concat", merge="logits")
    with pytest.raises(InputError, match="taxonomy: labels of coarse, fine, signs found, expected some of other"):
        ConcatConfig(name="concat", taxonomy=taxonomy()).terms({"other": VIEWS["coarse"]})
