"""Post-processing and matching."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import detector_postprocess
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import Boxes, Instances


def test_postprocess_scales_clips_and_drops() -> None:
    boxes = Boxes([[10, 10, 50, 40], [-10, 0, 300, 20], [200, 5, 220, 9]])
    results = Instances((50, 100), pred_boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7]))
    processed = detector_postprocess(results, 100, 300)
    assert processed.image_size == (100, 300)
    assert processed.pred_boxes.tensor.tolist() == [[30, 20, 150, 80], [0, 0, 300, 40]]
    assert processed.scores.tolist() == pytest.approx([0.9, 0.8])
    assert boxes.tensor[0, 0] == 30  # in place


def test_postprocess_pastes_masks() -> None:
    results = Instances((10, 10), pred_boxes=Boxes([[2, 2, 6, 6]]), pred_masks=torch.ones(1, 1, 7, 7))
    masks = detector_postprocess(results, 20, 20).pred_masks
    assert masks.dtype == torch.bool
    assert masks.nonzero().amin(dim=0).tolist() == [0, 4, 4]
    assert masks.sum() == 64


def test_postprocess_needs_boxes() -> None:
    with pytest.raises(AssertionError):
        detector_postprocess(Instances((5, 5), scores=torch.ones(1)), 5, 5)


def test_semantic_postprocess_cuts_the_padding() -> None:
    logits = torch.zeros(2, 8, 8)
    logits[:, :4, :6] = 1
    assert torch.allclose(sem_seg_postprocess(logits, (4, 6), 12, 9), torch.ones(2, 12, 9))


def test_matcher() -> None:
    quality = torch.tensor([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])
    matches, labels = Matcher([0.3, 0.5], [0, -1, 1])(quality)
    assert matches.tolist() == [1, 1, 2, 0]
    assert labels.tolist() == [-1, 1, 0, 1]
    assert labels.dtype == torch.int8
    low = torch.tensor([[0.1, 0.2, 0.2], [0.05, 0.9, 0.0]])
    assert Matcher([0.5], [0, 1])(low)[1].tolist() == [0, 1, 0]
    assert Matcher([0.5], [0, 1], allow_low_quality_matches=True)(low)[1].tolist() == [0, 1, 1]


def test_matcher_without_objects() -> None:
    matches, labels = Matcher([0.5], [-1, 1])(torch.zeros(0, 3))
    assert matches.tolist() == [0, 0, 0]
    assert labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "arguments", [([0.5, 0.3], [0, -1, 1]), ([0.5], [0, 2]), ([0.5], [0, -1, 1]), ([-1.0], [0, 1])]
)
def test_matcher_refuses(arguments) -> None:
    with pytest.raises(AssertionError):
        Matcher(*arguments)
