"""Hybrid matching: what it adds to the losses, and that nothing of it is left in evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import image_input, tiny_detector

from detrex.modeling import HungarianMatcher, LookForwardTwice, LossWeights, SetCriterion
from detrex.structures import DetectorOutputs, Predictions, Targets
from projects.h_deformable_detr.modeling import HybridCriterion

WEIGHTS = LossWeights(class_=2.0, bbox=5.0, giou=2.0)


def _criterion(**kwargs) -> HybridCriterion:
    return HybridCriterion(num_classes=3, matcher=HungarianMatcher(), weights=WEIGHTS, **kwargs)


def _predictions(queries: int, images: int = 2) -> Predictions:
    return Predictions(torch.randn(images, queries, 3), torch.rand(images, queries, 4) * 0.5 + 0.2)


def _outputs(groups=(6, 30), layers=3) -> DetectorOutputs:
    return DetectorOutputs(tuple(_predictions(sum(groups)) for _ in range(layers)), groups, _predictions(50))


def _targets(*counts: int) -> list[Targets]:
    return [Targets(torch.randint(0, 3, (n,)), torch.rand(n, 4) * 0.5 + 0.2) for n in counts]


def _hybrid_detector(*, one2many=20, queries=6, seed=0, **kwargs):
    detector = tiny_detector("two_stage", queries=queries, one2many=one2many, seed=seed, refinement=LookForwardTwice())
    detector.criterion = _criterion(**kwargs)
    return detector


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("aux_loss", [True, False])
def test_losses_are_those_of_the_base_criterion_on_each_group(weight, aux_loss):
    outputs, targets = _outputs(), _targets(3, 2)
    losses = _criterion(num_repeats=4, one2many_weight=weight, aux_loss=aux_loss)(outputs, targets)
    base = SetCriterion(num_classes=3, matcher=HungarianMatcher(), weights=WEIGHTS, aux_loss=aux_loss)
    first = DetectorOutputs(tuple(p.slots(0, 6) for p in outputs.layers), (6,), outputs.proposals)
    second = DetectorOutputs(tuple(p.slots(6, 30) for p in outputs.layers), (30,))
    repeated = [Targets(torch.cat([t.labels_M] * 4), torch.cat([t.boxes_M4] * 4)) for t in targets]
    expected = base(first, targets) | {f"{k}_one2many": weight * v for k, v in base(second, repeated).items()}
    assert set(losses) == set(expected)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, msg=name)


def test_names_of_the_losses():
    losses = _criterion()(_outputs(), _targets(3, 2))
    suffixes = ["", "_0", "_1", "_enc", "_one2many", "_0_one2many", "_1_one2many"]
    assert set(losses) == {f"loss_{kind}{suffix}" for kind in ("class", "bbox", "giou") for suffix in suffixes}


def test_both_groups_are_matched_in_one_call(monkeypatch):
    calls = []
    original = HungarianMatcher.__call__
    monkeypatch.setattr(HungarianMatcher, "__call__", lambda self, pairs: calls.append(pairs) or original(self, pairs))
    _criterion(num_repeats=6)(_outputs(), _targets(3, 2))
    (pairs,) = calls
    assert [p.logits_BQK.shape[1] for p, _ in pairs] == [6, 6, 6, 50, 30, 30, 30]
    assert [sum(map(len, targets)) for _, targets in pairs] == [5] * 4 + [30] * 3


def test_every_object_is_found_by_several_queries():
    outputs, targets = _outputs(groups=(6, 40)), _targets(3, 2)
    criterion = _criterion(num_repeats=6)
    (match,) = criterion.matcher([(outputs.group(1).layers[-1], [t.repeat(6) for t in targets])])
    labels = torch.cat([t.repeat(6).labels_M for t in targets])
    assert len(match.target_M.unique()) == len(labels) == 30
    for image in range(2):
        queries = match.query_M[match.image_M == image]
        assert len(queries.unique()) == 6 * len(targets[image])


def test_more_repeated_objects_than_queries():
    losses = _criterion(num_repeats=6)(_outputs(groups=(6, 10)), _targets(5, 0))
    assert all(loss.isfinite() for loss in losses.values())


def test_one_to_many_losses_are_normalised_by_the_repeated_objects():
    """Six repeats, each found by an identical prediction, cost what one costs."""
    target = Targets(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    box, logits = torch.tensor([0.4, 0.5, 0.2, 0.3]), torch.tensor([-3.0, 1.0, -3.0])
    layer = Predictions(logits.expand(1, 7, 3), box.expand(1, 7, 4))
    losses = _criterion(num_repeats=6)(DetectorOutputs((layer,), (1, 6)), [target])
    for kind in ("class", "bbox", "giou"):
        torch.testing.assert_close(losses[f"loss_{kind}_one2many"], losses[f"loss_{kind}"])


@pytest.mark.parametrize("groups", [(36,), (12, 12, 12)])
def test_another_number_of_groups_is_refused(groups):
    with pytest.raises(ValueError, match=r"one2many above 0, or use SetCriterion"):
        _criterion()(_outputs(groups=groups), _targets(1, 1))


def test_a_model_without_a_one_to_many_group_is_refused():
    detector = _hybrid_detector(one2many=0)
    with pytest.raises(ValueError, match=r"model\.transformer\.queries\.groups\.one2many"):
        detector([image_input(64, 64, 2)])


@pytest.mark.parametrize("kwargs", [{"num_repeats": 0}, {"one2many_weight": -1.0}])
def test_parameters_out_of_range_are_refused(kwargs):
    with pytest.raises(ValueError, match="num_repeats >= 1 and one2many_weight >= 0"):
        _criterion(**kwargs)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (4, 1)])
def test_any_number_of_objects_trains_every_parameter(counts):
    detector = _hybrid_detector()
    losses = detector([image_input(64, 96, n, seed=i) for i, n in enumerate(counts)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert not [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize(
    ("size", "groups"),
    [((64, 64), (50, 34)), ((32, 48), (32, 0))],  # 8x8 + 4x4 + 2x2 tokens; 4x6 + 2x3 + 1x2
)
def test_groups_clamped_by_a_small_image_train(size, groups):
    detector = _hybrid_detector(queries=50, one2many=300)
    batch = [image_input(*size, 2)]
    assert detector.outputs([batch[0]["image"]]).groups == groups
    losses = detector(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert bool(losses["loss_bbox_one2many"] > 0) == bool(groups[1])


@torch.no_grad()
def test_in_evaluation_it_is_the_plain_two_stage_model():
    hybrid, plain = _hybrid_detector().eval(), tiny_detector("two_stage", queries=6, refinement=LookForwardTwice())
    plain.load_state_dict(hybrid.state_dict())
    batch = [image_input(64, 96, seed=1), image_input(48, 64, seed=2)]
    for ours, theirs in zip(hybrid(batch), plain.eval()(batch), strict=True):
        one, other = ours["instances"], theirs["instances"]
        assert len(one) == len(other) == 18
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_classes, other.pred_classes)


def test_the_one_to_one_losses_are_those_without_the_branch():
    """The groups do not see each other, so that the branch changes no one-to-one loss."""
    hybrid, plain = _hybrid_detector(), tiny_detector("two_stage", queries=6, refinement=LookForwardTwice())
    plain.load_state_dict(hybrid.state_dict())
    batch = [image_input(64, 96, 3, seed=1), image_input(48, 64, 2, seed=2)]
    with_branch, without = hybrid(batch), plain(batch)
    assert len(with_branch) == 12 + 9
    for name, loss in without.items():
        torch.testing.assert_close(with_branch[name], loss)


def test_proposals_belong_to_the_one_to_one_losses_alone():
    outputs, targets = _outputs(), _targets(3, 2)
    losses = _criterion()(outputs, targets)
    without = _criterion()(replace(outputs, proposals=None), targets)
    assert {name for name in losses if "_enc" in name} == {"loss_class_enc", "loss_bbox_enc", "loss_giou_enc"}
    for name, loss in without.items():
        torch.testing.assert_close(loss, losses[name])
