"""Pictures name every label, stay within their frame and write no two texts onto one another."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.planted import plant
from data.inspect.plots import write_figure
from data.taxonomy import Rules, TaxonomyConfig, connect, find_taxonomy
from data.taxonomy.pictures import shares_picture, tree_picture

PLANTED = plant(3, (20, 20), confusion=0.3, missing=0.1)
TAXONOMY = find_taxonomy(PLANTED.evidence, TaxonomyConfig())


def text_boxes(figure: Figure) -> dict[str, list[np.ndarray]]:
    """Text -> x and y of the lower left and the upper right corner of each time that it is written, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    texts += [text for axes in figure.axes if axes.axison for text in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    boxes: dict[str, list[np.ndarray]] = {}
    for text in texts:
        if text.get_text():
            boxes.setdefault(text.get_text(), []).append(np.array(text.get_window_extent(canvas.get_renderer()).extents))
    return boxes


def check_legible(figure: Figure) -> None:
    boxes = [box for of in text_boxes(figure).values() for box in of]
    width, height = figure.bbox.width, figure.bbox.height
    for box in boxes:
        assert box[0] >= 0
        assert box[1] >= 0
        assert box[2] <= width
        assert box[3] <= height
    for first, second in itertools.combinations(boxes, 2):
        apart = (first[2:] <= second[:2] + 1).any() or (second[2:] <= first[:2] + 1).any()
        assert apart, (first, second)


@pytest.mark.parametrize("sizes", [(20, 20), (8, 6, 9), (40, 40)])
def test_the_tree_names_every_label(sizes: tuple[int, ...]) -> None:
    taxonomy = find_taxonomy(plant(4, sizes, confusion=0.2, missing=0.1).evidence, TaxonomyConfig())
    figure = tree_picture(taxonomy)
    check_legible(figure)
    written = {name for text in text_boxes(figure) for name in text.split(" / ")}
    assert {node.split("/")[1] for node in taxonomy.nodes} <= written
    squares = [patch for patch in figure.axes[0].patches if patch.get_height() == patch.get_width()]
    assert len(squares) == len(taxonomy.nodes)


def test_shares_name_every_label_and_frame_the_relations(tmp_path: Path) -> None:
    connections = connect(PLANTED.evidence, Rules(min_part=1e-4))
    figure = shares_picture(connections, ("d0", "d1"), TAXONOMY.order)
    check_legible(figure)
    assert set(PLANTED.evidence.labels["d0"]) <= set(text_boxes(figure))
    related = TAXONOMY.order.below[:20, 20:] | TAXONOMY.order.below[20:, :20].T
    assert len(figure.axes[0].patches) == related.sum()
    write_figure(tmp_path / "shares.png", figure)
    with Image.open(tmp_path / "shares.png") as image:
        assert image.format == "PNG"
        assert image.size == tuple(figure.bbox.size.astype(int))
