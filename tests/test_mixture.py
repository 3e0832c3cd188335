"""The mixture is integer arithmetic: checked over many topologies without a process."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.chance import Chance
from data.errors import InputError
from data.mixture import Draw, Mixture, Stream
from data.order import WindowedOrder

streams_of = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4)


def mixture(shape: list[tuple[int, int]], seed: int = 0, batch_size: int | None = None) -> Mixture:
    """Streams of so many samples and such a share each, in shards of 7."""
    streams = [
        Stream(name=f"stream {i}", order=WindowedOrder(seed, f"stream {i}", [7] * (n // 7) + [n % 7]), share=share)
        for i, (n, share) in enumerate(shape)
    ]
    return Mixture(streams, seed=seed, batch_size=batch_size or sum(share for _, share in shape))


@given(streams_of, st.integers(0, 500), st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 30) | st.none())
def test_ranks_share_one_global_batch(shape: list[tuple[int, int]], step: int, world_size: int, batch_size: int | None) -> None:
    mix = mixture(shape, batch_size=batch_size)
    whole = mix.draws(step)
    assert len(whole) == mix.batch_size
    shares = [mix.draws(step, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert Counter(draw for share in shares for draw in share) == Counter(whole)
    for number, quota in enumerate(mix.quotas(step)):
        per_rank = [sum(draw.stream == number for draw in share) for share in shares]
        assert sum(per_rank) == quota
        assert max(per_rank) - min(per_rank) <= 1


@pytest.mark.parametrize(
    ("world_size", "expected"), [(1, [[1, 2, 1]]), (2, [[1, 1, 0], [0, 1, 1]]), (4, [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])]
)
def test_1_2_1_on_1_2_and_4_ranks(world_size: int, expected: list[list[int]]) -> None:
    mix = mixture([(9, 1), (9, 2), (9, 1)])
    for step in range(5):
        ranks = [mix.draws(step, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert [[sum(draw.stream == stream for draw in rank) for stream in range(3)] for rank in ranks] == expected


@given(streams_of, st.integers(1, 30), st.integers(0, 1000))
def test_shares_are_kept_at_every_moment(shape: list[tuple[int, int]], batch_size: int, step: int) -> None:
    mix = mixture(shape, batch_size=batch_size)
    consumed, total = mix.consumed(step), sum(share for _, share in shape)
    assert sum(consumed) == step * batch_size
    for number, (_, share) in zip(consumed, shape, strict=True):
        assert abs(number - step * batch_size * share / total) < len(shape)
    assert min(mix.quotas(step)) >= 0


@given(streams_of, st.integers(0, 10**9))
def test_fixed_quotas_are_met_in_every_batch(shape: list[tuple[int, int]], step: int) -> None:
    assert mixture(shape).quotas(step) == [share for _, share in shape]


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_holds_every_sample_once(num_samples: int, quota: int, seed: int) -> None:
    mix = mixture([(num_samples, quota)], seed)
    draws = [draw for step in range(-(-3 * num_samples // quota)) for draw in mix.draws(step)]
    for epoch in range(3):
        assert sorted(draw.sample for draw in draws if draw.epoch == epoch) == list(range(num_samples))
    assert [draw.number for draw in draws] == list(range(len(draws)))


def test_200_steps_are_the_same_on_1_2_4_and_8_ranks_and_across_resumes() -> None:
    """Stopped and gone on at changing world sizes: the same global sequence, nothing lost, nothing twice."""
    shape, steps = [(367, 2), (89, 5), (10, 1)], 200
    whole = [mixture(shape).draws(step) for step in range(steps)]
    for world_size in (2, 4, 8):
        assert [undeal(mixture(shape), step, world_size) for step in range(steps)] == whole
    stops, world_sizes = [0, 37, 38, 111, 160, steps], [1, 8, 2, 4, 1]
    resumed = [
        undeal(mixture(shape), step, world_size)
        for begin, end, world_size in zip(stops, stops[1:], world_sizes, strict=False)
        for step in range(begin, end)
    ]
    assert resumed == whole
    for stream in range(3):
        numbers = [draw.number for batch in resumed for draw in batch if draw.stream == stream]
        assert numbers == list(range(len(numbers)))


def undeal(mix: Mixture, step: int, world_size: int) -> list[Draw]:
    """The global batch of `step`, put together again from what the ranks were dealt."""
    whole: list[Draw | None] = [None] * mix.batch_size
    for rank in range(world_size):
        whole[rank::world_size] = mix.draws(step, rank=rank, world_size=world_size)
    assert None not in whole
    return [draw for draw in whole if draw is not None]


def test_resuming_needs_the_step_alone() -> None:
    assert mixture([(367, 2), (89, 4)]).draws(10**9)


def test_chances_differ_by_draw_and_not_by_process() -> None:
    mix = mixture([(50, 4), (50, 4)])
    draws = [draw for step in range(20) for draw in mix.draws(step)]
    firsts = [mix.chance(draw).random() for draw in draws]
    assert len(set(firsts)) == len(firsts)
    assert firsts == [mixture([(50, 4), (50, 4)]).chance(draw).random() for draw in draws]
    assert len({mix.seed_of(draw) for draw in draws}) == len(draws)


def test_what_cannot_be_mixed_is_told() -> None:
    with pytest.raises(InputError, match=r"data\.mix: empty"):
        Mixture([], seed=0, batch_size=1)
    with pytest.raises(InputError, match=r"data\.mix\.a: no samples found"):
        Mixture([Stream(name="a", order=WindowedOrder(0, "a", [0]), share=1)], seed=0, batch_size=1)
    with pytest.raises(InputError, match=r"a global batch of 5 \(2 stream 0 \+ 3 stream 1\) found, which 2 workers do not divide"):
        mixture([(4, 2), (4, 3)]).check_world_size(2)


def test_chance_is_uniform_and_pinned() -> None:
    numbers = [Chance(f"name {i}").random() for i in range(4000)]
    chance = Chance("one name")
    numbers += [chance.random() for _ in range(4000)]
    assert min(numbers) >= 0
    assert max(numbers) < 1
    for run in (numbers[:4000], numbers[4000:]):
        counts = np.histogram(run, bins=20, range=(0, 1))[0]
        assert ((counts - 200) ** 2 / 200).mean() < 2.2  # chi-square per cell of 20: 1, with a spread of 0.32
        assert abs(np.corrcoef(run[:-1], run[1:])[0, 1]) < 0.06
    assert [round(Chance("pinned").random(), 12) for _ in range(2)] == [0.913216034127] * 2
