"""The crops of the papers, by name. Where a paper and its code differ, a preset follows the code that made the numbers.

Throughout, a crop of an image that is too small lies in its upper left corner and the padding is void, as in all of the code.

Code that resizes with Pillow (SwiftNet; ClassMix and DACS, partly by way of scipy.misc.imresize) smooths where it shrinks, and its
presets take Pillow's filters. OpenCV's do not smooth; on noise of one pixel and a standard deviation of 58 this makes

    from -> to                                Pillow    OpenCV     mean absolute difference    with area
    GTA5 1914x1052 -> 1280x720, cubic         32.0      49.7       20.2                        30.5,  4.5
    SwiftNet at a factor of 2, cubic          23.5      42.0       20.7                        29.1,  9.0
    Cityscapes 2048x1024 -> 1024x512, linear  18.2      29.1       12.0                        29.1, 12.0
"""

from data.errors import InputError
from data.transforms import CropConfig, ResizeConfig

CITYSCAPES_MEAN = (73, 83, 72)
"""SwiftNet's mean colour of Cityscapes: its padding is 0 after normalising."""
IMAGENET_MEAN = (124, 116, 104)
CAFFE_MEAN = (123, 117, 104)
"""What ClassMix and DACS subtract (BGR 104.007, 116.669, 122.679)."""

CROPS: dict[str, CropConfig] = {
    # SwiftNet, the official training on Cityscapes at 2048x1024 (configs/rn18_single_scale.py, data/transform/jitter.py): flip
    # first; the drawn factor is the box's, so that 2 zooms out and the zoom of the image is distributed as 1/s; bicubic.
    # Its box is cut down to whole pixels, ours rounded.
    "swiftnet": CropConfig(
        size=(768, 768), scale=(0.5, 2.0), scale_of="box", flip=0.5, flip_first=True, interpolation="pil_cubic", pad=CITYSCAPES_MEAN
    ),
    # Paper 000, section 3.3: as SwiftNet, whose code it trains with, but the text scales the image by r in 0.7..1.3 bilinearly and
    # pads with the image's mean colour; it calls the padding square and does not say where it lies. For VOC at its own size, and for
    # Cityscapes that was stored at 1024x512.
    "thesis000": CropConfig(size=(448, 448), scale=(0.7, 1.3), flip=0.5, flip_first=True, interpolation="pil_linear", pad="mean"),
    # The same for Cityscapes at 2048x1024: section 3.1 takes it at 1024x512, bilinear.
    "thesis000_cityscapes": CropConfig(
        size=(448, 448),
        resize=ResizeConfig(size=(512, 1024)),
        scale=(0.7, 1.3),
        flip=0.5,
        flip_first=True,
        interpolation="pil_linear",
        pad="mean",
    ),
    # Paper 001, section IV, implementation details ("512x706", "respecting their aspect ratio"), with the code's sizes. No flip
    # and no scale in either; TensorFlow's bilinear, which does not smooth. Vistas is resized until it just covers the crop.
    "paper001_vistas": CropConfig(size=(512, 706), resize=ResizeConfig(size=(512, 706), mode="cover"), scale=(1.0, 1.0), flip=0.0),
    "paper001_cityscapes": CropConfig(size=(512, 706), resize=ResizeConfig(size=(512, 1024)), scale=(1.0, 1.0), flip=0.0),
    # The code resizes GTSDB to a width of 850, where 800x1360 in proportion would be 870.
    "paper001_gtsdb": CropConfig(size=(512, 706), resize=ResizeConfig(size=(512, 850)), scale=(1.0, 1.0), flip=0.0),
    # Paper 002, section 4: inside 1024x512, then a scale in 0.5..2. It names no flip, and neither a size of crops nor a padding:
    # 1024x512 and the mean that it normalises with are ours. There is no code.
    "paper002": CropConfig(
        size=(512, 1024), resize=ResizeConfig(size=(512, 1024), mode="fit"), scale=(0.5, 2.0), flip=0.0, pad=IMAGENET_MEAN
    ),
    # Paper 004, section 3.4, semi-supervised (ClassMix, data/cityscapes_loader.py): whole images at 1024x512, no flip.
    "classmix_cityscapes": CropConfig(
        size=(512, 1024), resize=ResizeConfig(size=(512, 1024)), scale=(1.0, 1.0), flip=0.0, interpolation="pil_linear"
    ),
    # The same in random crops of 512x512 (table 5.1, "Random crop").
    "classmix_cityscapes_crop": CropConfig(
        size=(512, 512), resize=ResizeConfig(size=(512, 1024)), scale=(1.0, 1.0), flip=0.0, interpolation="pil_linear"
    ),
    # ClassMix, data/voc_dataset.py, with OpenCV: 12 scales up to 1.6, where the text says 0.5..1.5; a flip of 0, where the text says 0.5.
    "classmix_voc": CropConfig(size=(321, 321), scale=(0.5, 1.6), scale_step=0.1, flip=0.0, pad=CAFFE_MEAN),
    # Paper 004, adaptation (DACS, trainUDA.py): GTA5 to 1280x720, where the text says 1280x760, bicubic; Cityscapes to half;
    # 512x512 crops, no scale, no flip.
    "dacs_gta5": CropConfig(
        size=(512, 512), resize=ResizeConfig(size=(720, 1280)), scale=(1.0, 1.0), flip=0.0, interpolation="pil_cubic", pad=CAFFE_MEAN
    ),
    "dacs_cityscapes": CropConfig(
        size=(512, 512), resize=ResizeConfig(size=(512, 1024)), scale=(1.0, 1.0), flip=0.0, interpolation="pil_linear", pad=CAFFE_MEAN
    ),
    # SYNTHIA is 1280x760 and stays so.
    "dacs_synthia": CropConfig(
        size=(512, 512), resize=ResizeConfig(size=(760, 1280)), scale=(1.0, 1.0), flip=0.0, interpolation="pil_cubic", pad=CAFFE_MEAN
    ),
}


def named_crop(name: str) -> CropConfig:
    """The crop of that name. Raises InputError that lists the names."""
    if name not in CROPS:
        raise InputError(f"data.crop: no preset {name!r}, expected one of {', '.join(CROPS)}; choose one, or give size, scale and flip")
    return CROPS[name]
