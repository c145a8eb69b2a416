"""Where a model's last decoder layer samples an image, and what its encoder proposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrex.inference.detector import Detector
from detrex.layers import MultiScaleDeformableAttention
from detrex.modeling import DeformableTransformer
from detrex.structures import DetectorOutputs, PyramidLayout
from detrex_ops.reference import sampling_locations

from .run_output import MissingPartError

__all__ = ["AttentionRecord", "SampledDetection", "record_attention"]


@dataclass(frozen=True)
class SampledDetection:
    """A detection and the points that its query samples in the last decoder layer; all in [0, 1] of the image.

    Attributes:
        class_id: contiguous. score: in [0, 1].
        box_4: cxcywh.
        anchor: the point (2,) or box (4,) cxcywh around which the layer samples.
        points_NLP2: x, y of each head, level and point.
        weights_NLP: of each point; they sum to 1 for each head.
    """

    class_id: int
    score: float
    box_4: np.ndarray
    anchor: np.ndarray
    points_NLP2: np.ndarray
    weights_NLP: np.ndarray


@dataclass(frozen=True)
class AttentionRecord:
    """Attention and proposals of one image.

    Attributes:
        detections: the best ones, in descending order of score.
        proposals_M4: the encoder's best proposals, cxcywh in [0, 1], the best first; None for a one-stage model.
        objectness_M: their scores.
    """

    detections: tuple[SampledDetection, ...]
    proposals_M4: np.ndarray | None
    objectness_M: np.ndarray | None


@torch.no_grad()
def record_attention(
    detector: Detector, image: np.ndarray, *, detections: int = 3, proposals: int = 50
) -> AttentionRecord:
    """Run the model on one image and record what its last deformable cross-attention samples.

    Args:
        detector: of a model with a deformable transformer.
        image: (H, W, 3) uint8 RGB.
        detections: number of the best ones to record.
        proposals: number of the best ones at most.

    Raises:
        MissingPartError: the model has none.
    """
    transformers = [m for m in detector.model.modules() if isinstance(m, DeformableTransformer)]
    if not transformers:
        raise MissingPartError(f"{type(detector.model).__name__} has no deformable transformer")
    attention = transformers[0].decoder.layers[-1].cross_attn
    noted: dict[str, Any] = {}
    hooks = [
        attention.register_forward_pre_hook(lambda _, arguments: noted.update(attention=arguments)),
        transformers[0].register_forward_hook(lambda _, __, outputs: noted.update(outputs=outputs)),
    ]
    try:
        detector.predict(image)
    finally:
        for hook in hooks:
            hook.remove()
    outputs, (query_BQC, anchor_BQLx, _, layout) = noted["outputs"], noted["attention"]
    points_QNLP2, weights_QNLP = _samples(attention, query_BQC, anchor_BQLx, layout)
    final = outputs.layers[-1]
    scores_Q, classes_Q = final.logits_BQK[0].float().sigmoid().max(-1)
    anchor_Qx = anchor_BQLx[0, :, 0] / _valid_share(layout, anchor_BQLx.shape[-1])[0]
    attended = tuple(
        SampledDetection(
            int(classes_Q[q]),
            float(scores_Q[q]),
            _numpy(final.boxes_BQ4[0, q]),
            _numpy(anchor_Qx[q]),
            _numpy(points_QNLP2[q]),
            _numpy(weights_QNLP[q]),
        )
        for q in scores_Q.topk(min(detections, len(scores_Q))).indices.tolist()
    )
    return AttentionRecord(attended, *_best_proposals(outputs, proposals))


def _samples(
    attention: MultiScaleDeformableAttention, query_BQC: Tensor, anchor_BQLx: Tensor, layout: PyramidLayout
) -> tuple[Tensor, Tensor]:
    """Points (Q, N, L, P, 2) in the coordinates of the unpadded image, and weights (Q, N, L, P), of the first image."""
    samples = (attention.num_heads, attention.num_levels, attention.num_points)
    offsets_BQNLP2 = attention.sampling_offsets(query_BQC).unflatten(-1, (*samples, 2))
    logits_BQNS = attention.attention_weights(query_BQC).float().unflatten(-1, (attention.num_heads, -1))
    weights_BQNLP = logits_BQNS.softmax(-1).unflatten(-1, samples[1:])
    points_BQNLP2 = sampling_locations(anchor_BQLx, offsets_BQNLP2, layout.shapes)
    return points_BQNLP2[0] / _valid_share(layout, 2)[:, None], weights_BQNLP[0]


def _valid_share(layout: PyramidLayout, size: int) -> Tensor:
    """(L, size): the part of each level's width and height, in turn, that is the first image rather than padding."""
    return (layout.valid_BL2[0] / layout.shape_L2).repeat(1, size // 2)


def _best_proposals(outputs: DetectorOutputs, limit: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    if outputs.proposals is None:
        return None, None
    objectness_S = outputs.proposals.logits_BQK[0, :, 0].float().sigmoid()
    if outputs.proposals.padding_BQ is not None:
        objectness_S = objectness_S.masked_fill(outputs.proposals.padding_BQ[0], 0.0)
    best = objectness_S.topk(min(limit, len(objectness_S)))
    return _numpy(outputs.proposals.boxes_BQ4[0][best.indices]), _numpy(best.values)


def _numpy(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
