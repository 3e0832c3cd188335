"""The order of a stream: every epoch whole, well shuffled, and a function of its arguments alone."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.index import sort_keys
from data.order import WindowedOrder, permutation, subset_rows, subset_size

shards_of = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any)


def epoch_of(order: WindowedOrder, epoch: int) -> list[int]:
    return [order.sample(epoch, offset) for offset in range(order.num_samples)]


@given(shards_of, st.integers(1, 40) | st.none(), st.integers(0, 3), st.integers(0, 3))
def test_every_epoch_holds_every_sample_once(shard_sizes: list[int], window: int | None, seed: int, epoch: int) -> None:
    order = WindowedOrder(seed, "x", shard_sizes, window=window)
    assert sorted(epoch_of(order, epoch)) == list(range(sum(shard_sizes)))


@given(shards_of, st.integers(1, 40), st.data())
def test_a_part_of_the_rows_is_all_that_is_drawn(shard_sizes: list[int], window: int, data: st.DataObject) -> None:
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, sum(shard_sizes) - 1), min_size=1))))
    order = WindowedOrder(0, "x", shard_sizes, rows=rows, window=window)
    assert sorted(epoch_of(order, 1)) == rows.tolist()


@given(st.integers(0, 2**40), st.integers(2, 30))
def test_epochs_differ_and_begin_anywhere_at_once(epoch: int, window: int) -> None:
    order = WindowedOrder(0, "x", [8] * 10, window=window)
    whole = epoch_of(order, epoch)
    assert [WindowedOrder(0, "x", [8] * 10, window=window).sample(epoch, offset) for offset in (0, 33, 79)] == [
        whole[i] for i in (0, 33, 79)
    ]
    assert whole != epoch_of(order, epoch + 1)


def test_the_order_is_pinned() -> None:
    """A change of the order would silently change every run that goes on: it has to be meant."""
    assert permutation(0, "streets_fine", 0, 10).tolist() == PINNED
    assert permutation(0, "streets_fine", 1, 10).tolist() != PINNED
    assert permutation(0, "streets_coarse", 0, 10).tolist() != PINNED
    assert permutation(1, "streets_fine", 0, 10).tolist() != PINNED
    assert epoch_of(WindowedOrder(0, "x", [4, 4, 2], window=5), 0) == PINNED_WINDOWS


PINNED = [6, 7, 9, 2, 8, 5, 3, 1, 0, 4]
PINNED_WINDOWS = [7, 6, 4, 5, 8, 2, 9, 1, 3, 0]


@given(shards_of, st.integers(1, 40) | st.none())
def test_the_width_of_the_row_numbers_does_not_matter(shard_sizes: list[int], window: int | None) -> None:
    rows = np.flatnonzero(np.arange(sum(shard_sizes)) % 3 != 1)
    wide, narrow = (WindowedOrder(0, "x", shard_sizes, rows=rows.astype(dtype), window=window) for dtype in (np.int64, np.int32))
    assert epoch_of(wide, 2) == epoch_of(narrow, 2)


def chi_square_per_cell(counts: np.ndarray) -> float:
    """1 for counts that are uniform up to chance, with a spread of about sqrt(2 / number of cells)."""
    return float(((counts - counts.mean()) ** 2 / counts.mean()).mean())


def test_one_window_is_uniform() -> None:
    """Over many epochs each sample is at each place equally often, and follows each other sample equally often."""
    size, epochs = 12, 6000
    orders = np.stack([epoch_of(WindowedOrder(7, "x", [5, 5, 2]), epoch) for epoch in range(epochs)])
    places = np.stack([np.bincount(orders[:, place], minlength=size) for place in range(size)])
    pairs = np.zeros((size, size))
    np.add.at(pairs, (orders[:, :-1].ravel(), orders[:, 1:].ravel()), 1)
    for counts in (places.ravel(), pairs[~np.eye(size, dtype=bool)]):
        assert chi_square_per_cell(counts) < 1.4


def test_windows_are_well_shuffled() -> None:
    """20 shards of 10 in windows of 4 shards, over many epochs: every shard is in every window equally often, every pair of
    shards shares a window equally often, neighbours in an epoch come from one shard as seldom as chance has it, and a
    sample's place in one epoch says nothing of its place in the next."""
    num_shards, size, epochs = 20, 10, 2000
    order = WindowedOrder(3, "x", [size] * num_shards, window=40)
    assert order.num_windows == 5
    orders = np.stack([epoch_of(order, epoch) for epoch in range(epochs)])
    shards = orders // size
    windows = shards.reshape(epochs, 5, 40)
    in_window = np.stack([[np.bincount(windows[e, w], minlength=num_shards) > 0 for w in range(5)] for e in range(epochs)])
    assert (in_window.sum(axis=2) == 4).all()
    assert chi_square_per_cell(in_window.sum(axis=0).ravel()) < 1.4
    together = np.einsum("ewi,ewj->ij", in_window.astype(int), in_window.astype(int))
    assert chi_square_per_cell(together[np.triu_indices(num_shards, 1)]) < 1.4
    # Within a window 9 of the 39 other samples are of the same shard.
    inside = np.arange(199) % 40 != 39
    assert abs((shards[:, 1:] == shards[:, :-1])[:, inside].mean() - 9 / 39) < 0.005
    places = np.argsort(orders, axis=1)
    assert abs(np.corrcoef(places[:-1].ravel(), places[1:].ravel())[0, 1]) < 0.01
    # Each sample is at each place equally often: 200 x 200 cells, 10 expected in each.
    cells = np.zeros((200, 200))
    np.add.at(cells, (orders, np.broadcast_to(np.arange(200), orders.shape)), 1)
    assert chi_square_per_cell(cells.ravel()) < 1.05


@pytest.mark.parametrize(
    ("num_samples", "share", "count"),
    [
        (2975, "1/30", 100),
        (2975, "1/8", 372),
        (2975, "1/4", 744),
        (2975, "1/2", 1488),
        (10582, "1/8", 1323),
        (10582, "100", 100),
        (10, "1", 1),
    ],
)
def test_subset_sizes_are_those_of_the_papers(num_samples: int, share: str, count: int) -> None:
    assert subset_size(share, num_samples) == count


@given(st.lists(st.text("abc/_0123", min_size=1, max_size=8), min_size=1, max_size=30, unique=True), st.randoms())
def test_subsets_depend_on_the_keys_alone_and_are_nested(keys: list[str], random: object) -> None:
    shuffled = keys.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    chosen = [{names[row] for row in subset_rows(order_of(names), "1/4", seed=1)} for names in (keys, shuffled)]
    assert chosen[0] == chosen[1]
    assert chosen[0] <= {keys[row] for row in subset_rows(order_of(keys), "1/2", seed=1)}
    rest = {keys[row] for row in subset_rows(order_of(keys), "1/4", seed=1, rest=True)} if len(keys) > 1 else set(keys) - chosen[0]
    assert rest == set(keys) - chosen[0]


def order_of(keys: list[str]) -> np.ndarray:
    return sort_keys(pa.array(keys, pa.string()))


letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
"""Of all of Unicode, but those that UTF-8 cannot hold; and no name of a file holds a NUL, which numpy drops from the end of a text."""


@given(st.lists(st.text(letters, max_size=6) | st.text("aA\xff\u0100\uffff\U00010000", max_size=3), max_size=30), st.integers(0, 5))
def test_keys_are_sorted_by_their_code_points(keys: list[str], skipped: int) -> None:
    """As numpy sorts them, and stably: the subsets of all runs go by this order."""
    expected = np.argsort(np.array(keys, dtype=str), kind="stable")
    assert order_of(keys).tolist() == expected.tolist()
    assert order_of(keys).dtype == np.int32
    part = sort_keys(pa.array(["before"] * skipped + keys, pa.string()).slice(skipped))
    assert part.tolist() == expected.tolist()


def test_the_subset_of_a_seed_is_pinned() -> None:
    keys = [f"k{number:02}" for number in range(16)]
    assert [keys[row] for row in subset_rows(order_of(keys), "1/4", seed=0)] == PINNED_SUBSET
    assert [keys[row] for row in subset_rows(order_of(keys), "1/4", seed=1)] != PINNED_SUBSET


PINNED_SUBSET = ["k04", "k09", "k10", "k14"]


@pytest.mark.parametrize("share", ["0", "11", "1/0", "half", "-1/2", "3/2"])
def test_subsets_that_cannot_be_are_told(share: str) -> None:
    with pytest.raises(InputError, match="subset"):
        subset_rows(np.arange(10), share, seed=0)
