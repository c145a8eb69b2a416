"""Proposals of the encoder and the queries made of them."""

from __future__ import annotations

import pytest
import torch
from tiny import EMBED_DIM, image_input, tiny_detector, tiny_transformer

from detrex.modeling import QueryGroups, TwoStageQueries
from detrex.modeling.proposals import EncoderProposals
from detrex.structures import PyramidLayout, TokenPyramid

CPU = torch.device("cpu")


def _memory(layout: PyramidLayout, scale: float = 1.0) -> TokenPyramid:
    tokens = torch.randn(len(layout.valid_sizes), sum(layout.lengths), EMBED_DIM) * scale
    return TokenPyramid(tokens, torch.zeros_like(tokens), layout)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_small_image_has_fewer_proposals_than_queries(num_classes):
    detector = tiny_detector("two_stage", num_classes=num_classes, queries=300)
    batch = [image_input(64, 64, 2, num_classes=num_classes)]
    tokens = 8 * 8 + 4 * 4 + 2 * 2
    outputs = detector.outputs([batch[0]["image"]])
    assert outputs.layers[-1].boxes_BQ4.shape[1] == tokens
    losses = detector(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad():
        instances = detector.eval()(batch)[0]["instances"]
    assert len(instances) == min(50, tokens * num_classes)


def _valid_by_the_published_rule(layout: PyramidLayout) -> torch.Tensor:
    centres = layout.centres_BS2()
    sides = torch.cat([torch.full((n,), 0.05 * 2.0**level) for level, n in enumerate(layout.lengths)])
    prior = torch.cat([centres, sides[:, None].expand_as(centres)], -1)
    valid = ((prior > 0.01) & (prior < 0.99)).all(-1)
    return valid if layout.padding_BS is None else valid & ~layout.padding_BS


@pytest.mark.parametrize(
    ("shapes", "valid"),
    [
        ([(100, 167), (50, 84), (25, 42), (13, 21)], [(100, 167), (50, 84), (25, 42), (13, 21)]),
        ([(100, 167), (50, 84), (25, 42), (13, 21)], [(75, 150), (38, 75), (19, 38), (10, 19)]),
        ([(8, 8), (4, 4), (2, 2), (1, 1), (1, 1), (1, 1)], [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]),
        ([(50, 51)], [(49, 50)]),
    ],
)
def test_valid_tokens_follow_the_published_rule_and_are_counted_on_the_host(shapes, valid):
    layout = PyramidLayout.build(shapes, [valid], CPU)
    expected = _valid_by_the_published_rule(layout)
    assert torch.equal(~EncoderProposals.invalid_tokens(layout), expected)
    assert EncoderProposals.num_valid(layout) == (int(expected.sum()),)


@pytest.mark.parametrize("training", [False, True])
def test_invalid_proposals_are_never_selected_and_everything_is_finite(training):
    shapes, valid = [(60, 60), (30, 30), (15, 15)], [[(60, 60), (30, 30), (15, 15)], [(4, 5), (2, 3), (1, 2)]]
    layout = PyramidLayout.build(shapes, valid, CPU)
    torch.manual_seed(3)
    source = TwoStageQueries(groups=QueryGroups(one2one=50), num_classes=2, embed_dim=EMBED_DIM).train(training)
    with torch.no_grad():  # the zeroed, invalid tokens get the best class score of all
        source.proposals.head.class_embed.weight.copy_(-source.proposals.memory_norm.bias - 1.0)
        source.proposals.memory_proj.bias.zero_()
    memory = _memory(layout)
    queries, proposals = source(memory)
    available = 4 * 5 + 2 * 3 + 1 * 2
    assert queries.padding_BQ[0].sum() == 0
    assert queries.padding_BQ[1].tolist() == [False] * available + [True] * (50 - available)
    unactivated = source.proposals(memory)[1]
    for tensor in (queries.content_BQC, queries.pos_BQC, queries.reference, unactivated, *vars(proposals).values()):
        assert tensor.isfinite().all()
    valid_boxes = proposals.boxes_BQ4[1][~proposals.padding_BQ[1]]
    chosen = queries.reference[1, :available]
    assert ((chosen[:, None] - valid_boxes.detach()).abs().amax(-1).amin(1) < 1e-6).all()
    (queries.content_BQC.sum() + proposals.boxes_BQ4.sum() + proposals.logits_BQK.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in source.parameters())


def test_padded_slots_are_never_matched():
    detector = tiny_detector("two_stage", queries=100)
    batch = [image_input(96, 128, 3, seed=1), image_input(16, 16, 30, seed=2)]  # 2x2 + 1 + 1 = 6 tokens, 30 objects
    losses = detector(batch)
    assert all(loss.isfinite() for loss in losses.values())
    outputs = detector.outputs([x["image"] for x in batch])
    targets = detector._targets(batch)
    (match,) = detector.criterion.matcher([(outputs.layers[-1], targets)])
    assert int((match.image_M == 1).sum()) == 6
    assert not outputs.layers[-1].padding_BQ[match.image_M, match.query_M].any()
    assert match.target_M.unique().numel() == len(match.target_M)


@pytest.mark.parametrize(("training", "expected"), [(False, (60,)), (True, (60, 24))])
def test_groups_share_what_there_is(training, expected):
    layout = PyramidLayout.build([(8, 8), (4, 4), (2, 2)], [[(8, 8), (4, 4), (2, 2)]], CPU)
    groups = QueryGroups(one2one=60, one2many=300)
    source = TwoStageQueries(groups=groups, num_classes=2, embed_dim=EMBED_DIM, content="learned").train(training)
    queries, _ = source(_memory(layout))
    assert queries.groups == expected
    assert queries.content_BQC.shape[1] == sum(expected)


def test_queries_take_no_gradient_into_the_proposals():
    transformer = tiny_transformer("two_stage")
    layout = PyramidLayout.build([(8, 8), (4, 4), (2, 2)], [[(8, 8), (4, 4), (2, 2)]], CPU)
    queries, _ = transformer.queries(_memory(layout))
    queries.content_BQC.sum().backward()
    assert transformer.queries.proposals.head.bbox_embed.layers[0].weight.grad is None
    assert transformer.queries.pos_trans.weight.grad is not None


def test_contradicting_parts_are_refused():
    from detrex.modeling import NoRefinement

    with pytest.raises(ValueError, match="refinement to IterativeRefinement"):
        tiny_transformer("two_stage", refinement=NoRefinement())
    with pytest.raises(ValueError, match="'proposal' or 'learned'"):
        TwoStageQueries(groups=QueryGroups(one2one=5), num_classes=2, content="mixed")
    with pytest.raises(ValueError, match="one2one"):
        QueryGroups(one2one=0)
