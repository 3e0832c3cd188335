"""From drawn picture to photograph: texture of surfaces, exposure, blur and sensor noise."""

from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from data.streets.draw import SUPERSAMPLING, Stage
from data.streets.labels import ATOM_IDS

TILE = 256
"""Side of the noise tile."""

GROUND_TEXTURE = {"asphalt": 0.085, "lane_marking": 0.07, "crosswalk": 0.08, "sidewalk": 0.075, "curb": 0.08, "grass": 0.22}
SURFACE_TEXTURE = {
    "building": 0.05,
    "wall": 0.08,
    "fence": 0.06,
    "tree": 0.26,
    "person": 0.05,
    "car": 0.02,
    "street_furniture": 0.04,
}
"""Relative spread of the light that a surface sends back."""


def finish(stage: Stage, picture: Image.Image, atoms: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the picture with texture by atom, seen through a lens and a sensor. Positions do not change."""
    height, width = atoms.shape
    chance, look = stage.chance, stage.look
    shading = (1 + look.texture * _texture(stage, atoms)) * _vignette(stage, height, width)
    # Rows of (H, 3 W): numpy is several times slower over a last axis of three.
    pixels = np.asarray(picture).reshape(height, -1) * np.repeat(shading, 3, axis=1)
    _expose(stage, pixels)
    blur = chance.uniform(*look.blur) * width / 384
    if blur > 0.15:
        np.clip(pixels, 0, 255, out=pixels)
        sharp = Image.fromarray(pixels.astype(np.uint8).reshape(height, width, 3))
        pixels = np.asarray(sharp.filter(ImageFilter.BoxBlur(blur))).reshape(height, -1).astype(np.float32)
    _add_noise(stage, pixels)
    pixels += 0.5
    np.clip(pixels, 0, 255, out=pixels)
    return pixels.astype(np.uint8).reshape(height, width, 3)


def _expose(stage: Stage, pixels: np.ndarray) -> None:
    """Contrast around middle grey, exposure and colour cast of (H, 3 W) float32, in place."""
    chance, look = stage.chance, stage.look
    exposure, contrast = chance.uniform(*look.exposure), chance.uniform(0.9, 1.15)
    gains = np.array([exposure * (1 + chance.uniform(-look.color_cast, look.color_cast)) for _ in range(3)], np.float32)
    row = np.tile(gains, pixels.shape[1] // 3)
    pixels *= row * np.float32(contrast)
    pixels += row * np.float32(118 * (1 - contrast))


def _add_noise(stage: Stage, pixels: np.ndarray) -> None:
    """Noise of the sensor on (H, 3 W) float32, in place: the sum of two uniform bytes, near enough to normal at a fifth of the cost."""
    first, second = stage.chance.bytes(2, *pixels.shape)
    grain = np.add(first, second, dtype=np.float32)
    grain -= 255
    grain *= np.float32(stage.chance.uniform(*stage.look.sensor_noise) / 104.5)  # their spread is 104.5
    pixels += grain


def _vignette(stage: Stage, height: int, width: int) -> np.ndarray:
    """(H, W) float32: the corners get a little less light."""
    strength = np.float32(stage.chance.uniform(0.0, 0.16))
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    return 1 - strength * (rows + np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2)


@cache
def noise_tile() -> np.ndarray:
    """(TILE, TILE) float32 of mean 0 and spread 1 that repeats without a seam: fine grain over coarser stains."""
    generator = np.random.default_rng(20)
    tile = np.zeros((TILE, TILE), np.float32)
    for cell, weight in ((1, 0.8), (3, 0.9), (12, 0.9)):
        grain = generator.standard_normal((TILE, TILE)).astype(np.float32)
        for axis in (0, 1):  # a wrapped box filter, twice: soft stains about `cell` wide
            for _ in range(2):
                grain = np.mean([np.roll(grain, shift, axis) for shift in range(cell)], axis=0)
        tile += weight * grain / grain.std()
    return (tile - tile.mean()) / tile.std()


def _strengths(table: dict[str, float]) -> np.ndarray:
    """(256,) float32: atom id -> spread."""
    strengths = np.zeros(256, np.float32)
    strengths[[ATOM_IDS[name] for name in table]] = list(table.values())
    return strengths


def _texture(stage: Stage, atoms: np.ndarray) -> np.ndarray:
    """(H, W) float32: relative change of brightness. On the ground it lies in perspective, elsewhere in the picture."""
    height, width = atoms.shape
    du, dv = stage.chance.integer(0, TILE - 1), stage.chance.integer(0, TILE - 1)
    tile = noise_tile()
    rows, columns = (np.arange(height) + dv) % TILE, (np.arange(width) + du) % TILE
    texture = tile[rows[:, None], columns] * _strengths(SURFACE_TEXTURE)[atoms]
    horizon = min(max(int(stage.camera.horizon_v / SUPERSAMPLING) + 1, 0), height)
    if horizon < height:
        ground = atoms[horizon:]
        texture[horizon:] += _ground_texture(stage, ground, horizon, (du, dv))
    return texture


def _ground_texture(stage: Stage, atoms: np.ndarray, first_row: int, shift: tuple[int, int]) -> np.ndarray:
    """(h, W) float32 for the rows from `first_row` on, as if all of them showed the ground."""
    camera = stage.camera
    height, width = atoms.shape
    v = (np.arange(height, dtype=np.float32) + first_row + 0.5) * SUPERSAMPLING
    u = (np.arange(width, dtype=np.float32) + 0.5) * SUPERSAMPLING
    z = (camera.focal * camera.height / np.maximum(v - camera.horizon_v, 0.5))[:, None]
    x = (u[None] - camera.center_u) * (z / camera.focal) + camera.x - 0.5 * camera.bend * z * z
    grain = noise_tile()[(z * 11).astype(np.int32) + shift[1] & TILE - 1, (x * 24).astype(np.int32) + shift[0] & TILE - 1]
    stains = noise_tile()[(z * 0.5).astype(np.int32) + shift[0] & TILE - 1, (x * 2).astype(np.int32) + shift[1] & TILE - 1]
    fade = np.minimum(1, 6 / z)
    texture = (0.8 * grain * fade + 0.4 * stains) * _strengths(GROUND_TEXTURE)[atoms]
    slab = stage.chance.uniform(0.5, 1.2)
    joints = (np.mod(x, slab) < 0.05 * slab + 0.012 * z) | (np.mod(z, slab) < 0.05 * slab + 0.02 * z)
    return texture - 0.16 * np.clip(1.4 - z / 14, 0, 1) * joints * (atoms == ATOM_IDS["sidewalk"])
