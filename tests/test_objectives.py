"""How good a taxonomy is, by what was stored."""

import numpy as np
import pytest
from test_hypotheses import random_winners
from test_merging import VIEWS, taxonomy

from data.taxonomy import Evidence, Overrides, Rules, TaxonomyConfig, find_taxonomy
from data.taxonomy.hypotheses import parts_of, score
from data.taxonomy.objectives import ERROR, agreement, likelihood, merged_miou

EVIDENCE = Evidence(
    labels={"a": ("road", "car", "sky"), "b": ("ground", "thing")},
    counts={("a", "b"): np.array([[90, 10, 0], [10, 90, 0]]), ("b", "a"): np.array([[50, 0], [0, 40], [5, 5]])},
    pixels={("a", "b"): 200, ("b", "a"): 100},
)


def of(*forced: str) -> float:
    found = find_taxonomy(EVIDENCE, TaxonomyConfig(rules=Rules(share=1.0)), Overrides(force=forced))
    return likelihood(found, EVIDENCE)


def test_the_likelihood_is_that_of_the_true_labels() -> None:
    """a/road < b/ground, b/thing is related to none: a pixel that is called road is ground, one that is called thing may be any label."""
    right, wrong, blind = (1 - ERROR) + ERROR / 2, ERROR / 2, 1 / 2
    on_b = (90 * np.log(right) + 10 * np.log(wrong) + 100 * np.log(blind)) / 200  # called road; called car
    right, wrong, blind = (1 - ERROR) + ERROR / 3, ERROR / 3, 1 / 3
    on_a = (50 * np.log(right) + 5 * np.log(wrong) + 45 * np.log(blind)) / 100  # called ground; called thing
    assert of("a/road < b/ground") == pytest.approx((on_b + on_a) / 2)


def test_the_truth_is_more_likely_than_less_and_than_what_is_wrong() -> None:
    both = of("a/road < b/ground", "a/car = b/thing")
    assert both > of("a/road < b/ground") > of("a/sky < b/ground")
    assert both > of("a/road < b/thing", "a/car = b/ground")


def test_merged_miou_is_the_mean_over_datasets() -> None:
    winners = [random_winners(name) for name in VIEWS]
    assert merged_miou(taxonomy(), winners) == pytest.approx(np.mean(list(score(winners, parts_of(taxonomy()), "all").values())))


def test_agreement_counts_pairs_by_direction() -> None:
    true = np.eye(4, dtype=bool)
    true[0, 2] = true[2, 0] = true[1, 3] = True
    found = true.copy()
    assert agreement(found, true) == 1
    found[2, 0], found[3, 1] = False, True
    assert agreement(found, true) == pytest.approx(2 * 2 / (3 + 3))
    assert agreement(np.eye(4, dtype=bool), np.eye(4, dtype=bool)) == 1
