"""BitMasks and PolygonMasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks, polygons_to_bitmask

SQUARE = np.array([2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0])
TRIANGLE = np.array([0.0, 0.0, 10.0, 0.0, 10.0, 10.0])


def test_rasterising() -> None:
    mask = polygons_to_bitmask([SQUARE], 20, 30)
    assert mask.shape == (20, 30)
    assert mask.dtype == bool
    assert mask.sum() == 60
    assert mask[3:9, 2:12].all()
    assert not polygons_to_bitmask([], 5, 5).any()


def test_polygon_masks() -> None:
    masks = PolygonMasks([[SQUARE.tolist()], [TRIANGLE, torch.from_numpy(SQUARE)], []])
    assert len(masks) == 3
    assert masks.area().tolist() == [60, 110, 0]
    assert masks.nonempty().tolist() == [True, True, False]
    boxes = masks.get_bounding_boxes().tensor
    assert boxes[:2].tolist() == [[2, 3, 12, 9], [0, 0, 12, 10]]
    assert [len(polygons) for polygons in masks] == [1, 2, 0]
    assert len(masks[0]) == len(masks[torch.tensor([True, False, False])]) == 1
    assert len(masks[[2, 0]]) == len(masks[torch.tensor([0, 1])]) == len(masks[:2]) == 2
    assert len(PolygonMasks.cat([masks, masks])) == 6
    assert masks.to("cpu").device == torch.device("cpu")
    assert masks.polygons[0][0].dtype == np.float64


@pytest.mark.parametrize("wrong", [SQUARE, [SQUARE], [[SQUARE[:4]]], [[SQUARE[:7]]]])
def test_polygon_masks_refuse(wrong) -> None:
    with pytest.raises(ValueError, match=r"(?i)polygon"):
        PolygonMasks(wrong)


def test_bit_masks() -> None:
    masks = BitMasks.from_polygon_masks([[SQUARE], [TRIANGLE], []], 20, 30)
    assert masks.tensor.dtype == torch.bool
    assert masks.nonempty().tolist() == [True, True, False]
    boxes = masks.get_bounding_boxes().tensor
    assert boxes[0].tolist() == [2, 3, 12, 9]
    assert boxes[2].tolist() == [0, 0, 0, 0]
    assert tuple(masks.image_size) == (20, 30)
    assert len(masks[1]) == 1
    assert len(masks[torch.tensor([True, False, True])]) == len(masks[:2]) == 2
    assert len(BitMasks.cat([masks, masks])) == 6
    assert len(list(masks)) == 3
    assert len(BitMasks.from_polygon_masks([], 4, 4)) == 0
    assert BitMasks(np.ones((1, 2, 2), dtype=np.uint8)).tensor.all()
    with pytest.raises(AssertionError):
        BitMasks(torch.zeros(3, 3))
