"""From data.mix to a mixture: quotas, subsets, rare-class sampling."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import build
from data.errors import InputError
from data.index import Index, LabelCounts, Labels
from data.mixture import Mixture
from data.rare import RareClassOrder
from data.shards import ShardSplit
from data.streams import (
    FixedQuota,
    ProportionalQuota,
    QuotaConfig,
    RareClassConfig,
    ReplicateQuota,
    StreamConfig,
    TemperatureQuota,
    unsupervised_classes,
)
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
    names = {splits["disks"].key(sample) for sample in drawn[0]}
    assert names == PINNED_SUBSET
    with pytest.raises(InputError, match=r"data\.mix\.disks\.subset: '11' of 10 samples"):
        build_mixture(splits, {"disks": StreamConfig(samples=1, subset="11")})


PINNED_SUBSET = {"train_01", "train_03", "train_05"}
"""A change of it would silently change what every run with a subset is trained on."""


COUNTS = LabelCounts(
    # Sample 0: classes 0 (90 pixels) and 255; 1: 0 and 1 (10); 2: 0; 3: 0 and 2, of which there are 3 pixels only; 4: ignored ids alone.
    starts=np.array([0, 2, 4, 5, 7, 8]),
    ids=np.array([0, 255, 0, 1, 0, 0, 2, 255], np.uint8),
    pixels=np.array([90, 10, 90, 10, 100, 97, 3, 100]),
)
TABLE = np.array([0, 1, 2, *[255] * 253], np.uint8)


def test_rare_classes_are_drawn_as_often_as_the_formula_says() -> None:
    order = RareClassOrder(0, "x", [COUNTS], TABLE, temperature=0.5)
    frequency = np.array([90 + 90 + 100 + 97, 10, 3]) / 390
    expected = np.exp((1 - frequency) / 0.5)
    np.testing.assert_allclose(order.probability, expected / expected.sum())
    draws = np.array([order.sample(n // 5, n % 5) for n in range(20000)])
    share = np.bincount(draws, minlength=5) / len(draws)
    p = order.probability
    # Class 0 is in four images, class 1 in the second, class 2 in the fourth.
    np.testing.assert_allclose(share, [p[0] / 4, p[0] / 4 + p[1], p[0] / 4, p[0] / 4 + p[2], 0], atol=0.015)


def test_rare_draws_are_a_function_of_their_place_and_keep_to_the_subset() -> None:
    order = RareClassOrder(0, "x", [COUNTS], TABLE, temperature=0.01, rows=np.array([0, 1, 2]))
    assert order.num_samples == 3
    assert {order.sample(1, n) for n in range(50)} == {1}  # the only one with a rare class
    assert [order.sample(4, n) for n in range(20)] == [
        RareClassOrder(0, "x", [COUNTS], TABLE, temperature=0.01, rows=np.array([0, 1, 2])).sample(4, n) for n in range(20)
    ]
    assert RareClassOrder(0, "x", [COUNTS], TABLE, temperature=0.5, min_pixels=4).classes.tolist() == [0, 1]
    with pytest.raises(ValueError, match="no image with 1000 pixels"):
        RareClassOrder(0, "x", [COUNTS], TABLE, temperature=0.5, min_pixels=1000)


entries = st.dictionaries(st.integers(0, 11), st.integers(0, 60), max_size=6)


@given(
    samples=st.lists(entries, min_size=1, max_size=20),
    classes=st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=12, max_size=12),
    chunk=st.integers(1, 25),
    min_pixels=st.integers(1, 40),
    data=st.data(),
)
def test_rare_classes_some_samples_at_a_time_are_those_of_all_at_once(
    samples: list[dict[int, int]], classes: list[int], chunk: int, min_pixels: int, data: st.DataObject
) -> None:
    """To the last bit."""
    table = np.array([*classes, *[255] * 244], np.uint8)
    rows = data.draw(st.none() | st.sets(st.integers(0, len(samples) - 1), min_size=1).map(lambda some: np.array(sorted(some), np.int32)))
    chunks = [counts_of(samples[first : first + chunk], first) for first in range(0, len(samples), chunk)]
    expected = rare_all_at_once(counts_of(samples), table, min_pixels, rows)
    if not len(expected["classes"]):
        with pytest.raises(ValueError, match="no image with"):
            RareClassOrder(0, "x", chunks, table, temperature=0.01, min_pixels=min_pixels, rows=rows)
        return
    order = RareClassOrder(0, "x", chunks, table, temperature=0.01, min_pixels=min_pixels, rows=rows)
    found = {"classes": order.classes, "starts": order._starts, "num_images": order.num_images}
    found |= {"samples": order._samples, "probability": order.probability}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == value.dtype
    assert order.num_samples == (len(samples) if rows is None else len(rows))


def counts_of(samples: list[dict[int, int]], first: int = 0) -> LabelCounts:
    return LabelCounts(
        first=first,
        starts=np.cumsum([0, *map(len, samples)]).astype(np.int32),
        ids=np.array([native_id for sample in samples for native_id in sample], np.uint8),
        pixels=np.array([pixels for sample in samples for pixels in sample.values()], np.int64),
    )


def rare_all_at_once(counts: LabelCounts, table: np.ndarray, min_pixels: int, rows: np.ndarray | None) -> dict[str, np.ndarray]:
    """What a RareClassOrder of temperature 0.01 holds, by sorting all entries of all samples together."""
    num_samples = len(counts.starts) - 1
    samples = np.repeat(np.arange(num_samples), np.diff(counts.starts))
    classes = table[counts.ids].astype(np.int64)
    takes_part = (classes != 255) & (True if rows is None else np.isin(samples, rows))
    places, where = np.unique((classes * num_samples + samples)[takes_part], return_inverse=True)
    totals = np.bincount(where, weights=counts.pixels[takes_part].astype(np.float64))
    of_class, images = np.divmod(places[totals >= min_pixels], num_samples)
    classes, starts, num_images = np.unique(of_class, return_index=True, return_counts=True)
    if not len(classes):
        return {"classes": classes}
    frequency = np.bincount(places // num_samples, weights=totals, minlength=256)
    rarity = 1 - frequency[classes] / frequency.sum()
    weights = np.exp((rarity - rarity.max()) / 0.01)
    probability = weights / weights.sum()
    return {"classes": classes, "starts": starts, "num_images": num_images, "samples": images.astype(np.int32), "probability": probability}


def test_rare_classes_in_a_mix(splits: dict[str, ShardSplit]) -> None:
    rare = RareClassConfig(temperature=0.1, min_pixels=50)
    mixture = build_mixture(splits, {"disks": StreamConfig(samples=2, rare_classes=rare)})
    assert {draw.sample for step in range(100) for draw in mixture.draws(step)} <= set(range(10))
    with pytest.raises(InputError, match=r"data\.mix\.disks\.rare_classes: no image with 9000000 pixels"):
        build_mixture(splits, {"disks": StreamConfig(samples=2, rare_classes=RareClassConfig(min_pixels=9000000))})


@pytest.mark.parametrize("chunk", [3, 10, 8192])
def test_label_counts_add_up(splits: dict[str, ShardSplit], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Labels, "CHUNK", chunk)
    rows = splits["disks"].index.to_pylist()
    expected = np.zeros((10, 256), np.int64)
    for sample, row in enumerate(rows):
        expected[sample, row["label_ids"]] += row["label_pixels"]
    labels = splits["disks"].labels()
    assert labels.total().tolist() == expected.sum(axis=0).tolist()
    assert [counts.first for counts in labels] == list(range(0, 10, chunk))
    identity = np.arange(256, dtype=np.uint8)
    seen = np.concatenate([counts.by_class(identity).T for counts in labels])
    assert seen.tolist() == expected[:, : seen.shape[1]].tolist()


def test_a_damaged_index_is_told_as_such(splits: dict[str, ShardSplit], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as too many min_pixels."""

    def damaged(self: Index, first: int, number: int) -> LabelCounts:
        raise self._damaged("bits fell over")

    monkeypatch.setattr(Index, "label_counts", damaged)
    with pytest.raises(InputError, match=r"train\.arrow: the index is damaged \(bits fell over\); run `taxomix prepare"):
        build_mixture(splits, {"disks": StreamConfig(samples=2, rare_classes=RareClassConfig())})
    with pytest.raises(InputError, match="bits fell over"):
        unsupervised_classes(splits["disks"].label_space.view(), [splits["disks"]])


def test_classes_without_a_pixel_are_found(splits: dict[str, ShardSplit], monkeypatch: pytest.MonkeyPatch) -> None:
    view = splits["disks"].label_space.view()
    assert unsupervised_classes(view, [splits["disks"]]) == []
    alone = LabelCounts(starts=np.array([0, 1]), ids=np.array([1], np.uint8), pixels=np.array([5]))
    monkeypatch.setattr(Labels, "__iter__", lambda self: iter([alone]))
    assert unsupervised_classes(view, [splits["disks"]]) == ["ground", "blue"]


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
