"""Bins, benches, boxes, bollards: small things on the sidewalk."""

from data.streets.draw import Item, Stage
from data.streets.labels import ATOM_IDS
from data.streets.look import toned
from data.streets.solids import Pose, Solid, box, paint_parts


def furniture(stage: Stage, x: float, z: float, inwards: int) -> Item:
    """One piece at (x, z); `inwards` is the side of the road, -1 or 1."""
    makers = {"bin": _bin, "bench": _bench, "cabinet": _cabinet, "bollard": _bollard, "shelter": _shelter}
    kind = stage.chance.pick_weighted({"bin": 0.3, "bench": 0.2, "cabinet": 0.25, "bollard": 0.1, "shelter": 0.15})
    solids = makers[kind](stage)
    pose = Pose(x=x, z=z, heading="right" if inwards > 0 else "left")
    width = max(solid.width for solid in solids)
    footprint = pose.footprint(0.5 * width, max(b for solid in solids for b, _ in solid.profile))
    return Item(
        z=max(corner[1] for corner in footprint) - 0.1,
        paint=lambda: paint_parts(stage, pose, solids, ATOM_IDS["street_furniture"]),
        footprint=footprint,
        height=max(y for solid in solids for _, y in solid.profile),
    )


def _bin(stage: Stage) -> list[Solid]:
    color = stage.chance.vary(stage.chance.pick(((52, 84, 58), (70, 72, 76), (38, 64, 110), (176, 120, 30))))
    size = stage.chance.uniform(0.5, 0.75)
    lid = toned(color, 0.6)
    return [box(size, 1.0, size, color), box(size + 0.06, 1.12, size + 0.06, lid, low=1.0, start=-0.03)]


def _bench(stage: Stage) -> list[Solid]:
    wood = stage.chance.vary((128, 92, 58))
    return [box(1.7, 0.42, 0.4, (60, 60, 62)), box(1.8, 0.5, 0.5, wood, low=0.42), box(1.8, 0.95, 0.08, wood, low=0.5)]


def _cabinet(stage: Stage) -> list[Solid]:
    color = stage.chance.vary(stage.chance.pick(((150, 156, 150), (196, 176, 40), (160, 40, 36), (110, 124, 116))))
    return [box(stage.chance.uniform(0.5, 1.3), stage.chance.uniform(0.9, 1.5), 0.45, color)]


def _bollard(stage: Stage) -> list[Solid]:
    color = stage.chance.pick(((70, 72, 76), (196, 60, 40), (50, 54, 58)))
    white = (224, 224, 220)
    return [box(0.22, 0.7, 0.22, color), box(0.22, 0.85, 0.22, white, low=0.7), box(0.22, 1.0, 0.22, color, low=0.85)]


def _shelter(stage: Stage) -> list[Solid]:
    frame = stage.chance.vary((70, 78, 80))
    return [box(3.2, 2.2, 0.08, (118, 136, 142)), box(0.1, 2.2, 1.3, frame), box(3.4, 2.4, 1.5, frame, low=2.2)]
