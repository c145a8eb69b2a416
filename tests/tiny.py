"""A small Deformable DETR of real parts, for tests: two strides from a convolutional backbone, three levels."""

from __future__ import annotations

from typing import Literal

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from detrex.layers import PositionEmbeddingSine
from detrex.modeling import (
    DeformableDecoder,
    DeformableEncoder,
    DeformableTransformer,
    HungarianMatcher,
    IterativeRefinement,
    LearnedQueries,
    LossWeights,
    NoRefinement,
    QueryGroups,
    SetCriterion,
    TwoStageQueries,
)
from detrex.modeling.neck import ChannelMapper
from projects.deformable_detr.modeling import DeformableDETR

Variant = Literal["plain", "refine", "two_stage"]
VARIANTS: tuple[Variant, ...] = ("plain", "refine", "two_stage")
EMBED_DIM, NUM_LEVELS = 32, 3


class ConvBackbone(nn.Module):
    """Strides 8 and 16; biases, so that padding does not stay zero."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 8, 3)
        self.next = nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.stem(x).relu()
        return {"fine": fine, "coarse": self.next(fine).relu()}


def tiny_transformer(
    variant: Variant, *, num_classes: int = 3, queries: int = 20, one2many: int = 0, seed: int = 0, refinement=None
) -> DeformableTransformer:
    """Random weights everywhere, the zero-initialised ones too, so that nothing cancels."""
    torch.manual_seed(seed)
    sizes = {
        "embed_dim": EMBED_DIM,
        "num_heads": 4,
        "feedforward_dim": 48,
        "num_feature_levels": NUM_LEVELS,
        "num_points": 2,
    }
    groups = QueryGroups(one2one=queries, one2many=one2many)
    if variant == "two_stage":
        source = TwoStageQueries(groups=groups, num_classes=num_classes, embed_dim=EMBED_DIM)
    else:
        source = LearnedQueries(groups=groups, embed_dim=EMBED_DIM)
    default = NoRefinement() if variant == "plain" else IterativeRefinement()
    transformer = DeformableTransformer(
        embed_dim=EMBED_DIM,
        num_feature_levels=NUM_LEVELS,
        position_embedding=PositionEmbeddingSine(embed_dim=EMBED_DIM),
        encoder=DeformableEncoder(num_layers=2, dropout=0.0, **sizes),
        queries=source,
        decoder=DeformableDecoder(
            num_layers=3,
            num_classes=num_classes,
            refinement=refinement or default,
            point_reference=source.point_reference,
            dropout=0.0,
            **sizes,
        ),
    )
    randomize(transformer)
    return transformer


def tiny_detector(variant: Variant, *, num_classes: int = 3, num_select: int = 50, seed: int = 0, **kwargs):
    """A detector around :func:`tiny_transformer`."""
    transformer = tiny_transformer(variant, num_classes=num_classes, seed=seed, **kwargs)
    detector = DeformableDETR(
        num_classes=num_classes,
        backbone=ConvBackbone(),
        neck=ChannelMapper(
            input_shapes={"fine": ShapeSpec(channels=8), "coarse": ShapeSpec(channels=16)},
            in_features=["fine", "coarse"],
            out_channels=EMBED_DIM,
            num_outs=NUM_LEVELS,
        ),
        transformer=transformer,
        criterion=SetCriterion(num_classes=num_classes, matcher=HungarianMatcher(), weights=LossWeights()),
        pixel_mean=[120.0, 115.0, 100.0],
        pixel_std=[58.0, 57.0, 57.5],
        num_select=num_select,
    )
    randomize(detector.neck)
    return detector


def randomize(module: nn.Module) -> None:
    """Add noise to every parameter."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def image_input(height: int, width: int, boxes: int = 0, *, num_classes: int = 3, seed: int = 0) -> dict:
    """One image in detectron2's format, with random boxes inside it."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([width, height])
    low = torch.rand(boxes, 2, generator=generator) * 0.6 * scale
    size = (0.05 + 0.3 * torch.rand(boxes, 2, generator=generator)) * scale
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([low, low + size], 1))
    instances.gt_classes = torch.randint(0, num_classes, (boxes,), generator=generator)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": height, "width": width, "file_name": f"{seed}.jpg"}
