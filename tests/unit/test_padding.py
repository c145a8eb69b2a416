"""An image's detections depend on that image alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import EMBED_DIM, VARIANTS, image_input, tiny_detector, tiny_transformer

from detrex.modeling.batching import PadFeatures, PadImages, nearest_valid_length
from detrex.structures import PyramidLayout

SIZES = [(96, 128), (64, 64), (72, 120), (64, 64)]


def _assert_same(first, second):
    assert len(first) == len(second) > 0
    torch.testing.assert_close(first.scores, second.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor, atol=1e-2, rtol=1e-4)
    assert torch.equal(first.pred_classes, second.pred_classes)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_an_image_alone_and_in_a_batch_gives_the_same_boxes(variant):
    # 100 queries: more than the 64x64 image has tokens, so its slots are padded beside the larger one, and all of its
    # pairs of query and class are selected.
    detector = tiny_detector(variant, queries=100, num_select=300).eval()
    batch = [image_input(h, w, seed=i) for i, (h, w) in enumerate(SIZES)]
    for alone, together in zip(batch, detector(batch), strict=True):
        _assert_same(detector([alone])[0]["instances"], together["instances"])


@pytest.mark.parametrize("size", [(1, 150), (150, 1)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_of_one_row_is_trained_on_and_detected_on(variant, size):
    """The data loader keeps a pixel of each side, however narrow an image is."""
    batch = [image_input(*size, boxes=2), image_input(64, 96, boxes=2, seed=1)]
    detector = tiny_detector(variant, queries=30)
    assert all(loss.isfinite() for loss in detector.train()(batch).values())
    with torch.no_grad():
        detector.eval()
        for alone, together in zip(batch, detector(batch), strict=True):
            _assert_same(detector([alone])[0]["instances"], together["instances"])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_garbage_in_the_padding_changes_nothing(variant, training):
    transformer = tiny_transformer(variant, queries=40).train(training)
    shapes, valid = [(12, 16), (6, 8), (3, 4)], [[(12, 16), (6, 8), (3, 4)], [(8, 9), (4, 5), (2, 3)]]
    layout = PyramidLayout.build(shapes, valid, torch.device("cpu"))
    clean = [torch.randn(2, EMBED_DIM, h, w) for h, w in shapes]
    for feature, (h, w) in zip(clean, valid[1], strict=True):
        feature[1, :, h:], feature[1, :, :, w:] = 0, 0
    dirty = [feature.clone() for feature in clean]
    for feature, (h, w) in zip(dirty, valid[1], strict=True):
        feature[1, :, h:], feature[1, :, :, w:] = 1e4, -1e4
    expected, actual = transformer(clean, layout), transformer(dirty, layout)
    for one, other in zip(expected.layers, actual.layers, strict=True):
        assert torch.equal(one.logits_BQK, other.logits_BQK)
        assert torch.equal(one.boxes_BQ4, other.boxes_BQ4)
    if expected.proposals is not None:
        assert torch.equal(expected.proposals.logits_BQK, actual.proposals.logits_BQK)


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_of_a_padded_image_equal_those_of_its_features_alone(variant):
    """Training pads images; with features padded instead, the losses of a batch are the mean of its images'."""
    detector = tiny_detector(variant, queries=15)
    detector.train_batching = PadFeatures()
    batch = [image_input(96, 128, 4, seed=1), image_input(64, 80, 4, seed=2)]
    together = detector(batch)
    alone = [detector([x]) for x in batch]
    for name, loss in together.items():
        if name != "loss_class_enc":  # counts padding as background, as published
            torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_features_of_each_size_come_back_in_order():
    def extract(x):
        return [F.avg_pool2d(x, 8), F.avg_pool2d(x, 16, ceil_mode=True)]

    images = [torch.rand(3, h, w) for h, w in [(32, 48), (16, 64), (32, 48), (48, 16)]]
    maps, layout = PadFeatures()(images, extract)
    for index, image in enumerate(images):
        for level, x in enumerate(extract(image[None])):
            h, w = layout.valid_sizes[index][level]
            assert (h, w) == tuple(x.shape[-2:])
            assert torch.equal(maps[level][index, :, :h, :w], x[0])
            assert not maps[level][index, :, h:].any()
            assert not maps[level][index, :, :, w:].any()


def test_equal_sizes_need_no_mask():
    images = [torch.rand(3, 32, 48) for _ in range(2)]
    for batching in (PadImages(), PadFeatures()):
        _, layout = batching(images, lambda x: [F.avg_pool2d(x, 8)])
        assert layout.padding_BS is None


@pytest.mark.parametrize(("padded", "stride"), [(810, 32), (828, 8), (800, 64), (97, 16), (1333, 32)])
def test_valid_lengths_are_those_of_an_interpolated_mask(padded, stride):
    cells = -(-padded // stride)
    for valid in range(1, padded + 1, 7):
        mask = torch.arange(padded) >= valid
        cell_mask = F.interpolate(mask[None, None].float(), size=cells)[0, 0].bool()
        assert nearest_valid_length(valid, padded, cells) == int((~cell_mask).sum())


def test_layout_marks_what_lies_outside_the_image():
    layout = PyramidLayout.build([(2, 3)], [[(2, 3)], [(1, 2)]], torch.device("cpu"))
    assert layout.padding_BS.tolist() == [[False] * 6, [False, False, True, True, True, True]]
    x, y = layout.centres_BS2()[1].unbind(-1)
    torch.testing.assert_close(x, torch.tensor([0.25, 0.75, 1.25, 0.25, 0.75, 1.25]))
    torch.testing.assert_close(y, torch.tensor([0.5, 0.5, 0.5, 1.5, 1.5, 1.5]))
    torch.testing.assert_close(layout.to_levels(torch.ones(2, 1, 2))[1, 0, 0], torch.tensor([2 / 3, 1 / 2]))


def test_parts_are_registered_in_the_order_of_checkpoints():
    """The optimizer's state in checkpoints goes by the order of the parameters."""
    assert [name for name, _ in tiny_detector("plain").named_children()][:3] == ["backbone", "neck", "transformer"]
