"""Light: sun, sky, haze, and the colour that a surface takes in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, exp, pi, sin, tan

from data.streets.chance import Chance
from data.streets.look import Color, Look

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class LightKind:
    """One weather: factors on a surface's colour (`ambient`, `sun`), elevation of the sun in degrees, colours of the sky."""

    ambient: Vector
    sun: Vector
    elevation: tuple[float, float]
    zenith: Color
    horizon: Color
    clouds: tuple[float, float]
    """Range of the share of the sky that clouds cover."""
    cloud: Color
    haze: tuple[float, float]
    """Range of the density of haze, 1/m."""
    shadow: float
    """How much of the light a shadow takes, 0..1."""
    lamps: bool = False


LIGHTS: dict[str, LightKind] = {
    "day": LightKind(
        ambient=(0.60, 0.63, 0.69), sun=(0.62, 0.58, 0.50), elevation=(28, 62), zenith=(62, 118, 190), horizon=(178, 206, 232),
        clouds=(0.0, 0.6), cloud=(246, 247, 250), haze=(0.0015, 0.005), shadow=0.50,
    ),
    "overcast": LightKind(
        ambient=(0.86, 0.88, 0.91), sun=(0.07, 0.07, 0.07), elevation=(40, 70), zenith=(158, 166, 176), horizon=(206, 211, 216),
        clouds=(0.5, 1.0), cloud=(186, 190, 197), haze=(0.003, 0.012), shadow=0.10,
    ),
    "low_sun": LightKind(
        ambient=(0.54, 0.53, 0.58), sun=(0.86, 0.66, 0.40), elevation=(9, 22), zenith=(94, 126, 176), horizon=(246, 206, 152),
        clouds=(0.1, 0.7), cloud=(250, 214, 178), haze=(0.003, 0.009), shadow=0.46,
    ),
    "dusk": LightKind(
        ambient=(0.52, 0.51, 0.60), sun=(0.16, 0.10, 0.07), elevation=(3, 8), zenith=(44, 56, 96), horizon=(196, 140, 120),
        clouds=(0.1, 0.8), cloud=(96, 88, 112), haze=(0.003, 0.008), shadow=0.08, lamps=True,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Light:
    """The light of one scene. `to_sun` is a unit vector (right, up, away)."""

    kind: LightKind
    to_sun: Vector
    haze: float
    clouds: float

    def shade(self, color: Sequence[float], normal: Vector, z: float) -> Color:
        """The colour of a surface with unit `normal` at distance `z` metres, uint8 range."""
        # Called over a thousand times for a picture, hence without loops.
        (nx, ny, nz), (sx, sy, sz) = normal, self.to_sun
        sunlit = nx * sx + ny * sy + nz * sz
        if sunlit < 0:
            sunlit = 0.0
        kind = self.kind
        (ar, ag, ab), (br, bg, bb), (vr, vg, vb) = kind.ambient, kind.sun, kind.horizon
        clear = exp(-self.haze * z)
        sky, veil = clear * (0.90 + 0.10 * ny), 1 - clear
        sun = clear * sunlit
        red = int(color[0] * (ar * sky + br * sun) + vr * veil)
        green = int(color[1] * (ag * sky + bg * sun) + vg * veil)
        blue = int(color[2] * (ab * sky + bb * sun) + vb * veil)
        return (red if red < 255 else 255, green if green < 255 else 255, blue if blue < 255 else 255)

    def glow(self, color: Color, z: float) -> Color:
        """The colour of a lamp: its own, whatever falls on it."""
        clear = exp(-0.5 * self.haze * z)
        red, green, blue = (int(c * clear + v * (1 - clear)) for c, v in zip(color, self.kind.horizon, strict=True))
        return red, green, blue

    @property
    def shadow_step(self) -> tuple[float, float]:
        """Where the shadow of a point 1 m above the ground falls: metres to the right, metres away."""
        scale = -1.0 / max(self.to_sun[1], 0.22)
        return self.to_sun[0] * scale, self.to_sun[2] * scale


def draw_light(chance: Chance, look: Look) -> Light:
    kind = LIGHTS[chance.pick_weighted(look.light)]
    elevation = chance.uniform(*kind.elevation) * pi / 180
    azimuth = chance.uniform(0, 2 * pi)
    flat = cos(elevation)
    to_sun = (flat * sin(azimuth), flat * tan(elevation), flat * cos(azimuth))
    return Light(kind=kind, to_sun=to_sun, haze=chance.uniform(*kind.haze), clouds=chance.uniform(*kind.clouds))
