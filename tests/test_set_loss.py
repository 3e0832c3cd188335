"""The loss of labels that are sets, against a slow reference."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spaces import slow_set_loss
from torch import Tensor

from data.labels import IGNORE_INDEX
from models.outputs import (
    set_loss,
)
from models.outputs.set_loss import SetLoss, Softmax


@st.composite
def set_cases(draw: st.DrawFn) -> tuple[int, tuple[frozenset[int], ...], int]:
    num_outputs = draw(st.integers(2, 7))
    sets = draw(st.lists(st.frozensets(st.integers(0, num_outputs - 1)), min_size=1, max_size=6))
    return num_outputs, tuple(sets), draw(st.integers(0, 2**31))


@given(set_cases(), st.sampled_from([torch.contiguous_format, torch.channels_last]), st.sampled_from([1.0, 300.0]))
def test_the_loss_of_sets_equals_the_slow_reference(
    case: tuple[int, tuple[frozenset[int], ...], int], layout: torch.memory_format, scale: float
) -> None:
    num_outputs, sets, seed = case
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(2, num_outputs, 3, 4, generator=generator) * scale).to(memory_format=layout).requires_grad_()
    labels = torch.randint(0, len(sets) + 1, (2, 3, 4), generator=generator)
    labels[labels == len(sets)] = IGNORE_INDEX
    totals, counts = SetLoss([Softmax(channels=slice(0, num_outputs), sets=sets)])(logits, labels)
    expected, count = slow_set_loss(logits, labels, sets)
    assert totals.dtype == torch.float32
    assert int(counts[0]) == count
    assert float(totals[0].detach()) == pytest.approx(expected, rel=1e-5, abs=1e-4)
    totals.sum().backward()
    torch.testing.assert_close(logits.grad, slow_gradient(logits, labels, sets), rtol=1e-4, atol=1e-5)


def slow_gradient(logits: Tensor, labels: Tensor, sets: Sequence[frozenset[int]]) -> Tensor:
    x = logits.detach().double().requires_grad_()
    total = x.sum() * 0
    for index in (labels != IGNORE_INDEX).nonzero().tolist():
        n, i, j = index
        chosen = sorted(sets[int(labels[n, i, j])])
        if chosen:
            total = total + x[n, :, i, j].logsumexp(0) - x[n, chosen, i, j].logsumexp(0)
    total.backward()
    assert x.grad is not None
    return x.grad.float()


@pytest.mark.parametrize("sets", [({0}, {1, 2}, {3, 4}), ({0, 1}, {1, 2}, {4}), ({0}, {1}, {4}), ({0, 1, 2, 3, 4}, {2}, set())])
def test_the_gradient_of_sets_is_that_of_the_loss(sets: Sequence[set[int]]) -> None:
    torch.manual_seed(0)
    loss = SetLoss(
        [
            Softmax(channels=slice(0, 5), sets=tuple(frozenset(one) for one in sets)),
            Softmax(channels=slice(6, 8), sets=(frozenset([0]), frozenset(), frozenset([1]))),
        ]
    )
    labels = torch.tensor([[[0, 1, 2], [IGNORE_INDEX, 2, 1]]])
    logits = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels)[0], logits)


def test_a_set_far_below_the_rest_still_teaches() -> None:
    """Its probability is no float32: the loss is a difference of logits, and the gradient is not lost."""
    logits = torch.tensor([1e4, 0.0, 0.0, -1e4]).view(1, 4, 1, 1).requires_grad_()
    loss = SetLoss([Softmax(channels=slice(0, 4), sets=(frozenset([1, 2]),))])
    totals, _ = loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64))
    assert float(totals[0].detach()) == pytest.approx(1e4 - np.log(2), rel=1e-6)
    totals.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([1.0, -0.5, -0.5, 0.0]))


@pytest.mark.parametrize("value", [0, IGNORE_INDEX])
@pytest.mark.parametrize("is_gpu", [False, True])
def test_all_leaves_teach_exactly_nothing(value: int, is_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label 0 is all leaves: it counts, and loss and gradient are exact zeros. Ignored pixels do not count."""
    if is_gpu:
        monkeypatch.setattr(set_loss, "_fill_quickly", as_on_a_gpu)
    loss = SetLoss([Softmax(channels=slice(0, 6), sets=(frozenset(range(6)), frozenset([1, 2])))])
    logits = (torch.randn(2, 6, 4, 4) * 20).requires_grad_()
    totals, counts = loss(logits, torch.full((2, 4, 4), value))
    assert counts.tolist() == [32 if value == 0 else 0]
    assert float(totals[0].detach()) == 0
    totals.sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def as_on_a_gpu(x: Tensor, is_open: Tensor, taught: Tensor, out: Tensor | None, dim: int) -> Tensor:
    return set_loss._fill_exactly(x, is_open, out, dim)


def test_both_ways_of_the_set_loss_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = SetLoss([Softmax(channels=slice(0, 6), sets=(frozenset([0, 3]), frozenset([1, 2, 4]), frozenset([0, 1, 2, 3, 4, 5])))])
    labels = torch.randint(0, 3, (2, 7, 5))
    found = []
    for way in (set_loss._fill_quickly, as_on_a_gpu):
        monkeypatch.setattr(set_loss, "_fill_quickly", way)
        torch.manual_seed(1)
        logits = torch.randn(2, 6, 7, 5, requires_grad=True)
        totals, _ = loss(logits, labels)
        totals.sum().backward()
        assert logits.grad is not None
        found.append((totals.detach(), logits.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("sets", [({0}, {1}), ({0, 2}, {1})])
def test_the_loss_is_float32_at_least(sets: Sequence[set[int]]) -> None:
    loss = SetLoss([Softmax(channels=slice(0, 3), sets=tuple(frozenset(one) for one in sets))])
    logits = (torch.randn(1, 3, 4, 4) * 5).bfloat16().requires_grad_()
    labels = torch.randint(0, 2, (1, 4, 4))
    totals, _ = loss(logits, labels)
    exact, _ = slow_set_loss(logits, labels, [frozenset(one) for one in sets])
    assert totals.dtype == torch.float32
    assert float(totals[0].detach()) == pytest.approx(exact, rel=1e-5)
    totals.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_bands_cover_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss does not depend on how many rows are dealt with at once."""
    loss = SetLoss([Softmax(channels=slice(0, 4), sets=(frozenset([0, 1]), frozenset([2, 3])))])
    logits, labels = torch.randn(2, 4, 9, 3), torch.randint(0, 2, (2, 9, 3))
    whole, _ = loss(logits, labels)
    monkeypatch.setattr(set_loss, "bands", lambda logits: (slice(i, min(9, i + 4)) for i in range(0, 9, 4)))
    torch.testing.assert_close(loss(logits, labels)[0], whole)
