"""From the `data.mix` of a config to a mixture: subsets, orders and shares of the streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.errors import FieldError, InputError
from data.labels import View
from data.mixture import WITH_LABELS, Mixture, Order, Role, Stream
from data.order import WINDOW, WindowedOrder, subset_rows
from data.photometric import PhotometricConfig
from data.rare import RareClassOrder
from data.shards import ShardSplit
from data.transforms import CropConfig


@dataclass(frozen=True, kw_only=True)
class RareClassConfig:
    """Rare-class sampling of one stream (DAFormer; data/rare.py)."""

    temperature: float = 0.01
    """Small: rare classes far more often; large: every class alike."""
    min_pixels: int = 3000
    """Pixels of the class that an image must have to be drawn for it."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise FieldError("temperature", f"{self.temperature} found, expected more than 0; raise it")
        if self.min_pixels < 1:
            raise FieldError("min_pixels", f"{self.min_pixels} found, expected at least 1; raise it")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One stream of the mixture; `{camvid11: 4}` is short for `{camvid11: {samples: 4}}`."""

    samples: int | None = None
    """Samples in each global batch; null where data.quota says how many."""
    dataset: str | None = None
    """Folder of the dataset below data.root; by default the name of the stream."""
    split: str = "train"
    role: Role = "labelled"
    subset: str | None = None
    """A part of the split, drawn by `subset_seed` from its sorted keys: a share such as 1/8, or a count."""
    subset_seed: int = 0
    rest: bool = False
    """Take what `subset` leaves over: the unlabelled part of semi-supervised training."""
    rare_classes: RareClassConfig | None = None
    """Draw images with rare classes more often; null: every image once per epoch."""
    crop: str | CropConfig | None = None
    """Geometry of this stream's crops, of the same size as all; null: data.crop."""
    photometric: str | PhotometricConfig | None = None
    """What is done to colours and sharpness of this stream's crops; null: data.photometric."""

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise FieldError("samples", f"{self.samples} found, expected at least 1 per global batch; remove the stream or raise it")
        if self.rest and self.subset is None:
            raise FieldError("rest", "true without subset found, expected the subset that is left out; give for example subset: 1/8")


@dataclass(frozen=True, kw_only=True)
class FixedQuota:
    """Each stream's own number of samples in every global batch."""

    name: Literal["fixed"] = "fixed"


@dataclass(frozen=True, kw_only=True)
class _Dealt:
    batch: int
    """Samples in each global batch."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise FieldError("batch", f"{self.batch} found, expected at least 1; raise it")


@dataclass(frozen=True, kw_only=True)
class ReplicateQuota(_Dealt):
    """Smaller sets are repeated to the size of the largest (paper 002): every stream has the same share."""

    name: Literal["replicate"]


@dataclass(frozen=True, kw_only=True)
class ProportionalQuota(_Dealt):
    """Shares go with the number of samples: every sample of every stream is seen equally often."""

    name: Literal["proportional"]


@dataclass(frozen=True, kw_only=True)
class TemperatureQuota(_Dealt):
    """Shares go with the number of samples to the power 1 / temperature: 1 is proportional, infinity replicates."""

    name: Literal["temperature"]
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature < 1:
            raise FieldError("temperature", f"{self.temperature} found, expected at least 1; raise it")


QuotaConfig = FixedQuota | ReplicateQuota | ProportionalQuota | TemperatureQuota


def build_mixture(
    streams: Mapping[str, StreamConfig],
    splits: Mapping[str, ShardSplit],
    views: Mapping[str, View],
    *,
    seed: int,
    quota: QuotaConfig | None = None,
    window: int | None = WINDOW,
) -> Mixture:
    """The mixture of `streams`; `splits` and `views` are by stream. Raises InputError for what of it cannot be."""
    quota = quota or FixedQuota()
    orders = {name: _order(name, stream, splits[name], views[name], seed, window) for name, stream in streams.items()}
    shares = _shares(streams, orders, quota)
    return Mixture(
        [Stream(name=name, order=orders[name], share=shares[name], role=stream.role) for name, stream in streams.items()],
        seed=seed,
        batch_size=sum(shares.values()) if isinstance(quota, FixedQuota) else quota.batch,
    )


def _order(name: str, stream: StreamConfig, split: ShardSplit, view: View, seed: int, window: int | None) -> Order:
    rows = _rows(name, stream, split)
    if stream.rare_classes is not None and stream.role not in WITH_LABELS:
        raise InputError(
            f"data.mix.{name}.rare_classes: found on a stream of role {stream.role}, whose labels are not to be used, expected one of "
            f"{', '.join(WITH_LABELS)}; remove it"
        )
    if stream.rare_classes is None:
        return WindowedOrder(seed, name, [shard.samples for shard in split.manifest.shards], rows=rows, window=window)
    rare = stream.rare_classes
    try:
        return RareClassOrder(seed, name, split.labels(), view.table, temperature=rare.temperature, min_pixels=rare.min_pixels, rows=rows)
    except InputError:  # the index is damaged
        raise
    except ValueError as error:
        raise InputError(f"data.mix.{name}.rare_classes: {error}; lower min_pixels, or remove rare_classes") from None


def _rows(name: str, stream: StreamConfig, split: ShardSplit) -> np.ndarray | None:
    """The samples of the split that a stream takes; None for all."""
    if stream.subset is None:
        return None
    in_order = split.key_order()
    try:
        return subset_rows(in_order, stream.subset, seed=stream.subset_seed, rest=stream.rest)
    except InputError as error:
        raise InputError(f"data.mix.{name}.{error}") from None


def _shares(streams: Mapping[str, StreamConfig], orders: Mapping[str, Order], quota: QuotaConfig) -> dict[str, int]:
    """Whole numbers in the proportion of the streams' shares; with a fixed quota the samples themselves."""
    for name, stream in streams.items():
        if isinstance(quota, FixedQuota) and stream.samples is None:
            raise InputError(
                f"data.mix.{name}.samples: missing, expected its samples in each global batch; give them, or another data.quota"
            )
        if not isinstance(quota, FixedQuota) and stream.samples is not None:
            raise InputError(
                f"data.mix.{name}.samples: {stream.samples} found, but data.quota.name={quota.name} deals out data.quota.batch; "
                f"write 'data.mix=[{', '.join(streams)}]'"
            )
    match quota:
        case FixedQuota():
            return {name: stream.samples or 0 for name, stream in streams.items()}
        case ReplicateQuota():
            return dict.fromkeys(streams, 1)
        case ProportionalQuota():
            return {name: order.num_samples for name, order in orders.items()}
        case TemperatureQuota():
            # Rounded to six digits: the last bits of a power may differ from machine to machine.
            powers = {name: order.num_samples ** (1 / quota.temperature) for name, order in orders.items()}
            return {name: max(1, round(1e6 * power / max(powers.values()))) for name, power in powers.items()}


def unsupervised_classes(view: View, splits: list[ShardSplit]) -> list[str]:
    """Classes of a view that no pixel or box of `splits` has: nothing teaches them."""
    present = np.zeros(256, bool)
    for split in splits:
        present |= split.labels().total() > 0
    taught = np.unique(view.table[present])
    return [name for number, name in enumerate(view.names) if number not in taught]
