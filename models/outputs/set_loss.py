"""The loss of labels that are sets: -log of the summed probability of the outputs that a pixel's label leaves open.

It is the logsumexp over all outputs minus that over the label's. Loss and gradient, softmax(all) - softmax(the label's), are made in one
go, a band of rows at a time, so that nothing of the size of the logits is held but the gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from data.labels import IGNORE_INDEX

NO_LABEL = IGNORE_INDEX
"""In a table of labels: none. No pixel that counts has it."""


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """One softmax: its channels of the logits, and for each label the numbers, within them, of the outputs that it leaves open.

    An empty set: pixels of the label are not counted. All outputs: they are counted, and their loss and gradient are zero.
    """

    channels: slice
    sets: tuple[frozenset[int], ...]
    is_fixed: bool = True
    """Otherwise `SetLoss.assign` may say, as often as it likes, which label each output is in."""

    @property
    def num_outputs(self) -> int:
        return self.channels.stop - self.channels.start

    @property
    def is_single(self) -> bool:
        """Whether no label leaves a choice between outputs, but for those that leave it between all."""
        return self.is_fixed and all(len(outputs) in (0, 1, self.num_outputs) for outputs in self.sets)


class SetLoss(nn.Module):
    """The losses of several softmaxes over the channels of the same logits.

    With `parts` those of one softmax, of labels of several kinds: `parts[i]` is the kind of label i, and the results are one for each kind
    where they are otherwise one for each softmax.
    """

    parts: Tensor | None

    def __init__(self, softmaxes: Sequence[Softmax], parts: Sequence[int] | None = None) -> None:
        super().__init__()
        table = None
        if parts is not None:
            assert len(softmaxes) == 1
            table = torch.zeros(256, dtype=torch.int64)  # what has no label is in none, whatever stands here
            table[: len(parts)] = torch.tensor(parts)
        self.register_buffer("parts", table, persistent=False)
        self.num_parts = 0 if parts is None else max(parts) + 1
        self.terms = nn.ModuleList(_OneOf(softmax) if softmax.is_single else _SomeOf(softmax) for softmax in softmaxes)

    def forward(self, logits: Tensor, labels: Tensor | Sequence[Tensor], weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (N, C, H, W) and class indices (N, H, W) int64, IGNORE_INDEX where unknown, to the sum of the pixels' losses, at
        least float32, and the number of pixels in it, both one for each softmax: (S,) on the device. Labels are the same for all
        softmaxes, or one for each; `weights` (N, H, W) multiply the pixels' losses, and not their number."""
        each = [labels] * len(self.terms) if isinstance(labels, Tensor) else list(labels)
        counted = [term.counted[own] for term, own in zip(self._all(), each, strict=True)]
        kinds = None if self.parts is None else self.parts[each[0]]
        totals: Tensor = _SetLossFunction.apply(logits, each, self._all(), weights, kinds, self.num_parts)
        if kinds is not None:
            counted = [counted[0] & (kinds == part) for part in range(self.num_parts)]
        return totals, torch.stack([pixels.sum() for pixels in counted])

    def assign(self, labels: Tensor) -> None:
        """`labels` (C,) of one softmax that is not fixed, no label of which has outputs twice: the label that each output is in from now
        on, NO_LABEL where in none. A label keeps an output at least."""
        (term,) = self.terms
        assert isinstance(term, _SomeOf)
        assert len(term.labels) == 1
        term.labels.copy_(labels.unsqueeze(0))

    def counted(self, labels: Tensor) -> list[Tensor]:
        """The pixels, bool, of class indices (N, H, W) that count for each softmax."""
        return [term.counted[labels] for term in self._all()]

    def _all(self) -> list["_Term"]:
        return [term for term in self.terms if isinstance(term, _Term)]


class _SetLossFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Sequence[Tensor],
        terms: Sequence["_Term"],
        weights: Tensor | None,
        kinds: Tensor | None,
        num_kinds: int,
    ) -> Tensor:
        is_wanted = ctx.needs_input_grad[0]
        grad = torch.zeros_like(logits) if _leaves_gaps(terms, logits.shape[1]) else torch.empty_like(logits)
        # Softmaxes are fastest along the channels as they lie in memory.
        by_pixel = not grad.is_contiguous() and grad.is_contiguous(memory_format=torch.channels_last)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        totals = logits.new_zeros(len(terms) if kinds is None else num_kinds, dtype=dtype)
        for rows in bands(logits) if len(logits) else ():
            for number, term in enumerate(terms):
                x, out = logits[:, term.channels, rows].to(dtype), grad[:, term.channels, rows]
                if by_pixel:
                    x, out = x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1)
                dim = 3 if by_pixel else 1
                losses = term.fill(x, labels[number][:, rows], out if is_wanted else None, dim=dim)
                if weights is not None:
                    factors = weights[:, rows].unsqueeze(dim)
                    losses = losses * factors
                    if is_wanted:
                        out.mul_(factors)
                if kinds is None:
                    totals[number] += losses.sum()
                else:
                    kind = kinds[:, rows].unsqueeze(dim)
                    totals += torch.stack([torch.where(kind == number, losses, 0).sum() for number in range(num_kinds)])
        ctx.save_for_backward(grad, *(() if kinds is None else (kinds,)))
        ctx.channels = [term.channels for term in terms]
        return totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        grad, *kinds = ctx.saved_tensors
        if kinds:
            return grad * upstream.to(grad.dtype)[kinds[0]].unsqueeze(1), None, None, None, None, None
        factors = upstream.new_zeros(grad.shape[1])
        for number, channels in enumerate(ctx.channels):
            factors[channels] = upstream[number]
        return grad * factors.to(grad.dtype).view(1, -1, 1, 1), None, None, None, None, None


class _Term(nn.Module, ABC):
    """One softmax. `counted` (256,) bool: label -> whether its pixels count; `taught`: whether, besides, there is something to learn."""

    counted: Tensor
    taught: Tensor

    def __init__(self, softmax: Softmax) -> None:
        super().__init__()
        self.channels = softmax.channels
        counted, taught = torch.zeros(256, dtype=torch.bool), torch.zeros(256, dtype=torch.bool)
        for label, outputs in enumerate(softmax.sets):
            counted[label] = len(outputs) > 0
            taught[label] = 0 < len(outputs) < softmax.num_outputs
        self.register_buffer("counted", counted, persistent=False)
        self.register_buffer("taught", taught, persistent=False)

    @abstractmethod
    def fill(self, x: Tensor, labels: Tensor, out: Tensor | None, *, dim: int) -> Tensor:
        """The losses, of size 1 along `dim`, of logits `x`, outputs along `dim`, and labels (N, H, W); the gradient goes to `out`."""


class _OneOf(_Term):
    """Every label that teaches has one output: cross entropy. `outputs` (256,) int64: label -> its output."""

    outputs: Tensor

    def __init__(self, softmax: Softmax) -> None:
        super().__init__(softmax)
        outputs = torch.zeros(256, dtype=torch.int64)
        for label in self.taught.nonzero().flatten().tolist():
            outputs[label] = min(softmax.sets[label])
        self.register_buffer("outputs", outputs, persistent=False)

    def fill(self, x: Tensor, labels: Tensor, out: Tensor | None, *, dim: int) -> Tensor:
        taught, target = self.taught[labels].unsqueeze(dim), self.outputs[labels].unsqueeze(dim)
        log_p = torch.log_softmax(x, dim)
        losses = torch.where(taught, -log_p.gather(dim, target), 0)
        if out is not None:
            p = log_p.exp_()
            p.scatter_add_(dim, target, p.new_full((), -1).expand(target.shape))
            torch.mul(p, taught, out=out) if out.dtype == p.dtype else out.copy_(p.mul_(taught))
        return losses


class _SomeOf(_Term):
    """`labels` (R, C) uint8: the labels that each output is in, R where outputs are in several labels, NO_LABEL where in fewer."""

    labels: Tensor

    def __init__(self, softmax: Softmax) -> None:
        super().__init__(softmax)
        of = [[label for label in self.taught.nonzero().flatten().tolist() if i in softmax.sets[label]] for i in range(softmax.num_outputs)]
        depth = max(1, *map(len, of))
        rows = [labels + [NO_LABEL] * (depth - len(labels)) for labels in of]
        # Not a transposed view: to `broadcast`, which DistributedDataParallel starts with, one of a single row looks as if it overlapped.
        self.register_buffer("labels", torch.tensor(list(zip(*rows, strict=True)), dtype=torch.uint8), persistent=False)

    def fill(self, x: Tensor, labels: Tensor, out: Tensor | None, *, dim: int) -> Tensor:
        taught = self.taught[labels].unsqueeze(dim)
        is_open = self._open(labels, dim).logical_or_(~taught)
        if x.is_cuda or type(x) is not Tensor:  # `taxomix plan` counts memory with tensors that have no values
            return _fill_exactly(x, is_open, out, dim)
        return _fill_quickly(x, is_open, taught, out, dim)

    def _open(self, labels: Tensor, dim: int) -> Tensor:
        """Which outputs a pixel's label leaves open: as `x`, bool."""
        tables = self.labels.view(*self.labels.shape, *[1] * (3 - dim))
        small = labels.to(torch.uint8).unsqueeze(dim)
        is_open = tables[0] == small
        for table in tables[1:]:
            is_open |= table == small
        return is_open


def _fill_quickly(x: Tensor, is_open: Tensor, taught: Tensor, out: Tensor | None, dim: int) -> Tensor:
    """With one exponential for each logit. Left to `_fill_exactly` where probabilities are too small for it; to find that out would
    stop the host on a GPU."""
    p = torch.softmax(x, dim)
    q = p * is_open
    mass = q.sum(dim, keepdim=True)
    if float(mass.min()) < 2**24 * torch.finfo(mass.dtype).tiny:
        return _fill_exactly(x, is_open, out, dim)
    mass.masked_fill_(~taught, 1)  # exactly: all is open there, and q is p to the last bit
    if out is not None:
        _difference(p, q.div_(mass), out)
    return mass.clamp_(max=1).log_().neg_()


def _fill_exactly(x: Tensor, is_open: Tensor, out: Tensor | None, dim: int) -> Tensor:
    """Where nothing is taught all is open: the two are the same numbers there, and their differences zero."""
    log_p = torch.log_softmax(x, dim)
    log_q = torch.log_softmax(x.masked_fill(~is_open, -torch.inf), dim)
    best, at = log_q.max(dim, keepdim=True)
    losses = best - log_p.gather(dim, at)
    if out is not None:
        _difference(log_p.exp_(), log_q.exp_(), out)
    return losses


def _difference(p: Tensor, q: Tensor, out: Tensor) -> None:
    if out.dtype == p.dtype:
        torch.sub(p, q, out=out)
    else:
        out.copy_(p.sub_(q))


def _leaves_gaps(terms: Sequence[_Term], num_channels: int) -> bool:
    return sum(term.channels.stop - term.channels.start for term in terms) < num_channels


def bands(logits: Tensor) -> Iterator[slice]:
    """Rows of logits (N, C, H, W) that are dealt with together: on a CPU few megabytes for each thread, which its cache holds."""
    batch, channels, height, width = logits.shape
    at_once = 2**26 if logits.is_cuda else 2**19 * torch.get_num_threads()
    step = max(1, at_once // max(1, batch * channels * width))
    for first in range(0, height, step):
        yield slice(first, min(first + step, height))
