"""References, their refinement, and what gradients flow through them."""

from __future__ import annotations

import pytest
import torch
from tiny import EMBED_DIM, tiny_transformer

from detrex.layers import apply_box_delta, inverse_sigmoid
from detrex.modeling import DeformableDecoder, IterativeRefinement, LookForwardTwice, NoRefinement
from detrex.structures import PyramidLayout, Queries

SHAPES = [(8, 8), (4, 4), (2, 2)]


def _run(refinement, variant="refine"):
    transformer = tiny_transformer(variant, refinement=refinement)
    layout = PyramidLayout.build(SHAPES, [SHAPES], torch.device("cpu"))
    outputs = transformer([torch.randn(1, EMBED_DIM, h, w) for h, w in SHAPES], layout)
    return transformer, outputs


def _head_gradients(refinement, layer):
    """For each head, whether the boxes of ``layer`` send it a gradient."""
    transformer, outputs = _run(refinement)
    outputs.layers[layer].boxes_BQ4.sum().backward()
    heads = [head.bbox_embed.layers[-1].weight for head in transformer.decoder.heads]
    return [head.grad is not None and bool(head.grad.any()) for head in heads]


def test_iterative_refinement_stops_the_gradient_between_layers():
    assert _head_gradients(IterativeRefinement(), 2) == [False, False, True]


def test_look_forward_twice_corrects_the_layer_before():
    assert _head_gradients(LookForwardTwice(), 2) == [False, True, True]
    assert _head_gradients(LookForwardTwice(), 1) == [True, True, False]


def test_both_refinements_predict_the_same_boxes():
    (_, once), (_, twice) = (_run(policy()) for policy in (IterativeRefinement, LookForwardTwice))
    for one, other in zip(once.layers, twice.layers, strict=True):
        torch.testing.assert_close(one.boxes_BQ4, other.boxes_BQ4)


def test_without_refinement_all_layers_share_a_head_and_a_reference():
    transformer, outputs = _run(NoRefinement(), "plain")
    assert len({id(head) for head in transformer.decoder.heads}) == 1
    assert len(outputs.layers) == 3


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_the_eps_of_the_inverse_sigmoid_bounds_small_boxes(eps):
    reference = torch.tensor([[0.5, 0.5, 1e-4, 1e-7]])
    delta = torch.zeros(1, 4)
    moved = apply_box_delta(delta, reference, eps)
    torch.testing.assert_close(
        moved[0, 2:], reference[0, 2:].clamp(min=eps) / (1 + reference[0, 2:] * 0), rtol=2e-3, atol=0
    )


def test_inverse_sigmoid_at_the_ends():
    x = torch.tensor([-1.0, 0.0, 1e-6, 0.3, 1.0, 2.0])
    y = inverse_sigmoid(x, 1e-5)
    assert y.isfinite().all()
    torch.testing.assert_close(y[3].sigmoid(), x[3])
    torch.testing.assert_close(y[1], -y[4])


def test_the_decoders_eps_reaches_its_boxes():
    def boxes(eps):
        torch.manual_seed(0)
        decoder = DeformableDecoder(
            num_layers=1, num_classes=2, refinement=IterativeRefinement(), embed_dim=16, num_heads=2,
            feedforward_dim=16, num_feature_levels=1, num_points=1, dropout=0.0, point_reference=False,
            inverse_sigmoid_eps=eps,
        )  # fmt: skip
        layout = PyramidLayout.build([(4, 4)], [[(4, 4)]], torch.device("cpu"))
        from detrex.structures import TokenPyramid

        tokens = torch.randn(1, 16, 16)
        reference = torch.tensor([[[0.5, 0.5, 1e-4, 1e-4]]])
        queries = Queries(torch.randn(1, 1, 16), torch.randn(1, 1, 16), reference, (1,))
        return decoder(queries, TokenPyramid(tokens, tokens, layout))[0].boxes_BQ4

    assert boxes(1e-3)[0, 0, 2] > 5 * boxes(1e-5)[0, 0, 2]


def test_groups_do_not_see_each_other():
    """What the second group holds changes nothing for the first."""
    transformer = tiny_transformer("refine", queries=6, one2many=9)
    layout = PyramidLayout.build(SHAPES, [SHAPES], torch.device("cpu"))
    features = [torch.randn(1, EMBED_DIM, h, w) for h, w in SHAPES]
    with torch.no_grad():
        before = transformer(features, layout).group(0).layers[-1]
        transformer.queries.embedding.weight[6:].normal_()
        after = transformer(features, layout).group(0).layers[-1]
        evaluated = transformer.eval()(features, layout)
    assert torch.equal(before.logits_BQK, after.logits_BQK)
    assert torch.equal(before.boxes_BQ4, after.boxes_BQ4)
    assert evaluated.groups == (6,)
    torch.testing.assert_close(evaluated.layers[-1].boxes_BQ4, before.boxes_BQ4)


def test_point_references_start_from_small_boxes():
    decoder = DeformableDecoder(
        num_layers=3, num_classes=2, refinement=IterativeRefinement(), embed_dim=16, num_heads=2
    )
    sizes = [head.bbox_embed.layers[-1].bias[2:].tolist() for head in decoder.heads]
    assert sizes == [[-2.0, -2.0], [0.0, 0.0], [0.0, 0.0]]
