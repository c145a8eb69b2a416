"""Matching and losses."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tiny import VARIANTS, image_input, tiny_detector

from detrex.layers import box_cxcywh_to_xyxy, elementwise_generalized_box_iou, generalized_box_iou
from detrex.modeling import HungarianMatcher, LossWeights, SetCriterion
from detrex.modeling.losses import sigmoid_focal_loss
from detrex.modeling.targets import make_targets
from detrex.structures import DetectorOutputs, Predictions, Targets


def _random_predictions(images=2, queries=6, classes=3) -> Predictions:
    boxes = torch.rand(images, queries, 4) * 0.5 + 0.2
    return Predictions(torch.randn(images, queries, classes), boxes)


def _random_targets(count, classes=3) -> Targets:
    return Targets(torch.randint(0, classes, (count,)), torch.rand(count, 4) * 0.5 + 0.2)


def test_matching_is_the_cheapest_of_all_assignments():
    predictions, targets = _random_predictions(), [_random_targets(3), _random_targets(2)]
    matcher = HungarianMatcher()
    (match,) = matcher([(predictions, targets)])
    offset = 0
    for image, target in enumerate(targets):
        cost = matcher.cost(predictions.logits_BQK[image], predictions.boxes_BQ4[image], None, target)
        own = match.image_M == image
        found = cost[match.query_M[own], match.target_M[own] - offset].sum()
        best = min(
            sum(cost[q, t] for t, q in enumerate(chosen)) for chosen in itertools.permutations(range(6), len(target))
        )
        torch.testing.assert_close(found, best)
        offset += len(target)


def test_costs_are_computed_within_each_image(monkeypatch):
    sizes = []
    original = HungarianMatcher.cost
    monkeypatch.setattr(HungarianMatcher, "cost", lambda *args: sizes.append(original(*args).shape) or original(*args))
    targets = [_random_targets(n) for n in (4, 0, 2)]
    HungarianMatcher()([(_random_predictions(images=3), targets)])
    assert [tuple(size) for size in sizes] == [(6, 4), (6, 0), (6, 2)]


def test_several_layers_are_matched_as_if_alone():
    layers = [_random_predictions() for _ in range(3)]
    targets = [_random_targets(3), _random_targets(1)]
    matcher = HungarianMatcher()
    together = matcher([(layer, targets) for layer in layers])
    for layer, match in zip(layers, together, strict=True):
        (alone,) = matcher([(layer, targets)])
        assert all(torch.equal(a, b) for a, b in zip(vars(alone).values(), vars(match).values(), strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_cost_that_is_not_finite_names_the_image(bad):
    predictions = _random_predictions()
    predictions.boxes_BQ4[1, 2, 0] = bad
    with pytest.raises(FloatingPointError, match="image 1 of the batch"):
        HungarianMatcher()([(predictions, [_random_targets(2), _random_targets(2)])])


def test_losses_against_their_definitions():
    predictions, targets = _random_predictions(), [_random_targets(3), _random_targets(2)]
    criterion = SetCriterion(num_classes=3, matcher=HungarianMatcher(), weights=LossWeights(class_=2, bbox=5, giou=2))
    losses = criterion(DetectorOutputs((predictions,), (6,)), targets)
    (match,) = criterion.matcher([(predictions, targets)])
    boxes = torch.cat([t.boxes_M4 for t in targets])[match.target_M]
    labels = torch.cat([t.labels_M for t in targets])[match.target_M]
    predicted = predictions.boxes_BQ4[match.image_M, match.query_M]
    torch.testing.assert_close(losses["loss_bbox"], 5 * F.l1_loss(predicted, boxes, reduction="sum") / 5)
    giou = torch.stack(
        [
            elementwise_generalized_box_iou(box_cxcywh_to_xyxy(a), box_cxcywh_to_xyxy(b))
            for a, b in zip(predicted, boxes, strict=True)
        ]
    )
    torch.testing.assert_close(losses["loss_giou"], 2 * (1 - giou).sum() / 5)
    expected = 0.0
    positives = set(zip(match.image_M.tolist(), match.query_M.tolist(), labels.tolist(), strict=True))
    for b, q, k in itertools.product(range(2), range(6), range(3)):
        p = predictions.logits_BQK[b, q, k].sigmoid()
        expected += -0.25 * (1 - p) ** 2 * p.log() if (b, q, k) in positives else -0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(losses["loss_class"], 2 * expected / 5)


def test_every_layer_has_the_same_weights():
    """No loss keeps weight 1 because its name was forgotten: doubling the weights doubles every loss."""
    targets = [_random_targets(3), _random_targets(2)]
    outputs = DetectorOutputs(tuple(_random_predictions() for _ in range(3)), (6,), proposals=_random_predictions())

    def losses(scale):
        weights = LossWeights(class_=2.0 * scale, bbox=5.0 * scale, giou=2.0 * scale)
        return SetCriterion(num_classes=3, matcher=HungarianMatcher(), weights=weights)(outputs, targets)

    once, twice = losses(1.0), losses(2.0)
    names = {f"loss_{kind}{suffix}" for kind in ("class", "bbox", "giou") for suffix in ("", "_0", "_1", "_enc")}
    assert set(once) == names
    for name in names:
        torch.testing.assert_close(twice[name], 2 * once[name])


def test_proposals_learn_objectness_in_column_zero():
    outputs = DetectorOutputs((_random_predictions(),), (6,), proposals=_random_predictions())
    criterion = SetCriterion(num_classes=3, matcher=HungarianMatcher())
    targets = [Targets(torch.tensor([2]), torch.rand(1, 4)) for _ in range(2)]
    agnostic = [Targets(torch.tensor([0]), t.boxes_M4) for t in targets]
    first, second = criterion(outputs, targets), criterion(outputs, agnostic)
    assert torch.equal(first["loss_class_enc"], second["loss_class_enc"])
    assert not torch.equal(first["loss_class"], second["loss_class"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (1, 1), (500, 2)])
def test_any_number_of_objects_trains(variant, counts):
    detector = tiny_detector(variant)
    losses = detector([image_input(64, 96, n, seed=i) for i, n in enumerate(counts)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    missing = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_losses_are_float32_under_autocast():
    detector = tiny_detector("two_stage")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector([image_input(64, 96, 3)])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    exact = detector([image_input(64, 96, 3)])
    for name in losses:
        torch.testing.assert_close(losses[name], exact[name], rtol=0.1, atol=0.05)


def test_matching_of_half_precision_predictions_is_that_of_their_float32_values():
    predictions, targets = _random_predictions(queries=40), [_random_targets(9), _random_targets(7)]
    half = Predictions(predictions.logits_BQK.bfloat16(), predictions.boxes_BQ4.bfloat16())
    upcast = Predictions(half.logits_BQK.float(), half.boxes_BQ4.float())
    (one,), (other,) = HungarianMatcher()([(half, targets)]), HungarianMatcher()([(upcast, targets)])
    assert torch.equal(one.query_M, other.query_M)


def test_degenerate_boxes_are_dropped_and_counted(caplog):
    boxes = torch.tensor(
        [[1, 1, 9, 9], [5, 5, 5, 9], [9, 9, 3, 3], [0, 0, float("nan"), 4], [0, 0, float("inf"), 4], [2, 3, 8, 9]]
    )
    targets, dropped = make_targets(torch.arange(6), boxes, (10, 10))
    assert dropped == 4
    assert targets.labels_M.tolist() == [0, 5]

    detector, x = tiny_detector("plain"), image_input(64, 64, 3)
    x["instances"].gt_boxes.tensor[1, 2:] = x["instances"].gt_boxes.tensor[1, :2]
    losses = detector([x])
    assert all(loss.isfinite() for loss in losses.values())
    assert "0.jpg: left out 1 boxes" in caplog.text


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_out_of_range_names_the_image(label):
    x = image_input(64, 64, 2)
    x["instances"].gt_classes[0] = label
    with pytest.raises(ValueError, match=r"0\.jpg: ground-truth classes .* model.num_classes"):
        tiny_detector("plain")([x])


def test_focal_loss_without_focus_is_cross_entropy():
    logits, targets = torch.randn(50), (torch.rand(50) > 0.5).float()
    expected = 0.5 * F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=0.5, gamma=0.0), expected)


def test_giou_of_touching_nested_and_empty_boxes():
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0])
    others = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 1], [0.25, 0.25, 0.75, 0.75], [3, 0, 4, 1], [0.5, 0.5, 0.5, 0.5]])
    torch.testing.assert_close(
        elementwise_generalized_box_iou(unit, others), torch.tensor([1.0, 0.0, 0.25, -0.5, 0.0]), atol=1e-6, rtol=0
    )
    empty = torch.zeros(4)
    assert elementwise_generalized_box_iou(empty, empty).isfinite()


def test_generalized_box_iou_is_pairwise_for_as_many_boxes_on_both_sides():
    """(N, M) also where N == M, as torchvision's function of this name."""
    boxes1, boxes2 = box_cxcywh_to_xyxy(torch.rand(2, 3, 4) + 0.1)
    expected = torchvision.ops.generalized_box_iou(boxes1, boxes2)
    torch.testing.assert_close(generalized_box_iou(boxes1, boxes2), expected)
    torch.testing.assert_close(elementwise_generalized_box_iou(boxes1, boxes2), expected.diagonal())
