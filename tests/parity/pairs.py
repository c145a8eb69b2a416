"""Pairs of the same detector: Hugging Face's with random weights, and ours with those weights carried over."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet
from torch import Tensor, nn

from detrex.checkpoint import match_state, read_checkpoint
from detrex.checkpoint.dialects import detect_dialect, to_ours
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
    PadImages,
    QueryGroups,
    SetCriterion,
    TwoStageQueries,
)
from detrex.modeling.neck import ChannelMapper
from projects.deformable_detr.modeling import DeformableDETR

Variant = Literal["plain", "refine", "two_stage"]
NUM_CLASSES = 5
OURS_OF_LABEL = {"loss_ce": "loss_class", "loss_bbox": "loss_bbox", "loss_giou": "loss_giou"}
WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}  # transformers has the first built in


def hugging_face(variant: Variant, *, full: bool) -> nn.Module:
    """transformers' model without dropout, and with random weights and BatchNorm statistics.

    ``full`` is ResNet-50 (from timm, as in the published files) with 6 + 6 layers of 256 channels; otherwise the
    backbone is transformers' own ResNet with one narrow block in each stage, and the transformer small.
    """
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    if full:
        backbone = {"model_type": "timm_backbone", "backbone": "resnet50", "num_channels": 3, "features_only": True}
        sizes = {"backbone_config": {**backbone, "use_pretrained_backbone": False, "out_indices": [2, 3, 4]}}
    else:
        names = ["stage2", "stage3", "stage4"]
        backbone = ResNetConfig(embedding_size=16, hidden_sizes=[32, 48, 64, 96], depths=[1] * 4, out_features=names)
        widths = {"encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "encoder_n_points": 2, "decoder_n_points": 2}
        heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        sizes = {"backbone_config": backbone, "d_model": 64, "encoder_layers": 2, "decoder_layers": 3}
        sizes |= widths | heads
    torch.manual_seed(0)
    model = DeformableDetrForObjectDetection(
        DeformableDetrConfig(
            with_box_refine=variant != "plain",
            two_stage=variant == "two_stage",
            num_queries=20,
            two_stage_num_proposals=20,
            num_labels=NUM_CLASSES,
            auxiliary_loss=True,
            class_cost=2,
            dropout=0.0,
            **sizes,
        )
    )
    if variant == "refine":
        # From a config, transformers shares the classifier among the layers here; the published files have six.
        model.class_embed = nn.ModuleList(copy.deepcopy(head) for head in model.class_embed)
    _randomize(model)
    return model


@torch.no_grad()
def _randomize(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            fan_in = 1 if "embed" in name and "class" not in name and "bbox" not in name else parameter.shape[1]
            parameter.add_(torch.randn_like(parameter) / fan_in**0.5)
        elif parameter.dim() == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
        if name.endswith(("normalization.weight", "running_var")) or ("bn" in name and name.endswith(".weight")):
            buffer.copy_(0.75 + 0.5 * torch.rand_like(buffer))
        elif name.endswith(("running_mean", ".bias")):
            buffer.copy_(0.1 * torch.randn_like(buffer))
    if model.config.two_stage:
        # transformers lets tokens without a proposal be selected, ours does not. All of them have the same features,
        # those of a zero token: point the objectness away from these, so that none reaches the top.
        zero_token = model.model.enc_output_norm(model.model.enc_output.bias)
        model.class_embed[-1].weight[0].sub_(4 * zero_token / zero_token.norm())


def ours(variant: Variant, *, full: bool) -> DeformableDETR:
    """Our model of the same sizes, with PadImages in evaluation too, since transformers pads images."""
    channels, blocks = ((256, 512, 1024, 2048), (3, 4, 6, 3)) if full else ((32, 48, 64, 96), (1, 1, 1, 1))
    sizes = {"num_feature_levels": 4, "num_points": 4, "num_heads": 8, "feedforward_dim": 1024, "embed_dim": 256}
    if not full:
        sizes.update(num_points=2, num_heads=4, feedforward_dim=96, embed_dim=64)
    width, depths = sizes["embed_dim"], (6, 6) if full else (2, 3)
    if variant == "two_stage":
        queries = TwoStageQueries(groups=QueryGroups(one2one=20), num_classes=NUM_CLASSES, embed_dim=width)
    else:
        queries = LearnedQueries(groups=QueryGroups(one2one=20), embed_dim=width)
    shapes = {f"res{i + 2}": ShapeSpec(channels=c, stride=4 * 2**i) for i, c in enumerate(channels) if i > 0}
    return DeformableDETR(
        num_classes=NUM_CLASSES,
        backbone=_resnet(64 if full else 16, channels, blocks, list(shapes)),
        neck=ChannelMapper(input_shapes=shapes, in_features=list(shapes), out_channels=width, num_outs=4),
        transformer=DeformableTransformer(
            embed_dim=width,
            position_embedding=PositionEmbeddingSine(embed_dim=width),
            encoder=DeformableEncoder(num_layers=depths[0], dropout=0.0, **sizes),
            queries=queries,
            decoder=DeformableDecoder(
                num_layers=depths[1],
                num_classes=NUM_CLASSES,
                refinement=NoRefinement() if variant == "plain" else IterativeRefinement(),
                point_reference=variant != "two_stage",
                dropout=0.0,
                **sizes,
            ),
        ),
        criterion=SetCriterion(
            num_classes=NUM_CLASSES,
            matcher=HungarianMatcher(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0),
            weights=LossWeights(class_=1.0, bbox=5.0, giou=2.0),
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        eval_batching=PadImages(),
    )


def _resnet(stem: int, channels: tuple[int, ...], blocks: tuple[int, ...], features: list[str]) -> ResNet:
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            count,
            stride_per_block=[1 if i == 0 else 2] + [1] * (count - 1),
            in_channels=before,
            bottleneck_channels=after // 4,
            out_channels=after,
            stride_in_1x1=False,
            norm="FrozenBN",
        )
        for i, (before, after, count) in enumerate(zip((stem, *channels[:-1]), channels, blocks, strict=True))
    ]
    return ResNet(BasicStem(3, stem, norm="FrozenBN"), stages, out_features=features, freeze_at=2)


def saved_state(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The tensors of the file that ``save_pretrained`` writes."""
    model.save_pretrained(folder)
    return read_checkpoint(str(folder / "model.safetensors"))["model"]


def pair(variant: Variant, folder: Path, *, full: bool = False) -> tuple[nn.Module, DeformableDETR]:
    """Both models in evaluation mode, with the same weights."""
    theirs, mine = hugging_face(variant, full=full).eval(), ours(variant, full=full).eval()
    state = saved_state(theirs, folder)
    dialect = detect_dialect(state)
    assert dialect.name == "Hugging Face"
    assigned, report = match_state(mine, to_ours(dialect, state).state)
    assert report.complete, report.describe()
    mine.load_state_dict(assigned, strict=False)
    return theirs, mine
