"""From data.mix to a mixture: quotas, subsets, rare-class sampling."""

from pathlib import Path

import numpy as np
import pytest

from data.config import build
from data.errors import InputError
from data.index import LabelCounts
from data.mixture import Mixture
from data.rare import RareClassOrder
from data.shards import ShardSplit
from data.streams import FixedQuota, ProportionalQuota, QuotaConfig, RareClassConfig, ReplicateQuota, StreamConfig, TemperatureQuota
from data.streams import build_mixture as build_mixture_of
from trainers.config import DataConfig


@pytest.fixture
def splits(shards: Path) -> dict[str, ShardSplit]:
    """Ten samples each; as `short` four of them."""
    return {
        "disks": ShardSplit(shards / "disks", "train"),
        "tones": ShardSplit(shards / "tones", "train"),
        "short": ShardSplit(shards / "disks", "val"),
    }


def build_mixture(splits: dict[str, ShardSplit], streams: dict[str, StreamConfig], quota: QuotaConfig | None = None) -> Mixture:
    used = {name: splits[stream.dataset or name] for name, stream in streams.items()}
    return build_mixture_of(streams, used, {name: split.label_space.view() for name, split in used.items()}, seed=0, quota=quota)


def seen(mixture: Mixture, steps: int) -> dict[str, int]:
    numbers = [draw.stream for step in range(steps) for draw in mixture.draws(step)]
    return {stream.name: numbers.count(i) for i, stream in enumerate(mixture.streams)}


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        (ReplicateQuota(name="replicate", batch=6), {"disks": 200, "short": 200, "tones": 200}),
        (ProportionalQuota(name="proportional", batch=6), {"disks": 250, "short": 100, "tones": 250}),
        (TemperatureQuota(name="temperature", batch=6, temperature=1), {"disks": 250, "short": 100, "tones": 250}),
        # sqrt(10) : sqrt(4) : sqrt(10)
        (TemperatureQuota(name="temperature", batch=6, temperature=2), {"disks": 228, "short": 144, "tones": 228}),
    ],
)
def test_quotas_deal_out_the_batch(splits: dict[str, ShardSplit], quota: QuotaConfig, expected: dict[str, int]) -> None:
    mixture = build_mixture(splits, dict.fromkeys(("disks", "short", "tones"), StreamConfig()), quota)
    assert mixture.batch_size == 6
    assert seen(mixture, 100) == pytest.approx(expected, abs=2)


def test_replicating_shows_each_sample_of_the_smaller_set_more_often(splits: dict[str, ShardSplit]) -> None:
    mixture = build_mixture(splits, dict.fromkeys(("disks", "short"), StreamConfig()), ReplicateQuota(name="replicate", batch=4))
    draws = [draw for step in range(10) for draw in mixture.draws(step)]
    assert np.bincount([draw.sample for draw in draws if draw.stream == 0]).tolist() == [2] * 10
    assert np.bincount([draw.sample for draw in draws if draw.stream == 1]).tolist() == [5] * 4


def test_a_subset_and_its_rest_are_the_whole(splits: dict[str, ShardSplit]) -> None:
    streams = {
        "some": StreamConfig(samples=1, dataset="disks", subset="1/4", subset_seed=3),
        "rest": StreamConfig(samples=1, dataset="disks", subset="1/4", subset_seed=3, rest=True, role="unlabelled"),
    }
    mixture = build_mixture(splits, streams)
    assert [stream.order.num_samples for stream in mixture.streams] == [3, 7]
    drawn = [{draw.sample for step in range(7) for draw in mixture.draws(step) if draw.stream == stream} for stream in (0, 1)]
    assert drawn[0] | drawn[1] == set(range(10))
    assert not drawn[0] & drawn[1]


COUNTS = LabelCounts(
    # Sample 0: classes 0 (90 pixels) and 255; 1: 0 and 1 (10); 2: 0; 3: 0 and 2, of which there are 3 pixels only; 4: ignored ids alone.
    starts=np.array([0, 2, 4, 5, 7, 8]),
    ids=np.array([0, 255, 0, 1, 0, 0, 2, 255], np.uint8),
    pixels=np.array([90, 10, 90, 10, 100, 97, 3, 100]),
)
TABLE = np.array([0, 1, 2, *[255] * 253], np.uint8)


def test_rare_classes_are_drawn_as_often_as_the_formula_says() -> None:
    order = RareClassOrder(0, "x", COUNTS, TABLE, temperature=0.5)
    frequency = np.array([90 + 90 + 100 + 97, 10, 3]) / 390
    expected = np.exp((1 - frequency) / 0.5)
    np.testing.assert_allclose(order.probability, expected / expected.sum())
    draws = np.array([order.sample(n // 5, n % 5) for n in range(20000)])
    share = np.bincount(draws, minlength=5) / len(draws)
    p = order.probability
    # Class 0 is in four images, class 1 in the second, class 2 in the fourth.
    np.testing.assert_allclose(share, [p[0] / 4, p[0] / 4 + p[1], p[0] / 4, p[0] / 4 + p[2], 0], atol=0.015)


def test_rare_draws_are_a_function_of_their_place_and_keep_to_the_subset() -> None:
    order = RareClassOrder(0, "x", COUNTS, TABLE, temperature=0.01, rows=np.array([0, 1, 2]))
    assert order.num_samples == 3
    assert {order.sample(1, n) for n in range(50)} == {1}  # the only one with a rare class
    assert [order.sample(4, n) for n in range(20)] == [
        RareClassOrder(0, "x", COUNTS, TABLE, temperature=0.01, rows=np.array([0, 1, 2])).sample(4, n) for n in range(20)
    ]
    assert RareClassOrder(0, "x", COUNTS, TABLE, temperature=0.5, min_pixels=4).classes.tolist() == [0, 1]
    with pytest.raises(ValueError, match="no image with 1000 pixels"):
        RareClassOrder(0, "x", COUNTS, TABLE, temperature=0.5, min_pixels=1000)


def test_rare_classes_in_a_mix(splits: dict[str, ShardSplit]) -> None:
    rare = RareClassConfig(temperature=0.1, min_pixels=50)
    mixture = build_mixture(splits, {"disks": StreamConfig(samples=2, rare_classes=rare)})
    assert {draw.sample for step in range(100) for draw in mixture.draws(step)} <= set(range(10))
    with pytest.raises(InputError, match=r"data\.mix\.disks\.rare_classes: no image with 9000000 pixels"):
        build_mixture(splits, {"disks": StreamConfig(samples=2, rare_classes=RareClassConfig(min_pixels=9000000))})


def test_label_counts_add_up(splits: dict[str, ShardSplit]) -> None:
    counts = splits["disks"].labels()
    rows = splits["disks"].index.to_pylist()
    expected = np.zeros(256, np.int64)
    for row in rows:
        expected[row["label_ids"]] += row["label_pixels"]
    assert counts.total().tolist() == expected.tolist()


MIX = {"root": "x", "crop": {"size": [64, 64]}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mix": ["a", "a"]}, "data.mix: a given twice"),
        ({"mix": {"a": {"rest": True}}}, "data.mix.a.rest: true without subset"),
        ({"mix": {"a": {"samples": 0}}}, "data.mix.a.samples: 0 found"),
        ({"mix": {"a": {"samples": 1, "rare_classes": {"temperature": 0}}}}, "data.mix.a.rare_classes.temperature: 0.0 found"),
        ({"mix": {"a": {"samples": 1, "crop": {"size": [8, 8]}}}}, r"data.mix.a.crop.size: \[8, 8\] found"),
        ({"mix": {"a": 0}}, "data.mix.a: 0 samples found"),
        ({"mix": {"a": 1}, "quota": {"name": "temperature", "batch": 4, "temperature": 0.5}}, "data.quota.temperature: 0.5"),
        ({"mix": {"a": 1}, "quota": {"name": "replicate", "batch": 0}}, "data.quota.batch: 0"),
        ({"mix": {"a": 1}, "quota": {"name": "temprature", "batch": 1}}, "did you mean temperature"),
    ],
)
def test_configs_that_cannot_be_are_told(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(DataConfig, {**MIX, **words}, key="data")


def test_samples_and_quotas_exclude_each_other(splits: dict[str, ShardSplit]) -> None:
    with pytest.raises(InputError, match=r"data\.mix\.disks\.samples: missing"):
        build_mixture(splits, {"disks": StreamConfig()})
    with pytest.raises(InputError, match=r"data\.mix\.disks\.samples: 2 found, but data\.quota\.name=replicate .*'data\.mix=\[disks\]'"):
        build_mixture(splits, {"disks": StreamConfig(samples=2)}, ReplicateQuota(name="replicate", batch=4))


def test_a_list_of_names_is_a_mix() -> None:
    config = build(DataConfig, {**MIX, "mix": ["a", "b"], "quota": {"name": "proportional", "batch": 8}})
    assert config.streams == {"a": StreamConfig(), "b": StreamConfig()}
    assert build(DataConfig, {**MIX, "mix": {"a": 3}}).quota == FixedQuota()
