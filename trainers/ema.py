"""An exponential moving average of a module's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.errors import FieldError


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    decay: float
    """Share of the average that stays at every step."""
    warmup: bool = True
    """Begin with a smaller one: min(decay, (1 + t) / (10 + t)) at step t (paper 001)."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise FieldError("decay", f"{self.decay:g} found, expected at least 0 and below 1; mend it")

    def at(self, step: int) -> float:
        """The decay of step `step`, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


class Average:
    """The average of all that a module's state dict holds: of parameters and BatchNorm's statistics; whole numbers are copied, and so is
    what the module says is an average already (`averages`, beginnings of names).

    It follows the tensors that the module has now, in place. As long as these are the same on all ranks, so is the average.
    """

    @torch.no_grad()
    def __init__(self, module: nn.Module, averages: tuple[str, ...] = ()) -> None:
        self._live: dict[str, Tensor] = module.state_dict()
        self._copied = {name for name in self._live if name.startswith(averages)}
        self._mean = {name: value.clone() for name, value in self._live.items()}

    @torch.no_grad()
    def reset(self) -> None:
        """Begin anew with the module as it is."""
        torch._foreach_copy_(list(self._mean.values()), list(self._live.values()))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move towards the module: average = decay * average + (1 - decay) * module."""
        move_towards({name: value for name, value in self._mean.items() if name not in self._copied}, self._live, decay)
        if self._copied:
            torch._foreach_copy_([self._mean[name] for name in self._copied], [self._live[name] for name in self._copied])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the average's values inside, and its own again afterwards."""
        live, mean = list(self._live.values()), list(self._mean.values())
        with torch.no_grad():
            own = [value.clone() for value in live]
            torch._foreach_copy_(live, mean)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged state dict of the module."""
        return dict(self._mean)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self._mean.items():
            value.copy_(state[name])


@torch.no_grad()
def move_towards(average: Mapping[str, Tensor], live: Mapping[str, Tensor], decay: float) -> None:
    """average = decay * average + (1 - decay) * live in place, by name; whole numbers are copied."""
    floats = [name for name, value in average.items() if value.is_floating_point()]
    others = [name for name, value in average.items() if not value.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floats], [live[name] for name in floats], 1 - decay)
    if others:
        torch._foreach_copy_([average[name] for name in others], [live[name] for name in others])
