from __future__ import annotations

import numpy as np
import pytest

from detrex.inference.drawing import BoxLayer, class_colour, comparison_grid, draw_boxes

GREY = np.full((60, 80, 3), 128, dtype=np.uint8)


def layer(*boxes, label="cat 0.9"):
    return BoxLayer(np.array(boxes, dtype=float).reshape(-1, 4), [label] * len(boxes), list(range(len(boxes))))


def test_box_is_drawn_where_it_is():
    pixels = np.asarray(draw_boxes(GREY, layer([10, 20, 50, 55], label="")))
    changed = np.argwhere((pixels != 128).any(-1))
    assert changed.min(0).tolist() == [20, 10]
    assert changed.max(0).tolist() == [55, 50]
    assert tuple(pixels[20, 30]) == class_colour(0)
    assert (pixels[40, 30] == 128).all()  # the inside stays visible
    assert (GREY == 128).all()


def test_scale_and_labels_stay_inside():
    picture = draw_boxes(GREY, layer([70, 0, 80, 10], [-5, 50, 200, 90], [5, 5, 4, 4]), scale=3)
    assert picture.size == (240, 180)


def test_colours_of_classes_differ():
    colours = {class_colour(i) for i in range(80)}
    assert len(colours) == 80


@pytest.mark.parametrize("count", [1, 5])
def test_grid(count):
    sheet = comparison_grid([(GREY, layer([1, 1, 20, 20]), layer())] * count, columns=3, width=100)
    assert sheet.width > 200
    if count == 5:
        pixels = np.asarray(sheet)
        assert sheet.width == 3 * 210 + 8
        assert (pixels == 128).all(-1).sum() > 5 * 2 * 100 * 60
