"""What a data set of drawn streets looks like and how often things occur: all that a second appearance would change."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Color = tuple[int, int, int]
Range = tuple[float, float]


def toned(color: Color, tone: float) -> Color:
    """`color` with `tone` times the light."""
    return min(255, int(color[0] * tone)), min(255, int(color[1] * tone)), min(255, int(color[2] * tone))


def _weights(**weights: float) -> Mapping[str, float]:
    return weights


@dataclass(frozen=True, kw_only=True)
class Look:
    """Appearance (palettes, light, camera) and balance (rates of objects) of a set of street scenes.

    Ranges are uniform. Weights need not sum to one. Rates are chances per scene where nothing else is said.
    """

    light: Mapping[str, float] = field(default_factory=lambda: _weights(day=0.42, overcast=0.26, low_sun=0.18, dusk=0.14))
    """Weights of the keys of `light.LIGHTS`."""
    facades: tuple[Color, ...] = (
        (214, 205, 188), (196, 178, 150), (176, 142, 104), (158, 92, 72), (132, 74, 60), (205, 186, 140), (170, 170, 168),
        (140, 146, 150), (222, 218, 210), (188, 160, 150), (150, 164, 160), (118, 110, 104), (200, 150, 120),
    )  # fmt: skip
    roofs: tuple[Color, ...] = ((140, 70, 52), (110, 60, 48), (84, 82, 86), (96, 84, 72))
    asphalts: tuple[Color, ...] = ((96, 97, 100), (112, 111, 110), (82, 84, 88), (124, 120, 114))
    pavements: tuple[Color, ...] = ((164, 160, 154), (150, 148, 146), (172, 158, 146), (140, 128, 122))
    grasses: tuple[Color, ...] = ((98, 122, 58), (112, 126, 66), (84, 112, 52), (136, 128, 80))
    foliage: tuple[Color, ...] = ((66, 98, 40), (82, 108, 44), (54, 84, 44), (104, 112, 48), (134, 106, 42))
    cars: tuple[Color, ...] = (
        (28, 30, 34), (60, 62, 66), (120, 124, 130), (176, 180, 184), (226, 228, 230), (222, 224, 226), (148, 24, 26),
        (24, 52, 112), (60, 92, 136), (20, 70, 52), (150, 120, 40), (90, 60, 46), (190, 90, 30),
    )  # fmt: skip
    lorries: tuple[Color, ...] = ((228, 228, 224), (40, 78, 140), (170, 36, 32), (210, 170, 40), (52, 96, 66), (120, 124, 128))
    buses: tuple[Color, ...] = ((214, 164, 30), (176, 34, 34), (52, 96, 150), (222, 222, 216), (60, 130, 90))
    clothes: tuple[Color, ...] = (
        (34, 36, 44), (50, 60, 92), (118, 34, 40), (90, 92, 94), (206, 200, 190), (60, 84, 58), (196, 120, 50), (90, 60, 110),
        (160, 140, 110), (30, 100, 140), (200, 60, 70),
    )  # fmt: skip
    skins: tuple[Color, ...] = ((224, 184, 156), (198, 150, 116), (150, 104, 76), (98, 66, 48))

    focal: Range = (0.52, 0.68)
    """Focal length in picture widths."""
    camera_height: Range = (1.25, 2.1)
    """Metres above the road."""
    horizon: Range = (0.40, 0.52)
    """Row of the horizon in picture heights."""
    exposure: Range = (0.86, 1.14)
    color_cast: float = 0.05
    """Largest relative gain of a colour channel."""
    sensor_noise: Range = (1.5, 5.0)
    """Spread of the noise per channel, in grey levels."""
    blur: Range = (0.0, 0.55)
    """Radius in pixels of a picture 384 wide; it grows with the picture."""
    texture: float = 1.0
    """Factor on the texture of surfaces."""

    frontage: Mapping[str, float] = field(default_factory=lambda: _weights(urban=0.46, suburb=0.34, park=0.20))
    """Weights of what stands along a side of the road: the keys of `frontage.FRONTAGES`."""
    junction: float = 0.42
    t_junction: float = 0.35
    """Chance that a junction is the end of the road."""
    curved: float = 0.45
    crosswalk: float = 0.42
    ego_vehicle: float = 0.45
    vehicles: Mapping[str, float] = field(default_factory=lambda: _weights(car=0.74, truck=0.14, bus=0.12))
    traffic: Range = (0.25, 0.85)
    """Chance that a place for a vehicle is taken, drawn per scene."""
    parked: float = 0.5
    people: tuple[int, int] = (1, 7)
    """Fewest and most people on foot."""
    bicycles: tuple[float, ...] = (0.50, 0.34, 0.16)
    """Chances of 0, 1, 2 ... ridden bicycles; the same below for motorcycles."""
    motorcycles: tuple[float, ...] = (0.62, 0.30, 0.08)
    parked_two_wheelers: float = 0.35
    signs: tuple[float, ...] = (0.06, 0.34, 0.34, 0.18, 0.08)
    """Chances of 0, 1, 2 ... poles with a sign front."""
    sign_kinds: Mapping[str, float] = field(
        default_factory=lambda: _weights(
            sign_speed_limit=0.26,
            sign_danger=0.18,
            sign_give_way=0.14,
            sign_mandatory=0.14,
            sign_priority=0.13,
            sign_no_entry=0.09,
            sign_stop=0.06,
        )
    )
    sign_backs: tuple[float, ...] = (0.40, 0.40, 0.20)
    traffic_lights: float = 0.38
    lamps: float = 0.7
    trees: float = 0.55
    """Chance that a side of the road has a row of trees."""
    furniture: tuple[int, int] = (0, 4)


DEFAULT_LOOK = Look()

RENDERED_LOOK = Look(
    # As of a game: clean and saturated colours, fair weather, no sensor, a higher camera; suburbs and heavy traffic, few people and signs.
    light=_weights(day=0.85, low_sun=0.15),
    facades=((232, 120, 70), (240, 214, 120), (120, 168, 220), (226, 226, 236), (176, 84, 150)),
    roofs=((196, 50, 30), (60, 90, 160)),
    asphalts=((70, 78, 104), (84, 90, 118)),
    pavements=((206, 186, 130), (214, 200, 160)),
    grasses=((60, 176, 50), (84, 196, 40)),
    foliage=((20, 140, 50), (40, 160, 80)),
    cars=((230, 30, 40), (30, 80, 230), (250, 210, 20), (30, 190, 120), (240, 240, 244)),
    lorries=((250, 150, 20), (40, 190, 200)),
    buses=((150, 30, 200), (250, 90, 150)),
    clothes=((250, 60, 160), (40, 220, 220), (250, 250, 60), (110, 60, 230)),
    skins=((240, 190, 150), (170, 110, 80)),
    camera_height=(1.7, 2.6),
    horizon=(0.36, 0.46),
    exposure=(1.0, 1.2),
    color_cast=0.0,
    sensor_noise=(0.0, 0.5),
    blur=(0.0, 0.1),
    texture=0.15,
    frontage=_weights(urban=0.18, suburb=0.52, park=0.30),
    ego_vehicle=0.1,
    vehicles=_weights(car=0.55, truck=0.25, bus=0.20),
    traffic=(0.5, 1.0),
    people=(0, 3),
    bicycles=(0.8, 0.2),
    motorcycles=(0.8, 0.2),
    signs=(0.3, 0.5, 0.2),
    trees=0.8,
)
"""A look-alike of the default's scenes that is told from them at a glance."""

LOOKS = {"real": DEFAULT_LOOK, "rendered": RENDERED_LOOK}
