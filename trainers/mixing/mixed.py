"""Pictures with what is known of them, and two such mixed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from trainers.mixing.exchange import Group
from trainers.mixing.masks import blend


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What is known of this rank's pictures of a group, in its order: labels in the view of each one's dataset, and how sure they are."""

    group: Group
    images: Tensor
    """(B, 3, H, W) uint8."""
    labels: Tensor
    """(B, H, W) uint8, IGNORE_INDEX where there is none."""
    confidence: Tensor
    """(B, H, W) float32; 1 for labels that are given."""
    probabilities: Mapping[str, Tensor]
    """Dataset -> (B, K, H, W) of its classes, where targets are probabilities; zeros for pictures of other datasets."""

    def of(self, numbers: Tensor) -> "Answers":
        """Those about the pictures `numbers` (n,) of the whole group, from whatever ranks have them."""

        def take(values: Tensor) -> Tensor:
            return self.group.gather(values)[numbers]

        probabilities = {name: take(values) for name, values in self.probabilities.items()}
        return replace(
            self, images=take(self.images), labels=take(self.labels), confidence=take(self.confidence), probabilities=probabilities
        )


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """The mixed pictures of this rank."""

    mask: Tensor
    """(n, H, W) bool: what is pasted."""
    pasted: Answers
    base: Answers
    pasted_datasets: tuple[str, ...]
    base_datasets: tuple[str, ...]
    images: Tensor
    """(n, 3, H, W) uint8, with the strong changes of colour."""
    weights: Tensor
    """(n, H, W) float32."""
    all_datasets: frozenset[str]
    """Whose pictures those of all ranks are made of."""

    @property
    def confidence(self) -> Tensor:
        """(n, H, W): how sure the labels are."""
        return blend(self.mask, self.pasted.confidence, self.base.confidence)
