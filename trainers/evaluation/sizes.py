"""The sizes that pictures are evaluated at, and those of the papers by name."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from data.errors import FieldError
from data.transforms import CropConfig, Interpolation, ResizeConfig, nearest_pixels, resize_image


@dataclass(frozen=True, kw_only=True)
class SizeConfig:
    """How large the network sees a picture, and how large the labels are that its answer is compared with."""

    image: Literal["training", "own"] | ResizeConfig = "training"
    """training: as large as the crops of the dataset showed it (`resize` of the crop); own: as it is stored; or a size. What
    `model.input_scale` says comes on top."""
    labels: Literal["own", "image"] = "own"
    """own: the answer is brought to the size of the labels as they are stored; image: the labels, by the nearest pixel, to that of the
    picture after `image`."""
    interpolation: Interpolation | None = None
    """How pictures are resized; null: as in training."""

    def shown(self, crop: CropConfig) -> CropConfig:
        """`crop`, what training cut, as it says how large whole pictures are shown here."""
        resize = crop.resize if self.image == "training" else None if self.image == "own" else self.image
        return replace(crop, resize=resize, interpolation=self.interpolation or crop.interpolation)

    def brought(self, image: np.ndarray, label: np.ndarray, crop: CropConfig) -> tuple[np.ndarray, np.ndarray, CropConfig]:
        """An image (H, W, 3), its label (H, W), and `crop` as it is to be shown: the first two resized with `labels=image`."""
        crop = self.shown(crop)
        if self.labels == "own" or crop.resize is None:
            return image, label, crop
        size = crop.resize.resized(*image.shape[:2])
        rows, columns = nearest_pixels(label.shape[0], size[0]), nearest_pixels(label.shape[1], size[1])
        small = image if size == image.shape[:2] else resize_image(image, size, crop.interpolation)
        return small, label[rows[:, None], columns], replace(crop, resize=None)


PLAIN = SizeConfig()

SIZES: dict[str, SizeConfig] = {
    "label": PLAIN,
    # Paper 001, its code: every picture and its labels stretched to 512x706, TensorFlow's bilinear.
    "paper001": SizeConfig(image=ResizeConfig(size=(512, 706)), labels="image", interpolation="linear"),
    # Paper 001, section V-E.
    "paper001_extended": SizeConfig(image=ResizeConfig(size=(512, 1024)), labels="image", interpolation="linear"),
    # Paper 002, section 4: inside 1024x512. It does not say at which size it scores; ours is that of the picture.
    "paper002": SizeConfig(image=ResizeConfig(size=(512, 1024), mode="fit"), labels="image"),
    # SwiftNet, the official evaluation: pictures as they are stored, logits to the size of the labels.
    "swiftnet": SizeConfig(image="own"),
    # Paper 000, section 3.1: it keeps pictures and labels of Cityscapes at 1024x512, and scores at the size of the labels it keeps.
    "thesis000_cityscapes": SizeConfig(image=ResizeConfig(size=(512, 1024)), labels="image", interpolation="pil_linear"),
    # Paper 004 (ClassMix and DACS): pictures and labels of Cityscapes at 1024x512, so that its mIoU is at half the resolution.
    "paper004_cityscapes": SizeConfig(image=ResizeConfig(size=(512, 1024)), labels="image", interpolation="pil_linear"),
}


def named_size(name: str) -> SizeConfig:
    """The size of that name. Raises InputError that lists the names."""
    if name not in SIZES:
        raise FieldError("size", f"no preset {name!r}, expected one of {', '.join(SIZES)}; choose one, or give image and labels")
    return SIZES[name]


def size_of(size: str | SizeConfig) -> SizeConfig:
    return named_size(size) if isinstance(size, str) else size
