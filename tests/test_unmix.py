"""Shares without a model's own mistakes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.taxonomy import Evidence, Rules, connect
from data.taxonomy.unmix import unmix


@given(seed=st.integers(0, 1000), size=st.integers(2, 8), others=st.integers(2, 8))
def test_a_model_without_mistakes_keeps_its_shares(seed: int, size: int, others: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(others, 0.3), size=size)
    shares[0] = 0  # never predicted there
    found = unmix(shares, np.diag(rng.integers(1, 10**6, size=size)))
    np.testing.assert_allclose(found, shares, atol=2e-3)


@given(seed=st.integers(0, 1000), size=st.integers(2, 8))
def test_shares_stay_shares(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    found = unmix(rng.dirichlet(np.full(5, 0.3), size=size), rng.integers(0, 100, size=(size, size)))
    assert (found >= 0).all()
    assert (found.sum(axis=1) <= 1 + 1e-9).all()


def test_mistakes_that_are_known_are_taken_out() -> None:
    """Of what is called a building two in five pixels are poles, on the own images and on the others; a label is never seen on the own."""
    own = np.array([[600, 0, 0], [400, 100, 0], [0, 0, 0]])
    true = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    right = own.T / np.maximum(own.sum(axis=0)[:, None], 1)
    right[2, 2] = 1
    found = unmix(right @ true, own)
    np.testing.assert_allclose(found, true, atol=0.05)
    assert (right @ true)[0, 1] == 0.4


def test_evidence_with_own_images_is_used_unless_the_rules_say_no() -> None:
    labels = {"a": ("building", "pole"), "b": ("house", "post")}
    counts = {("a", "b"): np.array([[600, 0], [400, 100]]), ("b", "a"): np.array([[600, 0], [0, 400]])}
    own = {"a": np.array([[600, 0], [400, 100]]), "b": np.array([[500, 0], [0, 500]])}
    evidence = Evidence(labels=labels, counts=counts, pixels=dict.fromkeys(counts, 1100), own=own)
    assert connect(evidence, Rules(unmix=False)).shares[0, 3] == 0.4
    assert connect(evidence, Rules()).shares[0, 3] < 0.05
    without = Evidence(labels=labels, counts=counts, pixels=dict.fromkeys(counts, 1100))
    assert connect(without, Rules()).shares[0, 3] == 0.4
    with pytest.raises(InputError, match=r"own\.a: int64 1 x 2 found, expected int64 counts of pixels, 0 or more, of its 2 labels"):
        Evidence(labels=labels, counts=counts, pixels=dict.fromkeys(counts, 1100), own={"a": np.array([[1, 2]])})


def test_what_is_hardly_found_stays_nothing() -> None:
    labels = {"a": ("p", "q"), "b": ("u", "v")}
    counts = {("a", "b"): np.array([[10, 90], [90, 5000]]), ("b", "a"): np.array([[10, 0], [0, 10]])}
    own = {"a": np.array([[100, 0], [0, 100]])}
    evidence = Evidence(labels=labels, counts=counts, pixels={("a", "b"): 5190, ("b", "a"): 20}, own=own)
    assert connect(evidence, Rules(min_found=0.05)).shares[0].tolist() == pytest.approx([0, 0, 0.1, 0], abs=0.01)
