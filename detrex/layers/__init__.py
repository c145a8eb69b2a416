"""Building blocks that know tensors and the pyramid's geometry, nothing else."""

from .attention import MultiScaleDeformableAttention
from .box_ops import (
    apply_box_delta,
    box_cxcywh_to_xyxy,
    box_xyxy_to_cxcywh,
    elementwise_generalized_box_iou,
    generalized_box_iou,
    inverse_sigmoid,
)
from .mlp import FFN, MLP
from .position_embedding import PositionEmbeddingSine, sine_embed

__all__ = [
    "FFN",
    "MLP",
    "MultiScaleDeformableAttention",
    "PositionEmbeddingSine",
    "apply_box_delta",
    "box_cxcywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "elementwise_generalized_box_iou",
    "generalized_box_iou",
    "inverse_sigmoid",
    "sine_embed",
]
